"""The low-rank update of a generator: W + up @ down, added to the stored weight before modulation.

My3DGen (WACV 2025, section 3): the adapted modules are every convolution, ToRGB and affine of the
backbone's synthesis and of super-resolution; mapping never, so that directions in W stay valid. Two layouts
of a k x k kernel:

- "released" (the authors' code): down [r*k, in*k*k], up [out, r*k], so that "rank r" has matrix rank r*k.
- "lycoris": down [r, in*k*k], up [out, r].

An affine's update is added to its output without the layer's own weight gain, hence the division here: that
path moves about sqrt(w_dim) times faster at the same step and deserves a learning rate of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from ..common.rng import uniform
from ..eg3d import Generator
from ..eg3d.fused_layers import LowRank
from ..eg3d.layers import FullyConnected, SynthesisLayer, ToRGB

if TYPE_CHECKING:
    from .identity import Identity

LAYOUTS = ("released", "lycoris")
TRAINABLE = ("lora", "released", "paper")
ADAPTED = ("backbone.synthesis.", "superresolution.")
UP, DOWN, DIFF = ".lora_up.weight", ".lora_down.weight", ".diff"


def adapted_modules(generator: nn.Module) -> dict[str, nn.Module]:
    """The modules that get a low-rank update, by name."""
    return {
        name: module
        for name, module in generator.named_modules()
        if name.startswith(ADAPTED) and isinstance(module, SynthesisLayer | ToRGB | FullyConnected)
    }


def extra_parameters(generator: nn.Module, trainable: str) -> list[str]:
    """Parameters trained directly, beside the low-rank tensors.

    "lora": none. "released": all biases, noise strengths and the constant input of the adapted networks, as
    the authors' code does. "paper": biases, noise strengths and the decoder, whose count at rank 1 is the
    paper's 240K.
    """
    if trainable not in TRAINABLE:
        raise ValueError(f"trainable must be one of {', '.join(TRAINABLE)}, not {trainable!r}.")
    if trainable == "lora":
        return []
    names = []
    for name, _ in generator.named_parameters():
        if name.startswith(ADAPTED):
            last = name.rsplit(".", 1)[-1]
            if last in ("bias", "noise_strength") or (last == "const" and trainable == "released"):
                names.append(name)
        elif name.startswith("decoder.") and trainable == "paper":
            names.append(name)
    return names


@dataclass
class Adapter:
    """Low-rank tensors and plain differences by name, and how to read them.

    tensors: `<module>.lora_up.weight`, `<module>.lora_down.weight`, `<parameter>.diff`.
    scaling: alpha / rank, multiplied into every up @ down.
    """

    tensors: dict[str, Tensor]
    rank: int = 1
    layout: str = "released"
    scaling: float = 1.0
    gains: dict[str, float] = field(default_factory=dict)
    """1 / weight gain of the modules (affines) whose update is added to the output, not to the stored
    weight."""

    @classmethod
    def create(
        cls,
        generator: Generator,
        rank: int = 1,
        layout: str = "released",
        trainable: str = "lora",
        alpha: float = 1.0,
        seed: int = 0,
    ) -> Adapter:
        """A fresh adapter that changes nothing yet: down is random, up and every difference are zero."""
        if rank < 1:
            raise ValueError(f"rank must be at least 1, not {rank}.")
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}.")
        draw = torch.Generator().manual_seed(seed)  # the CPU's: one seed, one adapter on every device
        tensors: dict[str, Tensor] = {}
        for name, module in adapted_modules(generator).items():
            weight = module.weight
            assert isinstance(weight, Tensor)
            columns = weight[0].numel()
            width = rank * (weight.shape[-1] if weight.ndim == 4 and layout == "released" else 1)
            bound = 1 / math.sqrt(columns)  # kaiming_uniform with a = sqrt(5)
            tensors[name + DOWN] = uniform((width, columns), draw, weight.device) * (2 * bound) - bound
            tensors[name + UP] = torch.zeros(weight.shape[0], width, device=weight.device)
        parameters = dict(generator.named_parameters())
        for name in extra_parameters(generator, trainable):
            tensors[name + DIFF] = torch.zeros_like(parameters[name], dtype=torch.float32)
        return cls(tensors, rank, layout, alpha / rank, affine_gains(generator))

    @classmethod
    def full(cls, generator: Generator) -> Adapter:
        """Full fine-tuning as an adapter: a difference for every parameter but the mapping network's."""
        return cls(
            {
                name + DIFF: torch.zeros_like(parameter, dtype=torch.float32)
                for name, parameter in generator.named_parameters()
                if not name.startswith("backbone.mapping.")
            },
            layout="full",
        )

    @property
    def parameter_count(self) -> int:
        """Numbers that were trained."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def get_delta_weight(self, name: str, shape: torch.Size) -> Tensor:
        """What module `name` adds to its stored weight of that shape."""
        up, down = self.tensors[name + UP], self.tensors[name + DOWN]
        return (up @ down).view(shape) * (self.scaling * self.gains.get(name, 1.0))

    def composed(self, parameters: Mapping[str, Tensor], strength: float = 1.0) -> dict[str, Tensor]:
        """The changed ones of `parameters`, each with `strength` times its update added.

        Raises:
            ValueError: this adapter belongs to a generator of another shape. Nothing has been changed then.
        """
        self.check(parameters)
        changed: dict[str, Tensor] = {}
        for key, tensor in self.tensors.items():
            if key.endswith(DOWN):
                continue
            if not key.endswith(UP):
                name = key.removesuffix(DIFF)
                changed[name] = parameters[name] + (strength * tensor).to(parameters[name])
                continue
            # in one pass: weights are large, factors small
            module = key.removesuffix(UP)
            base = parameters[module + ".weight"]
            up = tensor * (strength * self.scaling * self.gains.get(module, 1.0))
            down = self.tensors[module + DOWN].to(base)
            changed[module + ".weight"] = torch.addmm(base.flatten(1), up.to(base), down).view_as(base)
        return changed

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Raises ValueError unless `composed` can add this adapter to parameters of these shapes."""
        for key, tensor in self.tensors.items():
            if key.endswith(DOWN):
                continue
            module = key.removesuffix(UP)
            name = module + ".weight" if key.endswith(UP) else key.removesuffix(DIFF)
            base = parameters.get(name)
            if base is None:
                raise ValueError(f"This identity adapts {name}, which the generator has not. {OTHER_BASE}")
            if key.endswith(UP):
                down = self.tensors.get(module + DOWN)
                fits = (
                    down is not None
                    and tensor.shape[1:] == down.shape[:1]
                    and (*tensor.shape[:1], *down.shape[1:]) == base.flatten(1).shape
                )
            else:
                fits = tensor.shape == base.shape
            if not fits:
                raise ValueError(
                    f"The update of {name} does not fit its shape {list(base.shape)}. {OTHER_BASE}"
                )

    def part(self, prefixes: tuple[str, ...]) -> Adapter:
        """What it updates in the modules whose names begin so."""
        tensors = {key: value for key, value in self.tensors.items() if key.startswith(prefixes)}
        return dataclasses.replace(self, tensors=tensors)

    def to(self, device: torch.device | str) -> Adapter:
        """The same on another device."""
        tensors = {key: value.to(device) for key, value in self.tensors.items()}
        return Adapter(tensors, self.rank, self.layout, self.scaling, self.gains)


