"""Alpha space: affine combinations of a person's anchors (My3DGen, section 3.3; MyStyle, section 3).

A latent of the person is sum(alpha_i * anchor_i) with weights that sum to 1. Weights of at least 0 span the
convex hull of the anchors; weights of at least -beta span the dilated hull, which is more expressive but less
certain to show the person.
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
from ..person.latents import Latents, check_not_empty

SLACK = 1e-4
"""Tolerance for rounding in weights that callers supply."""


class AlphaSpace:
    """Alpha space of one person: N anchors and the admissible weights over them.

    Methods that make latents return `Latents` with alphas [n, N] that sum to 1 and are at least -beta, with
    cameras (if the anchors have them) and the anchors' base_hash. Example:
    `AlphaSpace(identity.anchors).sample(8, seed=0)`.
    """

    def __init__(self, anchors: Latents, beta: float = 0.02) -> None:
        """Store the anchors.

        Args:
            anchors: N latents, usually with cameras.
            beta: largest amount by which a weight may fall below 0; 0 is the convex hull.

        Raises:
            ValueError: there are no anchors, or beta is negative or not finite.
        """
        check_not_empty(anchors)
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be 0 or more, but it is {beta}.")
        self.anchors = anchors
        self.beta = float(beta)

    def __len__(self) -> int:
        return len(self.anchors)

    # --- Making latents -----------------------------------------------------------------------------------

    def sample(self, n: int, seed: int, anchors_per_sample: int = 3, temperature: float = 1.0) -> Latents:
        """Sample random latents: a few anchors each, with random weights (My3DGen, section 3.3).

        Args:
            n: number of latents.
            seed: RNG seed; the same seed gives the same weights on every device.
            anchors_per_sample: anchors combined in each, 3 in the paper; the others weigh 0.
            temperature: 1 samples uniformly from the simplex over those anchors; lower values concentrate on
                single anchors, higher ones on their mean.

        Returns:
            `Latents` [n, num_ws, w_dim].

        Raises:
            ValueError: n below 1, anchors_per_sample below 1 or above N, or a temperature not above 0.
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
        weights = weights * (1 + anchors_per_sample * self.beta) - self.beta  # their dilated hull
        return self.combine(torch.zeros(n, len(self), device=device).scatter(1, chosen, weights))

    def combine(self, weights: Tensor) -> Latents:
        """Combine the anchors by given weights.

        Cameras are combined by the same weights and made rigid again, at the combined distance.

        Args:
            weights: [n, N].

        Returns:
            `Latents` [n, num_ws, w_dim].

        Raises:
            ValueError: weights for another number of anchors, that do not sum to 1, or below -beta.
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
        """Interpolate latents, weights and cameras from anchor i (t = 0) to anchor j (t = 1).

        The paper interpolates the 25 numbers of the cameras linearly. Here the cameras stay rigid
        (`camera.interpolate_rigid`); linear ones would cut faces open halfway between two profiles.

        Args:
            i, j: indices of anchors, from 0.
            t: [n], within [-beta, 1 + beta].

        Returns:
            `Latents` [n, num_ws, w_dim].

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
        """Project photos into alpha space: a GAN inversion constrained to the person (MyStyle, section 3.3).

        Masked pixels are ignored, so the result shows the person there: inpainting.

        Args:
            generator: with the person's identity applied around the call (`personalized`).
            images: aligned photos [n, 3, H, H] in [-1, 1], any size.
            cameras: [n, 25], of the photos.
            config: settings; None: the defaults of `ProjectionConfig`.
            masks: [n, 1, H, H], 1 = ignored pixel.
            on_step: progress callback, called after each step as (step, total, losses,
                preview [1, 3, R, R] or None); an exception it raises ends the projection.
            settings: fields of `ProjectionConfig` that replace those of `config`, such as steps=50.

        Returns:
            `Latents` [n, num_ws, w_dim] with the photos' cameras, alphas [n, N], and the mean photo loss of
            the last tenth of the steps [n].

        Raises:
            ValueError: photos, masks and cameras that do not match, or anchors of another generator.
            FloatingPointError: the loss became NaN, infinite or far larger than its best.
        """
        config = dataclasses.replace(config or ProjectionConfig(), **settings)
        if config.beta is None:
            config = dataclasses.replace(config, beta=self.beta)
        return project_photos(self.anchors, generator, images, cameras, config, masks, on_step)

    # --- Weights ------------------------------------------------------------------------------------------

    def weights_of(self, ws: Tensor) -> Tensor:
        """Return the weights whose combination is nearest to given latents, by least squares.

        Of several solutions, the one nearest to equal weights. Weights may fall below -beta;
        `project_weights` makes them admissible.

        Args:
            ws: [n, num_ws, w_dim].

        Returns:
            [n, N], each row of sum 1.

        Raises:
            ValueError: latents of another shape than the anchors.
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
        """Return the change of the weights that best reproduces a change of the latent.

        MyStyle, section 3.4: gamma = (A A^T + ridge I)^-1 A d with centered anchors A and the change d.

        Args:
            vector: change of the latent, [w_dim] or [num_ws, w_dim].
            ridge: regularization relative to the anchors' mean squared distance from their mean; it avoids
                huge opposite weights for anchors that nearly coincide.

        Returns:
            gamma [N], of sum 0.
        """
        rows = vector.to(self.anchors.ws).expand(self.anchors.ws.shape[1:])
        return self._coordinates(rows.reshape(1, -1), ridge)[0].to(vector.dtype)

    def project_weights(self, weights: Tensor, steps: int = 500) -> Tensor:
        """Return the admissible weights (sum 1, at least -beta) whose latents are nearest.

        Solves a quadratic program by accelerated projected gradients (FISTA with restarts). Admissible
        weights are returned unchanged up to rounding.

        Args:
            weights: [n, N].
            steps: iterations.

        Returns:
            [n, N].
        """
        goal = weights.to(precise_dtype(weights))
        gram = self._gram().to(goal)
        step = 1 / torch.linalg.matrix_norm(gram, ord=2).clamp(min=1e-30)
        at = ahead = self._admissible(goal)
        momentum = torch.ones_like(goal[:, :1])
        for _ in range(steps):
            moved = self._admissible(ahead - step * (ahead - goal) @ gram)
            uphill = ((ahead - moved) * (moved - at)).sum(1, keepdim=True) > 0
            following = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
            ahead = moved + torch.where(uphill, 0.0, (momentum - 1) / following) * (moved - at)
            at, momentum = moved, following
        return at.to(weights.dtype)

    def _admissible(self, weights: Tensor) -> Tensor:
        """Project weights [n, N] on the admissible set in the Euclidean norm (Duchi et al., ICML 2008)."""
        count = weights.shape[1]
        free = 1 + count * self.beta
        falling = (weights + self.beta).sort(dim=1, descending=True).values
        rank = torch.arange(1, count + 1, device=weights.device)
        excess = (falling.cumsum(1) - free) / rank
        kept = (falling > excess).sum(1, keepdim=True).clamp(min=1)
        return (weights + self.beta - excess.gather(1, kept - 1)).clamp(min=0) - self.beta

    def _centered(self) -> Tensor:
        """Return the anchors minus their mean, [N, num_ws * w_dim]."""
        flat = self.anchors.ws.flatten(1)
        flat = flat.to(precise_dtype(flat))
        return flat - flat.mean(0)

    def _gram(self) -> Tensor:
        """Return the Gram matrix of the centered anchors, [N, N]."""
        centered = self._centered()
        return centered @ centered.T

    def _coordinates(self, vectors: Tensor, ridge: float) -> Tensor:
        """Return coordinates [n, N] of sum 0 of vectors [n, num_ws * w_dim] in the centered anchors."""
        centered = self._centered()
        gram = centered @ centered.T
        spread = (ridge * gram.trace() / len(self)).clamp(min=1e-30)
        damped = gram + spread * torch.eye(len(self), device=gram.device, dtype=gram.dtype)
        return torch.linalg.solve(damped, centered @ vectors.to(centered).T).T
