"""Map from z to heads: every synthetic head is labeled by its z, which defines shape, colors and expression.

z is first normalized to length sqrt(z_dim), exactly as in the mapping network, so that label and latent
agree. The first dimensions are named factors; the others go through a fixed random linear map to local shape
changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from .head_mesh import HeadModel

Z_DIM = 64
# Factors by their dimension of z. "hair_colour" keeps its spelling: its direction file is named after it.
NAMES = [
    "gender",
    "age",
    "weight",
    "muscle",
    "skin",
    "undertone",
    "hair_colour",
    "hair_tint",
    "hairline",
    "hair_volume",
    "lips",
    "lip_color",
    "brow_width",
    "brow_darkness",
    "iris",
    "beard",
    "blush",
    "smile",
    "jaw",
    "blink",
    "brows_up",
    "frown",
    "gaze",
    "cheekbones",
]
INDEX = {name: i for i, name in enumerate(NAMES)}
"""Dimension of z of each factor."""
SHAPE_STD = 0.2
"""Standard deviation of the local changes that the other dimensions drive."""

# Constant local changes that give the mean head of the body model the mean proportions of EG3D's crops.
MEAN_HEAD: dict[str, float] = {
    "mouth-scale-horiz-incr": 0.45,
    "nose-trans-up": 0.2,
    "nose-scale-vert-incr": -0.3,
    "l-eye-trans-up": -0.15,
    "r-eye-trans-up": -0.15,
    "l-eye-trans-out": 0.12,
    "r-eye-trans-out": 0.12,
}


def normalize_z(z: torch.Tensor) -> torch.Tensor:
    """Scale z [B, D] to length sqrt(D), as the mapping network does."""
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


@dataclass
class Expression:
    """Facial expressions of a batch of heads: the strength [B] of each action, 0 for the neutral face."""

    smile: torch.Tensor
    """Smile; below 0 the corners of the mouth point down."""
    jaw: torch.Tensor
    """Opening of the jaw, 0..1."""
    blink: torch.Tensor
    """Closing of the eyes, 0..1."""
    brows_up: torch.Tensor
    """Raising of the brows, 0..1."""
    frown: torch.Tensor
    """Lowering of the brows, 0..1."""
    gaze: torch.Tensor
    """Horizontal gaze; above 0 to the viewer's right."""

    @classmethod
    def neutral(cls, batch: int) -> Expression:
        """Return the neutral expression for a batch of heads."""
        return cls(*(torch.zeros(batch) for _ in range(6)))

    def actions(self, labels: tuple[str, ...]) -> torch.Tensor:
        """Convert to the weights [B, A] of anny's facial actions with these labels."""
        out = torch.zeros(len(self.smile), len(labels))
        happy, sad = self.smile.clamp(min=0), (-self.smile).clamp(min=0)
        both = {
            "mouthSmile": 0.85 * happy,
            "mouthDimple": 0.3 * happy,
            "cheekSquint": 0.6 * happy,
            "mouthFrown": 0.8 * sad,
            "eyeBlink": self.blink,
            "eyeWide": 0.5 * self.brows_up.clamp(min=0),
            "browOuterUp": 0.8 * self.brows_up.clamp(min=0),
            "browDown": self.frown.clamp(min=0),
            "noseSneer": 0.3 * self.frown.clamp(min=0),
            "mouthUpperUp": 0.15 * happy,
        }
        for name, value in both.items():
            for side in ("Left", "Right"):
                out[:, labels.index(name + side)] = value
        out[:, labels.index("browInnerUp")] = 0.8 * self.brows_up.clamp(min=0)
        out[:, labels.index("jawOpen")] = self.jaw
        return out


