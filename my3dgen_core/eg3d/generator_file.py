"""Reader of generator files of every supported format, which are parsed as data and never executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.errors import CheckpointError
from ..formats.file_kinds import describe_safetensors, describe_weights
from ..formats.pickle_values import Record, TensorRef
from ..formats.safetensors_file import is_safetensors, read_safetensors
from ..formats.torch_archive import opened
from .config import GeneratorConfig
from .generator import Generator
from .layers import fir_kernel
from .official_pickle import (
    empty_generator,
    find_generator,
    mismatch,
    module_config,
    module_state,
    our_config,
    sidecar_config,
)

LONGEST_HEADER = 16 << 20
"""Maximum length of a safetensors header, in bytes."""


@dataclass(frozen=True)
class Contents:
    """Contents of a generator file, as data."""

    state: dict[str, TensorRef] | dict[str, Tensor]
    """Tensors by their names in the file; those of pickles are not read yet."""
    config: GeneratorConfig | None
    """Configuration in the file; None for a bare state dict, whose configuration is in a sidecar file."""
    record: Record | None = None
    """Module that the tensors belong to, if the file holds one."""


@contextmanager
def open_generator(file: Path) -> Iterator[Contents]:
    """Open a generator file. Tensors of pickles are read on request, inside the `with` block only.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file cannot be used. The file's name is put before the message, also of errors of
            this type that are raised inside the block.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no generator at {file}. Check the path, or use 'starter'.")
    try:
        if is_safetensors(file):
            yield _read_safetensors(file)
            return
        with opened(file) as root:
            generator = find_generator(root)
            record = generator if isinstance(generator, Record) else None
            state = generator if isinstance(generator, dict) else module_state(generator)
            if project := describe_weights(state):
                raise CheckpointError(f"is {project}, not an EG3D generator.")
            yield Contents(state, None if record is None else module_config(record), record)
    except CheckpointError as error:
        raise CheckpointError(f"{file.name} {error}") from error


def build_generator(
    file: Path,
    config: GeneratorConfig | None,
    state: Mapping[str, TensorRef] | Mapping[str, Tensor],
    device: str | torch.device = "cpu",
) -> Generator:
    """Build a generator from the tensors of a file; names and shapes are checked before anything is read.

    Args:
        file: path of the file, for its sidecar configuration.
        config: configuration in the file; None: from the sidecar, see `sidecar_config`.
        state: tensors by name.
        device: device of the generator.

    Returns:
        frozen generator in evaluation mode, float32.

    Raises:
        CheckpointError: no configuration, or tensors that do not fit it or cannot be used.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    generator = empty_generator(config or sidecar_config(file, shapes))
    expected = generator.state_dict()
    if problem := mismatch(expected, shapes):
        raise CheckpointError(problem)
    generator.load_state_dict({key: read_weight(key, state[key], device) for key in expected}, assign=True)
    return generator.train(False).requires_grad_(False)


def read_weight(key: str, value: TensorRef | Tensor, device: str | torch.device = "cpu") -> Tensor:
    """Read one weight as float32.

    Args:
        key: state-dict key, for messages.
        value: tensor, or reference to one that has not been read.
        device: device of the result.

    Raises:
        CheckpointError: not a floating-point tensor, NaN or infinite numbers, or a low-pass filter other than
            EG3D's.
    """
    if not value.dtype.is_floating_point:
        raise CheckpointError(f"holds {key} as {value.dtype}; weights are floating-point numbers.")
    tensor = value.read() if isinstance(value, TensorRef) else value
    tensor = tensor.to(torch.float32)
    # A finite sum proves that all numbers are finite; another one may also come from an overflow.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"holds NaN or infinite numbers in {key}. It is damaged.")
    if key.endswith(".resample_filter") and not torch.allclose(tensor, fir_kernel().to(tensor.device)):
        raise CheckpointError(f"resamples with another filter than EG3D's ({key}), which is not supported.")
    return tensor.to(device)


def _read_safetensors(file: Path) -> Contents:
    """Read a safetensors file, metadata checked first.

    Raises:
        CheckpointError: the file is damaged, or not a generator.
    """
    with file.open("rb") as stream:
        if int.from_bytes(stream.read(8), "little") > LONGEST_HEADER:
            raise CheckpointError("announces a header longer than any generator's. It is damaged.")

    def check(metadata: Mapping[str, str], names: list[str]) -> None:
        ours = metadata.get("format") == "my3dgen.generator"
        if not ours and (what := describe_safetensors(metadata, names, "an EG3D generator")):
            raise CheckpointError(what)
        config = our_config(metadata["config"]) if "config" in metadata else None
        if config is None and (metadata.get("format") or not file.with_suffix(".json").is_file()):
            raise CheckpointError(
                "is not a generator of this pack: it has no configuration. Put one beside it "
                "(docs/checkpoints.md in the repository), or bring the .pkl it was made of."
            )

    try:
        state, metadata = read_safetensors(file, check)
        return Contents(state, our_config(metadata["config"]) if "config" in metadata else None)
    except SafetensorError as error:
        raise CheckpointError(f"cannot be read as a generator: {error}.") from error
