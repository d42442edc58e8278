"""A My3DGen snapshot, taken apart: the base generator and the person.

The authors' fine-tunes wrap every adapted layer, so that names get segments in between, and keep the low-rank
tensors as `lora_A` (ours: lora_down) and `lora_B` (lora_up). They train biases, noise strengths and the
constant input too, in place: what these were before is known only from the copies of the wrapped modules
that the wrappers' init arguments hold, or from the base generator itself. A copy counts only if its frozen
weights are those in use, bit for bit; without any the base keeps the trained values, and base + identity is
the person all the same.
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
_BUFFERS = ("noise_const", "resample_filter", "w_avg")
_MOST_COPIES = 1000


def is_snapshot(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds low-rank updates beside a generator."""
    with open_generator(Path(path)) as found:
        return any(key.endswith(".lora_A") for key in found.state)


@dataclass(frozen=True)
class Snapshot:
    """A My3DGen snapshot, split: the base generator and what the person's training changed.

    provenance: the file, its SHA-256, and where the pretrained biases come from.
    """

    generator: Generator
    adapter: Adapter
    provenance: dict[str, Any]


def read_base(file: Path, found: Contents, device: str | torch.device = "cpu") -> Generator:
    """The base generator of a snapshot that is open."""
    _, live, before, _ = _sorted_tensors(found, None)
    return build_generator(file, found.config, {**live, **before}, device)


def read_snapshot(file: Path, found: Contents, base: Generator | None = None) -> Snapshot:
    """Base generator and adapter of a snapshot that is open; see `identity.split_snapshot`."""
    low_rank, live, before, where = _sorted_tensors(found, base)
    generator = build_generator(file, found.config or (base.config if base else None), {**live, **before})
    adapter = _adapter(generator, low_rank, _scalings(found.record))
    for name in sorted(before):
        trained = read_weight(name, live[name]) - read_weight(name, before[name])
        if name.rpartition(".")[2] not in _BUFFERS and bool(trained.any()):
            adapter.tensors[name + DIFF] = trained
    provenance = {"source": file.name, "source_sha256": sha256(file), "pretrained_biases": where}
    return Snapshot(generator, adapter, provenance)


def _sorted_tensors(
    found: Contents, base: Generator | None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """Tensors by official names: low-rank ones, those in use, those before the person's training; and where
    the last come from."""
    live: dict[str, Any] = {}
    for key, value in found.state.items():
        name = base_name(key)
        if name in live:
            raise CheckpointError(f"holds {quote_untrusted(name)} twice under different names.")
        live[name] = value
    low_rank = {key: live.pop(key) for key in list(live) if key.endswith((".lora_A", ".lora_B"))}
    if not low_rank:
        raise CheckpointError("holds no low-rank update: it is a generator, not a My3DGen snapshot.")
    before, where = _before(found, live, base)
    return low_rank, live, before, where


def base_name(key: str) -> str:
    """The official name of a tensor in a wrapped generator; official names stay as they are."""
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    if parts[:3] == ["backbone", "synthesis", "synthesis"]:
        del parts[2]
    return ".".join(parts)


def _before(found: Contents, live: State, base: Generator | None) -> tuple[dict[str, Any], str]:
    """Tensors as they were before the person's training, and in words where they come from."""
    if base is not None:
        state = base.state_dict()
        if set(state) != set(live):
            raise CheckpointError(
                "was not fine-tuned from the base generator given: the layers are other ones."
            )
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
    """State dicts, by official names, of the modules that modules were made of; the largest come first.

    Only the arguments themselves are looked at, never those of the copies.
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
    """alpha / rank of each adapted module, as its wrapper recorded it."""
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
    return float(value) if type(value) in (int, float) and abs(value) < 1e6 else None  # type: ignore[arg-type]


def _adapter(generator: Generator, low_rank: State, scalings: Mapping[str, float]) -> Adapter:
    """Our adapter of the authors' tensors; their rank r is r * k rows for a k x k kernel.

    The scaling is what most wrappers say, or 1 / r (alpha 1) as in the released settings where none does; a
    module with another one gets the difference multiplied into its tensors.
    """
    known = adapted_modules(generator)
    names = {key.rpartition(".")[0] for key in low_rank}
    if unknown := sorted(names - set(known)):
        raise CheckpointError(f"adapts {quote_untrusted(unknown[0])}, which the generator has not.")
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
