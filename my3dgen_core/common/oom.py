"""Telling that a device's memory is full, in whatever words PyTorch says so."""

from __future__ import annotations

import torch

# cuDNN finds no algorithm whose scratch space fits; cuBLAS cannot make its own; a call of CUDA itself fails.
_SAID = ("unable to find an engine", "_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory_error(error: BaseException) -> bool:
    """Whether less work at a time may do what failed with this."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
