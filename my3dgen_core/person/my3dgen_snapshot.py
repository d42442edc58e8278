"""Reader of snapshots of the My3DGen authors' code: base generator and adapter.

Their fine-tunes wrap every adapted layer, which adds segments to the names, and store the low-rank factors
as `lora_A` (here lora_down) and `lora_B` (lora_up). Biases, noise strengths and the constant input are
trained in place. Their pretrained values are known only from copies of the wrapped modules in the wrappers'
init arguments, or from the base generator itself. A copy is used only if its frozen weights equal those in
use bit for bit. Without copies the base keeps the trained values; base and identity together still render
the person.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.errors import CheckpointError, quote_untrusted
from ..eg3d import Generator
from ..eg3d.generator_file import Contents, build_generator, open_generator, read_weight
from ..eg3d.official_pickle import is_module, module_state, modules
from ..formats.pickle_values import Record, TensorRef
from ..formats.safetensors_file import sha256
from .adapter import DIFF, DOWN, UP, Adapter, adapted_modules, affine_gains

State = Mapping[str, TensorRef] | Mapping[str, Tensor]
_WRAPPERS = (
    "synthesis_block",
    "synthesis_layer",
    "to_rgb_layer",
    "fully_connected_layer",
    "superresolution_module",
)
# Buffers are not trained.
_BUFFERS = ("noise_const", "resample_filter", "w_avg")
_MOST_COPIES = 1000


def is_snapshot(path: str | os.PathLike[str]) -> bool:
    """Return whether a file holds low-rank factors beside a generator."""
    with open_generator(Path(path)) as found:
        return any(key.endswith(".lora_A") for key in found.state)


@dataclass(frozen=True)
class Snapshot:
    """Parts of a My3DGen snapshot."""

    generator: Generator
    """The base generator."""
    adapter: Adapter
    """Everything that the training of the person changed."""
    provenance: dict[str, Any]
    """Name and SHA-256 of the file, and the origin of the pretrained biases."""


def read_base(file: Path, found: Contents, device: str | torch.device = "cpu") -> Generator:
    """Build the base generator of an open snapshot."""
    _, live, before, _ = _split_tensors(found, None)
    return build_generator(file, found.config, {**live, **before}, device)


def read_snapshot(file: Path, found: Contents, base: Generator | None = None) -> Snapshot:
    """Build base generator and adapter of an open snapshot; see `identity.split_snapshot`."""
    low_rank, live, before, where = _split_tensors(found, base)
    generator = build_generator(file, found.config or (base.config if base else None), {**live, **before})
    adapter = _converted_adapter(generator, low_rank, _scalings(found.record))
    for name in sorted(before):
        trained = read_weight(name, live[name]) - read_weight(name, before[name])
        if name.rpartition(".")[2] not in _BUFFERS and bool(trained.any()):
            adapter.tensors[name + DIFF] = trained
    provenance = {"source": file.name, "source_sha256": sha256(file), "pretrained_biases": where}
    return Snapshot(generator, adapter, provenance)


def _split_tensors(
    found: Contents, base: Generator | None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """Return low-rank factors, tensors in use, pretrained tensors (by official names) and origin of the last.

    Names whose pretrained values are unknown are missing among the pretrained tensors.
    """
    live: dict[str, Any] = {}
    for key, value in found.state.items():
        name = base_name(key)
        if name in live:
            raise CheckpointError(f"holds {quote_untrusted(name)} twice under different names.")
        live[name] = value
    low_rank = {key: live.pop(key) for key in list(live) if key.endswith((".lora_A", ".lora_B"))}
    if not low_rank:
        raise CheckpointError("holds no low-rank update: it is a generator, not a My3DGen snapshot.")
    before, where = _pretrained_tensors(found, live, base)
    return low_rank, live, before, where


def base_name(key: str) -> str:
    """Return the official name of a tensor in a wrapped generator; official names are unchanged."""
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    if parts[:3] == ["backbone", "synthesis", "synthesis"]:
        del parts[2]
    return ".".join(parts)


def _pretrained_tensors(found: Contents, live: State, base: Generator | None) -> tuple[dict[str, Any], str]:
    """Return the known tensors from before the training of the person, and a description of their origin."""
    if base is not None:
        state = base.state_dict()
        if set(state) != set(live):
            raise CheckpointError("was not fine-tuned from the base generator given: its layers differ.")
        adapted = {name + ".weight" for name in adapted_modules(base)}
        for key in adapted:
            if not _equal(live[key], state[key]):
                raise CheckpointError(f"was not fine-tuned from the base generator given: {key} differs.")
        return {
            key: value for key, value in state.items() if key not in adapted
        }, "from the base generator given"
    before: dict[str, Any] = {}
    if found.record is not None:
        for copy in _copies(found.record):
            known = {key: value for key, value in copy.items() if key in live}
            weights = [key for key in known if key.endswith(".weight")]
            fresh = {k: v for k, v in known.items() if k not in before and not k.endswith(".weight")}
            if fresh and weights and all(_equal(live[key], known[key]) for key in weights):
                before.update(fresh)
    return before, "from copies in the file" if before else "unknown: the base has the trained ones"


def _copies(root: Record) -> Iterator[dict[str, TensorRef]]:
    """Yield the state dicts, by official names, of modules among the init arguments of other modules.

    Outer modules come first. The arguments of the copies themselves are not searched.
    """
    count = 0
    for name, record in modules(root):
        assert record.state is not None
        arguments = [record.state.get("_init_args"), record.state.get("_init_kwargs")]
        values: list[Any] = []
        for argument in arguments:
            if isinstance(argument, list | tuple):
                values += argument[:100]
            elif isinstance(argument, dict):
                values += list(argument.values())[:100]
        for value in values:
            if is_module(value):
                count += 1
                if count > _MOST_COPIES:
                    raise CheckpointError("holds more copies of modules than any fine-tune.")
                prefix = f"{name}." if name else ""
                yield {base_name(prefix + key): tensor for key, tensor in module_state(value).items()}


def _equal(one: TensorRef | Tensor, other: TensorRef | Tensor) -> bool:
    if tuple(one.shape) != tuple(other.shape) or one.dtype != other.dtype:
        return False
    first, second = (value.read() if isinstance(value, TensorRef) else value.cpu() for value in (one, other))
    return torch.equal(first, second)


def _scalings(root: Record | None) -> dict[str, float]:
    """Return alpha / rank of each adapted module, as recorded by its wrapper."""
    found: dict[str, float] = {}
    if root is None:
        return found
    for name, record in modules(root):
        assert record.state is not None
        if "lora_A" not in record.state["_parameters"]:
            continue
        attributes = record.state
        if attributes.get("merged") is True:
            raise CheckpointError(
                "holds weights into which the update is merged already. Save it in training mode."
            )
        scaling, alpha, rank = (_number(attributes.get(key)) for key in ("scaling", "lora_alpha", "r"))
        if scaling is None and alpha is not None and rank:
            scaling = alpha / rank
        if scaling is not None:
            found[base_name(f"{name}.lora_A").removesuffix(".lora_A")] = scaling
    return found


def _number(value: object) -> float | None:
    """Return a plain number as float; None for anything else."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e6 else None  # type: ignore[arg-type]


