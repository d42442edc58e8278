"""Bounded reads from an untrusted file: never beyond its end, and of a limited total."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from ..common.errors import CheckpointError

READS = 3
"""Bytes of tensors that may be created per byte of the file, so that one storage cannot fill the memory."""


class DataFile:
    """An open file with random access. All bytes are read through `read` and `tensor`, which check bounds."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream = stream
        self.size = size
        self._left = READS * size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`, and restore the position of the stream.

        Raises:
            CheckpointError: the bytes reach beyond the end of the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CheckpointError("is cut off: it names bytes beyond its end. Download it again.")
        behind = self.stream.tell()
        self.stream.seek(offset)
        data = self.stream.read(length)
        self.stream.seek(behind)
        if len(data) != length:
            raise CheckpointError("is cut off: it became shorter while it was read.")
        return data

    def tensor(self, offset: int, count: int, dtype: torch.dtype, made: int) -> Tensor:
        """Read numbers of the file as a tensor with memory of its own.

        Args:
            offset: position of the first number in the file, in bytes.
            count: how many numbers to read.
            dtype: their type.
            made: number of elements of the tensor that the caller builds from them, for the limit on all
                tensors of the file; above `count` where strides repeat elements.

        Returns:
            Flat tensor [count].

        Raises:
            CheckpointError: the numbers reach beyond the end, or `READS` is exceeded.
        """
        length = count * dtype.itemsize
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CheckpointError("is cut off: a tensor lies beyond its end. Download it again.")
        self._left -= max(count, made) * dtype.itemsize
        if self._left < 0:
            raise CheckpointError("uses the same bytes for too many tensors. It was made to fill the memory.")
        raw = torch.empty(length, dtype=torch.uint8)
        self.stream.seek(offset)
        if length and self.stream.readinto(raw.numpy()) != length:  # type: ignore[attr-defined]
            raise CheckpointError("is cut off: it became shorter while it was read.")
        return raw.view(dtype)


@dataclass(eq=False, slots=True)
class Blob:
    """A range of bytes that stays in the file until `read`."""

    file: DataFile
    offset: int
    length: int

    def read(self, limit: int) -> bytes:
        """Return the bytes; raise CheckpointError if there are more than `limit`."""
        if self.length > limit:
            raise CheckpointError(f"holds {self.length} bytes where at most {limit} belong.")
        return self.file.read(self.offset, self.length)
