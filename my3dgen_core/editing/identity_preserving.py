"""Directions found about one head, which hold whose head it is.

A boundary between random heads (`direction_finder`) leads to the mean smile of the prior, and far along it
the person has become another. Here heads are drawn about the person's own and looked at from the front; their
scores and their embeddings by an identity network are laid out as linear functions of the place in W; and
the direction is the one along which the score rises most for what it costs in identity:

    v = (G G^T + freedom I)^-1 g    with places z in deviations of the prior, score g . z, embedding G^T z,

the steepest rise for a given |G^T v|^2 + freedom |v|^2. Half of the heads lie about the person's own, the
other half along the way that these show: what holds in the middle alone would fail further out. They come in
pairs, one on either side of a place.
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
from .face_scores import Labeller

Embedder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Pictures [B, 3, H, W] in [-1, 1] -> embeddings [B, d] of length 1, and where a face was found [B]."""
_PRIOR_SAMPLES = 4096
_RIDGE = 0.01
"""Of the mean square of a coordinate: what the regression adds, for fewer heads than coordinates."""
_UNSEEN = 5
"""One pair of heads in so many is left out to see how well their scores are foretold."""
_WAY = (-10.0, 18.0)
"""Between which strengths of the first direction the second half of the heads lies."""


@dataclass(frozen=True)
class LocalFinderConfig:
    """Settings of `find_local_directions`."""

    samples: int = 600
    """Heads to look at: half about the middle, half along what was found with them, for each score."""
    spread: float = 0.8
    """How far they lie from the head in the middle, in the prior's standard deviations."""
    freedom: float = 1.0
    """How little identity is held, in terms of the mean over W of what a deviation costs; 0.1 to 10."""
    batch_size: int = 4
    seed: int = 0
    preview_every: int = 25
    """Heads between two preview pictures; 0: none."""

    def __post_init__(self) -> None:
        for name in ("samples", "spread", "freedom", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")


@torch.no_grad()
def find_local_directions(
    generator: Generator,
    middle: Tensor,
    labeller: Labeller,
    embedder: Embedder,
    names: Sequence[str] | None = None,
    config: LocalFinderConfig = LocalFinderConfig(),
    cache: tuple[Path, str] | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Direction]:
    """Directions about a head by the scores that `labeller` gives to frontal renderings, identity held.

    They move the later half of the layers, the same way each, and need no alpha space.

    Args:
        generator: with the person's identity in effect (`personalized`), or bare.
        middle: [1, num_ws, w_dim], the head: of a person the mean of the anchors.
        labeller: pictures to scores by name, NaN where there is none.
        embedder: the identity network, such as `face.embed` with its models.
        names: the scores wanted; None: all.
        cache: a folder and what names the identity in effect: what is found is kept there and found again.
        on_step: called as (step, total, {}, preview [1, 3, R, R] or None); what it raises ends the work, and
            nothing is kept.

    Returns:
        Directions [num_ws, w_dim] by name; strength 1 is one standard deviation of the prior. `meta`:
        "correlation" of foretold and true scores of heads not used; how much a strength of 1 raises the
        score ("score") and how far it moves the embedding ("drift"), as foretold.

    Raises:
        ValueError: too few heads could be scored and embedded, or a name that the labeller does not know.
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
    look = _HeadSampler(generator, middle, labeller, embedder, config, on_step)
    about = look(None, 1 + len(names or ()))
    found = {}
    wanted = select_score_names(about.scores, names)
    for name in wanted:
        way = _steepest(about, name, config).vector
        steepest = _steepest(about.concatenate(look(way, 1 + len(wanted))), name, config)
        rows = torch.zeros_like(middle[0])
        rows[generator.num_ws // 2 :] = (look.deviations @ steepest.vector).to(rows)
        found[name] = Direction(name, rows, base_hash, steepest.meta)
    for name in paths:
        found[name].save(paths[name])
    return found


@dataclass(frozen=True)
class _Heads:
    """Heads with a face: places [n, w_dim] in deviations, which are kept for a trial [n], scores [n] by name,
    embeddings [n, d]; double."""

    places: Tensor
    unseen: Tensor
    scores: dict[str, Tensor]
    features: Tensor

    def concatenate(self, others: _Heads) -> _Heads:
        scores = {name: torch.cat((self.scores[name], others.scores[name])) for name in self.scores}
        return _Heads(
            torch.cat((self.places, others.places)), torch.cat((self.unseen, others.unseen)), scores,
            torch.cat((self.features, others.features)),
        )  # fmt: skip


class _HeadSampler:
    """Draws heads, renders and measures them."""

    def __init__(
        self,
        generator: Generator,
        middle: Tensor,
        labeller: Labeller,
        embedder: Embedder,
        config: LocalFinderConfig,
        on_step: OnStep | None,
    ) -> None:
        self.generator, self.middle = generator, middle.to(generator.w_avg.device)
        self.labeller, self.embedder, self.config, self.on_step = labeller, embedder, config, on_step
        self.draw = torch.Generator().manual_seed(config.seed)
        self.done = 0
        ws = random_latents(generator, config.seed, _PRIOR_SAMPLES, 1.0).ws[:, 0].cpu().double()
        covariance = ws.T.cov()
        covariance.diagonal().add_(1e-6 * covariance.diagonal().mean())
        self.deviations = torch.linalg.cholesky(covariance)

    def __call__(self, way: Tensor | None, rounds: int) -> _Heads:
        """Half of the samples, about the middle or along a way [w_dim]; rounds: of how many such calls."""
        config, device = self.config, self.generator.w_avg.device
        pairs, cpu = -(-config.samples // 4), torch.device("cpu")
        count = 2 * pairs
        places = config.spread * normal((pairs, len(self.deviations)), self.draw, cpu).double()
        places = torch.stack((places, -places), 1).flatten(0, 1)  # what bends falls out of the slopes
        if way is not None:
            low, high = _WAY
            shares = uniform((pairs, 1), self.draw, cpu).double().repeat_interleave(2, 0)
            places = places + (low + (high - low) * shares) * way
        moves = (places @ self.deviations.T).to(self.middle)
        later = torch.arange(self.generator.num_ws, device=device) >= self.generator.num_ws // 2
        camera = front_camera(self.generator.config, device)
        scores: dict[str, list[Tensor]] = {}
        features, seen = [], []
        for part in moves.split(config.batch_size):
            ws = self.middle + part[:, None] * later[:, None]
            image = self.generator.render(ws, camera.expand(len(ws), -1)).image
            for name, values in self.labeller(image).items():
                scores.setdefault(name, []).append(values.detach().cpu().double())
            embeddings, found = self.embedder(image)
            features.append(embeddings.detach().cpu().double())
            seen.append(found.cpu().bool())
            before, self.done = self.done, self.done + len(part)
            if self.on_step is not None:
                every = config.preview_every
                wanted = every and self.done // every > before // every
                self.on_step(self.done, count * rounds, {}, image[:1] if wanted else None)
        face, unseen = torch.cat(seen), torch.arange(count) // 2 % _UNSEEN == 0
        return _Heads(
            places[face], unseen[face], {name: torch.cat(each)[face] for name, each in scores.items()},
            torch.cat(features)[face],
        )  # fmt: skip


def _steepest(heads: _Heads, name: str, config: LocalFinderConfig) -> Direction:
    """vector [w_dim] in deviations."""
    known = torch.isfinite(heads.scores[name])
    places, scores, features = heads.places[known], heads.scores[name][known], heads.features[known]
    if len(scores) < 2 * FEWEST:
        raise ValueError(
            f"Of {len(known)} heads with a face about this one, {len(scores)} could be measured: too few to "
            f"find {name!r}. Look at more, or about a head whose face is seen."
        )
    if float(scores.std()) == 0:
        raise ValueError(f"The scores of {name!r} are all the same: nothing tells heads apart.")
    unseen = heads.unseen[known]
    trial = _slopes(places[~unseen], scores[~unseen, None])[:, 0]
    foretold = torch.stack((places[unseen] @ trial, scores[unseen]))
    slopes = _slopes(places, torch.cat((scores[:, None], features), 1))
    rise, identity = slopes[:, 0], slopes[:, 1:]
    cost = identity @ identity.T
    cost.diagonal().add_(config.freedom * cost.diagonal().mean())
    way = torch.linalg.solve(cost, rise)
    way = way / way.norm()
    meta = {
        "source": "regression about a head, identity held", "faces": len(scores), "spread": config.spread,
        "freedom": config.freedom, "correlation": float(torch.corrcoef(foretold)[0, 1]),
        "score": float(rise @ way), "drift": float((way @ identity).norm()),
    }  # fmt: skip
    return Direction(name, way, None, meta)


def _slopes(places: Tensor, values: Tensor) -> Tensor:
    """Ridge regression of values [n, k] on places [n, d] -> [d, k]."""
    centred = places - places.mean(0)
    square = centred.T @ centred
    square.diagonal().add_(_RIDGE * square.diagonal().mean())
    return torch.linalg.solve(square, centred.T @ (values - values.mean(0)))
