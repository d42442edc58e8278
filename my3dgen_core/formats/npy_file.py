"""Arrays of .npy and .npz files, read by numpy after their header has been checked against their size.

numpy parses the header as a literal (`ast.literal_eval`) of at most 10,000 characters, which executes
nothing. Arrays of Python objects, which would have to be unpickled, are never read.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..common.errors import CheckpointError
from .torch_archive import archive_names

MAGIC = b"\x93NUMPY"
MOST_ARRAYS = 4096
"""Largest number of arrays in an archive."""
_LONGEST_HEADER = 1 << 14  # more than numpy accepts


def read_npy(stream: BinaryIO, size: int, largest: int) -> Tensor:
    """Read a floating-point array in any memory order as float32 in C order.

    Args:
        stream: stream at the beginning of the .npy data.
        size: number of bytes in the stream.
        largest: maximum number of elements.

    Raises:
        CheckpointError: a damaged header, elements that are not floating-point, more than `largest`, or a
            size that does not match the header.
    """
    shape, dtype = _header(stream)
    if problem := _problem(dtype):
        raise CheckpointError(problem)
    count = math.prod(shape)
    if count > largest or stream.tell() + count * dtype.itemsize != size:
        raise CheckpointError(f"is cut off or damaged: its header names an array of shape {list(shape)}.")
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and type of the elements; raise CheckpointError for a damaged header."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(stream)
    except ValueError as error:
        raise CheckpointError("is a damaged .npy file.") from error
    return shape, dtype


def _problem(dtype: np.dtype[Any]) -> str:
    """Return why elements of a type are not read; "" if they are."""
    if dtype.hasobject:
        return (
            "holds Python objects instead of numbers, which would have to be executed to be read. Ask for it "
            "as .npz, or as .safetensors."
        )
    if dtype.kind != "f" or dtype.itemsize > 8:
        return f"holds numbers of type {dtype}, not floating-point ones of up to 64 bits."
    return ""


def npz_members(path: Path) -> list[zipfile.ZipInfo]:
    """Return the entries of a .npz; none if the zip archive is of another kind, such as torch's."""
    names = archive_names(path)
    if not names or not all(name.endswith(".npy") for name in names):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError("is a damaged zip archive.") from error


def read_npz(
    path: Path, members: list[zipfile.ZipInfo], largest: int, total: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the floating-point arrays of a .npz by name, as `read_npy` does.

    Of other arrays, such as a seed or names, only the header is read.

    Args:
        path: the archive.
        members: its entries, from `npz_members`.
        largest: maximum number of elements of an array.
        total: maximum number of bytes that the archive may unpack to.

    Returns:
        The arrays, and the types of the others by name.

    Raises:
        CheckpointError: a damaged archive, one that exceeds a limit, or one of other arrays only.
    """
    if len(members) > MOST_ARRAYS or sum(entry.file_size for entry in members) > total:
        raise CheckpointError("is an archive that unpacks to far more than belongs in it.")
    found: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    problem = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in members:
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as stream:
                    head = stream.read(_LONGEST_HEADER)
                    _, dtype = _header(io.BytesIO(head))
                    if other := _problem(dtype):
                        others[name] = "objects" if dtype.hasobject else str(dtype)
                        problem = problem or other
                        continue
                    # one byte more than declared, so that a larger entry does not fit its header
                    data = head + stream.read(max(entry.file_size + 1 - len(head), 0))
                found[name] = read_npy(io.BytesIO(data), len(data), largest)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError("is a damaged or encrypted archive.") from error
    if problem and not found:
        raise CheckpointError(problem)
    return found, others
