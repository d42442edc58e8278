"""Recognition of out-of-memory errors in all the forms that PyTorch raises them."""

from __future__ import annotations

import torch

# Messages of cuDNN (no algorithm whose workspace fits), cuBLAS (no workspace) and the CUDA runtime.
_MESSAGES = ("unable to find an engine", "_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory_error(error: BaseException) -> bool:
    """Return whether the error says that memory is full, so that smaller chunks may succeed."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)
