"""The pictures of `studies.alpha_space`: kept while it measures, drawn when it reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from my3dgen_core.common.image_ops import to_uint8
from my3dgen_core.evaluation.picture_table import sheet

Row = dict[str, Any]
CELL = 112


class Shelf:
    """Pictures of one person by part and name, as bytes in one file."""

    def __init__(self, folder: Path, person: int) -> None:
        self.path = folder / f"{person}.npz"
        self.kept: dict[str, np.ndarray] = {}

    def keep(self, part: str, **pictures: Tensor) -> None:
        """Pictures [n, 3, R, R] in [-1, 1] each."""
        for name, values in pictures.items():
            pixels = to_uint8(values.cpu())
            self.kept[f"{part}/{name}"] = pixels.numpy()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part.npz")
        np.savez_compressed(partial, **self.kept)  # type: ignore[arg-type]
        partial.replace(self.path)

    def read(self, part: str) -> dict[str, Tensor]:
        """By name, in the order in which they were kept; empty where nothing was."""
        if not self.path.is_file():
            return {}
        with np.load(self.path) as stored:
            names = [name for name in stored.files if name.startswith(f"{part}/")]
            return {
                name.partition("/")[2]: torch.from_numpy(stored[name].astype(np.float32)) / 127.5 - 1
                for name in names
            }


def strips(part: str, rows: Sequence[Row], folder: Path, titles: Sequence[str] = ()) -> np.ndarray | None:
    """Every name a row of pictures, person after person; None where nothing was kept."""
    lines: list[tuple[str, list[Tensor]]] = []
    for row in rows:
        for name, pictures in Shelf(folder, row["person"]).read(part).items():
            lines.append((f"{row['person']}: {name}", list(pictures)))
    if not lines:
        return None
    columns = max(len(pictures) for _, pictures in lines)
    heads = [*titles, *[""] * columns][:columns]
    return sheet(heads, [name for name, _ in lines], [pictures for _, pictures in lines], CELL)


def tables(part: str, rows: Sequence[Row], folder: Path, _: Sequence[str] = ()) -> np.ndarray | None:
    """Every name a column, every photo of every person a row; None where nothing was kept."""
    found = {row["person"]: Shelf(folder, row["person"]).read(part) for row in rows}
    found = {person: pictures for person, pictures in found.items() if pictures}
    if not found:
        return None
    first = next(iter(found.values()))
    names = [name for name in first if all(name in pictures for pictures in found.values())]
    lines = [
        (str(person), [pictures[name][place] for name in names])
        for person, pictures in found.items()
        for place in range(len(pictures[names[0]]))
    ]
    titles = [name.replace(", ", "\n") for name in names]
    return sheet(titles, [name for name, _ in lines], [pictures for _, pictures in lines], CELL)
