"""Alpha space: the person as weighted means of their anchors (My3DGen, section 3.3; MyStyle, section 3).

A latent of the person is sum(alpha_i * anchor_i) with weights that sum to 1. All weights at least 0 is the
convex hull; all at least -beta is the dilated hull: a little more expressive, a little less safe.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ..camera import blend_cameras, interpolate_rigid
from ..camera.interpolation import precise_dtype
from ..common.progress import OnStep
from ..common.rng import uniform
from ..eg3d import Generator
from ..fitting.alpha_projection import ProjectionConfig, project_photos
from ..person.latents import Latents

SLACK = 1e-4
"""Rounding forgiven in weights that come from outside."""


class AlphaSpace:
    """The anchors of one person and the weights over them.

    Every method that makes latents returns `Latents` with alphas [n, N] that sum to 1 and are at least
    -beta, with cameras and the anchors' base_hash. Example: `AlphaSpace(identity.anchors).sample(8, seed=0)`.
    """

    def __init__(self, anchors: Latents, beta: float = 0.02) -> None:
        """anchors: N latents, usually with cameras. beta: how far a weight may fall below 0; 0 is the hull.

        Raises:
            ValueError: beta is negative or not finite.
        """
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be 0 or more, but it is {beta}.")
        self.anchors = anchors
        self.beta = float(beta)

    def __len__(self) -> int:
        return len(self.anchors)

    # --- Making latents -----------------------------------------------------------------------------------

    def sample(self, n: int, seed: int, anchors_per_sample: int = 3, temperature: float = 1.0) -> Latents:
        """Random faces of the person: a few anchors each, with random weights (the paper takes 3).

        Args:
            n: how many.
            seed: same seed, same faces, on every device.
            anchors_per_sample: anchors mixed in each; the others weigh 0.
            temperature: 1 draws evenly from the simplex over those anchors; lower comes near single anchors,
                higher near their mean.

        Raises:
            ValueError: n below 1, more anchors asked for than there are, a temperature not above 0.
        """
        if n < 1:
            raise ValueError(f"At least one sample must be asked for, not {n}.")
        if not 1 <= anchors_per_sample <= len(self):
            raise ValueError(
                f"Between 1 and {len(self)} anchors can be mixed, but {anchors_per_sample} were asked for."
            )
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}.")
        device = self.anchors.ws.device
        draw = torch.Generator().manual_seed(seed)
        chosen = uniform((n, len(self)), draw, device).topk(anchors_per_sample, dim=1).indices
        exponential = -torch.log1p(-uniform((n, anchors_per_sample), draw, device))
        weights = torch.softmax(exponential.clamp(min=1e-12).log() / temperature, dim=1)
        weights = weights * (1 + anchors_per_sample * self.beta) - self.beta  # the hull of the few, dilated
        return self.combine(torch.zeros(n, len(self), device=device).scatter(1, chosen, weights))

    def combine(self, weights: Tensor) -> Latents:
        """The latents of given weights [n, N].

        Cameras are mixed by the same weights and made rigid again, at the mixed distance.

        Raises:
            ValueError: weights of another number of anchors, that do not sum to 1 or lie below -beta.
        """
        weights = weights.to(self.anchors.ws)
        if weights.ndim != 2 or weights.shape[1] != len(self):
            raise ValueError(f"Weights must have shape [n, {len(self)}], not {list(weights.shape)}.")
        if weights.device.type != "meta":
            off = float((weights.sum(1) - 1).abs().max())
            if not off <= SLACK or float(weights.min()) < -self.beta - SLACK:
                raise ValueError(
                    f"Weights must sum to 1 and be at least {-self.beta}: these miss the sum by up to "
                    f"{off:.3g}, and the lowest is {float(weights.min()):.3g}. Use project_weights."
                )
        anchors = self.anchors
        ws = torch.einsum("na,alw->nlw", weights, anchors.ws)
        cameras = None if anchors.cameras is None else blend_cameras(weights, anchors.cameras)
        return Latents(ws, cameras, alphas=weights, base_hash=anchors.base_hash)

    def interpolate(self, i: int, j: int, t: Tensor) -> Latents:
        """From anchor i (t = 0) to anchor j (t = 1): latents, weights and cameras move together.

        The paper interpolates the 25 numbers of the cameras as they are; here the results are true cameras
        (`camera.interpolate_rigid`), or faces halfway between two profiles would be cut open.

        Args:
            t: [n], within [-beta, 1 + beta].

        Raises:
            ValueError: no such anchor, or t outside its range.
        """
        anchors = self.anchors
        for index in (i, j):
            if not 0 <= index < len(self):
                raise ValueError(f"There is no anchor {index}: these are 0 to {len(self) - 1}.")
        t = t.to(anchors.ws).reshape(-1)
        if t.device.type != "meta" and not bool(
            ((t >= -self.beta - SLACK) & (t <= 1 + self.beta + SLACK)).all()
        ):
            raise ValueError(
                f"t must lie within [{-self.beta}, {1 + self.beta}], but reaches from {float(t.min()):.3g} "
                f"to {float(t.max()):.3g}. A larger beta allows more."
            )
        ws = torch.lerp(anchors.ws[i], anchors.ws[j], t[:, None, None])
        line = torch.arange(len(self), device=t.device)
        start, end = ((line == index).to(t) for index in (i, j))
        cameras = anchors.cameras
        if cameras is not None:
            cameras = interpolate_rigid(cameras[i : i + 1], cameras[j : j + 1], t)
        return Latents(ws, cameras, alphas=torch.lerp(start, end, t[:, None]), base_hash=anchors.base_hash)

    def project(
        self,
        generator: Generator,
        images: Tensor,
        cameras: Tensor,
        config: ProjectionConfig | None = None,
        masks: Tensor | None = None,
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> Latents:
        """Photos to weights: an inversion that cannot leave the person (MyStyle, section 3.3).

        What a mask hides comes from the person: inpainting.

        Args:
            generator: the person's; apply the identity around the call (`personalized`).
            images: [n, 3, H, H] in [-1, 1], any size.
            cameras: [n, 25].
            config: None: the defaults of `ProjectionConfig`.
            masks: [n, 1, H, H], 1 = pixel not looked at.
            on_step: called as (step, total, losses, preview [1, 3, R, R] or None); what it raises ends the
                work.
            settings: fields of `ProjectionConfig` in place of the config's, such as steps=50, plus=True.

        Returns:
            `Latents` with the photos' cameras and the mean photo loss of the last tenth of the steps [n].

        Raises:
            ValueError: photos, masks and cameras that do not belong together; anchors of another generator.
            FloatingPointError: the loss became NaN or infinite.
        """
        config = dataclasses.replace(config or ProjectionConfig(), **settings)
        if config.beta is None:
            config = dataclasses.replace(config, beta=self.beta)
        return project_photos(self.anchors, generator, images, cameras, config, masks, on_step)

    # --- Weights ------------------------------------------------------------------------------------------

    def weights_of(self, ws: Tensor) -> Tensor:
        """The weights [n, N], summing to 1, whose combination is nearest to ws [n, num_ws, w_dim].

        Least squares; of several solutions the one nearest to equal weights. They may lie below -beta:
        `project_weights` brings them back.
        """
        shape = self.anchors.ws.shape[1:]
        if ws.ndim != 3 or ws.shape[1:] != shape:
            raise ValueError(
                f"The anchors are latents of shape {list(shape)}, but these have {list(ws.shape)}. They "
                "belong to another generator."
            )
        difference = (ws - self.anchors.ws.mean(0)).flatten(1)
        return (self._coordinates(difference, 1e-9) + 1 / len(self)).to(ws.dtype)

    def coordinates(self, vector: Tensor, ridge: float = 1e-3) -> Tensor:
        """How the weights change when the latent moves by [w_dim] or [num_ws, w_dim]: gamma [N], sum 0.

        gamma = (A A^T + ridge)^-1 A d with centred anchors A (MyStyle, section 3.4). The ridge, relative to
        the anchors' mean spread, keeps anchors that nearly coincide from taking huge opposite weights.
        """
        rows = vector.to(self.anchors.ws).expand(self.anchors.ws.shape[1:])
        return self._coordinates(rows.reshape(1, -1), ridge)[0].to(vector.dtype)

    def project_weights(self, weights: Tensor, steps: int = 500) -> Tensor:
        """The allowed weights (sum 1, at least -beta) whose latent is nearest: [n, N] -> [n, N].

        A quadratic program, solved by accelerated projected gradients (FISTA with restarts). Weights that
        are allowed already come back, to rounding.
        """
        goal = weights.to(precise_dtype(weights))
        gram = self._gram().to(goal)
        step = 1 / torch.linalg.matrix_norm(gram, ord=2).clamp(min=1e-30)
        at = ahead = self._allowed(goal)
        momentum = torch.ones_like(goal[:, :1])
        for _ in range(steps):
            moved = self._allowed(ahead - step * (ahead - goal) @ gram)
            uphill = ((ahead - moved) * (moved - at)).sum(1, keepdim=True) > 0
            following = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
            ahead = moved + torch.where(uphill, 0.0, (momentum - 1) / following) * (moved - at)
            at, momentum = moved, following
        return at.to(weights.dtype)

    def _allowed(self, weights: Tensor) -> Tensor:
        """Nearest weights that sum to 1 and are at least -beta, by sorting (Duchi et al., ICML 2008)."""
        count = weights.shape[1]
        free = 1 + count * self.beta
        falling = (weights + self.beta).sort(dim=1, descending=True).values
        rank = torch.arange(1, count + 1, device=weights.device)
        excess = (falling.cumsum(1) - free) / rank
        kept = (falling > excess).sum(1, keepdim=True).clamp(min=1)
        return (weights + self.beta - excess.gather(1, kept - 1)).clamp(min=0) - self.beta

    def _centred(self) -> Tensor:
        flat = self.anchors.ws.flatten(1)
        flat = flat.to(precise_dtype(flat))
        return flat - flat.mean(0)

    def _gram(self) -> Tensor:
        centred = self._centred()
        return centred @ centred.T

    def _coordinates(self, vectors: Tensor, ridge: float) -> Tensor:
        """Least-squares coordinates [n, N] of [n, num_ws * w_dim] in the centred anchors, each of sum 0."""
        centred = self._centred()
        gram = centred @ centred.T
        spread = (ridge * gram.trace() / len(self)).clamp(min=1e-30)
        damped = gram + spread * torch.eye(len(self), device=gram.device, dtype=gram.dtype)
        return torch.linalg.solve(damped, centred @ vectors.to(centred).T).T
