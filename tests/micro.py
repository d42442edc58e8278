"""A generator small enough to train in a test: the real architecture with random weights."""

from __future__ import annotations

import dataclasses

import torch

from my3dgen_core import Generator, GeneratorConfig

CONFIG = GeneratorConfig(
    z_dim=16,
    w_dim=32,
    img_resolution=128,
    plane_resolution=16,
    channel_base=256,
    channel_max=16,
    superresolution="2X",
    neural_resolution=64,
    depth_resolution=8,
    depth_resolution_importance=8,
    white_back=True,
    c_gen_conditioning_zero=True,
)


def generator(seed: int = 0, **changes: object) -> Generator:
    torch.manual_seed(seed)
    made = Generator(dataclasses.replace(CONFIG, **changes))
    with torch.no_grad():
        made.decoder.net[2].bias[0] = 3.0  # dense enough to see something
        for block in (made.superresolution.block0, made.superresolution.block1):
            block.torgb.weight *= 0.1  # the raw picture shows through, within [-1, 1]
    return made.eval().requires_grad_(False)


def latents(made: Generator, count: int, seed: int = 1) -> torch.Tensor:
    """Random ws [count, num_ws, w_dim]."""
    z = torch.randn(count, made.config.z_dim, generator=torch.Generator().manual_seed(seed))
    return made.mapping(z, torch.zeros(count, 25))
