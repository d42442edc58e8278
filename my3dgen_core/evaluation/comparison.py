"""Comparison grids of renderings: models, latents and cameras in rows and columns, as in the paper's figures.

Reconstruction: latents in rows, models in columns. Alpha samples, interpolation and edits: models in rows, so
that every column shows one latent in all models. Views: latents in rows, cameras in columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..common.image_ops import resize
from ..face import FaceModels
from .metrics import IdentitySimilarity, psnr
from .picture_table import sheet

AXES = ("models", "latents", "cameras")
"""Names of the first three dimensions of `Comparison.pictures`."""


@dataclass(frozen=True)
class Comparison:
    """Renderings of models x latents x cameras with labels, reference photos and scores."""

    pictures: Tensor
    """Renderings [models, latents, cameras, 3, S, S] in [-1, 1]."""
    labels: Mapping[str, Sequence[str]]
    """Label of each index, by the names in `AXES`."""
    photos: Tensor | None = None
    """Reference photos [n, 3, h, h] in [-1, 1], one for each index of the axis `of`; None: unknown."""
    of: str = "latents"
    """Axis that the photos belong to, "latents" or "cameras"."""
    scores: dict[str, Tensor] = field(default_factory=dict)
    """Scores [models, latents, cameras] by metric, NaN where unknown."""

    def __post_init__(self) -> None:
        if self.pictures.ndim != 6:
            raise ValueError(
                "Pictures must have shape [models, latents, cameras, 3, S, S], not "
                f"{list(self.pictures.shape)}."
            )
        for axis, count in zip(AXES, self.pictures.shape, strict=False):
            if len(self.labels.get(axis, ())) != count:
                raise ValueError(f"There are {count} {axis}, but {len(self.labels.get(axis, ()))} labels.")
        if self.of not in AXES[1:]:
            raise ValueError(f"Photos belong to latents or cameras, not to {self.of}.")
        wanted = self.pictures.shape[AXES.index(self.of)]
        if self.photos is not None and len(self.photos) != wanted:
            raise ValueError(f"There are {len(self.photos)} photos for {wanted} {self.of}.")

    def measured(self, references: Tensor | None, face_models: FaceModels | None) -> Comparison:
        """Return a copy with scores: "PSNR" (dB) if there are photos, "identity" (cosine) with face models.

        Args:
            references: photos of the person for the identity similarity, [n, 3, h, h]; None: `photos`.
            face_models: face networks with ArcFace; None: no identity.
        """
        models, latents, cameras = self.pictures.shape[:3]
        scores: dict[str, Tensor] = {}
        if self.photos is not None:
            truth = resize(self.photos.to(self.pictures), self.pictures.shape[-1])
            truth = truth[:, None] if self.of == "latents" else truth[None]
            truth = truth.expand(latents, cameras, -1, -1, -1).flatten(0, 1)
            scores["PSNR"] = torch.stack([psnr(shown.flatten(0, 1), truth) for shown in self.pictures])
        known = self.photos if references is None else references
        if face_models is not None and known is not None:
            similarity = IdentitySimilarity(known, face_models)
            shown = self.pictures.flatten(0, 2).split(1)
            found = [similarity.mean(picture) for picture in shown]
            scores["identity"] = torch.tensor([torch.nan if f is None else f for f in found])
        shaped = {name: values.view(models, latents, cameras) for name, values in scores.items()}
        return Comparison(self.pictures, self.labels, self.photos, self.of, shaped)

    def draw(self, rows: Sequence[str], cell: int = 160) -> np.ndarray:
        """Draw the grid with labels and scores.

        Args:
            rows: axes in the rows, such as ("models",); the others are in the columns.
            cell: edge of a picture in pixels.

        Returns:
            [H, W, 3] uint8.

        Raises:
            ValueError: an unknown axis, or all of them in the rows.
        """
        if not rows or set(rows) - set(AXES) or set(rows) == set(AXES):
            raise ValueError(f"Rows are one or two of {', '.join(AXES)}, not {', '.join(rows) or 'none'}.")
        columns = [axis for axis in AXES if axis not in rows]
        down, along = self._places(rows), self._places(columns)
        beside = self.photos is not None and self.of in rows
        titles = [self._title(place, columns) for place in along]
        texts = [self._text(place) for place in down]
        table = [[self.pictures[self._index({**row, **column})] for column in along] for row in down]
        if self.photos is not None and beside:
            table = [
                [self.photos[row[self.of]], *pictures] for row, pictures in zip(down, table, strict=True)
            ]
            titles = ["photo", *titles]
        elif self.photos is not None:
            table = [[self.photos[column[self.of]] for column in along], *table]
            texts = ["photo", *texts]
        return sheet(titles, texts, table, cell)

    def table(self) -> str:
        """Return the mean of every score by model as a Markdown table; empty without scores."""
        if not self.scores:
            return ""
        lines = [f"| model | {' | '.join(self.scores)} |", "|---" * (len(self.scores) + 1) + "|"]
        for place, name in enumerate(self.labels["models"]):
            cells = [_format_score(metric, values[place]) for metric, values in self.scores.items()]
            lines.append(f"| {name} | {' | '.join(cell or '-' for cell in cells)} |")
        return "\n".join(lines)

    def _places(self, axes: Sequence[str]) -> list[dict[str, int]]:
        """Return all combinations of indices of some axes, as index by axis."""
        counts = [range(self.pictures.shape[AXES.index(axis)]) for axis in axes]
        return [dict(zip(axes, place, strict=True)) for place in product(*counts)]

    def _index(self, place: Mapping[str, int]) -> tuple[int | slice, ...]:
        """Return the index into `pictures` and scores of a place."""
        return tuple(place.get(axis, slice(None)) for axis in AXES)

    def _label(self, place: Mapping[str, int]) -> str:
        """Return the labels of a place, without axes of length 1 unless there are no others."""
        telling = [axis for axis in place if self.pictures.shape[AXES.index(axis)] > 1]
        names = [self.labels[axis][place[axis]] for axis in telling or list(place)[:1]]
        return ", ".join(filter(None, names))

    def _scores_of(self, place: Mapping[str, int]) -> str:
        """Return the mean scores of a place as text."""
        found = [
            _format_score(metric, values[self._index(place)].flatten())
            for metric, values in self.scores.items()
        ]
        return ", ".join(filter(None, found))

    def _title(self, place: Mapping[str, int], columns: Sequence[str]) -> str:
        """Return the title of a column: labels, and scores on a second line."""
        return f"{self._label(place)}\n{self._scores_of(place)}" if columns else ""

    def _text(self, place: Mapping[str, int]) -> str:
        """Return the text under a row: labels and scores."""
        return "  ".join(filter(None, (self._label(place), self._scores_of(place))))


def _format_score(metric: str, values: Tensor) -> str:
    """Format the mean of the known values [N] of a metric, NaN being unknown; empty without one."""
    known = values[torch.isfinite(values)]
    if len(known) == 0:
        return ""
    mean = float(known.mean())
    return f"{mean:.2f} dB" if metric == "PSNR" else f"{metric} {mean:.3f}"
