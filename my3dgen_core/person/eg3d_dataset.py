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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ..camera import camera_problem, check_cameras
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
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic")
_ENDING = re.compile(r"_?(w|ws|w_?plus|w\+|latents?|projected_w)$", re.IGNORECASE)
_MIRRORED = "_mirror"
_CAMERAS_JSON = (
    "is in the form of EG3D's cameras.json (a pose and intrinsics per photo), whose poses are not yet those "
    "of the crops. Use the dataset.json that EG3D's preprocess_cameras.py makes of it."
)


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
        values = json.loads(file.read_bytes())  # in UTF-8 or UTF-16, with or without a byte order mark
        labels = [] if _has_poses(values) else values["labels"]
        pairs = labels.items() if isinstance(labels, dict) else [] if labels is None else labels
        found = {str(name): [float(number) for number in numbers] for name, numbers in pairs}
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f'{file.name} is not a dataset.json of EG3D: {{"labels": [["00000.png", [25 numbers]], ...]}}.'
        ) from error
    if _has_poses(values):
        raise CheckpointError(f"{file.name} {_CAMERAS_JSON}")
    if labels is None:
        raise CheckpointError(
            f"{file.name} holds no labels (null): it was made without cameras. EG3D's preprocessing makes "
            "one with them."
        )
    for name, numbers in found.items():
        if len(numbers) != 25 or not all(map(math.isfinite, numbers)):
            raise CheckpointError(
                f"{file.name}: the label of {quote_untrusted(name)} is not 25 finite numbers."
            )
    return {name: torch.tensor(numbers) for name, numbers in found.items()}


def _has_poses(values: object) -> bool:
    """Return True for the contents of a cameras.json: an entry with a pose for each photo."""
    return (
        isinstance(values, dict)
        and bool(values)
        and all(isinstance(entry, dict) and "pose" in entry for entry in values.values())
    )


def read_latent(path: str | os.PathLike[str]) -> Tensor:
    """Read the latents of a .npy, .npz or .pt file; nothing in it is executed.

    The latents may be one tensor, a list of them or a dictionary by the names of photos.

    Returns:
        [N, 1 or num_ws, w_dim] float32; a single w becomes [1, 1, w_dim].

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: no tensor or array of floating-point numbers, or one of another shape.
    """
    file = Path(path)
    return torch.cat(_same_shape(list(_read(file).values()), file, None))


