"""Griffe extension for the Python reference: docstrings may describe several arguments in one item.

"yaw, pitch: radians" becomes one item for each argument, so that every name is checked against the signature.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class SplitArguments(griffe.Extension):
    """Splits the items of docstrings that name several parameters."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if func.docstring is None:
            return
        known = {parameter.name for parameter in func.parameters}

        def split(item: re.Match[str]) -> str:
            indent, names, text = item[1], item[2].split(", "), item[3]
            if not known.issuperset(names):
                return item[0]
            return "\n".join(f"{indent}{name}: {text}" for name in names)

        func.docstring.value = _ITEM.sub(split, func.docstring.value)
