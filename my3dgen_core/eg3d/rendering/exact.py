"""Rays through tri-planes: sampling, decoding and compositing (EG3D section 4, NeRF's two passes).

Shapes: B scenes, M rays each, N samples a ray. Densities are the decoder's raw output until they are marched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...camera.pose import cam2world, intrinsics
from ...common.rng import uniform
from ..backbone import PLANE_CHANNELS
from ..config import GeneratorConfig
from ..layers import FullyConnected
from .triplanes import colors_of, mean_features

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
_Decode = Callable[[Tensor], tuple[Tensor, Tensor]]
Jitter = float | torch.Generator | tuple[Tensor, Tensor] | None


class Decoder(nn.Module):
    """Mean plane features [..., 32] -> raw density [..., 1] and colour features [..., 32]."""

    def __init__(self, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            FullyConnected(PLANE_CHANNELS, 64, lr_multiplier=lr_multiplier),
            nn.Softplus(),
            FullyConnected(64, 1 + 32, lr_multiplier=lr_multiplier),
        )

    def weights(self, density_scale: float = 1.0) -> Weights:
        """The weights with their gains, differentiable; `density_scale` multiplies the raw density.

        Returns:
            w0 [64, 32], b0 [64], w1 [33, 64], b1 [33]; the first row of the last two gives the raw density.
        """
        first, _, last = self.net
        assert isinstance(first, FullyConnected)
        assert isinstance(last, FullyConnected)
        w0, b0 = first.weight * first.weight_gain, first.bias * first.bias_gain
        w1, b1 = last.weight * last.weight_gain, last.bias * last.bias_gain
        if density_scale != 1:
            scale = torch.ones_like(b1)
            scale[0] = density_scale
            w1, b1 = w1 * scale[:, None], b1 * scale
        return w0, b0, w1, b1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        out = self.net(features)
        return out[..., :1], colors_of(out[..., 1:])


@dataclass
class Marched:
    """What came back along the rays: features [B, M, 32] in [-1, 1], depth and weight [B, M, 1]."""

    features: Tensor
    depth: Tensor
    weight: Tensor


def rays(cameras: Tensor, resolution: int, pixels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rays through pixel centres.

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
    """Where rays enter and leave the cube of that side; (-1, -2) for rays that miss it. Each [B, M, 1]."""
    inverse = 1 / directions
    near, far = (-side / 2 - origins) * inverse, (side / 2 - origins) * inverse
    start = torch.minimum(near, far).amax(-1, keepdim=True)
    end = torch.maximum(near, far).amin(-1, keepdim=True)
    missed = start > end
    return start.masked_fill(missed, -1.0), end.masked_fill(missed, -2.0)


def march(
    colors: Tensor, densities: Tensor, depths: Tensor, white_back: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Composites samples [B, M, N, ...] along rays.

    Returns:
        features [B, M, C] in [-1, 1], depth [B, M, 1] (NaN where nothing was hit), weights [B, M, N-1, 1].
    """
    delta = depths[:, :, 1:] - depths[:, :, :-1]
    color = (colors[:, :, :-1] + colors[:, :, 1:]) / 2
    density = F.softplus((densities[:, :, :-1] + densities[:, :, 1:]) / 2 - 1)
    depth_mid = (depths[:, :, :-1] + depths[:, :, 1:]) / 2
    alpha = 1 - torch.exp(-density * delta)
    passed = torch.cumprod(1 - alpha + 1e-10, dim=2)
    passed = torch.cat((torch.ones_like(passed[:, :, :1]), passed[:, :, :-1]), dim=2)
    weights = alpha * passed
    total = weights.sum(2)
    features = (weights * color).sum(2)
    hit = total > 0  # where nothing is hit the depth is NaN, its gradient is not
    depth = (weights * depth_mid).sum(2) / torch.where(hit, total, torch.ones_like(total))
    depth = torch.where(hit, depth, torch.full_like(depth, torch.nan))
    if white_back:
        features = features + (1 - total)
    return features * 2 - 1, depth, weights


