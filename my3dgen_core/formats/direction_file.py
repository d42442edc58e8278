"""Reader of semantic directions in the formats in which they are shared: .npy, .npz, .pt and .safetensors.

Files are read as data. Directions without a meaning in EG3D's W are refused: those of head pose, which is the
camera's, and those of 2D StyleGANs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.errors import CheckpointError, quote_untrusted
from .file_kinds import OURS, describe_root, describe_weights
from .npy_file import MAGIC, MOST_ARRAYS, npz_members, read_npy, read_npz
from .pickle_values import NumpyArray, TensorRef
from .safetensors_file import is_safetensors, read_safetensors
from .torch_archive import opened

FORMAT = "my3dgen.direction"
# Limits: bytes of a file, elements of an array.
LARGEST_FILE, LARGEST_ARRAY = 256 << 20, 4 << 20
USUAL_WIDTH = 512
"""w_dim assumed where the generator is not known."""
# Layers of W+ in 2D StyleGANs of 512 and 1024 pixels; EG3D's planes of 256 pixels have 14.
_STYLEGAN_2D_LAYERS = (16, 18)
# Words in a name that mark a direction of head pose, and words that say nothing about its meaning.
_POSE_WORDS = {
    "pose",
    "yaw",
    "pitch",
    "roll",
    "azimuth",
    "elevation",
    "rotation",
    "rotate",
    "camera",
    "viewpoint",
}
_FORMAT_WORDS = {"direction", "vector", "boundary", "arr", "data", "tensor", "w", "coef"}


@dataclass(frozen=True)
class DirectionFile:
    """One direction read from a file."""

    name: str
    """Name in the file; the file's own name if it has none."""
    vector: Tensor
    """[w_dim] or [num_ws, w_dim], float32."""
    base_hash: str | None = None
    """`Generator.base_hash()` of the generator it was found in; None if unknown."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Provenance: the file's name and what the file says."""


def read_directions(
    path: Path, attribute: str | None = None, num_ws: int | None = None, w_dim: int | None = None
) -> DirectionFile:
    """Read one direction of a file: the reader behind `Direction.load`, which documents the arguments."""
    arrays, others, base_hash, meta = _arrays(path)
    if attribute is None:
        if len(arrays) > 1:
            raise CheckpointError(f"{path.name} holds several directions. Choose one: {_listed(arrays)}.")
        attribute = next(iter(arrays))
    if attribute not in arrays:
        typed = ", ".join(
            f"{quote_untrusted(name)} of type {kind}" for name, kind in sorted(others.items())[:5]
        )
        raise CheckpointError(
            f"{path.name} holds no {quote_untrusted(attribute)}, but: {_listed(arrays)}"
            f"{f'; beside them, what is no direction: {typed}' if others else ''}."
        )
    check_name(attribute)
    check_name(path.stem)
    vector = _shaped(attribute, arrays[attribute], num_ws, w_dim)
    if not bool(torch.isfinite(vector).all()) or not bool(vector.any()):
        raise CheckpointError(
            f"The direction {quote_untrusted(attribute)} is zero, NaN or infinite: it is damaged."
        )
    return DirectionFile(attribute, vector, base_hash, {"file": path.name, **meta})


