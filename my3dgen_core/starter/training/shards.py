"""Folders of training data: shards made once by background processes, read at random by the training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...formats.atomic_file import atomic_path


class Shards:
    """The shards of one kind in a folder; those that appear later are picked up by `refresh`."""

    kind = ""
    heads_per_shard = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[str, dict[str, np.ndarray]] = {}
        self.names: list[str] = []
        self.refresh()

    @classmethod
    def path(cls, folder: Path, number: int) -> Path:
        return folder / f"{cls.kind}_{number:04d}.npz"

    @classmethod
    def write(cls, path: Path, seed: int, device: str = "cpu") -> None:
        """Makes one shard of fresh heads, cast on the device; the same seed gives the same shard."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Loads new shards."""
        for path in sorted(self.folder.glob(f"{self.kind}_*.npz")):
            if path.name not in self.shards:
                with np.load(path) as stored:
                    self.shards[path.name] = {name: stored[name] for name in stored.files}
        self.names = list(self.shards)

    def wait(self) -> None:
        """Until there is a shard; loads those that are there."""
        self.refresh()
        while not self.names:
            time.sleep(2)
            self.refresh()

    @property
    def heads(self) -> int:
        return self.heads_per_shard * len(self.names)

    def draw(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], int]:
        """A random shard, and a random head in it."""
        return self.shards[self.names[rng.integers(len(self.names))]], int(rng.integers(self.heads_per_shard))


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """One .npz, not compressed, written beside and renamed."""
    with atomic_path(path) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
