"""Load Identity beside thousands of files: a bounded list, a search for the page, files checked and kept."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from my3dgen_core import CheckpointError, starter
from my3dgen_core.person.identity_store import IdentityStore

DEMO = Path(starter.__file__).parent / "demo_identity.safetensors"
FOLDERS = ("models/my3dgen/identities", "output/my3dgen/identities")


@pytest.fixture
def files(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(tmp_path)
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True)
    return sys.modules["my3dgen_pack.nodes.server.identity_files"]


@pytest.fixture
def load_identity(pack: ModuleType) -> Any:
    return pack.NODE_CLASS_MAPPINGS["My3DGenLoadIdentity"]


def put(name: str, folder: str = FOLDERS[0], age: int = 0) -> Path:
    file = Path(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(DEMO, file)
    os.utime(file, (1_700_000_000 - age, 1_700_000_000 - age))
    return file


def ask(files: ModuleType, **query: str) -> tuple[int, dict[str, Any]]:
    answer = asyncio.run(files._search(query))
    return answer.status, json.loads(answer.body)


def found(files: ModuleType, **query: str) -> list[str]:
    return [row["name"] for row in ask(files, **query)[1]["identities"]]


def test_the_list_has_the_newest_files_and_any_other_is_accepted(
    files: ModuleType, load_identity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LISTED", 3)
    for age in range(5):
        put(f"{9 - age}.safetensors", FOLDERS[age % 2], age)
    names = load_identity.INPUT_TYPES()["required"]["file"][0]
    assert names == [*files.BUNDLED, "7.safetensors", "8.safetensors", "9.safetensors"]
    assert load_identity.VALIDATE_INPUTS("5.safetensors") is True
    assert isinstance(load_identity.VALIDATE_INPUTS("4.safetensors"), str)
    loaded = load_identity().load("5.safetensors")["result"][0]
    assert loaded.content_hash() == files.load_identity("starter: demo person").content_hash()


def test_the_search_finds_words_of_names_and_tags_in_both_folders(files: ModuleType) -> None:
    put("Anna.safetensors")
    put("family/bert.safetensors", FOLDERS[1])
    IdentityStore(FOLDERS[1], index="index.sqlite").tag("family/bert.safetensors", ["Anna's brother"])
    assert found(files, query="anna") == ["Anna.safetensors", "family/bert.safetensors"]
    assert found(files, query="demo") == ["starter: demo person"]
    assert found(files) == [*files.BUNDLED, "Anna.safetensors", "family/bert.safetensors"]
    status, body = ask(files, query="", limit="1")
    assert (status, len(body["identities"]), body["total"]) == (200, 1, 4)
    Path(FOLDERS[0], "Anna.safetensors").unlink()
    assert found(files, query="anna") == ["family/bert.safetensors"]


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "101"}, {"limit": "-1"}, {"limit": "x"}, {"limit": "²"}, {"query": "a" * 201}],
)
def test_a_request_out_of_bounds_is_the_clients_fault(files: ModuleType, query: dict[str, str]) -> None:
    status, body = ask(files, **query)
    assert status == 400
    assert body["error"]


def test_hostile_words_find_nothing_and_break_nothing(files: ModuleType) -> None:
    put("a.safetensors")
    for query in ("' OR 1 --", "%", "../", "\0", "\ud800", "a\nb", "\\"):
        assert found(files, query=query) == []


def test_a_file_is_loaded_once_and_a_damaged_one_is_refused(files: ModuleType) -> None:
    file = put("a.safetensors", FOLDERS[1])
    first = files.load_identity("a.safetensors")
    assert files.load_identity("a.safetensors") is first
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    for store in files.stores():
        store.close()
    with pytest.raises(CheckpointError, match="is damaged"):
        files.load_identity("a.safetensors")


def test_no_index_is_made_where_there_are_no_identities(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_identity: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    load_identity.INPUT_TYPES()
    assert list(tmp_path.iterdir()) == []


def test_an_exact_name_reads_no_folder(files: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a folder of 100,000 names would be for each prompt, if the file is in the second one."""
    put("a.safetensors", FOLDERS[1])

    def listdir(path: Any) -> list[str]:
        raise AssertionError(f"{path} was read")

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        assert files.find_identity("a.safetensors").is_file()


def test_an_index_that_another_process_keeps_locked_hides_no_node(
    files: ModuleType, load_identity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a.safetensors")
    monkeypatch.setattr(sys.modules[type(files.stores()[0]).__module__], "BUSY_SECONDS", 0.1)
    assert "a.safetensors" in load_identity.INPUT_TYPES()["required"]["file"][0]
    put("b.safetensors")
    os.utime(FOLDERS[0], (1_700_000_000, 1_700_000_000))  # a folder at rest is read once for each change
    with sqlite3.connect(files.stores()[0].index) as other:
        other.execute("BEGIN IMMEDIATE")
        names = load_identity.INPUT_TYPES()["required"]["file"][0]
        assert ("a.safetensors" in names, "b.safetensors" in names) == (True, False)
        other.execute("ROLLBACK")
    other.close()
    assert "b.safetensors" in load_identity.INPUT_TYPES()["required"]["file"][0]
