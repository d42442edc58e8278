"""The course of a training, for the page: told as it goes, and kept for a page that is opened later."""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import host
from .identity_similarity import Likeness
from .routes import Answer, handler

EVENT = "my3dgen.training"
POINTS, PIXELS, INTERVAL, KEPT = 300, 160, 0.7, 8
PICTURES = 16

_STATES: OrderedDict[str, dict[str, Any]] = OrderedDict()


class Curve:
    """Values over steps, at most 300 points however long it gets: each is the mean of equally many values."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        self._each = 1
        self._open: list[float] = []

    def add(self, step: int, value: float) -> None:
        self._open.append(value)
        if len(self._open) < self._each:
            return
        self.points.append((step, sum(self._open) / len(self._open)))
        self._open = []
        if len(self.points) >= POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(later, (a + b) / 2) for (_, a), (later, b) in pairs]
            self._each *= 2


class Album:
    """Pictures of a training, at most 15 however long it gets, at equal distances."""

    def __init__(self) -> None:
        self.pictures: list[tuple[int, str]] = []
        self._each = 1
        self._seen = 0

    def add(self, step: int, picture: str) -> None:
        self._seen += 1
        if self._seen % self._each:
            return
        self.pictures.append((step, picture))
        if len(self.pictures) >= PICTURES:
            self.pictures = self.pictures[1::2]
            self._each *= 2


def watch(
    node_id: str | None, on_step: Callable[..., None], images: Tensor, likeness: Likeness | None = None
) -> Callable[..., None]:
    """The same `on_step`, which also tells the page.

    Args:
        images: what is trained towards, IMAGE [B, H, W, 3]; the core's previews show the first of them.
        likeness: of the first of them; measured whenever there is a preview.
    """
    if node_id is None:
        return on_step
    curve, similar, album = Curve(), Curve(), Album()
    begun, sent, new = time.monotonic(), 0.0, False
    first: int | None = None
    target = images[:1, ..., :3].detach().permute(0, 3, 1, 2) * 2 - 1
    # All keys from the beginning: the server's thread may read it at any time.
    state: dict[str, Any] = {"node": node_id, "state": "running", "step": 0, "total": 0, "left": 0.0}
    state |= {"curve": [], "similarity": [], "note": "", "target": _url(target), "now": None, "seen": []}
    _keep(node_id, state)

    def publish() -> None:
        """All that changes; the pictures only where there is a new one."""
        nonlocal new
        told = {key: value for key, value in state.items() if new or key != "seen"}
        new = False
        host.publish(EVENT, told)

    def look(step: int, image: Tensor) -> None:
        nonlocal new
        picture = _url(image)
        album.add(step, picture)
        if likeness is not None:
            cosine = likeness.of(image)
            if cosine is not None:
                similar.add(step, round(cosine, 4))
            state.update(similarity=list(similar.points), note=likeness.note)
        state.update(now=picture, seen=list(album.pictures))
        new = True

    def watched(
        step: int, total: int, losses: dict[str, float] | None = None, image: Tensor | None = None
    ) -> None:
        nonlocal first, sent
        first = step - 1 if first is None else first  # a training that goes on does not begin at 1
        if losses and "loss" in losses:
            curve.add(step, losses["loss"])
        now = time.monotonic()
        left = (now - begun) / max(1, step - first) * (total - step)
        state.update(step=step, total=total, left=round(left, 1), curve=list(curve.points))
        if image is not None:
            look(step, image)
        try:
            on_step(step, total, losses)  # without core's preview: the monitor has the picture
        except BaseException:
            state["state"] = "stopped"
            publish()
            raise
        state["state"] = "done" if step >= total else "running"
        if now - sent > INTERVAL or step >= total:
            sent = now
            publish()

    return watched


def _keep(node_id: str, state: dict[str, Any]) -> None:
    _STATES.pop(node_id, None)
    _STATES[node_id] = state
    if len(_STATES) > KEPT:
        _STATES.popitem(last=False)


def _url(image: Tensor) -> str:
    """[1, 3, h, w] in [-1, 1] -> a small JPEG as an address that holds the picture itself."""
    size = min(PIXELS, image.shape[-1])
    small = torch.nn.functional.interpolate(image.detach().float().cpu(), (size, size), mode="area")
    return "data:image/jpeg;base64," + base64.b64encode(host.jpeg(small, 80)).decode()


async def _states(_: bytes) -> Answer:
    return Answer.json({"trainings": dict(_STATES)})


host.serve("GET", "/my3dgen/training", handler(_states))
