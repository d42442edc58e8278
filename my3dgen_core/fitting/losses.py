"""Photometric losses: squared error and the L1 distance of Laplacian pyramids.

The Laplacian distance (Ling and Okada 2006; "Lap1" of Bojanowski et al., GLO, ICML 2018) is the default
perceptual term. It needs no weights, works on patches of any size, and weighs edges at every scale, which a
pixel loss alone blurs. `lpips` has the alternatives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LEVELS = 4
"""Largest number of band-pass levels of the pyramid."""


def _blur(x: Tensor) -> Tensor:
    """Blur [N, C, H, W] by a 5 x 5 binomial filter, borders replicated."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device, dtype=x.dtype) / 16
    channels = x.shape[1]
    row = taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5)
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), mode="replicate"), row, groups=channels)
    return F.conv2d(F.pad(x, (0, 0, 2, 2), mode="replicate"), row.transpose(2, 3), groups=channels)


def laplacian_l1(difference: Tensor) -> Tensor:
    """Return the mean absolute value of a Laplacian pyramid's bands, summed over the bands.

    The pyramid is linear, so applied to a difference of pictures this is their distance.

    Args:
        difference: [N, C, H, W].

    Returns:
        [N].
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
    """Return the distance of Laplacian pyramids [N], normalized by the mean weight.

    Args:
        image, target: [N, 3, H, W] in [-1, 1].
        valid: weight of each pixel [N, 1, H, W] in 0..1; None: all 1.
    """
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
    """Return the squared error and the weighted perceptual distance of each picture.

    Args:
        image, target: [N, 3, H, W] in [-1, 1].
        valid: weight of each pixel [N, 1, H, W] in 0..1, 0 where the target is unknown; None: all 1.
        perceptual: weight of the perceptual term; 0 skips it.
        distance: perceptual distance (`lpips.distance`).

    Returns:
        mean squared error [N], and `perceptual` times the perceptual distance [N].
    """
    squared = (image - target).square()
    if valid is None:
        mean = squared.mean((1, 2, 3))
    else:
        mean = (valid * squared).mean((1, 2, 3)) / valid.mean((1, 2, 3)).clamp(min=1e-3)
    if perceptual == 0:
        return mean, torch.zeros_like(mean)
    return mean, perceptual * distance(image, target, valid)
