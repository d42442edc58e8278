"""Progress of trainings for the page: sent while they run, and kept for a page that is opened later."""

from __future__ import annotations

import base64
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import host
from .http import Answer, handler
from .identity_similarity import IdentitySimilarity

EVENT = "my3dgen.training"
MAX_POINTS, MAX_PREVIEWS, MAX_TRAININGS = 300, 16, 8
"""Points of a curve, previews of a training (one fewer is kept), and trainings kept."""
PIXELS, INTERVAL = 160, 0.7
"""Largest side of a preview, and seconds between two messages to the page."""

_STATES: OrderedDict[str, dict[str, Any]] = OrderedDict()


class Curve:
    """Plot of one value over the steps of a training, with fewer than 300 points.

    Each point is the mean of the values since the point before it. At 300 points pairs are averaged, and from
    then on each new point covers twice as many values.
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        self._values_per_point = 1
        self._pending: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Add the value of a step; NaN and infinity are left out."""
        if not math.isfinite(value):
            return
        self._pending.append(value)
        if len(self._pending) < self._values_per_point:
            return
        self.points.append((step, sum(self._pending) / len(self._pending)))
        self._pending = []
        if len(self.points) >= MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(later, (a + b) / 2) for (_, a), (later, b) in pairs]
            self._values_per_point *= 2


class PreviewHistory:
    """Previews of a training, at most 15, evenly spaced."""

    def __init__(self) -> None:
        self.pictures: list[tuple[int, str]] = []
        self._interval = 1
        self._seen = 0

    def add(self, step: int, picture: str) -> None:
        """Add the preview of a step, unless it falls between two that are kept."""
        self._seen += 1
        if self._seen % self._interval:
            return
        self.pictures.append((step, picture))
        if len(self.pictures) >= MAX_PREVIEWS:
            self.pictures = self.pictures[1::2]
            self._interval *= 2


def watch(
    node_id: str | None,
    on_step: Callable[..., None],
    photos: Tensor,
    similarity: IdentitySimilarity | None = None,
    steps: int | None = None,
) -> Callable[..., None]:
    """Return an `on_step` that calls the given one and also reports to the page.

    Args:
        node_id: id of the training node; None: return the given `on_step`.
        on_step: as `host.progress` returns it.
        photos: the training photos [B, 3, H, W] in [-1, 1]; the core's previews show the first of them.
        similarity: similarity to the first photo, measured for each preview.
        steps: the node's input `steps`, by which the page knows this training again after a reload.
    """
    if node_id is None:
        return on_step
    curve, similarities, previews = Curve(), Curve(), PreviewHistory()
    begun, sent, new = time.monotonic(), 0.0, False
    first: int | None = None
    # All keys are present from the beginning, because the server's thread may read the state at any time.
    state: dict[str, Any] = {"node": node_id, "state": "running", "step": 0, "total": 0, "left": 0.0}
    state["steps"] = steps
    state |= {"curve": [], "similarity": [], "note": "", "target": _url(photos[:1]), "now": None, "seen": []}
    _keep(node_id, state)

    def publish() -> None:
        """Send the state; the previews only if there is a new one."""
        nonlocal new
        message = {key: value for key, value in state.items() if new or key != "seen"}
        new = False
        host.publish(EVENT, message)

    def add_preview(step: int, image: Tensor) -> None:
        nonlocal new
        picture = _url(image)
        previews.add(step, picture)
        if similarity is not None:
            cosine = similarity.measure(image)
            if cosine is not None:
                similarities.add(step, round(cosine, 4))
            state.update(similarity=list(similarities.points), note=similarity.note)
        state.update(now=picture, seen=list(previews.pictures))
        new = True

    def watched(
        step: int, total: int, losses: dict[str, float] | None = None, image: Tensor | None = None
    ) -> None:
        nonlocal first, sent
        first = step - 1 if first is None else first  # a resumed training does not begin at 1
        if losses and "loss" in losses:
            curve.add(step, losses["loss"])
        now = time.monotonic()
        left = (now - begun) / max(1, step - first) * (total - step)
        state.update(step=step, total=total, left=round(left, 1), curve=list(curve.points))
        if image is not None:
            add_preview(step, image)
        try:
            on_step(step, total, losses)  # without ComfyUI's preview: the monitor shows the picture
        except BaseException:
            state["state"] = "stopped"
            publish()
            raise
        state["state"] = "done" if step >= total else "running"
        if now - sent > INTERVAL or step >= total:
            sent = now
            publish()

    return watched


def finish(node_id: str | None, note: str = "") -> None:
    """Report that a training has ended, also early, with a note for the user."""
    state = _STATES.get(node_id or "")
    if state is None or (state["state"] == "done" and not note):
        return
    if state["state"] == "running":
        state["state"] = "stopped"
    state["note"] = note or state["note"]
    host.publish(EVENT, dict(state))


def _keep(node_id: str, state: dict[str, Any]) -> None:
    _STATES.pop(node_id, None)
    _STATES[node_id] = state
    if len(_STATES) > MAX_TRAININGS:
        _STATES.popitem(last=False)


def _url(image: Tensor) -> str:
    """Convert [1, 3, h, w] in [-1, 1] to a small JPEG in a data URL."""
    size = min(PIXELS, image.shape[-1])
    small = torch.nn.functional.interpolate(image.detach().float().cpu(), (size, size), mode="area")
    return "data:image/jpeg;base64," + base64.b64encode(host.jpeg(small, 80)).decode()


async def _states(_: bytes) -> Answer:
    return Answer.json({"trainings": dict(_STATES)})


host.serve("GET", "/my3dgen/training", handler(_states))
