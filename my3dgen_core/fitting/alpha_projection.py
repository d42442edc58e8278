"""Projection of photos into the alpha space of a person's anchors (MyStyle, section 3.3).

Photos smaller than the generator's raw rendering are compared at their own size, for super-resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.progress import OnStep
from ..common.rng import RngStreams
from ..eg3d import Generator
from ..person.latents import Latents
from .divergence import DivergenceCheck
from .photo_objective import PhotoObjective, check_photos
from .schedule import ramp

SHARPNESS = 100.0
"""Inverse temperature of the softplus that keeps weights above -beta."""
COARSE_ROWS = 12
"""Number of coarse layers whose own weights are penalized in P+."""


@dataclass(frozen=True)
class ProjectionConfig:
    """Settings of `AlphaSpace.project`.

    The learning rate follows `schedule.ramp`. Field names must not change: the alpha-space study stores and
    hashes all of them. The core itself hashes none.
    """

    steps: int = 150
    """Optimizer steps for each batch of photos."""
    plus: bool = False
    """Optimize separate weights for each layer (P+): a closer fit that is less constrained to the person.
    The resulting `alphas` are the mean over the layers."""
    beta: float | None = None
    """Lower bound -beta of the weights; None: the space's own. MyStyle takes .03 here and .02 for edits."""
    lr: float = 0.01
    """Peak learning rate of Adam."""
    delta_weight: float = 10.0
    """Weight of the penalty on the coarse layers' offsets from the common weights (P+)."""
    rays_per_image: int = 256
    """Raw pixels sampled per photo and step, on a lattice over the face; 0: the whole rendering, at both
    resolutions."""
    perceptual: float = 0.5
    """Weight of the perceptual term."""
    batch_size: int = 4
    """Photos optimized at the same time."""
    seed: int = 0
    """Seed of the pixel and ray sampling."""
    preview_every: int = 25
    """Steps between two preview renderings; 0: none."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("steps and batch_size must be at least 1.")
        if self.beta is not None and not self.beta >= 0:
            raise ValueError(f"beta must be 0 or more, but it is {self.beta}.")


def project_photos(
    anchors: Latents,
    generator: Generator,
    images: Tensor,
    cameras: Tensor,
    config: ProjectionConfig,
    masks: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Latents:
    """Project photos into the alpha space of `anchors`; see `AlphaSpace.project`.

    Args:
        anchors: [N, num_ws, w_dim] of the person.
        generator: with the person's identity in effect.
        images: [n, 3, H, H] in [-1, 1].
        cameras: [n, 25].
        config: `beta` None means 0 here.
        masks: [n, 1, H, H], 1 = ignored pixel.
        on_step: progress callback (`common.progress.OnStep`).

    Returns:
        `Latents` [n, num_ws, w_dim] with alphas [n, N] and losses [n].

    Raises:
        ValueError: photos, masks and cameras that do not match, or anchors of another generator.
        FloatingPointError: the loss became NaN, infinite or far larger than its best.
    """
    check_photos(images, masks, cameras)
    base_hash = generator.base_hash()
    if anchors.base_hash not in (None, base_hash):
        raise ValueError("These anchors belong to another generator. Load the one they were found in.")
    with torch.inference_mode(False), torch.enable_grad():
        run = Projection(generator, anchors.ws, images, cameras, config, masks, on_step)
        order = list(range(len(images)))
        parts = [
            run.descend(order[first : first + config.batch_size])
            for first in range(0, len(images), config.batch_size)
        ]
        ws, weights, losses = (torch.cat(values) for values in zip(*parts, strict=True))
    return Latents(ws, run.cameras, losses, weights, base_hash)


class Projection:
    """State of one projection: anchors, photos, cameras and RNG streams."""

    def __init__(
        self,
        generator: Generator,
        anchors: Tensor,
        images: Tensor,
        cameras: Tensor,
        config: ProjectionConfig,
        masks: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        """Copy anchors, photos and cameras to the generator's device; arguments as in `project_photos`."""
        device = generator.w_avg.device
        self.generator, self.config, self.on_step = generator, config, on_step
        self.objective = PhotoObjective(generator, images, masks, config.perceptual)
        self.anchors = anchors.detach().clone().to(device, torch.float32)
        self.cameras = cameras.detach().clone().to(device, torch.float32)
        self.draw = RngStreams(config.seed, device)
        self.total = math.ceil(len(images) / config.batch_size) * config.steps
        self.done = 0

    def constrain_alpha(self, free: Tensor) -> Tensor:
        """Map unconstrained numbers [..., N] to weights [..., N] that sum to 1 and are at least -beta.

        MyStyle divides softplus(free + beta) - beta by its sum and penalizes the distance of sum(free) from
        1. Here the free numbers are shifted to sum 1, which needs no penalty, and the positive part is
        normalized instead, because dividing by a sum below 1 would push weights under -beta.
        """
        beta = self.config.beta or 0.0
        free = free - free.mean(-1, keepdim=True) + 1 / free.shape[-1]
        positive = F.softplus(free + beta, beta=SHARPNESS) + 1e-12
        return positive / positive.sum(-1, keepdim=True) * (1 + free.shape[-1] * beta) - beta

    def alphas_to_ws(self, weights: Tensor) -> Tensor:
        """Combine the anchors by weights [B, 1 or num_ws, N] into ws [B, num_ws, w_dim]."""
        rows = weights.expand(-1, self.anchors.shape[1], -1)
        return torch.einsum("bla,alw->blw", rows, self.anchors)

    def descend(self, index: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Optimize the weights of one batch of photos.

        Args:
            index: rows of the photos in the batch, B of them.

        Returns:
            ws [B, num_ws, w_dim], weights [B, N] (in P+ their mean over the layers), and the mean photo loss
            of the last tenth of the steps [B].
        """
        config, device, count = self.config, self.anchors.device, len(self.anchors)
        alpha = torch.full((len(index), 1, count), 1 / count, device=device)
        delta = torch.zeros(len(index), self.anchors.shape[1] if config.plus else 1, count, device=device)
        variables = [alpha, delta] if config.plus else [alpha]
        for variable in variables:
            variable.requires_grad_(True)
        optimizer = torch.optim.Adam(variables, lr=config.lr)
        tail = max(1, config.steps // 10)
        losses = torch.zeros(len(index), device=device)
        check = DivergenceCheck()
        for step in range(config.steps):
            optimizer.param_groups[0]["lr"] = config.lr * ramp(step, config.steps)
            ws = self.alphas_to_ws(self.constrain_alpha(alpha + delta))
            photo = self._photo_loss(ws, index)
            check.add(photo)
            if check.diverged:
                advice = f"Lower the learning rate (lr), which is {config.lr:g}."
                raise FloatingPointError(check.message("projection", self.done, advice))
            penalty = delta[:, :COARSE_ROWS].abs().mean((1, 2))
            loss = (photo + config.delta_weight * penalty).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step >= config.steps - tail:
                losses += photo.detach() / tail
            self._report(photo.detach().mean(), ws, index)
        weights = self.constrain_alpha(alpha + delta).detach()
        return self.alphas_to_ws(weights), weights.mean(1), losses

    def _photo_loss(self, ws: Tensor, index: list[int]) -> Tensor:
        """Return the losses [B] of ws [B, num_ws, w_dim] on the photos `index`."""
        planes, cameras, rays = self.generator.planes(ws), self.cameras[index], self.config.rays_per_image
        return self.objective.sampled(ws, planes, cameras, index, rays, self.draw)

    def _report(self, loss: Tensor, ws: Tensor, index: list[int]) -> None:
        """Count a step and call `on_step`."""
        self.done += 1
        if self.on_step is None:
            return
        every = self.config.preview_every
        preview = None
        if every and (self.done % every == 0 or self.done == self.total):
            with torch.no_grad():
                preview = self.generator.render(ws[:1].detach(), self.cameras[index[:1]]).image
        self.on_step(self.done, self.total, {"loss": float(loss)}, preview)
