"""Icon and banner of the pack in ComfyUI's registry, rendered with the bundled starter and demo person.

    python tools/registry_pictures.py    # docs/icon.png and docs/banner.jpg, a few seconds on a CPU

The registry shows icons of at most 400 x 400 pixels and banners of 21:9.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from my3dgen_core import Identity, load_generator, look_at, personalized
from my3dgen_core.camera.pose import FOCAL
from my3dgen_core.common.image_ops import resize, to_pixels

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "my3dgen_core" / "starter" / "demo_identity.safetensors"
ICON = 320
BANNER = (1260, 540)
YAWS = (-34, 0, 34)
"""Degrees from which the banner shows the head, left to right."""
WIDE = 0.76
"""Focal length of the pictures, in that of photo crops: the whole head with some air."""


def views(yaws: Sequence[float], side: int) -> Tensor:
    """Render the demo person.

    Args:
        yaws: degrees.
        side: edge of the pictures in pixels.

    Returns:
        [N, 3, side, side] in [-1, 1], on white.
    """
    generator, person = load_generator("starter"), Identity.load(DEMO)
    cameras = [look_at(math.radians(yaw), math.radians(4), focal=WIDE * FOCAL) for yaw in yaws]
    with torch.no_grad(), personalized(generator, person):
        return resize(generator.render(person.anchors.mean(), torch.cat(cameras)).image, side)


def save(picture: Tensor, path: Path) -> None:
    """Write a picture [3, H, W] in [-1, 1] and print its size."""
    pixels = to_pixels(picture)
    Image.fromarray(pixels).save(path, optimize=True, quality=88)  # PNG has no quality, and ignores it
    height, width = pixels.shape[:2]
    print(f"{path.relative_to(ROOT)}: {width} x {height}, {path.stat().st_size / 1e3:.0f} kB")


def main() -> int:
    """Write both pictures."""
    save(views([20], ICON)[0], ROOT / "docs" / "icon.png")
    width, height = BANNER
    panel = width // len(YAWS)
    margin = (height - panel) // 2
    panels = views(YAWS, height)[..., margin : margin + panel]
    save(torch.cat(list(panels), dim=2), ROOT / "docs" / "banner.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
