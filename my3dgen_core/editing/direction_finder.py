"""Search for directions of any generator: sample heads, score frontal renderings, fit the boundary.

InterFaceGAN (CVPR 2020), with scores from any callable, such as `FaceGeometry` from face landmarks, instead
of a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..common.errors import CheckpointError
from ..common.progress import OnStep
from ..eg3d import Generator
from ..person.latents import Latents
from ..person.random_latents import random_latents
from .direction import Direction
from .face_scores import Labeler


@dataclass(frozen=True)
class FinderConfig:
    """Settings of `find_directions`.

    The names and values of `samples`, `seed`, `truncation_psi` and `fraction` go into the metadata of the
    directions found, and the values into the names of cache files; they must not change.
    """

    samples: int = 400
    """Number of heads to score. The paper uses 500,000; a few hundred suffice for a usable smile."""
    fraction: float = 0.1
    """Share of the heads on either side to which the boundary is fitted (the paper: .02 of far more)."""
    truncation_psi: float = 0.8
    """Truncation of the random heads: 0 is the mean head, 1 no truncation."""
    batch_size: int = 4
    """Heads rendered and scored at the same time."""
    seed: int = 0
    """Seed of the random heads and of the solver."""
    preview_every: int = 25
    """Heads between two preview renderings; 0: none."""


def find_directions(
    generator: Generator,
    labeler: Labeler,
    names: Sequence[str] | None = None,
    config: FinderConfig = FinderConfig(),
    cache: Path | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Direction]:
    """Find directions in W by the scores that `labeler` gives to frontal renderings (InterFaceGAN).

    Args:
        generator: without an identity in effect: its directions are valid for every person on it.
        labeler: function from pictures [B, 3, H, W] in [-1, 1] to scores [B] by name, NaN for no score.
        names: scores to find directions for; None: all.
        config: settings.
        cache: folder where directions are stored by generator, name and settings, and looked up when `names`
            are given.
        on_step: progress callback, called after each batch as (heads done, total, {}, preview [1, 3, R, R] or
            None); an exception it raises ends the search, and nothing is cached.

    Returns:
        `Direction` by name. `meta["correlation"]` is that of positions along the direction with the scores of
        heads that were not used.

    Raises:
        ValueError: too few heads could be scored, or the labeler does not give one of the scores.
    """
    base_hash = generator.base_hash()
    settings = {"samples": config.samples, "seed": config.seed, "truncation_psi": config.truncation_psi}
    settings["fraction"] = config.fraction
    if cache is not None and names is not None:
        known = {
            name: load_cached(cache_path(cache, name, base_hash, *settings.values()), base_hash, name)
            for name in names
        }
        if all(known.values()):
            return {name: found for name, found in known.items() if found is not None}
    latents, scores = label_samples(generator, labeler, config, on_step)
    found = {
        name: Direction.from_labels(latents, scores[name], name, config.fraction, config.seed)
        for name in select_score_names(scores, names)
    }
    for name, direction in found.items():
        direction.meta.update(settings)
        if cache is not None:
            direction.save(cache_path(cache, name, base_hash, *settings.values()))
    return found


@torch.no_grad()
def label_samples(
    generator: Generator, labeler: Labeler, config: FinderConfig, on_step: OnStep | None = None
) -> tuple[Latents, dict[str, Tensor]]:
    """Render random heads from the front and score them.

    Returns:
        `Latents` of the heads, and scores [samples] by name.
    """
    latents = random_latents(generator, config.seed, config.samples, config.truncation_psi)
    assert latents.cameras is not None
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, config.samples, config.batch_size):
        part = slice(start, start + config.batch_size)
        image = generator.render(latents.ws[part], latents.cameras[part]).image
        parts.append({name: values.detach().cpu() for name, values in labeler(image).items()})
        if on_step is not None:
            done = min(start + config.batch_size, config.samples)
            every = config.preview_every
            wanted = every and done // every > start // every
            on_step(done, config.samples, {}, image[:1] if wanted else None)
    return latents, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def select_score_names(scores: Mapping[str, Tensor], names: Sequence[str] | None) -> list[str]:
    """Return the names to find directions for: `names`, or all scores for None.

    Args:
        scores: [M] of M heads by name.
        names: names of some of them.

    Raises:
        ValueError: a name without scores.
    """
    unknown = sorted(set(names or ()) - set(scores))
    if unknown:
        raise ValueError(f"The labeler does not score {unknown[0]!r}, but: {', '.join(sorted(scores))}.")
    return list(scores if names is None else names)


def cache_path(cache: Path, name: str, base_hash: str, *settings: str | float) -> Path:
    """Return the cache file of a direction by generator, name and the values of the settings."""
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    with_what = "_".join(one if isinstance(one, str) else f"{one:g}" for one in settings)
    return cache / f"{word}_{base_hash[:16]}_{with_what}.safetensors"


def load_cached(path: Path, base_hash: str, name: str) -> Direction | None:
    """Load a cached direction, or return None if it is missing, damaged, or of another generator or name."""
    try:
        found = Direction.load(path)
    except (FileNotFoundError, CheckpointError):
        return None
    return found if (found.base_hash, found.name) == (base_hash, name) else None