def sample_pdf(bins: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Inverse transform sampling: bins [R, n+1 or more], weights [R, n], u [R, k] in [0, 1] -> [R, k]."""
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
    """Fine depths where the coarse weights lie: [B, M, N, 1], [B, M, N-1, 1], u [B*M, K] -> [B, M, K, 1]."""
    b, m, n, _ = depths.shape
    flat, w = depths.reshape(b * m, n), weights.reshape(b * m, 1, n - 1)
    w = F.avg_pool1d(F.max_pool1d(w, 2, 1, padding=1), 2, 1)[:, 0] + 0.01
    middle = (flat[:, :-1] + flat[:, 1:]) / 2
    # One bin more than weights: kept, because every released model was trained with it.
    return sample_pdf(middle, w[:, 1:-1], u).reshape(b, m, -1, 1)


def coarse_depths(
    config: GeneratorConfig, origins: Tensor, directions: Tensor, noise: Tensor | float
) -> Tensor:
    """Stratified depths [B, M, N, 1]; `noise` in [0, 1) moves each sample within its stride."""
    b, m = directions.shape[:2]
    n = config.depth_resolution
    steps = torch.linspace(0, 1, n, device=directions.device, dtype=directions.dtype).view(n, 1)
    if config.ray_start == "auto":
        start, end = box_limits(origins, directions, config.box_warp)
        hit = end > start
        nearest = torch.where(hit, start, torch.inf).amin()
        farthest = torch.where(hit, start, -torch.inf).amax()  # of the starts: as the reference does
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


def _noise(jitter: Jitter, b: int, m: int, n: int, k: int, like: Tensor) -> tuple[Tensor | float, Tensor]:
    """The uniform numbers of both passes: coarse (number or [b, m, n, 1]) and fine [b*m, k]."""
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


@dataclass
class _Field:
    """A radiance field: planes [B, 3, 32, P, P] and what decodes them."""

    planes: Tensor
    decoder: _Decode
    box_warp: float

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Raw density [B, M, 1] and colours [B, M, C] at points [B, M, 3]."""
        return self.decoder(mean_features(self.planes, points, self.box_warp))

    def along(self, origins: Tensor, directions: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
        """The same at depths [B, M, N, 1] along rays: [B, M, N, 1] and [B, M, N, C]."""
        density, color = self.at((origins[:, :, None] + depths * directions[:, :, None]).flatten(1, 2))
        return density.unflatten(1, depths.shape[1:3]), color.unflatten(1, depths.shape[1:3])


def _two_passes(
    field: _Field, origins: Tensor, directions: Tensor, depths: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Densities, colours and depths of both passes, sorted by depth; u [B, M, K] places the second."""
    density, color = field.along(origins, directions, depths)
    count = u.shape[-1]
    if count == 0:
        return density, color, depths
    with torch.no_grad():
        weights = march(color.detach()[..., :1], density.detach(), depths)[2]
    fine = importance_depths(depths, weights, u.reshape(-1, count))
    density_fine, color_fine = field.along(origins, directions, fine)
    depths, order = torch.sort(torch.cat((depths, fine), dim=2), dim=2)
    density = torch.cat((density, density_fine), dim=2).gather(2, order)
    color = torch.cat((color, color_fine), dim=2)
    rays_before = torch.arange(0, order.numel(), order.shape[2], device=order.device)
    places = (order.flatten(0, 1)[..., 0] + rays_before[:, None]).flatten()
    color = color.flatten(0, 2).index_select(0, places).view_as(color)  # whole samples: four times gather
    return density, color, depths


def _with_gradient(
    field: _Field,
    origins: Tensor,
    directions: Tensor,
    samples: tuple[Tensor, Tensor, Tensor],
    floor: float,
) -> tuple[Tensor, Tensor]:
    """The densities and colours of `_two_passes`; those that weigh `floor` or more decoded anew."""
    density, color, depths = samples
    weights = F.pad(march(color[..., :1], density, depths)[2][..., 0], (1, 1))
    matter = torch.maximum(weights[..., 1:], weights[..., :-1]) > floor
    points = (origins[:, :, None] + depths * directions[:, :, None]).flatten(1, 2)
    scene, sample = _where(matter.flatten(1))
    # Side by side, scene by scene: `place` is where a sample lies among those of its own scene.
    count = torch.zeros(len(points), dtype=torch.long, device=points.device)
    count.scatter_add_(0, scene, torch.ones_like(scene))
    place = torch.arange(len(scene), device=points.device) - (count.cumsum(0) - count)[scene]
    most = points.shape[1] if points.device.type == "meta" else max(1, int(count.max()))
    chosen = points.new_zeros(len(points), most, 3)
    chosen[scene, place] = points[scene, sample]
    density_anew, color_anew = field.at(chosen)
    kept = scene * points.shape[1] + sample
    return (
        density.flatten(0, 2).index_copy(0, kept, density_anew[scene, place]).view_as(density),
        color.flatten(0, 2).index_copy(0, kept, color_anew[scene, place]).view_as(color),
    )


def _where(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the true ones in [B, N]; of all on the meta device, which knows no values."""
    if flags.device.type == "meta":
        every = torch.arange(flags.numel(), device=flags.device)
        return every // flags.shape[1], every % flags.shape[1]
    scene, sample = flags.nonzero(as_tuple=True)
    return scene, sample


def render_rays(
    planes: Tensor,
    decoder: _Decode,
    config: GeneratorConfig,
    origins: Tensor,
    directions: Tensor,
    jitter: Jitter = None,
    chunk: int | None = None,
    floor: float = 0.0,
    density_scale: float = 1.0,
    renderer: str = "torch",
) -> Marched:
    """Two passes along rays: stratified samples, then samples where the first pass found something.

    Args:
        planes: [B, 3, 32, P, P].
        decoder: mean plane features [..., 32] -> raw density [..., 1] and colours [..., C].
        origins: [B, 1 or M, 3]; directions [B, M, 3].
        jitter: see `Generator.render`.
        chunk: rays a scene worked on at a time; None is all. The result does not depend on it.
        floor: samples whose weight stays under it get no gradient (and cost none): most lie in air or behind
            the surface, where the gradient is next to nothing. The result does not depend on it.
        density_scale: multiplies the raw density.
        renderer: "torch", or "compiled" for `my3dgen_core.eg3d.rendering.compiled`. That serves a `Decoder` in float32 on
            the CPU or a GPU and gives no gradient to rays; PyTorch renders the rest, and all (with a
            warning) where it is not built.

    Depth is clamped to the range of all samples of the call, so the batch is one frame of reference.
    """
    from . import recompute

    b, m = directions.shape[:2]
    n, k = config.depth_resolution, config.depth_resolution_importance
    origins = origins.expand(-1, m, -1)
    coarse, fine = _noise(jitter, b, m, n, k, directions)
    depths = coarse_depths(config, origins, directions, coarse)
    fine = fine.reshape(b, m, k)
    if renderer == "compiled":
        compiled = _compiled(
            planes, decoder, config, (origins, directions, depths, fine), floor, density_scale
        )
        if compiled is not None:
            return compiled
    elif renderer != "torch":
        raise ValueError(f"renderer must be 'torch' or 'compiled', not {renderer!r}.")
    if recompute.serves(planes, decoder, origins, directions, depths, fine):
        assert isinstance(decoder, Decoder)
        inputs = (origins, directions, depths, fine)
        *found, nearest, farthest = recompute.render(
            planes, decoder.weights(density_scale), config, inputs, chunk, floor
        )
        return Marched(found[0], _limited(found[1], nearest, farthest), found[2])
    chunk = m if chunk is None else max(1, chunk)

    field = _Field(planes, _scaled(decoder, density_scale), config.box_warp)
    parts = []
    for i in range(0, m, chunk):
        part = slice(i, i + chunk)
        o, d, t, u = origins[:, part], directions[:, part], depths[:, part], fine[:, part]
        if floor > 0 and torch.is_grad_enabled():
            with torch.no_grad():
                samples = _two_passes(field, o, d, t, u)
            density, color = _with_gradient(field, o, d, samples, floor)
            t = samples[2]
        else:
            density, color, t = _two_passes(field, o, d, t, u)
        features, depth, weights = march(color, density, t, config.white_back)
        parts.append((features, depth, weights.sum(2), t.amin().detach(), t.amax().detach()))
    features, depth, weight = (torch.cat([p[i] for p in parts], dim=1) for i in range(3))
    nearest, farthest = torch.stack([p[3] for p in parts]).amin(), torch.stack([p[4] for p in parts]).amax()
    return Marched(features, _limited(depth, nearest, farthest), weight)


def _limited(depth: Tensor, nearest: Tensor, farthest: Tensor) -> Tensor:
    return torch.nan_to_num(depth, nan=float("inf")).clamp(nearest, farthest)


def _scaled(decoder: _Decode, density_scale: float) -> _Decode:
    if density_scale == 1:
        return decoder

    def scaled(features: Tensor) -> tuple[Tensor, Tensor]:
        density, color = decoder(features)
        return density_scale * density, color

    return scaled


def _compiled(
    planes: Tensor,
    decoder: _Decode,
    config: GeneratorConfig,
    samples: tuple[Tensor, Tensor, Tensor, Tensor],
    floor: float,
    density_scale: float,
) -> Marched | None:
    """The compiled renderer's answer, or None where it does not serve."""
    from . import compiled as kernels

    origins, directions, depths, u = samples
    if not isinstance(decoder, Decoder) or not kernels.serves(planes, decoder, *samples):
        return None
    features, depth, weight, span = kernels.render_rays(
        planes,
        decoder.weights(density_scale),
        origins,
        directions,
        depths[..., 0],
        u,
        box_warp=config.box_warp,
        white_back=config.white_back,
        floor=floor,
    )
    return Marched(features, _limited(depth[..., None], span[0], span[1]), weight[..., None])
