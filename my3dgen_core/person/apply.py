"""Context managers that apply identities to a generator.

The generator's own parameters are never written to: inside the block other tensors are used in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from torch import Tensor

from ..eg3d import Generator
from ..eg3d.fused_layers import LowRank
from ..eg3d.layers import SynthesisLayer
from .adapter import DOWN, UP, Adapter
from .identity import Identity

IdentityOrAdapter: TypeAlias = Identity | Adapter


@contextmanager
def replace_parameters(generator: Generator, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Use `tensors` in place of the generator's parameters of those names inside the `with` block.

    The parameters are never written to, and are restored after the block, also after an exception.
    Gradients flow into `tensors`. It does for several calls of the generator's methods what
    torch.func.functional_call does for one call of `forward`.
    """
    places = []
    for name in tensors:
        owner, _, leaf = name.rpartition(".")
        places.append((generator.get_submodule(owner), leaf))
    kept = [module._parameters[leaf] for module, leaf in places]
    outer = generator.replaced
    try:
        # names that an enclosing block has replaced keep the parameters recorded there
        generator.replaced = {**dict(zip(tensors, kept, strict=True)), **outer}  # type: ignore[arg-type]
        for (module, leaf), tensor in zip(places, tensors.values(), strict=True):
            # a plain tensor among the parameters, as in torch.func.functional_call
            module._parameters[leaf] = tensor  # type: ignore[assignment]
        yield
    finally:
        for (module, leaf), parameter in zip(places, kept, strict=True):
            module._parameters[leaf] = parameter
        generator.replaced = outer


@contextmanager
def with_trainable_adapter(
    generator: Generator, adapter: Adapter, parameters: Mapping[str, Tensor]
) -> Iterator[None]:
    """Apply an adapter for training inside the `with` block: gradients flow into its tensors.

    Equal to `replace_parameters` with `Adapter.merged_weights`, but the low-rank factors of convolutions
    are kept beside the weights, so that their gradients are computed without those of the full weights,
    which would cost half as much as everything else.

    Args:
        generator: a frozen generator.
        adapter: the adapter to train; its tensors require gradients.
        parameters: base parameters by name.
    """
    layers = {
        name: module
        for name, module in generator.named_modules()
        if isinstance(module, SynthesisLayer) and name + UP in adapter.tensors
    }
    others = {
        key: tensor
        for key, tensor in adapter.tensors.items()
        if key.removesuffix(UP).removesuffix(DOWN) not in layers
    }
    with replace_parameters(
        generator, dataclasses.replace(adapter, tensors=others).merged_weights(parameters)
    ):
        try:
            for name, layer in layers.items():
                up, down = adapter.tensors[name + UP], adapter.tensors[name + DOWN]
                layer.low_rank = LowRank(up * (adapter.scaling * adapter.gains.get(name, 1.0)), down)
            yield
        finally:
            for layer in layers.values():
                layer.low_rank = None


@contextmanager
def personalized(
    generator: Generator,
    identity: IdentityOrAdapter | Sequence[IdentityOrAdapter] | Sequence[Sequence[IdentityOrAdapter]],
    strength: float | Sequence[float] = 1.0,
) -> Iterator[Generator]:
    """Apply one identity, or one for each image of a batch, to the generator inside the `with` block.

    Args:
        generator: a frozen generator; restored bit for bit after the block, also after an exception in it.
        identity: one identity (or adapter), or several whose updates are added. Or a list of such lists,
            one for each image of a batch: `planes`, `render` and `sample` then take batches of that length,
            and every image equals the one that its identities alone would give. The base weights are shared
            and the identities of one image are merged at a time, which bounds the memory.
        strength: factor of each update; 0 is the pretrained generator. One number, or one for each identity
            (for each image, if identities are given by image).

    Yields:
        The generator itself.

    Raises:
        ValueError: an identity of a generator of another shape, or a number of strengths that does not match.
    """
    several = list(identity) if isinstance(identity, Sequence) else [identity]
    strengths = list(strength) if isinstance(strength, Sequence) else [strength] * len(several)
    if len(strengths) != len(several):
        raise ValueError(f"{len(several)} identities need as many strengths, not {len(strengths)}.")
    nested = [isinstance(one, Sequence) for one in several]
    if any(nested):
        if not all(nested):
            raise ValueError("Give identities that add up, or a list of them for every picture; not both.")
        identities = [
            _StackedIdentities(generator, list(stack), factor)  # type: ignore[arg-type]
            for stack, factor in zip(several, strengths, strict=True)
        ]
        outer, generator.batch_identities = generator.batch_identities, identities
        try:
            yield generator
        finally:
            generator.batch_identities = outer
        return
    changed: dict[str, Tensor] = {}
    parameters: dict[str, Tensor] = dict(generator.named_parameters())
    for one, factor in zip(several, strengths, strict=True):
        if factor != 0:
            device = generator.w_avg.device
            adapter = _adapter_of(one).to(device)  # type: ignore[arg-type]
            changed.update(adapter.merged_weights({**parameters, **changed}, factor))
    with replace_parameters(generator, changed):
        yield generator


def _adapter_of(one: IdentityOrAdapter) -> Adapter:
    return one if isinstance(one, Adapter) else one.adapter


class _StackedIdentities:
    """Identities of one image of a batch; a call applies them to the modules with the given prefixes."""

    def __init__(self, generator: Generator, stack: list[IdentityOrAdapter], strength: float) -> None:
        device = generator.w_avg.device
        self.generator, self.strength = generator, strength
        self.adapters = [_adapter_of(one).to(device) for one in stack]
        parameters = dict(generator.named_parameters())
        for adapter in self.adapters:  # raises before anything is rendered
            adapter.check(parameters)

    def __call__(self, prefixes: tuple[str, ...]) -> AbstractContextManager[object]:
        parts = [adapter.subset(prefixes) for adapter in self.adapters]
        return personalized(self.generator, parts, self.strength)


def merged_state_dict(generator: Generator, adapter: Adapter, strength: float = 1.0) -> dict[str, Tensor]:
    """Return the state dict of the personalized generator, with the weights that `personalized` applies."""
    state = dict(generator.state_dict())
    state.update(adapter.merged_weights(state, strength))
    return state
