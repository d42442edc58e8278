"""Latents out of the generator's own prior: random heads, and the mean one."""

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
    """Heads of people who do not exist: [n, num_ws, w_dim], each with the frontal camera.

    Args:
        seed: same seed, same heads, on every device.
        truncation_psi: 1 shows all that the generator knows, 0 its mean head; .7 keeps to sound ones.

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
    """The generator's mean head, [1, num_ws, w_dim], with the frontal camera."""
    ws = generator.w_avg.detach().expand(1, generator.num_ws, -1).clone()
    return Latents(ws, front_camera(generator.config, ws.device), base_hash=_hash(generator))


def _hash(generator: Generator) -> str | None:
    # the meta device has no weights to name
    return None if generator.w_avg.device.type == "meta" else generator.base_hash()
