"""Volume rendering of rays, and the selection of its implementation.

`IMPLEMENTATIONS` lists all implementations and the requests that each can take; `render_rays` uses the first
that can take the request. All of them use the same sample depths and the same compositing, so that their
results agree: to rounding at quality "exact", within an invisible tolerance (`culled.MAX_LOST_WEIGHT`) at
quality "fast". Batches of several identities need no implementation of their own: `Generator` renders the
pictures of one identity at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import GeneratorConfig
from ..decoder import Decode, Decoder
from . import compiled, culled, exact, recompute
from .compositing import RayOutput
from .density_bounds import DensityBoundsCache
from .rays import Jitter, coarse_depths, jitter_numbers
from .request import RenderRequest

BACKENDS = ("torch", "compiled")
"""Values of `Generator.renderer`."""
QUALITIES = ("exact", "fast")
"""Values of `quality`: to rounding, or with invisible samples left out."""
GRADIENTS = ("none", "field", "rays")
"""Gradients that a request may want, each including those before it: "field" are those of planes and decoder,
"rays" also those of origins, directions and depths."""


@dataclass(frozen=True)
class Implementation:
    """Implementation of volume rendering, and the requests that it can take."""

    name: str
    """Name, unique in the table."""
    render: Callable[[RenderRequest], RayOutput]
    """Function that renders a request."""
    qualities: tuple[str, ...]
    """Qualities that may be asked of it, of `QUALITIES`."""
    backends: tuple[str, ...] = BACKENDS
    """Backends under which it is used, of `BACKENDS`."""
    devices: tuple[str, ...] | None = None
    """Types of device; None: any."""
    float32_only: bool = True
    """Planes, rays and decoder must be float32 and on one device; False: any floating-point types."""
    gradients: str = "none"
    """Most gradients that it computes, of `GRADIENTS`."""
    any_decoder: bool = False
    """The decoder may be any callable; False: it must be EG3D's (`Decoder`)."""
    density_scale: bool = True
    """The density scale may be any number; False: it must be 1."""
    ready: Callable[[torch.device], bool] | None = None
    """Function that returns True if it can be used on a device now; None: it always can."""

    def fits(self, request: RenderRequest, quality: str, backend: str) -> bool:
        """Return True if it can take a request at this quality and backend."""
        device = request.planes.device
        return (
            quality in self.qualities
            and backend in self.backends
            and (self.devices is None or device.type in self.devices)
            and (self.any_decoder or isinstance(request.decoder, Decoder))
            and (self.density_scale or request.density_scale == 1)
            and GRADIENTS.index(_wanted_gradients(request)) <= GRADIENTS.index(self.gradients)
            and (not self.float32_only or _all_float32(request))
            and (self.ready is None or self.ready(device))
        )


IMPLEMENTATIONS = (
    # C++: skips empty space and hidden samples.
    Implementation(
        "compiled, culled",
        compiled.render_culled,
        qualities=("fast",),
        backends=("compiled",),
        devices=("cpu", "meta"),
        density_scale=False,
        ready=compiled.is_ready,
    ),
    # C++ or CUDA, with a hand-written gradient. At quality "fast" it takes what the culled operator cannot:
    # rays on a GPU, or a density scale.
    Implementation(
        "compiled",
        compiled.render,
        qualities=("exact", "fast"),
        backends=("compiled",),
        devices=("cpu", "cuda", "meta"),
        gradients="field",
        ready=compiled.is_ready,
    ),
    # PyTorch: skips empty space and hidden samples.
    Implementation(
        "culled",
        culled.render,
        qualities=("fast",),
        float32_only=False,
        density_scale=False,
    ),
    # PyTorch on a CPU, with a hand-written gradient that needs little memory.
    Implementation(
        "recompute",
        recompute.render,
        qualities=("exact",),
        devices=("cpu",),
        gradients="field",
    ),
    # PyTorch, the reference: takes every request.
    Implementation(
        "autograd",
        exact.render,
        qualities=("exact", "fast"),
        float32_only=False,
        gradients="rays",
        any_decoder=True,
    ),
)
"""All implementations, in order of preference."""


