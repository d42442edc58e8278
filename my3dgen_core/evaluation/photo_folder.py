"""Evaluation on a folder of photos: the paper's protocols with a fixed held-out split."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..common.progress import OnStep
from ..editing.alpha_space import AlphaSpace
from ..editing.direction import Direction, principal_directions
from ..eg3d import Generator
from ..face import FaceModels, align_faces
from ..fitting.inversion import InversionConfig, invert
from ..fitting.lpips import Lpips
from ..fitting.tuning import TuningConfig, personalize
from ..person.apply import personalized
from ..person.identity import Identity
from ..person.random_latents import random_latents
from .dists import Dists
from .metrics import IdentitySimilarity
from .protocols import (
    HELD_OUT,
    Measures,
    alpha_samples,
    edit_identity,
    held_out_inversion,
    interpolation_identity,
    multi_view_identity,
)

MODELS = ("pretrained", "personalized")
"""Models that are compared."""
HELD_OUT_EVERY = 5
"""Interval of the photos that are held out."""


@dataclass(frozen=True)
class Split:
    """Aligned photos of one person, split into training and held-out photos."""

    photos: Tensor
    """Training photos [N, 3, H, H] in [-1, 1]."""
    cameras: Tensor
    """Their cameras [N, 25]."""
    masks: Tensor | None
    """Their masks [N, 1, H, H], 1 = ignored pixel."""
    held_photos: Tensor
    """Held-out photos [M, 3, H, H]."""
    held_cameras: Tensor
    """Their cameras [M, 25]."""
    held_masks: Tensor | None
    """Their masks [M, 1, H, H]."""
    held_names: Sequence[str]
    """Their file names."""


def split(
    images: Tensor, cameras: Tensor, masks: Tensor | None = None, names: Sequence[str] | None = None
) -> Split:
    """Hold out the third of every five photos, in the order given.

    Args:
        images: [N, 3, H, H] in [-1, 1].
        cameras: [N, 25].
        masks: [N, 1, H, H], or None.
        names: of the photos; None: their numbers.

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
    """Align the photos of a folder, in the order of their names, and split them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: fewer than five usable photos.
    """
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
    """Invert the training photos of a split and personalize the generator on them."""
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
    """Run the protocols of `protocols` on the pretrained and the personalized generator.

    Args:
        generator: without an identity in effect; not changed.
        identity: trained on the training photos of `part`.
        part: from `split`.
        face_models: face networks with ArcFace; None: no identity measures.
        lpips, dists: additional distances of the held-out inversion; None: not measured.
        held_out: settings of the held-out inversion.
        directions: for the edits; None: the first two principal directions of the generator.
        samples: number of alpha samples.
        views: frames of each orbit.
        pairs: pairs of anchors to interpolate between.
        on_step: progress callback of the inversions.

    Returns:
        measures by name, for "pretrained" and "personalized".
    """
    similarity, unaligned = None, None
    if face_models is not None:
        similarity = IdentitySimilarity(part.photos, face_models)
        unaligned = IdentitySimilarity(part.photos, face_models, aligned=False)
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
            if similarity is not None and unaligned is not None:
                for kind, metric in (("aligned", similarity), ("unaligned", unaligned)):
                    error = multi_view_identity(generator, found.ws, metric, views=views)
                    row[f"multi-view identity error ({kind})"] = error
                row["interpolation: identity"] = interpolation_identity(
                    generator, space, similarity, pairs=pairs
                )
                alpha = alpha_samples(generator, space, similarity, count=samples)
                row |= {f"alpha samples: {key}": value for key, value in alpha.items()}
                edits = edit_identity(generator, space, similarity, directions)
                row |= {f"edits, {key}: identity": value for key, value in edits.items()}
        results[name] = row
    return results


def protocol_table(results: Mapping[str, Measures], synthetic: bool = False) -> str:
    """Return the results of `run_protocols` as a Markdown table; `synthetic` marks every number as such."""
    lines = [f"| measure | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    mark = " (synthetic)" if synthetic else ""
    for measure in next(iter(results.values())):
        values = [one.get(measure) for one in results.values()]
        digits = 2 if measure.endswith("dB") else 3
        cells = ["-" if value is None else f"{value:.{digits}f}{mark}" for value in values]
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    return "\n".join(lines)
