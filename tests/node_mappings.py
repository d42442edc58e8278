"""The pack's mappings of nodes, read from its source without importing it, as ComfyUI's registry does."""

from __future__ import annotations

import ast
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent / "__init__.py"


def literal(name: str) -> ast.Dict:
    """The dictionary that the pack assigns to a name."""
    for item in ast.parse(PACK.read_text(encoding="utf-8")).body:
        targets = item.targets if isinstance(item, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            assert isinstance(item, ast.Assign)
            assert isinstance(item.value, ast.Dict), f"{name} is no literal dictionary"
            return item.value
    raise AssertionError(f"{PACK} assigns no {name}")


def node_ids() -> list[str]:
    """The ids of all nodes, in their order."""
    return [ast.literal_eval(key) for key in literal("NODE_CLASS_MAPPINGS").keys if key is not None]


def display_names() -> dict[str, str]:
    """Id of each node -> its name on the page."""
    names: dict[str, str] = ast.literal_eval(literal("NODE_DISPLAY_NAME_MAPPINGS"))
    return names
