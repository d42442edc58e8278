"""Face models: InsightFace packs, folders of ONNX files, and the wheel with those of MediaPipe."""

from __future__ import annotations

from pathlib import Path

from . import comfyui
from .folders import models_root

MEDIAPIPE = "MediaPipe"
"""Name of MediaPipe's face models among the packs."""


def _face_roots() -> list[Path]:
    """Return the folders whose subfolders are face packs: InsightFace keeps them in `models` of its root.

    extra_model_paths.yaml may name that root, or the folder of packs itself.
    """
    roots = [models_root() / "insightface"]
    for key in ("insightface", "insightface_models"):
        if comfyui.folder_paths and key in comfyui.folder_paths.folder_names_and_paths:
            roots += [Path(folder) for folder in comfyui.folder_paths.get_folder_paths(key)]
    return list(dict.fromkeys(folder for root in roots for folder in (root / "models", root)))


def _face_packs() -> dict[str, list[Path]]:
    """Return the folders of each face pack by its name, those of the first root first."""
    from ...my3dgen_core.common.folders import read_folder
    from ...my3dgen_core.face.packs import onnx_files

    packs: dict[str, list[Path]] = {}
    for root in _face_roots():
        listed = read_folder(root)
        for name in (*listed.subfolders, *listed.links):
            folder = root / name
            # a folder of packs is a pack itself if an archive was unpacked right into it
            own = name != "models" or any(file.parent == folder for file in onnx_files(folder))
            if own and onnx_files(folder):
                packs.setdefault(name, []).append(folder)
    return dict(sorted(packs.items()))


def list_face_packs() -> list[str]:
    """Return the names of the folders with ONNX files under models/insightface/models."""
    return list(_face_packs())


def list_face_models() -> list[str]:
    """Return the names of what finds faces: the packs, and MediaPipe whether or not its wheel is there."""
    packs = list_face_packs()
    return packs if MEDIAPIPE in packs else [*packs, MEDIAPIPE]


def find_face_models(name: str) -> Path:
    """Return the folder of a face pack with a face detector, or MediaPipe's wheel.

    Args:
        name: name of the pack, or "MediaPipe"; "auto" is the first pack, and without one the wheel.

    Raises:
        FileNotFoundError: what is asked for is missing; the message says how to get it.
    """
    from ...my3dgen_core.common.folders import name_key
    from ...my3dgen_core.face.mediapipe_models import download_command, find_wheel

    packs, folders = _face_packs(), _wheel_folders()
    if name == "auto" and packs:
        try:
            return find_face_pack(name)
        except FileNotFoundError:
            if not any(find_wheel(folder) for folder in folders):
                raise
    if name != "auto" and (name in packs or name_key(name) != name_key(MEDIAPIPE)):
        return find_face_pack(name)
    for folder in folders:
        wheel = find_wheel(folder)
        if wheel:
            return wheel
    what = "No face models found" if name == "auto" else "MediaPipe's face models are missing"
    raise FileNotFoundError(
        f"{what}. This command gets MediaPipe's (35 MB, Apache-2.0; it installs nothing): "
        f"{download_command(folders[0])} - or put the .onnx files of an InsightFace pack such as buffalo_l "
        f"into {_face_roots()[0] / 'buffalo_l'}, or use Load Demo Person, which needs none. Searched: "
        f"{', '.join(str(folder) for folder in (*folders, *_face_roots()))}."
    )


def _wheel_folders() -> list[Path]:
    """Return the folders in which MediaPipe's wheel may lie."""
    folders = [models_root() / "my3dgen" / "faces"]
    if comfyui.folder_paths and "my3dgen_faces" in comfyui.folder_paths.folder_names_and_paths:
        folders += [Path(folder) for folder in comfyui.folder_paths.get_folder_paths("my3dgen_faces")]
    return list(dict.fromkeys(folders))


def find_face_pack(name: str) -> Path:
    """Return the folder of a face pack with a face detector.

    Args:
        name: name of the pack, in whichever root has it; "auto" is the first pack.

    Raises:
        FileNotFoundError: there is no such pack, or none at all; the message lists the folders searched and
            what each lacks.
    """
    from ...my3dgen_core.common.folders import name_key
    from ...my3dgen_core.face.packs import DETECTION, read_pack

    packs, roots = _face_packs(), _face_roots()
    put = f"Put the .onnx files of a face pack such as buffalo_l into {roots[0] / 'buffalo_l'}"
    if not packs:
        raise FileNotFoundError(
            f"No face models found. {put}, or use Load Demo Person, which needs none. "
            f"Searched: {', '.join(str(root) for root in roots)}."
        )
    wanted = [key for key in packs if name == "auto" or name_key(key) == name_key(name)]
    if not wanted:
        raise FileNotFoundError(f"There is no face pack {name!r} in {roots[0]}. Found: {', '.join(packs)}.")
    searched = []
    for folder in (folder for key in wanted for folder in packs[key]):
        pack = read_pack(folder)
        if DETECTION in pack.files:
            return folder
        searched.append(f"{folder} ({pack.describe()})")
    raise FileNotFoundError(f"No face pack has a face detector. {put}. Searched: {', '.join(searched)}.")