OTHER_BASE = "It was trained on another generator: load that one."


def affine_gains(generator: nn.Module) -> dict[str, float]:
    """1 / weight gain of every adapted affine."""
    return {
        name: 1 / module.weight_gain
        for name, module in adapted_modules(generator).items()
        if isinstance(module, FullyConnected)
    }


Person: TypeAlias = "Identity | Adapter"


@contextmanager
def swapped(generator: Generator, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the generator computes with `tensors` in place of its parameters of those names.

    The parameters themselves are never written to, and are back in their places after the block whatever
    happens in it. Gradients flow into `tensors`.
    """
    places = []
    for name in tensors:
        owner, _, leaf = name.rpartition(".")
        places.append((generator.get_submodule(owner), leaf))
    kept = [module._parameters[leaf] for module, leaf in places]
    outer = generator.replaced
    try:
        # an enclosing block may have replaced some already: theirs are the generator's own
        generator.replaced = {**dict(zip(tensors, kept, strict=True)), **outer}  # type: ignore[arg-type]
        for (module, leaf), tensor in zip(places, tensors.values(), strict=True):
            # a plain tensor among the parameters, as torch.func.functional_call does it
            module._parameters[leaf] = tensor  # type: ignore[assignment]
        yield
    finally:
        for (module, leaf), parameter in zip(places, kept, strict=True):
            module._parameters[leaf] = parameter
        generator.replaced = outer


@contextmanager
def trained(generator: Generator, adapter: Adapter, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the generator computes with the adapter's update of `parameters`, for gradients.

    As `swapped` with `Adapter.composed`, but the low-rank factors of convolutions lie beside the weights:
    their gradients are computed without the weights' own, which would cost half as much as all the rest.
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
    with swapped(generator, dataclasses.replace(adapter, tensors=others).composed(parameters)):
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
    identity: Person | Sequence[Person] | Sequence[Sequence[Person]],
    strength: float | Sequence[float] = 1.0,
) -> Iterator[Generator]:
    """Within the block the generator is the person's, or each picture's own person's.

    Args:
        generator: a frozen generator; bit-identical again after the block, also after an exception in it.
        identity: one identity (or bare adapter), or several that add up. Or a list of such lists, one for
            each picture of a batch: `planes`, `render` and `sample` take batches of that length then, and
            every picture is what its person alone would give. The weights are shared; one person's are
            composed at a time, which bounds the memory.
        strength: scales each update; 0 is the pretrained generator. One number, or one for each identity
            (for each picture, if identities are given by picture).

    Raises:
        ValueError: an identity of another generator, or strengths that do not fit.
    """
    several = list(identity) if isinstance(identity, Sequence) else [identity]
    strengths = list(strength) if isinstance(strength, Sequence) else [strength] * len(several)
    if len(strengths) != len(several):
        raise ValueError(f"{len(several)} identities need as many strengths, not {len(strengths)}.")
    nested = [isinstance(one, Sequence) for one in several]
    if any(nested):
        if not all(nested):
            raise ValueError("Give identities that add up, or a list of them for every picture; not both.")
        people = [
            _Person(generator, list(stack), factor)  # type: ignore[arg-type]
            for stack, factor in zip(several, strengths, strict=True)
        ]
        outer, generator.people = generator.people, people
        try:
            yield generator
        finally:
            generator.people = outer
        return
    changed: dict[str, Tensor] = {}
    parameters: dict[str, Tensor] = dict(generator.named_parameters())
    for one, factor in zip(several, strengths, strict=True):
        if factor != 0:
            device = generator.w_avg.device
            adapter = _adapter(one).to(device)  # type: ignore[arg-type]
            changed.update(adapter.composed({**parameters, **changed}, factor))
    with swapped(generator, changed):
        yield generator


def _adapter(one: Person) -> Adapter:
    return one if isinstance(one, Adapter) else one.adapter


class _Person:
    """One of several in a batch. Called with prefixes, it takes the modules whose names begin so."""

    def __init__(self, generator: Generator, stack: list[Person], strength: float) -> None:
        device = generator.w_avg.device
        self.generator, self.strength = generator, strength
        self.adapters = [_adapter(one).to(device) for one in stack]
        parameters = dict(generator.named_parameters())
        for adapter in self.adapters:  # what does not fit is said before anything is rendered
            adapter.check(parameters)

    def __call__(self, prefixes: tuple[str, ...]) -> AbstractContextManager[object]:
        parts = [adapter.part(prefixes) for adapter in self.adapters]
        return personalized(self.generator, parts, self.strength)


def merged(generator: Generator, adapter: Adapter, strength: float = 1.0) -> dict[str, Tensor]:
    """The personalised generator's state dict: what `personalized` computes with, as plain tensors."""
    state = dict(generator.state_dict())
    state.update(adapter.composed(state, strength))
    return state
