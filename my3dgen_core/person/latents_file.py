"""Latents in a file: safetensors with cameras, weights and losses, and the hash of their generator."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..checkpoint import CheckpointError, is_safetensors, write_safetensors
from .latents import Latents

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
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{file.name} is not a file of latents of this pack.")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
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
