"""Atomic writing: readers see the old file or the complete new one, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside `target` that replaces it when the block ends without an exception.

    Missing folders are created. After an exception the temporary file is removed and `target` is unchanged.
    Where the file system knows no permissions (FAT, some network and cloud folders), the file keeps those it
    has.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
        with suppress(OSError):  # mkstemp's files are for the owner only; refused, that is no failure
            os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
