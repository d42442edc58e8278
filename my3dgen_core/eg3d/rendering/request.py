"""The rays to render and the radiance field that they pass through, as every implementation takes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..config import GeneratorConfig
from ..decoder import Decode
from .density_bounds import DensityBoundsCache


@dataclass(frozen=True)
class RenderRequest:
    """Arguments of one call of `renderer.render_rays`.

    Shapes: B cameras, M rays each, N coarse and K fine samples a ray.

    planes: [S, 3, 32, P, P]; S is B, or 1 for one scene seen from B cameras.
    decoder: mean plane features to raw density and colors.
    origins, directions: [B, M, 3].
    depths: coarse depths [B, M, N, 1].
    u: numbers in [0, 1] [B, M, K] that place the second pass.
    chunk: rays a scene to work on at a time; None: all.
    min_weight: samples whose weight stays below it get no gradient.
    density_scale: multiplies the raw density.
    bounds_cache: density bounds of planes rendered before (quality "fast").
    """

    planes: Tensor
    decoder: Decode
    config: GeneratorConfig
    origins: Tensor
    directions: Tensor
    depths: Tensor
    u: Tensor
    chunk: int | None
    min_weight: float
    density_scale: float
    bounds_cache: DensityBoundsCache

    @property
    def rays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """origins, directions, depths and u."""
        return self.origins, self.directions, self.depths, self.u

    @property
    def batch_planes(self) -> Tensor:
        """The planes of each camera's scene [B, 3, 32, P, P], expanded without a copy."""
        return self.planes.expand(len(self.directions), -1, -1, -1, -1)
