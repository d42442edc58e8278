"""Picture of sixteen persons rendered in one batch with one starter generator and sixteen adapters.

    python -m benchmarks.crowd --out studies/performance/people.jpg [--people N] [--keep FOLDER]

The persons are synthetic and unknown to the starter (`my3dgen_core.starter.synthetic.persons`). Each is
inverted and trained from three photos in a few dozen steps, which is quick rather than good. Then
`personalized(generator, [[one] for one in people])` renders all of them, each from its own latent, in one
batch for each of three cameras. With --keep an interrupted run can be resumed.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from my3dgen_core import (
    Generator,
    Identity,
    InversionConfig,
    TuningConfig,
    invert,
    load_generator,
    look_at,
    personalize,
    personalized,
)
from my3dgen_core.common.image_ops import to_uint8
from my3dgen_core.eg3d.rendering.backend import select_backend
from my3dgen_core.starter.synthetic.persons import person

FIRST_SEED, PHOTOS, COLUMNS = 400, 3, 8
YAWS = (-0.4, 0.0, 0.4)
INVERSION = InversionConfig(shared_steps=30, steps=10, one_look=True, preview_every=0)
TUNING = TuningConfig(steps=30, preview_every=0)


def trained(generator: Generator, seed: int, folder: Path | None) -> Identity:
    """Train the identity of a person, or load it if the folder has it."""
    file = None if folder is None else folder / f"{seed}.safetensors"
    if file is not None and file.exists():
        return Identity.load(file)
    photos, cameras = person(seed).photos(PHOTOS, seed=0, resolution=128)
    anchors = invert(generator, photos, cameras, INVERSION)
    identity = personalize(generator, photos, anchors, TUNING)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        identity.save(file)
    return identity


@torch.inference_mode()
def sheet(generator: Generator, people: list[Identity]) -> tuple[np.ndarray, float]:
    """Render the persons from the left, the front and the right, below each other.

    Returns:
        Pixels [H, W, 3] uint8, and the mean seconds of a batch.
    """
    ws = torch.cat([one.anchors.mean().reshape(1, generator.num_ws, -1) for one in people])
    views, start = [], time.perf_counter()
    with personalized(generator, [[one] for one in people]):
        for yaw in YAWS:
            views.append(generator.render(ws, look_at(yaw, 0.0)).image)
    seconds = (time.perf_counter() - start) / len(YAWS)
    columns = min(COLUMNS, len(people))
    blank = torch.ones_like(views[0][:1]).expand(-len(people) % columns, -1, -1, -1)
    rows = [torch.cat((view, blank)).unflatten(0, (-1, columns)) for view in views]
    picture = torch.stack(rows, dim=1)  # [lines, views, columns, 3, R, R]
    picture = picture.permute(0, 1, 4, 2, 5, 3).flatten(2, 2).flatten(0, 2).flatten(1, 2)
    return to_uint8(picture).numpy(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--keep", type=Path, help="folder of trained identities")
    parser.add_argument("--size", type=int, default=96, help="pixels of a view in the picture")
    args = parser.parse_args()
    generator = load_generator("starter")
    select_backend(generator, "auto")
    people = [trained(generator, FIRST_SEED + i, args.keep) for i in range(args.people)]
    pixels, seconds = sheet(generator, people)
    scale = args.size / generator.config.img_resolution
    picture = Image.fromarray(pixels)
    picture = picture.resize((math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.out, quality=85, optimize=True)
    kept = sum(one.adapter.parameter_count for one in people) * 4 / 2**20
    whole = sum(p.nbytes for p in generator.parameters()) / 2**20
    print(
        f"{len(people)} people in one batch, {seconds:.2f} s; their adapters {kept:.1f} MiB beside one "
        f"generator of {whole:.1f} MiB, where as many generators would be {len(people) * whole:.0f} MiB"
    )


if __name__ == "__main__":
    main()
