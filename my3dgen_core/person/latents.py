"""Latents with their cameras and other data, and their files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..camera import check_cameras
from ..common.errors import CheckpointError
from ..formats.file_kinds import describe_file, describe_safetensors
from ..formats.safetensors_file import is_safetensors, read_safetensors, write_safetensors

FORMAT = "my3dgen.latents"
EXACT, ESTIMATED = "exact", "estimated"
"""Sources of cameras: chosen or recorded with the picture, or estimated from it."""
FIELDS = ("ws", "cameras", "losses", "alphas")
"""Fields of `Latents` that are tensors of the file, under these names."""


@dataclass(frozen=True)
class Latents:
    """N latents with their cameras. All fields but `ws` are None where unknown.

    The field names are the tensor and metadata names of latents files: renaming one breaks saved files.
    """

    ws: Tensor
    """[N, num_ws, w_dim]."""
    cameras: Tensor | None = None
    """[N, 25], the cameras of the photos."""
    losses: Tensor | None = None
    """[N], the objective at the end of an inversion."""
    alphas: Tensor | None = None
    """[N, anchors], weights over the anchors of an alpha space."""
    base_hash: str | None = None
    """`Generator.base_hash()` of the generator that they belong to."""
    camera_source: str | None = None
    """"exact" or "estimated": where the cameras come from, which decides what `Recipe` refines."""

    def __post_init__(self) -> None:
        if self.ws.ndim != 3:
            raise ValueError(f"Latents must have shape [N, num_ws, w_dim], not {list(self.ws.shape)}.")
        if self.cameras is not None:
            check_cameras(self.cameras)
            if len(self.cameras) != len(self.ws):
                raise ValueError(
                    f"There are {len(self.ws)} latents but {len(self.cameras)} cameras. "
                    "Each latent needs the camera of its own photo."
                )

    def __len__(self) -> int:
        return len(self.ws)

    def mean(self) -> Tensor:
        """Return the mean latent [1, num_ws, w_dim], in which single photos' expressions average out.

        Raises:
            ValueError: there are no latents.
        """
        check_not_empty(self)
        return self.ws.mean(dim=0, keepdim=True)

    def to(self, device: torch.device | str) -> Latents:
        """Return the latents on another device."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        moved = move(self.cameras), move(self.losses), move(self.alphas)
        return Latents(self.ws.to(device), *moved, self.base_hash, self.camera_source)


def check_not_empty(latents: Latents) -> None:
    """Raise a ValueError if there are no latents, as in an identity from a snapshot without anchors."""
    if len(latents) == 0:
        raise ValueError(
            "There are 0 latents, so none can be chosen, mixed or averaged. The identity has no anchors, as "
            "My3DGen snapshots without a list of them: connect latents of Invert Photos or Random Latents "
            "instead."
        )


def save_latents(latents: Latents, path: str | os.PathLike[str]) -> None:
    """Write latents to a .safetensors file, atomically; `load_latents` restores them bit for bit.

    Args:
        latents: the latents to write.
        path: the .safetensors file.
    """
    values = ((name, getattr(latents, name)) for name in FIELDS)
    tensors = {name: value.detach().cpu() for name, value in values if value is not None}
    metadata = {"format": FORMAT}
    if latents.base_hash is not None:
        metadata["base_hash"] = latents.base_hash
    if latents.camera_source is not None:
        metadata["camera_source"] = latents.camera_source
    write_safetensors(tensors, path, metadata)


def load_latents(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Latents:
    """Load latents from a file of `save_latents`.

    Args:
        path: the .safetensors file.
        device: device of the tensors.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a latents file, or a damaged one.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There are no latents at {file}.")
    if not is_safetensors(file):
        what = describe_file(file) or "is no .safetensors file. Latents are written by Save Latents."
        raise CheckpointError(f"{file.name} {what}")

    def check(metadata: Mapping[str, str], names: list[str]) -> None:
        if metadata.get("format") != FORMAT:
            what = (
                describe_safetensors(metadata, names, "latents") or "is not a file of latents of this pack."
            )
            raise CheckpointError(f"{file.name} {what}")

    try:
        tensors, metadata = read_safetensors(file, check)
    except SafetensorError as error:
        raise CheckpointError(f"{file.name} cannot be read as latents: {error}.") from error
    if "ws" not in tensors or set(tensors) - set(FIELDS):
        raise CheckpointError(f"{file.name} is damaged: it holds {', '.join(sorted(tensors))}.")
    count = len(tensors["ws"]) if tensors["ws"].ndim else 0
    for name, value in tensors.items():
        whole = value.ndim > 0 and len(value) == count and value.dtype.is_floating_point
        if not whole or not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{file.name} is damaged: {name} does not hold one finite row per latent.")
        tensors[name] = value.to(device)
    try:
        source = metadata.get("camera_source")
        known = source if source in (EXACT, ESTIMATED) else None
        return Latents(**tensors, base_hash=metadata.get("base_hash"), camera_source=known)
    except ValueError as error:
        raise CheckpointError(f"{file.name} is damaged: {error}") from error
