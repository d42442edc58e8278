"""Reader of what EG3D's preprocessing and projectors write: crops with cameras, and latents.

Cameras are in a dataset.json, or in one .npy of 25 numbers beside each crop. Latents are .npy, .npz or .pt
files that are named like their photo, with or without an ending such as `_w` or `_w_plus`, or are in a folder
that is.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..camera import check_cameras
from ..common.errors import CheckpointError, quote_untrusted
from ..common.folders import files_below
from ..formats.npy_file import MAGIC, npz_members, read_npy, read_npz
from ..formats.pickle_values import NumpyArray, TensorRef
from ..formats.torch_archive import opened
from .latents import Latents

LATENTS = (".npy", ".npz", ".pt", ".pth")
"""Endings of files that hold latents."""
_LARGEST_LABELS = 256 << 20  # bytes
_LARGEST_LATENTS = 64 << 20  # numbers
_CAMERA_BYTES = 1024  # more than a .npy of 25 numbers has
_KEYS = ("w", "ws", "latent", "latents", "w_pivot")
_ENDING = re.compile(r"_?(w|ws|w_?plus|w\+|latents?|projected_w)$", re.IGNORECASE)
_MIRRORED = "_mirror"


def read_labels(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the cameras of a dataset.json.

    Returns:
        Cameras [25], float32, by the names of the images in the file.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a dataset.json with 25 finite numbers per image.
    """
    file = Path(path)
    if file.stat().st_size > _LARGEST_LABELS:
        raise CheckpointError(f"{file.name} is too large for camera labels.")
    try:
        labels = json.loads(file.read_text("utf-8"))["labels"]
        pairs = labels.items() if isinstance(labels, dict) else labels
        found = {str(name): [float(number) for number in numbers] for name, numbers in pairs}
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f'{file.name} is not a dataset.json of EG3D: {{"labels": [["00000.png", [25 numbers]], ...]}}.'
        ) from error
    for name, numbers in found.items():
        if len(numbers) != 25 or not all(map(math.isfinite, numbers)):
            raise CheckpointError(
                f"{file.name}: the label of {quote_untrusted(name)} is not 25 finite numbers."
            )
    return {name: torch.tensor(numbers) for name, numbers in found.items()}


