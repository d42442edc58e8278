"""Reading and writing generators. Nothing here ever runs what a file contains."""

from __future__ import annotations

import json
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .eg3d import Generator, GeneratorConfig

STARTER = "starter"
FORMAT = "my3dgen.generator"


class CheckpointError(ValueError):
    """The file cannot be used; the message says why and what to do."""


def starter_path() -> Path:
    """Where the bundled starter generator lies."""
    return Path(str(resources.files(__package__) / "starter" / "starter.safetensors"))


def load_generator(path: str | os.PathLike[str] = STARTER, device: str | torch.device = "cpu") -> Generator:
    """Reads a generator, frozen and in evaluation mode, as float32.

    Args:
        path: "starter" for the bundled one, or a .safetensors file written by `save_generator`.
        device: where its parameters go.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a generator, or one this version cannot read. Nothing is written in any case.
    """
    file = starter_path() if str(path) == STARTER else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no generator at {file}. Check the path, or use 'starter'.")
    config, state = _read_safetensors(file)
    with torch.device("meta"):
        generator = Generator(config)
    expected = generator.state_dict()
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f"{file.name} does not fit its own configuration: "
            f"missing {missing[:3] or 'nothing'}, unknown {unknown[:3] or 'nothing'}. The file is damaged."
        )
    for key, value in expected.items():
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"{file.name}: {key} has shape {list(state[key].shape)}, "
                f"but its configuration asks for {list(value.shape)}. The file is damaged."
            )
    generator.load_state_dict(
        {key: value.to(device, torch.float32) for key, value in state.items()}, assign=True
    )
    return generator.eval().requires_grad_(False)


def _read_safetensors(file: Path) -> tuple[GeneratorConfig, dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if "config" not in metadata:
                raise CheckpointError(
                    f"{file.name} is not a generator of this pack: it has no configuration. "
                    "Identities are loaded by LoadIdentity, generators are written by save_generator."
                )
            config = GeneratorConfig.from_dict(json.loads(metadata["config"]))
            return config, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(f"{file.name} cannot be read as a generator: {error}.") from error


def save_generator(
    generator: Generator, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> None:
    """Writes a generator with its configuration as safetensors, atomically."""
    state = {key: value.detach().to("cpu", dtype) for key, value in generator.state_dict().items()}
    write_safetensors(state, path, {"format": FORMAT, "config": json.dumps(generator.config.to_dict())})


def write_safetensors(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, Any]
) -> None:
    """Writes tensors and string metadata; a reader never sees half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, name, metadata)
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
