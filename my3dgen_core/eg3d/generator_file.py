"""Reading the file of a generator, whatever its format, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.errors import CheckpointError
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


@dataclass(frozen=True)
class Contents:
    """What a file of a generator holds, as data.

    state: tensors by the name they have in the file, read or not yet. config: None until a bare state dict's
    sidecar has been looked for. record: the module they come from, if the file holds one.
    """

    state: dict[str, TensorRef] | dict[str, Tensor]
    config: GeneratorConfig | None
    record: Record | None = None


@contextmanager
def open_generator(file: Path) -> Iterator[Contents]:
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


def build_generator(
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
    generator.load_state_dict({key: read_weight(key, state[key], device) for key in expected}, assign=True)
    return generator.eval().requires_grad_(False)


def read_weight(key: str, value: TensorRef | Tensor, device: str | torch.device = "cpu") -> Tensor:
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


def _read_safetensors(file: Path) -> Contents:
    with file.open("rb") as stream:
        if int.from_bytes(stream.read(8), "little") > LONGEST_HEADER:
            raise CheckpointError("announces a header longer than any generator's. It is damaged or hostile.")

    def check(metadata: Mapping[str, str], _: list[str]) -> None:
        config = our_config(metadata["config"]) if "config" in metadata else None
        if config is None and (metadata.get("format") or not file.with_suffix(".json").is_file()):
            raise CheckpointError(
                "is not a generator of this pack: it has no configuration. "
                "Identities are loaded by LoadIdentity, generators are written by save_generator."
            )

    try:
        state, metadata = read_safetensors(file, check)
        return Contents(state, our_config(metadata["config"]) if "config" in metadata else None)
    except SafetensorError as error:
        raise CheckpointError(f"cannot be read as a generator: {error}.") from error
