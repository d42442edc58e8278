"""The compiled renderer: planes and rays to composited pixels in one operator, with its gradient.

Optional, and never built unasked: `python -m my3dgen_core build-kernels`. A generator uses it where its
attribute `renderer` is "compiled"; the results are those of `eg3d.volume` to rounding.
"""

from .builder import KernelError, available, build, choose, load
from .culled_operator import density_bounds, render_rays_fast
from .operator import render_rays, serves

__all__ = [
    "KernelError",
    "available",
    "build",
    "choose",
    "density_bounds",
    "load",
    "render_rays",
    "render_rays_fast",
    "serves",
]