def _read(file: Path, photos: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return the latents [N, layers, w_dim] of a file by photo; under "" those whose photo it does not name.

    Args:
        file: a .npy, .npz or .pt file.
        photos: paths of known photos, which a dictionary may name without a suffix.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(6)
        if start == MAGIC:
            found = {"": _read_npy(file)}
        elif start.startswith(b"PK") and (members := npz_members(file)):
            found, _ = read_npz(file, members, _LARGEST_LATENTS, 4 * _LARGEST_LATENTS)
            if not _by_photo(found, photos):
                found = {"": _single(found)}
        else:
            found = _read_tensors(file, photos)
        return {name: _checked_latent(latent) for name, latent in found.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{file.name} {error}") from error


def _checked_latent(latent: Tensor) -> Tensor:
    while latent.ndim < 3:
        latent = latent[None]
    if latent.ndim != 3 or not latent.numel() or not latent.is_floating_point():
        raise CheckpointError(f"holds {list(latent.shape)} numbers, not latents [N, layers, w_dim].")
    if not bool(torch.isfinite(latent).all()):
        raise CheckpointError("holds NaN or infinite numbers.")
    return latent.to(torch.float32)


def _by_photo(names: Iterable[str], photos: Iterable[str]) -> bool:
    """Return True if all of the names are those of photos: with the suffix of a picture, or known ones."""
    given = [PurePosixPath(_posix(name)) for name in names]
    if all(path.suffix.lower() in _PICTURES for path in given):
        return bool(given)
    known = {PurePosixPath(photo).stem for photo in photos}
    return all(
        path.name in known or (path.suffix.lower() in _PICTURES and path.stem in known) for path in given
    )


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


def _read_tensors(file: Path, photos: Iterable[str]) -> dict[str, Tensor]:
    with opened(file) as root:
        for name in _KEYS:
            if type(root) is dict and name in root:
                root = root[name]
        if type(root) is dict:
            named = {name: ref for name, value in root.items() if (ref := _ref(value)) is not None}
            if named and all(type(name) is str for name in named) and _by_photo(named, photos):
                return {name: ref.read() for name, ref in named.items()}
        if type(root) in (list, tuple) and root:
            refs = [ref for value in root if (ref := _ref(value)) is not None]
            if any(len(ref.shape) == 1 for ref in refs):
                raise CheckpointError(
                    "holds a list of vectors, which may be one latent's layers or several latents. Save them "
                    "as one tensor [N, layers, w_dim]."
                )
            if len(refs) == len(root):
                latents = [_checked_latent(ref.read()) for ref in refs]
                if len({latent.shape[1:] for latent in latents}) != 1:
                    raise CheckpointError("holds a list of latents of different shapes.")
                return {"": torch.cat(latents)}
        whole = _ref(root)
        if whole is None:
            raise CheckpointError(f"holds {quote_untrusted(root)}, not one tensor.")
        return {"": whole.read()}


def _ref(value: object) -> TensorRef | None:
    """Return a value that is a tensor or an array of numbers; None for any other."""
    if type(value) is NumpyArray:
        return value.tensor
    return value if type(value) is TensorRef else None


def read_anchors(
    latents: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None, num_ws: int | None = None
) -> Latents:
    """Read the latents of a folder with their cameras, for use as anchors.

    Args:
        latents: folder of .npy, .npz or .pt files, read in the order of their names. A file holds one or more
            latents of the photo that it is named like, or a dictionary by the names of photos. Of `NAME_w`
            and `NAME_w_plus` the first is taken.
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
    if labels is None:
        known = {_path(file, folder): camera for file, camera in camera_files.items()}
    else:
        known = {_posix(name): camera for name, camera in read_labels(labels).items()}
    entries = [
        (_place(file, name), file, latent) for file in files for name, latent in _read(file, known).items()
    ]
    rows = _same_shape([latent for _, _, latent in entries], folder, num_ws)
    if not known:
        return Latents(torch.cat(rows).contiguous())
    where = "The folder" if labels is None else Path(labels).name
    found = _matched([place for place, _, _ in entries], list(known), folder, _names_of_latents)
    nearest: dict[str, int] = {}
    for one in found.values():
        nearest[one.photo] = max(one.shared, nearest.get(one.photo, 0))
    chosen = []
    for place, file, row in entries:
        match = found.get(place)
        what = place.relative_to(folder).as_posix() + (f" in {file.name}" if place != file else "")
        # The camera of a photo whose own latents are in the folder, too, is not another folder's.
        if match is None or match.shared < nearest[match.photo]:
            several = f" Save its {len(row)} latents as a dictionary by the names of their photos."
            raise CheckpointError(f"{where} has no camera for {what}.{several if len(row) > 1 else ''}")
        camera = known[match.photo]
        if not all(torch.equal(camera, known[other]) for other in match.others):
            raise CheckpointError(
                f"{where} has cameras of several photos for {what}: "
                f"{_listed([match.photo, *match.others])}. Put it into a folder of the name of its photo's."
            )
        if labels is not None or bool(camera.any()):  # a .npy of zeros beside a latent is a placeholder
            camera = _checked(camera, match.photo)
        chosen.append(camera.expand(len(row), -1))
    return Latents(torch.cat(rows).contiguous(), check_cameras(torch.cat(chosen)))


def _place(file: Path, name: str) -> Path:
    """Return the path of a latent: its file's, or one in the same folder if the file names its photo."""
    if not name:
        return file
    parts = [part for part in PurePosixPath(_posix(name)).parts if part not in ("/", "..")]
    place = file.parent.joinpath(*parts)
    return place if place.suffix.lower() in _PICTURES else place.parent / f"{place.name}{_PICTURES[0]}"


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


@dataclass(frozen=True)
class _Match:
    """Photo that a file belongs to."""

    photo: str
    others: tuple[str, ...]
    """Photos that it may belong to just as well."""
    score: tuple[bool, bool, int, int]
    """Rank among the photos of the file's name."""

    @property
    def shared(self) -> int:
        """Number of folders that the paths of the file and the photo have in common."""
        return self.score[2]


def _matched(
    files: Iterable[Path], photos: Sequence[str], folder: Path, names: Callable[[Path, Path], list[str]]
) -> dict[Path, _Match]:
    """Match files to photos by path; by name alone where no path tells.

    Args:
        files: files in `folder`, or in its subfolders.
        photos: paths of photos with suffix, separated by slashes.
        folder: folder that the paths begin in.
        names: returns the names that the photo of a file may have, in order of preference.
    """
    called: dict[str, dict[str, None]] = {}
    for photo in photos:
        path = PurePosixPath(photo)
        for name in (path.name, path.stem):
            called.setdefault(name, {})[photo] = None
    found = {}
    for file in files:
        folders = file.relative_to(folder).parts[:-1]
        known = next((called[name] for name in names(file, folder) if name in called), {})
        if not known and len(photos) == 1 and names is _names_of_latents and not _ENDING.sub("", file.stem):
            known = {photos[0]: None}  # a name that says nothing, as projected_w.npz
        scores = {photo: _score(photo, file, folders) for photo in known}
        if scores:
            best, *others = (photo for photo in scores if scores[photo] == max(scores.values()))
            found[file] = _Match(best, tuple(others), scores[best])
    return found


def _score(photo: str, file: Path, folders: tuple[str, ...]) -> tuple[bool, bool, int, int]:
    path = PurePosixPath(photo)
    above = path.parts[:-1]
    return above == folders, path.name in (file.name, file.stem), _in_common(above, folders), -len(above)


def _in_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for part in first:
        before, lengths = lengths, [0]
        for place, other in enumerate(second):
            lengths.append(before[place] + 1 if part == other else max(before[place + 1], lengths[-1]))
    return lengths[-1]


def _names_of_latents(file: Path, folder: Path) -> list[str]:
    """Return the file's name and those of the folders around it, with and without an ending as `_w`."""
    parts = [file.stem, *reversed(file.relative_to(folder).parts[:-1])]
    return [name for part in parts for name in (part, _ENDING.sub("", part))]


def _names_of_picture(file: Path, folder: Path) -> list[str]:
    return [file.stem]


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
    known = {_path(file, root): camera for file, camera in camera_files.items()}
    visible = sorted(files_below(root))
    for labels in (file for file in visible if file.name == "dataset.json"):
        for name, camera in read_labels(labels).items():
            path = _path(labels.parent / _posix(name), root)
            known.pop(f"{_bare(path)}.npy", None)  # the camera of the same picture
            known[path] = camera
    if not known:
        beside = next((file.name for file in visible if file.name == "cameras.json"), None)
        raise CheckpointError(
            f"There are no cameras in {root}: neither a dataset.json of EG3D nor .npy files of 25 numbers. "
            f"{f'{beside} {_CAMERAS_JSON} ' if beside else ''}"
            "For photos without cameras use Load Photo Folder and Align Faces."
        )
    notes = []
    kept = [file for file in pictures if mirrored or not file.stem.endswith(_MIRRORED)]
    if len(kept) < len(pictures):
        notes.append(f"{len(pictures) - len(kept)} mirrored copies were left out.")
    found, alone, doubtful = _cameras_of(kept, known, root)
    if doubtful:
        notes.append(
            f"{len(doubtful)} pictures were left out because several cameras have their name: "
            f"{_listed(doubtful)}."
        )
    if alone:
        notes.append(f"{len(alone)} pictures without a camera were left out: {_listed(alone)}.")
    if not found:
        raise CheckpointError(
            f"None of the {len(known)} cameras in {root} is named like a picture there: cameras for "
            f"{_listed([_bare(name) for name in known])}, pictures {_listed(alone + doubtful)}."
        )
    if at_most is not None and len(found) > at_most:
        notes.append(f"{len(found) - at_most} more were left out: at_most is {at_most}.")
        found = dict(list(found.items())[:at_most])
    names = tuple(file.relative_to(root).as_posix() for file in found)
    cameras = check_cameras(torch.stack([_checked(known[key], key) for key in found.values()]))
    latents, missing = _matched_latents(files, list(found.values()), list(known), root)
    rows = None
    if files and missing:
        notes.append(
            f"There are no latents for {len(missing)} of {len(found)} crops: "
            f"{_listed([_bare(name) for name in missing])}."
        )
    elif files:
        rows = Latents(torch.cat(_same_shape(latents, root, num_ws)).contiguous(), cameras)
    return Dataset(tuple(found), names, cameras, rows, tuple(notes))


def _path(file: Path, root: Path) -> str:
    """Return the path of a picture, camera or label relative to the folder."""
    return os.path.relpath(file, root).replace(os.sep, "/")


def _posix(name: str) -> str:
    return name.replace("\\", "/")


def _bare(name: str) -> str:
    """Return the path of a photo without its suffix."""
    return os.path.splitext(name)[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(quote_untrusted(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _cameras_of(
    pictures: Sequence[Path], known: Mapping[str, Tensor], root: Path
) -> tuple[dict[Path, str], list[str], list[str]]:
    """Return the name of each picture's camera, pictures that have none, and those that may have several.

    A camera belongs to one picture: to that of its path, or else to the first of its name.
    """
    matches = _matched(pictures, list(known), root, _names_of_picture)
    doubtful = [
        file
        for file, match in matches.items()
        if not all(torch.equal(known[match.photo], known[other]) for other in match.others)
    ]
    best = _first({file: match for file, match in matches.items() if file not in doubtful})
    owned = {file: photo for photo, file in best.items()}
    return (
        {file: owned[file] for file in pictures if file in owned},
        [_path(file, root) for file in pictures if file not in owned and file not in doubtful],
        [_path(file, root) for file in doubtful],
    )


def _first(matches: Mapping[Path, _Match]) -> dict[str, Path]:
    """Return for each photo the file that fits its path best, the first of several."""
    found: dict[str, Path] = {}
    for file, match in matches.items():
        if match.photo not in found or match.score > matches[found[match.photo]].score:
            found[match.photo] = file
    return found


def _checked(camera: Tensor, name: str) -> Tensor:
    """Return a camera [25] if a picture can have been taken with it."""
    if problem := camera_problem(camera):
        raise CheckpointError(f"The camera of {quote_untrusted(_bare(name))} is none of EG3D's: {problem}")
    return camera


def _matched_latents(
    files: Sequence[Path], names: list[str], known: Sequence[str], root: Path
) -> tuple[list[Tensor], list[str]]:
    """Return the first latent [1, layers, w_dim] of each name, and the names that have none.

    Args:
        files: files of latents, each of a photo or of many.
        names: paths of the photos whose latents are wanted.
        known: paths of all photos.
        root: folder that the paths begin in.
    """
    matches = _matched(files, known, root, _names_of_latents)
    # a file whose name says nothing may still be that of the only photo wanted
    matches |= _matched((file for file in files if file not in matches), names, root, _names_of_latents)
    of = _first({file: match for file, match in matches.items() if not match.others})
    latents: dict[str, Tensor] = {}
    missing = [name for name in names if name not in of]
    for file in (file for file in files if missing and file not in matches):
        with suppress(
            CheckpointError
        ):  # no latents, or broken; the photos whose latents are missing are named
            named = {_place(file, name): latent for name, latent in _read(file, known).items() if name}
            for place, match in _matched(named, known, root, _names_of_latents).items():
                if not match.others:
                    latents.setdefault(match.photo, named[place])
    missing = [name for name in missing if name not in latents]
    if missing:
        return [], missing
    return [(read_latent(of[name]) if name in of else latents[name])[:1] for name in names], []
