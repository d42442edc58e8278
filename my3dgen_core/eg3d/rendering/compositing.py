"""Compositing of samples along rays (EG3D section 4; NeRF section 4, with densities at interval midpoints).

Shapes: B scenes, M rays each, N samples a ray. Densities are the decoder's raw output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class RayOutput:
    """Composited rays."""

    features: Tensor
    """[B, M, 32] in [-1, 1]."""
    depth: Tensor
    """[B, M, 1] along the ray, in world units."""
    weight: Tensor
    """Accumulated compositing weight [B, M, 1] in [0, 1]."""


def composite(
    colors: Tensor, densities: Tensor, depths: Tensor, white_back: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Composite samples along rays.

    Color, depth and raw density of an interval are the means of both ends; its density is softplus(raw - 1).

    Args:
        colors: [B, M, N, C] in [0, 1].
        densities: raw [B, M, N, 1].
        depths: [B, M, N, 1], ascending.
        white_back: white background, in place of black.

    Returns:
        features [B, M, C] in [-1, 1], depth [B, M, 1] (NaN where nothing was hit), weights of the intervals
        [B, M, N-1, 1].
    """
    delta = depths[:, :, 1:] - depths[:, :, :-1]
    color = (colors[:, :, :-1] + colors[:, :, 1:]) / 2
    density = F.softplus((densities[:, :, :-1] + densities[:, :, 1:]) / 2 - 1)
    depth_mid = (depths[:, :, :-1] + depths[:, :, 1:]) / 2
    alpha = 1 - torch.exp(-density * delta)
    passed = torch.cumprod(1 - alpha + 1e-10, dim=2)
    passed = torch.cat((torch.ones_like(passed[:, :, :1]), passed[:, :, :-1]), dim=2)
    weights = alpha * passed
    total = weights.sum(2)
    features = (weights * color).sum(2)
    hit = total > 0  # where nothing is hit the depth is NaN, but its gradient is 0
    depth = (weights * depth_mid).sum(2) / torch.where(hit, total, torch.ones_like(total))
    depth = torch.where(hit, depth, torch.full_like(depth, torch.nan))
    if white_back:
        features = features + (1 - total)
    return features * 2 - 1, depth, weights


def clamp_depth(depth: Tensor, nearest: Tensor, farthest: Tensor) -> Tensor:
    """Clamp depth [B, M, 1] to the range of all samples; rays that hit nothing (NaN) get the farthest."""
    return torch.nan_to_num(depth, nan=float("inf")).clamp(nearest, farthest)
