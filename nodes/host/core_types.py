"""ComfyUI's own classes of values that travel between nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import comfyui


def mesh_class() -> Any:
    """Return ComfyUI's class of MESH values, or None if it has none."""
    try:
        from comfy_api.latest._util.geometry_types import MESH
    except ImportError:
        return None
    return MESH


class VideoOnDisk:
    """Substitute for ComfyUI's class of VIDEO values outside ComfyUI."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get_stream_source(self) -> str:
        """Return the path of the file."""
        return self._path


def video_of(path: Path) -> Any:
    """Return the VIDEO value for a file."""
    if comfyui.folder_paths is None:
        return VideoOnDisk(str(path))
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))


def held_video(video: Any) -> Any:
    """Return the components of a VIDEO that is held in memory (images, audio, frame_rate), or None."""
    if comfyui.folder_paths is None:
        return None
    from comfy_api.latest import InputImpl

    return video.get_components() if isinstance(video, InputImpl.VideoFromComponents) else None


def blocked(message: str) -> Any:
    """Return the value of an output that has nothing to give: nodes that use it show the message instead."""
    if comfyui.folder_paths is None:
        return None
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(message)
