"""The rendered frames for the viewer on Render Head: one small picture file with all of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import host

FRAMES, PIXELS = 64, 256


def contact_sheet(images: Tensor) -> dict[str, list[Any]]:
    """Frames [N, 3, H, W] in [-1, 1] as one file in ComfyUI's temporary folder, for a node's `ui`.

    Of more than 64 frames as many are taken at equal distances; none is larger than 256 px.
    """
    picks = torch.linspace(0, len(images) - 1, min(FRAMES, len(images))).round().long()
    size = min(PIXELS, images.shape[-1])
    frames = torch.nn.functional.interpolate(images[picks], (size, size), mode="area")
    columns = math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    sheet = torch.full((rows * columns, 3, size, size), -1.0)
    sheet[: len(frames)] = frames
    tiled = sheet.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).reshape(1, 3, rows * size, -1)
    file = host.save_temporary("my3dgen_frames", ".jpg", host.jpeg(tiled))
    return {"my3dgen_frames": [{**file, "count": len(frames), "columns": columns, "size": size}]}
