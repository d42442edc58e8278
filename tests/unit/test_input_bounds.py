"""Numbers and texts outside the bounds of an input are refused, however they arrive."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import pytest

LONGEST_TEXT = 1 << 20


@pytest.fixture
def node(pack: ModuleType) -> Any:
    class Node:
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {
                "required": {
                    "frames": ("INT", {"min": 1, "max": 600}),
                    "text": ("STRING", {}),
                    "choice": (["a", "b"],),
                },
                "optional": {
                    "seed": ("INT", {"min": 0, "max": 2**53, "control_after_generate": True}),
                    "weight": ("FLOAT", {"min": -1.0, "max": 1.0}),
                },
            }

        def run(self, frames: int, text: str, choice: str, seed: int = 0, weight: float = 0.0) -> str:
            return f"{frames} {seed} {weight}"

    bounds = sys.modules["my3dgen_pack.nodes.input_bounds"]
    assert bounds.LONGEST_TEXT == LONGEST_TEXT
    bounds.check_inputs(Node)
    return Node()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 3_000_000}, "frames is 3000000, but must lie between 1 and 600"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": [5, -1]}, "frames is -1"),
        ({"weight": math.nan}, "weight is nan"),
        ({"weight": math.inf}, "weight is inf"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"text": "x" * (LONGEST_TEXT + 1)}, "text has 1,048,577 characters, where 1,048,576 are allowed"),
    ],
)
def test_a_value_outside_its_bounds_is_refused_by_name(
    node: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        node.run(**({"frames": 5, "text": "", "choice": "a"} | values))


def test_values_inside_their_bounds_pass_by_position_and_by_name(node: Any) -> None:
    assert node.run(600, "x", "no choice of the list", weight=-1.0) == "600 0 -1.0"
    assert node.run(1, "x", "a", 2**64 - 1) == f"1 {2**64 - 1} 0.0"


def test_every_number_of_every_node_has_bounds(pack: ModuleType) -> None:
    for name, one in pack.NODE_CLASS_MAPPINGS.items():
        inputs = one.INPUT_TYPES()
        for section in ("required", "optional"):
            for key, (kind, *options) in inputs.get(section, {}).items():
                if kind in ("INT", "FLOAT") and not options[0].get("forceInput"):
                    assert {"min", "max"} <= options[0].keys(), f"{name}.{key}"
