"""EG3D generator: latents and cameras to pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..camera import check_cameras
from .backbone import Backbone
from .config import PLANE_CHANNELS, GeneratorConfig
from .decoder import Decoder
from .rendering.compositing import RayOutput
from .rendering.density_bounds import DensityBoundsCache
from .rendering.memory_budget import Portion, portion
from .rendering.rays import Jitter, rays
from .rendering.renderer import check_quality, render_rays
from .rendering.triplanes import mean_features
from .superresolution import SuperResolution, fast_dtype

_CPU_SAMPLES, _DEVICE_SAMPLES = 1 << 15, 1 << 22
"""Samples decoded at a time without gradients: limited by the cache on a CPU, by the memory elsewhere."""
_FRAMES = 4
"""Pictures per batch of super-resolution at quality "fast"."""

ApplyIdentity = Callable[[tuple[str, ...]], AbstractContextManager[object]]
"""Function of prefixes of module names that returns a context, within which an identity is applied to the
modules of these prefixes."""
Result = TypeVar("Result")


@dataclass
class Rendering:
    """Pictures of `Generator.render`. Shapes: R is the image resolution, r the neural resolution."""

    image: Tensor
    """Final pictures [B, 3, R, R] in [-1, 1], not clipped."""
    image_raw: Tensor
    """Volume-rendered pictures [B, 3, r, r] in [-1, 1], not clipped: the first channels of `features`."""
    depth: Tensor
    """Depth along the ray [B, 1, r, r], in world units."""
    mask: Tensor
    """Accumulated compositing weight [B, 1, r, r] in [0, 1]."""
    features: Tensor
    """Volume-rendered features [B, 32, r, r] in [-1, 1], the input of super-resolution."""


@dataclass(frozen=True)
class _Settings:
    """Arguments of `Generator.render` that hold for all pictures; see there."""

    resolution: int
    noise_mode: str
    jitter: Jitter
    generator: torch.Generator | None
    quality: str
    chunk: int | None


class Generator(nn.Module):
    """EG3D generator (Chan et al., CVPR 2022).

    Parameter names are those of the official state dict: `load_state_dict(strict=True)` takes it as it is.

    Args:
        config: sizes and rendering settings.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.superresolution = SuperResolution(config)
        self.decoder = Decoder(config.decoder_lr_mul)
        self.trained_views = config.trained_views
        """Range of view angles in the training data; loading a checkpoint may set a narrower one."""
        self.renderer = "torch"
        """Rendering backend: "torch", or "compiled" where that is built (see `rendering.renderer`)."""
        self.memory_limit: int | None = None
        """Limit of the working memory of `render` in bytes; None: no limit.

        Weights, inputs and outputs do not count. It applies where no gradients are wanted (see
        `rendering.memory_budget`).
        """
        self.bounds_cache = DensityBoundsCache()
        """Density bounds of the planes last rendered with quality "fast"."""
        self.replaced: dict[str, nn.Parameter] = {}
        """Own parameters, by state-dict key, while other tensors stand in their place.

        Written and restored by `person.apply.replace_parameters` alone, which holds the parameters here for
        the length of its `with` block. Read by `base_hash`, so that an applied identity does not change the
        hash. Empty outside such a block.
        """
        self.batch_identities: Sequence[ApplyIdentity] | None = None
        """One identity for each picture of a batch, or None: all pictures use the same weights.

        Written and restored by `person.apply.personalized` alone, for the length of its `with` block. Read by
        `planes`, `render` and `sample`: their batches must have this length, and picture i is computed within
        `batch_identities[i](prefixes)`. `mapping` and `march` ignore it.
        """

    @property
    def num_ws(self) -> int:
        """Number of latent vectors w per picture."""
        return self.config.num_ws

    @property
    def w_avg(self) -> Tensor:
        """Mean latent [w_dim], as tracked in training."""
        return self.backbone.mapping.w_avg

    def base_hash(self) -> str:
        """Return the SHA-256 of configuration and state dict (float32, sorted by key), in hexadecimal.

        It identifies these base weights: an identity that is applied does not change it.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for key, value in sorted({**self.state_dict(), **self.replaced}.items()):
            digest.update(key.encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def mapping(
        self, z: Tensor, camera: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """Map noise to latents.

        Args:
            z: [B, z_dim], standard normal.
            camera: [B, 25], the camera that the mapping is conditioned on; the frontal one for latents that
                are rendered from several cameras.
            truncation_psi: interpolation from the mean latent (0) to w (1).
            truncation_cutoff: number of latents per picture that are truncated, from the first on; None: all.

        Returns:
            ws [B, num_ws, w_dim].
        """
        return self.backbone.mapping(z, camera, truncation_psi, truncation_cutoff)

    def planes(
        self, ws: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """Synthesize tri-planes. They do not depend on the camera: reuse them for all views of a latent.

        Args:
            ws: [B, num_ws, w_dim].
            noise_mode: "const", "random" or "none".
            generator: RNG of noise_mode "random".

        Returns:
            [B, 3, 32, P, P].

        Raises:
            ValueError: latents of another generator, unknown noise mode, or another number of latents than of
                identities where each picture has its own.
        """
        self.check_ws(ws)
        if self.batch_identities is None:
            return self._planes(ws, noise_mode, generator)
        return torch.cat(
            self._per_identity(("backbone.",), lambda w: self._planes(w, noise_mode, generator), ws)
        )

    def _planes(self, ws: Tensor, noise_mode: str, generator: torch.Generator | None) -> Tensor:
        """Synthesize tri-planes [B, 3, 32, P, P] with the weights in use."""
        planes = self.backbone.synthesis(ws, noise_mode, generator).unflatten(1, (3, PLANE_CHANNELS))
        if planes.device.type == "cpu":  # channels last: the renderers read all channels of a texel
            planes = planes.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        return planes

    def render(
        self,
        ws: Tensor,
        cameras: Tensor,
        *,
        neural_resolution: int | None = None,
        planes: Tensor | None = None,
        noise_mode: str = "const",
        jitter: Jitter = None,
        generator: torch.Generator | None = None,
        quality: str = "exact",
        chunk: int | None = None,
    ) -> Rendering:
        """Render pictures of latents from cameras.

        Args:
            ws: [B, num_ws, w_dim], or [1, num_ws, w_dim] for all cameras.
            cameras: [B, 25], or [1, 25] for all latents.
            neural_resolution: pixels along an edge of the volume-rendered image; None: as configured.
            planes: result of `planes(ws)`, if at hand; saves the backbone's work.
            noise_mode: noise of the backbone: "const", "random" or "none".
            jitter: positions of the samples within their strata. None: the middle; a number in [0, 1): used
                in place of every random number; a torch.Generator: random (training); a pair of tensors:
                coarse [B, M, N, 1] and fine [B*M, K] numbers in [0, 1) for M rays of N coarse and K fine
                samples.
            generator: RNG of noise_mode "random".
            quality: "exact", or "fast": without gradients, skipping samples in empty space and behind
                surfaces (see `rendering.culled`), with super-resolution in bfloat16 on CPUs that have it. For
                a camera path give `planes`: their density bounds are cached while they exist.
            chunk: rays per scene rendered at a time; None: chosen to bound the memory without gradients, all
                rays with gradients.

        Returns:
            pictures, depth, mask and features of the batch.

        Raises:
            ValueError: wrong shapes, unknown noise mode or quality, a resolution that the generator cannot
                take, gradients wanted of quality "fast", or a `memory_limit` too small for one picture.
        """
        check_quality(quality)
        check_cameras(cameras)
        self.check_ws(ws)
        resolution = neural_resolution or self.config.neural_resolution
        settings = _Settings(resolution, noise_mode, jitter, generator, quality, chunk)
        if self.batch_identities is None:
            return self._render(ws, cameras, planes, settings)
        if isinstance(jitter, tuple):
            raise ValueError("With several identities jitter cannot be tensors: give a torch.Generator.")
        prefixes = ("decoder.", "superresolution.") + (("backbone.",) if planes is None else ())
        given = (ws, cameras) if planes is None else (ws, cameras, planes)

        def render_one(w: Tensor, c: Tensor, p: Tensor | None = None) -> Rendering:
            return self._render(w, c, p, settings)

        rendered = self._per_identity(prefixes, render_one, *given)
        return Rendering(*(torch.cat(maps) for maps in zip(*map(_maps, rendered), strict=True)))

    def _render(self, ws: Tensor, cameras: Tensor, planes: Tensor | None, settings: _Settings) -> Rendering:
        """Render with the weights in use, within the memory limit."""
        batch = max(len(ws), len(cameras))
        counts = len(ws), len(ws if planes is None else planes), len(cameras)
        if not {*counts} <= {1, batch}:
            raise ValueError(
                "{} latents, {} planes and {} cameras do not fit: ".format(*counts)
                + "equal counts pair up, a single one is used for all."
            )
        if planes is None and len(ws) == 1:
            planes = self._planes(ws, settings.noise_mode, settings.generator)

        def render_part(w: Tensor, c: Tensor, p: Tensor | None, chunk: int | None) -> Rendering:
            made = self._planes(w, settings.noise_mode, settings.generator) if p is None else p
            return self._render_planes(w, c, made, replace(settings, chunk=chunk))

        if self.memory_limit is None or torch.is_grad_enabled():
            return render_part(ws, cameras, planes, settings.chunk)
        if isinstance(settings.jitter, tuple):
            raise ValueError("With a memory limit jitter cannot be tensors: give a torch.Generator.")
        share = portion(self, self.memory_limit, batch, settings.resolution, settings.quality, planes is None)
        return _in_portions(render_part, batch, (ws, cameras, planes), share, settings.chunk)

    def _render_planes(self, ws: Tensor, cameras: Tensor, planes: Tensor, settings: _Settings) -> Rendering:
        """Render planes [B or 1, 3, 32, P, P] and apply super-resolution."""
        batch = max(len(ws), len(cameras), len(planes))
        resolution, quality = settings.resolution, settings.quality
        cameras = cameras.expand(batch, -1).to(planes.dtype)
        out = self.march(planes, cameras, resolution, None, settings.jitter, settings.chunk, quality=quality)
        features, depth, mask = (
            v.transpose(1, 2).unflatten(2, (resolution, resolution))
            for v in (out.features, out.depth, out.weight)
        )
        ws = ws.expand(batch, -1, -1)
        if quality == "fast":
            parts = zip(features.split(_FRAMES), ws.split(_FRAMES), strict=True)
            dtype = fast_dtype(features.device)
            image = torch.cat([self.superresolution(f, w, settings.generator, dtype) for f, w in parts])
        else:
            image = self.superresolution(features.contiguous(), ws, settings.generator)
        return Rendering(image, features[:, :3], depth, mask, features)

    def march(
        self,
        planes: Tensor,
        cameras: Tensor,
        resolution: int,
        pixels: Tensor | None = None,
        jitter: Jitter = None,
        chunk: int | None = None,
        floor: float = 0.0,
        quality: str = "exact",
    ) -> RayOutput:
        """Volume-render single pixels, without super-resolution.

        Args:
            planes: [B, 3, 32, P, P], or [1, 3, 32, P, P] for all cameras.
            cameras: [B, 25].
            resolution: pixels along an edge of the picture.
            pixels: row-major pixel numbers [M] or [B, M]; None: all, M = resolution**2.
            jitter: see `render`.
            chunk: see `render`.
            floor: samples whose compositing weight stays below it get no gradient.
            quality: "exact", or "fast", which gives no gradients at all.

        Returns:
            features [B, M, 32], depth and weight [B, M, 1].

        Raises:
            ValueError: unknown quality, or gradients wanted of quality "fast".
        """
        check_quality(quality)
        origins, directions = rays(cameras, resolution, pixels)
        if chunk is None and (quality == "fast" or not torch.is_grad_enabled()):
            samples = _CPU_SAMPLES if planes.device.type == "cpu" else _DEVICE_SAMPLES
            chunk = samples // (
                len(cameras) * max(self.config.depth_resolution, self.config.depth_resolution_importance)
            )
        return render_rays(
            planes,
            self.decoder,
            self.config,
            origins,
            directions,
            jitter,
            chunk,
            floor,
            renderer=self.renderer,
            quality=quality,
            bounds_cache=self.bounds_cache,
        )

    def sample(
        self, ws: Tensor, points: Tensor, *, planes: Tensor | None = None, chunk: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Evaluate the radiance field at points.

        Args:
            ws: [B, num_ws, w_dim], or [1, num_ws, w_dim] for all points; unused if planes are given.
            points: [B, M, 3], in world units.
            planes: result of `planes(ws)`, if at hand.
            chunk: points per scene decoded at a time; None: all.

        Returns:
            raw density [B, M, 1] and color features [B, M, 32]. The density of volume rendering is
            softplus(raw - 1). Colors are in [-0.001, 1.001]; the first three channels are RGB.
        """
        if planes is None:
            planes = self.planes(ws)
        if self.batch_identities is None:
            return self._sample(points, planes, chunk)
        each = self._per_identity(("decoder.",), lambda p, t: self._sample(p, t, chunk), points, planes)
        densities, colors = zip(*each, strict=True)
        return torch.cat(densities), torch.cat(colors)

    def _sample(self, points: Tensor, planes: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
        """Evaluate the radiance field with the weights in use; shapes as in `sample`."""
        planes = planes.expand(len(points), -1, -1, -1, -1)
        out = [
            self.decoder(mean_features(planes, part, self.config.box_warp))
            for part in points.split(chunk or points.shape[1], dim=1)
        ]
        return torch.cat([o[0] for o in out], dim=1), torch.cat([o[1] for o in out], dim=1)

    def _per_identity(
        self, prefixes: tuple[str, ...], work: Callable[..., Result], *batches: Tensor
    ) -> list[Result]:
        """Call `work` once for each picture, with its identity applied.

        Args:
            prefixes: prefixes of the names of the modules that `work` uses.
            work: function of each batch's slice of length 1.
            batches: tensors with one row for each picture, or a single row for all.

        Returns:
            results in the order of the pictures.
        """
        identities = self.batch_identities
        assert identities is not None
        if any(len(batch) not in (1, len(identities)) for batch in batches):
            raise ValueError(
                f"There are {len(identities)} identities, one for each picture, but the batches have "
                f"{[len(batch) for batch in batches]}."
            )
        results = []
        for i, apply in enumerate(identities):
            with apply(prefixes):
                results.append(work(*(batch[i : i + 1] if len(batch) > 1 else batch for batch in batches)))
        return results

    def check_ws(self, ws: Tensor) -> None:
        """Raise ValueError unless ws are [N, num_ws, w_dim] of this generator."""
        expected = (self.num_ws, self.config.w_dim)
        if ws.ndim != 3 or ws.shape[1:] != expected:
            raise ValueError(
                f"This generator takes latents of shape [N, {expected[0]}, {expected[1]}], but these have "
                f"{list(ws.shape)}. They belong to another generator."
            )


def _in_portions(
    render: Callable[[Tensor, Tensor, Tensor | None, int | None], Rendering],
    batch: int,
    given: tuple[Tensor, Tensor, Tensor | None],
    share: Portion,
    chunk: int | None,
) -> Rendering:
    """Render a batch portion by portion into preallocated results.

    Args:
        render: function of latents, cameras, planes (or None) and rays per scene at a time.
        batch: number of pictures.
        given: latents [B, num_ws, w_dim], cameras [B, 25], and planes [B, 3, 32, P, P] or None; each B is
            `batch` or 1.
        share: pictures and rays of a portion.
        chunk: upper limit of the rays per scene at a time; None: none.
    """
    whole: Rendering | None = None
    for first in range(0, batch, share.pictures):
        part = slice(first, first + share.pictures)
        w, c, p = (v if v is None or len(v) == 1 else v[part] for v in given)
        assert w is not None
        assert c is not None
        count = min(share.pictures, batch - first)
        rays = max(1, share.rays // count)
        rendering = render(w, c, p, rays if chunk is None else min(chunk, rays))
        if count == batch:
            return rendering
        image, _, *rest = _maps(rendering)
        if whole is None:
            image, depth, mask, features = (v.new_empty(batch, *v.shape[1:]) for v in (image, *rest))
            whole = Rendering(image, features[:, :3], depth, mask, features)
        for place, value in zip(_maps(whole), _maps(rendering), strict=True):
            place[part] = value
    assert whole is not None
    return whole


def _maps(rendering: Rendering) -> tuple[Tensor, ...]:
    """Return the tensors of a rendering in the order of its fields."""
    return rendering.image, rendering.image_raw, rendering.depth, rendering.mask, rendering.features
