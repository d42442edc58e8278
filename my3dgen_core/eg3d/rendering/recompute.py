"""CPU renderer with a hand-written backward pass.

Autograd would store about 100 floats per sample; instead the backward pass recomputes the decoder in
cache-sized chunks and accumulates into one gradient of the planes. Colors are decoded only for samples with
visible weight.

Shapes: B scenes, M rays each, N coarse and K fine samples a ray, S = N + K; E samples of a chunk in one row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..decoder import Decoder
from .compositing import RayOutput, clamp_depth, composite
from .rays import importance_depths
from .request import RenderRequest
from .triplanes import NEGLIGIBLE_WEIGHT, TableField

_SAMPLES = 1 << 14
"""Samples decoded at a time. The C library would return temporaries of larger chunks to the system after each
use, which costs page faults."""


def render(request: RenderRequest) -> RayOutput:
    """Render float32 rays on the CPU, with gradients of planes and decoder weights, none of rays."""
    assert isinstance(request.decoder, Decoder)
    planes = request.batch_planes
    if planes.stride(0) == 0:  # one scene from several cameras
        planes = planes[:1]
    config = request.config
    settings = (config.box_warp, config.white_back, request.chunk, request.min_weight)
    weights = request.decoder.weights(request.density_scale)
    features, depth, weight, nearest, farthest = _Pixels.apply(planes, *weights, *request.rays, settings)
    return RayOutput(features, clamp_depth(depth, nearest, farthest), weight)


class _Pixels(torch.autograd.Function):
    """Volume rendering as one autograd function."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        """Render rays.

        Args:
            planes: [B or 1, 3, 32, P, P].
            inputs: decoder weights w0 [64, 32], b0 [64], w1 [33, 64], b1 [33]; origins and directions
                [B, M, 3], coarse depths [B, M, N, 1], u [B, M, K]; and a tuple of box_warp, white_back, chunk
                and min_weight.

        Returns:
            features [B, M, 32], depth (NaN where nothing was hit) and weight [B, M, 1], and the least and the
            greatest depth of all samples [].
        """
        w0, b0, w1, b1, *rays, (box_warp, white_back, chunk, _) = inputs
        field = TableField(planes, (w0, b0, w1, b1), box_warp)
        _, directions, depths, u = rays
        size = chunk or _rays_at_once(directions, max(depths.shape[2], u.shape[2]))
        keep = any(ctx.needs_input_grad)
        parts, kept, spans = [], [], []
        for i in range(0, directions.shape[1], size):
            *found, depths = _pixels(field, *(v[:, i : i + size] for v in rays), white_back=white_back)
            parts.append(found)
            spans.append(torch.stack((depths[:, :, 0].amin(), depths[:, :, -1].amax())))
            if keep:
                kept.append(depths)
        nearest, farthest = torch.stack(spans).amin(0)[0], torch.stack(spans).amax(0)[1]
        if keep:
            ctx.settings = inputs[-1]
            ctx.save_for_backward(planes, *inputs[:6], torch.cat(kept, dim=1))
        ctx.mark_non_differentiable(nearest, farthest)
        return (*(torch.cat(maps, dim=1) for maps in zip(*parts, strict=True)), nearest, farthest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of features [B, M, 32], depth and weight [B, M, 1] -> those of planes and weights.

        Each has the shape of its tensor, and is None where none is wanted; rays and settings have none.
        """
        planes, w0, b0, w1, b1, origins, directions, depths = ctx.saved_tensors
        box_warp, white_back, _, min_weight = ctx.settings
        field = TableField(planes, (w0, b0, w1, b1), box_warp)
        gradient = _Gradient(field, planes=ctx.needs_input_grad[0], weights=any(ctx.needs_input_grad[1:5]))
        size = _rays_at_once(directions, depths.shape[2])
        for i in range(0, directions.shape[1], size):
            part = (v[:, i : i + size] for v in (origins, directions, depths, *upstream[:3]))
            gradient.add(*part, white_back=white_back, min_weight=min_weight)
        of_planes: Tensor | None = None
        if gradient.texels is not None:
            shape = (*planes.shape[:2], *planes.shape[3:], planes.shape[2])
            of_planes = gradient.texels.view(shape).permute(0, 1, 4, 2, 3)
        return (of_planes, *(gradient.weights or (None,) * 4), *(None,) * 5)


