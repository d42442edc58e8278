"""Conservative lower and upper bounds of the density in each cell of a grid.

With them the culled renderers skip empty space and stop at opaque surfaces. The mean of the plane features
goes through a linear layer first, so the preactivation of a hidden unit is a sum of two terms: one of the XY
plane, one of the XZ and ZX planes together. Each term is interpolated bilinearly: within a cell it lies
between the minimum and the maximum of the surrounding texels. Softplus is monotonic and the density is linear
in the hidden units. Taking for each unit the extreme that increases the density (by the sign of its weight)
therefore gives an upper bound of the density in the cell, and the opposite extremes give a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..decoder import Decoder

CELLS = 64
"""Cells along an edge of the box. More cells give tighter bounds at a higher cost."""


@dataclass(frozen=True)
class DensityBounds:
    """Bounds of the raw density of S scenes on a grid of G cells along each axis.

    Cell i spans [i, i + 1) in grid coordinates; world coordinate c is at grid coordinate c * scale + shift.
    The outermost cells lie entirely outside the box, and their bounds hold for everything beyond them.
    """

    bounds: Tensor
    """Lower and upper bounds, float32 [2, S, G, G, G]; the axes are z, y, x."""
    scale: float
    """Cells per world unit."""
    shift: float
    """Grid coordinate of the origin."""


Combine = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Function that combines bounds of both terms of the hidden units; see `combine_units`."""


@torch.no_grad()
def density_bounds(
    planes: Tensor,
    decoder: Decoder,
    box_warp: float,
    cells: int = CELLS,
    combine: Combine | None = None,
) -> DensityBounds:
    """Compute bounds of the raw density.

    Args:
        planes: [S, 3, 32, P, P].
        decoder: EG3D's decoder.
        box_warp: side of the box in world units.
        cells: cells along an edge of the box; P if that is smaller.
        combine: implementation of `combine_units`; None: that in PyTorch.
    """
    combine = combine or combine_units
    w0, b0, w1, b1 = (w.to(torch.float32) for w in decoder.weights())
    resolution = planes.shape[-1]
    stride = max(1, resolution // cells)
    rising = torch.stack((-w1[0], w1[0])).sign()[:, :, None, None]  # signs that turn minima into maxima
    scenes = []
    for scene in planes.to(torch.float32):
        xy, xz, zx = (torch.einsum("hc,cij->hij", w0 / 3, plane) for plane in scene)
        # [64, y, x] and [64, z, x]: rows of XZ count z, rows of ZX x
        xy, xz = (_ends(units, stride, rising) for units in (xy, xz + zx.mT))
        scenes.append(combine(xy, xz + b0, w1[0].contiguous(), b1[:1].contiguous()))
    # The first cell begins at texel -1 - stride; the center of texel t is at (t + 0.5) / P of the box.
    scale = resolution / box_warp / stride
    return DensityBounds(torch.stack(scenes, dim=1), scale, ((resolution + 1) / 2 + stride) / stride)


def combine_units(xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Combine bounds of both terms of the hidden units into bounds of the density.

    Args:
        xy: preactivations of the XY plane that minimize and maximize the density [2, G, G, 64]; axes y, x.
        xz: the same of the XZ and ZX planes, biases included [2, G, G, 64]; axes z, x.
        weight: weight of the density on the hidden units [64].
        bias: bias of the density [1].

    Returns:
        lower and upper bounds of the raw density [2, G, G, G]; axes z, y, x.
    """
    # One slice of z at a time fits the cache.
    slices = [F.softplus(xy + xz[:, z, None]) @ weight + bias for z in range(xz.shape[1])]
    return torch.stack(slices, dim=1)


def _ends(units: Tensor, stride: int, rising: Tensor) -> Tensor:
    """Reduce one term of the hidden units to its extremes in each cell.

    A cell reaches from the center of a texel to the center `stride` texels further. Planes are zero outside.

    Args:
        units: preactivations at the texels [64, P, P].
        stride: texels per cell.
        rising: signs [2, 64, 1, 1] whose product with the units is greatest where the density is least (first
            row) or greatest (second row).

    Returns:
        values that minimize and maximize the density [2, G, G, 64].
    """
    padded = F.pad(units, [1 + stride] * 4) * rising
    return (F.max_pool2d(padded, stride + 1, stride) * rising).permute(0, 2, 3, 1).contiguous()


class DensityBoundsCache:
    """Cache of density bounds by planes tensor; entries live as long as their planes. Copies are empty."""

    def __init__(self) -> None:
        self._kept = WeakTensorKeyDictionary()

    def __reduce__(self) -> tuple[type[DensityBoundsCache], tuple[()]]:
        return DensityBoundsCache, ()

    def get(
        self, planes: Tensor, decoder: Decoder, box_warp: float, combine: Combine | None = None
    ) -> DensityBounds:
        """Return `density_bounds` of planes [S, 3, 32, P, P], computed once for each planes and decoder."""
        if planes.device.type == "meta":
            return density_bounds(planes, decoder, box_warp, combine=combine)
        fingerprint = _fingerprint(planes, decoder, box_warp)
        kept = self._kept.get(planes)
        if kept is None or not torch.equal(kept[0], fingerprint):
            kept = fingerprint, density_bounds(planes, decoder, box_warp, combine=combine)
            self._kept[planes] = kept
        return kept[1]


@torch.no_grad()
def _fingerprint(planes: Tensor, decoder: Decoder, box_warp: float) -> Tensor:
    """Return numbers [F] that change with the planes and the decoder.

    Tensor versions would not do: inference tensors have none.
    """
    values = planes.reshape(-1) if planes.is_contiguous() else planes.permute(0, 1, 3, 4, 2).reshape(-1)
    weights = [p.reshape(-1).to(planes.dtype) for p in decoder.parameters()]
    sums = torch.stack((values.sum(), values.new_full((), box_warp)))
    return torch.cat((*weights, sums, values[::61]))
