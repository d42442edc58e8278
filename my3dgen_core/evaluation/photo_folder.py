"""The paper's tables for photos of one's own: a fixed held-out split, pretrained against personalised."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.progress import OnStep
from ..editing.alpha_space import AlphaSpace
from ..editing.direction import Direction, principal_directions
from ..eg3d import Generator
from ..fitting.inversion import InversionConfig, invert
from ..fitting.lpips import Lpips
from ..fitting.tuning import TuningConfig, personalize
from ..person.apply import personalized
from ..person.identity import Identity
from ..person.random_latents import random_latents
from .dists import Dists
from .metrics import Likeness
from .protocols import (
    HELD_OUT,
    Measures,
    alpha_samples,
    edit_identity,
    held_out_inversion,
    interpolation_identity,
    multi_view_identity,
)

if TYPE_CHECKING:
    from ..face import FaceModels

MODELS = ("pretrained", "personalised")
HELD_OUT_EVERY = 5
"""One photo in so many is held out."""


@dataclass(frozen=True)
class Split:
    """Aligned photos of one person, parted the same way every time.

    photos [N,3,H,H], cameras [N,25] and masks [N,1,H,H] to train on; held_* to measure with; held_names are
    their files.
    """

    photos: Tensor
    cameras: Tensor
    masks: Tensor | None
    held_photos: Tensor
    held_cameras: Tensor
    held_masks: Tensor | None
    held_names: Sequence[str]


def split(
    images: Tensor, cameras: Tensor, masks: Tensor | None = None, names: Sequence[str] | None = None
) -> Split:
    """The third of every five photos, in the order given, is held out.

    Raises:
        ValueError: fewer than five photos.
    """
    if len(images) < HELD_OUT_EVERY:
        raise ValueError(
            f"At least {HELD_OUT_EVERY} usable photos are needed, to hold one of them out; there are "
            f"{len(images)}."
        )
    order = torch.arange(len(images))
    held = order % HELD_OUT_EVERY == 2
    chosen = [str(i) for i in order.tolist()] if names is None else list(names)
    return Split(
        images[~held],
        cameras[~held],
        None if masks is None else masks[~held],
        images[held],
        cameras[held],
        None if masks is None else masks[held],
        [name for name, out in zip(chosen, held.tolist(), strict=True) if out],
    )


def align_folder(folder: Path, face_models: FaceModels) -> Split:
    """The photos of a folder, in the order of their names, aligned and split.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: fewer than five usable photos.
    """
    from ..face import align_faces

    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    aligned = align_faces(str(folder), face_models)
    names = [aligned.report[index].name for index in aligned.kept]
    return split(aligned.images, aligned.cameras, aligned.masks, names)


def train(
    generator: Generator,
    part: Split,
    inversion: InversionConfig,
    tuning: TuningConfig,
    on_step: OnStep | None = None,
    face_models: FaceModels | None = None,
) -> Identity:
    """The person of a split's training photos."""
    anchors = invert(generator, part.photos, part.cameras, inversion, part.masks, on_step)
    return personalize(generator, part.photos, anchors, tuning, part.masks, on_step, face_models=face_models)


def run_protocols(
    generator: Generator,
    identity: Identity,
    part: Split,
    face_models: FaceModels | None,
    *,
    lpips: Lpips | None = None,
    dists: Dists | None = None,
    held_out: InversionConfig = HELD_OUT,
    directions: Sequence[Direction] | None = None,
    samples: int = 20,
    views: int = 24,
    pairs: int = 3,
    on_step: OnStep | None = None,
) -> dict[str, Measures]:
    """Every protocol of this package's `protocols`, for the pretrained generator and for the person.

    Args:
        generator: without identity. face_models: None leaves out everything about identity.
        lpips, dists: measured too where they are given.
        directions: for the edits; None: the two principal directions of the generator.
        samples: of alpha-space. views: frames of each orbit. pairs: of anchors to go from one to the other.

    Returns:
        for "pretrained" and "personalised" the measures by name.
    """
    likeness, unaligned = None, None
    if face_models is not None:
        likeness = Likeness(part.photos, face_models)
        unaligned = Likeness(part.photos, face_models, aligned=False)
    if directions is None:
        directions = principal_directions(random_latents(generator, 0, 600), 2)
    space = AlphaSpace(identity.anchors.to(generator.w_avg.device))
    results: dict[str, Measures] = {}
    for name in MODELS:
        inside = contextlib.nullcontext() if name == MODELS[0] else personalized(generator, identity)
        with inside:
            measures, found = held_out_inversion(
                generator,
                part.held_photos,
                part.held_cameras,
                masks=part.held_masks,
                face_models=face_models,
                lpips=lpips,
                dists=dists,
                config=held_out,
                on_step=on_step,
            )
            row: Measures = {f"held-out inversion: {key}": value for key, value in measures.items()}
            if likeness is not None and unaligned is not None:
                for way, measure in (("aligned", likeness), ("unaligned", unaligned)):
                    error = multi_view_identity(generator, found.ws, measure, views=views)
                    row[f"multi-view identity error ({way})"] = error
                row["interpolation: identity"] = interpolation_identity(
                    generator, space, likeness, pairs=pairs
                )
                alpha = alpha_samples(generator, space, likeness, count=samples)
                row |= {f"alpha samples: {key}": value for key, value in alpha.items()}
                edits = edit_identity(generator, space, likeness, directions)
                row |= {f"edits, {key}: identity": value for key, value in edits.items()}
        results[name] = row
    return results


def protocol_table(results: Mapping[str, Measures], synthetic: bool = False) -> str:
    """Results of `run_protocols` as a Markdown table; every number of a synthetic person says so."""
    lines = [f"| measure | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    mark = " (synthetic)" if synthetic else ""
    for measure in next(iter(results.values())):
        values = [one.get(measure) for one in results.values()]
        digits = 2 if measure.endswith("dB") else 3
        cells = ["-" if value is None else f"{value:.{digits}f}{mark}" for value in values]
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    return "\n".join(lines)