def _rays_at_once(directions: Tensor, samples: int) -> int:
    """Return the number of rays per scene in a chunk, for directions [B, M, 3] and `samples` a ray."""
    return max(1, _SAMPLES // (len(directions) * samples))


def _pixels(
    field: TableField, origins: Tensor, directions: Tensor, depths: Tensor, u: Tensor, *, white_back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Render a chunk of rays. Colors are decoded once the weights are known.

    Args:
        field: the scenes.
        origins, directions: [B, M, 3].
        depths: coarse depths [B, M, N, 1].
        u: numbers in [0, 1] that place the fine samples [B, M, K].
        white_back: white background.

    Returns:
        features [B, M, 32], depth and weight [B, M, 1], and the sorted depths of all samples [B, M, S, 1].
    """
    b, m = directions.shape[:2]

    def decoded(depths: Tensor) -> tuple[Tensor, Tensor]:
        density, units = field.density(*_points(field, origins, directions, depths))
        return density.view_as(depths), units

    density, units = decoded(depths)
    passes, order = [(units, depths.shape[2])], None
    if u.shape[-1] > 0:
        weights = composite(density[..., :0], density, depths)[2]
        fine = importance_depths(depths, weights, u.reshape(b * m, -1))
        more, units = decoded(fine)
        passes.append((units, u.shape[-1]))
        depths, order = torch.cat((depths, fine), dim=2).sort(dim=2)
        density = torch.cat((density, more), dim=2).gather(2, order)
    _, depth, weights = composite(density[..., :0], density, depths)
    share = _sample_weights(weights) / 2
    if order is not None:
        share = torch.empty_like(share).scatter_(2, order[..., 0], share)
    shares = share.flatten(0, 1).split([count for _, count in passes], dim=1)
    colors = [field.composited(units, part) for (units, _), part in zip(passes, shares, strict=True)]
    total = weights.sum(2)
    features = torch.stack(colors).sum(0).view(b, m, -1) + (1 - total if white_back else 0)
    return features * 2 - 1, depth, total, depths


def _points(field: TableField, origins: Tensor, directions: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples at depths [B, M, S, 1] along rays: points [E, 3] and their scenes [E]."""
    points = (origins[:, :, None] + depths * directions[:, :, None]).flatten(0, 2)
    scene = torch.arange(len(directions), device=points.device).clamp(max=field.scenes - 1)
    return points, scene.repeat_interleave(depths.shape[1] * depths.shape[2])


def _sample_weights(weights: Tensor) -> Tensor:
    """Sum the weights [B, M, S-1, 1] of the two intervals at each sample: [B, M, S]."""
    return F.pad(weights[..., 0], (1, 0)) + F.pad(weights[..., 0], (0, 1))


class _Gradient:
    """Accumulator of the gradients of planes and decoder weights over chunks of rays.

    Attributes:
        texels: gradient of the table of texels [S*3*P*P, 32]; None: not wanted.
        weights: gradients of w0, b0, w1 and b1; None: not wanted.
    """

    def __init__(self, field: TableField, planes: bool, weights: bool) -> None:
        self.field = field
        self.texels = torch.zeros_like(field.table.texels) if planes else None
        parameters = (field.w0, field.b0, field.w1, field.b1)
        self.weights = tuple(torch.zeros_like(w) for w in parameters) if weights else None

    def add(
        self,
        origins: Tensor,
        directions: Tensor,
        depths: Tensor,
        to_features: Tensor,
        to_depth: Tensor,
        to_weight: Tensor,
        *,
        white_back: bool,
        min_weight: float,
    ) -> None:
        """Add the gradients of one chunk of rays.

        Args:
            origins, directions: [B, M, 3].
            depths: depths of all samples, sorted [B, M, S, 1].
            to_features: gradient of the features [B, M, 32].
            to_depth, to_weight: gradients of depth and weight [B, M, 1].
            white_back: white background.
            min_weight: samples whose intervals weigh no more than this get no gradient; 0: all get one.
        """
        field = self.field
        rows, shares = field.table.bilinear_corners(*_points(field, origins, directions, depths))
        features = field.table.gather(rows, shares)
        density, units = field.decoded(features)
        with torch.enable_grad():
            density = density.view_as(depths).requires_grad_()
            _, depth, weights = composite(density[..., :0], density, depths)
        ends = _sample_weights(weights.detach()).flatten()
        count, shown = depths.shape[2], None
        to_color = to_features.flatten(0, 1)[:, None].expand(-1, count, -1)
        if min_weight > 0:
            shown = (ends > min(min_weight, NEGLIGIBLE_WEIGHT)).nonzero()[:, 0]
            units, to_color = units.index_select(0, shown), to_color[shown // count, 0]
        color = F.linear(units, field.w1[1:], field.b1[1:]).sigmoid_().view(to_color.shape)
        to_share = (color * to_color).sum(-1) * 1.002 - 0.001 * to_color.sum(-1)
        if shown is not None:
            to_share = torch.zeros_like(ends).index_copy_(0, shown, to_share)
        to_share = to_share.view_as(density)
        with torch.enable_grad():
            total = weights.sum(2)
            value = (weights * (to_share[:, :, 1:] + to_share[:, :, :-1])).sum()
            value = value + (depth.nan_to_num() * to_depth).sum() + (total * to_weight).sum()
            if white_back:
                value = value - 2 * (total * to_features.sum(2, keepdim=True)).sum()
            (to_density,) = torch.autograd.grad(value, density)
        to_density = to_density.flatten()
        if shown is not None:  # of the samples shown, keep those above min_weight
            inside = weights.detach()[..., 0]
            greater = torch.maximum(F.pad(inside, (1, 0)), F.pad(inside, (0, 1))).flatten()
            counts = (greater[shown] > min_weight).nonzero()[:, 0]
            units, color, to_color = (v.index_select(0, counts) for v in (units, color, to_color))
            kept = shown[counts]
            to_density, ends, features = to_density[kept], ends[kept], features.index_select(0, kept)
            rows, shares = rows[:, kept], shares[:, kept]
        to_raw = torch.empty(len(units), 1 + color.shape[-1])
        to_raw[:, 0] = to_density
        slope = torch.addcmul(color, color, color, value=-1).view(-1, color.shape[-1])
        slope.mul_(1.002 * ends[:, None])
        torch.mul(to_color, slope.view(to_color.shape), out=to_raw[:, 1:].view(to_color.shape))
        to_units = to_raw @ field.w1
        to_units = torch.addcmul(to_units, to_units, (-units).exp_(), value=-1)  # softplus: 1 - exp(-units)
        if self.weights is not None:
            w0, b0, w1, b1 = self.weights
            w1.addmm_(to_raw.T, units)
            b1 += to_raw.sum(0)
            w0.addmm_(to_units.T, features)
            b0 += to_units.sum(0)
        if self.texels is not None:
            to_texels = to_units @ field.w0
            for row, share in zip(rows.long(), shares, strict=True):
                places = row[:, None].expand_as(to_texels)
                self.texels.scatter_add_(0, places, to_texels * share[:, None])
