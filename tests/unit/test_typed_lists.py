"""Lists in text inputs, typed on any keyboard."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

KEYFRAMES = [
    "-30 0, 0 12",
    "-30 0\uff0c0 12",
    "-30 0\n0 12\n",
    "-30 0,\r\n0 12",
    "\u221230 0\u30010 12",
    "\uff0d\uff13\uff10\u30000,0 12",
]
WEIGHTS = [
    "0: 0.5, 2: 1.5",
    "0\uff1a0.5\uff0c2\uff1a1.5",
    "0: 0.5\n2: 1.5",
    "\uff10:\uff10\uff0e\uff15, 2: 1.5",
]


@pytest.mark.parametrize("text", KEYFRAMES)
def test_keyframes_are_read_from_any_keyboard(pack: ModuleType, text: str) -> None:
    found = sys.modules["my3dgen_pack.nodes.camera.paths"].parse_keyframes(text)
    assert torch.rad2deg(found).round().tolist() == [[-30, 0], [0, 12]]


@pytest.mark.parametrize("text", WEIGHTS)
def test_weights_are_read_from_any_keyboard(pack: ModuleType, text: str) -> None:
    found = sys.modules["my3dgen_pack.nodes.latent.alpha_space"].parse_weights(text, 3, 0.0)
    assert found.tolist() == [[0.25, 0.0, 0.75]]


def test_weights_below_zero_may_have_a_typographic_minus(pack: ModuleType) -> None:
    found = sys.modules["my3dgen_pack.nodes.latent.alpha_space"].parse_weights("0: \u22120.5, 1: 1.5", 2, 1.0)
    assert found.tolist() == [[-0.5, 1.5]]


@pytest.mark.parametrize("text", ["0-2, 8", "0\u20132\uff0c8", "0 - 2\n8", "\uff10\uff0d\uff12, 8"])
def test_layers_are_read_from_any_keyboard(pack: ModuleType, text: str) -> None:
    assert sys.modules["my3dgen_pack.nodes.latent.directions"].parse_layers(text) == [0, 1, 2, 8]


def test_an_item_that_is_none_is_quoted_as_it_was_typed(pack: ModuleType) -> None:
    with pytest.raises(ValueError, match="'\u2212thirty 0' is not a keyframe"):
        sys.modules["my3dgen_pack.nodes.camera.paths"].parse_keyframes("0 0\uff0c\u2212thirty 0")


def test_names_are_split_but_not_changed(pack: ModuleType) -> None:
    names = sys.modules["my3dgen_pack.nodes.output.comparison_grid"].names
    assert names("\u5c0f\u660e\uff0c\uff21 \u2013 \uff22,,d", 5, "model") == [
        "\u5c0f\u660e",
        "\uff21 \u2013 \uff22",
        "",
        "d",
        "model 5",
    ]
    assert names(" ", 1, "model") == ["model 1"]
