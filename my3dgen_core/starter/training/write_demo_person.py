"""Write the bundled demo person: photos, held-out views and their cameras.

python -m my3dgen_core.starter.training.write_demo_person
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...camera import look_at
from ...common.image_ops import to_pixels
from ..synthetic.persons import person

SEED = 7  # of the person
PHOTOS = 24
SIZE = 256  # of a photo in pixels
# (yaw, pitch) in degrees of the held-out views; photos stay within a yaw of 35 and a pitch of 15.
HELD_OUT = ((-60, 0), (-48, 20), (-42, -20), (-20, 24), (20, -25), (42, 20), (50, -12), (60, 5))


def write(folder: Path) -> int:
    """Render the demo person, and write its pictures and cameras.

    Args:
        folder: gets photos/ and held_out/ (JPEG) and cameras.json, with the 25 numbers of each picture's
            camera by split ("train", "held_out") and file name.

    Returns:
        Size of everything written, in bytes.
    """
    someone = person(SEED)
    images, cameras = someone.photos(PHOTOS, seed=0, resolution=SIZE)
    held_cameras = torch.cat([look_at(float(np.radians(y)), float(np.radians(p))) for y, p in HELD_OUT])
    held_images = someone.render(held_cameras, SIZE)[0]
    table: dict[str, dict[str, list[float]]] = {"train": {}, "held_out": {}}
    total = 0
    for split, name, views, poses, quality in (
        ("train", "photos/{:02d}.jpg", images, cameras, 92),
        ("held_out", "held_out/{:02d}.jpg", held_images, held_cameras, 96),
    ):
        for i, (view, pose) in enumerate(zip(views, poses, strict=True)):
            path = folder / name.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = to_pixels(view)
            Image.fromarray(pixels).save(path, quality=quality, subsampling=0)
            total += path.stat().st_size
            table[split][name.format(i)] = [round(float(v), 7) for v in pose]
    lines = [
        f'  "{split}": {{\n'
        + ",\n".join(f'    "{name}": {json.dumps(numbers)}' for name, numbers in files.items())
        + "\n  }"
        for split, files in table.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (folder / "cameras.json").write_text(text)
    return total + len(text)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Write the demo person's photos, held-out views and cameras."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "demo_person")
    arguments = parser.parse_args()
    size = write(arguments.out)
    print(f"{arguments.out}: {PHOTOS} photos and {len(HELD_OUT)} held-out views, {size / 1e6:.2f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
