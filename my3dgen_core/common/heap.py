"""Memory that was freed, given back to the operating system."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress

from numpy import ctypeslib

_FOLDERS = ("/lib64", f"/lib/{platform.machine()}-linux-gnu", "/usr/lib")
"""Folders of glibc: Red Hat's family, Debian's, others."""


def release_freed() -> None:
    """Give freed memory back to the operating system, where the C library has a function for it (glibc).

    Large frames that come and go between small objects that stay leave holes in the heap, which glibc keeps:
    a minute of 4K grew by 1.4 GB.
    """
    for folder in _FOLDERS if sys.platform == "linux" else ():
        with suppress(OSError, AttributeError):  # not there, or another C library
            ctypeslib.load_library("libc.so.6", folder).malloc_trim(0)
            return