def check_name(name: str) -> None:
    """Raise CheckpointError if a name marks a direction of head pose or of a 2D StyleGAN."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    if words & _POSE_WORDS:
        raise CheckpointError(
            f"{quote_untrusted(name)} turns the head. In EG3D the camera does that and latents hold no pose: "
            "use a Camera Path."
        )
    if any(word.startswith("stylegan") for word in words) and "eg" not in words:
        raise CheckpointError(
            f"{quote_untrusted(name)} is a direction of a 2D StyleGAN. It means nothing in EG3D's W: find "
            "one for this generator instead (Find Direction)."
        )


def _listed(arrays: Mapping[str, Any]) -> str:
    names = sorted(arrays)
    return ", ".join(quote_untrusted(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def _shaped(name: str, tensor: Tensor, num_ws: int | None, w_dim: int | None) -> Tensor:
    """Reshape a direction to [w_dim] or [num_ws, w_dim], whichever of the common shapes it has."""
    width = w_dim or USUAL_WIDTH
    shape = list(tensor.shape)
    core = [size for size in shape if size != 1]
    if len(core) == 1 and core[0] != width and core[0] % width == 0:
        count = core[0] // width
        if num_ws in (None, count) or (count in _STYLEGAN_2D_LAYERS and width == USUAL_WIDTH):
            core = [count, width]
    rows = core[0] if len(core) == 2 else 1
    if rows in _STYLEGAN_2D_LAYERS and core[-1] == USUAL_WIDTH and rows != num_ws:
        raise CheckpointError(
            f"The direction {quote_untrusted(name)} has shape {shape}: {rows} layers are those of a 2D "
            "StyleGAN, whose directions mean nothing in EG3D's W. Find one for this generator instead (Find "
            "Direction)."
        )
    if len(core) not in (1, 2) or (w_dim is not None and core[-1] != w_dim):
        raise CheckpointError(
            f"The direction {quote_untrusted(name)} has shape {shape}, but this generator's latents have "
            f"{f'{width} numbers' if num_ws is None else f'{num_ws} layers of {width} numbers'}. It was made "
            "for another generator."
        )
    if num_ws is not None and rows not in (1, num_ws):
        raise CheckpointError(
            f"The direction {quote_untrusted(name)} has {rows} layers, but this generator has {num_ws}. It "
            "was made for another generator."
        )
    return tensor.to(torch.float32).reshape(core).contiguous()


def _arrays(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str | None, dict[str, Any]]:
    """Return a file's floating-point arrays, the types of the others, base hash and provenance.

    Base hash and provenance are None and empty where the file does not have them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no direction at {path}.")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise CheckpointError(f"{path.name} is {size >> 20} MiB; files of directions are far smaller.")
    base_hash: str | None = None
    meta: dict[str, Any] = {}
    others: dict[str, str] = {}
    try:
        if is_safetensors(path):
            found, base_hash, meta = _read_safetensors(path, others)
        elif _starts(path, MAGIC):
            with path.open("rb") as stream:
                found = {"": read_npy(stream, size, LARGEST_ARRAY)}
        elif _starts(path, b"PK") and (members := npz_members(path)):
            found, others = read_npz(path, members, LARGEST_ARRAY, LARGEST_FILE)
        else:
            with opened(path) as root:
                if project := describe_root(root):
                    raise CheckpointError(f"is {project}, not a file of directions.")
                found = _flattened(root, others)
        if others and not found:
            name, kind = next(iter(others.items()))
            raise CheckpointError(f"holds {quote_untrusted(name)} of type {kind}; it is no direction.")
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} {error}") from error
    if not found:
        raise CheckpointError(f"{path.name} holds no direction.")
    anonymous = len(found) == 1 and not set(re.findall(r"[a-z]+", next(iter(found)).lower())) - _FORMAT_WORDS
    return ({path.stem: next(iter(found.values()))} if anonymous else found), others, base_hash, meta


def _starts(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _check_header(metadata: Mapping[str, str], names: list[str]) -> None:
    kind = metadata.get("format", "")
    if kind.startswith("my3dgen.") and kind != FORMAT:
        raise CheckpointError(f"is {OURS.get(kind, quote_untrusted(kind))}, not a file of directions.")
    if kind != FORMAT and (project := describe_weights(names)):
        raise CheckpointError(f"is {project}, not a file of directions.")
    if len(names) > MOST_ARRAYS:
        raise CheckpointError(f"holds {len(names)} tensors; files of directions hold fewer.")


def _read_safetensors(
    path: Path, others: dict[str, str]
) -> tuple[dict[str, Tensor], str | None, dict[str, Any]]:
    try:
        found, metadata = read_safetensors(path, _check_header)
    except SafetensorError as error:
        raise CheckpointError(f"cannot be read: {error}.") from error
    others.update(
        {name: str(tensor.dtype) for name, tensor in found.items() if not tensor.dtype.is_floating_point}
    )
    found = {name: tensor for name, tensor in found.items() if name not in others}
    for name, tensor in found.items():
        if tensor.numel() > LARGEST_ARRAY:
            raise CheckpointError(
                f"holds {quote_untrusted(name)} of shape {list(tensor.shape)}; it is no direction."
            )
    if metadata.get("format") != FORMAT:
        return found, None, {}
    try:
        meta = json.loads(metadata.get("meta", "{}"))
        assert isinstance(meta, dict)
        return {metadata["name"]: found["direction"]}, metadata.get("base_hash"), meta
    except (KeyError, ValueError, AssertionError) as error:
        raise CheckpointError("is damaged: it says it is a direction and holds none.") from error


def _flattened(root: Any, others: dict[str, str], prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return the floating-point tensors of a torch file by name, and note the types of its `others`.

    Names of nested dictionaries are joined with a slash.
    """
    if isinstance(root, NumpyArray):
        root = root.tensor
    if isinstance(root, TensorRef):
        if not root.dtype.is_floating_point:
            others[prefix] = str(root.dtype)
            return {}
        if math.prod(root.shape) > LARGEST_ARRAY:
            raise CheckpointError(f"holds a tensor of type {root.dtype} and shape {list(root.shape)}.")
        return {prefix: root.read()}
    if not isinstance(root, dict) or depth > 2:
        return {}
    found: dict[str, Tensor] = {}
    for key, value in root.items():
        if type(key) is str:
            found.update(_flattened(value, others, f"{prefix}/{key}" if prefix else key, depth + 1))
        if len(found) + len(others) > MOST_ARRAYS:
            raise CheckpointError(f"holds more than {MOST_ARRAYS} tensors; files of directions hold fewer.")
    return found
