"""The error for unusable files, and quoting of untrusted text for messages."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Error for a file that cannot be used; the message says why and what to do."""


def quote_untrusted(text: object, length: int = 80) -> str:
    """Quote a value from an untrusted file for a message: ASCII, one line, bounded in length.

    Only strings are quoted. Anything else is named by its type, because printing nested containers can take
    exponential time.

    Args:
        text: any value from the file.
        length: characters kept of a string; the rest becomes "...".
    """
    if type(text) is not str:
        return f"a value of type {type(text).__name__}"
    return ascii(text if len(text) <= length else text[:length] + "...")
