"""Every node has a help page and a German twin of every string, and neither speaks of what is not there."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy


def inputs_of(node: Any) -> set[str]:
    groups = node.INPUT_TYPES()
    return set(groups.get("required", {})) | set(groups.get("optional", {}))


def test_every_node_has_a_help_page_that_explains_its_inputs_and_outputs(
    pack: ModuleType, root: Path
) -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (root / "web" / "docs").glob("*.md")}
    assert set(pages) == set(pack.NODE_CLASS_MAPPINGS)
    for name, text in pages.items():
        node = pack.NODE_CLASS_MAPPINGS[name]
        assert text.startswith(f"# {pack.NODE_DISPLAY_NAME_MAPPINGS[name]}\n"), name
        missing = (inputs_of(node) | set(node.RETURN_NAMES)) - set(re.findall(r"`([^`]+)`", text))
        assert not missing, f"{name}: {missing}"


def test_every_help_page_shows_a_picture_that_is_there_and_small(pack: ModuleType, root: Path) -> None:
    docs = root / "web" / "docs"
    shown = set()
    for name in pack.NODE_CLASS_MAPPINGS:
        found = re.findall(r"!\[(.+?)\]\((pictures/\S+)\)", (docs / f"{name}.md").read_text(encoding="utf-8"))
        assert found, name
        for _, file in found:
            assert (docs / file).stat().st_size < 50_000, file
        shown |= {Path(file).name for _, file in found}
    assert shown == {path.name for path in (docs / "pictures").iterdir()}


def test_help_pages_name_only_nodes_and_folders_that_exist(pack: ModuleType, root: Path) -> None:
    shown = {*pack.NODE_DISPLAY_NAME_MAPPINGS.values(), "Load 3D", "Create Video"}
    for path in (root / "web" / "docs").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        # Two or more capitalized words in a row after "from" or "for" are (the beginning of) a node's name.
        for name in re.findall(r"\b(?:from|for|to) ((?:[A-Z]\w+ )+[A-Z]\w+)", text):
            assert any(known.startswith(name) for known in shown), f"{path.name}: {name}"


def test_the_german_strings_are_those_of_the_nodes(pack: ModuleType, root: Path) -> None:
    texts = json.loads((root / "locales" / "de" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert list(texts) == list(pack.NODE_CLASS_MAPPINGS)
    for name, text in texts.items():
        node = pack.NODE_CLASS_MAPPINGS[name]
        assert set(text["inputs"]) == inputs_of(node), name
        assert list(text["outputs"]) == [str(place) for place in range(len(node.RETURN_NAMES))], name
        parts = [*text["inputs"].values(), *text["outputs"].values()]
        assert all(part["name"] and part["tooltip"] for part in parts), name
        assert text["display_name"]
        assert text["description"]


def test_the_server_hands_the_strings_and_the_help_out(server: comfy.Server) -> None:
    assert server.get("/i18n")["de"]["nodeDefs"]["My3DGenCamera"]["display_name"] == "Kamera"
    address = f"http://{server.address}/extensions/{comfy.PACK}/docs/My3DGenCamera.md"
    with urllib.request.urlopen(address, timeout=60) as page:
        assert page.read().startswith(b"# Camera\n")
    assert f"/extensions/{comfy.PACK}/js/camera_pad.js" in server.get("/extensions")
