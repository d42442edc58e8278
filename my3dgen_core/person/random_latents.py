"""Latents from the generator's mapping network: random heads and the mean head."""

from __future__ import annotations

import torch

from ..common.rng import normal
from ..eg3d import Generator
from ..eg3d.config import front_camera
from .latents import Latents


@torch.no_grad()
def random_latents(
    generator: Generator, seed: int, n: int = 1, truncation_psi: float = 0.7, batch_size: int = 1024
) -> Latents:
    """Sample latents of random heads: standard normal z through the mapping network, with truncation.

    Args:
        generator: the generator whose mapping network is used.
        seed: the same seed gives the same heads on every device.
        n: number of latents, >= 1.
        truncation_psi: scale of the distance from the mean latent: 1 is the full variety, 0 the mean head; .7
            avoids implausible ones.
        batch_size: number of latents mapped at a time.

    Returns:
        Latents [n, num_ws, w_dim], each with the frontal camera.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"At least one latent must be asked for, not {n}.")
    config, device = generator.config, generator.w_avg.device
    draw = torch.Generator().manual_seed(seed)
    front = front_camera(config, device)
    parts = []
    for first in range(0, n, batch_size):
        z = normal((min(batch_size, n - first), config.z_dim), draw, device)
        parts.append(generator.mapping(z, front.expand(len(z), -1), truncation_psi))
    return Latents(torch.cat(parts), front.expand(n, -1).clone(), base_hash=_hash(generator))


@torch.no_grad()
def mean_latent(generator: Generator) -> Latents:
    """Return the mean latent of the generator, [1, num_ws, w_dim], with the frontal camera."""
    ws = generator.w_avg.detach().expand(1, generator.num_ws, -1).clone()
    return Latents(ws, front_camera(generator.config, ws.device), base_hash=_hash(generator))


def _hash(generator: Generator) -> str | None:
    # weights on the meta device have no values to hash
    return None if generator.w_avg.device.type == "meta" else generator.base_hash()
