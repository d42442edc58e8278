"""Safetensors files: recognition, reading, atomic writing, digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic_file import atomic_path


def is_safetensors(file: Path) -> bool:
    """Whether a file begins like one: the length of a header, and the brace that opens it."""
    with file.open("rb") as stream:
        start = stream.read(9)
    # The header's length may begin like a zip archive or a pickle; neither goes on with these five bytes.
    return len(start) == 9 and start[4:] == b"\0\0\0\0{"


def read_safetensors(
    path: str | os.PathLike[str],
    check: Callable[[Mapping[str, str], list[str]], None] | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the metadata.

    Args:
        check: called with metadata and names before any tensor is read; what it raises passes through.
        wanted: whether to read the tensor of a name; None: all are read.

    Raises:
        SafetensorError: not such a file, or a damaged one.
        OSError: the file cannot be opened.
    """
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata() or {}, list(file.keys())
        if check is not None:
            check(metadata, names)
        return {name: file.get_tensor(name) for name in names if wanted is None or wanted(name)}, metadata


def write_safetensors(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, Any]
) -> None:
    """Write tensors and string metadata, atomically."""
    with atomic_path(path) as name:
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, name, metadata)


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
