"""Files of directions, as people share them: read as data, checked for what they cannot mean in EG3D."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.errors import CheckpointError, quote_untrusted
from .npy_file import read_npy
from .pickle_values import NumpyArray, TensorRef
from .safetensors_file import is_safetensors, read_safetensors
from .torch_archive import opened

FORMAT = "my3dgen.direction"
LARGEST_FILE, LARGEST_ARRAY, MOST_ARRAYS = 256 << 20, 4 << 20, 4096
USUAL_WIDTH = 512
# Rows of W+ in 2D StyleGANs of 512 and 1024 pixels; EG3D's planes of 256 pixels have 14.
_FLAT_STYLEGAN_ROWS = (16, 18)
_POSE = {"pose", "yaw", "pitch", "roll", "azimuth", "elevation", "rotation", "rotate", "camera", "viewpoint"}
_FORMAT_WORDS = {"direction", "vector", "boundary", "arr", "data", "tensor", "w", "coef"}


@dataclass(frozen=True)
class DirectionFile:
    """One direction of a file: vector [w_dim] or [num_ws, w_dim], float32."""

    name: str
    vector: Tensor
    base_hash: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def list_attributes(path: Path) -> list[str]:
    """The names of the directions in a file; one that has no name of its own is called like the file."""
    return sorted(_arrays(path)[0])


def read_directions(
    path: Path, attribute: str | None = None, num_ws: int | None = None, w_dim: int | None = None
) -> DirectionFile:
    """One direction of a file; what `Direction.load` does."""
    arrays, base_hash, meta = _arrays(path)
    if attribute is None:
        if len(arrays) > 1:
            raise CheckpointError(f"{path.name} holds several directions. Choose one: {_listed(arrays)}.")
        attribute = next(iter(arrays))
    if attribute not in arrays:
        raise CheckpointError(f"{path.name} holds no {quote_untrusted(attribute)}, but: {_listed(arrays)}.")
    check_name(attribute)
    check_name(path.stem)
    vector = _shaped(attribute, arrays[attribute], num_ws, w_dim)
    if not bool(torch.isfinite(vector).all()) or not bool(vector.any()):
        raise CheckpointError(
            f"The direction {quote_untrusted(attribute)} is zero, NaN or infinite: it is damaged."
        )
    return DirectionFile(attribute, vector, base_hash, {"file": path.name, **meta})


def check_name(name: str) -> None:
    """Raises CheckpointError for names that betray a direction without meaning in EG3D's W."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    if words & _POSE:
        raise CheckpointError(
            f"{quote_untrusted(name)} turns the head. In EG3D the camera does that and latents hold no pose: use a "
            "Camera Path."
        )
    if any(word.startswith("stylegan") for word in words) and "eg" not in words:
        raise CheckpointError(
            f"{quote_untrusted(name)} is a direction of a 2D StyleGAN. It means nothing in EG3D's W: find one for this "
            "generator instead (Find Direction)."
        )


