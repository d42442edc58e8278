"""Lists that users type into text inputs, with the signs of any keyboard."""

from __future__ import annotations

import re
import unicodedata

_SEPARATOR = re.compile(r"\s*[,\uff0c\u3001\u060c]\s*|\s*[\r\n]\s*")  # commas of all scripts; line breaks
_DASHES = dict.fromkeys(map(ord, "\u2212\u2010\u2013\u2014"), "-")


def split_list(text: str, empty: bool = False) -> list[str]:
    """Split a text at commas and line breaks.

    Args:
        text: the list.
        empty: keep empty items between two commas, which stand for a default.
    """
    return [item for item in _SEPARATOR.split(text.strip()) if item or (empty and text.strip())]


def plain_signs(text: str) -> str:
    """Replace full-width digits and signs, and typographic minus signs and dashes, by those of ASCII."""
    return unicodedata.normalize("NFKC", text).translate(_DASHES)
