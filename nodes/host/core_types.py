"""ComfyUI's own classes of values that travel between nodes."""

from __future__ import annotations

from typing import Any

from . import comfyui


def mesh_class() -> Any:
    """Return ComfyUI's class of MESH values, or None if it has none."""
    try:
        from comfy_api.latest._util.geometry_types import MESH
    except ImportError:
        return None
    return MESH


def blocked(message: str) -> Any:
    """Return the value of an output that has nothing to give: nodes that use it show the message instead."""
    if comfyui.folder_paths is None:
        return None
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(message)
