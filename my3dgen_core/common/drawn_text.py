"""Text in pictures: names in any script, of which Pillow's own font has only ASCII."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

_NO_CHARACTER = "\U0010ffff"  # every font draws it as its sign for a missing character
# Fonts with many scripts that systems bring; Pillow looks for them in the folders of the system.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "arial.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
)


def drawable(text: str, substitute: str) -> str:
    """Return a text that can be drawn: itself, else without its accents, else a substitute.

    Args:
        text: for example a file name.
        substitute: what stands for it where no font has its characters, such as its number.
    """
    text = unicodedata.normalize("NFC", text)
    if font_for(text) is not None:
        return text
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain if plain.isascii() else substitute


def font_for(text: str, size: float = 10) -> Any:
    """Return Pillow's own font or one of the system's with all characters of a text, or None."""
    own = _font("", size)
    if text.isascii():
        return own
    return next((font for name in ("", *_SYSTEM_FONTS) if _has(font := _font(name, size), text)), None)


@lru_cache(maxsize=64)
def _font(name: str, size: float) -> Any:
    """Return a font of the system or, with no name, Pillow's own; None if there is none."""
    from PIL import ImageFont  # deferred: takes about as long as importing the whole core

    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except (OSError, ImportError):
        return None


def _has(font: Any, text: str) -> bool:
    """Return True if a font has every character of a text."""
    if font is None:
        return False
    missing = _drawn(font, _NO_CHARACTER)
    return all(letter.isspace() or _drawn(font, letter) != missing for letter in set(text))


def _drawn(font: Any, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