def read_latent(path: str | os.PathLike[str]) -> Tensor:
    """Read the latents of a .npy, .npz or .pt file; nothing in it is executed.

    Returns:
        [N, 1 or num_ws, w_dim] float32; a single w becomes [1, 1, w_dim].

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not one tensor or array of floating-point numbers, or one of another shape.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            start = stream.read(6)
        if start == MAGIC:
            latent = _read_npy(file)
        elif start.startswith(b"PK") and (members := npz_members(file)):
            latent = _single(read_npz(file, members, _LARGEST_LATENTS, 4 * _LARGEST_LATENTS))
        else:
            latent = _read_tensor(file)
        while latent.ndim < 3:
            latent = latent[None]
        if latent.ndim != 3 or not latent.numel() or not latent.is_floating_point():
            raise CheckpointError(f"holds {list(latent.shape)} numbers, not latents [N, layers, w_dim].")
        if not bool(torch.isfinite(latent).all()):
            raise CheckpointError("holds NaN or infinite numbers.")
        return latent.to(torch.float32)
    except CheckpointError as error:
        raise CheckpointError(f"{file.name} {error}") from error


def _read_npy(file: Path) -> Tensor:
    size = file.stat().st_size
    with file.open("rb") as stream:
        return read_npy(stream, size, _LARGEST_LATENTS)


def _single(arrays: Mapping[str, Tensor]) -> Tensor:
    """Return the latents among named arrays: those with a usual name, or the only ones."""
    name = next((key for key in _KEYS if key in arrays), None)
    if name is None and len(arrays) != 1:
        names = ", ".join(quote_untrusted(key) for key in list(arrays)[:5])
        raise CheckpointError(
            f"holds {len(arrays)} arrays ({names}), none of them called {', '.join(_KEYS)}."
        )
    return arrays[name or next(iter(arrays))]


def _read_tensor(file: Path) -> Tensor:
    with opened(file) as root:
        for name in _KEYS:
            if type(root) is dict and name in root:
                root = root[name]
        if type(root) is NumpyArray:
            root = root.tensor
        if type(root) is not TensorRef:
            raise CheckpointError(f"holds {quote_untrusted(root)}, not one tensor.")
        return root.read()


def read_anchors(
    latents: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None, num_ws: int | None = None
) -> Latents:
    """Read the latents of a folder with their cameras, for use as anchors.

    Args:
        latents: folder of .npy, .npz or .pt files, one per photo, read in the order of their names; a file
            may hold several latents of its photo. Of `NAME_w` and `NAME_w_plus` the first is taken.
        labels: dataset.json with the cameras under the photos' names; None: the cameras in the folder, if any
            (a dataset.json, or `NAME.npy` files of 25 numbers).
        num_ws: number of layers to which a single w is repeated; None: not repeated.

    Returns:
        Latents [N, num_ws, w_dim] with their cameras; without cameras if there are none.

    Raises:
        FileNotFoundError: no latents, or no such labels.
        CheckpointError: a file that cannot be read, latents of different shapes, or one without a camera.
    """
    folder = Path(latents)
    files, camera_files = _arrays(folder)
    if not files:
        raise FileNotFoundError(f"There are no latents ({', '.join(LATENTS[:3])}) in {folder}.")
    if labels is None and (folder / "dataset.json").is_file():
        labels = folder / "dataset.json"
    rows = _same_shape([read_latent(file) for file in files], folder, num_ws)
    known = {} if labels is not None else {file.stem: camera for file, camera in camera_files.items()}
    if labels is not None:
        known = {Path(name).stem: camera for name, camera in read_labels(labels).items()}
    if not known:
        return Latents(torch.cat(rows).contiguous())
    chosen = []
    for file, row in zip(files, rows, strict=True):
        photo = _photo(file, folder, known)
        if photo is None:
            where = "The folder" if labels is None else Path(labels).name
            raise CheckpointError(f"{where} has no camera for {file.name}.")
        chosen.append(known[photo].expand(len(row), -1))
    return Latents(torch.cat(rows).contiguous(), check_cameras(torch.cat(chosen)))


def _same_shape(rows: list[Tensor], folder: Path, num_ws: int | None) -> list[Tensor]:
    if num_ws is not None:
        rows = [row.expand(-1, num_ws, -1) if row.shape[1] == 1 else row for row in rows]
    if len({row.shape[1:] for row in rows}) != 1:
        raise CheckpointError(f"The latents in {folder} have different shapes. Are they of one generator?")
    return rows


def _arrays(folder: Path) -> tuple[list[Path], dict[Path, Tensor]]:
    """Return the files of latents in a folder and its subfolders, and the cameras by their files."""
    latents, cameras = [], {}
    for file in sorted(files_below(folder)):
        if file.suffix.lower() in LATENTS:
            camera = _camera(file)
            if camera is None:
                latents.append(file)
            else:
                cameras[file] = camera
    plain = {_ENDING.sub("", file.stem) for file in latents if not file.stem.lower().endswith("plus")}
    return [
        file
        for file in latents
        if not (file.stem.lower().endswith("plus") and _ENDING.sub("", file.stem) in plain)
    ], cameras


def _camera(file: Path) -> Tensor | None:
    """Return the 25 numbers of a camera's .npy; None for any other file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size > _CAMERA_BYTES or stream.read(len(MAGIC)) != MAGIC:
            return None
        stream.seek(0)
        try:
            numbers = read_npy(stream, size, _CAMERA_BYTES)
        except CheckpointError:
            return None  # the reader of latents says what is wrong with it
    if numbers.numel() != 25:
        return None
    if not bool(torch.isfinite(numbers).all()):
        raise CheckpointError(f"{file.name} is a camera with NaN or infinite numbers.")
    return numbers.reshape(25)


def _photo(file: Path, folder: Path, known: Mapping[str, Tensor]) -> str | None:
    """Return the name of a latent's photo among the known ones; None if it is not among them.

    It is the file's name or that of a folder around it (`photo/latent.pt`), with or without an ending such as
    `_w`. A file whose name says nothing (`projected_w.npz`) belongs to the only photo, if there is one.
    """
    parts = [file.stem, *reversed(file.relative_to(folder).parts[:-1])]
    names = [name for part in parts for name in (part, _ENDING.sub("", part))]
    nameless = len(known) == 1 and not _ENDING.sub("", file.stem)
    return next((name for name in names if name in known), next(iter(known)) if nameless else None)


@dataclass(frozen=True)
class Dataset:
    """Crops with their cameras, in one order, and latents if every crop has one."""

    pictures: tuple[Path, ...]
    """Files of the crops."""
    names: tuple[str, ...]
    """Their names: paths relative to the folder."""
    cameras: Tensor
    """[N, 25]."""
    latents: Latents | None
    """[N, num_ws, w_dim] with the cameras; None if a crop has none."""
    notes: tuple[str, ...]
    """Sentences about what was left out and why."""


