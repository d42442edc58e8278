"""Identity-preserving edit directions around one latent.

A boundary between random heads (`direction_finder`) leads towards the prior's mean smile and changes the
identity far along it. Here heads are sampled around the person's own latent (the center) and rendered from
the front; their scores and identity embeddings are regressed linearly on their offsets; and the direction
maximizes the change of the score subject to a quadratic penalty on the change of the embedding:

    v = (G G^T + freedom m I)^-1 g

with offsets z in standard deviations of the prior, score g . z, embedding G^T z, and m the mean of the
diagonal of G G^T, which makes the ridge term `freedom` independent of scale. Half of the heads lie around the
center, the other half along the direction fitted to the first half, because a fit around the center alone
does not hold further out. Heads come in antithetic pairs, whose even terms cancel in the regression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..common.progress import OnStep
from ..common.rng import normal, uniform
from ..eg3d import Generator
from ..eg3d.config import front_camera
from ..person.random_latents import random_latents
from .direction import FEWEST, Direction
from .direction_finder import cache_path, load_cached, select_score_names
from .face_scores import Labeler

Embedder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Identity network: pictures [B, 3, H, W] in [-1, 1] -> embeddings [B, d] of length 1, and booleans [B], True
where a face was found."""
_PRIOR_SAMPLES = 4096
"""Random latents from which the covariance of W is estimated."""
_RIDGE = 0.01
"""Ridge term of the regression relative to a coordinate's mean square, for fewer heads than coordinates."""
_VALIDATION_EVERY = 5
"""Interval of the head pairs held out to measure the correlation of predicted and true scores."""
_AXIS_RANGE = (-10.0, 18.0)
"""Range of strengths along the first direction in which the second half of the heads is sampled."""


