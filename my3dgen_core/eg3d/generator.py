"""The whole generator: latents and cameras in, pictures out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..camera.pose import check_cameras
from .backbone import PLANE_CHANNELS, Backbone
from .config import GeneratorConfig
from .rendering.culled import render_rays_fast
from .rendering.density_bounds import GridCache
from .rendering.exact import Decoder, Jitter, Marched, rays, render_rays
from .rendering.memory_budget import Portion, portion
from .rendering.triplanes import mean_features
from .superresolution import SuperResolution, fast_dtype

# Samples decoded at a time without gradients: on a CPU what fits the cache, elsewhere what bounds the memory.
_CPU_SAMPLES, _DEVICE_SAMPLES = 1 << 15, 1 << 22
_FRAMES = 4  # go through super-resolution together where quality is "fast"


def check_quality(quality: str) -> None:
    """Raises ValueError with a sentence unless it is one of the two."""
    if quality not in ("exact", "fast"):
        raise ValueError(f"quality must be 'exact' or 'fast', not {quality!r}.")


Person = Callable[[tuple[str, ...]], AbstractContextManager[object]]
"""Puts a person into effect on the modules whose names begin so."""
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
        """From how far round it has seen heads (`ViewRange.beyond` warns); loading may know better."""
        self.renderer = "torch"
        """What renders: "torch", or "compiled" where `my3dgen_core.eg3d.rendering.compiled` is built (see `render_rays`)."""
        self.memory_limit: int | None = None
        """Bytes that pictures may take while they are rendered, beside weights, inputs and themselves;
        None: as much as is fast. Kept where no gradients are wanted (see `budget`)."""
        self.grids = GridCache()
        """Where there is nothing to see in the planes that were last rendered with quality "fast"."""
        self.replaced: dict[str, nn.Parameter] = {}
        """The generator's own parameters while others stand in for them (see `adapter.swapped`)."""
        self.people: Sequence[Person] | None = None
        """One for each picture of a batch that shows several persons (see `adapter.personalized`)."""

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
        if self.people is not None:
            return torch.cat(self._each(("backbone.",), lambda w: self.planes(w, noise_mode, generator), ws))
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
        if self.people is not None:
            if isinstance(jitter, tuple):
                raise ValueError("Pictures of several persons take no tensors as jitter: give a generator.")
            prefixes = ("decoder.", "superresolution.") + (("backbone.",) if planes is None else ())
            settings = {
                "neural_resolution": neural_resolution,
                "noise_mode": noise_mode,
                "jitter": jitter,
                "generator": generator,
                "quality": quality,
                "chunk": chunk,
            }

            def alone(w: Tensor, c: Tensor, p: Tensor | None = None) -> Rendering:
                return self.render(w, c, planes=p, **settings)  # type: ignore[arg-type]

            given = (ws, cameras) if planes is None else (ws, cameras, planes)
            rendered = self._each(prefixes, alone, *given)
            return Rendering(*(torch.cat(maps) for maps in zip(*map(_maps, rendered), strict=True)))
        batch = max(len(ws), len(cameras))
        counts = len(ws), len(ws if planes is None else planes), len(cameras)
        if not {*counts} <= {1, batch}:
            raise ValueError(
                "{} latents, {} planes and {} cameras do not fit: ".format(*counts)
                + "equal counts pair up, a single one serves all."
            )
        if planes is None and len(ws) == 1:
            planes = self.planes(ws, noise_mode, generator)

        def some(w: Tensor, c: Tensor, p: Tensor | None, rays: int | None) -> Rendering:
            made = self.planes(w, noise_mode, generator) if p is None else p
            return self._render(w, c, made, resolution, jitter, generator, quality, rays)

        if self.memory_limit is None or torch.is_grad_enabled():
            return some(ws, cameras, planes, chunk)
        if isinstance(jitter, tuple):
            raise ValueError("Under a limit of memory there are no tensors as jitter: give a generator.")
        share = portion(self, self.memory_limit, batch, resolution, quality, planes is None)
        return _in_portions(some, batch, (ws, cameras, planes), share, chunk)

    def _render(
        self,
        ws: Tensor,
        cameras: Tensor,
        planes: Tensor,
        resolution: int,
        jitter: Jitter,
        generator: torch.Generator | None,
        quality: str,
        chunk: int | None,
    ) -> Rendering:
        """`render`, of planes that are made."""
        batch = max(len(ws), len(cameras), len(planes))
        cameras = cameras.expand(batch, -1).to(planes.dtype)
        marched = self.march(planes, cameras, resolution, None, jitter, chunk, quality=quality)
        square = (resolution, resolution)
        features, depth, mask = (
            v.transpose(1, 2).unflatten(2, square) for v in (marched.features, marched.depth, marched.weight)
        )
        ws = ws.expand(batch, -1, -1)
        if quality == "fast":
            parts = zip(features.split(_FRAMES), ws.split(_FRAMES), strict=True)
            dtype = fast_dtype(features.device)
            image = torch.cat([self.superresolution(f, w, generator, dtype) for f, w in parts])
        else:
            image = self.superresolution(features.contiguous(), ws, generator)
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
    ) -> Marched:
        """Renders single pixels: planes [B or 1,3,32,P,P], cameras [B,25], pixels [M] or [B,M] (None: all).

        Pixels are counted row by row in a picture of `resolution` x `resolution`. Samples whose weight stays
        under `floor` get no gradient. Of quality "fast" there is none at all.

        Raises:
            ValueError: unknown quality, or gradients are wanted of a "fast" picture.
        """
        check_quality(quality)
        if quality == "fast":
            inputs = (planes, cameras, *self.decoder.parameters())
            if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
                raise ValueError("quality='fast' gives no gradients: use 'exact', or torch.no_grad().")
            compiled_elsewhere = self.renderer == "compiled" and planes.device.type not in ("cpu", "meta")
            if compiled_elsewhere or not isinstance(self.decoder, Decoder):
                quality = "exact"  # all that the compiled renderer knows there; no bounds of other decoders
        origins, directions = rays(cameras, resolution, pixels)
        if chunk is None and (quality == "fast" or not torch.is_grad_enabled()):
            budget = _CPU_SAMPLES if planes.device.type == "cpu" else _DEVICE_SAMPLES
            chunk = budget // (
                len(cameras) * max(self.config.depth_resolution, self.config.depth_resolution_importance)
            )
        if quality == "fast":
            grid = self.grids.of(planes, self.decoder, self.config.box_warp, self.renderer)
            return render_rays_fast(
                planes,
                self.decoder,
                self.config,
                grid,
                origins,
                directions,
                jitter,
                max(1, chunk or 1) * len(cameras),
                renderer=self.renderer,
            )
        return render_rays(
            planes.expand(len(cameras), -1, -1, -1, -1),
            self.decoder,
            self.config,
            origins,
            directions,
            jitter,
            chunk,
            floor,
            renderer=self.renderer,
        )

    def sample(
        self, ws: Tensor, points: Tensor, *, planes: Tensor | None = None, chunk: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The radiance field: points [B, M, 3] -> raw density [B, M, 1] and colour features [B, M, 32].

        The density that is marched is softplus(raw - 1). Colours lie in about [0, 1]; the first three: rgb.
        """
        if planes is None:
            planes = self.planes(ws)
        if self.people is not None:
            each = self._each(
                ("decoder.",), lambda w, p, t: self.sample(w, p, planes=t, chunk=chunk), ws, points, planes
            )
            densities, colors = zip(*each, strict=True)
            return torch.cat(densities), torch.cat(colors)
        planes = planes.expand(len(points), -1, -1, -1, -1)
        out = [
            self.decoder(mean_features(planes, part, self.config.box_warp))
            for part in points.split(chunk or points.shape[1], dim=1)
        ]
        return torch.cat([o[0] for o in out], dim=1), torch.cat([o[1] for o in out], dim=1)

    def _each(self, prefixes: tuple[str, ...], work: Callable[..., Result], *batches: Tensor) -> list[Result]:
        """`work` on each picture's part of the batches, its person in effect on modules of these prefixes."""
        people = self.people
        assert people is not None
        if any(len(batch) not in (1, len(people)) for batch in batches):
            raise ValueError(
                f"There are {len(people)} persons, one for each picture, but the batches have "
                f"{[len(batch) for batch in batches]}."
            )
        self.people = None
        results = []
        try:
            for i, person in enumerate(people):
                with person(prefixes):
                    results.append(
                        work(*(batch[i : i + 1] if len(batch) > 1 else batch for batch in batches))
                    )
        finally:
            self.people = people
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
