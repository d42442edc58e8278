"""Lookup of tri-plane features at points: by `grid_sample`, with gradients, or by a table of texels, without.

Shapes: B scenes, M points each; E points of all scenes in one row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..decoder import Weights, colors_of

PAIRS = ((0, 1), (0, 2), (2, 0))
"""Axes of the planes' columns and rows: XY, XZ and ZX; not YZ, because released models were trained so."""
NEGLIGIBLE_WEIGHT = 1e-8
"""Weight below which a color is lost in rounding and is not decoded."""
_POINTS_AT_ONCE = 1 << 15
"""Points looked up at a time, so that temporaries fit the cache."""


def plane_features(planes: Tensor, points: Tensor, box_warp: float) -> Tensor:
    """Interpolate the features of each plane: planes [B, 3, 32, P, P], points [B, M, 3] -> [B, 3, M, 32]."""
    b, _, channels, height, width = planes.shape
    if b > 1 and planes.stride(0) == 0:  # one scene from several cameras
        return (
            plane_features(planes[:1], points.reshape(1, -1, 3), box_warp)[0]
            .unflatten(1, (b, -1))
            .transpose(0, 1)
        )
    points = points * (2 / box_warp)
    grid = torch.stack([points[..., pair] for pair in PAIRS], dim=1)
    flat = planes.reshape(b * 3, channels, height, width).contiguous(memory_format=torch.channels_last)
    grid = grid.reshape(b * 3, 1, -1, 2).to(flat.dtype)
    sampled = F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.reshape(b, 3, channels, -1).transpose(2, 3)


def mean_features(planes: Tensor, points: Tensor, box_warp: float) -> Tensor:
    """Average the features of the three planes: planes [B, 3, 32, P, P], points [B, M, 3] -> [B, M, 32]."""
    if not by_table(planes, points):
        return plane_features(planes, points, box_warp).mean(1)
    b, m = points.shape[:2]
    table = TexelTable(planes, box_warp)
    scene = torch.arange(b, device=points.device).clamp(max=table.scenes - 1).repeat_interleave(m)
    parts = zip(points.flatten(0, 1).split(_POINTS_AT_ONCE), scene.split(_POINTS_AT_ONCE), strict=True)
    return torch.cat([table.features(*part) for part in parts]).unflatten(0, (b, m))


def by_table(planes: Tensor, points: Tensor) -> bool:
    """Return True where `TexelTable` is applicable and faster (five times): on a CPU, without gradients.

    Args:
        planes: [B, 3, 32, P, P].
        points: [B, M, 3].
    """
    wanted = torch.is_grad_enabled() and (planes.requires_grad or points.requires_grad)
    return not wanted and planes.device.type == "cpu" and planes.dtype == points.dtype == torch.float32


class TexelTable:
    """Planes as a table with a row of 32 channels for each texel.

    A scene that is expanded along the batch is stored once. Planes in channels-last order are not copied.
    """

    def __init__(self, planes: Tensor, box_warp: float) -> None:
        """Lay out planes [S, 3, 32, P, P] of a box of side `box_warp`."""
        if planes.stride(0) == 0:
            planes = planes[:1]
        self.scenes, self.size, self.box_warp = planes.shape[0], planes.shape[-1], box_warp
        self.texels = planes.detach().permute(0, 1, 3, 4, 2).reshape(-1, planes.shape[2])

    def bilinear_corners(self, points: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
        """Find the texels around points: four on each plane.

        Args:
            points: [E, 3].
            scene: number of each point's scene [E].

        Returns:
            rows of the table [12, E] and interpolation weights [12, E], which include the mean over the
            planes and are 0 for texels outside.
        """
        size = self.size
        texel = ((points.T * (2 / self.box_warp) + 1) * size - 1) / 2
        low = texel.nan_to_num(-2).clamp(-2, size + 1).floor()  # all weights are 0 further outside
        part = texel - low
        place = torch.stack((low, low + 1))  # [2, 3, E]
        share = torch.where((place >= 0) & (place < size), torch.stack((1 - part, part)), 0)
        kind = torch.int32 if len(self.texels) < 1 << 31 else torch.int64
        place = place.clamp(0, size - 1).to(kind)
        u, v = (list(axes) for axes in zip(*PAIRS, strict=True))
        first = torch.arange(3, dtype=kind, device=points.device)[:, None] + 3 * scene.to(kind)
        rows = place[:, None, v] * size + (place[:, u] + first * (size * size))  # [2, 2, 3, E]
        weights = share[:, None, v] * (share[:, u] / 3)
        return rows.flatten(0, 2), weights.flatten(0, 2)

    def gather(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Sum texels by the rows and weights [12, E] of `bilinear_corners`: mean features [E, 32]."""
        return F.embedding_bag(
            rows.T.contiguous(),
            self.texels,
            mode="sum",
            per_sample_weights=weights.T.to(self.texels.dtype).contiguous(),
        )

    def features(self, points: Tensor, scene: Tensor) -> Tensor:
        """Interpolate mean features [E, 32] at points [E, 3] of scenes [E]."""
        return self.gather(*self.bilinear_corners(points, scene))


class TableField:
    """Radiance field of S scenes, decoded in two steps, density first. It gives no gradients."""

    def __init__(self, planes: Tensor, weights: Weights, box_warp: float) -> None:
        """Lay out planes [S, 3, 32, P, P]; `weights` are those of `Decoder.weights`."""
        self.table = TexelTable(planes, box_warp)
        self.w0, self.b0, self.w1, self.b1 = (w.detach().to(planes.dtype) for w in weights)
        self.scenes = self.table.scenes

    def density(self, points: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
        """Decode points [E, 3] of scenes [E]: raw density [E] and hidden units [E, 64]."""
        return self.decoded(self.table.features(points.to(torch.float32), scene))

    def decoded(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Decode mean features [E, 32]: raw density [E] and hidden units [E, 64]."""
        units = F.softplus(F.linear(features, self.w0, self.b0))
        return units @ self.w1[0] + self.b1[0], units

    def composited(self, units: Tensor, share: Tensor) -> Tensor:
        """Decode the colors of N samples on R rays and sum them up.

        Args:
            units: hidden units [R*N, 64].
            share: weights [R, N]; samples of negligible weight are not decoded.

        Returns:
            [R, 32].
        """
        counts = ~(share.abs() < NEGLIGIBLE_WEIGHT)  # a NaN counts
        if bool(counts.sum() > 0.7 * counts.numel()):
            return torch.bmm(share[:, None], self.colors(units).view(*share.shape, -1))[:, 0]
        chosen = counts.flatten().nonzero()[:, 0]
        colors = self.colors(units.index_select(0, chosen))
        return weighted_sum(colors, share.flatten()[chosen], counts)

    def colors(self, units: Tensor) -> Tensor:
        """Hidden units [E, 64] -> colors [E, 32]."""
        return colors_of(F.linear(units, self.w1, self.b1)[:, 1:])


def weighted_sum(colors: Tensor, share: Tensor, counts: Tensor) -> Tensor:
    """Sum colors up ray by ray.

    Args:
        colors: colors of E samples, ray by ray [E, C].
        share: their weights [E].
        counts: the E samples among N on each of R rays, boolean [R, N].

    Returns:
        [R, C].
    """
    ends = counts.sum(1).cumsum(0)
    return F.embedding_bag(
        torch.arange(len(colors), device=colors.device),
        colors,
        F.pad(ends[:-1], (1, 0)),
        mode="sum",
        per_sample_weights=share.to(colors.dtype),
    )
