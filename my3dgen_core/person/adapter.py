"""Low-rank update (LoRA) of a generator: W + up @ down, added to the stored weight before modulation.

My3DGen (WACV 2025, section 3) adapts every convolution, ToRGB and affine of the backbone's synthesis
network and of super-resolution. The mapping network is not adapted, so that directions in W stay valid. Two
layouts of a k x k kernel:

- "released" (the authors' code): down [r*k, in*k*k], up [out, r*k], so that "rank r" has matrix rank r*k.
- "lycoris": down [r, in*k*k], up [out, r].

The update of an affine is added to its output without the layer's weight gain, hence the factor 1 / gain on
the stored weight (`affine_gains`): that path changes about sqrt(w_dim) times faster at the same step and
has a learning rate of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..common.rng import uniform
from ..eg3d import Generator
from ..eg3d.layers import FullyConnected, SynthesisLayer, ToRGB

LAYOUTS = ("released", "lycoris")
TRAINABLE = ("lora", "released", "paper")
ADAPTED = ("backbone.synthesis.", "superresolution.")
UP, DOWN, DIFF = ".lora_up.weight", ".lora_down.weight", ".diff"
"""Endings of tensor keys; they are part of the identity file format."""
OTHER_BASE = "It was trained on another generator: load that one."


def adapted_modules(generator: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that get a low-rank update, by name."""
    return {
        name: module
        for name, module in generator.named_modules()
        if name.startswith(ADAPTED) and isinstance(module, SynthesisLayer | ToRGB | FullyConnected)
    }


def extra_parameters(generator: nn.Module, trainable: str) -> list[str]:
    """Return the names of parameters trained directly, beside the low-rank tensors.

    Args:
        generator: the generator to adapt.
        trainable: "lora": none. "released": biases, noise strengths and the constant input of the adapted
            networks, as in the authors' code. "paper": biases, noise strengths and the decoder, which at
            rank 1 gives the paper's 240K parameters.

    Raises:
        ValueError: an unknown `trainable`.
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
    """Low-rank factors and full differences of a generator's weights.

    Keys of `tensors` and the field names are written to identity files; keys, `layout` and `scaling` also
    enter `Identity.content_hash`. Renaming one breaks saved identities.
    """

    tensors: dict[str, Tensor]
    """`<module>.lora_up.weight` [out, width], `<module>.lora_down.weight` [width, in * k * k] and
    `<parameter>.diff` in the parameter's shape."""
    rank: int = 1
    """Rank r of the low-rank factors."""
    layout: str = "released"
    """Meaning of the rank for k x k kernels: "released", "lycoris", or "full" for differences only."""
    scaling: float = 1.0
    """alpha / rank, the factor of every up @ down."""
    gains: dict[str, float] = field(default_factory=dict)
    """1 / weight gain of the modules (affines) whose update is added to the output."""

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
        """Create an adapter without effect: down is random, up and all differences are zero.

        Args:
            generator: the generator to adapt.
            rank: rank r, >= 1.
            layout: "released" (factors of rank r * k for a k x k kernel) or "lycoris" (of rank r).
            trainable: parameters trained beside the low-rank ones: "lora", "released" or "paper" (see
                `extra_parameters`).
            alpha: scale of the update; `scaling` is alpha / rank.
            seed: seed of `down`; the same seed gives the same adapter on every device.

        Raises:
            ValueError: a rank below 1, or an unknown `layout` or `trainable`.
        """
        if rank < 1:
            raise ValueError(f"rank must be at least 1, not {rank}.")
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}.")
        draw = torch.Generator().manual_seed(seed)  # on the CPU: the same numbers for every device
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
        """Create an adapter for full fine-tuning, without effect yet.

        It holds a zero difference for every parameter outside the mapping network.
        """
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
        """Number of trained parameters."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def merged_weights(self, parameters: Mapping[str, Tensor], strength: float = 1.0) -> dict[str, Tensor]:
        """Return the adapted parameters by name, each with `strength` times its update added.

        Args:
            parameters: parameters of the base generator by name; they are not changed.
            strength: factor of the update; 0 gives the base.

        Raises:
            ValueError: this adapter belongs to a generator of another shape.
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
            # one pass over the weight: scaling the small factor is cheaper than scaling up @ down
            module = key.removesuffix(UP)
            base = parameters[module + ".weight"]
            up = tensor * (strength * self.scaling * self.gains.get(module, 1.0))
            down = self.tensors[module + DOWN].to(base)
            changed[module + ".weight"] = torch.addmm(base.flatten(1), up.to(base), down).view_as(base)
        return changed

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless `merged_weights` can add this adapter to parameters of these shapes."""
        for key, tensor in self.tensors.items():
            if key.endswith(DOWN):
                continue
            module = key.removesuffix(UP)
            name = module + ".weight" if key.endswith(UP) else key.removesuffix(DIFF)
            base = parameters.get(name)
            if base is None:
                raise ValueError(
                    f"This identity adapts {name}, which the generator does not have. {OTHER_BASE}"
                )
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
        """Return the part of the adapter whose names begin with one of `prefixes`."""
        tensors = {key: value for key, value in self.tensors.items() if key.startswith(prefixes)}
        return dataclasses.replace(self, tensors=tensors)

    def to(self, device: torch.device | str) -> Adapter:
        """Return the adapter on another device."""
        tensors = {key: value.to(device) for key, value in self.tensors.items()}
        return Adapter(tensors, self.rank, self.layout, self.scaling, self.gains)


def affine_gains(generator: nn.Module) -> dict[str, float]:
    """Return 1 / weight gain of every adapted affine, by name."""
    return {
        name: 1 / module.weight_gain
        for name, module in adapted_modules(generator).items()
        if isinstance(module, FullyConnected)
    }