@dataclass
class Looks:
    """Shape and appearance of a batch of B heads, all but the mesh topology."""

    phenotypes: dict[str, torch.Tensor]
    """Phenotypes of the body model by name, each [B] in 0..1."""
    local: torch.Tensor
    """Local shape changes [B, L]."""
    expression: Expression
    """Facial expression."""
    colors: dict[str, torch.Tensor]
    """RGB colors [B, 3] in 0..1 of skin, lips, hair, brow, iris and frame (of glasses)."""
    hairline: torch.Tensor
    """Shift of the hairline [B] in world units; higher is a higher forehead."""
    hair_volume: torch.Tensor
    """Thickness of the hair [B] in world units."""
    brow_width: torch.Tensor
    """Half width of the brows [B] in world units."""
    brow_amount: torch.Tensor
    """Opacity of the brows [B]."""
    beard: torch.Tensor
    """Opacity of the beard [B]."""
    blush: torch.Tensor
    """Redness of cheeks, nose and ears [B]."""
    freckles: torch.Tensor
    """Opacity of freckles [B]."""
    marks: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 1, 8))
    """Marks on the skin [B, M, 8], columns as `warp_kernels.MARK`."""


# Piecewise linear palettes for values of -2, -1, 0, 1, 2.
_SKIN = np.array(
    [[0.98, 0.84, 0.76], [0.95, 0.77, 0.66], [0.86, 0.65, 0.52], [0.66, 0.45, 0.33], [0.42, 0.28, 0.21]]
)
_HAIR = np.array(
    [[0.09, 0.07, 0.06], [0.20, 0.13, 0.09], [0.36, 0.23, 0.14], [0.58, 0.42, 0.25], [0.80, 0.66, 0.44]]
)
_IRIS = np.array(
    [[0.20, 0.11, 0.06], [0.36, 0.21, 0.10], [0.42, 0.36, 0.16], [0.30, 0.47, 0.36], [0.32, 0.52, 0.70]]
)


def _palette(table: np.ndarray, value: torch.Tensor) -> torch.Tensor:
    """Interpolate colors [B, 3] in a palette [5, 3] at values [B]."""
    position = (value.clamp(-2, 2) + 2).clamp(max=3.9999)
    low = position.floor().long()
    rows = torch.as_tensor(table, dtype=torch.float32)
    return torch.lerp(rows[low], rows[low + 1], (position - low)[:, None])


def shape_map(dims: int, labels: tuple[str, ...]) -> torch.Tensor:
    """Return the fixed random map [dims, L] from shape dimensions to local changes, nearly symmetric.

    Args:
        dims: number of dimensions of z that drive the shape.
        labels: names of the L local changes; "l-" and "r-" mark sides.
    """
    rng = np.random.default_rng(20240607)
    stems = [label[2:] if label[:2] in ("l-", "r-") else label for label in labels]
    names = sorted(set(stems))
    symmetric = rng.standard_normal((dims, len(names)))
    own = rng.standard_normal((dims, len(labels)))
    matrix = np.stack([symmetric[:, names.index(stem)] for stem in stems], axis=1)
    sided = np.array([label[:2] in ("l-", "r-") for label in labels])
    matrix = np.where(sided, 0.96 * matrix + 0.28 * own, matrix)
    # Sideways shifts of head, nose or mouth look wrong already where other changes look natural.
    quiet = np.array(
        [0.35 if label.endswith("trans-out") and label[:2] not in ("l-", "r-") else 1.0 for label in labels]
    )
    quiet *= np.array(
        [0.5 if label.startswith(("neck", "measure-neck", "head-angle")) else 1.0 for label in labels]
    )
    return torch.as_tensor(matrix * quiet * SHAPE_STD / np.sqrt(dims), dtype=torch.float32)


def base_changes(labels: tuple[str, ...]) -> torch.Tensor:
    """Return `MEAN_HEAD` as a row [L] in the order of the labels."""
    row = torch.zeros(len(labels))
    for name, value in MEAN_HEAD.items():
        row[labels.index(name)] = value
    return row


