"""The operators for quality "fast": `render_rays` without what does not show, and what tells beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .operator import _COLORS, Weights


def render_rays_fast(
    planes: Tensor,
    weights: Weights,
    grid: tuple[Tensor, float, float],
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    u: Tensor,
    *,
    box_warp: float,
    lost: float,
    share: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted colours [B, M, 32], depth (NaN where nothing was hit) and weight [B, M]. Needs `load()`.

    Args:
        planes, weights, origins, directions, depths, u: as `render_rays` takes them.
        grid: bounds, scale and shift of a `DensityGrid` of B scenes, or one.
        lost, share: see WEIGHT and SHARE of `eg3d.fast`.
    """
    bounds, scale, shift = grid
    return torch.ops.my3dgen.render_rays_fast(
        planes, *weights, bounds, origins, directions, depths, u, box_warp, scale, shift, lost, share
    )


def density_bounds(xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Hidden units [2, G, G, 64] of (y, x) and of (z, x) -> densities [2, G, G, G]. Needs `load()`.

    weight [64] and bias [1] are the density's own.
    """
    return torch.ops.my3dgen.density_bounds(xy, xz, weight, bias)


def _shapes(*tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
    directions = tensors[7]
    b, m, _ = directions.shape
    return directions.new_empty(b, m, _COLORS), directions.new_empty(b, m), directions.new_empty(b, m)


def _bound_shape(xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    cells = xy.shape[1]
    return xy.new_empty(2, cells, cells, cells)


def register() -> None:
    """Tells PyTorch the shapes of the loaded operators' results."""
    torch.library.register_fake("my3dgen::render_rays_fast", _shapes)
    torch.library.register_fake("my3dgen::density_bounds", _bound_shape)
