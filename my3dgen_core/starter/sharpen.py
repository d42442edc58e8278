"""The last stage: super-resolution alone, on raw features of crops. No gradient enters the volume.

Rendering a crop's features costs more than a step on it, so crops are kept and each is drawn a few times;
new ones arrive all the time (a small fixed set is overfitted within minutes).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from ..eg3d.generator import Generator
from .factors import Z_DIM, looks
from .headmesh import head_model
from .heads import random_cameras, scene_of
from .objectives import image_loss, latents
from .optimizer import Muon

HEADS, BATCH, BATCHES_PER_HEADS = 4, 8, 3
STEPS_PER_BATCH = 3
CROP = 32  # raw pixels along an edge
BORDER = (
    6  # image pixels at the edge of a crop, where the convolutions see zeros instead of the rest of the image
)


def crops(generator: Generator, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless fresh batches of crops, some of them at the border of the image.

    Features come from the real two-pass sampler of the finished volume, truths are ray-cast, both only in the
    crop.

    Yields:
        features [B, 32, CROP, CROP], ws [B, 1, w_dim], true crops [B, 3, E, E] with E = CROP * scale, and a
        mask [B, 1, E, E] of the pixels that the cut does not spoil.
    """
    from .caster import cast

    rng, draw = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    side, size = generator.config.neural_resolution, generator.config.img_resolution
    scale = size // side
    edge = CROP * scale
    heads = np.arange(BATCH) % HEADS
    while True:
        z = torch.randn(HEADS, Z_DIM, generator=draw)
        scene = scene_of(looks(z, head_model()))
        with torch.no_grad():
            ws = latents(generator, z)
            planes = generator.planes(ws)
        for _ in range(BATCHES_PER_HEADS):
            cameras = random_cameras(BATCH, rng, yaw=64, pitch=28, wander=0.1)
            corner = rng.integers(0, side - CROP + 1, (BATCH, 2))
            at_border = rng.integers(0, 2, (BATCH, 2)) * (side - CROP)
            corner = np.where(rng.random((BATCH, 2)) < 0.4, at_border, corner)
            raw = (corner[:, 1, None, None] + np.arange(CROP)[:, None]) * side + (
                corner[:, 0, None, None] + np.arange(CROP)
            )
            with torch.no_grad():
                pixels = torch.from_numpy(raw.reshape(BATCH, -1))
                marched = generator.march(planes[heads], cameras, side, pixels)
            features = marched.features.transpose(1, 2).unflatten(2, (CROP, CROP)).contiguous()
            line = np.arange(edge) + 0.5
            grid = (
                np.stack(np.meshgrid(line, line, indexing="xy"), axis=2)[None] + scale * corner[:, None, None]
            )
            owner = np.repeat(np.arange(BATCH), edge * edge)
            seen = cast(scene, cameras.numpy(), heads, owner, grid.reshape(-1, 2) / size, 1 / size, 3)
            target = torch.from_numpy(seen[:, :3].copy()).view(BATCH, edge, edge, 3).permute(0, 3, 1, 2)
            yield features, ws[heads, -1:], target, _inner(corner, side, edge)


def _inner(corner: np.ndarray, side: int, edge: int) -> torch.Tensor:
    """1 where a crop sees what the whole image would show, 0 along its cuts: [B, 1, edge, edge]."""
    mask = torch.ones(len(corner), 1, edge, edge)
    for i, (x, y) in enumerate(corner):
        mask[i, :, :, : BORDER if x > 0 else 0] = 0
        mask[i, :, : BORDER if y > 0 else 0] = 0
        mask[i, :, :, edge - (BORDER if x < side - CROP else 0) :] = 0
        mask[i, :, edge - (BORDER if y < side - CROP else 0) :] = 0
    return mask


def train_superresolution(
    generator: Generator, seconds: float, log: Callable[[str], None], fresh: bool = True
) -> None:
    """Trains `generator.superresolution` in place for about `seconds`; the rest of the generator stays."""
    module = generator.superresolution
    for block in (module.block0, module.block1) if fresh else ():  # start as the raw image upsampled
        torch.nn.init.zeros_(block.torgb.weight)
        torch.nn.init.zeros_(block.torgb.bias)
    weights: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if name.endswith("noise_strength"):
            continue
        parameter.requires_grad_(True)
        (weights if name.endswith(".weight") else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [Muon(weights, lr=5e-3)]
    optimizers.append(torch.optim.Adam(rest, lr=1e-2, betas=(0.9, 0.99)))
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = [parameter.detach().clone() for parameter in module.parameters()]
    start = last = time.time()
    window: list[float] = []
    stream, rng = crops(generator, seed=55_000), np.random.default_rng(1)
    kept_crops: list[tuple[torch.Tensor, ...]] = []
    for step in range(1 << 30):
        if step % STEPS_PER_BATCH == 0:
            kept_crops += zip(*next(stream), strict=True)
        chosen = [kept_crops[i] for i in rng.integers(0, len(kept_crops), BATCH)]
        features, ws, target, inner = (torch.stack(part) for part in zip(*chosen, strict=True))
        progress = (time.time() - start) / seconds
        if progress >= 1:
            break
        factor = min(1, (step + 1) / 30) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for optimizer, values in zip(optimizers, peaks, strict=True):
            for group, value in zip(optimizer.param_groups, values, strict=True):
                group["lr"] = value * factor
            optimizer.zero_grad(set_to_none=True)
        image = module.upscale(features, ws)
        losses = image_loss(image * inner, target * inner)
        sum(losses.values(), torch.zeros(())).backward()
        for optimizer in optimizers:
            optimizer.step()
        decay = min(0.995, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, parameter in zip(average, module.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
        window.append(float(losses["pixels"].detach()))
        if time.time() - last > 20:
            seconds_each = (time.time() - last) / len(window)
            error = np.mean(window)
            log(f"sharpen {100 * progress:.0f} % step {step} pixels {error:.4f} {seconds_each:.2f} s/step")
            last, window = time.time(), []
    with torch.no_grad():
        for mean, parameter in zip(average, module.parameters(), strict=True):
            parameter.copy_(mean)
    generator.requires_grad_(False)
