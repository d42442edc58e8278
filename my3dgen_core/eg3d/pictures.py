"""Rays to pixels for pictures alone: no gradients, and colours of those samples that show.

Shapes: B scenes, M rays each, N coarse and K fine samples a ray.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import GeneratorConfig
from .field import Field, by_table
from .volume import Decoder, importance_depths, march


def field(
    planes: Tensor,
    decoder: Callable[[Tensor], tuple[Tensor, Tensor]],
    config: GeneratorConfig,
    *rays: Tensor,
) -> Field | None:
    """What `pixels` takes; None where gradients are wanted, or another way is faster."""
    if not isinstance(decoder, Decoder) or decoder.net[0].weight.dtype != planes.dtype:
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*decoder.parameters(), *rays)):
        return None
    return Field(planes, decoder, config.box_warp) if by_table(planes, rays[-1]) else None


def pixels(
    field: Field, origins: Tensor, directions: Tensor, depths: Tensor, u: Tensor, white_back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Both passes composited, without gradients: colours are decoded once the weights are known.

    Returns:
        features [B, M, 32] in [-1, 1], depth and weight [B, M, 1], least and greatest depth of a sample.
    """
    b, m = directions.shape[:2]
    scene = torch.arange(b, device=directions.device).clamp(max=field.scenes - 1)

    def decoded(depths: Tensor) -> tuple[Tensor, Tensor]:
        points = (origins[:, :, None] + depths * directions[:, :, None]).flatten(0, 2)
        density, units = field.density(points, scene.repeat_interleave(m * depths.shape[2]))
        return density.view_as(depths), units

    nothing = depths.new_zeros(b, m, depths.shape[2], 0)
    density, units = decoded(depths)
    passes, order = [(units, depths.shape[2])], None
    if u.shape[-1] > 0:
        weights = march(nothing, density, depths)[2]
        fine = importance_depths(depths, weights, u.reshape(b * m, -1))
        more, units = decoded(fine)
        passes.append((units, u.shape[-1]))
        depths, order = torch.cat((depths, fine), dim=2).sort(dim=2)
        density = torch.cat((density, more), dim=2).gather(2, order)
    _, depth, weights = march(density[..., :0], density, depths)
    share = (F.pad(weights[..., 0], (1, 0)) + F.pad(weights[..., 0], (0, 1))) / 2
    if order is not None:
        share = torch.empty_like(share).scatter_(2, order[..., 0], share)
    shares = share.flatten(0, 1).split([count for _, count in passes], dim=1)
    colors = [field.painted(units, part) for (units, _), part in zip(passes, shares, strict=True)]
    total = weights.sum(2)
    features = torch.stack(colors).sum(0).view(b, m, -1) + (1 - total if white_back else 0)
    return features * 2 - 1, depth, total, depths[:, :, 0].amin(), depths[:, :, -1].amax()
