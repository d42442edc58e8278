"""Rays through pixels and the depths of the samples on them (EG3D section 4, NeRF's two passes).

Shapes: B scenes, M rays each, N coarse and K fine samples a ray.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...camera import cam2world, intrinsics
from ...common.rng import uniform
from ..config import GeneratorConfig

Jitter = float | torch.Generator | tuple[Tensor, Tensor] | None
"""Positions of samples within their strata, see `Generator.render`."""


def rays(cameras: Tensor, resolution: int, pixels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cast rays through pixel centers.

    Args:
        cameras: [B, 25].
        resolution: pixels along an edge.
        pixels: row-major pixel numbers [M] or [B, M]; None: all of them.

    Returns:
        origins [B, 1, 3] and unit directions [B, M, 3].
    """
    pose, k = cam2world(cameras), intrinsics(cameras)
    if pixels is None:
        pixels = torch.arange(resolution * resolution, device=cameras.device)
    x = (torch.remainder(pixels, resolution) + 0.5) / resolution
    y = (torch.div(pixels, resolution, rounding_mode="floor") + 0.5) / resolution
    x, y = x.to(cameras.dtype).expand(len(cameras), -1), y.to(cameras.dtype).expand(len(cameras), -1)
    fx, fy, cx, cy, skew = (k[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    forward = torch.stack(
        ((x - cx + cy * skew / fy - skew * y / fy) / fx, (y - cy) / fy, torch.ones_like(x)), dim=-1
    )
    directions = torch.einsum("bij,bmj->bmi", pose[:, :3, :3], forward)
    return pose[:, None, :3, 3], F.normalize(directions, dim=-1)


def box_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Intersect rays with the cube centered on the origin.

    Args:
        origins: [B, 1 or M, 3].
        directions: [B, M, 3].
        side: side of the cube.

    Returns:
        depths of entry and exit [B, M, 1] each; -1 and -2 for rays that miss the cube.
    """
    inverse = 1 / directions
    near, far = (-side / 2 - origins) * inverse, (side / 2 - origins) * inverse
    start = torch.minimum(near, far).amax(-1, keepdim=True)
    end = torch.maximum(near, far).amin(-1, keepdim=True)
    missed = start > end
    return start.masked_fill(missed, -1.0), end.masked_fill(missed, -2.0)


def sample_pdf(bins: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Sample a piecewise constant density by inverse transform sampling.

    Args:
        bins: edges of the bins [R, n + 1 or more], ascending.
        weights: weights of the bins [R, n], not normalized.
        u: uniform numbers in [0, 1] [R, k].

    Returns:
        samples [R, k].
    """
    weights = weights + 1e-5
    cdf = torch.cumsum(weights / weights.sum(-1, keepdim=True), dim=-1)
    cdf = torch.cat((torch.zeros_like(cdf[:, :1]), cdf), dim=-1)
    upper = torch.searchsorted(cdf, u.contiguous(), right=True)
    lower = (upper - 1).clamp(min=0)
    upper = upper.clamp(max=weights.shape[-1])
    cdf_low, cdf_high = cdf.gather(1, lower), cdf.gather(1, upper)
    low, high = bins.gather(1, lower), bins.gather(1, upper)
    width = cdf_high - cdf_low
    width = torch.where(width < 1e-5, torch.ones_like(width), width)
    return low + (u - cdf_low) / width * (high - low)


@torch.no_grad()
def importance_depths(depths: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Place fine samples where the coarse weights are large, after smoothing these.

    Args:
        depths: coarse depths [B, M, N, 1].
        weights: weights of the intervals between them [B, M, N - 1, 1].
        u: uniform numbers in [0, 1] [B*M, K].

    Returns:
        fine depths [B, M, K, 1].
    """
    b, m, n, _ = depths.shape
    flat, w = depths.reshape(b * m, n), weights.reshape(b * m, 1, n - 1)
    w = F.avg_pool1d(F.max_pool1d(w, 2, 1, padding=1), 2, 1)[:, 0] + 0.01
    middle = (flat[:, :-1] + flat[:, 1:]) / 2
    # `middle` has one bin more than there are weights, as in the reference: released models were trained so.
    return sample_pdf(middle, w[:, 1:-1], u).reshape(b, m, -1, 1)


def coarse_depths(
    config: GeneratorConfig, origins: Tensor, directions: Tensor, noise: Tensor | float
) -> Tensor:
    """Place coarse samples along rays, evenly spaced except for jitter.

    Args:
        config: range of depths, number of samples N and their spacing.
        origins: [B, 1 or M, 3].
        directions: [B, M, 3].
        noise: number or [B, M, N, 1] in [0, 1), the offset of a sample in units of the spacing.

    Returns:
        depths [B, M, N, 1].
    """
    b, m = directions.shape[:2]
    n = config.depth_resolution
    steps = torch.linspace(0, 1, n, device=directions.device, dtype=directions.dtype).view(n, 1)
    if config.ray_start == "auto":
        start, end = box_limits(origins, directions, config.box_warp)
        hit = end > start
        nearest = torch.where(hit, start, torch.inf).amin()
        farthest = torch.where(hit, start, -torch.inf).amax()  # of `start`, not `end`, as in the reference
        some = hit.any()
        start = torch.where(hit | ~some, start, nearest)
        end = torch.where(hit | ~some, end, farthest)
        start, end = start[:, :, None], end[:, :, None]
        depths = start + steps * (end - start)
        return depths + noise * ((end - start) / (n - 1))
    near, far = float(config.ray_start), float(config.ray_end)
    if config.disparity_space_sampling:
        steps = steps.expand(b, m, n, 1) + noise / (n - 1)
        return 1 / (1 / near * (1 - steps) + 1 / far * steps)
    depths = torch.linspace(near, far, n, device=directions.device, dtype=directions.dtype).view(n, 1)
    return depths.expand(b, m, n, 1) + noise * ((far - near) / (n - 1))


def jitter_numbers(
    jitter: Jitter, b: int, m: int, n: int, k: int, like: Tensor
) -> tuple[Tensor | float, Tensor]:
    """Return the numbers that place the samples of both passes.

    Args:
        jitter: see `Generator.render`.
        b, m: scenes, and rays per scene.
        n, k: coarse and fine samples per ray.
        like: tensor of the wanted device and dtype.

    Returns:
        coarse numbers (one number or [b, m, n, 1]) and fine ones [b*m, k].
    """
    if jitter is None:
        u = (torch.arange(k, device=like.device, dtype=like.dtype) + 0.5) / max(k, 1)
        return 0.5, u.expand(b * m, k)
    if isinstance(jitter, int | float):
        return float(jitter), torch.full((b * m, k), float(jitter), device=like.device, dtype=like.dtype)
    if isinstance(jitter, torch.Generator):
        coarse = uniform((b, m, n, 1), jitter, like.device)
        return coarse.to(like.dtype), uniform((b * m, k), jitter, like.device).to(like.dtype)
    coarse, fine = jitter
    return coarse.to(like), fine.to(like)


def nonzero_rows(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the true values in [B, N]; of all values on the meta device."""
    if flags.device.type == "meta":
        every = torch.arange(flags.numel(), device=flags.device)
        return every // flags.shape[1], every % flags.shape[1]
    scene, sample = flags.nonzero(as_tuple=True)
    return scene, sample
