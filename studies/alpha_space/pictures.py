"""Pictures of `studies.alpha_space`: saved while measuring, drawn for the report."""

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
    """Pictures of one person by part of the report and name, as bytes in one file."""

    def __init__(self, folder: Path, person: int) -> None:
        self.path = folder / f"{person}.npz"
        self.kept: dict[str, np.ndarray] = {}

    def keep(self, part: str, **pictures: Tensor) -> None:
        """Add pictures [n, 3, R, R] in [-1, 1] by name."""
        for name, values in pictures.items():
            pixels = to_uint8(values.cpu())
            self.kept[f"{part}/{name}"] = pixels.numpy()

    def write(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part.npz")
        np.savez_compressed(partial, **self.kept)  # type: ignore[arg-type]
        partial.replace(self.path)

    def read(self, part: str) -> dict[str, Tensor]:
        """Return the pictures of a part by name, in the order in which they were added."""
        if not self.path.is_file():
            return {}
        with np.load(self.path) as stored:
            names = [name for name in stored.files if name.startswith(f"{part}/")]
            return {
                name.partition("/")[2]: torch.from_numpy(stored[name].astype(np.float32)) / 127.5 - 1
                for name in names
            }


def strips(part: str, rows: Sequence[Row], folder: Path, titles: Sequence[str] = ()) -> np.ndarray | None:
    """Draw one row per name, person after person, as [H, W, 3] uint8; None if there are no pictures."""
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
    """Draw one column per name and one row per photo, as [H, W, 3] uint8; None if there are no pictures."""
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
