"""Reader of EG3D's dataset.json (cameras) and of the authors' latents (.npy, .pt; one per photo)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from ..camera import check_cameras
from ..common.errors import CheckpointError, quote_untrusted
from ..common.folders import files_below
from ..formats.npy_file import MAGIC, read_npy
from ..formats.pickle_values import TensorRef
from ..formats.torch_archive import opened
from .latents import Latents

LATENTS = (".npy", ".pt", ".pth")
"""Endings of files that hold latents."""
_LARGEST_LABELS = 256 << 20  # bytes
_LARGEST_LATENTS = 64 << 20  # numbers


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
    """Read the latents of a .npy or .pt file; nothing in it is executed.

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
    """Read the latents of a folder with their cameras, for use as anchors.

    Args:
        latents: folder of .npy or .pt files, one per photo, read in the order of their names; a file may hold
            several latents of its photo.
        labels: dataset.json with the cameras under the photos' names; None: the one in the folder, if any.
        num_ws: number of layers to which a single w is repeated; None: not repeated.

    Returns:
        Latents [N, num_ws, w_dim] with their cameras; without cameras if there are no labels.

    Raises:
        FileNotFoundError: no latents, or no such labels.
        CheckpointError: a file that cannot be read, latents of different shapes, or one without a camera.
    """
    folder = Path(latents)
    files = sorted(file for file in files_below(folder) if file.suffix in LATENTS)
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
    """Return the name of a latent's photo: its own, or its folder's (`photo/latent.pt`); None if unknown."""
    names = [file.stem] + [part.name for part in file.parents if part != folder and folder in part.parents]
    return next((name for name in names if name in known), None)
