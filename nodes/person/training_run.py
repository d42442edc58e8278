"""Runs of trainings that may be canceled or diverge: what was trained is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import host
from ..server import training_monitor

if TYPE_CHECKING:
    from ...my3dgen_core import Generator, Identity, TuningConfig

CANCELED = "my3dgen/identities/canceled"
"""File name prefix of the identities of canceled trainings, in a folder that Load Identity lists."""


def state_folder(
    config: TuningConfig, generator: Generator, face_pack: str, tensors: Iterable[Tensor | None]
) -> Path:
    """Return the folder of a training's checkpoints, named by what decides its result.

    Args:
        config: settings.
        generator: the bare generator.
        face_pack: folder of the face pack for the identity loss, or "".
        tensors: photos, masks, anchors, and the adapter to continue from.
    """
    from ...my3dgen_core.fitting.trainer import fingerprint

    key = fingerprint(config, f"{generator.base_hash()} {face_pack}", tensors)
    return host.state_folder("training", key[:16])


def run_training(
    train: Callable[[Callable[..., None]], Identity],
    on_step: Callable[..., None],
    node_id: str | None,
    state: Path | None = None,
) -> tuple[Identity, str]:
    """Run a training; keep its last good identity if it diverges, and write what it has if it is canceled.

    Args:
        train: trains with the `on_step` it is given.
        on_step: progress callback, which raises if the user cancels.
        node_id: id of the node, for messages.
        state: folder of its checkpoints; deleted when the identity is returned.

    Returns:
        the identity, and a warning for the user, "" if there is none.

    Raises:
        DivergedError: not even the first loss was finite.
    """
    from ...my3dgen_core import DivergedError
    from ...my3dgen_core.fitting.tuning import StopAndKeep

    interruption: list[BaseException] = []
    total, note = 0, ""

    def stoppable(step: int, steps: int, *rest: Any) -> None:
        nonlocal total
        total = steps
        try:
            on_step(step, steps, *rest)
        except host.interruptions() as error:
            interruption.append(error)
            raise StopAndKeep from error

    try:
        try:
            identity = train(stoppable)
        except DivergedError as error:
            if error.identity is None:
                raise
            identity, note = error.identity, _warning(error.identity, str(error))
            host.log.warning("%s", note)
        if interruption:
            note = _keep(identity, total, state)
            host.report(node_id, note)
            raise interruption[0]
    finally:
        training_monitor.finish(node_id, note)
    if state is not None:
        shutil.rmtree(state, ignore_errors=True)
    return identity, note


def _warning(identity: Identity, error: str) -> str:
    """Say which identity a diverged training returns."""
    steps = identity.provenance["steps_done"]
    kept = f"This identity is its last good state, after {steps} steps."
    if not steps:
        kept = "No step had improved it, so this identity is untrained and renders like the bare generator."
    return f"Warning: {error} {kept}"


def _keep(identity: Identity, total: int, state: Path | None) -> str:
    """Write the identity of a canceled training, unless it keeps its state; return where it is."""
    done = f"Canceled after step {identity.provenance['steps_done']} of {total}."
    if state is not None:
        return f"{done} Its state is in {state}: queue the same workflow again to continue from there."
    try:
        with host.save_path(CANCELED, ".safetensors") as path:
            identity.save(path)
    except OSError as error:
        return f"{done} The identity trained so far could not be written: {error}"
    return f"{done} The identity so far is in {path}: open it with Load Identity to use or continue it."
