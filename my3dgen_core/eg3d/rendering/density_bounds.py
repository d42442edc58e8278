"""Conservative lower and upper bounds of the density in each cell of a grid.

They let the culled renderers skip empty space and stop at occluded rays. Mean plane features go through one linear layer before anything that is not linear, so a point's hidden units
are a sum of two terms: one of the XY plane, one of the XZ and the ZX plane together. Each term is bilinear:
within a cell it stays between the least and the greatest of the texels around. Taking of each unit the end
that makes the density greatest (the sign of its weight says which) gives a bound that no point of the cell
exceeds, and the other end one that none falls below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..decoder import Decoder

CELLS = 64  # along an edge of the box: more are tighter and dearer


@dataclass(frozen=True)
class DensityBounds:
    """bounds [2, S, G, G, G], float32: least and greatest raw density of cells (z, y, x) of S scenes.

    The outermost cells lie wholly outside the box and hold for all that is beyond them. Cell i spans
    [i, i + 1) where a world coordinate c is at c * scale + shift.
    """

    bounds: Tensor
    scale: float
    shift: float


Combine = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Hidden units [2, G, G, 64] of (y, x) and of (z, x), the density's weight [64] and bias [1] -> bounds
[2, G, G, G]."""


@torch.no_grad()
def density_bounds(
    planes: Tensor,
    decoder: Decoder,
    box_warp: float,
    cells: int = CELLS,
    combine: Combine | None = None,
) -> DensityBounds:
    """Bounds of the raw density of planes [S, 3, 32, P, P].

    Args:
        cells: along an edge of the box; P if those are fewer.
        combine: computes the bounds from those of the hidden units; None: `combine_units`.
    """
    combine = combine or combine_units
    w0, b0, w1, b1 = (w.to(torch.float32) for w in decoder.weights())
    resolution = planes.shape[-1]
    stride = max(1, resolution // cells)
    rising = torch.stack((-w1[0], w1[0])).sign()[:, :, None, None]  # of units, where they make for an end
    scenes = []
    for scene in planes.to(torch.float32):
        xy, xz, zx = (torch.einsum("hc,cij->hij", w0 / 3, plane) for plane in scene)
        # [64, y, x] and [64, z, x]: rows of XZ count z, rows of ZX x
        xy, xz = (_ends(units, stride, rising) for units in (xy, xz + zx.mT))
        scenes.append(combine(xy, xz + b0, w1[0].contiguous(), b1[:1].contiguous()))
    # The first cell's first texel is number -1 - stride; texel t's centre is at (t + 0.5) / P of the box.
    scale = resolution / box_warp / stride
    return DensityBounds(torch.stack(scenes, dim=1), scale, ((resolution + 1) / 2 + stride) / stride)


def combine_units(xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Bounds [2, G, G, G] from hidden units [2, G, G, 64] of (y, x) and of (z, x)."""
    # a slice of z at a time: it fits the cache
    slices = [F.softplus(xy + xz[:, z, None]) @ weight + bias for z in range(xz.shape[1])]
    return torch.stack(slices, dim=1)


def _ends(units: Tensor, stride: int, rising: Tensor) -> Tensor:
    """Units [64, P, P] where they make density least and greatest in each cell: [2, G, G, 64].

    A cell goes from one texel's centre to the centre `stride` on. Outside planes are zero.
    """
    padded = F.pad(units, [1 + stride] * 4) * rising
    return (F.max_pool2d(padded, stride + 1, stride) * rising).permute(0, 2, 3, 1).contiguous()


class DensityBoundsCache:
    """Density bounds of the planes in use, dropped together with their planes. Copies of a cache are empty."""

    def __init__(self) -> None:
        self._kept = WeakTensorKeyDictionary()

    def __reduce__(self) -> tuple[type[DensityBoundsCache], tuple[()]]:
        return DensityBoundsCache, ()

    def get(
        self, planes: Tensor, decoder: Decoder, box_warp: float, combine: Combine | None = None
    ) -> DensityBounds:
        """As `density_bounds`, computed once while planes and decoder stay the same."""
        if planes.device.type == "meta":
            return density_bounds(planes, decoder, box_warp, combine=combine)
        made_of = _fingerprint(planes, decoder, box_warp)
        kept = self._kept.get(planes)
        if kept is None or not torch.equal(kept[0], made_of):
            kept = made_of, density_bounds(planes, decoder, box_warp, combine=combine)
            self._kept[planes] = kept
        return kept[1]


@torch.no_grad()
def _fingerprint(planes: Tensor, decoder: Decoder, box_warp: float) -> Tensor:
    """Numbers that change with the planes and the decoder. Tensors made for inference count no changes."""
    values = planes.reshape(-1) if planes.is_contiguous() else planes.permute(0, 1, 3, 4, 2).reshape(-1)
    weights = [p.reshape(-1).to(planes.dtype) for p in decoder.parameters()]
    sums = torch.stack((values.sum(), values.new_full((), box_warp)))
    return torch.cat((*weights, sums, values[::61]))
