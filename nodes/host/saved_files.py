"""Files that nodes write: numbered results, temporary files, and state kept between runs."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from . import comfyui
from .comfyui import log
from .folders import inside, output_root

_LONGEST_NAME = 200
"""Bytes of a name: file systems take 255, less the number, the extension and what a temporary file adds."""


@contextmanager
def save_path(prefix: str, suffix: str) -> Iterator[Path]:
    """Yield a new, numbered file name under output/, as ComfyUI's own nodes choose it, for a block to fill.

    Two ComfyUIs on one output folder may ask at the same moment. So a hidden file is created for the number,
    which fails if there is one, and removed with the end of the block. One that is left by a crash does no
    harm: its number is skipped.

    Args:
        prefix: folder and name under output/, with `%date:yyyy-MM-dd%` and whatever else core resolves. What
            Windows refuses in a name is replaced, with a warning.
        suffix: file extension, with its dot.

    Raises:
        ValueError: the prefix is empty, too long for a name, or leads outside output/.
    """
    folder, name, first = _numbered(prefix)
    for number in itertools.count(first):
        path = folder / f"{name}_{number:05}_{suffix}"
        taken = folder / f".{name}_{number:05}_.taken"
        try:
            taken.touch(exist_ok=False)
        except FileExistsError:
            continue
        try:
            if not path.exists():
                yield path
                return
        finally:
            taken.unlink(missing_ok=True)


def _numbered(prefix: str) -> tuple[Path, str, int]:
    """Return the folder, the name and the first free number for `save_path`; the folder is created."""
    root, asked = os.path.abspath(output_root()), _dated(prefix).replace("\\", "/")
    prefix = _portable(asked)
    target = inside(Path(root), prefix)
    if target is None or target == Path(root) or re.match("[A-Za-z]:/", asked):
        raise ValueError(f"{asked!r} is no name, or lies outside the output folder. Choose one inside it.")
    longest = max((len(os.fsencode(part)) for part in prefix.split("/")), default=0)
    if longest > _LONGEST_NAME:
        raise ValueError(
            f"The file name {prefix[:40] + '…'!r} is too long: {longest} bytes in one part, where "
            f"{_LONGEST_NAME} fit. Shorten filename_prefix."
        )
    if prefix != asked:
        log.warning("The file name %r has what Windows refuses; it is saved as %r.", asked, prefix)
    if comfyui.folder_paths:
        folder, name, number, _, _ = comfyui.folder_paths.get_save_image_path(prefix, root)
    else:
        folder, name = target.parent, target.name
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for f in folder.iterdir() if f.name.startswith(f"{name}_"))
    return Path(folder), name, number


def _portable(prefix: str) -> str:
    """Replace what Windows refuses in names: some characters, folders that end in a dot, names of devices."""
    clean = re.sub(r'[<>:"|?*\x00-\x1f\ud800-\udfff]', "_", prefix)
    clean = re.sub(r"(?<=[^/. ])[. ]+(?=/)", "", clean)
    return re.sub(r"(?i)(^|/)(con|prn|aux|nul|com\d|lpt\d)(?=[./])", r"\1_\2", clean)


def _dated(prefix: str) -> str:
    """Replace `%date:FORMAT%` as ComfyUI's page does, for prompts that come from elsewhere.

    Year, month, day, hour, minute and second are yyyy or yy, M, d, h, m and s, doubled with a leading zero.
    """
    now = time.localtime()
    values = {"M": now.tm_mon, "d": now.tm_mday, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}
    years = {"yyyy": f"{now.tm_year}", "yy": f"{now.tm_year % 100:02}"}

    def part(found: re.Match[str]) -> str:
        letters = found[0]
        return years.get(letters, letters) if letters[0] == "y" else f"{values[letters[0]]:0{len(letters)}}"

    return re.sub(
        r"%date:([^%]+)%", lambda date: re.sub(r"MM?|dd?|hh?|mm?|ss?|yyy?y?", part, date[1]), prefix
    )


def save_temporary(name: str, suffix: str, content: bytes) -> dict[str, str]:
    """Write a file to ComfyUI's temporary folder, which is emptied at each start.

    Returns:
        filename, subfolder and type, the parameters of ComfyUI's route /view.
    """
    path = temporary_path(name, suffix)
    path.write_bytes(content)
    return {"filename": path.name, "subfolder": "", "type": "temp"}


def temporary_path(name: str, suffix: str) -> Path:
    """Return a new file name in ComfyUI's temporary folder, which is emptied at each start."""
    folder = (
        Path(comfyui.folder_paths.get_temp_directory()) if comfyui.folder_paths else output_root() / "temp"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}_{secrets.token_hex(8)}{suffix}"


def state_folder(kind: str, name: str | None) -> Path:
    """Return the folder under output/my3dgen for state kept between runs; different names, different folders.

    Args:
        kind: name of the folder of all states of this kind.
        name: any text, such as a node's id, "12:5" inside a subgraph; None: "node".
    """
    safe = quote(name or "node", safe="").replace(".", "%2E")
    return output_root() / "my3dgen" / kind / safe


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Yield a state folder that no other ComfyUI on this output folder uses until the block ends.

    It is `folder` or, while another has that, "folder-2" and so on beside it. Folders with the state of a run
    that ended early come first. A lock, which the system releases when its process ends, says who has which.

    Args:
        folder: from `state_folder`; it is neither created nor deleted.
    """
    from filelock import FileLock, Timeout  # PyTorch requires it; ComfyUI does not import it at its start

    kept = sorted(path for path in folder.parent.glob(f"{folder.name}-*") if path.is_dir())
    kept = [path for path in (folder, *kept) if path.is_dir()]
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    folder.parent.mkdir(parents=True, exist_ok=True)
    for candidate in itertools.chain(kept, (folder,), numbered):
        file = candidate.with_name(f".{candidate.name}.lock")
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
            if not file.exists():  # its owner has deleted it at this moment: this lock is none
                lock.release()
                lock.acquire(timeout=0)
        except Timeout:
            continue
        except NotImplementedError:
            log.warning("%s cannot be locked: let no other ComfyUI train the same at a time.", folder.parent)
        try:
            yield candidate
        finally:
            with suppress(OSError):  # an open file cannot be deleted on Windows
                file.unlink()
            lock.release()
        return


def cache_folder(kind: str) -> Path:
    """Return a folder under user/my3dgen for results that can be recomputed; users may delete it."""
    user = Path(comfyui.folder_paths.get_user_directory()) if comfyui.folder_paths else Path.cwd() / "user"
    return user / "my3dgen" / kind