def _converted_adapter(generator: Generator, low_rank: State, scalings: Mapping[str, float]) -> Adapter:
    """Convert the authors' low-rank factors; their rank r means r * k rows for a k x k kernel.

    The scaling is the most frequent one of the wrappers, or 1 / r (alpha 1, the released settings) where they
    record none. Modules with another scaling get the ratio multiplied into their tensors.
    """
    known = adapted_modules(generator)
    names = {key.rpartition(".")[0] for key in low_rank}
    if unknown := sorted(names - set(known)):
        raise CheckpointError(f"adapts {quote_untrusted(unknown[0])}, which the generator does not have.")
    ranks = set()
    tensors: dict[str, Tensor] = {}
    for name in sorted(names):
        if f"{name}.lora_A" not in low_rank or f"{name}.lora_B" not in low_rank:
            raise CheckpointError(f"holds only one half of the update of {quote_untrusted(name)}.")
        weight = known[name].weight
        assert isinstance(weight, Tensor)
        kernel = weight.shape[-1] if weight.ndim == 4 else 1
        down, up = (low_rank[f"{name}.{half}"] for half in ("lora_A", "lora_B"))
        rows = down.shape[0] if len(down.shape) == 2 else 0
        if not rows or rows % kernel or tuple(down.shape) != (rows, weight[0].numel()):
            raise CheckpointError(
                f"holds an update of {quote_untrusted(name)} of shape {list(down.shape)}, which does not fit."
            )
        if tuple(up.shape) != (weight.shape[0], rows):
            raise CheckpointError(
                f"holds an update of {quote_untrusted(name)} of shape {list(up.shape)}, which does not fit."
            )
        ranks.add(rows // kernel)
        tensors[name + DOWN], tensors[name + UP] = read_weight(name, down), read_weight(name, up)
    if len(ranks) != 1:
        raise CheckpointError(f"holds updates of several ranks: {sorted(ranks)[:5]}.")
    rank = ranks.pop()
    values = [scalings.get(name, 1 / rank) for name in sorted(names)]
    scaling = max(set(values), key=values.count)
    for name, value in zip(sorted(names), values, strict=True):
        if value != scaling:
            tensors[name + UP] = tensors[name + UP] * (value / scaling if scaling else 0)
    return Adapter(tensors, rank, "released", scaling, affine_gains(generator))
