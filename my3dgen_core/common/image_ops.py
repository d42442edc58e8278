"""Image operations: resizing, conversion to and from bytes, pull-push filling."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize images [N, C, H, W] to a side or to (height, width), bilinear and antialiased."""
    shape = (size, size) if isinstance(size, int) else size
    if images.shape[-2:] == shape:
        return images
    return F.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=True)


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8 in 0..255, clamped and rounded; any shape."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pixels(image: Tensor) -> np.ndarray:
    """Convert one image [3, H, W] in [-1, 1] to a uint8 array [H, W, 3]."""
    return to_uint8(image).permute(1, 2, 0).cpu().numpy()


def from_uint8(pixels: Tensor) -> Tensor:
    """Convert uint8 in 0..255 to float32 in [-1, 1]; any shape."""
    return pixels.float() / 127.5 - 1


def pull_push_fill(values: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels from their neighborhood by pull-push (a pyramid of weighted means).

    Args:
        values: [n, C, H, W].
        known: [n, 1, H, W], 1 where a value is known and 0 elsewhere.

    Returns:
        [n, C, H, W]: the known values, and interpolated ones elsewhere; 0 if no pixel is known.
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
