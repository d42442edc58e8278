"""Registration of the compiled culled renderer and its density bounds with PyTorch: result shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...decoder import COLORS


def _shapes(*tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty results of `render_rays_fast`: colors [B, M, 32], depth and weight [B, M]."""
    directions = tensors[7]
    b, m, _ = directions.shape
    return directions.new_empty(b, m, COLORS), directions.new_empty(b, m), directions.new_empty(b, m)


def _bound_shape(xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return an empty result of `density_bounds` [2, G, G, G]."""
    cells = xy.shape[1]
    return xy.new_empty(2, cells, cells, cells)


def register() -> None:
    """Register the shapes of the results of the loaded operators."""
    torch.library.register_fake("my3dgen::render_rays_fast", _shapes)
    torch.library.register_fake("my3dgen::density_bounds", _bound_shape)
