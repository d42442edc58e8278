"""Empty-space skipping and early termination: quality "fast", without gradients.

Sample depths and compositing are those of the other implementations, but most samples lie in empty space or
behind a surface. `DensityBounds` marks the intervals that cannot contain density and those that are certainly
opaque. Only samples at the ends of the remaining intervals are decoded, front to back, so that samples hidden
by decoded ones are skipped; colors are decoded only for samples with visible weight. Without empty space, as
with random weights, everything is decoded.

Shapes: S scenes, R rays of all scenes in one row, N samples a ray, E samples to decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..decoder import COLORS, Decoder
from .compositing import RayOutput, clamp_depth, composite
from .density_bounds import DensityBounds
from .rays import importance_depths, nonzero_rows
from .request import RenderRequest
from .triplanes import TableField, weighted_sum

MAX_LOST_WEIGHT = 1e-3
"""Maximum compositing weight that a ray may lose in empty space, in total, and behind an opaque interval."""
MIN_WEIGHT = 1e-4
"""Minimum compositing weight of a sample, as a share of its ray's weight. Colors of samples below it are not
decoded; their weight is given to the decoded ones."""
FIRST = (3, 6)
"""Samples of a ray that are decoded in the first of two rounds, in the coarse and in the fine pass."""


def render(request: RenderRequest) -> RayOutput:
    """Render rays in PyTorch, on any device, without gradients."""
    decoder, config = request.decoder, request.config
    assert isinstance(decoder, Decoder)
    grid = request.bounds_cache.get(request.planes, decoder, config.box_warp)
    field = TableField(request.planes, decoder.weights(), config.box_warp)
    b, m = request.directions.shape[:2]
    scene = torch.arange(b, device=request.directions.device).clamp(max=field.scenes - 1).repeat_interleave(m)
    inputs = (request.origins, request.directions, request.depths[..., 0], request.u)
    flat = [v.flatten(0, 1).split((request.chunk or m) * b) for v in (scene[None], *inputs)]
    parts = [
        _render(field, grid, _Rays(scene, origins, directions), depths, u)
        for scene, origins, directions, depths, u in zip(*flat, strict=True)
    ]
    color, depth, weight = (torch.cat([p[i] for p in parts]).unflatten(0, (b, m)) for i in range(3))
    return finish(request, color, depth, weight)


def finish(request: RenderRequest, color: Tensor, depth: Tensor, weight: Tensor) -> RayOutput:
    """Convert accumulated colors to features, and clamp the depth.

    Args:
        request: the request rendered.
        color: weighted sum of colors [B, M, 32].
        depth: [B, M, 1], NaN where nothing was hit.
        weight: accumulated weight [B, M, 1].
    """
    if request.config.white_back:
        color = color + (1 - weight)
    depths = request.depths
    return RayOutput(color * 2 - 1, clamp_depth(depth, depths.amin(), depths.amax()), weight)


@dataclass
class _Rays:
    """R rays of several scenes."""

    scene: Tensor
    """Number of the scene [R]."""
    origins: Tensor
    """[R, 3]."""
    directions: Tensor
    """[R, 3]."""

    def bounds(self, grid: DensityBounds, depths: Tensor) -> Tensor:
        """Look up the bounds of the densities at depths [R, N]: [2, R, N]."""
        cells = grid.bounds.shape[2]
        index = self.scene[:, None]
        for axis in (2, 1, 0):
            start = self.origins[:, axis, None].to(torch.float32) * grid.scale + grid.shift
            place = torch.addcmul(
                start, depths.to(torch.float32), self.directions[:, axis, None] * grid.scale
            )
            index = index * cells + place.nan_to_num_(0).clamp_(0, cells - 1).to(torch.int64)
        return grid.bounds.view(2, -1)[:, index]

    def __getitem__(self, rays: Tensor) -> _Rays:
        return _Rays(self.scene[rays], self.origins[rays], self.directions[rays])


class _Samples:
    """Samples of R rays, sorted by depth, with bounds of their densities; some of them decoded.

    Attributes:
        depths: [R, N].
        bounds: lower and upper bounds of the raw densities, float32 [2, R, N]; both are the density itself
            where it has been decoded.
        row: row of each sample in the concatenated `units` [R, N]; -1: not decoded.
        units: hidden units [E, 64] of the decoded samples, one tensor per call of the decoder.
        count: number of decoded samples.
    """

    def __init__(
        self, field: TableField, grid: DensityBounds, rays: _Rays, depths: Tensor, bounds: Tensor
    ) -> None:
        self.field, self.grid, self.rays, self.depths, self.bounds = field, grid, rays, depths, bounds
        self.row = torch.full_like(depths, -1, dtype=torch.int64)
        self.units: list[Tensor] = []
        self.count = 0

    def join(self, depths: Tensor) -> None:
        """Add samples at depths [R, K] and sort all by depth."""
        bounds = self.rays.bounds(self.grid, depths)
        self.depths, order = torch.cat((self.depths, depths), dim=1).sort(dim=1)
        self.bounds = torch.cat((self.bounds, bounds), dim=2).gather(2, order.expand(2, -1, -1))
        self.row = F.pad(self.row, (0, depths.shape[1]), value=-1).gather(1, order)

    def decode(self, first: int) -> None:
        """Decode the densities that are `needed`, in two rounds: the first ones of each ray, then the others.

        Args:
            first: samples of a ray in the first round, whose densities may make others unnecessary.
        """
        for last in (False, True):
            wanted = needed(self.bounds, self.depths) & (self.row < 0)
            if not last:
                wanted &= wanted.cumsum(1) <= first
            ray, sample = nonzero_rows(wanted)
            points = self.rays.origins[ray] + self.depths[ray, sample, None] * self.rays.directions[ray]
            density, units = self.field.density(points, self.rays.scene[ray])
            self.bounds[:, ray, sample] = density.to(torch.float32)
            self.row[ray, sample] = torch.arange(self.count, self.count + len(ray), device=ray.device)
            self.units.append(units)
            self.count += len(units)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Composite the densities: depth [R, 1] and weights of the intervals [R, N-1]."""
        density = self.bounds[1, None, ..., None].to(self.depths.dtype)
        _, depth, weights = composite(density[..., :0], density, self.depths[None, ..., None])
        return depth[0], weights[0, ..., 0]


