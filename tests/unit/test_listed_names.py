"""Names that the Load nodes list and find: unreadable folders, other systems' names, linked names."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

FILES = {
    "LoadGenerator": "models/my3dgen/generators",
    "LoadIdentity": "output/my3dgen/identities",
    "LoadDirection": "models/my3dgen/directions",
    "LoadLatents": "input/my3dgen/latents",
}
INPUT = {"LoadPhotos": "folder"} | dict.fromkeys(FILES, "file")
LATIN1 = os.fsdecode(b"Fr\xfchling")


@pytest.fixture
def nodes(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {name.removeprefix("My3DGen"): node for name, node in pack.NODE_CLASS_MAPPINGS.items()}


@pytest.fixture
def host(nodes: dict[str, Any]) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.host"]


def listed(nodes: dict[str, Any], node: str) -> list[str]:
    names: list[str] = nodes[node].INPUT_TYPES()["required"][INPUT[node]][0]
    return names


def make(node: str, folder: str) -> str:
    """Makes what a node lists, in this folder; returns the name in the list."""
    if node == "LoadPhotos":
        Path("input", folder).mkdir(parents=True)
        return folder
    file = Path(FILES[node], folder, "a.safetensors")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    return f"{folder}/a.safetensors"


@pytest.mark.parametrize("node", INPUT)
def test_a_folder_that_cannot_be_read_hides_no_other(
    nodes: dict[str, Any], node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = make(node, "good"), make(node, "gone")
    real, stat = os.scandir, os.stat

    def scandir(path: Any = ".") -> Any:
        if "gone" in os.fspath(path):
            raise OSError(107, "Transport endpoint is not connected", path)
        return real(path)

    def status(path: Any, *given: Any, **more: Any) -> os.stat_result:
        if not isinstance(path, int) and "gone" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        patch.setattr(os, "stat", status)
        assert name in listed(nodes, node)


def test_an_entry_that_cannot_be_looked_at_hides_no_other(
    nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a link does that leads into a folder without rights: scandir lists it, is_dir raises."""

    class Locked(SimpleNamespace):
        def is_symlink(self) -> bool:
            return True

        def is_dir(self) -> bool:
            raise PermissionError(13, "Permission denied", self.name)

    for folder in ("a", "z"):
        make("LoadIdentity", folder)
    real = os.scandir

    class Entries:
        def __init__(self, path: Any) -> None:
            self.inner = real(path)

        def __enter__(self) -> Iterator[Any]:
            return iter([Locked(name="locked"), *self.inner])

        def __exit__(self, *_: object) -> None:
            self.inner.close()

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Entries)
        names = listed(nodes, "LoadIdentity")
    assert names[-2:] == ["a/a.safetensors", "z/a.safetensors"]


def test_lists_of_comfyui_are_not_asked(
    nodes: dict[str, Any], host: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They raise for a folder that cannot be read, and take backslashes for names on Windows."""
    name = make("LoadIdentity", "good")
    folders = SimpleNamespace(
        get_folder_paths=lambda kind: [str(Path("output/my3dgen/identities").absolute())]
    )
    monkeypatch.setattr(host.comfyui, "folder_paths", folders)
    assert host.list_models(host.IDENTITIES) == [name]


@pytest.mark.parametrize("node", INPUT)
def test_a_name_with_backslashes_is_found(nodes: dict[str, Any], node: str) -> None:
    name = make(node, "best/day 1")
    assert name in listed(nodes, node)
    assert nodes[node].VALIDATE_INPUTS(name.replace("/", "\\")) is True


@pytest.mark.parametrize("node", INPUT)
def test_backslashes_lead_nowhere_outside(nodes: dict[str, Any], node: str) -> None:
    make(node, "inside")
    Path("secret").mkdir()
    Path("secret/a.safetensors").write_bytes(b"x")
    for name in ("..\\..\\..\\..\\secret\\a.safetensors", "..\\secret", "inside\\..\\..\\..\\..\\secret"):
        assert isinstance(nodes[node].VALIDATE_INPUTS(name), str)


@pytest.mark.skipif(sys.platform != "linux", reason="a file system that takes any bytes for a name")
@pytest.mark.parametrize("node", INPUT)
def test_a_name_that_is_not_utf8_is_listed_and_found(nodes: dict[str, Any], node: str) -> None:
    real = make(node, LATIN1)
    name = real.replace(LATIN1, "Fr\ufffdhling")
    assert name in listed(nodes, node)
    assert real not in listed(nodes, node)
    assert nodes[node].VALIDATE_INPUTS(name) is True
    assert nodes[node].VALIDATE_INPUTS(real) is True


def test_texts_under_a_node_can_be_sent(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    server = SimpleNamespace(
        client_id="a", send_progress_text=lambda text, *_: sent.append(text.encode("utf-8").decode())
    )
    monkeypatch.setattr(host.comfyui, "server", lambda: server)
    assert host.report("1", f"no face:\n{LATIN1}.jpg") == {"text": ["no face:\nFr\ufffdhling.jpg"]}
    assert sent == ["no face:\nFr\ufffdhling.jpg"]


def test_a_linked_name_never_counts_as_changed(nodes: dict[str, Any]) -> None:
    """ComfyUI gives None for a linked input, and takes an error for a change."""
    asked = {name: node.IS_CHANGED for name, node in nodes.items() if hasattr(node, "IS_CHANGED")}
    assert asked.keys() >= INPUT.keys()
    for name, ask in asked.items():
        given = dict.fromkeys(inspect.signature(ask).parameters)
        assert ask(**given) == ask(**given), name
        assert isinstance(ask(**given), str)


@pytest.mark.parametrize("node", FILES)
def test_a_name_that_is_set_still_follows_its_file(nodes: dict[str, Any], node: str) -> None:
    name = make(node, "good")
    before = nodes[node].IS_CHANGED(name)
    Path(FILES[node], name).write_bytes(b"longer")
    assert nodes[node].IS_CHANGED(name) != before


def refuse(word: str) -> None:
    raise ValueError(word)


def test_what_the_page_gets_is_json(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    server = SimpleNamespace(client_id="a", send_sync=lambda event, data, _: sent.append(data))
    monkeypatch.setattr(host.comfyui, "server", lambda: server)
    value = {"a": (1, float("nan"), [float("-inf"), 0.5]), "b": {LATIN1: True, "c": None}}
    host.publish("my3dgen.test", value)
    answer = sys.modules["my3dgen_pack.nodes.server.http"].Answer.json(value)
    kept = sys.modules["my3dgen_pack.nodes.server.ui_results"].remember(None, value)
    for text in (json.dumps(sent[0]), answer.body.decode(), json.dumps(kept)):
        assert json.loads(text, parse_constant=refuse) == {
            "a": [1, None, [None, 0.5]],
            "b": {"Fr\ufffdhling": True, "c": None},
        }


def test_a_photo_that_cannot_be_looked_at_is_left_out_by_name(
    nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("input/anna").mkdir(parents=True)
    for name in ("a.png", "locked.png"):
        Image.new("RGB", (32, 32)).save(Path("input/anna", name))
    stat = os.stat

    def status(path: Any, *given: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("locked.png"):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", status)
        assert "a.png" in nodes["LoadPhotos"].IS_CHANGED("anna", 50, 512)
        loaded = nodes["LoadPhotos"]().load("anna", 50, 512)
    assert loaded["result"][1] == ["a.png"]
    assert "left out: locked.png cannot be read (Permission denied)." in loaded["ui"]["text"][0]
