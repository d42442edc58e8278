"""What moving w along a direction does to a head: the attribute itself, measured, and the identity.

Nothing here asks the generator what it means. The smile is measured on landmarks, the skin on the pixels of
the cheeks, and age and gender by linear readers that were fitted on true pictures of other heads, whose age
and gender are known.
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
from ..synthetic.factors import INDEX, Z_DIM, normalise
from ..synthetic.heads import truth
from .factor_directions import factor_direction
from .objectives import latents

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
_READ = ("age", "gender")
_CHEEKS = ((0.50, 0.65), (0.38, 0.62))  # rows and columns of a frontal picture, below the eyes

Measure = Callable[[Tensor], Tensor]
"""Frontal pictures [N, 3, R, R] -> values [N], NaN where there is none."""


@dataclass(frozen=True)
class Sweep:
    """Means over heads at each of `STRENGTHS`: the measured attribute, and the cosine of the ArcFace
    embedding with that of the head as it was."""

    name: str
    heads: int
    values: Tensor
    cosines: Tensor
    note: str = ""

    @property
    def monotone(self) -> bool:
        steps = self.values.diff()
        return bool((steps > 0).all()) or bool((steps < 0).all())

    def __str__(self) -> str:
        values = ", ".join(f"{value:.3f}" for value in self.values.tolist())
        cosines = ", ".join(f"{value:.3f}" for value in self.cosines.tolist())
        order = "monotone" if self.monotone else "not monotone"
        return f"{self.name} ({self.heads} heads{self.note}): {values}, {order}; cosine {cosines}"


def skin_lightness(images: Tensor) -> Tensor:
    """Mean of the pixels of cheeks and nose, [N] in [-1, 1]."""
    side = images.shape[-1]
    rows, columns = (slice(int(low * side), int(high * side)) for low, high in _CHEEKS)
    return images[..., rows, columns].mean((1, 2, 3))


@dataclass(frozen=True)
class Reader:
    """A linear reader of one factor from ArcFace embeddings, fitted on true pictures.

    correlation: with the factor, on true pictures of heads that it was not fitted on.
    """

    weights: Tensor
    offset: Tensor
    face_models: FaceModels
    correlation: float

    def __call__(self, images: Tensor) -> Tensor:
        features, found = embed(images, self.face_models)
        value = features @ self.weights + self.offset
        return torch.where(found, value, torch.full_like(value, torch.nan))


def fit_readers(
    face_models: FaceModels, names: tuple[str, ...] = _READ, heads: int = 360, seed: int = 781_000
) -> dict[str, Reader]:
    """Ridge regressions from frontal true pictures to the factors' numbers; a quarter is held back."""
    z = torch.randn(heads, Z_DIM, generator=torch.Generator().manual_seed(seed))
    front = look_at(0.0, 0.0)
    images = torch.cat([truth(part, front.expand(len(part), 25), 128)[0] for part in z.split(12)])
    features, found = embed(images, face_models)
    features, factors = features[found], normalise(z)[found]
    known = 3 * len(features) // 4
    middle = features[:known].mean(0)
    centred = features[:known] - middle
    gram = centred.T @ centred
    gram += 0.02 * gram.diagonal().mean() * len(gram) ** 0.5 * torch.eye(len(gram))
    readers = {}
    for name in names:
        wanted = factors[:, INDEX[name]]
        weights = torch.linalg.solve(gram, centred.T @ (wanted[:known] - wanted[:known].mean()))
        offset = wanted[:known].mean() - middle @ weights
        read = features[known:] @ weights + offset
        correlation = float(torch.corrcoef(torch.stack([read, wanted[known:]]))[0, 1])
        readers[name] = Reader(weights, offset, face_models, correlation)
    return readers


@torch.no_grad()
def sweep(
    generator: Generator, name: str, measured: Measure, face_models: FaceModels, heads: int, note: str = ""
) -> Sweep:
    """Moves random heads along the starter's direction of a factor; seen from the front."""
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
    """Smile by landmarks, skin by pixels, age and gender by readers."""
    geometry = FaceGeometry(face_models)
    measures: dict[str, tuple[Measure, str]] = {
        "smile": (lambda images: geometry(images)[SMILE], ", mouth width and corner height"),
        "skin": (skin_lightness, ", lightness of the cheeks"),
    }
    for name, reader in fit_readers(face_models).items():
        measures[name] = reader, f", read with correlation {reader.correlation:.2f} on true pictures"
    return [
        sweep(generator, name, measured, face_models, heads, note)
        for name, (measured, note) in measures.items()
    ]
