"""Requests for live previews: parsing, and checks of every field before it is used."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ..socket_types import DISTANCE, FIELD_OF_VIEW

BODY_LIMIT = 64 << 10
HANDLE_LENGTH, WEIGHTS, EDITS = 64, 1000, 8
"""Largest length of a handle, and largest numbers of weights and edits in a request."""
# name: lowest value, highest, default; the ranges are those of the Camera node
CAMERA = {
    "yaw": (-180.0, 180.0, 0.0),
    "pitch": (-89.0, 89.0, 0.0),
    "roll": (-180.0, 180.0, 0.0),
    "distance": (0.5, 20.0, DISTANCE),
    "field_of_view": (1.0, 120.0, FIELD_OF_VIEW),
}
KNOWN = {"head", "quality", "aim", "weights", "edits", *CAMERA}


class RequestError(Exception):
    """Refusal of a request, with an HTTP status and a message for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A checked request: every number is within its range, but handles may be unknown to `Handles`."""

    head: str
    """Handle of the head."""
    camera: dict[str, float]
    """Degrees and distance by the names of the Camera node's inputs."""
    aim: str
    """"model": look at the model's look-at point, as a Camera with a model does; "origin": at the world's
    origin; "anchors": mix the anchors' cameras instead."""
    drag: bool
    """Render quickly, because the user is dragging."""
    weights: tuple[str, tuple[float, ...]] | None
    """Handle of a mixture and one weight per anchor, with the sum 1; or None."""
    edits: tuple[tuple[str, float], ...]
    """(handle, strength) of each edit, in the order of the links."""


def parse(body: bytes) -> Request:
    """Parse a request from JSON.

    Raises:
        RequestError: 413, the body is too long, or 400, it is no valid request. The message repeats no text
            of the request.
    """
    if len(body) > BODY_LIMIT:
        raise RequestError(413, f"A request may have at most {BODY_LIMIT} bytes.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "The request is not JSON.") from None
    if not isinstance(found, dict):
        raise RequestError(400, "The request must be a JSON object.")
    if not found.keys() <= KNOWN:
        raise RequestError(400, f"The request has a field other than {', '.join(sorted(KNOWN))}.")
    quality = found.get("quality", "still")
    if quality not in ("drag", "still"):
        raise RequestError(400, "quality must be 'drag' or 'still'.")
    aim = found.get("aim", "model")
    if aim not in ("model", "origin", "anchors"):
        raise RequestError(400, "aim must be 'model', 'origin' or 'anchors'.")
    if aim == "anchors" and found.get("weights") is None:
        raise RequestError(400, "aim can be 'anchors' only with weights.")
    camera = {
        name: _number(found.get(name, usual), name, low, high) for name, (low, high, usual) in CAMERA.items()
    }
    weights = _weights(found["weights"]) if found.get("weights") is not None else None
    edits = _list(found.get("edits", []), "edits", EDITS)
    return Request(
        _handle(found.get("head")),
        camera,
        aim,
        quality == "drag",
        weights,
        tuple(_edit(edit) for edit in edits),
    )


def _weights(value: Any) -> tuple[str, tuple[float, ...]]:
    handle, values = _pair(value, "weights", "values")
    numbers = tuple(_number(v, "a weight", -1.0, 2.0) for v in _list(values, "weights", WEIGHTS))
    if abs(sum(numbers) - 1) > 1e-3:
        raise RequestError(400, "The weights must sum to 1.")
    return handle, numbers


def _edit(value: Any) -> tuple[str, float]:
    handle, strength = _pair(value, "an edit", "strength")
    return handle, _number(strength, "strength", -50.0, 50.0)


def _pair(value: Any, what: str, field: str) -> tuple[str, Any]:
    if not isinstance(value, dict) or value.keys() != {"handle", field}:
        raise RequestError(400, f"{what} must be an object with 'handle' and '{field}'.")
    return _handle(value["handle"]), value[field]


def _list(value: Any, what: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise RequestError(400, f"{what} must be a list of at most {most}.")
    return value


def _handle(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= HANDLE_LENGTH:
        raise RequestError(400, "A handle must be a string issued by this server.")
    return value


def _number(value: Any, what: str, low: float, high: float) -> float:
    """Return a number within [low, high]; bool and JSON's NaN and Infinity are refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(400, f"{what} must be a number.")
    if not low <= value <= high or not math.isfinite(value):
        raise RequestError(400, f"{what} must lie within [{low:g}, {high:g}].")
    return float(value)
