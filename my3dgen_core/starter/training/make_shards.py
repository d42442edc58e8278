"""Write shards of training data.

python -m my3dgen_core.starter.training.make_shards --out FOLDER --kind rays
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from .picture_shards import PictureShards
from .ray_shards import RayShards
from .shards import Shards


def main() -> None:
    """Run the command line."""
    kinds: dict[str, type[Shards]] = {"rays": RayShards, "pictures": PictureShards}
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
