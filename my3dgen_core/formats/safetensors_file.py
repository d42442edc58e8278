"""Safetensors files: recognition, atomic writing, digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def is_safetensors(file: Path) -> bool:
    """By its beginning: the length of a header, and the brace that opens it."""
    with file.open("rb") as stream:
        start = stream.read(9)
    # The header's length may begin like a zip archive or a pickle; neither goes on with these five bytes.
    return len(start) == 9 and start[4:] == b"\0\0\0\0{"


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def write_safetensors(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, Any]
) -> None:
    """Writes tensors and string metadata; a reader never sees half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, name, metadata)
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
