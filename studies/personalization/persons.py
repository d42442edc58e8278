"""Persons of the study in one compact file each: photos, ground truth and landmarks.

    python -m studies.personalization.persons --out build/study/persons 100 101
    python -m studies.personalization.persons --out build/study/persons 102 103 104 105 300 301 --plain

Pictures are stored as bytes and depths in steps of 0.0001: 1.7 MB per person at 128 pixels, and 1.3 MB for
the cluttered pictures, which only the first two persons need. The files are all that the study reads of a
person.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from my3dgen_core import look_at
from my3dgen_core.common.image_ops import to_uint8

PHOTOS, HELD_PHOTOS, VIEWS = 50, 6, 8
POSE_ERROR = 3.5  # degrees RMS of the noisy cameras
_DEPTH = 1e-4  # unit of stored depths


@dataclass(frozen=True)
class Person:
    """One synthetic person. Pictures are [N, 3, R, R] in [-1, 1], cameras [N, 25]."""

    photos: Tensor
    """Training photos on a plain background."""
    cluttered: Tensor
    """The same photos, each with a different background; may be empty."""
    cameras: Tensor
    """True cameras of the training photos."""
    noisy: Tensor
    """The same cameras with errors of 3.5 degrees RMS."""
    points: Tensor
    """Eyes, nose and mouth corners in the training photos, [N, 5, 2], as fractions of the side."""
    held_photos: Tensor
    """Held-out photos with other expressions."""
    held_cameras: Tensor
    held_points: Tensor
    views: Tensor
    """Held-out views of the neutral face."""
    view_cameras: Tensor
    """Cameras between those of the photos and beyond them."""
    depth: Tensor
    """Depth of the held-out views along the ray, [N, 1, R, R]."""
    mask: Tensor
    """Coverage of the head in the held-out views, [N, 1, R, R]."""
    landmarks: Tensor
    """Five points of the neutral face in world coordinates, [5, 3]."""


def photographed(seed: int, resolution: int = 128, photos: int = PHOTOS) -> Person:
    """Render a person of `my3dgen_core.starter`."""
    from my3dgen_core.starter import person

    who = person(seed)
    album = who.album(photos, 0, resolution)
    cluttered, noisy = who.photos(photos, 0, resolution, pose_error=POSE_ERROR, cluttered=True)
    held = who.album(HELD_PHOTOS, 1, resolution)
    spread = torch.linspace(-1, 1, VIEWS)
    # between the photos' cameras and beyond them: yaw to 50, pitch to 15 degrees
    view_cameras = look_at(torch.deg2rad(50 * spread), torch.deg2rad(15 * (7 * spread).sin()))
    views, depth, mask = who.render(view_cameras, resolution)
    return Person(
        album.images, cluttered, album.cameras, noisy, album.pixels,
        held.images, held.cameras, held.pixels, views, view_cameras, depth, mask, who.landmarks,
    )  # fmt: skip


_PICTURES = ("photos", "cluttered", "held_photos", "views")


def write(person: Person, path: Path) -> None:
    """Write a person to a compressed .npz file."""
    arrays = {}
    for one in fields(person):
        value: Tensor = getattr(person, one.name)
        if one.name in _PICTURES:
            value = to_uint8(value)
        elif one.name == "mask":
            value = (value * 255).round().to(torch.uint8)
        elif one.name == "depth":
            value = (value / _DEPTH).round().to(torch.uint16)
        arrays[one.name] = value.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def read(path: Path, device: torch.device | str = "cpu") -> Person:
    """Read a file of `write`, as float32 on a device."""
    if not path.exists():
        raise SystemExit(
            f"There is no {path}. Make it with: python -m studies.personalization.persons "
            f"--out {path.parent} {path.stem}"
        )
    tensors = {}
    with np.load(path) as stored:
        for one in fields(Person):
            value = torch.from_numpy(stored[one.name].astype(np.float32))
            if one.name in _PICTURES:
                value = value / 127.5 - 1
            elif one.name == "mask":
                value = value / 255
            elif one.name == "depth":
                value = value * _DEPTH
            tensors[one.name] = value.to(device)
    return Person(**tensors)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("build/study/persons"))
    parser.add_argument("--plain", action="store_true", help="leave out the cluttered pictures")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--photos", type=int, default=PHOTOS)
    args = parser.parse_args(arguments)
    for seed in args.seeds:
        file = args.out / f"{seed}.npz"
        if not file.exists():
            made = photographed(seed, args.resolution, args.photos)
            write(dataclasses.replace(made, cluttered=made.cluttered[:0]) if args.plain else made, file)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
