"""Picture operations: resizing, conversion to bytes, filling by pull and push."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, size: int) -> Tensor:
    """Antialiased bilinear resize: [N, C, H, W] -> [N, C, size, size]."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def to_uint8(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] as bytes in 0..255, rounded; any shape."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pixels(image: Tensor) -> np.ndarray:
    """One picture [3, H, W] in [-1, 1] as uint8 [H, W, 3] on the CPU."""
    return to_uint8(image).permute(1, 2, 0).cpu().numpy()


def from_uint8(pixels: Tensor) -> Tensor:
    """Bytes in 0..255 as float32 in [-1, 1]; any shape."""
    return pixels.float() / 127.5 - 1


def pull_push_fill(values: Tensor, known: Tensor) -> Tensor:
    """Values [n, C, H, W] where known [n, 1, H, W] is 1; elsewhere means of those around (pull-push).

    0 where nothing at all is known.
    """
    height, width = values.shape[-2:]
    if height == width == 1:
        return values * known
    weight = _halved(known)
    coarse = pull_push_fill(_halved(values * known) / weight.clamp(min=1e-6), (4 * weight).clamp(max=1))
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return known * values + (1 - known) * smooth


def _halved(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 2, ceil_mode=True, count_include_pad=False)
