"""Settings of `personalize` and `pivotal_tune`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from .lpips import check_backbone

METHODS = ("lora", "full")
SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("muon", "adam")


@dataclass(frozen=True)
class TuningConfig:
    """Settings of `personalize`.

    Matrices move by orthogonalised updates (Muon) on whole pictures, sampled where they will be when they
    are rendered; the rates fall to a twentieth along a cosine. Each of the three reaches in a fraction of
    the steps what Adam on random samples, the paper's way, needs. Example: `TuningConfig(steps=400)`.
    """

    steps: int = 400
    """Optimiser steps."""
    method: str = "lora"
    """"lora": a low-rank adapter; "full": every parameter but the mapping network's."""
    rank: int = 1
    layout: str = "released"
    """Shape of the low-rank update of a 3x3 kernel: "released" (the authors' code) or "lycoris" (leaner)."""
    trainable: str = "paper"
    """Trained beside the low-rank tensors: "lora" nothing, "released" biases, noise strengths and the
    constant input, "paper" biases, noise strengths and the decoder (240,030 numbers at ffhq512-128, rank
    1)."""
    batch_size: int = 1
    """Photos a step."""
    patch: int = 0
    """Edge in raw pixels of the square looked at in each photo and step, which saves time and memory; 0:
    whole pictures, as in the paper."""
    random_samples: bool = False
    """Samples on the rays are drawn anew in each step, as in the paper; False: they lie where they do when
    pictures are rendered, and no effort goes into being right in between."""
    optimizer: str = "muon"
    """"muon": orthogonalised updates of matrices, Adam for the rest; "adam": Adam without momentum, the
    paper's."""
    lr: float = 1e-2
    """Rate of the low-rank factors of convolutions and ToRGB: how far their entries move in a step."""
    affine_lr: float = 4e-3
    """Rate of those of the affines, whose path has no weight gain and moves that much faster."""
    diff_lr: float = 4e-3
    """Rate of biases, noise strengths, constant and decoder."""
    full_lr: float = 2e-3
    """Rate of whole matrices, when method is "full"."""
    schedule: str = "cosine"
    """"cosine" falls to a twentieth; "constant" does not."""
    beta2: float = 0.99
    """Adam's memory of squared gradients."""
    perceptual: float = 0.5
    """Weight of the perceptual term."""
    perceptual_backbone: str = "laplacian"
    """"laplacian", or "lpips_alex" (the paper's) or "lpips_vgg" with weights of your own (`perceptual`)."""
    perceptual_dir: str | None = None
    """Folder of those weights; None: models/my3dgen/perceptual where the program runs."""
    background_weight: float = 1.0
    """Weight of pixels off the head. 1 where backgrounds are plain, so that silhouettes are learned; near 0
    where they change from photo to photo."""
    mirrored: float = 0.0
    """Weight of the mirrored photo from the mirrored camera, looked at in every fourth step: a second view
    for few photos (SPI). Marks on one side fade when it is large; .1 is much."""
    identity_weight: float = 0.0
    """Weight of the identity loss on a random view near the photo's own (`identity_loss`); needs face
    models. 0: none."""
    identity_every: int = 4
    """Steps between two looks at that view, which is a whole picture and costs accordingly."""
    refine: bool = False
    """Anchors and cameras are corrected along with the adapter, the cameras three times on the way
    (`refinement`); the paper keeps both."""
    anchor_lr: float = 2e-3
    """Rate of the anchors, when refined."""
    seed: int = 0
    preview_every: int = 25
    """Steps between two preview pictures; 0: none."""
    checkpoint_dir: str | None = None
    """Folder that keeps the state of the training. A run that was killed goes on from there with the same
    call, bit for bit as if nothing had happened (on a CPU); None: nothing is written."""
    checkpoint_every: int = 100
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}.")
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

    @property
    def fingerprint_settings(self) -> dict[str, object]:
        """The settings that decide the result, as plain values: not where things lie and how often state is
        kept."""
        kept = dataclasses.asdict(self)
        for name in ("preview_every", "checkpoint_dir", "checkpoint_every", "perceptual_dir"):
            del kept[name]
        return kept


DEFAULT = TuningConfig()
PRESETS = {
    "default": DEFAULT,
    # My3DGen's own: 500,000 photos in batches of 4, whole pictures, one constant rate for everything.
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
"""Named settings. "paper" has its steps, batch, rates and Adam; its LPIPS is replaced by our perceptual
term, which needs no weights from elsewhere. With the weights at hand:
`replace(PRESETS["paper"], perceptual_backbone="lpips_alex")`."""
