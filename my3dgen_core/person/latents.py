"""Latents with what belongs to them."""

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
from ..formats.safetensors_file import is_safetensors, read_safetensors, write_safetensors


@dataclass(frozen=True)
class Latents:
    """N latents: ws [N, num_ws, w_dim]; the rest is None where unknown.

    cameras [N, 25]; losses [N] (the objective at the end of an inversion); alphas [N, anchors];
    base_hash: `Generator.base_hash()` of the generator they belong to.
    """

    ws: Tensor
    cameras: Tensor | None = None
    losses: Tensor | None = None
    alphas: Tensor | None = None
    base_hash: str | None = None

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
        """The mean latent [1, num_ws, w_dim]: the person without any one photo's expression."""
        return self.ws.mean(dim=0, keepdim=True)

    def to(self, device: torch.device | str) -> Latents:
        """The same on another device."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        moved = move(self.cameras), move(self.losses), move(self.alphas)
        return Latents(self.ws.to(device), *moved, self.base_hash)


FORMAT = "my3dgen.latents"


FIELDS = ("ws", "cameras", "losses", "alphas")


def save_latents(latents: Latents, path: str | os.PathLike[str]) -> None:
    """Writes a .safetensors file, atomically; `load_latents` gives the same back bit for bit."""
    values = ((name, getattr(latents, name)) for name in FIELDS)
    tensors = {name: value.detach().cpu() for name, value in values if value is not None}
    metadata = {"format": FORMAT}
    if latents.base_hash is not None:
        metadata["base_hash"] = latents.base_hash
    write_safetensors(tensors, path, metadata)


def load_latents(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Latents:
    """Reads a file of `save_latents`.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a file of latents, or a damaged one.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There are no latents at {file}.")
    if not is_safetensors(file):
        raise CheckpointError(f"{file.name} is no .safetensors file. Latents are written by Save Latents.")

    def check(metadata: Mapping[str, str], _: list[str]) -> None:
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{file.name} is not a file of latents of this pack.")

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
            raise CheckpointError(f"{file.name} is damaged: {name} is not one finite row a latent.")
        tensors[name] = value.to(device)
    try:
        return Latents(**tensors, base_hash=metadata.get("base_hash"))
    except ValueError as error:
        raise CheckpointError(f"{file.name} is damaged: {error}") from error
