"""Arrays of .npy streams, read by numpy after their header has been checked against the size of the file.

numpy parses the header as a literal (`ast.literal_eval`) of at most 10,000 characters, which executes
nothing. Arrays of Python objects, which would have to be unpickled, are refused.
"""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..common.errors import CheckpointError

MAGIC = b"\x93NUMPY"


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
    if dtype.hasobject:
        raise CheckpointError(
            "holds Python objects instead of numbers, which would have to be executed to be read. Ask for it "
            "as .npz, or as .safetensors."
        )
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise CheckpointError(f"holds numbers of type {dtype}, not floating-point ones of up to 64 bits.")
    count = math.prod(shape)
    if count > largest or stream.tell() + count * dtype.itemsize != size:
        raise CheckpointError(f"is cut off or damaged: its header names an array of shape {list(shape)}.")
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