def read_dataset(
    folder: str | os.PathLike[str],
    pictures: Sequence[Path],
    at_most: int | None = None,
    mirrored: bool = False,
    num_ws: int | None = None,
) -> Dataset:
    """Match the pictures of a folder with its cameras and latents.

    Args:
        folder: what EG3D's preprocessing or a projector has written: a dataset.json or `NAME.npy` files of 25
            numbers; latents are optional.
        pictures: files of the pictures, inside the folder.
        at_most: number of pictures to keep; None: all.
        mirrored: also keep the mirrored copies (`NAME_mirror`) that EG3D's preprocessing makes.
        num_ws: number of layers to which a single w is repeated; None: not repeated.

    Raises:
        CheckpointError: no cameras, none that belongs to a picture, or a file that cannot be read.
    """
    root = Path(folder)
    files, camera_files = _arrays(root)
    known = {_name(file, root): camera for file, camera in camera_files.items()}
    for labels in (file for file in sorted(files_below(root)) if file.name == "dataset.json"):
        for name, camera in read_labels(labels).items():
            known[_name(labels.parent / name, root)] = camera
    if not known:
        raise CheckpointError(
            f"There are no cameras in {root}: neither a dataset.json of EG3D nor .npy files of 25 numbers. "
            "For photos without cameras use Load Photo Folder and Align Faces."
        )
    notes = []
    kept = [file for file in pictures if mirrored or not file.stem.endswith(_MIRRORED)]
    if len(kept) < len(pictures):
        notes.append(f"{len(pictures) - len(kept)} mirrored copies were left out.")
    found, alone = _matched(kept, known, root)
    if alone:
        notes.append(f"{len(alone)} pictures without a camera were left out: {_listed(alone)}.")
    if not found:
        raise CheckpointError(
            f"None of the {len(known)} cameras in {root} is named like a picture there: cameras for "
            f"{_listed(list(known))}, pictures {_listed(alone)}."
        )
    if at_most is not None and len(found) > at_most:
        notes.append(f"{len(found) - at_most} more were left out: at_most is {at_most}.")
        found = dict(list(found.items())[:at_most])
    names = tuple(file.relative_to(root).as_posix() for file in found)
    cameras = check_cameras(torch.stack([_checked(known[key], key) for key in found.values()]))
    latents, missing = _matched_latents(files, list(found.values()), root)
    rows = None
    if files and missing:
        notes.append(f"There are no latents for {len(missing)} of {len(found)} crops: {_listed(missing)}.")
    elif files:
        rows = Latents(torch.cat(_same_shape(latents, root, num_ws)).contiguous(), cameras)
    return Dataset(tuple(found), names, cameras, rows, tuple(notes))


def _name(file: Path, root: Path) -> str:
    """Return the path of a picture, camera or label relative to the folder, without its suffix."""
    return os.path.relpath(file.with_suffix(""), root).replace(os.sep, "/")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(quote_untrusted(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _matched(
    pictures: Sequence[Path], known: Mapping[str, Tensor], root: Path
) -> tuple[dict[Path, str], list[str]]:
    """Return the key of each picture's camera, and the names of the pictures that have none.

    A camera belongs to the picture of its path; one that is left over, to a picture of its name elsewhere.
    """
    keys = {file: name for file in pictures if (name := _name(file, root)) in known}
    left: dict[str, str] = {}
    for name in sorted(set(known) - set(keys.values()), reverse=True):
        left[name.rpartition("/")[2]] = name
    for file in pictures:
        if file not in keys and file.stem in left:
            keys[file] = left.pop(file.stem)
    return {file: keys[file] for file in pictures if file in keys}, [
        file.relative_to(root).as_posix() for file in pictures if file not in keys
    ]


def _checked(camera: Tensor, name: str) -> Tensor:
    """Return a camera [25] if its pose is a rotation and its focal length is above 0."""
    rotation = camera[:16].view(4, 4)[:3, :3]
    if float((rotation @ rotation.T - torch.eye(3)).abs().max()) > 0.05 or not float(camera[16]) > 0:
        raise CheckpointError(
            f"The camera of {quote_untrusted(name)} is none of EG3D's: its 25 numbers are not a rotation "
            "with a position (16) and intrinsics with a focal length (9)."
        )
    return camera


def _matched_latents(files: Sequence[Path], names: list[str], root: Path) -> tuple[list[Tensor], list[str]]:
    """Return the first latent [1, layers, w_dim] of each name, and the names that have none."""
    places = {name.rpartition("/")[2]: name for name in names}
    stems = {stem: torch.empty(0) for stem in places}
    of: dict[str, Path] = {}
    for file in files:
        stem = _photo(file, root, stems)
        if stem is not None:
            of.setdefault(places[stem], file)
    missing = [name for name in names if name not in of]
    return ([] if missing else [read_latent(of[name])[:1] for name in names]), missing
