"""Atomic writing: readers see the old file or the complete new one, never a part."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PART = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.\w+\.part", re.DOTALL)
"""Temporary folders: the target's name, the machine, the process, and what else makes the name unique."""
_FORGOTTEN = 24 * 3600
"""Age in seconds from which a part is removed although its writer may still live."""


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path in a temporary folder beside `target`; its file replaces `target` when the block ends.

    Missing folders are created. After an exception the temporary folder is removed and `target` is unchanged.
    Where the file system knows no permissions (FAT, some network and cloud folders), the file keeps those it
    has. Temporary folders of writers that were killed are removed first. A folder, because libraries write
    temporary files of their own beside the file that they are given.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    prefix = f".{target.name}.{_machine()}-{os.getpid()}."
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=".part"))
    try:
        part = folder / target.name
        yield part
        with suppress(OSError):  # some libraries make files for the owner only; refused, that is no failure
            os.chmod(part, 0o644)
        with open(part, "rb+") as stream, suppress(OSError):  # some file systems refuse fsync
            os.fsync(stream.fileno())
        os.replace(part, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of dead writers from a folder; those of living writers stay.

    A writer on another machine, or on Windows, counts as dead after a day.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _PART.fullmatch(entry.name) if entry.name.startswith(".") else None
            if found is not None and _is_dead(found[1], int(found[2]), entry.stat().st_mtime):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_dead(machine: str, process: int, written: float) -> bool:
    """Return whether the writer of a temporary folder is gone.

    Args:
        machine: of the writer, as `_machine` names it.
        process: id of the writer.
        written: time of the last change in seconds since the epoch.
    """
    if time.time() - written > _FORGOTTEN:
        return True
    if machine != _machine() or os.name == "nt":  # signal 0 would end the process on Windows
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _machine() -> str:
    """Return eight hexadecimal digits that tell this machine from others that share a folder."""
    name = os.uname().nodename if hasattr(os, "uname") else ""  # Windows tells no dead writers anyway
    return hashlib.sha256(name.encode()).hexdigest()[:8]
