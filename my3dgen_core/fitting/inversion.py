"""Photos to latents: the projection of PTI and EG3D-projector, in batches and on part of the pixels."""

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
from .inversion_cache import InversionCache
from .lpips import check_backbone, distance, weights_hash
from .photo_objective import PhotoObjective, check_photos
from .schedule import ramp

SPACES = ("w", "w+")
_W_SAMPLES = 600
_REGISTERED = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Parts of a stage after which cameras are corrected. Head and cameras take turns: each can only be as
right as the other lets it."""


@dataclass(frozen=True)
class InversionConfig:
    """Settings of `invert`. The learning rate rises over the first 5 % and falls over the last quarter.

    The defaults suit some twenty photos of one person and the starter; NVIDIA's generators take
    `InversionConfig(steps=400, lr=0.02)` for as near a fit.
    """

    steps: int = 25
    """Optimiser steps for every photo."""
    shared_steps: int = 60
    """Steps spent first on one latent for all photos, which are of one person as a rule: each photo then
    starts from the person instead of the mean face and needs far fewer steps of its own. 0, and some 300
    steps, for photos of different people."""
    one_look: bool = False
    """All photos show one look of the person, from several sides: one latent for all of them, found in
    `shared_steps` + `steps`."""
    space: str = "w"
    """"w": one vector for all layers; "w+": one for each."""
    lr: float = 0.05
    seed: int = 0
    batch_size: int = 4
    """Photos worked on at the same time. On a CPU more is slower: the activations no longer fit the cache."""
    rays_per_image: int = 1024
    """Raw pixels looked at in a step, on a lattice over the face; 0: the whole picture, at both
    resolutions."""
    perceptual: float = 0.5
    """Weight of the perceptual term."""
    perceptual_backbone: str = "laplacian"
    """"laplacian", or "lpips_alex" or "lpips_vgg" with weights of your own (`perceptual`)."""
    perceptual_dir: str | None = None
    """Folder of those weights; None: models/my3dgen/perceptual where the program runs."""
    w_noise: float = 0.05
    """Noise added to w early on, in units of its standard deviation: keeps the search off narrow minima."""
    refine_cameras: bool = False
    """The photos' cameras are corrected on the way, by angles that stay near the labels (`refinement`): on
    what all photos share while that is found, or where they share nothing, on each photo's own latent. More
    `shared_steps`, say 300, find both better."""
    preview_every: int = 25
    """Steps between two preview pictures; 0: none."""
    cache_dir: str | None = None
    """Folder that keeps what is found: the same photos are not inverted twice, and an inversion that was cut
    off goes on behind its last whole batch (see `inversion_cache`). None: nothing is kept."""

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
        """The settings that decide a stage's result beside its steps and photos, as plain values."""
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
    """Finds the latent of each photo.

    Args:
        generator: frozen; apply an identity around the call to invert into a person (`personalized`).
        images: [N, 3, H, H] in [-1, 1], any size.
        cameras: [N, 25].
        masks: [N, 1, H, H], 1 = invented pixel, not looked at.
        on_step: called as (step, total, losses, preview [1, 3, R, R] or None); what it raises ends the work.
            Where a stage was found in the cache it is called once for all its steps, with "cached" among the
            losses: how many photos' own latents were found so far.

    Returns:
        `Latents` with ws [N, num_ws, w_dim], the cameras (corrected, if asked for), and the mean loss of the
        last tenth of the steps [N].

    Raises:
        ValueError: photos, masks and cameras that do not belong together, pixels out of range.
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
                settings["refinement"] = (_REGISTERED, FINGERPRINT_SETTINGS)
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
        """The cameras, corrected if that was asked for."""
        return self.refinement.cameras().detach()

    @cached_property
    @torch.no_grad()
    def w_std(self) -> Tensor:
        """Root mean square distance of latents from their mean."""
        config, device = self.generator.config, self.w_avg.device
        z = normal((_W_SAMPLES, config.z_dim), seeded(self.config.seed, device), device)
        front = front_camera(config, device)
        w = self.generator.mapping(z, front.expand(len(z), -1))[:, 0]
        return (w - w.mean(0)).square().sum(1).mean().sqrt()

    def stage(self, start: Tensor, index: list[int] | None, steps: int) -> tuple[Tensor, Tensor]:
        """`descend`, or what the cache has of it."""
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
            told = {"loss": float(losses.mean()), "cached": float(self.cached)}
            self.on_step(self.done, self.total, told, None)
        return ws, losses

    def descend(self, start: Tensor, index: list[int] | None, steps: int) -> tuple[Tensor, Tensor]:
        """Optimises latents [B or 1, rows, w_dim]; index None: one latent, a few random photos a step.

        Chance starts anew from the seed: the result does not depend on what was done before.
        """
        config, num_ws = self.config, self.generator.num_ws
        self.draw = RngStreams(config.seed, self.w_avg.device)
        variable = start.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([variable], betas=(0.9, 0.999))
        registered: set[int] = set()
        if config.refine_cameras and (index is None or not config.shared_steps):
            registered = {round(part * steps) for part in _REGISTERED}
        tail = max(1, steps // 10)
        losses = torch.zeros(len(variable), device=variable.device)
        for step in range(steps):
            t = step / steps
            optimizer.param_groups[0]["lr"] = config.lr * ramp(step, steps)
            if step in registered:
                self._register(variable.detach(), index)
            chosen = self.few.take(min(4, len(self.objective))) if index is None else index
            noise = self.w_std * config.w_noise * max(0.0, 1 - t / 0.75) ** 2 / math.sqrt(variable.shape[-1])
            drawn = normal(tuple(variable.shape), self.draw.samples, variable.device)
            ws = (variable + noise * drawn).expand(-1, num_ws, -1)
            each = self._loss(ws, chosen)
            optimizer.zero_grad(set_to_none=True)
            each.sum().backward()
            optimizer.step()
            if step >= steps - tail:
                losses += each.detach().mean() if index is None else each.detach()
            self._report(each.detach().mean(), variable, chosen)
        return variable.detach(), losses / tail

    def _rows(self, index: list[int] | None) -> list[int]:
        return list(range(len(self.objective))) if index is None else index

    def _register(self, ws: Tensor, index: list[int] | None) -> None:
        rows = self._rows(index)
        ws = ws.expand(-1, self.generator.num_ws, -1)
        self.refinement.gauss_newton_step(
            self.generator, ws, self.objective.raw, self.objective.valid_raw, rows
        )
        if index is None:
            self.refinement.remove_mean()

    def _loss(self, ws: Tensor, index: list[int]) -> Tensor:
        planes = self.generator.planes(ws)
        cameras = self.refinement.cameras(index)
        planes = planes.expand(len(index), -1, -1, -1, -1)
        if self.objective.small is not None:
            return self.objective.shrunk(planes, cameras, index, self.draw)
        if self.config.rays_per_image == 0:
            return self.objective.whole(ws.expand(len(index), -1, -1), planes, cameras, index, self.draw)
        side = min(self.objective.resolution, math.ceil(math.sqrt(self.config.rays_per_image)))
        stride = self.objective.resolution // side
        return self.objective.lattice(planes, cameras, index, stride, self.draw)

    def _report(self, loss: Tensor, variable: Tensor, index: list[int]) -> None:
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
