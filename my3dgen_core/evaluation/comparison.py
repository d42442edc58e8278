"""The paper's figures as one table of pictures: any models, latents and cameras, in rows and columns.

Reconstruction: latents against models. Alpha samples, interpolation and edits: models against latents, so
that every column shows one code in all models. Views: latents against cameras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..common.image_ops import resize
from .metrics import Likeness, psnr
from .picture_table import sheet

if TYPE_CHECKING:
    from ..face import FaceModels

AXES = ("models", "latents", "cameras")


@dataclass(frozen=True)
class Comparison:
    """Pictures of models x latents x cameras, and what is written beside them.

    pictures: [models, latents, cameras, 3, S, S] in [-1, 1]. labels: by axis, a text for each place.
    photos: [latents or cameras, 3, h, h], what the pictures should show; `of` says which. None: unknown.
    """

    pictures: Tensor
    labels: Mapping[str, Sequence[str]]
    photos: Tensor | None = None
    of: str = "latents"
    scores: dict[str, Tensor] = field(default_factory=dict)
    """By the name of a measure: [models, latents, cameras], NaN where it is unknown."""

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
        """With scores: "PSNR" (dB) where there are photos, "identity" (cosine) with face models.

        Args:
            references: [n, 3, h, h], photos of the person to compare faces with; None: the photos.
            face_models: with a recognition network; None: no identity.
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
            likeness = Likeness(known, face_models)
            shown = self.pictures.flatten(0, 2).split(1)
            found = [likeness.mean(picture) for picture in shown]
            scores["identity"] = torch.tensor([torch.nan if f is None else f for f in found])
        shaped = {name: values.view(models, latents, cameras) for name, values in scores.items()}
        return Comparison(self.pictures, self.labels, self.photos, self.of, shaped)

    def draw(self, rows: Sequence[str], cell: int = 160) -> np.ndarray:
        """The table.

        Args:
            rows: the axes down the side, such as ("models",); the others run along the top.
            cell: pixels of a picture's side.

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
        """The mean of every measure by model, as Markdown; empty without scores."""
        if not self.scores:
            return ""
        lines = [f"| model | {' | '.join(self.scores)} |", "|---" * (len(self.scores) + 1) + "|"]
        for place, name in enumerate(self.labels["models"]):
            cells = [_written(measure, values[place]) for measure, values in self.scores.items()]
            lines.append(f"| {name} | {' | '.join(cell or '-' for cell in cells)} |")
        return "\n".join(lines)

    def _places(self, axes: Sequence[str]) -> list[dict[str, int]]:
        counts = [range(self.pictures.shape[AXES.index(axis)]) for axis in axes]
        return [dict(zip(axes, place, strict=True)) for place in product(*counts)]

    def _index(self, place: Mapping[str, int]) -> tuple[int | slice, ...]:
        return tuple(place.get(axis, slice(None)) for axis in AXES)

    def _label(self, place: Mapping[str, int]) -> str:
        """The names of a place; an axis of one place alone needs none, unless there is no other."""
        telling = [axis for axis in place if self.pictures.shape[AXES.index(axis)] > 1]
        names = [self.labels[axis][place[axis]] for axis in telling or list(place)[:1]]
        return ", ".join(filter(None, names))

    def _scores_of(self, place: Mapping[str, int]) -> str:
        found = [
            _written(measure, values[self._index(place)].flatten()) for measure, values in self.scores.items()
        ]
        return ", ".join(filter(None, found))

    def _title(self, place: Mapping[str, int], columns: Sequence[str]) -> str:
        return f"{self._label(place)}\n{self._scores_of(place)}" if columns else ""

    def _text(self, place: Mapping[str, int]) -> str:
        return "  ".join(filter(None, (self._label(place), self._scores_of(place))))


def _written(measure: str, values: Tensor) -> str:
    known = values[torch.isfinite(values)]
    if len(known) == 0:
        return ""
    mean = float(known.mean())
    return f"{mean:.2f} dB" if measure == "PSNR" else f"{measure} {mean:.3f}"
