"""The whole generator: latents and cameras in, pictures out."""

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

# Samples decoded at a time without gradients: on a CPU what fits the cache, elsewhere what bounds the memory.
_CPU_SAMPLES, _DEVICE_SAMPLES = 1 << 15, 1 << 22
_FRAMES = 4  # go through super-resolution together where quality is "fast"

ApplyIdentity = Callable[[tuple[str, ...]], AbstractContextManager[object]]
"""Called with prefixes of module names: a context in which an identity is applied to those modules."""
Result = TypeVar("Result")


@dataclass
class Rendering:
    """What `Generator.render` gives; r is the neural resolution.

    image [B,3,R,R] and image_raw [B,3,r,r] in [-1, 1], not clipped; depth [B,1,r,r] along the ray in world
    units; mask [B,1,r,r], the accumulated weight in [0, 1]; features [B,32,r,r], image_raw its first three.
    """

    image: Tensor
    image_raw: Tensor
    depth: Tensor
    mask: Tensor
    features: Tensor


@dataclass(frozen=True)
class _Settings:
    """Settings of `Generator.render`, as there."""

    resolution: int
    noise_mode: str
    jitter: Jitter
    generator: torch.Generator | None
    quality: str
    chunk: int | None


class Generator(nn.Module):
    """EG3D.

    Parameter names equal the official state-dict keys, so `load_state_dict(strict=True)` is the map.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.superresolution = SuperResolution(config)
        self.decoder = Decoder(config.decoder_lr_mul)
        self.trained_views = config.trained_views
        """Angles from which the generator has seen heads; loading may set a narrower range."""
        self.renderer = "torch"
        """The rendering backend: "torch", or "compiled" where that is built (see `rendering.renderer`)."""
        self.memory_limit: int | None = None
        """Bytes of working memory for rendering, beside weights, inputs and outputs; None: as much as is fast.
        Applies where no gradients are wanted (see `rendering.memory_budget`)."""
        self.bounds_cache = DensityBoundsCache()
        """Density bounds of the planes last rendered with quality "fast"."""
        self.replaced: dict[str, nn.Parameter] = {}
        """The generator's own parameters while others replace them; written by `apply.replace_parameters` alone,
        read by `base_hash`."""
        self.batch_identities: Sequence[ApplyIdentity] | None = None
        """One identity for each picture of a batch; written by `apply.personalized` alone, read by `planes`,
        `render` and `sample`."""

    @property
    def num_ws(self) -> int:
        return self.config.num_ws

    @property
    def w_avg(self) -> Tensor:
        """The mean latent [w_dim]."""
        return self.backbone.mapping.w_avg

    def base_hash(self) -> str:
        """SHA-256 over the state sorted by key, as float32, and the configuration: names these very weights.

        An identity in effect does not change it: it names the base.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for key, value in sorted({**self.state_dict(), **self.replaced}.items()):
            digest.update(key.encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def mapping(
        self, z: Tensor, camera: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """Noise to latents.

        Args:
            z: [B, z_dim], standard normal.
            camera: [B, 25], the pose the mapping is conditioned on (the frontal one for free views).
            truncation_psi: 1 keeps w, 0 gives the mean latent.
            truncation_cutoff: only the first that many layers are truncated; None is all.

        Returns:
            ws [B, num_ws, w_dim].
        """
        return self.backbone.mapping(z, camera, truncation_psi, truncation_cutoff)

    def planes(
        self, ws: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """ws [B, num_ws, w_dim] -> tri-planes [B, 3, 32, P, P]. No camera goes in: keep them for a path."""
        self.check_ws(ws)
        if self.batch_identities is None:
            return self._planes(ws, noise_mode, generator)
        return torch.cat(
            self._per_identity(("backbone.",), lambda w: self._planes(w, noise_mode, generator), ws)
        )

    def _planes(self, ws: Tensor, noise_mode: str, generator: torch.Generator | None) -> Tensor:
        """Tri-planes of one identity."""
        planes = self.backbone.synthesis(ws, noise_mode, generator).unflatten(1, (3, PLANE_CHANNELS))
        if planes.device.type == "cpu":  # a pixel's channels side by side, as renderers look them up
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
        """Pictures of latents from cameras.

        Args:
            ws: [B, num_ws, w_dim].
            cameras: [B, 25]; or one of ws and cameras has length 1 and is broadcast.
            neural_resolution: pixels of the raw image; None: the generator's own.
            planes: what `planes(ws)` gave, to save that work.
            noise_mode: "const", "random" or "none", for the backbone.
            jitter: where samples lie on their rays. None: fixed, evenly stratified; a number in [0, 1): every
                random number is that one; a torch.Generator: random (training); (coarse [B,M,N,1], fine
                [B*M,K]) tensors.
            generator: for noise_mode "random".
            quality: "exact"; or "fast", for pictures alone, without gradients: what does not show is left out
                (see `fast`), and super-resolution runs in bfloat16 where the processor has it. Give `planes`
                for a path of cameras: what was found out about them is kept while they live.
            chunk: rays a scene at a time; None: bounded memory without gradients, all at once with them.

        Raises:
            ValueError: wrong shapes, unknown noise mode or quality, a resolution the model cannot take;
                gradients are wanted of a "fast" picture; or `memory_limit` is too small for one picture.
        """
        check_quality(quality)
        check_cameras(cameras)
        self.check_ws(ws)
        resolution = neural_resolution or self.config.neural_resolution
        settings = _Settings(resolution, noise_mode, jitter, generator, quality, chunk)
        if self.batch_identities is None:
            return self._render(ws, cameras, planes, settings)
        if isinstance(jitter, tuple):
            raise ValueError("Pictures of several identities take no tensors as jitter: give a generator.")
        prefixes = ("decoder.", "superresolution.") + (("backbone.",) if planes is None else ())
        given = (ws, cameras) if planes is None else (ws, cameras, planes)

        def render_one(w: Tensor, c: Tensor, p: Tensor | None = None) -> Rendering:
            return self._render(w, c, p, settings)

        rendered = self._per_identity(prefixes, render_one, *given)
        return Rendering(*(torch.cat(maps) for maps in zip(*map(_maps, rendered), strict=True)))

    def _render(self, ws: Tensor, cameras: Tensor, planes: Tensor | None, settings: _Settings) -> Rendering:
        """Pictures of one identity, within the memory limit."""
        batch = max(len(ws), len(cameras))
        counts = len(ws), len(ws if planes is None else planes), len(cameras)
        if not {*counts} <= {1, batch}:
            raise ValueError(
                "{} latents, {} planes and {} cameras do not fit: ".format(*counts)
                + "equal counts pair up, a single one serves all."
            )
        if planes is None and len(ws) == 1:
            planes = self._planes(ws, settings.noise_mode, settings.generator)

        def render_part(w: Tensor, c: Tensor, p: Tensor | None, chunk: int | None) -> Rendering:
            made = self._planes(w, settings.noise_mode, settings.generator) if p is None else p
            return self._render_planes(w, c, made, replace(settings, chunk=chunk))

        if self.memory_limit is None or torch.is_grad_enabled():
            return render_part(ws, cameras, planes, settings.chunk)
        if isinstance(settings.jitter, tuple):
            raise ValueError("Under a limit of memory there are no tensors as jitter: give a generator.")
        share = portion(self, self.memory_limit, batch, settings.resolution, settings.quality, planes is None)
        return _in_portions(render_part, batch, (ws, cameras, planes), share, settings.chunk)

    def _render_planes(self, ws: Tensor, cameras: Tensor, planes: Tensor, settings: _Settings) -> Rendering:
        """Rays through planes, then super-resolution."""
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
        """Render single pixels: planes [B or 1,3,32,P,P], cameras [B,25], pixels [M] or [B,M] (None: all).

        Pixels are counted row by row in a picture of `resolution` x `resolution`. Samples whose weight stays
        below `floor` get no gradient. Quality "fast" gives no gradients at all.

        Raises:
            ValueError: unknown quality, or gradients are wanted of a "fast" picture.
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
        """The radiance field: points [B, M, 3] -> raw density [B, M, 1] and colour features [B, M, 32].

        The density that is marched is softplus(raw - 1). Colours lie in about [0, 1]; the first three: rgb.
        """
        if planes is None:
            planes = self.planes(ws)
        if self.batch_identities is None:
            return self._sample(points, planes, chunk)
        each = self._per_identity(("decoder.",), lambda p, t: self._sample(p, t, chunk), points, planes)
        densities, colors = zip(*each, strict=True)
        return torch.cat(densities), torch.cat(colors)

    def _sample(self, points: Tensor, planes: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
        """Raw density and colors of one identity."""
        planes = planes.expand(len(points), -1, -1, -1, -1)
        out = [
            self.decoder(mean_features(planes, part, self.config.box_warp))
            for part in points.split(chunk or points.shape[1], dim=1)
        ]
        return torch.cat([o[0] for o in out], dim=1), torch.cat([o[1] for o in out], dim=1)

    def _per_identity(
        self, prefixes: tuple[str, ...], work: Callable[..., Result], *batches: Tensor
    ) -> list[Result]:
        """Call `work` on each picture's slice of the batches, its identity applied to modules of these prefixes.

        Batches of length 1 go to every call.
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
        """Raises ValueError with a sentence unless ws fit this generator."""
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
    """A portion of latents, cameras and planes after the other, straight into the place of its pictures."""
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
    return rendering.image, rendering.image_raw, rendering.depth, rendering.mask, rendering.features
