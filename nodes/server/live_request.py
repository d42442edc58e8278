"""What the page may ask of a live picture, checked before anything is done with it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ..socket_types import DISTANCE, FIELD_OF_VIEW

BODY_LIMIT = 64 << 10
HANDLE_LENGTH, WEIGHTS, EDITS = 64, 1000, 8
# name: lowest, highest, what it is where it is not given; the same ranges as the inputs of Camera
CAMERA = {
    "yaw": (-180.0, 180.0, 0.0),
    "pitch": (-89.0, 89.0, 0.0),
    "roll": (-180.0, 180.0, 0.0),
    "distance": (0.5, 20.0, DISTANCE),
    "field_of_view": (1.0, 120.0, FIELD_OF_VIEW),
}
KNOWN = {"head", "quality", "aim", "weights", "edits", *CAMERA}


class RequestError(Exception):
    """Why there is no picture: an HTTP status and a sentence for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Request:
    """Handles and numbers, all in their ranges; whether the handles are known is for `Handles` to say.

    camera: degrees and distance by the names of Camera's inputs. aim: "model", it looks at the model's own
    point, as a Camera does that has a model connected; "origin"; or "anchors", it is mixed of the anchors'
    cameras instead. weights: handle of a mixture, one number
    an anchor, sum 1. edits: (handle, strength) in the order of the wires.
    """

    head: str
    camera: dict[str, float]
    aim: str
    drag: bool
    weights: tuple[str, tuple[float, ...]] | None
    edits: tuple[tuple[str, float], ...]


def parse(body: bytes) -> Request:
    """A request out of JSON.

    Raises:
        RequestError: 413 or 400 with a sentence. It repeats no text of the request.
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
    """bool is an int in Python, but no number here; JSON's NaN and Infinity are none either."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(400, f"{what} must be a number.")
    if not low <= value <= high or not math.isfinite(value):
        raise RequestError(400, f"{what} must lie within [{low:g}, {high:g}].")
    return float(value)
