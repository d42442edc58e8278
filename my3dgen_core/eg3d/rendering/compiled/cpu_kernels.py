"""Operators on the CPU: the C library's functions, and the tensors checked and laid out for them.

The functions take pointers, sizes and a number of threads, so that one library fits any PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ctypeslib
from torch import Tensor

from ...config import PLANE_CHANNELS
from ...decoder import COLORS, HIDDEN
from . import culled_registration, registration

INTERFACE = 1
"""Number of this set of functions; the library's must equal it (`my3dgen_interface` in cpu/render.cpp)."""
_TYPES: dict[str, Any] = {
    "a": ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS"),
    "i": ctypeslib.as_ctypes_type(np.int64),
    "f": ctypeslib.as_ctypes_type(np.float64),
}
_FUNCTIONS = {
    "my3dgen_render": "aiiif aaaa aaaa iiii ii aaaaaa i",
    "my3dgen_render_backward": "aiiif aaaa aaaa aaa iii ifi aaaaa i",
    "my3dgen_render_fast": "aiiif aaaa aiiff aaaa iiii ff aaa i",
    "my3dgen_density_bounds": "aaaa i a i",
}
"""Arguments of the library's functions: float32 arrays, integers and floats; the last is the threads."""


class InterfaceError(ValueError):
    """Error of a library whose functions are others than those called here."""


