"""Bounds of a node's numbers and texts, also of values that arrive by links or the API.

ComfyUI checks the bounds in INPUT_TYPES for values of widgets alone: a linked INT may be anything.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

LONGEST_TEXT = 1 << 20
"""Characters of a text input: far more than a user writes, and parsed within a second."""


def check_inputs(node: type) -> None:
    """Make a node's function refuse numbers and texts outside the bounds of its INPUT_TYPES.

    Args:
        node: class of the node; its function is wrapped in place and raises ValueError for such a value.
    """
    function = getattr(node, node.FUNCTION)  # type: ignore[attr-defined]
    signature = inspect.signature(function)

    @functools.cache
    def options() -> dict[str, tuple[str, Mapping[str, Any]]]:
        return _options(node.INPUT_TYPES())  # type: ignore[attr-defined]

    @functools.wraps(function)
    def checked(self: Any, *arguments: Any, **named: Any) -> Any:
        for name, value in signature.bind_partial(self, *arguments, **named).arguments.items():
            if name in options():
                _check(name, value, *options()[name])
        return function(self, *arguments, **named)

    setattr(node, node.FUNCTION, checked)  # type: ignore[attr-defined]


def _options(inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return type and options of all INT, FLOAT and STRING inputs by name."""
    found = {}
    for section in ("required", "optional"):
        for name, (kind, *rest) in inputs.get(section, {}).items():
            if kind in ("INT", "FLOAT", "STRING"):
                found[name] = (kind, rest[0] if rest else {})
    return found


def _check(name: str, value: Any, kind: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for a value, or an item of a list of values, outside its bounds."""
    if isinstance(value, list):
        for item in value:
            _check(name, item, kind, options)
    elif kind == "STRING":
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ValueError(f"{name} has {len(value):,} characters, where {LONGEST_TEXT:,} are allowed.")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = options.get("min", -math.inf), options.get("max", math.inf)
        if "control_after_generate" in options:  # the page counts seeds to 2^53, other nodes' to 2^64
            high = 2**64 - 1
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name} is {value}, but must lie between {low} and {high}.")
