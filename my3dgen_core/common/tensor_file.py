"""Tensors that grow row by row in a temporary file instead of in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class TensorFile:
    """A float32 tensor that is written row by row, and mapped into memory at the end.

    The operating system reads rows as they are used and may drop them again. The file has no name, or one
    that ends with it, and goes with the last tensor that uses it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the file.

        Args:
            folder: folder on a disk with room; None: the system's folder for temporary files.
        """
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `tensor`
        self._shape: tuple[int, ...] = ()
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, row: Tensor) -> None:
        """Write a row; all have the shape of the first.

        Raises:
            ValueError: it has another shape.
        """
        shape = tuple(row.shape)
        if self._rows and shape != self._shape:
            raise ValueError(f"Rows of this tensor have shape {list(self._shape)}, not {list(shape)}.")
        self._file.write(row.detach().cpu().float().contiguous().numpy().tobytes())
        self._shape, self._rows = shape, self._rows + 1

    def tensor(self) -> Tensor:
        """Map the rows, [rows, ...]; what is written into the tensor does not reach the file.

        Raises:
            ValueError: there is no row.
        """
        if not self._rows:
            raise ValueError("There is no row.")
        self._file.flush()
        mapped = np.memmap(self._file, np.float32, "c", shape=(self._rows, *self._shape))
        self._file.close()
        return torch.from_numpy(mapped)
