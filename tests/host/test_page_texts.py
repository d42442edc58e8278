"""Help pages, documentation and German strings match the nodes and folders that exist."""

from __future__ import annotations

import difflib
import json
import re
import sys
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy
import pytest
from node_mappings import display_names, node_ids

CORE_NODES = {
    "Load 3D",
    "Preview 3D",
    "Render Splat",
    "Save GLB",
    "Create Video",
    "Load Video",
    "Save Video",
    "Save Image",
    "Load Image",
    "Preview Image",
}
FOLDERS = {
    *(f"models/my3dgen/{kind}" for kind in ("generators", "identities", "directions", "perceptual", "faces")),
    *(f"output/my3dgen/{kind}" for kind in ("generators", "identities", "directions", "latents", "meshes")),
    "output/my3dgen/training",
    "user/my3dgen/inversions",
    "user/my3dgen/identity_index",
    "models/insightface/models",
}


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


def user_pages(root: Path) -> list[Path]:
    """Help pages, README and documentation."""
    return [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "web" / "docs").glob("*.md")]


def prose(text: str) -> str:
    """A Markdown text in one line, without code and link targets; cells of tables and headings end in "|"."""
    text = re.sub(r"```.*?```", " | ", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", " | ", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"^#.*$", r"\g<0> |", text, flags=re.MULTILINE)
    return re.sub(r"\s+", " ", text)


def wrong_node_names(text: str) -> set[str]:
    """Phrases that read like the name of a node and are none.

    Two capitalized words of which the first begins a node's name or id ("Load Generator"); emphasized words
    that are nearly a name. A list such as "Save / Load Latents" shortens names and is passed over.
    """
    ours = set(display_names().values())
    known = ours | CORE_NODES
    beginnings = {name.split()[0] for name in ours}
    beginnings |= {re.findall(r"[A-Z][a-z]*", node.removeprefix("My3DGen"))[0] for node in node_ids()}
    text, wrong = prose(text), set()
    for found in re.finditer(rf"(?<!/ )\b(?:{'|'.join(sorted(beginnings))}) [A-Z0-9]\w*", text):
        rest = text[found.start() :].replace("*", "")
        if not any(re.match(rf"{re.escape(name)}\b", rest) for name in known if " " in name):
            wrong.add(found[0])
    for _, emphasized in re.findall(r"(?<![\w*])(\*{1,2})(\w[^*|]*?)\1", text):
        near = difflib.get_close_matches(emphasized.lower(), [name.lower() for name in ours], 1, 0.8)
        if near and " " in emphasized and emphasized not in known:
            wrong.add(emphasized)
    return wrong


def test_a_wrong_node_name_is_noticed() -> None:
    assert wrong_node_names("Put it there and choose it in **Load Generator**.") == {"Load Generator"}
    assert wrong_node_names("Connect Camera Paths to Render View.") == {"Camera Paths", "Render View"}
    text = "*Comparisons grid* shows | Save GLB | and ![Apply\nLook](x.webp) `Load Anything`"
    assert wrong_node_names(text) == {"Apply Look", "Comparisons grid"}
    for name in display_names().values():
        assert not wrong_node_names(f"*{name}* and **{name}**, {name}'s picture; Save / {name}\n")


def test_pages_name_only_nodes_and_folders_that_exist(pack: ModuleType, root: Path) -> None:
    shown = {*display_names().values(), *CORE_NODES}
    pages = {path: path.read_text(encoding="utf-8") for path in user_pages(root)}
    assert {path.name: wrong for path, text in pages.items() if (wrong := wrong_node_names(text))} == {}
    for path, text in pages.items():
        folders = re.findall(r"\b((?:models|output|user)/(?:my3dgen|insightface)/[\w-]+)", text)
        assert set(folders) <= FOLDERS, path
        if path.parent.name == "docs" and path.parent.parent.name == "web":
            # Two or more capitalized words in a row after "from", "for" or "to" begin a node's name.
            for name in re.findall(r"\b(?:from|for|to) ((?:[A-Z]\w+ )+[A-Z]\w+)", text):
                assert any(known.startswith(name) for known in shown), f"{path.name}: {name}"


def test_the_nodes_use_the_folders_that_pages_may_name(
    pack: ModuleType, folders: Path, nodes: dict[str, Any]
) -> None:
    host = sys.modules["my3dgen_pack.nodes.host"]
    used = set()
    for kind in (host.GENERATORS, host.IDENTITIES, host.DIRECTIONS):
        with pytest.raises(FileNotFoundError) as caught:
            host.find_model(kind, "none.safetensors")
        used |= {f"{place}/my3dgen/{kind}" for place in ("models", "output")}
        assert f"models/my3dgen/{kind}" in str(caught.value)
    used.add(host.perceptual_folder("lpips_alex").relative_to(folders).as_posix())
    used.add(host.state_folder("training", "1").parent.relative_to(folders).as_posix())
    used.add(host.cache_folder("inversions").relative_to(folders).as_posix())
    (folders / "models" / "my3dgen" / "identities").mkdir(parents=True)
    (store,) = sys.modules["my3dgen_pack.nodes.server.identity_files"].stores()
    used.add(store.index.parent.relative_to(folders).as_posix())
    for node in nodes.values():
        inputs = [field for group in node.INPUT_TYPES().values() for field in group.items()]
        for name, (_, *options) in inputs:
            if name in ("filename_prefix", "prefix"):
                used.add(Path("output", options[0]["default"]).parent.as_posix())
    assert used | {"models/insightface/models", "models/my3dgen/faces"} == FOLDERS


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