def looks(z: torch.Tensor, model: HeadModel) -> Looks:
    """Return the heads that z [B, 64] defines."""
    if z.ndim != 2 or z.shape[1] != Z_DIM:
        raise ValueError(f"z must have shape [B, {Z_DIM}], but it has {list(z.shape)}.")
    z = normalize_z(z.detach().float().cpu())

    def f(name: str) -> torch.Tensor:
        return z[:, INDEX[name]]

    labels = model.local_labels
    local = base_changes(labels) + z[:, len(NAMES) :] @ shape_map(Z_DIM - len(NAMES), labels)
    for name, label, amount in (
        ("cheekbones", "l-cheek-bones-incr", 0.30),
        ("cheekbones", "r-cheek-bones-incr", 0.30),
        ("lips", "mouth-lowerlip-volume-incr", 0.45),
        ("lips", "mouth-upperlip-volume-incr", 0.45),
        ("lips", "mouth-upperlip-height-incr", 0.30),
        ("lips", "mouth-lowerlip-height-incr", 0.30),
    ):
        local[:, labels.index(label)] += amount * f(name)
    male = torch.sigmoid(2.5 * f("gender"))
    phenotypes = {
        "gender": male,
        "age": (0.68 + 0.13 * f("age")).clamp(0.42, 1.0),
        "weight": (0.5 + 0.16 * f("weight")).clamp(0.05, 0.95),
        "muscle": (0.5 + 0.14 * f("muscle")).clamp(0.05, 0.95),
    }
    skin = _palette(_SKIN, 0.9 * f("skin") - 0.35)
    skin = skin * (1 + f("undertone")[:, None].clamp(-2, 2) * torch.tensor([0.010, -0.008, -0.030]))
    gray = torch.sigmoid(4 * (phenotypes["age"] - 0.90) * 5 + 0.4 * f("hair_tint") - 0.5)[:, None]
    hair = _palette(_HAIR, 0.9 * f("hair_colour") - 0.2)
    hair = hair * (1 + f("hair_tint")[:, None].clamp(-0.5, 2) * torch.tensor([0.12, -0.01, -0.08]))
    hair = torch.lerp(hair, torch.tensor([0.70, 0.69, 0.67]).expand_as(hair), 0.8 * gray)
    darker = (0.62 - 0.16 * f("brow_darkness")).clamp(0.25, 0.95)[:, None]
    rosy = (0.42 + 0.16 * f("lip_color")).clamp(0.0, 0.9)[:, None]
    expression = Expression(
        smile=torch.where(f("smile") > 0, 0.5 * f("smile"), 0.22 * f("smile")).clamp(-0.5, 1.0),
        jaw=(0.16 * f("jaw") - 0.05).clamp(0.0, 0.45),
        blink=(0.22 * f("blink") - 0.06).clamp(-0.1, 0.7),
        brows_up=(0.35 * f("brows_up")).clamp(0, 1.0),
        frown=(0.35 * f("frown")).clamp(0, 1.0),
        gaze=(0.12 * f("gaze")).clamp(-0.3, 0.3),
    )
    return Looks(
        phenotypes=phenotypes,
        local=local,
        expression=expression,
        colors={
            "skin": skin,
            "lips": torch.lerp(
                skin * torch.tensor([0.95, 0.80, 0.79]), skin * torch.tensor([0.86, 0.48, 0.50]), rosy
            ),
            "hair": hair.clamp(0.02, 1),
            "brow": (hair * darker).clamp(0.02, 1),
            "iris": _palette(_IRIS, f("iris")),
            "frame": torch.zeros(len(z), 3),
        },
        hairline=0.010 + 0.016 * f("hairline") + 0.012 * (male - 0.5),
        hair_volume=(0.030 + 0.010 * f("hair_volume") - 0.008 * (male - 0.5)).clamp(0.008, 0.06),
        brow_width=(0.0085 + 0.0022 * f("brow_width") + 0.0022 * (male - 0.5)).clamp(0.004, 0.016),
        brow_amount=(0.80 + 0.08 * f("brow_width")).clamp(0.4, 0.97),
        beard=(torch.relu(male - 0.45) * (0.75 + 0.55 * f("beard"))).clamp(0, 0.85),
        blush=(0.5 + 0.35 * f("blush")).clamp(0, 1.4),
        freckles=torch.zeros(len(z)),
        marks=torch.zeros(len(z), 1, 8),
    )
