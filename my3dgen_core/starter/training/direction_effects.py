"""Effects of the starter's directions on rendered heads: change of the attribute and identity similarity.

All measurements are independent of the generator: the smile from landmarks, the skin from the pixels of the
cheeks, age and gender from linear probes fitted on ground-truth pictures of other heads with known factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...camera import look_at
from ...editing.face_scores import SMILE, FaceGeometry
from ...eg3d.generator import Generator
from ...face import FaceModels, embed
from ..synthetic.factors import INDEX, Z_DIM, normalize_z
from ..synthetic.heads import truth
from .factor_directions import factor_direction
from .objectives import latents

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
_PROBED = ("age", "gender")
_CHEEKS = ((0.50, 0.65), (0.38, 0.62))  # rows and columns of a frontal picture, below the eyes

Measure = Callable[[Tensor], Tensor]
"""Function of frontal pictures [N, 3, R, R] that returns values [N], NaN where there is none."""


@dataclass(frozen=True)
class Sweep:
    """Means over heads at each of `STRENGTHS`."""

    name: str
    """Name of the direction."""
    heads: int
    """Number of heads measured."""
    values: Tensor
    """Measured attribute [5]."""
    cosines: Tensor
    """Cosine [5] of the ArcFace embedding with that of the unedited head."""
    note: str = ""
    """Description of the measurement."""

    @property
    def monotone(self) -> bool:
        """True if the values increase or decrease with every strength."""
        steps = self.values.diff()
        return bool((steps > 0).all()) or bool((steps < 0).all())

    def __str__(self) -> str:
        values = ", ".join(f"{value:.3f}" for value in self.values.tolist())
        cosines = ", ".join(f"{value:.3f}" for value in self.cosines.tolist())
        order = "monotone" if self.monotone else "not monotone"
        return f"{self.name} ({self.heads} heads{self.note}): {values}, {order}; cosine {cosines}"


def skin_lightness(images: Tensor) -> Tensor:
    """Return the mean pixel [N] in [-1, 1] of cheeks and nose in frontal pictures [N, 3, R, R]."""
    side = images.shape[-1]
    rows, columns = (slice(int(low * side), int(high * side)) for low, high in _CHEEKS)
    return images[..., rows, columns].mean((1, 2, 3))


@dataclass(frozen=True)
class LinearProbe:
    """Linear regression of one factor from ArcFace embeddings, fitted on ground-truth pictures."""

    weights: Tensor
    """Weights [512]."""
    offset: Tensor
    """Offset, a scalar."""
    face_models: FaceModels
    """Networks for the embeddings."""
    correlation: float
    """Correlation with the factor on held-out ground-truth pictures."""

    def __call__(self, images: Tensor) -> Tensor:
        features, found = embed(images, self.face_models)
        value = features @ self.weights + self.offset
        return torch.where(found, value, torch.full_like(value, torch.nan))


def fit_probes(
    face_models: FaceModels, names: tuple[str, ...] = _PROBED, heads: int = 360, seed: int = 781_000
) -> dict[str, LinearProbe]:
    """Fit linear probes by ridge regression on frontal ground-truth pictures.

    Args:
        face_models: face networks with recognition.
        names: factors to predict.
        heads: number of random heads; a quarter of them is held out.
        seed: seed of the heads.

    Returns:
        The probe of each factor.
    """
    z = torch.randn(heads, Z_DIM, generator=torch.Generator().manual_seed(seed))
    front = look_at(0.0, 0.0)
    images = torch.cat([truth(part, front.expand(len(part), 25), 128)[0] for part in z.split(12)])
    features, found = embed(images, face_models)
    features, factors = features[found], normalize_z(z)[found]
    known = 3 * len(features) // 4
    middle = features[:known].mean(0)
    centered = features[:known] - middle
    gram = centered.T @ centered
    gram += 0.02 * gram.diagonal().mean() * len(gram) ** 0.5 * torch.eye(len(gram))
    probes = {}
    for name in names:
        wanted = factors[:, INDEX[name]]
        weights = torch.linalg.solve(gram, centered.T @ (wanted[:known] - wanted[:known].mean()))
        offset = wanted[:known].mean() - middle @ weights
        predicted = features[known:] @ weights + offset
        correlation = float(torch.corrcoef(torch.stack([predicted, wanted[known:]]))[0, 1])
        probes[name] = LinearProbe(weights, offset, face_models, correlation)
    return probes


@torch.no_grad()
def sweep(
    generator: Generator, name: str, measured: Measure, face_models: FaceModels, heads: int, note: str = ""
) -> Sweep:
    """Edit random heads along the starter's direction of a factor and measure their frontal renders.

    Args:
        generator: the starter.
        name: factor, one of `factors.NAMES`.
        measured: measurement of the attribute.
        face_models: face networks with recognition.
        heads: number of random heads; those in which a render shows no face are skipped.
        note: description of the measurement.
    """
    direction = factor_direction(generator, name)
    z = torch.randn(heads, Z_DIM, generator=torch.Generator().manual_seed(780_000))
    values, cosines = [], []
    for ws in latents(generator, z).split(1):
        moved = direction.apply(ws, torch.tensor(STRENGTHS))
        images = torch.cat([generator.render(one, look_at(0.0, 0.0)).image for one in moved.split(1)])
        features, found = embed(images, face_models)
        if bool(found.all()):
            values.append(measured(images))
            cosines.append(features @ features[STRENGTHS.index(0.0)])
    return Sweep(name, len(values), torch.stack(values).nanmean(0), torch.stack(cosines).mean(0), note)


def sweeps(generator: Generator, face_models: FaceModels, heads: int = 24) -> list[Sweep]:
    """Measure the directions of smile (landmarks), skin (pixels), age and gender (linear probes)."""
    geometry = FaceGeometry(face_models)
    measures: dict[str, tuple[Measure, str]] = {
        "smile": (lambda images: geometry(images)[SMILE], ", mouth width and corner height"),
        "skin": (skin_lightness, ", lightness of the cheeks"),
    }
    for name, probe in fit_probes(face_models).items():
        measures[name] = probe, f", linear probe with correlation {probe.correlation:.2f} on true pictures"
    return [
        sweep(generator, name, measured, face_models, heads, note)
        for name, (measured, note) in measures.items()
    ]