@dataclass(frozen=True)
class LocalFinderConfig:
    """Settings of `find_local_directions`.

    Field names must not change: `spread` and `freedom` are metadata keys of the directions found, and the
    studies store and hash all fields. The values of `samples`, `spread`, `freedom` and `seed`, in this order,
    are part of the names of cache files.
    """

    samples: int = 600
    """Number of heads: half around the center and, for each score, half along its first direction."""
    spread: float = 0.8
    """Standard deviation of the heads' offsets, in standard deviations of the prior."""
    freedom: float = 1.0
    """Ridge term of the identity regularization, relative to the mean cost of one standard deviation in
    identity: small values preserve identity more strictly, large ones follow the score alone; .1 to 10."""
    batch_size: int = 4
    """Heads rendered and scored at the same time."""
    seed: int = 0
    """Seed of the sampled heads."""
    preview_every: int = 25
    """Heads between two preview renderings; 0: none."""

    def __post_init__(self) -> None:
        for name in ("samples", "spread", "freedom", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")


@torch.no_grad()
def find_local_directions(
    generator: Generator,
    middle: Tensor,
    labeler: Labeler,
    embedder: Embedder,
    names: Sequence[str] | None = None,
    config: LocalFinderConfig = LocalFinderConfig(),
    cache: tuple[Path, str] | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Direction]:
    """Find identity-preserving directions around one latent by the scores of frontal renderings.

    The directions change the later half of the layers, all by the same vector, and need no alpha space.

    Args:
        generator: with the person's identity in effect (`personalized`), or without one.
        middle: center latent [1, num_ws, w_dim], for a person the mean of the anchors.
        labeler: function from pictures [B, 3, H, W] in [-1, 1] to scores [B] by name, NaN for no score.
        embedder: identity network, such as `face.embed` with its models.
        names: scores to find directions for; None: all.
        config: settings.
        cache: folder, and a text that identifies the identity in effect. Directions are stored there and
            looked up when `names` are given.
        on_step: progress callback, called after each batch as (heads done, total, {}, preview [1, 3, R, R] or
            None); an exception it raises ends the search, and nothing is cached.

    Returns:
        `Direction` [num_ws, w_dim] by name; strength 1 is one standard deviation of the prior. In `meta`,
        "correlation" is that of predicted and true scores of held-out heads; "score" and "drift" are the
        predicted changes of the score and of the embedding (its length) at strength 1.

    Raises:
        ValueError: too few heads could be scored and embedded, or the labeler does not give one of the
            scores.
    """
    if middle.shape != (1, generator.num_ws, generator.config.w_dim):
        raise ValueError(
            f"The middle is one latent [1, {generator.num_ws}, {generator.config.w_dim}], not "
            f"{list(middle.shape)}."
        )
    base_hash = generator.base_hash()
    paths: dict[str, Path] = {}
    if cache is not None and names is not None:
        folder, person = cache
        head = hashlib.sha256(f"{person} {middle.detach().cpu().tolist()}".encode()).hexdigest()[:16]
        settings = (config.samples, config.spread, config.freedom, config.seed)
        paths = {name: cache_path(folder, name, base_hash, head, *settings) for name in names}
        known = {name: load_cached(path, base_hash, name) for name, path in paths.items()}
        if all(known.values()):
            return {name: found for name, found in known.items() if found is not None}
    sample = _HeadSampler(generator, middle, labeler, embedder, config, on_step)
    around = sample(None, 1 + len(names or ()))
    found = {}
    wanted = select_score_names(around.scores, names)
    for name in wanted:
        axis = _fit_direction(around, name, config).vector
        fitted = _fit_direction(around.concatenate(sample(axis, 1 + len(wanted))), name, config)
        rows = torch.zeros_like(middle[0])
        rows[generator.num_ws // 2 :] = (sample.deviations @ fitted.vector).to(rows)
        found[name] = Direction(name, rows, base_hash, fitted.meta)
    for name in paths:
        found[name].save(paths[name])
    return found


@dataclass(frozen=True)
class _Heads:
    """Measured heads in which a face was found, as float64."""

    offsets: Tensor
    """Offsets from the center in standard deviations, [n, w_dim]."""
    held_out: Tensor
    """True for heads of the validation set, [n]."""
    scores: dict[str, Tensor]
    """Scores [n] by name."""
    features: Tensor
    """Identity embeddings [n, d]."""

    def concatenate(self, others: _Heads) -> _Heads:
        """Return these heads followed by others."""
        scores = {name: torch.cat((self.scores[name], others.scores[name])) for name in self.scores}
        return _Heads(
            torch.cat((self.offsets, others.offsets)), torch.cat((self.held_out, others.held_out)), scores,
            torch.cat((self.features, others.features)),
        )  # fmt: skip


class _HeadSampler:
    """Samples heads around the center, renders and measures them."""

    def __init__(
        self,
        generator: Generator,
        middle: Tensor,
        labeler: Labeler,
        embedder: Embedder,
        config: LocalFinderConfig,
        on_step: OnStep | None,
    ) -> None:
        """Estimate the Cholesky factor of the covariance of W, `deviations` [w_dim, w_dim]."""
        self.generator, self.middle = generator, middle.to(generator.w_avg.device)
        self.labeler, self.embedder, self.config, self.on_step = labeler, embedder, config, on_step
        self.draw = torch.Generator().manual_seed(config.seed)
        self.done = 0
        ws = random_latents(generator, config.seed, _PRIOR_SAMPLES, 1.0).ws[:, 0].cpu().double()
        covariance = ws.T.cov()
        covariance.diagonal().add_(1e-6 * covariance.diagonal().mean())
        self.deviations = torch.linalg.cholesky(covariance)

    def __call__(self, axis: Tensor | None, rounds: int) -> _Heads:
        """Measure half of the samples.

        Args:
            axis: direction [w_dim] in standard deviations along which heads are spread; None: around the
                center.
            rounds: number of calls in all, for the progress.
        """
        config, device = self.config, self.generator.w_avg.device
        pairs, cpu = -(-config.samples // 4), torch.device("cpu")
        count = 2 * pairs
        offsets = config.spread * normal((pairs, len(self.deviations)), self.draw, cpu).double()
        offsets = torch.stack((offsets, -offsets), 1).flatten(0, 1)  # antithetic: even terms cancel
        if axis is not None:
            low, high = _AXIS_RANGE
            shares = uniform((pairs, 1), self.draw, cpu).double().repeat_interleave(2, 0)
            offsets = offsets + (low + (high - low) * shares) * axis
        moves = (offsets @ self.deviations.T).to(self.middle)
        later = torch.arange(self.generator.num_ws, device=device) >= self.generator.num_ws // 2
        camera = front_camera(self.generator.config, device)
        scores: dict[str, list[Tensor]] = {}
        features, seen = [], []
        for part in moves.split(config.batch_size):
            ws = self.middle + part[:, None] * later[:, None]
            image = self.generator.render(ws, camera.expand(len(ws), -1)).image
            for name, values in self.labeler(image).items():
                scores.setdefault(name, []).append(values.detach().cpu().double())
            embeddings, found = self.embedder(image)
            features.append(embeddings.detach().cpu().double())
            seen.append(found.cpu().bool())
            before, self.done = self.done, self.done + len(part)
            if self.on_step is not None:
                every = config.preview_every
                wanted = every and self.done // every > before // every
                self.on_step(self.done, count * rounds, {}, image[:1] if wanted else None)
        face, held_out = torch.cat(seen), torch.arange(count) // 2 % _VALIDATION_EVERY == 0
        return _Heads(
            offsets[face], held_out[face], {name: torch.cat(each)[face] for name, each in scores.items()},
            torch.cat(features)[face],
        )  # fmt: skip


def _fit_direction(heads: _Heads, name: str, config: LocalFinderConfig) -> Direction:
    """Fit the direction of one score: vector [w_dim] of length 1 in standard deviations, and its metadata."""
    known = torch.isfinite(heads.scores[name])
    offsets, scores, features = heads.offsets[known], heads.scores[name][known], heads.features[known]
    if len(scores) < 2 * FEWEST:
        raise ValueError(
            f"Of {len(known)} heads with a face about this one, {len(scores)} could be measured: too few to "
            f"find {name!r}. Look at more, or about a head whose face is seen."
        )
    if float(scores.std()) == 0:
        raise ValueError(f"The scores of {name!r} are all the same: they do not distinguish any heads.")
    held_out = heads.held_out[known]
    trial = _ridge_regression(offsets[~held_out], scores[~held_out, None])[:, 0]
    validation = torch.stack((offsets[held_out] @ trial, scores[held_out]))
    slopes = _ridge_regression(offsets, torch.cat((scores[:, None], features), 1))
    gradient, identity = slopes[:, 0], slopes[:, 1:]
    cost = identity @ identity.T
    cost.diagonal().add_(config.freedom * cost.diagonal().mean())
    vector = torch.linalg.solve(cost, gradient)
    vector = vector / vector.norm()
    meta = {
        "source": "regression about a head, identity held", "faces": len(scores), "spread": config.spread,
        "freedom": config.freedom, "correlation": float(torch.corrcoef(validation)[0, 1]),
        "score": float(gradient @ vector), "drift": float((vector @ identity).norm()),
    }  # fmt: skip
    return Direction(name, vector, None, meta)


def _ridge_regression(offsets: Tensor, values: Tensor) -> Tensor:
    """Regress values [n, k] on offsets [n, d]: slopes [d, k]."""
    centered = offsets - offsets.mean(0)
    square = centered.T @ centered
    square.diagonal().add_(_RIDGE * square.diagonal().mean())
    return torch.linalg.solve(square, centered.T @ (values - values.mean(0)))
