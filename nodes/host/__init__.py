"""Interface to ComfyUI: the only package that imports comfy, comfy_api, folder_paths or server.

Nodes use it as `host.x`. Outside ComfyUI (tests, scripts) every function has a plain fallback: folders under
the working directory, no progress bar, everything on the CPU.
"""

from .comfyui import log
from .core_types import blocked, file_3d, held_video, mesh_class, video_of
from .devices import (
    RENDER_MEMORY,
    TRAINING_MEMORY,
    manage,
    memory,
    rendering,
    resident,
    to_host,
    training,
)
from .face_packs import find_face_models, find_face_pack, list_face_models, list_face_packs
from .feedback import check_canceled, interruptions, jpeg, preview, progress, report, send_text
from .folders import (
    DIRECTIONS,
    GENERATORS,
    IDENTITIES,
    extensions_of,
    find_input_folder,
    find_model,
    input_root,
    list_files,
    list_input_folders,
    list_models,
    model_folders,
    output_root,
    perceptual_folder,
)
from .input_checks import changed, fingerprint, validate
from .page import busy, first_copy, publish, sendable, serve, source_of
from .saved_files import (
    cache_folder,
    claimed,
    save_path,
    save_temporary,
    state_folder,
    temporary_path,
)

__all__ = [
    "DIRECTIONS",
    "GENERATORS",
    "IDENTITIES",
    "RENDER_MEMORY",
    "TRAINING_MEMORY",
    "blocked",
    "busy",
    "cache_folder",
    "changed",
    "check_canceled",
    "claimed",
    "extensions_of",
    "file_3d",
    "find_face_models",
    "find_face_pack",
    "find_input_folder",
    "find_model",
    "fingerprint",
    "first_copy",
    "held_video",
    "input_root",
    "interruptions",
    "jpeg",
    "list_face_models",
    "list_face_packs",
    "list_files",
    "list_input_folders",
    "list_models",
    "log",
    "manage",
    "memory",
    "mesh_class",
    "model_folders",
    "output_root",
    "perceptual_folder",
    "preview",
    "progress",
    "publish",
    "rendering",
    "report",
    "resident",
    "save_path",
    "save_temporary",
    "send_text",
    "sendable",
    "serve",
    "source_of",
    "state_folder",
    "temporary_path",
    "to_host",
    "training",
    "validate",
    "video_of",
]
