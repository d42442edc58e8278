"""Request to render rays through a radiance field: the argument of every implementation."""

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
    """

    planes: Tensor
    """[S, 3, 32, P, P]; S is B, or 1 for one scene seen from B cameras."""
    decoder: Decode
    """Mean plane features to raw density and colors."""
    config: GeneratorConfig
    """Configuration, of which the rendering settings are used."""
    origins: Tensor
    """[B, M, 3]."""
    directions: Tensor
    """[B, M, 3], of length 1."""
    depths: Tensor
    """Coarse depths [B, M, N, 1]."""
    u: Tensor
    """Numbers in [0, 1], [B, M, K]: a fine sample is placed where the cumulative distribution of the coarse
    compositing weights along its ray reaches this number."""
    chunk: int | None
    """Rays per scene rendered at a time; None: all."""
    min_weight: float
    """Samples whose compositing weight stays below it get no gradient."""
    density_scale: float
    """Factor of the raw density."""
    bounds_cache: DensityBoundsCache
    """Density bounds of planes rendered before (quality "fast")."""

    @property
    def rays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Origins and directions [B, M, 3], coarse depths [B, M, N, 1], and `u` [B, M, K]."""
        return self.origins, self.directions, self.depths, self.u

    @property
    def batch_planes(self) -> Tensor:
        """Planes of each camera's scene [B, 3, 32, P, P], expanded without a copy."""
        return self.planes.expand(len(self.directions), -1, -1, -1, -1)
