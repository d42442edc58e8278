"""Compiled exact renderer: both passes and their compositing as one operator, with its gradient."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ...decoder import Decoder, Weights
from ..compositing import RayOutput, clamp_depth
from ..request import RenderRequest
from .libraries import KernelError, load


def is_ready(device: torch.device) -> bool:
    """Load the compiled renderer for a device; return False, with a warning, if it cannot be used there."""
    try:
        load("cpu" if device.type == "meta" else device.type)
    except KernelError as error:
        warnings.warn(str(error), stacklevel=5)
        return False
    return True


def render(request: RenderRequest) -> RayOutput:
    """Render rays, with gradients of planes and decoder weights, none of rays."""
    assert isinstance(request.decoder, Decoder)
    features, depth, weight, span = render_rays(
        request.batch_planes,
        request.decoder.weights(request.density_scale),
        request.origins,
        request.directions,
        request.depths[..., 0],
        request.u,
        box_warp=request.config.box_warp,
        white_back=request.config.white_back,
        min_weight=request.min_weight,
    )
    return RayOutput(features, clamp_depth(depth[..., None], span[0], span[1]), weight[..., None])


def render_rays(
    planes: Tensor,
    weights: Weights,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    u: Tensor,
    *,
    box_warp: float = 1.0,
    white_back: bool = False,
    min_weight: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call the exact operator, which must be loaded (`load`). Differentiable in planes and weights.

    Args:
        planes: [B, 3, 32, P, P]; channels-last planes are not copied.
        weights: see `Decoder.weights`.
        origins, directions: [B, M, 3].
        depths: coarse depths [B, M, N]; N > 1.
        u: numbers in [0, 1] that place the fine samples [B, M, K]; K = 0: none.
        box_warp: side of the box in world units.
        white_back: white background.
        min_weight: samples whose weight stays below it get no gradient; 0: the exact gradient.

    Returns:
        features [B, M, 32] in [-1, 1]; depth (NaN where nothing was hit) and weight [B, M]; and the least and
        the greatest depth of all samples [2].
    """
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (planes, *weights))
    return torch.ops.my3dgen.render_rays(
        planes, *weights, origins, directions, depths, u, box_warp, white_back, min_weight, keep
    )[:4]
