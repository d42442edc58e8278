"""Registration of the culled operators with PyTorch: schemas, and shapes of results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...decoder import COLORS

SCHEMAS = (
    "render_rays_fast(Tensor planes, Tensor w0, Tensor b0, Tensor w1, Tensor b1, Tensor bounds, "
    "Tensor origins, Tensor directions, Tensor depths, Tensor u, float box_warp, float scale, float shift, "
    "float weight, float share) -> (Tensor, Tensor, Tensor)",
    "density_bounds(Tensor xy, Tensor xz, Tensor weight, Tensor bias) -> Tensor",
)


def shapes(*tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty results of `render_rays_fast`: colors [B, M, 32], depth and weight [B, M]."""
    directions = tensors[7]
    b, m, _ = directions.shape
    return directions.new_empty(b, m, COLORS), directions.new_empty(b, m), directions.new_empty(b, m)


def bound_shape(xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return an empty result of `density_bounds` [2, G, G, G]."""
    cells = xy.shape[1]
    return xy.new_empty(2, cells, cells, cells)


def register(library: torch.library.Library) -> None:
    """Register schemas and shapes of the operators."""
    for schema in SCHEMAS:
        library.define(schema)
    torch.library.register_fake("my3dgen::render_rays_fast", shapes, lib=library)
    torch.library.register_fake("my3dgen::density_bounds", bound_shape, lib=library)
