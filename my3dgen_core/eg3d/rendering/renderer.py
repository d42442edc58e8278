"""The one place that chooses how rays become pixels.

`IMPLEMENTATIONS` lists every implementation with what it can do; `render_rays` uses the first that fits the
request. All of them put samples at the same depths and composite them alike, so that they agree: "exact" ones
to rounding, "fast" ones to less than shows. Several identities in one batch need nothing here: `Generator`
renders one identity's pictures at a time, each with that identity's decoder.
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
QUALITIES = ("exact", "fast")


@dataclass(frozen=True)
class Implementation:
    """One way from rays to pixels, and the requests that it can take.

    qualities: "exact", or "fast" where what does not show may be left out.
    backends: values of `Generator.renderer` under which it is used.
    devices: types of device; None: any.
    float32_only: whether planes, decoder and rays must be float32 on one device; else any floating type.
    gradients: "none"; "field": of planes and decoder; "rays": of origins, directions and depths as well.
    any_decoder: whether `decoder` may be any callable; else it must be EG3D's (`Decoder`).
    density_scale: whether it knows another density scale than 1.
    ready: whether it can be used on a device now; None: always.
    """

    name: str
    render: Callable[[RenderRequest], RayOutput]
    qualities: tuple[str, ...]
    backends: tuple[str, ...] = BACKENDS
    devices: tuple[str, ...] | None = None
    float32_only: bool = True
    gradients: str = "none"
    any_decoder: bool = False
    density_scale: bool = True
    ready: Callable[[torch.device], bool] | None = None

    def fits(self, request: RenderRequest, quality: str, backend: str) -> bool:
        """Whether it can take the request."""
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


GRADIENTS = ("none", "field", "rays")

IMPLEMENTATIONS = (
    Implementation(
        "compiled, culled",
        compiled.render_culled,
        qualities=("fast",),
        backends=("compiled",),
        devices=("cpu", "meta"),
        density_scale=False,
        ready=compiled.is_ready,
    ),
    Implementation(
        "compiled",
        compiled.render,
        qualities=("exact", "fast"),
        backends=("compiled",),
        devices=("cpu", "cuda", "meta"),
        gradients="field",
        ready=compiled.is_ready,
    ),
    Implementation(
        "culled",
        culled.render,
        qualities=("fast",),
        float32_only=False,
        density_scale=False,
    ),
    Implementation(
        "recompute",
        recompute.render,
        qualities=("exact",),
        devices=("cpu",),
        gradients="field",
    ),
    Implementation(
        "autograd",
        exact.render,
        qualities=("exact", "fast"),
        float32_only=False,
        gradients="rays",
        any_decoder=True,
    ),
)


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
    """Two passes along rays: stratified samples, then samples where the first pass found density.

    Args:
        planes: [B, 3, 32, P, P], or [1, 3, 32, P, P] for one scene seen by all rays.
        decoder: mean plane features [..., 32] -> raw density [..., 1] and colors [..., C].
        origins: [B, 1 or M, 3]; directions [B, M, 3].
        jitter: see `Generator.render`.
        chunk: rays a scene to work on at a time; None is all. The result does not depend on it.
        min_weight: samples whose compositing weight stays below it get no gradient (and cost none): most lie
            in air or behind the surface, where it is next to nothing. The result does not depend on it.
        density_scale: multiplies the raw density.
        renderer: "torch", or "compiled": the compiled renderer where it is built and can take the request.
        quality: "exact", or "fast", which gives no gradients.
        bounds_cache: keeps the density bounds of these planes between calls (quality "fast").

    Depth is clamped to the range of all samples of the call, so the batch is one frame of reference.

    Raises:
        ValueError: unknown renderer or quality, or gradients are wanted of quality "fast".
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
    """The first implementation that can take the request; the last one can take any."""
    return next(one for one in IMPLEMENTATIONS if one.fits(request, quality, backend))


def check_quality(quality: str) -> None:
    """Raise ValueError unless it is one of `QUALITIES`."""
    if quality not in QUALITIES:
        raise ValueError(f"quality must be 'exact' or 'fast', not {quality!r}.")


def _wanted_gradients(request: RenderRequest) -> str:
    if not torch.is_grad_enabled():
        return "none"
    if any(values.requires_grad for values in request.rays):
        return "rays"
    parameters = request.decoder.parameters() if isinstance(request.decoder, torch.nn.Module) else ()
    if request.planes.requires_grad or any(values.requires_grad for values in parameters):
        return "field"
    return "none"


def _all_float32(request: RenderRequest) -> bool:
    tensors = [request.planes, *request.rays]
    if isinstance(request.decoder, Decoder):
        tensors += request.decoder.parameters()
    return all(t.dtype == torch.float32 and t.device == request.planes.device for t in tensors)
