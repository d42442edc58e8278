"""Loading, saving and conversion of generators. Nothing from a file is executed."""

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
"""Path under which the bundled starter generator is loaded."""
STARTER_VIEWS = ViewRange(yaw=64.0, pitch=28.0)
"""Views of the starter's last training stage, a narrower range than that of earlier stages (see its card)."""
FORMAT = "my3dgen.generator"


def starter_path() -> Path:
    """Return the path of the bundled starter generator."""
    return Path(str(resources.files(__package__) / "starter" / "starter.safetensors"))


def load_generator(path: str | os.PathLike[str] = STARTER, device: str | torch.device = "cpu") -> Generator:
    """Load a generator, frozen and in evaluation mode, as float32.

    Args:
        path: "starter" for the bundled one; a .safetensors file of `save_generator`; NVIDIA's .pkl or a
            fine-tune of it; a file of torch.save with a module or a state dict. The format is told from the
            content, not from the name. A My3DGen snapshot gives its base generator (see `split_snapshot`).
        device: device of the parameters.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a generator, or one that this version cannot read.
    """
    file = starter_path() if str(path) == STARTER else Path(path)
    with open_generator(file) as found:
        if any(key.endswith(".lora_A") for key in found.state):
            return read_base(file, found, device)
        generator = build_generator(file, found.config, found.state, device)
    if file == starter_path():  # whether given by name or by path
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
    """Write a generator with its configuration to a .safetensors file, atomically.

    Args:
        generator: the generator to write.
        path: the .safetensors file.
        dtype: float32, or float16 for half the size.
        adapter: adapter to merge into the weights, which makes the file a personalized generator; None: none.
        provenance: plain values for JSON, written to the metadata; None: none.

    Raises:
        ValueError: `adapter` belongs to a generator of another shape.
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
    """Convert a generator to safetensors, which loads faster than a pickle and is safe to share.

    The metadata names the source, its SHA-256 and the generator's base hash.

    Args:
        source: as `path` of `load_generator`.
        target: the .safetensors file to write.
        dtype: float32 keeps every bit; float16 halves the file and changes the base hash.
        overwrite: True allows `target` to exist.

    Returns:
        The generator as it was read.

    Raises:
        FileNotFoundError: `source` does not exist.
        FileExistsError: `target` exists.
        ValueError: `target` is not a .safetensors file.
        CheckpointError: `source` cannot be read. Nothing is written.
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
