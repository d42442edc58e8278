"""What nodes have told the page, for a page that missed it.

ComfyUI tells a page what a node's run gave, but says nothing where the result comes from its cache: a page
that was reloaded would wait for its handles in vain. It learns which nodes were cached, and asks here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .. import host
from .routes import Answer, handler

KEPT = 256

_TOLD: OrderedDict[str, dict[str, Any]] = OrderedDict()


def remember(node_id: str | None, ui: dict[str, Any]) -> dict[str, Any]:
    """Keeps a node's latest `ui`, and returns it."""
    if node_id is not None:
        _TOLD.pop(node_id, None)
        _TOLD[node_id] = ui
        if len(_TOLD) > KEPT:
            _TOLD.popitem(last=False)
    return ui


async def _told(_: bytes) -> Answer:
    return Answer.json({"nodes": dict(_TOLD)})


host.serve("GET", "/my3dgen/nodes", handler(_told))
