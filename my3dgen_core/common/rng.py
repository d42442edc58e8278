"""Random numbers from explicit generators, made on the device that uses them."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """A generator for tensors of `device`. The meta device has none of its own and borrows the CPU's."""
    return torch.Generator("cpu" if device.type == "meta" else device).manual_seed(seed)


def _draw(
    make: Callable[..., Tensor],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    if generator is None or generator.device.type == device.type or device.type == "meta":
        return make(shape, generator=generator, device=device)
    # one seed gives one picture on every device when the generator is the CPU's
    return make(shape, generator=generator, device=generator.device).to(device)


def uniform(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """float32 in [0, 1)."""
    return _draw(torch.rand, shape, generator, device)


def normal(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """float32, standard normal."""
    return _draw(torch.randn, shape, generator, device)


class ShuffledIndices:
    """Indices below n in random order, every one once before any comes again."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.random = n, random.Random(seed)
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next `count` indices."""
        while len(self.waiting) < count:
            self.waiting += self.random.sample(range(self.n), self.n)
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken


class RngStreams:
    """The chance in a step: where in the picture to look, and where on the rays."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.places = random.Random(seed)
        self.samples = seeded(seed, device)