def needed(bounds: Tensor, depths: Tensor) -> Tensor:
    """Mark the samples that may contribute to a pixel: the ends of intervals neither empty nor hidden.

    Args:
        bounds: lower and upper bounds of the densities [2, R, N]. Samples with NaN are marked.
        depths: [R, N], ascending.

    Returns:
        boolean [R, N].
    """
    middle = (bounds[..., 1:] + bounds[..., :-1]) / 2
    least = (middle[0] - 1).clamp(min=0) * (depths[:, 1:] - depths[:, :-1])  # softplus is greater
    before = F.pad(least.cumsum(1)[:, :-1], (1, 0))
    length = (depths[:, -1:] - depths[:, :1]).to(torch.float32)
    # An interval is empty below this density: softplus(air - 1) * length == MAX_LOST_WEIGHT.
    air = 1 + torch.log(torch.expm1(MAX_LOST_WEIGHT / length))
    matters = ~(middle[1] < air) & ~(before > -math.log(MAX_LOST_WEIGHT))
    return F.pad(matters, (1, 0)) | F.pad(matters, (0, 1))


def _render(
    field: TableField, grid: DensityBounds, rays: _Rays, depths: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Render R rays of a chunk.

    Args:
        field: the scenes.
        grid: their density bounds.
        rays: scene, origin and direction of each ray.
        depths: coarse depths [R, N].
        u: numbers in [0, 1] that place the fine samples [R, K].

    Returns:
        weighted sum of colors [R, 32], depth (NaN where nothing was hit) and weight [R, 1].
    """
    bounds = rays.bounds(grid, depths)
    seeing = nonzero_rows(needed(bounds, depths).any(1, keepdim=True))[0]
    if len(seeing) == 0:
        nothing = depths.new_zeros(len(depths), 1)
        return nothing.expand(-1, COLORS), torch.full_like(nothing, torch.nan), nothing
    samples = _Samples(field, grid, rays[seeing], depths[seeing], bounds[:, seeing])
    samples.decode(FIRST[0])
    if u.shape[1] > 0:
        weights = samples.weights()[1]
        fine = importance_depths(samples.depths[None, ..., None], weights[None, ..., None], u[seeing])
        samples.join(fine[0, ..., 0])
        samples.decode(FIRST[1])
    depth, weights = samples.weights()
    color = _colors(samples, weights)
    shape = (len(depths), 1)
    return (
        color.new_zeros(len(depths), color.shape[1]).index_copy_(0, seeing, color),
        depth.new_full(shape, torch.nan).index_copy_(0, seeing, depth),
        weights.new_zeros(shape).index_copy_(0, seeing, weights.sum(1, keepdim=True)),
    )


def _colors(samples: _Samples, weights: Tensor) -> Tensor:
    """Decode the visible colors and sum them by the weights of the intervals [R, N-1]: [R, 32]."""
    share = (F.pad(weights, (1, 0)) + F.pad(weights, (0, 1))) / 2
    total = weights.sum(1, keepdim=True)
    counts = ~(share <= MIN_WEIGHT * total) & (samples.row >= 0)
    share = torch.where(counts, share, 0)
    share = share * (total / share.sum(1, keepdim=True).clamp(min=1e-12))
    ray, sample = nonzero_rows(counts)
    units = torch.cat(samples.units)[samples.row[ray, sample]]
    return weighted_sum(samples.field.colors(units), share[ray, sample], counts)
