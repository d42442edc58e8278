"""Frames for the viewer on Render Head, tiled into one small image file."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import host

MAX_FRAMES, MAX_PIXELS = 64, 256
"""Frames in a sheet, and the side of a frame."""


def save_frames(images: Tensor) -> dict[str, list[Any]]:
    """Save frames as one tiled file in ComfyUI's temporary folder and return its `ui` entry.

    Args:
        images: [N, 3, H, H] in [-1, 1]. More than 64 frames are subsampled evenly; frames larger than 256 px
            are shrunk.
    """
    picks = torch.linspace(0, len(images) - 1, min(MAX_FRAMES, len(images))).round().long()
    size = min(MAX_PIXELS, images.shape[-1])
    frames = torch.nn.functional.interpolate(images[picks], (size, size), mode="area")
    columns = math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    sheet = torch.full((rows * columns, 3, size, size), -1.0)
    sheet[: len(frames)] = frames
    tiled = sheet.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).reshape(1, 3, rows * size, -1)
    file = host.save_temporary("my3dgen_frames", ".jpg", host.jpeg(tiled))
    return {"my3dgen_frames": [{**file, "count": len(frames), "columns": columns, "size": size}]}
