"""Anchors to a personal generator: My3DGen's training (WACV 2025, section 3), pivotal tuning (PTI, TOG 2022)
or full fine-tuning, all by one loop."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.progress import OnStep
from ..eg3d import Generator
from ..person.apply import personalized
from ..person.identity import Identity
from ..person.latents import Latents
from .photo_objective import check_photos
from .trainer import DivergedError, Training
from .tuning_config import DEFAULT, PRESETS, TuningConfig

if TYPE_CHECKING:
    from ..face import FaceModels

__all__ = ["PRESETS", "DivergedError", "StopAndKeep", "TuningConfig", "personalize", "pivotal_tune"]


class StopAndKeep(Exception):  # noqa: N818  (nothing went wrong)
    """Raised by `on_step` to end a training early: what is trained so far is returned."""


def personalize(
    generator: Generator,
    images: Tensor,
    anchors: Latents,
    config: TuningConfig = DEFAULT,
    masks: Tensor | None = None,
    on_step: OnStep | None = None,
    *,
    heads: Tensor | None = None,
    start: Identity | None = None,
    face_models: FaceModels | None = None,
) -> Identity:
    """Trains an adapter so that every anchor renders its photo.

    Args:
        generator: frozen, and untouched: bit-identical afterwards, also when `on_step` raises.
        images: [N, 3, H, H] in [-1, 1], any size.
        anchors: the photos' latents with their cameras, from `invert`; both stay as they are, unless
            `config.refine`.
        masks: [N, 1, H, H], 1 = invented pixel, not looked at.
        on_step: called as (step, total, losses, preview [1, 3, R, R] or None). What it raises ends the work;
            after `StopAndKeep` the identity trained so far is returned.
        heads: [N, 1, h, h], 1 = head, for `config.background_weight`; None: where the generator itself shows
            the head for these anchors.
        start: an identity to go on from, of the same method, rank and layout.
        face_models: for `config.identity_weight`.

    Returns:
        `Identity` with the adapter, the anchors, the settings and the loss of every step.

    Raises:
        ValueError: photos, masks and anchors that do not belong together, or the state of another training.
        DivergedError: the loss became NaN, infinite or far too large; it carries the last good state.
    """
    if anchors.cameras is None:
        raise ValueError("These latents have no cameras. Take anchors from Invert, or give their cameras.")
    check_photos(images, masks, anchors.cameras)
    with torch.inference_mode(False), torch.enable_grad():
        training = Training(generator, images, anchors, config, masks, heads, start, face_models)
        folder = None if config.checkpoint_dir is None else Path(config.checkpoint_dir)
        if folder is not None:
            training.restore(folder)
        with contextlib.suppress(StopAndKeep):
            while training.done < config.steps:
                loss = training.advance()
                last = training.done == config.steps
                if folder is not None and (training.done % config.checkpoint_every == 0 or last):
                    training.save(folder)
                if on_step is not None:
                    every = config.preview_every
                    wanted = every and (training.done % every == 0 or last)
                    preview = training.preview() if wanted else None
                    on_step(training.done, config.steps, {"loss": loss}, preview)
    return training.identity()


def pivotal_tune(
    generator: Generator,
    images: Tensor,
    pivot: Latents,
    config: TuningConfig = DEFAULT,
    masks: Tensor | None = None,
    on_step: OnStep | None = None,
    *,
    heads: Tensor | None = None,
    over: Identity | None = None,
    strength: float = 1.0,
    face_models: FaceModels | None = None,
) -> Identity:
    """Tunes the generator around the latent of one photo, or of a few photos of one look (PTI).

    As `personalize`, with the photo's latent as the pivot. On top of a person it is trained as a second
    adapter: apply both, in that order.

    Args:
        over: the identity below, in effect during the tuning with `strength`. The result names it
            (`Identity.base_identity_hash`), and its strength, and is of no use without it.

    Returns:
        `Identity` whose anchors are the pivot.
    """
    below = contextlib.nullcontext() if over is None else personalized(generator, over, strength)
    if over is not None:
        over.check_base(generator.base_hash())
    with below:
        identity = personalize(
            generator, images, pivot, config, masks, on_step, heads=heads, face_models=face_models
        )
    identity.provenance["kind"] = "pivotal tuning"
    if over is not None:
        identity.provenance |= {"over": over.content_hash(), "over_strength": strength}
    return identity
