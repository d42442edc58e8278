"""Reading and writing generators. Nothing here ever runs what a file contains."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .camera.pose import ViewRange
from .common.errors import CheckpointError
from .eg3d import Generator, GeneratorConfig
from .eg3d.layers import fir_kernel
from .eg3d.official_pickle import (
    empty_generator,
    find_generator,
    mismatch,
    module_config,
    module_state,
    our_config,
    sidecar_config,
)
from .formats.pickle_values import Record, TensorRef
from .formats.torch_archive import opened
from .person.adapter import Adapter, merged

STARTER = "starter"
STARTER_VIEWS = ViewRange(yaw=64.0, pitch=28.0)
"""Of its last stage of training, which saw fewer sides than those before (see its card)."""
FORMAT = "my3dgen.generator"
LONGEST_HEADER = 16 << 20


@dataclass(frozen=True)
class Contents:
    """What a file of a generator holds, as data.

    state: tensors by the name they have in the file, read or not yet. config: None until a bare state dict's
    sidecar has been looked for. record: the module they come from, if the file holds one.
    """

    state: dict[str, TensorRef] | dict[str, Tensor]
    config: GeneratorConfig | None
    record: Record | None = None


def starter_path() -> Path:
    """Where the bundled starter generator lies."""
    return Path(str(resources.files(__package__) / "starter" / "starter.safetensors"))


def load_generator(path: str | os.PathLike[str] = STARTER, device: str | torch.device = "cpu") -> Generator:
    """Reads a generator, frozen and in evaluation mode, as float32.

    Args:
        path: "starter" for the bundled one; a .safetensors file of `save_generator`; NVIDIA's .pkl or a
            fine-tune of it; a file of torch.save with a module or a state dict. What is in the file
            decides, not its name. A My3DGen snapshot gives its base generator (see
            `snapshot.split_snapshot`).
        device: where its parameters go.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a generator, or one this version cannot read. Nothing is written in any case.
    """
    file = starter_path() if str(path) == STARTER else Path(path)
    with contents(file) as found:
        if any(key.endswith(".lora_A") for key in found.state):
            from .person.my3dgen_snapshot import (
                base_and_identity,  # built on this module; only here it is the reverse
            )

            return base_and_identity(file, found, device=device)[0]
        generator = build(file, found.config, found.state, device)
    if file == starter_path():  # by its name or, as the node does, by its path
        generator.trained_views = STARTER_VIEWS
    return generator


@contextmanager
def contents(file: Path) -> Iterator[Contents]:
    """What `file` holds. Tensors of pickles are read within the block, each when it is asked for.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file cannot be used. Errors of this kind in the block get the file's name too.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no generator at {file}. Check the path, or use 'starter'.")
    try:
        if is_safetensors(file):
            yield _read_safetensors(file)
            return
        with opened(file) as root:
            generator = find_generator(root)
            if isinstance(generator, Record):
                yield Contents(module_state(generator), module_config(generator), generator)
            else:
                yield Contents(generator, None)
    except CheckpointError as error:
        raise CheckpointError(f"{file.name} {error}") from error


def build(
    file: Path,
    config: GeneratorConfig | None,
    state: Mapping[str, TensorRef] | Mapping[str, Tensor],
    device: str | torch.device = "cpu",
) -> Generator:
    """The generator of these tensors, each checked against the configuration before it is read."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    generator = empty_generator(config or sidecar_config(file, shapes))
    expected = generator.state_dict()
    if problem := mismatch(expected, shapes):
        raise CheckpointError(problem)
    generator.load_state_dict({key: read(key, state[key], device) for key in expected}, assign=True)
    return generator.eval().requires_grad_(False)


def read(key: str, value: TensorRef | Tensor, device: str | torch.device = "cpu") -> Tensor:
    """A weight as float32 on the device.

    Raises:
        CheckpointError: it is no floating-point tensor, holds NaN or infinite numbers, or is another
            low-pass filter than the one every EG3D has.
    """
    if not value.dtype.is_floating_point:
        raise CheckpointError(f"holds {key} as {value.dtype}; weights are floating-point numbers.")
    tensor = value.read() if isinstance(value, TensorRef) else value
    tensor = tensor.to(torch.float32)
    # The sum is finite unless a number is not, or unless it overflows: only then look at every one.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"holds NaN or infinite numbers in {key}. It is damaged.")
    if key.endswith(".resample_filter") and not torch.allclose(tensor, fir_kernel().to(tensor.device)):
        raise CheckpointError(f"resamples with another filter than EG3D's ({key}), which is not supported.")
    return tensor.to(device)


def is_safetensors(file: Path) -> bool:
    """By its beginning: the length of a header, and the brace that opens it."""
    with file.open("rb") as stream:
        start = stream.read(9)
    # The header's length may begin like a zip archive or a pickle; neither goes on with these five bytes.
    return len(start) == 9 and start[4:] == b"\0\0\0\0{"


def _read_safetensors(file: Path) -> Contents:
    with file.open("rb") as stream:
        if int.from_bytes(stream.read(8), "little") > LONGEST_HEADER:
            raise CheckpointError("announces a header longer than any generator's. It is damaged or hostile.")
    try:
        with safe_open(file, framework="pt") as opened_file:
            metadata = opened_file.metadata() or {}
            config = our_config(metadata["config"]) if "config" in metadata else None
            if config is None and (metadata.get("format") or not file.with_suffix(".json").is_file()):
                raise CheckpointError(
                    "is not a generator of this pack: it has no configuration. "
                    "Identities are loaded by LoadIdentity, generators are written by save_generator."
                )
            names = list(opened_file.keys())
            return Contents({key: opened_file.get_tensor(key) for key in names}, config)
    except SafetensorError as error:
        raise CheckpointError(f"cannot be read as a generator: {error}.") from error


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
    tensors = generator.state_dict() if adapter is None else merged(generator, adapter)
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


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


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
