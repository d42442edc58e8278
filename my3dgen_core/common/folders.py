"""Folders that users fill: their visible entries, names written on other systems, and names as text."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

_SYSTEM_NAMES = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "@eadir",  # these five: network drives
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
    }
)


def is_hidden(path: str | PurePath) -> bool:
    """Return True if a part of a path is hidden (`._a.jpg`, `.cache`) or belongs to the operating system.

    Args:
        path: path relative to the folder that is listed; that folder itself may be anywhere.
    """
    return any(_is_hidden_name(part) for part in PurePath(path).parts)


def _is_hidden_name(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


@dataclass(frozen=True)
class Folder:
    """Visible entries of one folder."""

    path: str
    """The folder."""
    files: tuple[str, ...] = ()
    """Names of its files, links to files included, whether or not they lead anywhere."""
    subfolders: tuple[str, ...] = ()
    """Names of its subfolders."""
    links: tuple[str, ...] = ()
    """Names of links to folders."""


def read_folder(path: str | os.PathLike[str]) -> Folder:
    """Read the visible entries of a folder, sorted; none if it cannot be read."""
    files: list[str] = []
    subfolders: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if _is_hidden_name(entry.name):
                    continue
                linked = entry.is_symlink() or getattr(entry, "is_junction", bool)()  # Python 3.12
                try:
                    is_folder, is_file = entry.is_dir(), linked or entry.is_file()
                except OSError:  # a link into a folder without rights, or to a drive that is gone
                    is_folder, is_file = False, linked
                if is_folder:
                    (links if linked else subfolders).append(entry.name)
                elif is_file:
                    files.append(entry.name)
    except OSError:
        pass
    return Folder(os.fspath(path), *(tuple(sorted(names)) for names in (files, subfolders, links)))


def walk(
    root: str | os.PathLike[str], read: Callable[[str], Folder] = read_folder, depth: int | None = None
) -> Iterator[Folder]:
    """Yield a folder and the visible ones below it, each once, whichever links lead to it.

    Links are followed last, so that a folder is reached by its own name where it has one below the root.

    Args:
        root: folder to start with.
        read: reads one folder; a cache can stand in for it.
        depth: levels of subfolders to enter; None: all.
    """
    root = os.fspath(root)
    folders, links = deque([(root, os.path.realpath(root), 0)]), deque[tuple[str, int]]()
    seen = set()
    while folders or links:
        if folders:
            path, real, level = folders.popleft()
        else:
            path, level = links.popleft()
            real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        folder = read(path)
        yield folder
        if depth is None or level < depth:
            folders += [
                (os.path.join(path, name), os.path.join(real, name), level + 1) for name in folder.subfolders
            ]
            links += [(os.path.join(path, name), level + 1) for name in folder.links]


def files_below(root: str | os.PathLike[str], depth: int | None = None) -> Iterator[Path]:
    """Yield the visible files of a folder and of those below it, see `walk`."""
    for folder in walk(root, depth=depth):
        yield from (Path(folder.path, name) for name in folder.files)


def name_key(name: str) -> str:
    """Return what the spellings of one name on different systems have in common.

    macOS decomposes accents, Windows drops spaces and dots at the end, and the page shows `readable` names.
    """
    return unicodedata.normalize("NFC", readable(name)).rstrip(" .")


def find_below(root: str | os.PathLike[str], name: str) -> Path | None:
    """Find a file or folder by its path relative to a folder, as it may have been written on another system.

    Args:
        root: the folder.
        name: relative path with / or \\; the exact name comes first, then any spelling with the same
            `name_key`.

    Returns:
        The path, or None if there is none or the name leads outside the folder.
    """
    root = Path(os.path.abspath(root))
    exact = Path(os.path.abspath(root / name))
    if not exact.is_relative_to(root):
        return None
    if exact.exists():
        return exact
    found = root
    for part in re.split(r"[\\/]+", name):
        if part in ("", "."):
            continue
        try:
            names = sorted(os.listdir(found))
        except OSError:
            return None
        same = [entry for entry in names if name_key(entry) == name_key(part)]
        if part == ".." or not same:
            return None
        found /= same[0]
    return found if found != root else None


def readable(name: str) -> str:
    """Return a name that can be printed and sent: what is no character of a text becomes U+FFFD.

    File systems hold names that are no valid Unicode, and names with line breaks.
    """
    return "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in name)
