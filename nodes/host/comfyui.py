"""ComfyUI's modules that the other modules of this package share, None outside ComfyUI; the pack's log."""

from __future__ import annotations

import logging
import sys
from typing import Any

try:
    import folder_paths
except ImportError:
    folder_paths = None

log = logging.getLogger("my3dgen")


def server() -> Any:
    """Return ComfyUI's server, or None outside ComfyUI."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
