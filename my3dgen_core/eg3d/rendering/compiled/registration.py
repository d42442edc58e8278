"""Registration of the exact operators with PyTorch: schemas, shapes of results, and the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...decoder import COLORS

_INPUTS = "Tensor planes, Tensor w0, Tensor b0, Tensor w1, Tensor b1, Tensor origins, Tensor directions"
SCHEMAS = (
    f"render_rays({_INPUTS}, Tensor depths, Tensor u, float box_warp, bool white_back, float floor, "
    "bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"render_rays_backward({_INPUTS}, Tensor sample_depths, Tensor densities, Tensor features, Tensor depth, "
    "Tensor weight, float box_warp, bool white_back, float floor, bool learns) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def shapes(planes: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    """Return empty results of `render_rays`.

    features [B, M, 32]; depth and weight [B, M]; range of depths [2]; and depths and densities of all samples
    [B, M, N + K], which are empty ([0, M, N + K]) where none are kept for the gradient.
    """
    directions, depths, u, keep = tensors[5], tensors[6], tensors[7], tensors[-1]
    b, m, _ = directions.shape
    samples = (b if keep else 0, m, depths.shape[2] + u.shape[2])
    results = ((b, m, COLORS), (b, m), (b, m), (2,), samples, samples)
    return tuple(directions.new_empty(shape) for shape in results)


def _backward_shapes(planes: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    """Return empty gradients of the planes [B, 3, 32, P, P], channels last, and of the decoder weights."""
    b, _, channels, height, width = planes.shape
    gradient = planes.new_empty(b, 3, height, width, channels).permute(0, 1, 4, 2, 3)
    return (gradient, *(torch.empty_like(w, memory_format=torch.contiguous_format) for w in tensors[:4]))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save planes, decoder weights, rays and samples for the gradient."""
    *_, box_warp, white_back, min_weight, _keep = inputs
    ctx.settings = box_warp, white_back, min_weight
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(*inputs[:7], *output[4:])


def _gradient(
    ctx: Any, features: Tensor, depth: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    """Gradients of features [B, M, 32], depth and weight [B, M] -> those of the operator's 13 inputs."""
    learns = any(ctx.needs_input_grad[1:5])  # the decoder's gradients are a third of the work
    planes, *weights = torch.ops.my3dgen.render_rays_backward(
        *ctx.saved_tensors, features, depth, weight, *ctx.settings, learns
    )
    return (planes, *(weights if learns else [None] * 4), *[None] * 8)


def register(library: torch.library.Library) -> None:
    """Register schemas, shapes and gradient of the exact operators."""
    for schema in SCHEMAS:
        library.define(schema)
    torch.library.register_fake("my3dgen::render_rays", shapes, lib=library)
    torch.library.register_fake("my3dgen::render_rays_backward", _backward_shapes, lib=library)
    torch.library.register_autograd("my3dgen::render_rays", _gradient, setup_context=_setup, lib=library)
