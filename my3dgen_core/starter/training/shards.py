"""Training data in shards: written once by background processes, sampled at random by the training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...formats.atomic_file import atomic_path


class Shards:
    """All shards of one kind in a folder; `refresh` loads those that appear later."""

    kind = ""
    """Kind of data, prefix of the files."""
    heads_per_shard = 0
    """Number of heads in a shard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[str, dict[str, np.ndarray]] = {}
        self.names: list[str] = []
        self.refresh()

    @classmethod
    def path(cls, folder: Path, number: int) -> Path:
        """Return the path of a shard."""
        return folder / f"{cls.kind}_{number:04d}.npz"

    @classmethod
    def write(cls, path: Path, seed: int, device: str = "cpu") -> None:
        """Write one shard of random heads; the same seed gives the same shard.

        Args:
            path: .npz file.
            seed: number of the shard.
            device: device in warp's notation that casts the rays.
        """
        raise NotImplementedError

    def refresh(self) -> None:
        """Load new shards into memory."""
        for path in sorted(self.folder.glob(f"{self.kind}_*.npz")):
            if path.name not in self.shards:
                with np.load(path) as stored:
                    self.shards[path.name] = {name: stored[name] for name in stored.files}
        self.names = list(self.shards)

    def wait(self) -> None:
        """Wait for the first shard, and load all that exist."""
        self.refresh()
        while not self.names:
            time.sleep(2)
            self.refresh()

    @property
    def heads(self) -> int:
        """Number of heads in all loaded shards."""
        return self.heads_per_shard * len(self.names)

    def draw(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], int]:
        """Return a random shard, and the index of a random head in it."""
        return self.shards[self.names[rng.integers(len(self.names))]], int(rng.integers(self.heads_per_shard))


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an uncompressed .npz file atomically."""
    with atomic_path(path) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
