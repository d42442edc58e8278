"""The bytes of an untrusted file: read where they are wanted, never beyond its end, never too often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from ..common.errors import CheckpointError

# Bytes of tensors made, per byte of the file: one storage cannot serve for many large tensors.
READS = 3


class DataFile:
    """An open file, read where tensors lie. Bytes leave it only through `read` and `tensor`."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream = stream
        self.size = size
        self._left = READS * size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`. The stream stays where it was: opcodes may come from it too."""
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
        """`count` numbers at `offset`, in memory of their own, out of which `made` numbers will be made."""
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
    """Bytes that stay in the file."""

    file: DataFile
    offset: int
    length: int

    def read(self, limit: int) -> bytes:
        if self.length > limit:
            raise CheckpointError(f"holds {self.length} bytes where at most {limit} belong.")
        return self.file.read(self.offset, self.length)
