"""Memory that was freed, given back to the operating system."""

from __future__ import annotations

import ctypes
import sys


def release_freed() -> None:
    """Give freed memory back to the operating system, where the C library has a function for it (glibc).

    Large frames that come and go between small objects that stay leave holes in the heap, which glibc keeps:
    a minute of 4K grew by 1.4 GB.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
