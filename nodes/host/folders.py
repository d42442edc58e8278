"""Folders of ComfyUI and of the pack, and the files in them that nodes list and find."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import comfyui

if TYPE_CHECKING:
    from ...my3dgen_core.common.folders import Folder

GENERATORS, IDENTITIES, DIRECTIONS, PERCEPTUAL = "generators", "identities", "directions", "perceptual"
"""Kinds of model files, and the names of their folders under models/my3dgen."""
_EXTENSIONS = {
    GENERATORS: {".safetensors", ".pkl", ".pt", ".pth", ".ckpt"},
    IDENTITIES: {".safetensors", ".pkl", ".pt", ".pth"},
    DIRECTIONS: {".safetensors", ".npy", ".npz", ".pt", ".pth"},
    PERCEPTUAL: {".safetensors", ".pt", ".pth"},
}
CLOCK_TICK = 2 * 10**9
"""Nanoseconds within which a file system may give two changes of a folder the same time."""


def models_root() -> Path:
    """Return ComfyUI's models folder."""
    return Path(comfyui.folder_paths.models_dir) if comfyui.folder_paths else Path.cwd() / "models"


def input_root() -> Path:
    """Return ComfyUI's input folder."""
    return Path(comfyui.folder_paths.get_input_directory()) if comfyui.folder_paths else Path.cwd() / "input"


def output_root() -> Path:
    """Return ComfyUI's output folder."""
    return (
        Path(comfyui.folder_paths.get_output_directory()) if comfyui.folder_paths else Path.cwd() / "output"
    )


def _own_folders(kind: str) -> list[Path]:
    """Return the pack's own folders of a kind of file: in models/ and, where nodes save it, in output/."""
    roots = [models_root()] if kind == PERCEPTUAL else [models_root(), output_root()]
    return [root / "my3dgen" / kind for root in roots]


def model_folders(kind: str) -> list[Path]:
    """Return the folders searched for a kind of file: the pack's own, then those of extra_model_paths."""
    if comfyui.folder_paths:
        return [Path(folder) for folder in comfyui.folder_paths.get_folder_paths(f"my3dgen_{kind}")]
    return _own_folders(kind)


def _register_model_folders() -> None:
    """Add the pack's model folders to ComfyUI's list, which also gives users extra_model_paths.yaml."""
    for kind, extensions in _EXTENSIONS.items():
        folders = [str(folder) for folder in _own_folders(kind)]
        known = comfyui.folder_paths.folder_names_and_paths.get(f"my3dgen_{kind}", ([], set()))
        folders += [folder for folder in known[0] if folder not in folders]  # from extra_model_paths.yaml
        comfyui.folder_paths.folder_names_and_paths[f"my3dgen_{kind}"] = (folders, extensions)


def extensions_of(kind: str) -> set[str]:
    """Return the endings of a kind of model file, in lower case."""
    return _EXTENSIONS[kind]


def list_models(kind: str) -> list[str]:
    """Return the names of the files of one kind, for the dropdowns of the Load nodes."""
    return list_files(model_folders(kind), _EXTENSIONS[kind])


def list_files(folders: list[Path], extensions: set[str]) -> list[str]:
    """Return the names, relative to their folder, of the visible files with one of the extensions.

    Folders that cannot be read are skipped; ComfyUI's own lists raise there, and the node would be missing.
    """
    from ...my3dgen_core.common.folders import files_below, readable

    found = ((file, folder) for folder in folders for file in files_below(folder))
    files = ((f, root) for f, root in found if f.suffix.lower() in extensions)
    return sorted({readable(f.relative_to(root).as_posix()) for f, root in files})


def find_model(kind: str, name: str) -> Path:
    """Return the file with this name; of several folders with one, the first in ComfyUI's order.

    Raises:
        FileNotFoundError: no model folder of this kind contains it, or the name leads outside the folder.
    """
    from ...my3dgen_core.common.folders import find_below

    folders = model_folders(kind)
    # the name as it is first: other spellings are looked for in lists of whole folders
    exact = (inside(folder, name) for folder in folders)
    spelled = (find_below(folder, name) for folder in folders)
    for path in itertools.chain(exact, spelled):
        if path is not None and os.path.isfile(path):
            return path
    raise FileNotFoundError(
        f"There is no file {name!r} in {model_folders(kind)[0]}. Put it there, or choose another file."
    )


def inside(folder: Path, name: str) -> Path | None:
    """Return folder/name, or None if that lies outside the folder."""
    path = Path(os.path.abspath(folder / name))
    return path if path.is_relative_to(os.path.abspath(folder)) else None


def list_input_folders() -> list[str]:
    """Return the names of all visible folders under input/."""
    from ...my3dgen_core.common.folders import readable, walk

    root = input_root()
    found = (Path(folder.path) for folder in walk(root, _read_folder))
    return sorted({readable(path.relative_to(root).as_posix()) for path in found if path != root})


_known_folders: dict[str, tuple[int, Folder]] = {}
"""Modification time and subfolders of folders that were read, as in ComfyUI's own lists of files."""


def _read_folder(path: str) -> Folder:
    """Return the subfolders of a folder, which is only read if it has changed."""
    from ...my3dgen_core.common.folders import Folder, read_folder

    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:
        return Folder(path)
    known = _known_folders.get(path)
    if known is None or known[0] != changed:
        known = changed, replace(read_folder(path), files=())
        if time.time_ns() - changed > CLOCK_TICK:
            _known_folders[path] = known
    return known[1]


def find_input_folder(name: str) -> Path:
    """Return a folder under input/.

    Raises:
        ValueError: the name leads outside input/. A workflow from a stranger must not read other files.
        FileNotFoundError: there is no such folder.
    """
    from ...my3dgen_core.common.folders import find_below

    path = inside(input_root(), name)
    if path is None or path == Path(os.path.abspath(input_root())):
        raise ValueError(f"{name!r} is not a folder inside {input_root()}. Copy the photos into one there.")
    path = find_below(input_root(), name)
    if path is None or not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder {name!r} in {input_root()}. Make it and put the photos in."
        )
    return path


def perceptual_folder(name: str) -> Path:
    """Return the first folder that holds the weights of a perceptual distance, or the one they belong in."""
    from ...my3dgen_core.fitting.lpips import has_weights

    folders = model_folders(PERCEPTUAL)
    return next((folder for folder in folders if has_weights(name, folder)), folders[0])


if comfyui.folder_paths:
    _register_model_folders()
