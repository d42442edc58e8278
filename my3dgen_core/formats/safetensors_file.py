"""Safetensors files: detection, reading, atomic writing; digests of files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic_file import atomic_path

LARGEST_HEADER = 16 << 20
"""Bytes of a header: names, shapes and metadata. Those of generators have about 50 kB."""


def is_safetensors(file: Path) -> bool:
    """Return whether a file starts like safetensors: the length of the header and its opening brace."""
    with file.open("rb") as stream:
        start = stream.read(9)
    # The length may look like the start of a zip archive or a pickle; neither continues with these bytes.
    return len(start) == 9 and start[4:] == b"\0\0\0\0{"


def read_safetensors(
    path: str | os.PathLike[str],
    check: Callable[[Mapping[str, str], list[str]], None] | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors by name, and the metadata.

    Args:
        check: called with the metadata and the names before any tensor is read; its exceptions pass through.
        wanted: tells for a name whether to read the tensor; None: all are read.

    Returns:
        The tensors on the CPU, and the metadata (empty if the file has none).

    Raises:
        SafetensorError: not a safetensors file, or a damaged one.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
    if size > LARGEST_HEADER:
        raise SafetensorError(f"its header is said to have {size} bytes, where {LARGEST_HEADER} are allowed")
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata() or {}, list(file.keys())
        if check is not None:
            check(metadata, names)
        return {name: file.get_tensor(name) for name in names if wanted is None or wanted(name)}, metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a safetensors file, reading its header alone; empty if it has none.

    Raises:
        ValueError: the header is damaged or longer than `LARGEST_HEADER`.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > LARGEST_HEADER:
            raise ValueError(f"its header is said to have {size} bytes, where {LARGEST_HEADER} are allowed")
        header = json.loads(stream.read(size))
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is damaged")
    return {str(key): value for key, value in metadata.items() if isinstance(value, str)}


def write_safetensors(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, Any]
) -> None:
    """Write tensors and string metadata, atomically."""
    with atomic_path(path) as name:
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, name, metadata)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes as a hexadecimal string."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
