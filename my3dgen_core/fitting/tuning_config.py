"""Settings of `personalize` and `pivotal_tune`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from .lpips import check_backbone

METHODS = ("lora", "full")
"""Values of `TuningConfig.method`."""
SCHEDULES = ("cosine", "constant")
"""Values of `TuningConfig.schedule`."""
OPTIMIZERS = ("muon", "adam")
"""Values of `TuningConfig.optimizer`."""
ANCHORS = ("own", "shared")
"""Values of `TuningConfig.anchors`."""


@dataclass(frozen=True)
class TuningConfig:
    """Settings of `personalize` and `pivotal_tune`.

    The defaults use orthogonalized updates of matrices (Muon), whole pictures with fixed ray samples, and
    cosine decay, which together need a fraction of the steps of Adam with random samples, the paper's way.
    Example: `TuningConfig(steps=400)`.

    Field names must not change: all fields but `preview_every`, `checkpoint_dir`, `checkpoint_every` and
    `perceptual_dir` are hashed by name into the fingerprint of a training that resumes
    (`fingerprint_settings`), and stored in the provenance of identities, where nodes read them.
    """

    steps: int = 400
    """Optimizer steps."""
    method: str = "lora"
    """"lora": a low-rank adapter; "full": every parameter but the mapping network's."""
    rank: int = 1
    """Rank of the low-rank update; matrix rank 3 * rank for a 3x3 kernel in the "released" layout."""
    layout: str = "released"
    """Shape of the low-rank update of a 3x3 kernel: "released" (the authors' code) or "lycoris" (smaller)."""
    trainable: str = "paper"
    """Parameters trained in addition to the low-rank tensors: "lora" none, "released" biases, noise strengths
    and the constant input, "paper" biases, noise strengths and the decoder (240,030 parameters in all at
    ffhq512-128, rank 1)."""
    batch_size: int = 1
    """Photos per step."""
    patch: int = 0
    """Edge in raw pixels of the random square compared in each photo and step, which saves time and memory;
    0: whole pictures, as in the paper."""
    random_samples: bool = False
    """Jitter the ray samples in each step, as in the paper. False uses the renderer's fixed positions, so
    that no capacity is spent on positions that are never rendered."""
    optimizer: str = "muon"
    """"muon": orthogonalized updates of matrices, Adam for the rest; "adam": Adam without momentum, as in the
    paper."""
    lr: float = 1e-2
    """Learning rate of the low-rank factors of convolutions and ToRGB."""
    affine_lr: float = 4e-3
    """Learning rate of the low-rank factors of affines, which lack the weight gain and so move faster."""
    diff_lr: float = 4e-3
    """Learning rate of biases, noise strengths, constant input and decoder."""
    full_lr: float = 2e-3
    """Learning rate of whole matrices with method "full"."""
    schedule: str = "cosine"
    """"cosine": decay to a twentieth; "constant"."""
    beta2: float = 0.99
    """Adam's decay of squared gradients."""
    perceptual: float = 0.5
    """Weight of the perceptual term."""
    perceptual_backbone: str = "laplacian"
    """"laplacian", or "lpips_alex" (the paper's) or "lpips_vgg" with weights that the user supplies
    (`lpips`)."""
    perceptual_dir: str | None = None
    """Folder of the LPIPS weights; None: models/my3dgen/perceptual in the working directory. Not hashed; a
    hash of the weights is."""
    background_weight: float = 1.0
    """Weight of pixels off the head, in 0..1: 1 for plain backgrounds, so that silhouettes are learned; near
    0 for backgrounds that differ between photos."""
    mirrored: float = 0.0
    """Weight, in 0..1, of the mirrored photo from the mirrored camera, used in every fourth step on average:
    a second view for few photos (SPI). Large values fade marks on one side of the face; .1 is large."""
    identity_weight: float = 0.0
    """Weight of the identity loss on a random view near the photo's own (`identity_loss`); needs face
    models. 0: none."""
    identity_every: int = 4
    """Steps between two identity losses, each of which costs the rendering of a whole picture."""
    refine: bool = False
    """Optimize the anchors along with the adapter, and refine the cameras three times during the training
    (`camera_refinement`). The paper keeps both fixed."""
    anchor_lr: float = 2e-3
    """Learning rate of the anchors with `refine`."""
    seed: int = 0
    """Seed of the adapter's initial values, the order of photos, and the patch and ray sampling."""
    preview_every: int = 25
    """Steps between two preview renderings; 0: none. Not hashed."""
    checkpoint_dir: str | None = None
    """Folder for the training state. The same call resumes an interrupted training from there, bit-exactly on
    a CPU; None: no state is written. Not hashed."""
    checkpoint_every: int = 100
    """Steps between two checkpoints. Not hashed."""
    anchors: str = "own"
    """Latents from which photos are rendered. "own": the anchor of each photo, as in the paper. "shared": the
    mean of the anchors for most of the training, so that views from the mean, which is what one looks at, are
    trained; then each photo's anchor is optimized on the tuned generator (`anchor_steps`), and the rest
    of the training uses both. See `anchor_refit`. Hashed only if it is not "own"."""
    anchor_steps: int = 25
    """With `anchors="shared"`: optimizer steps of each anchor. Hashed with it."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}.")
        if self.anchors not in ANCHORS:
            raise ValueError(f"anchors must be one of {', '.join(ANCHORS)}, not {self.anchors!r}.")
        if self.anchor_steps < 1:
            raise ValueError(f"anchor_steps must be at least 1, not {self.anchor_steps}.")
        if self.steps < 1 or self.batch_size < 1 or self.patch < 0 or self.checkpoint_every < 1:
            raise ValueError("steps, batch_size and checkpoint_every must be at least 1, patch at least 0.")
        if self.identity_weight < 0 or self.identity_every < 1:
            raise ValueError("identity_weight must be at least 0, identity_every at least 1.")
        for name in ("background_weight", "mirrored"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}.")
        check_backbone(self.perceptual_backbone)
        for name in ("checkpoint_dir", "perceptual_dir"):
            if isinstance(getattr(self, name), Path):
                object.__setattr__(self, name, str(getattr(self, name)))

    def with_rate(self, lr: float) -> TuningConfig:
        """Return these settings with another `lr`, and the rates of affines, biases and whole matrices in
        proportion."""
        scaled = {name: getattr(self, name) * (lr / self.lr) for name in ("affine_lr", "diff_lr", "full_lr")}
        return dataclasses.replace(self, lr=lr, **scaled)

    @property
    def fingerprint_settings(self) -> dict[str, object]:
        """Fields that decide the result, by name, as plain values for the fingerprint and the provenance."""
        kept = dataclasses.asdict(self)
        for name in ("preview_every", "checkpoint_dir", "checkpoint_every", "perceptual_dir"):
            del kept[name]
        if self.anchors == "own":  # settings of trainings before there was a choice keep their fingerprint
            del kept["anchors"], kept["anchor_steps"]
        return kept


DEFAULT = TuningConfig()
"""Default settings of `personalize`."""
PRESETS = {
    "default": DEFAULT,
    # The paper's: 500,000 photos in batches of 4, whole pictures, one constant learning rate.
    "paper": TuningConfig(
        steps=125_000,
        batch_size=4,
        patch=0,
        random_samples=True,
        optimizer="adam",
        lr=2e-3,
        affine_lr=2e-3,
        diff_lr=2e-3,
        full_lr=2e-3,
        schedule="constant",
        beta2=0.992,
        perceptual=1.0,
    ),
}
"""Named settings. "paper" has the steps, batch size, learning rates and optimizer of My3DGen, but the
Laplacian distance instead of LPIPS, whose weights the user has to supply. With them:
`replace(PRESETS["paper"], perceptual_backbone="lpips_alex")`."""