def render_rays(
    planes: Tensor,
    decoder: Decode,
    config: GeneratorConfig,
    origins: Tensor,
    directions: Tensor,
    jitter: Jitter = None,
    chunk: int | None = None,
    min_weight: float = 0.0,
    density_scale: float = 1.0,
    renderer: str = "torch",
    quality: str = "exact",
    bounds_cache: DensityBoundsCache | None = None,
) -> RayOutput:
    """Render rays in two passes: stratified samples, then samples where the first pass found density.

    Depth is clamped to the range of the samples of all rays in the call.

    Args:
        planes: [B, 3, 32, P, P], or [1, 3, 32, P, P] for one scene seen by all rays.
        decoder: mean plane features [..., 32] -> raw density [..., 1] and colors [..., C].
        config: configuration, of which the rendering settings are used.
        origins: [B, 1 or M, 3].
        directions: [B, M, 3], of length 1.
        jitter: see `Generator.render`.
        chunk: rays per scene rendered at a time; None: all. The result does not depend on it.
        min_weight: samples whose compositing weight stays below it get no gradient, which saves the work for
            those in empty space or behind a surface. The result does not depend on it.
        density_scale: factor of the raw density.
        renderer: "torch", or "compiled": the compiled renderer where it is built and can take the request.
        quality: "exact", or "fast", which gives no gradients.
        bounds_cache: cache of the density bounds of these planes (quality "fast"); None: not cached.

    Returns:
        features [B, M, C] in [-1, 1], depth and weight [B, M, 1].

    Raises:
        ValueError: unknown renderer or quality, or gradients wanted of quality "fast".
    """
    check_quality(quality)
    if renderer not in BACKENDS:
        raise ValueError(f"renderer must be 'torch' or 'compiled', not {renderer!r}.")
    b, m = directions.shape[:2]
    n, k = config.depth_resolution, config.depth_resolution_importance
    coarse, fine = jitter_numbers(jitter, b, m, n, k, directions)
    request = RenderRequest(
        planes,
        decoder,
        config,
        origins.expand(-1, m, -1),
        directions,
        coarse_depths(config, origins.expand(-1, m, -1), directions, coarse),
        fine.reshape(b, m, k),
        None if chunk is None else max(1, chunk),
        min_weight,
        density_scale,
        DensityBoundsCache() if bounds_cache is None else bounds_cache,
    )
    if quality == "fast" and _wanted_gradients(request) != "none":
        raise ValueError("quality='fast' gives no gradients: use 'exact', or torch.no_grad().")
    return select(request, quality, renderer).render(request)


def select(request: RenderRequest, quality: str = "exact", backend: str = "torch") -> Implementation:
    """Return the first implementation that can take a request; the last one can take any."""
    return next(one for one in IMPLEMENTATIONS if one.fits(request, quality, backend))


def check_quality(quality: str) -> None:
    """Raise ValueError unless `quality` is one of `QUALITIES`."""
    if quality not in QUALITIES:
        raise ValueError(f"quality must be 'exact' or 'fast', not {quality!r}.")


def _wanted_gradients(request: RenderRequest) -> str:
    """Return the gradients that autograd would compute, of `GRADIENTS`; those of a decoder that is no module
    are not known and do not count."""
    if not torch.is_grad_enabled():
        return "none"
    if any(values.requires_grad for values in request.rays):
        return "rays"
    parameters = request.decoder.parameters() if isinstance(request.decoder, torch.nn.Module) else ()
    if request.planes.requires_grad or any(values.requires_grad for values in parameters):
        return "field"
    return "none"


def _all_float32(request: RenderRequest) -> bool:
    """Return True if planes, rays and EG3D's decoder are float32 and on one device."""
    tensors = [request.planes, *request.rays]
    if isinstance(request.decoder, Decoder):
        tensors += request.decoder.parameters()
    return all(t.dtype == torch.float32 and t.device == request.planes.device for t in tensors)
