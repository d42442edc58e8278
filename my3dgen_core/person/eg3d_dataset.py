"""The authors' side files: EG3D's dataset.json (cameras) and one latent a photo (.npy, .pt), as anchors."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from ..camera import check_cameras
from ..common.errors import CheckpointError, quote_untrusted
from ..formats.npy_file import MAGIC, read_npy
from ..formats.pickle_values import TensorRef
from ..formats.torch_archive import opened
from .latents import Latents

LATENTS = (".npy", ".pt", ".pth")
_LARGEST_LABELS = 256 << 20  # bytes
_LARGEST_LATENTS = 64 << 20  # numbers


def read_labels(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The cameras of a dataset.json: picture's name in the file -> [25] float32.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a dataset.json with 25 numbers a picture.
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
    """A latent of a .npy or .pt file as float32 [N, 1 or num_ws, w_dim]; a single w is one row.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a tensor or an array of plain numbers, or of another shape. Nothing in it is
            executed.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            start = stream.read(6)
        latent = _read_npy(file) if start == MAGIC else _read_tensor(file)
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


def _read_tensor(file: Path) -> Tensor:
    with opened(file) as root:
        for name in ("w", "ws", "latent", "latents", "w_pivot"):
            if type(root) is dict and name in root:
                root = root[name]
        if type(root) is not TensorRef:
            raise CheckpointError(f"holds {quote_untrusted(root)}, not one tensor.")
        return root.read()


def read_anchors(
    latents: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None, num_ws: int | None = None
) -> Latents:
    """The latents of a folder, in the order of their names, with the cameras of the same names.

    Args:
        latents: a folder of .npy or .pt files, one a photo (or several rows of one photo).
        labels: the dataset.json; None: the folder's own, if there is one.
        num_ws: layers to repeat a single w for; None: as they are.

    Raises:
        FileNotFoundError: no latents, or no such labels.
        CheckpointError: a file that cannot be read, latents of different shapes, or one without its camera.
    """
    folder = Path(latents)
    files = sorted(file for file in folder.rglob("*") if file.suffix in LATENTS)
    if not files:
        raise FileNotFoundError(f"There are no latents (.npy, .pt) in {folder}.")
    if labels is None and (folder / "dataset.json").is_file():
        labels = folder / "dataset.json"
    rows = [read_latent(file) for file in files]
    if num_ws is not None:
        rows = [row.expand(-1, num_ws, -1) if row.shape[1] == 1 else row for row in rows]
    if len({row.shape[1:] for row in rows}) != 1:
        raise CheckpointError(f"The latents in {folder} have different shapes. Are they of one generator?")
    cameras = None
    if labels is not None:
        known = {Path(name).stem: camera for name, camera in read_labels(labels).items()}
        for file in files:
            if _photo(file, folder, known) is None:
                raise CheckpointError(f"{Path(labels).name} has no camera for {file.name}.")
        chosen = [known[str(_photo(file, folder, known))] for file in files]
        cameras = check_cameras(
            torch.cat([camera.expand(len(row), -1) for camera, row in zip(chosen, rows, strict=True)])
        )
    return Latents(torch.cat(rows).contiguous(), cameras)


def _photo(file: Path, folder: Path, known: dict[str, Tensor]) -> str | None:
    """The photo a latent belongs to: of its own name, or of its folder's (`photo/latent.pt`)."""
    names = [file.stem] + [part.name for part in file.parents if part != folder and folder in part.parents]
    return next((name for name in names if name in known), None)
