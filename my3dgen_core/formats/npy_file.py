"""Arrays of .npy streams, by numpy's own reader with the header checked before anything is allocated.

numpy parses the header as a literal (`ast.literal_eval`) of at most 10,000 characters; nothing in it is executed.
Arrays of Python objects, which only unpickling could read, are refused.
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
    """A floating-point array in any memory order, as float32 in C order.

    Args:
        stream: at the beginning of the array.
        size: bytes up to the end of the stream.
        largest: numbers that the array may have.

    Raises:
        CheckpointError: a damaged header, other numbers than floating-point ones, or a size that does not fit.
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
