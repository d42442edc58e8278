"""Rays through tri-planes without the work that does not show: `quality="fast"`.

Samples lie where `volume.render_rays` puts them and are composited as there. Most of them it decodes in vain:
in air, or behind a surface. A `DensityGrid` tells beforehand which intervals between neighbouring samples can
hold any density, and which certainly hide what is behind. Only samples at the ends of the others are decoded,
those in front first, so that what they turn out to be can save those behind; and colours only of samples that
weigh something. Where there is no empty space, as with weights at random, all is decoded.

Shapes: S scenes, R rays of all scenes in one row, N samples a ray, E samples to decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import GeneratorConfig
from .density_bounds import DensityGrid
from .exact import Decoder, Jitter, Marched, _limited, _noise, _where, coarse_depths, importance_depths, march
from .triplanes import Field, summed

WEIGHT = 1e-3
"""What a ray's weight may lose: in air, all in all, and behind what hides it."""
SHARE = 1e-4
"""Of a ray's weight: colours of samples that weigh less are not decoded, and the others stand in for them."""
COLORS = 32
FIRST = (3, 6)
"""Samples of a ray that are decoded before its others: of the coarse ones, and then of all."""


def render_rays_fast(
    planes: Tensor,
    decoder: Decoder,
    config: GeneratorConfig,
    grid: DensityGrid,
    origins: Tensor,
    directions: Tensor,
    jitter: Jitter = None,
    chunk: int | None = None,
    renderer: str = "torch",
) -> Marched:
    """As `volume.render_rays`, to less than shows, without gradients.

    Args:
        planes: [S, 3, 32, P, P]; one scene serves all rays, or there is one for each item of the batch.
            Channels that lie side by side spare a copy.
        grid: of these planes and this decoder.
        origins: [B, 1 or M, 3]; directions [B, M, 3].
        jitter: see `Generator.render`.
        chunk: rays of the whole batch worked on at a time; None is all.
        renderer: "torch", or "compiled" as there.
    """
    b, m = directions.shape[:2]
    n, k = config.depth_resolution, config.depth_resolution_importance
    noise, u = _noise(jitter, b, m, n, k, directions)
    depths = coarse_depths(config, origins, directions, noise)
    inputs = (origins.expand(-1, m, -1), directions, depths[..., 0], u.reshape(b, m, k))
    found = _compiled(planes, decoder, config, grid, inputs) if renderer == "compiled" else None
    color, depth, weight = found or _by_torch(
        Field(planes, decoder.weights(), config.box_warp), grid, inputs, chunk
    )
    if config.white_back:
        color = color + (1 - weight)
    return Marched(color * 2 - 1, _limited(depth, depths.amin(), depths.amax()), weight)


_Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
_Found = tuple[Tensor, Tensor, Tensor]


def _compiled(
    planes: Tensor, decoder: Decoder, config: GeneratorConfig, grid: DensityGrid, inputs: _Inputs
) -> _Found | None:
    """The compiled renderer's answer, or None where it does not serve."""
    from . import compiled

    if planes.device.type == "cuda" or not compiled.serves(planes, decoder, *inputs):
        return None
    color, depth, weight = compiled.render_rays_fast(
        planes.expand(len(inputs[0]), -1, -1, -1, -1),
        decoder.weights(),
        (grid.bounds, grid.scale, grid.shift),
        *inputs,
        box_warp=config.box_warp,
        lost=WEIGHT,
        share=SHARE,
    )
    return color, depth[..., None], weight[..., None]


def _by_torch(field: Field, grid: DensityGrid, inputs: _Inputs, chunk: int | None) -> _Found:
    """PyTorch's: colours [B, M, 32], depth and weight [B, M, 1]."""
    b, m = inputs[0].shape[:2]
    scene = torch.arange(b, device=inputs[0].device).clamp(max=field.scenes - 1).repeat_interleave(m)
    flat = [v.flatten(0, 1).split(chunk or b * m) for v in (scene[None], *inputs)]
    parts = [
        _render(field, grid, _Rays(scene, origins, directions), depths, u)
        for scene, origins, directions, depths, u in zip(*flat, strict=True)
    ]
    color, depth, weight = (torch.cat([p[i] for p in parts]).unflatten(0, (b, m)) for i in range(3))
    return color, depth, weight


