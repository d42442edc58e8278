"""Folders are listed without hidden entries, each once, and names written on other systems are found."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from my3dgen_core.common.folders import files_below, find_below, is_hidden, read_folder, readable, walk


@pytest.mark.parametrize(
    "name",
    [
        "._a.jpg",
        ".cache/a.jpg",
        "a/.thumbnails/b.jpg",
        "__MACOSX/a.jpg",
        "Thumbs.db",
        "desktop.ini",
        "@eaDir",
    ],
)
def test_hidden_and_system_entries_are_told_by_any_part_of_the_path(name: str) -> None:
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["a.jpg", "@anna/1.jpg", "a.b/c", "_macosx", "thumbs"])
def test_ordinary_names_are_not_hidden(name: str) -> None:
    assert not is_hidden(name)


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_listing_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    _touch(tmp_path, "b.jpg", "a.jpg", "._a.jpg", "Thumbs.db", "set/c.jpg", ".cache/d.jpg", "@eaDir/e.jpg")
    listed = read_folder(tmp_path)
    assert (listed.files, listed.subfolders) == (("a.jpg", "b.jpg"), ("set",))
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)]
    assert found == ["a.jpg", "b.jpg", "set/c.jpg"]
    assert [path.name for path in files_below(tmp_path, depth=0)] == ["a.jpg", "b.jpg"]
    assert list(files_below(tmp_path / "gone")) == []


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    _touch(tmp_path, "root/set/a.jpg", "elsewhere/b.jpg")
    root = tmp_path / "root"
    (root / "aa").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "same").symlink_to(root / "set")
    (root / "set" / "up").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nothing")
    assert [os.path.relpath(folder.path, root) for folder in walk(root)] == [".", "set", "aa"]
    assert [path.relative_to(root).as_posix() for path in files_below(root)] == [
        "gone",  # a link to nothing: whoever reads it says so
        "set/a.jpg",
        "aa/b.jpg",
    ]


def test_names_written_on_other_systems_are_found(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Zoé")
    _touch(tmp_path, f"{decomposed}/Ü.jpg", "trip /a.jpg")
    assert find_below(tmp_path, unicodedata.normalize("NFC", f"{decomposed}\\Ü.jpg")) == (
        tmp_path / decomposed / "Ü.jpg"
    )
    assert find_below(tmp_path, "trip") == tmp_path / "trip "
    assert find_below(tmp_path, "trip/a.jpg") == tmp_path / "trip " / "a.jpg"
    assert find_below(tmp_path, "trap") is None


def test_the_exact_name_comes_before_other_spellings(tmp_path: Path) -> None:
    _touch(tmp_path, "a\\b.jpg", "a/b.jpg")
    assert find_below(tmp_path, "a\\b.jpg") == tmp_path / "a\\b.jpg"
    assert find_below(tmp_path, "a/b.jpg") == tmp_path / "a" / "b.jpg"


@pytest.mark.parametrize("name", ["../other/a", "..\\other\\a", "set/../../other/a", "/etc/passwd", "", "."])
def test_a_name_that_leads_outside_is_not_found(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, "root/set/a", "other/a")
    found = find_below(tmp_path / "root", name)
    assert found is None or found == tmp_path / "root"


def test_names_that_are_no_text_can_be_printed() -> None:
    assert readable("Zoé 安娜 🙂.jpg") == "Zoé 安娜 🙂.jpg"
    readable("caf\udce9\n.jpg").encode("utf-8")
    assert readable("caf\udce9\n.jpg") == "caf\ufffd\ufffd.jpg"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no Unicode")
def test_a_file_whose_name_is_no_unicode_is_listed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    (found,) = files_below(tmp_path)
    assert found.is_file()
    assert readable(found.name) == "caf\ufffd.jpg"
