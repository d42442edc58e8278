"""Compiled renderer: planes and rays to composited pixels in one C++ or CUDA operator, with its gradient.

It is optional and built on request only: `python -m my3dgen_core build-kernels`. A generator uses it where
its attribute `renderer` is "compiled". Results equal those in PyTorch to rounding.
"""

from .culled_operator import density_bounds, render_culled, render_rays_fast
from .libraries import KernelError, available, load
from .operator import is_ready, render, render_rays

__all__ = [
    "KernelError",
    "available",
    "density_bounds",
    "is_ready",
    "load",
    "render",
    "render_culled",
    "render_rays",
    "render_rays_fast",
]
