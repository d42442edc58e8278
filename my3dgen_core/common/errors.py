"""What the core raises when a file cannot be used."""

from __future__ import annotations


class CheckpointError(ValueError):
    """The file cannot be used; the message says why and what to do."""


def quote_untrusted(text: object, length: int = 80) -> str:
    """A name out of an untrusted file, fit for a message: quoted, one line, bounded.

    Only strings are shown. Anything else is named by its type: printing nested containers can take for ever.
    """
    if type(text) is not str:
        return f"a value of type {type(text).__name__}"
    return ascii(text if len(text) <= length else text[:length] + "...")
