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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..common.rng import uniform
from ..eg3d import Generator
from ..eg3d.layers import FullyConnected, SynthesisLayer, ToRGB

if TYPE_CHECKING:
    pass

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

    def merged_weights(self, parameters: Mapping[str, Tensor], strength: float = 1.0) -> dict[str, Tensor]:
        """The updated ones of `parameters`, each with `strength` times its update added.

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
        """Raises ValueError unless `merged_weights` can add this adapter to parameters of these shapes."""
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

    def subset(self, prefixes: tuple[str, ...]) -> Adapter:
        """The part of it that updates modules whose names begin with one of `prefixes`."""
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
