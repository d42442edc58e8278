"""Words by which users find and understand nodes: categories, search aliases, descriptions, help, German."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CATEGORIES = {f"My3DGen/{name}" for name in ("Person", "Latents", "Cameras", "Output")}


@pytest.fixture
def german(root: Path) -> dict[str, Any]:
    return json.loads((root / "locales" / "de" / "nodeDefs.json").read_text(encoding="utf-8"))


def test_every_node_is_in_one_of_four_categories_and_none_is_empty(pack: ModuleType) -> None:
    assert {node.CATEGORY for node in pack.NODE_CLASS_MAPPINGS.values()} == CATEGORIES


def test_every_node_has_aliases_that_a_user_would_type(pack: ModuleType) -> None:
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        aliases = node.SEARCH_ALIASES
        assert isinstance(aliases, list), name
        assert 3 <= len(aliases) <= 8, name
        assert len(set(aliases)) == len(aliases), name
        shown = pack.NODE_DISPLAY_NAME_MAPPINGS[name].lower()
        for alias in aliases:
            assert alias == alias.lower().strip() != "", f"{name}: {alias!r}"
            assert alias not in shown, f"{name}: {alias!r} is found by the display name already"


@pytest.mark.parametrize(
    ("word", "node"),
    [
        ("pti", "PivotalTuning"),
        ("lora", "TrainIdentity"),
        ("gan inversion", "Invert"),
        ("turntable", "CameraPath"),
        ("fov", "WidenView"),
        ("glb", "ExtractMesh"),
        ("inpainting", "RestorePhotos"),
        ("avatar", "LoadIdentity"),
    ],
)
def test_a_word_of_the_field_finds_its_node(pack: ModuleType, word: str, node: str) -> None:
    assert word in pack.NODE_CLASS_MAPPINGS[f"My3DGen{node}"].SEARCH_ALIASES


def test_display_names_are_unique_and_every_node_has_one(pack: ModuleType) -> None:
    names = pack.NODE_DISPLAY_NAME_MAPPINGS
    assert list(names) == list(pack.NODE_CLASS_MAPPINGS)
    assert len(set(names.values())) == len(names)


def test_every_node_has_a_description_and_a_help_page_with_its_name(pack: ModuleType, root: Path) -> None:
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        assert re.fullmatch(r"[A-Z].{20,}\.", node.DESCRIPTION), name
        page = (root / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {pack.NODE_DISPLAY_NAME_MAPPINGS[name]}\n"), name


def test_every_node_has_a_german_name_and_description_of_its_own(
    pack: ModuleType, german: dict[str, Any]
) -> None:
    assert list(german) == list(pack.NODE_CLASS_MAPPINGS)
    names = [text["display_name"] for text in german.values()]
    assert len(set(names)) == len(names)
    for name, text in german.items():
        assert text["display_name"], name
        assert len(text["description"]) > 20, name
        assert text["description"] != pack.NODE_CLASS_MAPPINGS[name].DESCRIPTION, name


def test_german_texts_name_only_nodes_and_fields_that_exist(german: dict[str, Any]) -> None:
    fields = [
        field for text in german.values() for part in ("inputs", "outputs") for field in text[part].values()
    ]
    names = {text["display_name"] for text in german.values()} | {field["name"] for field in fields}
    texts = [text["description"] for text in german.values()] + [field["tooltip"] for field in fields]
    named = {name for text in texts for name in re.findall("„([^“]+)“", text)}
    assert named
    assert not named - names


def test_every_category_is_translated(pack: ModuleType, root: Path) -> None:
    german = json.loads((root / "locales" / "de" / "main.json").read_text(encoding="utf-8"))
    parts = {part for node in pack.NODE_CLASS_MAPPINGS.values() for part in node.CATEGORY.split("/")}
    assert set(german["nodeCategories"]) == parts
    assert all(german["nodeCategories"].values())
