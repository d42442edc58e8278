"""What a rendering is compared by.

The perceptual term is, unless another is chosen (`perceptual`), the L1 distance of Laplacian pyramids (Ling
and Okada 2006; "Lap1" of Bojanowski et al., GLO, ICML 2018). It needs no download and no licence, works on
patches of any size, and weighs edges at every scale, which is what a pixel loss alone blurs away.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LEVELS = 4


def _blur(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device, dtype=x.dtype) / 16
    channels = x.shape[1]
    row = taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5)
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), mode="replicate"), row, groups=channels)
    return F.conv2d(F.pad(x, (0, 0, 2, 2), mode="replicate"), row.transpose(2, 3), groups=channels)


def laplacian_l1(difference: Tensor) -> Tensor:
    """Mean absolute value of each band of the Laplacian pyramid of [N, C, H, W], summed over bands: [N].

    The pyramid is linear, so the distance of two pictures is this of their difference.
    """
    total = difference.new_zeros(len(difference))
    for _ in range(MAX_LEVELS):
        if min(difference.shape[-2:]) < 8:
            break
        low = _blur(difference)
        total = total + (difference - low).abs().mean((1, 2, 3))
        difference = low[..., ::2, ::2]
    return total + difference.abs().mean((1, 2, 3))


def laplacian_distance(image: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """`laplacian_l1` of the difference of [N, 3, H, W], where `valid` [N, 1, H, W] weighs each pixel: [N]."""
    if valid is None:
        return laplacian_l1(image - target)
    return laplacian_l1(valid * (image - target)) / valid.mean((1, 2, 3)).clamp(min=1e-3)


def photo_loss(
    image: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    perceptual: float = 0.5,
    distance: Callable[[Tensor, Tensor, Tensor | None], Tensor] = laplacian_distance,
) -> tuple[Tensor, Tensor]:
    """Squared error and perceptual distance of each picture.

    Args:
        image, target: [N, 3, H, W] in [-1, 1].
        valid: [N, 1, H, W], weight of each pixel in 0..1: 0 where the target was invented; None: all 1.
        perceptual: weight of the perceptual term.
        distance: that term (`perceptual.distance`).

    Returns:
        weighted mean squared error [N] and perceptual distance [N].
    """
    squared = (image - target).square()
    if valid is None:
        mean = squared.mean((1, 2, 3))
    else:
        mean = (valid * squared).mean((1, 2, 3)) / valid.mean((1, 2, 3)).clamp(min=1e-3)
    if perceptual == 0:
        return mean, torch.zeros_like(mean)
    return mean, perceptual * distance(image, target, valid)
