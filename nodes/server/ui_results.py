"""Latest `ui` result of each node, kept on the server.

ComfyUI does not resend the result of a cached node, so a reloaded page asks here for the handles it lost.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .. import host
from .routes import Answer, handler

MAX_NODES = 256

_RESULTS: OrderedDict[str, dict[str, Any]] = OrderedDict()


def remember(node_id: str | None, ui: dict[str, Any]) -> dict[str, Any]:
    """Keep a node's latest `ui`, and return it as the page can read it."""
    ui = host.sendable(ui)
    if node_id is not None:
        _RESULTS.pop(node_id, None)
        _RESULTS[node_id] = ui
        if len(_RESULTS) > MAX_NODES:
            _RESULTS.popitem(last=False)
    return ui


async def _results(_: bytes) -> Answer:
    return Answer.json({"nodes": dict(_RESULTS)})


host.serve("GET", "/my3dgen/nodes", handler(_results))
