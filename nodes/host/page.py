"""ComfyUI's server: events and routes for the page, and the prompt that runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import comfyui

ROUTES = "/my3dgen/"
"""Start of the paths of the pack's routes."""


def publish(event: str, data: dict[str, Any]) -> None:
    """Send an event to the page of the running prompt, if there is one."""
    server = comfyui.server()
    if server is not None:
        server.send_sync(event, sendable(data), server.client_id)


def sendable(value: Any) -> Any:
    """Return a value of JSON as a page can read it.

    NaN and infinity, which JSON does not have, become None. Surrogates, which stand for bytes of file names
    that are not UTF-8, become U+FFFD.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {sendable(key): sendable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [sendable(part) for part in value]
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


def source_of(name: str) -> str:
    """Name the node from which the running node takes an input, for messages.

    Args:
        name: name of the input.

    Returns:
        A text such as " (from 'Upscale Image', node 12)", or "" outside ComfyUI or if it is not known.
    """
    server = comfyui.server()
    node = getattr(server, "last_node_id", None)
    running = getattr(getattr(server, "prompt_queue", None), "currently_running", None) or {}
    for _, _, prompt, *_ in list(running.values()):
        link = prompt.get(node, {}).get("inputs", {}).get(name)
        source = prompt.get(str(link[0])) if isinstance(link, list) and link else None
        if source:
            title = (source.get("_meta") or {}).get("title") or source.get("class_type")
            return f" (from {title!r}, node {link[0]})"
    return ""


def busy() -> bool:
    """Return True while a prompt is running."""
    return bool(getattr(getattr(comfyui.server(), "prompt_queue", None), "currently_running", None))


def serve(method: str, path: str, handler: Callable[[Any], Any]) -> None:
    """Add a route to ComfyUI's server; do nothing outside ComfyUI, or if the server has the route.

    ComfyUI does not start with two routes of one path. It has them when the pack is loaded again, or when
    another copy of it is in use.
    """
    server = comfyui.server()
    if server is None or first_copy() is not None:
        return
    if not any(route.path == path and route.method == method for route in _routes()):
        server.routes.route(method, path)(handler)


def first_copy() -> Path | None:
    """Return the folder of another copy of this pack that ComfyUI loaded before this one, or None."""
    own = Path(__file__).parents[1]
    codes = (getattr(route.handler, "__code__", None) for route in _routes())
    files = (Path(code.co_filename) for code in codes if code is not None)
    found = (folder for file in files for folder in file.parents if folder.name == own.name)
    return next((folder.parent for folder in found if folder != own), None)


def _routes() -> list[Any]:
    """Return the pack's routes that ComfyUI's server has."""
    server = comfyui.server()
    routes = () if server is None else server.routes
    return [r for r in routes if hasattr(r, "handler") and r.path.startswith(ROUTES)]
