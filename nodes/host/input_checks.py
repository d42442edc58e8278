"""Answers to VALIDATE_INPUTS and IS_CHANGED for inputs that name files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def validate(value: str | None, find: Callable[[str], Path]) -> bool | str:
    """Check an input for VALIDATE_INPUTS.

    Args:
        value: value of the input; None if it is linked.
        find: function that raises if the value names no file.

    Returns:
        True, or the error message.
    """
    if value is None:
        return True
    try:
        find(value)
    except (OSError, ValueError) as error:
        return str(error)
    return True


def changed(value: str | None, find: Callable[[str], list[Path]]) -> str:
    """Return a text that changes when the files that an input names do, for IS_CHANGED.

    Args:
        value: value of the input; None if it is linked: its source decides then whether it has changed, and
            an error here would count as a change on each run.
        find: function from the value to the files.
    """
    return "" if value is None else fingerprint(find(value))


def fingerprint(paths: list[Path]) -> str:
    """Return a text that changes when one of the files does, for IS_CHANGED."""
    stats = ((p, p.stat()) for p in paths if os.path.isfile(p))  # unlike Path.is_file, raises nothing
    return "|".join(f"{p}:{s.st_mtime_ns}:{s.st_size}" for p, s in stats)
