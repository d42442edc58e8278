"""Compiled operators for quality "fast": culled rendering, and the density bounds that it relies on."""

from __future__ import annotations

import torch
from torch import Tensor

from ...decoder import Decoder, Weights
from ..compositing import RayOutput
from ..culled import MAX_LOST_WEIGHT, MIN_WEIGHT, finish
from ..request import RenderRequest


def render_culled(request: RenderRequest) -> RayOutput:
    """Render rays on a CPU, skipping empty space and hidden samples; no gradients."""
    decoder, config = request.decoder, request.config
    assert isinstance(decoder, Decoder)
    grid = request.bounds_cache.get(request.planes, decoder, config.box_warp, density_bounds)
    color, depth, weight = render_rays_fast(
        request.batch_planes,
        decoder.weights(),
        (grid.bounds, grid.scale, grid.shift),
        request.origins,
        request.directions,
        request.depths[..., 0],
        request.u,
        box_warp=config.box_warp,
        lost=MAX_LOST_WEIGHT,
        share=MIN_WEIGHT,
    )
    return finish(request, color, depth[..., None], weight[..., None])


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
    """Call the culled operator, which must be loaded (`load`).

    Args:
        planes: [B, 3, 32, P, P]; channels-last planes are not copied.
        weights: see `Decoder.weights`.
        grid: bounds, scale and shift of a `DensityBounds` of B scenes, or of one.
        origins, directions: [B, M, 3].
        depths: coarse depths [B, M, N]; N > 1.
        u: numbers in [0, 1] that place the fine samples [B, M, K]; K = 0: none.
        box_warp: side of the box in world units.
        lost, share: see MAX_LOST_WEIGHT and MIN_WEIGHT of `culled`.

    Returns:
        weighted sum of colors [B, M, 32], depth (NaN where nothing was hit) and weight [B, M].
    """
    bounds, scale, shift = grid
    return torch.ops.my3dgen.render_rays_fast(
        planes, *weights, bounds, origins, directions, depths, u, box_warp, scale, shift, lost, share
    )


def density_bounds(xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Call the compiled `combine_units`; shapes as in `rendering.density_bounds`. Call `load` first."""
    return torch.ops.my3dgen.density_bounds(xy, xz, weight, bias)
