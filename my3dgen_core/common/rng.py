"""Random numbers from explicit generators, drawn on the device that uses them."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """Return a seeded generator for a device. The meta device has none and takes one of the CPU."""
    return torch.Generator("cpu" if device.type == "meta" else device).manual_seed(seed)


def _draw(
    make: Callable[..., Tensor],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    if generator is None or generator.device.type == device.type or device.type == "meta":
        return make(shape, generator=generator, device=device)
    # a CPU generator gives the same numbers for every device
    return make(shape, generator=generator, device=generator.device).to(device)


def uniform(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw float32 numbers, uniform in [0, 1).

    Args:
        generator: a CPU generator gives the same numbers on every device; None: the global one of the device.
    """
    return _draw(torch.rand, shape, generator, device)


def normal(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw float32 numbers from the standard normal distribution.

    Args:
        generator: a CPU generator gives the same numbers on every device; None: the global one of the device.
    """
    return _draw(torch.randn, shape, generator, device)


class ShuffledIndices:
    """Indices 0..n-1 in random order without replacement; reshuffled when all have been taken."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.random = n, random.Random(seed)
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        """Return the next `count` indices."""
        while len(self.waiting) < count:
            self.waiting += self.random.sample(range(self.n), self.n)
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken


class RngStreams:
    """Random streams of a training step.

    places: positions in the image, drawn from Python's `random.Random`.
    samples: jitter of the ray samples, drawn on the training device.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.places = random.Random(seed)
        self.samples = seeded(seed, device)
