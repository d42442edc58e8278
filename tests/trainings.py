"""Trainings in a running ComfyUI, followed by the pack's own route: newer cores tell of few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import comfy


def step_of(server: comfy.Server, node: str = "train") -> int:
    """The step that the training of a node has reached; 0 if none runs."""
    training = server.get("/my3dgen/training")["trainings"].get(node, {})
    return training["step"] if training.get("state") == "running" else 0


def when_training(
    server: comfy.Server, step: int, act: Callable[[], Any]
) -> Callable[[str, dict[str, Any]], None]:
    """An `on_event` of `Server.run` that acts as soon as node "train" has reached a step."""

    def on_event(kind: str, data: dict[str, Any]) -> None:
        if kind == "executing" and data["node"] == "train":
            while step_of(server) < step:
                time.sleep(0.05)
            act()

    return on_event
