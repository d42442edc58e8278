"""Folders of training data: shards made once by background processes, read at random by the training."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


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
            if path.name not in self.shards and ".tmp" not in path.name:
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
    partial = path.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def main() -> None:
    from .picture_shards import Album
    from .ray_shards import Bank

    kinds: dict[str, type[Shards]] = {"rays": Bank, "pictures": Album}
    parser = argparse.ArgumentParser(description="Write shards; run two of these with --part 0/2 and 1/2.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=kinds, action="append", required=True, help="several: one by one")
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument(
        "--part", default="0/1", help="i/n: this process makes every n-th shard, from the i-th"
    )
    parser.add_argument("--device", default="cpu", help="where rays are cast: cpu or cuda:0")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    index, count = (int(v) for v in arguments.part.split("/"))
    torch.set_num_threads(1)
    for kind in arguments.kind:
        for number in range(index, arguments.shards, count):
            path = kinds[kind].path(arguments.out, number)
            if not path.exists():
                start = time.time()
                kinds[kind].write(path, number, arguments.device)
                print(f"{path.name} {time.time() - start:.1f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
