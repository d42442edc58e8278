"""The operator as PyTorch sees it: shapes without values, the gradient, and the weights it takes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ..exact import Decoder, Weights
from .builder import KernelError, load

_COLORS = 32


def serves(planes: Tensor, decoder: Decoder, *rays: Tensor) -> bool:
    """Whether the compiled renderer can do this: built for the device, float32, no gradient wanted of rays.

    Warns with a sentence where it is not built.
    """
    device = "cpu" if planes.device.type == "meta" else planes.device.type
    wanted = torch.is_grad_enabled() and any(r.requires_grad for r in rays)
    tensors = (planes, *rays)
    if (
        wanted
        or device not in ("cpu", "cuda")
        or any(t.dtype != torch.float32 or t.device != planes.device for t in tensors)
        or decoder.net[0].weight.dtype != torch.float32
    ):
        return False
    try:
        load(device)
    except KernelError as error:
        warnings.warn(str(error), stacklevel=3)
        return False
    return True


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
    floor: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two passes along rays, composited. Needs `load()`.

    Args:
        planes: [B, 3, 32, P, P]; channels that lie side by side spare a copy.
        weights: see `Decoder.weights`.
        origins, directions: [B, M, 3].
        depths: coarse depths [B, M, N]; N > 1.
        u: uniform numbers [B, M, K] that place the second pass; K = 0 is none.
        floor: samples whose weight stays under it get no gradient; 0 is the exact gradient.

    Returns:
        features [B, M, 32] in [-1, 1]; depth [B, M], NaN where nothing was hit; weight [B, M]; and the least
        and the greatest depth of all samples [2]. Differentiable in planes and weights.
    """
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (planes, *weights))
    return torch.ops.my3dgen.render_rays(
        planes, *weights, origins, directions, depths, u, box_warp, white_back, floor, keep
    )[:4]


def _shapes(planes: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    directions, depths, u, keep = tensors[5], tensors[6], tensors[7], tensors[-1]
    b, m, _ = directions.shape
    samples = (b if keep else 0, m, depths.shape[2] + u.shape[2])
    shapes = ((b, m, _COLORS), (b, m), (b, m), (2,), samples, samples)
    return tuple(directions.new_empty(shape) for shape in shapes)


def _backward_shapes(planes: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    b, _, channels, height, width = planes.shape
    gradient = planes.new_empty(b, 3, height, width, channels).permute(0, 1, 4, 2, 3)
    return (gradient, *(torch.empty_like(w, memory_format=torch.contiguous_format) for w in tensors[:4]))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, box_warp, white_back, floor, _keep = inputs
    ctx.settings = box_warp, white_back, floor
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(*inputs[:7], *output[4:])


def _gradient(
    ctx: Any, features: Tensor, depth: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    learns = any(ctx.needs_input_grad[1:5])  # the decoder's gradients are a third of the work
    planes, *weights = torch.ops.my3dgen.render_rays_backward(
        *ctx.saved_tensors, features, depth, weight, *ctx.settings, learns
    )
    return (planes, *(weights if learns else [None] * 4), *[None] * 8)


def register() -> None:
    """Tells PyTorch the shapes and the gradient of the loaded operators."""
    torch.library.register_fake("my3dgen::render_rays", _shapes)
    torch.library.register_fake("my3dgen::render_rays_backward", _backward_shapes)
    torch.library.register_autograd("my3dgen::render_rays", _gradient, setup_context=_setup)