class CpuKernels:
    """C library for the CPU; its methods are the operators, with the arguments of their schemas.

    Results depend neither on the run nor on the number of threads.

    Args:
        path: the library.

    Raises:
        OSError: the file is no library.
        InterfaceError: the library has other functions.
    """

    def __init__(self, path: Path) -> None:
        library = ctypeslib.load_library(path.name, str(path.parent))
        if not hasattr(library, "my3dgen_interface"):
            raise InterfaceError("it is no renderer")
        if (found := library.my3dgen_interface()) != INTERFACE:
            raise InterfaceError(f"its functions are of number {found}, not {INTERFACE}")
        self._functions = {name: library[name] for name in _FUNCTIONS}
        for name, letters in _FUNCTIONS.items():
            self._functions[name].argtypes = [_TYPES[letter] for letter in letters.replace(" ", "")]

    def register(self, library: torch.library.Library) -> None:
        """Register the operators for tensors on the CPU, in a library that defines their schemas."""
        library.impl("render_rays", self.render_rays, "CPU")
        library.impl("render_rays_backward", self.render_rays_backward, "CPU")
        library.impl("render_rays_fast", self.render_rays_fast, "CPU")
        library.impl("density_bounds", self.density_bounds, "CPU")

    def render_rays(self, planes: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        """Render rays exactly."""
        *weights, origins, directions, depths, u, box_warp, white_back, _, keep = inputs
        b, m, n, k = _sizes(directions, depths, u)
        results = registration.shapes(planes, *inputs)
        self._call(
            "my3dgen_render",
            *_scenes(planes, b, box_warp),
            *_decoder(weights),
            *_rays(origins, directions, depths, u),
            *(b, m, n, k, white_back, keep),
            *results,
        )
        return results

    def render_rays_backward(self, planes: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        """Compute the gradients of planes and decoder weights; those of weights are 0 unless `learns`."""
        *weights, origins, directions, depths, densities, features, depth, weight = inputs[:11]
        box_warp, white_back, floor, learns = inputs[11:]
        b, m, samples = depths.shape
        gradient = planes.new_zeros(b, 3, *planes.shape[3:], PLANE_CHANNELS)
        of_weights = [torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights]
        self._call(
            "my3dgen_render_backward",
            *_scenes(planes, b, box_warp),
            *_decoder(weights),
            *_rays(origins, directions, depths, densities),
            _plain(features, b, m, COLORS),
            _plain(depth, b, m),
            _plain(weight, b, m),
            *(b, m, samples, white_back, floor, learns),
            gradient,
            *of_weights,
        )
        return gradient.permute(0, 1, 4, 2, 3), *of_weights

    def render_rays_fast(self, planes: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        """Render rays without what cannot show."""
        *weights, bounds, origins, directions, depths, u = inputs[:9]
        box_warp, scale, shift, lost, share = inputs[9:]
        b, m, n, k = _sizes(directions, depths, u)
        _, grids, cells = bounds.shape[:3]
        if grids not in (1, b):
            raise ValueError(f"my3dgen: one grid, or {b}, are expected, not {grids}.")
        results = culled_registration.shapes(planes, *inputs)
        self._call(
            "my3dgen_render_fast",
            *_scenes(planes, b, box_warp),
            *_decoder(weights),
            _plain(bounds, 2, grids, cells, cells, cells),
            *(grids, cells, scale, shift),
            *_rays(origins, directions, depths, u),
            *(b, m, n, k, lost, share),
            *results,
        )
        return results

    def density_bounds(self, xy: Tensor, xz: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Combine hidden units [2, G, G, 64] of two pairs of axes to density bounds [2, G, G, G]."""
        cells = xy.shape[1]
        out = culled_registration.bound_shape(xy, xz, weight, bias)
        units = [_plain(t, 2, cells, cells, HIDDEN) for t in (xy, xz)]
        self._call("my3dgen_density_bounds", *units, _plain(weight, HIDDEN), _plain(bias, 1), cells, out)
        return out

    def _call(self, name: str, *arguments: Tensor | float) -> None:
        """Call a function of the library with tensors and numbers."""
        values = [a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments]
        if self._functions[name](*values, torch.get_num_threads()):
            raise torch.OutOfMemoryError("my3dgen: out of memory")


def _plain(tensor: Tensor, *shape: int) -> Tensor:
    """Return the tensor contiguous; raise ValueError unless it is float32, on the CPU and of this shape."""
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.shape != shape:
        raise ValueError(
            f"my3dgen: a float32 tensor {list(shape)} on the CPU is expected, not {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}."
        )
    return tensor.contiguous()


def _sizes(directions: Tensor, depths: Tensor, u: Tensor) -> tuple[int, int, int, int]:
    """Return the numbers of cameras, of rays each, and of coarse and fine samples a ray."""
    b, m, _ = directions.shape
    n, k = depths.shape[2], u.shape[2]
    if n < 2:
        raise ValueError(f"my3dgen: a ray needs at least 2 samples, not {n}.")
    return b, m, n, k


def _rays(origins: Tensor, directions: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    """Return origins and directions [B, M, 3] and two tensors [B, M, any], contiguous."""
    b, m, _ = directions.shape
    samples = (_plain(t, b, m, t.shape[-1]) for t in (first, second))
    return _plain(origins, b, m, 3), _plain(directions, b, m, 3), *samples


def _decoder(weights: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the decoder's weights, contiguous."""
    shapes = ((HIDDEN, PLANE_CHANNELS), (HIDDEN,), (1 + COLORS, HIDDEN), (1 + COLORS,))
    return tuple(_plain(w, *shape) for w, shape in zip(weights, shapes, strict=True))


def _scenes(planes: Tensor, cameras: int, box_warp: float) -> tuple[Tensor | float, ...]:
    """Return planes [S, 3, P, P, 32], copied unless they lie so in memory, S, their sides and the box's.

    S is 1 where one scene is expanded for several cameras.
    """
    height, width = planes.shape[3:]
    if height * width * PLANE_CHANNELS >= 2**31:
        raise ValueError(f"my3dgen: planes of {height} x {width} are too large.")
    if len(planes) != cameras:
        raise ValueError(f"my3dgen: planes of {cameras} scenes are expected, not of {len(planes)}.")
    scenes = 1 if cameras and planes.stride(0) == 0 else cameras
    laid = planes[:scenes].permute(0, 1, 3, 4, 2)
    return _plain(laid, scenes, 3, height, width, PLANE_CHANNELS), scenes, height, width, box_warp
