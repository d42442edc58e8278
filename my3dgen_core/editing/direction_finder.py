"""Directions for any generator: sample heads, look at them from the front, score them, find the boundary.

InterFaceGAN (CVPR 2020) with scores by measuring instead of by a classifier: `FaceGeometry` takes them from
face landmarks, any other callable from what it likes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.errors import CheckpointError
from ..common.progress import OnStep
from ..eg3d import Generator
from ..person.latents import Latents
from ..person.random_latents import random_latents
from .direction import Direction
from .face_scores import Labeller

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class FinderConfig:
    """Settings of `find_directions`."""

    samples: int = 400
    """Heads to look at. The paper takes 500,000; some hundreds give a usable smile."""
    fraction: float = 0.1
    """Of the heads on either side that the boundary is found from (the paper: .02 of far more)."""
    truncation_psi: float = 0.8
    batch_size: int = 4
    seed: int = 0
    preview_every: int = 25
    """Heads between two preview pictures; 0: none."""


def find_directions(
    generator: Generator,
    labeller: Labeller,
    names: Sequence[str] | None = None,
    config: FinderConfig = FinderConfig(),
    cache: Path | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Direction]:
    """Directions in W by the scores that `labeller` gives to frontal renderings.

    Args:
        generator: bare, without an identity: its directions serve every person on it.
        labeller: pictures to scores by name.
        names: the scores wanted; None: all.
        cache: a folder: what is found is kept there by generator, name and settings, and found again.
        on_step: called as (step, total, {}, preview [1, 3, R, R] or None) for each head; what it raises ends
            the work, and nothing is kept.

    Returns:
        Directions by name. `meta["correlation"]` is how well each foretells scores of heads not used.

    Raises:
        ValueError: too few heads could be scored, or a name that the labeller does not know.
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
    latents, scores = label_samples(generator, labeller, config, on_step)
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
    generator: Generator, labeller: Labeller, config: FinderConfig, on_step: OnStep | None = None
) -> tuple[Latents, dict[str, Tensor]]:
    """Random heads and their scores [samples] by name, from the front."""
    latents = random_latents(generator, config.seed, config.samples, config.truncation_psi)
    assert latents.cameras is not None
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, config.samples, config.batch_size):
        part = slice(start, start + config.batch_size)
        image = generator.render(latents.ws[part], latents.cameras[part]).image
        parts.append({name: values.detach().cpu() for name, values in labeller(image).items()})
        if on_step is not None:
            done = min(start + config.batch_size, config.samples)
            every = config.preview_every
            wanted = every and done // every > start // every
            on_step(done, config.samples, {}, image[:1] if wanted else None)
    return latents, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def select_score_names(scores: Mapping[str, Tensor], names: Sequence[str] | None) -> list[str]:
    """The names wanted, all of them if None.

    Raises:
        ValueError: a name without scores.
    """
    unknown = sorted(set(names or ()) - set(scores))
    if unknown:
        raise ValueError(f"The labeller does not score {unknown[0]!r}, but: {', '.join(sorted(scores))}.")
    return list(scores if names is None else names)


def cache_path(cache: Path, name: str, base_hash: str, *settings: str | float) -> Path:
    """The file of a direction that was found with these settings."""
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    with_what = "_".join(one if isinstance(one, str) else f"{one:g}" for one in settings)
    return cache / f"{word}_{base_hash[:16]}_{with_what}.safetensors"


def load_cached(path: Path, base_hash: str, name: str) -> Direction | None:
    """What lies there, if it is this very direction of this generator."""
    try:
        found = Direction.load(path)
    except (FileNotFoundError, CheckpointError):
        return None
    return found if (found.base_hash, found.name) == (base_hash, name) else None
