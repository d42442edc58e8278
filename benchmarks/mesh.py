"""Textured meshes beside vertex colors: distance to the generator's pictures, seconds and megabytes.

    python -m benchmarks.mesh [--faces N] [--sizes 1024 2048] [--resolution N]

Both bundled persons of the starter, at the same number of faces. PSNR is of the picture that the generator
renders, with super-resolution, and of the mesh on white, drawn unlit at four times the size and averaged: of
the whole picture, and of the pixels two and more away from the silhouette. Seconds are processor time of
one thread.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from my3dgen_core import (
    Generator,
    Identity,
    extract_mesh,
    load_generator,
    look_at,
    personalized,
    save_glb,
    texture_mesh,
)
from my3dgen_core.checkpoint import starter_path
from my3dgen_core.mesh import render_mesh

PERSONS = ("demo_identity", "second_identity")
YAWS = (-30, 0, 30)
ENLARGED = 4


def psnr(picture: Tensor, other: Tensor, pixels: Tensor) -> float:
    """Return the PSNR in dB of pictures [3, H, W] in [-1, 1] over some pixels, bool [H, W]."""
    return float(10 * torch.log10(4 / (picture - other)[:, pixels].square().mean()))


def distances(generator: Generator, ws: Tensor, mesh: Any) -> list[tuple[float, float]]:
    """Return the PSNR of the whole picture and of its interior, for each yaw."""
    found = []
    for yaw in YAWS:
        camera = look_at(math.radians(yaw), 0.0)
        picture = generator.render(ws, camera).image[0].clamp(-1, 1)
        drawn, covered = render_mesh(mesh, camera, ENLARGED * picture.shape[-1])
        drawn = F.avg_pool2d(drawn, ENLARGED)
        outside = F.max_pool2d((~covered).float()[None], ENLARGED)
        inside = F.max_pool2d(outside, 5, 1, 2)[0] == 0
        found.append((psnr(picture, drawn, torch.ones_like(inside)), psnr(picture, drawn, inside)))
    return found


def row(name: str, kind: str, seconds: float, mesh: Any, psnrs: list[tuple[float, float]]) -> str:
    """Return a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.glb"
        save_glb(mesh, path)
        size = path.stat().st_size / 1e6
    values = " | ".join(f"{whole:.1f} / {inside:.1f}" for whole, inside in psnrs)
    return f"| {name} | {kind} | {len(mesh.faces):,} | {seconds:.1f} | {size:.2f} | {values} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=int, default=int(2e4))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--resolution", type=int, default=192)
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = load_generator()
    print("| person | colors | faces | s | MB | " + " | ".join(f"{yaw} degrees, dB" for yaw in YAWS) + " |")
    print("|---|---|---|---|---|" + "---|" * len(YAWS))
    for name in PERSONS:
        person = Identity.load(starter_path().parent / f"{name}.safetensors")
        with torch.no_grad(), personalized(generator, person):
            ws = person.anchors.mean()
            start = time.process_time()
            plain = extract_mesh(generator, ws, given.resolution, faces=given.faces)
            seconds = time.process_time() - start
            print(row(name, "vertices", seconds, plain, distances(generator, ws, plain)), flush=True)
            for size in given.sizes:
                start = time.process_time()
                made = texture_mesh(generator, ws, plain, size)
                seconds = time.process_time() - start
                print(row(name, f"texture {size}", seconds, made, distances(generator, ws, made)), flush=True)


if __name__ == "__main__":
    main()
