"""A folder of identities: found by name, tag and base hash, checked by hash, shared by processes."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from my3dgen_core import CheckpointError, Identity, starter
from my3dgen_core.person.identity_store import INDEX, IdentityStore

STARTER = Path(starter.__file__).parent
DEMO, SECOND = STARTER / "demo_identity.safetensors", STARTER / "second_identity.safetensors"
OLD = 1_700_000_000 * 10**9


@pytest.fixture(scope="module")
def demo() -> Identity:
    return Identity.load(DEMO)


@pytest.fixture
def store(tmp_path: Path) -> IdentityStore:
    return IdentityStore(tmp_path / "people")


def names(store: IdentityStore, **search: str) -> list[str]:
    return [entry.name for entry in store.search(**search)]


def put(store: IdentityStore, name: str, source: Path = DEMO) -> Path:
    """Copies a file into the folder by other means than the store, as users do."""
    target = store.folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return target


def test_what_is_added_is_listed_and_loads_bit_for_bit(store: IdentityStore, demo: Identity) -> None:
    made = store.add(demo, "family/anna", tags=["smiles", "Ünï"])
    assert made.name == "family/anna.safetensors"
    assert store.list() == [made]
    assert made.base_hash == demo.base_hash
    assert made.nbytes == (store.folder / made.name).stat().st_size
    got = store.get(made.name)
    assert got.content_hash() == made.content_hash == demo.content_hash()
    assert got.provenance["tags"] == ["smiles", "Ünï"]
    assert "tags" not in demo.provenance


def test_the_hash_of_a_rounded_identity_is_that_of_its_file(store: IdentityStore, demo: Identity) -> None:
    made = store.add(demo, "small", dtype=torch.int8)
    assert made.content_hash == store.get(made.name).content_hash() != demo.content_hash()


def test_search_finds_words_of_name_and_tags_whole_tags_and_generators(
    store: IdentityStore, demo: Identity
) -> None:
    store.add(demo, "Anna Berg", tags=["customer", "red hair"])
    store.add(demo, "anna_100%", tags=["custom"])
    put(store, "bert.safetensors", SECOND)
    assert names(store, query="ANNA") == ["Anna Berg.safetensors", "anna_100%.safetensors"]
    assert names(store, query="berg anna") == ["Anna Berg.safetensors"]
    assert names(store, query="hair") == ["Anna Berg.safetensors"]
    assert names(store, query="%") == names(store, query="_") == ["anna_100%.safetensors"]
    assert names(store, tag="CUSTOM") == ["anna_100%.safetensors"]
    assert names(store, tag="red") == []
    store.refresh()
    assert len(names(store, base_hash=demo.base_hash[:12])) == 3
    assert names(store, base_hash="0" * 64) == []
    assert (store.count("anna"), len(store.search("anna", limit=1))) == (2, 1)


def test_files_that_come_and_go_by_other_means_are_noticed(store: IdentityStore) -> None:
    first = put(store, "a.safetensors")
    assert names(store) == ["a.safetensors"]
    put(store, "deep/er/b.SAFETENSORS")
    put(store, ".hidden/c.safetensors")
    put(store, "notes.txt")
    store.refresh()
    assert names(store) == ["a.safetensors", "deep/er/b.SAFETENSORS"]
    first.unlink()
    shutil.rmtree(store.folder / "deep")
    store.refresh()
    assert names(store) == []


def test_an_unchanged_folder_is_not_read_again(store: IdentityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "sub/a.safetensors")
    store.index = store.folder.parent / "index.sqlite"  # in the folder it would be a change of it
    os.utime(store.folder / "sub", ns=(OLD, OLD))
    os.utime(store.folder, ns=(OLD, OLD))
    store.refresh()
    read: list[str] = []
    real = os.scandir

    def scandir(path: str) -> object:
        read.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    store.refresh()
    assert read == []
    put(store, "sub/b.safetensors")
    store.refresh()
    assert read == [str(store.folder / "sub")]
    assert names(store) == ["sub/a.safetensors", "sub/b.safetensors"]


def test_a_loaded_identity_is_kept_until_its_file_changes(store: IdentityStore) -> None:
    file = put(store, "a.safetensors")
    first = store.get("a.safetensors")
    assert store.get("a.safetensors") is first
    shutil.copy(SECOND, file)
    os.utime(file, ns=(OLD, OLD))
    assert store.get("a.safetensors").content_hash() == Identity.load(SECOND).content_hash()


def test_kept_identities_are_bounded_by_bytes_and_the_oldest_goes_first(
    tmp_path: Path, demo: Identity
) -> None:
    store = IdentityStore(tmp_path, cache_bytes=2 * demo.nbytes)
    for name in "abc":
        put(store, f"{name}.safetensors")
    a, b = store.get("a.safetensors"), store.get("b.safetensors")
    assert store.get("a.safetensors") is a
    store.get("c.safetensors")
    assert store.get("a.safetensors") is a
    assert store.get("b.safetensors") is not b
    assert IdentityStore(tmp_path, cache_bytes=0).get("a.safetensors") is not a


def test_bytes_that_change_behind_the_same_size_and_time_are_damage(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path, cache_bytes=0)
    file = put(store, "a.safetensors")
    store.get("a.safetensors")
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-5] ^= 1  # one bit of a weight: still a valid identity
    file.write_bytes(content)
    assert Identity.load(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged.*backup"):
        store.get("a.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):  # by any process that has the index
        IdentityStore(tmp_path).get("a.safetensors")
    os.utime(file, ns=(OLD, OLD))
    assert store.get("a.safetensors")


def test_tags_are_kept_in_the_file_and_leave_the_tensors_alone(store: IdentityStore, demo: Identity) -> None:
    store.add(demo, "a", tags=["old"], dtype=torch.int8)
    before = store.get("a.safetensors").content_hash()
    created = store.list()[0].created
    store.tag("a.safetensors", ["new", "new", "b"])
    assert names(store, tag="old") == []
    assert store.search(tag="new")[0].tags == ("b", "new")
    store.refresh(rebuild=True)
    assert store.search(tag="new")[0].created == created
    assert store.get("a.safetensors").content_hash() == before
    store.tag("a.safetensors", [])
    assert store.list()[0].tags == ()


@pytest.mark.parametrize("damage", ["missing", "no database", "cut off", "other table", "other version"])
def test_an_index_that_is_missing_or_damaged_is_made_anew(
    store: IdentityStore, demo: Identity, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = store.add(demo, "a", tags=["kept"])
    store.close()
    index = store.folder / INDEX
    if damage == "missing":
        index.unlink()
    elif damage == "no database":
        index.write_bytes(os.urandom(5000))
    elif damage == "cut off":
        index.write_bytes(index.read_bytes()[:5000])
    else:
        with sqlite3.connect(index) as database:
            change = (
                "ALTER TABLE identities RENAME TO other"
                if damage == "other table"
                else "PRAGMA user_version = 99"
            )
            database.execute(change)
        database.close()
    with caplog.at_level(logging.WARNING, "my3dgen"):
        (found,) = store.search(tag="kept")
    assert (found.name, found.created, found.base_hash) == (made.name, made.created, made.base_hash)
    assert len(caplog.records) == (0 if damage == "missing" else 1)
    assert store.get("a.safetensors").content_hash() == made.content_hash


def test_an_index_that_is_damaged_while_it_is_open_loses_nothing(
    store: IdentityStore, demo: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        store.add(demo, name)
    assert len(store.list()) == 3
    with sqlite3.connect(store.folder / INDEX) as database:
        database.execute("DROP TABLE identities")
    database.close()
    with caplog.at_level(logging.WARNING, "my3dgen"):
        assert len(store.list()) == 3
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_written_is_served_from_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = IdentityStore(tmp_path / "people", index=tmp_path / "file" / "index.sqlite")
    (tmp_path / "file").write_text("no folder")
    put(store, "a.safetensors")
    with caplog.at_level(logging.WARNING, "my3dgen"):
        assert names(store) == ["a.safetensors"]
        assert store.get("a.safetensors")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/tmp/out",
        "a/../../out",
        "..\\out",
        "a\\b",
        "C:/out",
        "a\0b",
        "line\nbreak",
        ".hidden",
        "a/.b",
        "a//b",
        "con",
        "a/nul.x",
        "dot./a",
        " a",
        "x" * 300,
        "",
        "\ud800",
    ],
)
def test_no_name_leads_outside_the_folder(store: IdentityStore, demo: Identity, name: str) -> None:
    outside = store.folder.parent / "out.safetensors"
    shutil.copy(DEMO, outside)
    store.folder.mkdir()
    with pytest.raises(ValueError, match="cannot be the name"):
        store.add(demo, name)
    for use in (store.get, store.remove, lambda one: store.tag(one, ["x"])):
        for one in (name, f"{name}.safetensors"):
            with pytest.raises(FileNotFoundError, match="There is no identity"):
                use(one)
    assert outside.read_bytes() == DEMO.read_bytes()
    assert [file for file in store.folder.iterdir() if not file.name.startswith(".")] == []


def test_nothing_is_written_through_a_link_that_leads_outside(
    store: IdentityStore, demo: Identity, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    store.folder.mkdir()
    (store.folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="by a link"):
        store.add(demo, "link/a")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_names_of_other_systems_are_listed_and_found(store: IdentityStore) -> None:
    latin1, odd = os.fsdecode(b"Fr\xfchling.safetensors"), "\\u00e9 \\x.safetensors"
    put(store, latin1)
    put(store, odd)
    assert {entry.name for entry in store.list()} == {latin1, odd}
    assert store.path(latin1.replace("\udcfc", "\ufffd")) == store.folder / latin1
    assert store.get(odd)
    assert store.read_details() == 0
    assert store.search("fr")[0].base_hash is not None
    (store.folder / latin1).unlink()
    store.refresh()
    assert names(store) == [odd]


def test_a_name_is_taken_once_and_replaced_only_on_request(store: IdentityStore, demo: Identity) -> None:
    store.add(demo, "a")
    second = Identity.load(SECOND)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        store.add(second, "a")
    assert store.get("a.safetensors").content_hash() == demo.content_hash()
    store.add(second, "a", overwrite=True)
    assert store.get("a.safetensors").content_hash() == second.content_hash()
    store.remove("a.safetensors")
    assert names(store) == []
    with pytest.raises(FileNotFoundError):
        store.get("a.safetensors")


@pytest.mark.parametrize("tags", [["a\nb"], [""], ["x" * 65], [str(i) for i in range(33)], "text"])
def test_tags_that_cannot_be_stored_are_refused(
    store: IdentityStore, demo: Identity, tags: list[str]
) -> None:
    with pytest.raises(ValueError, match="tags"):
        store.add(demo, "a", tags=tags)
    assert names(store) == []


def test_files_that_are_no_identities_are_listed_and_say_so_when_loaded(store: IdentityStore) -> None:
    store.folder.mkdir()
    (store.folder / "empty.safetensors").touch()
    (store.folder / "long.safetensors").write_bytes(b"\xff\xff\xff\x7f\0\0\0\0{")
    (store.folder / "deep.safetensors").write_bytes(
        (100_000).to_bytes(8, "little") + b'{"a":' + b"[" * 99_995
    )
    put(store, "good.safetensors")
    assert store.read_details() == 0
    assert [entry.name for entry in store.list() if entry.base_hash] == ["good.safetensors"]
    assert len(store.list()) == 4
    for name in ("empty", "long", "deep"):
        with pytest.raises(CheckpointError):
            store.get(f"{name}.safetensors")


WRITER = """
import sys
from my3dgen_core import Identity
from my3dgen_core.person.identity_store import IdentityStore
folder, demo, who = sys.argv[1:]
store, identity = IdentityStore(folder), Identity.load(demo)
lost = 0
for number in range(12):
    store.add(identity, f"{who}/{number}", tags=[who])
    try:
        store.add(identity, f"shared/{number}")
    except FileExistsError:
        lost += 1
    store.refresh()
    store.search(who)
print(lost)
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_add_to_one_store_and_each_name_is_taken_once(
    store: IdentityStore, root: Path, damaged: bool
) -> None:
    store.folder.mkdir()
    if damaged:
        (store.folder / INDEX).write_bytes(os.urandom(5000))
    command = [sys.executable, "-c", WRITER, str(store.folder), str(DEMO)]
    writers = [
        subprocess.Popen([*command, who], cwd=root, stdout=subprocess.PIPE, text=True) for who in ("x", "y")
    ]
    lost = [int(writer.communicate(timeout=300)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    if not damaged:  # an index that is being rebuilt locks nobody out
        assert sum(lost) == 12
    store.refresh()
    assert (store.count(), len(store.search(tag="x")), len(store.search(tag="y"))) == (36, 12, 12)
    assert store.read_details() == 0
