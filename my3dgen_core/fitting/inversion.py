"""GAN inversion of photos, after PTI and EG3D-projector, in batches and on part of the pixels."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..common.progress import OnStep
from ..common.rng import RngStreams, ShuffledIndices, normal, seeded
from ..eg3d import Generator
from ..eg3d.config import front_camera
from ..person.latents import Latents
from .camera_refinement import FINGERPRINT_SETTINGS, CameraRefinement
from .divergence import DivergenceCheck
from .inversion_cache import InversionCache
from .lpips import check_backbone, distance, weights_hash
from .photo_objective import PhotoObjective, check_photos
from .schedule import ramp

SPACES = ("w", "w+")
"""Latent spaces: one vector for all layers, or one for each."""
_W_SAMPLES = 600
"""Random latents from which the standard deviation of W is estimated."""
_REFINED_AT = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Fractions of a stage at which cameras are refined, alternating with the latent because each limits the
accuracy of the other. Part of the cache key."""


@dataclass(frozen=True)
class InversionConfig:
    """Settings of `invert`.

    The learning rate follows `schedule.ramp`. The defaults suit about twenty photos of one person and the
    starter; with NVIDIA's generators `InversionConfig(steps=400, lr=0.02)` gives a comparable fit.

    Field names must not change: all fields but `steps`, `shared_steps`, `batch_size`, `preview_every`,
    `cache_dir` and `perceptual_dir` are hashed by name into the keys of the inversion cache
    (`fingerprint_settings`), and the studies store and hash all of them.
    """

    steps: int = 25
    """Optimizer steps for each batch of photos. Enters cache keys as a number."""
    shared_steps: int = 60
    """Steps spent first on one latent for all photos of a person, from which each photo starts. It then needs
    far fewer steps of its own than from the mean face. For photos of different people: 0, with about 300
    `steps`."""
    one_look: bool = False
    """Fit one latent to all photos, which show one look from several sides, in `shared_steps` + `steps`."""
    space: str = "w"
    """"w": one vector for all layers; "w+": one for each."""
    lr: float = 0.05
    """Peak learning rate of Adam."""
    seed: int = 0
    """Seed of the noise, the pixel and ray sampling, and the order of photos."""
    batch_size: int = 4
    """Photos optimized at the same time. On a CPU more is slower: the activations no longer fit the cache."""
    rays_per_image: int = 1024
    """Raw pixels sampled per photo and step, on a lattice over the face; 0: the whole rendering, at both
    resolutions."""
    perceptual: float = 0.5
    """Weight of the perceptual term."""
    perceptual_backbone: str = "laplacian"
    """"laplacian", or "lpips_alex" or "lpips_vgg" with weights that the user supplies (`lpips`)."""
    perceptual_dir: str | None = None
    """Folder of the LPIPS weights; None: models/my3dgen/perceptual in the working directory. Not hashed; a
    hash of the weights is."""
    w_noise: float = 0.05
    """Noise added to w early on, in units of its standard deviation: avoids narrow minima."""
    refine_cameras: bool = False
    """Refine the cameras by small rotations (`camera_refinement`): during the shared stage, or if there is
    none, on each photo's own latent. More `shared_steps`, about 300, improve latents and cameras."""
    preview_every: int = 25
    """Steps between two preview renderings; 0: none. Not hashed."""
    cache_dir: str | None = None
    """Folder of the inversion cache (`inversion_cache`): the same photos are not inverted twice, and an
    interrupted inversion resumes after its last whole batch. None: no cache. Not hashed."""

    def __post_init__(self) -> None:
        check_backbone(self.perceptual_backbone)
        for name in ("cache_dir", "perceptual_dir"):
            if isinstance(getattr(self, name), Path):
                object.__setattr__(self, name, str(getattr(self, name)))
        if self.space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, not {self.space!r}.")
        if self.steps < 1 or self.shared_steps < 0 or self.batch_size < 1:
            raise ValueError("steps and batch_size must be at least 1, shared_steps at least 0.")

    @property
    def fingerprint_settings(self) -> dict[str, object]:
        """Fields that decide a stage's result, by name, as plain values for the cache key.

        The steps, the photos and the initial latents enter the key separately.
        """
        kept = dataclasses.asdict(self)
        for name in ("steps", "shared_steps", "batch_size", "preview_every", "cache_dir", "perceptual_dir"):
            del kept[name]
        return kept


