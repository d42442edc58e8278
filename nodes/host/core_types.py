"""ComfyUI's own classes of values that travel between nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import comfyui


def mesh_class() -> Any:
    """Return ComfyUI's class of MESH values, or None if it has none."""
    return _core_type("MESH")


def file_3d(path: Path) -> Any:
    """Return a file as a value of FILE_3D_GLB and its siblings.

    In a ComfyUI that has no such type the output is blocked with a message: nothing that it brings takes one.
    """
    core = _core_type("File3D")
    if core is not None:
        return core(str(path), path.suffix.lstrip("."))
    return blocked(
        "This ComfyUI has no type for 3D files (it came with 0.12). Use the output model_file, which names "
        "the same file, or update ComfyUI."
    )


def _core_type(name: str) -> Any:
    """Return one of the value classes of ComfyUI's public API, or None if it has none of that name."""
    try:
        from comfy_api.latest import Types
    except ImportError:
        return None
    return getattr(Types, name, None)


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