def _listed(arrays: Mapping[str, Any]) -> str:
    names = sorted(arrays)
    return ", ".join(quote_untrusted(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def _shaped(name: str, tensor: Tensor, num_ws: int | None, w_dim: int | None) -> Tensor:
    """Any shape that people use to [w_dim] or [num_ws, w_dim]."""
    width = w_dim or USUAL_WIDTH
    shape = list(tensor.shape)
    core = [size for size in shape if size != 1]
    if len(core) == 1 and core[0] != width and core[0] % width == 0:
        count = core[0] // width
        if num_ws in (None, count) or (count in _FLAT_STYLEGAN_ROWS and width == USUAL_WIDTH):
            core = [count, width]
    rows = core[0] if len(core) == 2 else 1
    if rows in _FLAT_STYLEGAN_ROWS and core[-1] == USUAL_WIDTH and rows != num_ws:
        raise CheckpointError(
            f"The direction {quote_untrusted(name)} has shape {shape}: {rows} layers are those of a 2D StyleGAN, whose "
            "directions mean nothing in EG3D's W. Find one for this generator instead (Find Direction)."
        )
    if len(core) not in (1, 2) or (w_dim is not None and core[-1] != w_dim):
        raise CheckpointError(
            f"The direction {quote_untrusted(name)} has shape {shape}, but this generator's latents have "
            f"{f'{width} numbers' if num_ws is None else f'{num_ws} layers of {width} numbers'}. It was made "
            "for another generator."
        )
    if num_ws is not None and rows not in (1, num_ws):
        raise CheckpointError(
            f"The direction {quote_untrusted(name)} has {rows} layers, but this generator has {num_ws}. It was made "
            "for another generator."
        )
    return tensor.to(torch.float32).reshape(core).contiguous()


def _arrays(path: Path) -> tuple[dict[str, Tensor], str | None, dict[str, Any]]:
    """Every array of a file by name, base hash and provenance where the file has them."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no direction at {path}.")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise CheckpointError(f"{path.name} is {size >> 20} MiB; files of directions are far smaller.")
    base_hash: str | None = None
    meta: dict[str, Any] = {}
    try:
        if is_safetensors(path):
            found, base_hash, meta = _read_safetensors(path)
        elif _starts(path, b"\x93NUMPY"):
            with path.open("rb") as stream:
                found = {"": read_npy(stream, size, LARGEST_ARRAY)}
        elif _starts(path, b"PK") and (members := _npz_members(path)):
            found = _read_npz(path, members)
        else:
            with opened(path) as root:
                found = _flattened(root)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} {error}") from error
    if not found:
        raise CheckpointError(f"{path.name} holds no direction.")
    anonymous = len(found) == 1 and not set(re.findall(r"[a-z]+", next(iter(found)).lower())) - _FORMAT_WORDS
    return ({path.stem: next(iter(found.values()))} if anonymous else found), base_hash, meta


def _starts(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _check_header(metadata: Mapping[str, str], names: list[str]) -> None:
    kind = metadata.get("format", "")
    if kind.startswith("my3dgen.") and kind != FORMAT:
        raise CheckpointError(f"is {quote_untrusted(kind)}, not a file of directions.")
    if len(names) > MOST_ARRAYS:
        raise CheckpointError(f"holds {len(names)} tensors; files of directions hold fewer.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None, dict[str, Any]]:
    try:
        found, metadata = read_safetensors(path, _check_header)
    except SafetensorError as error:
        raise CheckpointError(f"cannot be read: {error}.") from error
    for name, tensor in found.items():
        if not tensor.dtype.is_floating_point or tensor.numel() > LARGEST_ARRAY:
            raise CheckpointError(
                f"holds {quote_untrusted(name)} of type {tensor.dtype}; it is no direction."
            )
    if metadata.get("format") != FORMAT:
        return found, None, {}
    try:
        meta = json.loads(metadata.get("meta", "{}"))
        assert isinstance(meta, dict)
        return {metadata["name"]: found["direction"]}, metadata.get("base_hash"), meta
    except (KeyError, ValueError, AssertionError) as error:
        raise CheckpointError("is damaged: it says it is a direction and holds none.") from error


def _npz_members(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a .npz; none where the archive is another kind, such as torch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError("is a damaged zip archive.") from error
    return entries if entries and all(entry.filename.endswith(".npy") for entry in entries) else []


def _read_npz(path: Path, members: list[zipfile.ZipInfo]) -> dict[str, Tensor]:
    if len(members) > MOST_ARRAYS or sum(entry.file_size for entry in members) > LARGEST_FILE:
        raise CheckpointError("is an archive that unpacks to far more than directions.")
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in members:
                with archive.open(entry) as stream:
                    data = stream.read(entry.file_size + 1)  # what it says, whatever it unpacks to
                found[entry.filename.removesuffix(".npy")] = read_npy(
                    io.BytesIO(data), len(data), LARGEST_ARRAY
                )
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError("is a damaged or encrypted archive.") from error
    return found


def _flattened(root: Any, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """The tensors of a torch file by name; dictionaries in dictionaries join their names with a slash."""
    if isinstance(root, NumpyArray):
        root = root.tensor
    if isinstance(root, TensorRef):
        if not root.dtype.is_floating_point or math.prod(root.shape) > LARGEST_ARRAY:
            raise CheckpointError(f"holds a tensor of type {root.dtype} and shape {list(root.shape)}.")
        return {prefix: root.read()}
    if not isinstance(root, dict) or depth > 2:
        return {}
    found: dict[str, Tensor] = {}
    for key, value in root.items():
        if type(key) is str:
            found.update(_flattened(value, f"{prefix}/{key}" if prefix else key, depth + 1))
        if len(found) > MOST_ARRAYS:
            raise CheckpointError(f"holds more than {MOST_ARRAYS} tensors; files of directions hold fewer.")
    return found
