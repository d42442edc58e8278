"""Personalization of a generator by one training loop.

My3DGen (WACV 2025, section 3), pivotal tuning (PTI, TOG 2022), and full fine-tuning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.progress import OnStep
from ..eg3d import Generator
from ..face import FaceModels
from ..person.apply import personalized
from ..person.identity import Identity
from ..person.latents import Latents
from .photo_objective import check_photos
from .trainer import DivergedError, Training
from .tuning_config import DEFAULT, PRESETS, TuningConfig

log = logging.getLogger("my3dgen")

__all__ = ["PRESETS", "DivergedError", "StopAndKeep", "TuningConfig", "personalize", "pivotal_tune"]


class StopAndKeep(Exception):  # noqa: N818  (nothing went wrong)
    """Raised by `on_step` to end a training early and keep the identity trained so far.

    With `TuningConfig.checkpoint_dir` the state is written too, and the same call resumes from there.
    """


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
    """Train an adapter so that every anchor renders its photo (My3DGen, section 3).

    Args:
        generator: not changed, also when `on_step` raises: its weights are bit-identical afterwards.
        images: aligned photos [N, 3, H, H] in [-1, 1], any size.
        anchors: latents of the photos with cameras, from `invert`; kept as they are, unless `config.refine`
            or `config.anchors` changes them.
        config: settings.
        masks: [N, 1, H, H], 1 = ignored pixel.
        on_step: progress callback, called after each step as (step, total, losses, preview [1, 3, R, R] or
            None), and with the last step again while anchors are optimized. An exception it raises ends the
            training; after `StopAndKeep` the identity trained so far is returned.
        heads: [N, 1, h, h], 1 = head, for `config.background_weight`; None: masks of the head rendered by the
            generator itself.
        start: identity to continue from, of the same method, rank and layout.
        face_models: face networks with ArcFace, for `config.identity_weight`.

    Returns:
        `Identity` with the adapter, the anchors, the settings as provenance, and the loss of every step.

    Raises:
        ValueError: photos, masks and anchors that do not match, or a checkpoint of another training.
        DivergedError: the loss became NaN, infinite or far larger than its best; it carries the last good
            identity.
    """
    if anchors.cameras is None:
        raise ValueError("These latents have no cameras. Take anchors from Invert, or give their cameras.")
    check_photos(images, masks, anchors.cameras)
    with torch.inference_mode(False), torch.enable_grad():
        training = Training(generator, images, anchors, config, masks, heads, start, face_models)
        folder = None if config.checkpoint_dir is None else Path(config.checkpoint_dir)

        def heartbeat() -> None:
            if on_step is not None:
                on_step(training.done, config.steps, {"loss": training.history[-1]}, None)

        if folder is not None:
            training.restore(folder)
        try:
            while training.done < config.steps:
                loss = training.advance(heartbeat)
                last = training.done == config.steps
                if folder is not None and (training.done % config.checkpoint_every == 0 or last):
                    folder = _save_state(training, folder)
                if on_step is not None:
                    every = config.preview_every
                    wanted = every and (training.done % every == 0 or last)
                    preview = training.preview() if wanted else None
                    on_step(training.done, config.steps, {"loss": loss}, preview)
        except StopAndKeep:
            if folder is not None:
                _save_state(training, folder)
    return training.identity()


def _save_state(training: Training, folder: Path) -> Path | None:
    """Write a checkpoint; return the folder for the next one, or None after a failure, which is logged once.

    The training does not need its checkpoints, so it goes on without them.
    """
    try:
        training.save(folder)
    except (OSError, SafetensorError) as error:
        log.warning(
            "The state of the training cannot be written to %s (%s). The training goes on, but it cannot be "
            "resumed after an interruption.",
            folder,
            error,
        )
        return None
    return folder


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
    """Tune the generator around the latent of one photo, or of a few photos of one look (PTI, TOG 2022).

    As `personalize`, with the latent as the pivot. With `over` the result is a second adapter on top of an
    identity: apply both, in that order.

    Args:
        generator: not changed.
        images: aligned photos [N, 3, H, H] in [-1, 1], any size.
        pivot: latents of the photos with cameras, from `invert`.
        config: settings.
        masks: [N, 1, H, H], 1 = ignored pixel.
        on_step: progress callback, as in `personalize`.
        heads: [N, 1, h, h], 1 = head, as in `personalize`.
        over: identity in effect during the tuning. The result refers to it by hash
            (`Identity.base_identity_hash`) and needs it.
        strength: strength of `over`.
        face_models: face networks with ArcFace, for `config.identity_weight`.

    Returns:
        `Identity` whose anchors are the pivot.

    Raises:
        ValueError: as in `personalize`, or `over` belongs to another generator.
        DivergedError: as in `personalize`.
    """
    below = contextlib.nullcontext() if over is None else personalized(generator, over, strength)
    if over is not None:
        over.check_base(generator.base_hash())
    kind: dict[str, Any] = {"kind": "pivotal tuning"}
    if over is not None:
        kind |= {"over": over.content_hash(), "over_strength": strength}
    try:
        with below:
            own = dataclasses.replace(config, anchors="own")  # pivots stay as they are
            identity = personalize(
                generator, images, pivot, own, masks, on_step, heads=heads, face_models=face_models
            )
    except DivergedError as error:
        if error.identity is not None:
            error.identity.provenance |= kind
        raise
    identity.provenance |= kind
    return identity