def invert(
    generator: Generator,
    images: Tensor,
    cameras: Tensor,
    config: InversionConfig = InversionConfig(),
    masks: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Latents:
    """Find the latent of each photo by optimization (GAN inversion).

    Args:
        generator: not changed. Apply an identity around the call (`personalized`) to invert into a personal
            model.
        images: aligned photos [N, 3, H, H] in [-1, 1], any size.
        cameras: [N, 25], of the photos.
        config: settings.
        masks: [N, 1, H, H], 1 = ignored pixel.
        on_step: progress callback, called after each step as (step, total, losses, preview [1, 3, R, R] or
            None); an exception it raises ends the inversion. A stage found in the cache is reported once;
            "cached" among the losses is then the number of photos whose own latents were cached so far.

    Returns:
        `Latents` with ws [N, num_ws, w_dim], the cameras (refined, if asked for), and the mean loss of the
        last tenth of the steps [N].

    Raises:
        ValueError: photos, masks and cameras that do not match, or pixels out of range.
        FloatingPointError: the loss became NaN, infinite or far larger than its best.
    """
    check_photos(images, masks, cameras)
    with torch.inference_mode(False), torch.enable_grad():
        measure = distance(config.perceptual_backbone, config.perceptual_dir, generator.w_avg.device)
        objective = PhotoObjective(generator, images, masks, config.perceptual, distance=measure)
        objective.random_samples = False
        cameras = cameras.detach().clone().to(generator.w_avg.device, torch.float32)
        run = _Run(generator, objective, cameras, config, on_step)
        if config.cache_dir is not None:
            settings = config.fingerprint_settings | {"perceptual_weights": weights_hash(measure)}
            if config.refine_cameras:
                settings["refinement"] = (_REFINED_AT, FINGERPRINT_SETTINGS)
            run.cache = InversionCache(config.cache_dir, generator, settings, images, masks, cameras)
        start = run.w_avg.expand(1, -1, -1)
        if config.shared_steps:
            start = run.stage(start.clone(), None, config.shared_steps)[0]
        if config.one_look:
            ws, loss = run.stage(start.clone(), None, config.steps)
            ws = ws.expand(len(images), generator.num_ws, -1).clone()
            return Latents(ws, run.seen_from(), loss.repeat(len(images)), base_hash=generator.base_hash())
        found, losses = [], []
        for first in range(0, len(images), config.batch_size):
            index = list(range(len(images)))[first : first + config.batch_size]
            ws, loss = run.stage(start.expand(len(index), -1, -1).clone(), index, config.steps)
            found.append(ws)
            losses.append(loss)
        ws = torch.cat(found).expand(-1, generator.num_ws, -1).clone()
    return Latents(ws, run.seen_from(), torch.cat(losses), base_hash=generator.base_hash())


class _Run:
    """State of one inversion: photos, cameras, RNG streams and progress over all stages."""

    def __init__(
        self,
        generator: Generator,
        objective: PhotoObjective,
        cameras: Tensor,
        config: InversionConfig,
        on_step: OnStep | None,
    ) -> None:
        self.generator, self.objective = generator, objective
        self.refinement = CameraRefinement(cameras, config.refine_cameras)
        self.config, self.on_step = config, on_step
        self.cache: InversionCache | None = None
        self.cached = 0
        self.few = ShuffledIndices(len(objective), config.seed)
        rows = generator.num_ws if config.space == "w+" else 1
        self.w_avg = generator.w_avg.detach().clone().to(torch.float32).expand(1, rows, -1)
        batches = 1 if config.one_look else math.ceil(len(objective) / config.batch_size)
        self.total = config.shared_steps + batches * config.steps
        self.done = 0

    def seen_from(self) -> Tensor:
        """Return the cameras [N, 25], refined if that was asked for."""
        return self.refinement.cameras().detach()

    @cached_property
    @torch.no_grad()
    def w_std(self) -> Tensor:
        """Root mean square distance of random latents from their mean, a scalar tensor."""
        config, device = self.generator.config, self.w_avg.device
        z = normal((_W_SAMPLES, config.z_dim), seeded(self.config.seed, device), device)
        front = front_camera(config, device)
        w = self.generator.mapping(z, front.expand(len(z), -1))[:, 0]
        return (w - w.mean(0)).square().sum(1).mean().sqrt()

    def stage(self, start: Tensor, index: list[int] | None, steps: int) -> tuple[Tensor, Tensor]:
        """Return the cached result of `descend`, or compute it and cache it."""
        if self.cache is None:
            return self.descend(start, index, steps)
        rows = self._rows(index)
        angles = self.refinement.angles
        shapes = {"ws": start.shape, "losses": start.shape[:1], "angles": angles[rows].shape}
        key = self.cache.key(start, index, steps)
        found = self.cache.find(key, shapes)
        if found is None:
            ws, losses = self.descend(start, index, steps)
            self.cache.keep(key, {"ws": ws, "losses": losses, "angles": angles[rows]})
            return ws, losses
        ws, losses = found["ws"].to(start), found["losses"].to(start)
        angles[rows] = found["angles"].to(angles)
        self.done += steps
        self.cached += len(rows) if index is not None or self.config.one_look else 0
        if self.on_step is not None:
            figures = {"loss": float(losses.mean()), "cached": float(self.cached)}
            self.on_step(self.done, self.total, figures, None)
        return ws, losses

    def descend(self, start: Tensor, index: list[int] | None, steps: int) -> tuple[Tensor, Tensor]:
        """Optimize the latents of one stage.

        The RNG restarts from the seed, so the result does not depend on earlier stages.

        Args:
            start: initial latents [B or 1, rows, w_dim]; rows is 1 in W, num_ws in W+.
            index: rows of the photos, one latent each; None: one latent for all, a few random photos a step.
            steps: optimizer steps.

        Returns:
            latents of the shape of `start`, and the mean loss of the last tenth of the steps [B or 1].
        """
        config, num_ws = self.config, self.generator.num_ws
        self.draw = RngStreams(config.seed, self.w_avg.device)
        variable = start.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([variable], betas=(0.9, 0.999))
        refined_at: set[int] = set()
        if config.refine_cameras and (index is None or not config.shared_steps):
            refined_at = {round(fraction * steps) for fraction in _REFINED_AT}
        tail = max(1, steps // 10)
        losses = torch.zeros(len(variable), device=variable.device)
        check = DivergenceCheck(math.ceil(len(self.objective) / 4) if index is None else 1)
        for step in range(steps):
            t = step / steps
            optimizer.param_groups[0]["lr"] = config.lr * ramp(step, steps)
            if step in refined_at:
                self._refine_cameras(variable.detach(), index)
            chosen = self.few.take(min(4, len(self.objective))) if index is None else index
            noise = self.w_std * config.w_noise * max(0.0, 1 - t / 0.75) ** 2 / math.sqrt(variable.shape[-1])
            drawn = normal(tuple(variable.shape), self.draw.samples, variable.device)
            ws = (variable + noise * drawn).expand(-1, num_ws, -1)
            each = self._loss(ws, chosen)
            check.add(each)
            if check.diverged:
                advice = f"Lower the learning rate, which is {config.lr:g}."
                raise FloatingPointError(check.message("inversion", self.done, advice))
            optimizer.zero_grad(set_to_none=True)
            each.sum().backward()
            optimizer.step()
            if step >= steps - tail:
                losses += each.detach().mean() if index is None else each.detach()
            self._report(each.detach().mean(), variable, chosen)
        return variable.detach(), losses / tail

    def _rows(self, index: list[int] | None) -> list[int]:
        """Return the rows of the photos of a stage."""
        return list(range(len(self.objective))) if index is None else index

    def _refine_cameras(self, ws: Tensor, index: list[int] | None) -> None:
        """Refine the cameras of the photos `index` (None: all) to latents [B or 1, rows, w_dim]."""
        rows = self._rows(index)
        ws = ws.expand(-1, self.generator.num_ws, -1)
        self.refinement.gauss_newton_step(
            self.generator, ws, self.objective.raw, self.objective.valid_raw, rows
        )
        if index is None:
            self.refinement.remove_mean()

    def _loss(self, ws: Tensor, index: list[int]) -> Tensor:
        """Return the losses [B] of ws [B or 1, num_ws, w_dim] on the photos `index`."""
        planes, cameras = self.generator.planes(ws), self.refinement.cameras(index)
        ws, planes = ws.expand(len(index), -1, -1), planes.expand(len(index), -1, -1, -1, -1)
        return self.objective.sampled(ws, planes, cameras, index, self.config.rays_per_image, self.draw)

    def _report(self, loss: Tensor, variable: Tensor, index: list[int]) -> None:
        """Count a step and call `on_step`."""
        self.done += 1
        if self.on_step is None:
            return
        every = self.config.preview_every
        preview = None
        if every and (self.done % every == 0 or self.done == self.total):
            with torch.no_grad():
                ws = variable[:1].detach().expand(-1, self.generator.num_ws, -1)
                preview = self.generator.render(ws, self.refinement.cameras(index[:1])).image
        self.on_step(self.done, self.total, {"loss": float(loss)}, preview)