@dataclass
class _Rays:
    """scene [R], origins and directions [R, 3]."""

    scene: Tensor
    origins: Tensor
    directions: Tensor

    def bounds(self, grid: DensityGrid, depths: Tensor) -> Tensor:
        """Of the densities at depths [R, N]: [2, R, N]."""
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
    """Samples of R rays, sorted by depth: what is known of their densities, and of some all.

    depths [R, N]; bounds [2, R, N]: least and greatest density, float32, both the density itself where it was
    decoded; row [R, N]: of `units`, -1 where nothing was decoded.
    """

    def __init__(self, field: Field, grid: DensityGrid, rays: _Rays, depths: Tensor, bounds: Tensor) -> None:
        self.field, self.grid, self.rays, self.depths, self.bounds = field, grid, rays, depths, bounds
        self.row = torch.full_like(depths, -1, dtype=torch.int64)
        self.units: list[Tensor] = []
        self.count = 0

    def join(self, depths: Tensor) -> None:
        """Adds samples at depths [R, K]."""
        bounds = self.rays.bounds(self.grid, depths)
        self.depths, order = torch.cat((self.depths, depths), dim=1).sort(dim=1)
        self.bounds = torch.cat((self.bounds, bounds), dim=2).gather(2, order.expand(2, -1, -1))
        self.row = F.pad(self.row, (0, depths.shape[1]), value=-1).gather(1, order)

    def decode(self, first: int) -> None:
        """Decodes the densities that matter: the `first` ones of each ray, then those that still do."""
        for last in (False, True):
            wanted = needed(self.bounds, self.depths) & (self.row < 0)
            if not last:
                wanted &= wanted.cumsum(1) <= first
            ray, sample = _where(wanted)
            points = self.rays.origins[ray] + self.depths[ray, sample, None] * self.rays.directions[ray]
            density, units = self.field.density(points, self.rays.scene[ray])
            self.bounds[:, ray, sample] = density.to(torch.float32)
            self.row[ray, sample] = torch.arange(self.count, self.count + len(ray), device=ray.device)
            self.units.append(units)
            self.count += len(units)

    def weights(self) -> tuple[Tensor, Tensor]:
        """depth [R, 1] and weights [R, N-1]."""
        density = self.bounds[1, None, ..., None].to(self.depths.dtype)
        _, depth, weights = march(density[..., :0], density, self.depths[None, ..., None])
        return depth[0], weights[0, ..., 0]


def needed(bounds: Tensor, depths: Tensor) -> Tensor:
    """Which samples have a say, by bounds [2, R, N] of their densities: [R, N]. NaN has one."""
    middle = (bounds[..., 1:] + bounds[..., :-1]) / 2
    least = (middle[0] - 1).clamp(min=0) * (depths[:, 1:] - depths[:, :-1])  # softplus is greater
    before = F.pad(least.cumsum(1)[:, :-1], (1, 0))
    length = (depths[:, -1:] - depths[:, :1]).to(torch.float32)
    air = 1 + torch.log(torch.expm1(WEIGHT / length))  # softplus(air - 1) * length == WEIGHT
    matters = ~(middle[1] < air) & ~(before > -math.log(WEIGHT))
    return F.pad(matters, (1, 0)) | F.pad(matters, (0, 1))


def _render(
    field: Field, grid: DensityGrid, rays: _Rays, depths: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [R, 32], depth and weight [R, 1] of rays with coarse depths [R, N]; u [R, K]."""
    bounds = rays.bounds(grid, depths)
    seeing = _where(needed(bounds, depths).any(1, keepdim=True))[0]
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
    """Weighted colours [R, 32] for the weights [R, N-1] of intervals."""
    share = (F.pad(weights, (1, 0)) + F.pad(weights, (0, 1))) / 2
    total = weights.sum(1, keepdim=True)
    counts = ~(share <= SHARE * total) & (samples.row >= 0)
    share = torch.where(counts, share, 0)
    share = share * (total / share.sum(1, keepdim=True).clamp(min=1e-12))
    ray, sample = _where(counts)
    units = torch.cat(samples.units)[samples.row[ray, sample]]
    return summed(samples.field.colors(units), share[ray, sample], counts)
