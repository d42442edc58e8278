"""Reading and writing generators. Nothing here ever runs what a file contains."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from .camera import ViewRange
from .eg3d import Generator
from .eg3d.generator_file import build_generator, open_generator
from .formats.safetensors_file import sha256, write_safetensors
from .person.adapter import Adapter
from .person.apply import merged_state_dict
from .person.my3dgen_snapshot import read_base

STARTER = "starter"
STARTER_VIEWS = ViewRange(yaw=64.0, pitch=28.0)
"""Of its last stage of training, which saw fewer sides than those before (see its card)."""
FORMAT = "my3dgen.generator"


def starter_path() -> Path:
    """Where the bundled starter generator lies."""
    return Path(str(resources.files(__package__) / "starter" / "starter.safetensors"))


def load_generator(path: str | os.PathLike[str] = STARTER, device: str | torch.device = "cpu") -> Generator:
    """Reads a generator, frozen and in evaluation mode, as float32.

    Args:
        path: "starter" for the bundled one; a .safetensors file of `save_generator`; NVIDIA's .pkl or a
            fine-tune of it; a file of torch.save with a module or a state dict. What is in the file
            decides, not its name. A My3DGen snapshot gives its base generator (see
            `split_snapshot`).
        device: where its parameters go.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a generator, or one this version cannot read. Nothing is written in any case.
    """
    file = starter_path() if str(path) == STARTER else Path(path)
    with open_generator(file) as found:
        if any(key.endswith(".lora_A") for key in found.state):
            return read_base(file, found, device)
        generator = build_generator(file, found.config, found.state, device)
    if file == starter_path():  # by its name or, as the node does, by its path
        generator.trained_views = STARTER_VIEWS
    return generator


def save_generator(
    generator: Generator,
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    *,
    adapter: Adapter | None = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Writes a generator with its configuration as safetensors, atomically.

    Args:
        generator: what to write.
        path: a .safetensors file.
        dtype: float32, or float16 for half the size.
        adapter: merged into the weights: the file is then the person's own generator.
        provenance: plain values, written into the metadata as they are.
    """
    tensors = generator.state_dict() if adapter is None else merged_state_dict(generator, adapter)
    state = {key: value.detach().to("cpu", dtype) for key, value in tensors.items()}
    metadata = {"format": FORMAT, "config": json.dumps(generator.config.to_dict())}
    if provenance:
        metadata["provenance"] = json.dumps(provenance)
    write_safetensors(state, path, metadata)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> Generator:
    """Writes any generator that `load_generator` reads as safetensors: it loads faster and is no pickle.

    The metadata names the source, its SHA-256 and the generator's base hash.

    Args:
        source: what `load_generator` takes.
        target: the .safetensors file to write.
        dtype: float32 keeps every bit, float16 halves the file (and makes another base hash).
        overwrite: whether `target` may exist.

    Returns:
        The generator as it was read.

    Raises:
        FileExistsError: `target` exists.
        CheckpointError: `source` cannot be read. Nothing has been written then.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"Converted generators are .safetensors files, but {target.name} was asked for.")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already. Choose another name, or allow overwriting.")
    generator = load_generator(source)
    file = starter_path() if str(source) == STARTER else Path(source)
    provenance = {"source": file.name, "source_sha256": sha256(file), "base_hash": generator.base_hash()}
    save_generator(generator, target, dtype, provenance=provenance)
    return generator
