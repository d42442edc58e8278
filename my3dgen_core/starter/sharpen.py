"""The last stage: super-resolution, trained alone on stored raw features of many images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..eg3d.generator import Generator
from .factors import Z_DIM
from .heads import photograph, random_cameras, scene_of
from .objectives import image_loss, latents
from .optimizer import Muon

CAMERAS_PER_HEAD = 4
CROP = 32  # raw pixels


@torch.no_grad()
def _store(generator: Generator, seconds: float, log: Callable[[str], None]) -> dict[str, torch.Tensor]:
    """Raw features [N,32,64,64], latents [N,w_dim] and true images [N,3,128,128] of fresh heads, for some seconds."""
    from .factors import looks
    from .headmesh import head_model

    rng, draw = np.random.default_rng(55_000), torch.Generator().manual_seed(55_000)
    parts: dict[str, list[torch.Tensor]] = {"features": [], "w": [], "images": []}
    size = generator.config.img_resolution
    end = time.time() + seconds
    while time.time() < end:
        z = torch.randn(4, Z_DIM, generator=draw)
        scene = scene_of(looks(z, head_model()))
        ws = latents(generator, z)
        planes = generator.planes(ws)
        for head in range(len(z)):
            cameras = random_cameras(CAMERAS_PER_HEAD, rng, yaw=64, pitch=28, wander=0.1)
            images = photograph(scene, cameras, np.full(CAMERAS_PER_HEAD, head), size, grid=3)[0]
            one = planes[head : head + 1].expand(CAMERAS_PER_HEAD, -1, -1, -1, -1)
            marched = generator.march(one, cameras, generator.config.neural_resolution)
            side = generator.config.neural_resolution
            parts["features"].append(marched.features.transpose(1, 2).unflatten(2, (side, side)).half())
            parts["w"].append(ws[head : head + 1, -1].expand(CAMERAS_PER_HEAD, -1))
            parts["images"].append(((images + 1) * 127.5 + 0.5).clamp(0, 255).byte())
    stored = {name: torch.cat(value) for name, value in parts.items()}
    log(f"sharpen: stored {len(stored['w'])} images")
    return stored


def train_superresolution(generator: Generator, seconds: float, log: Callable[[str], None], out: Path) -> None:
    """Trains `generator.superresolution` in place for about `seconds`, a third of them spent on storing images."""
    stored = _store(generator, 0.38 * seconds, log)
    module = generator.superresolution
    for block in (module.block0, module.block1):
        torch.nn.init.zeros_(block.torgb.weight)
        torch.nn.init.zeros_(block.torgb.bias)
    weights, rest = [], []
    for name, parameter in module.named_parameters():
        if name.endswith("noise_strength"):
            continue
        parameter.requires_grad_(True)
        (weights if name.endswith(".weight") else rest).append(parameter)
    optimizers = [Muon(weights, lr=5e-3), torch.optim.Adam(rest, lr=1e-2, betas=(0.9, 0.99))]
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = [p.detach().clone() for p in module.parameters()]
    count, side = len(stored["w"]), generator.config.neural_resolution
    scale = generator.config.img_resolution // side
    rng = np.random.default_rng(1)
    budget, step, start, last, window = 0.6 * seconds, 0, time.time(), time.time(), []
    while time.time() - start < budget:
        factor = min(1, (step + 1) / 30) * (0.02 + 0.49 * (1 + math.cos(math.pi * (time.time() - start) / budget)))
        for optimizer, values in zip(optimizers, peaks, strict=True):
            for group, value in zip(optimizer.param_groups, values, strict=True):
                group["lr"] = value * factor
            optimizer.zero_grad(set_to_none=True)
        features, images, ws = [], [], []
        for index in rng.integers(0, count, 8):
            y, x = rng.integers(0, side - CROP + 1, 2)
            features.append(stored["features"][index, :, y : y + CROP, x : x + CROP])
            y, x, edge = y * scale, x * scale, CROP * scale
            images.append(stored["images"][index, :, y : y + edge, x : x + edge])
            ws.append(stored["w"][index])
        target = torch.stack(images).float() / 127.5 - 1
        image = module.upscale(torch.stack(features).float(), torch.stack(ws)[:, None])
        # The border of a crop sees zeros where the whole image has features: leave it out.
        losses = image_loss(image[..., 6:-6, 6:-6], target[..., 6:-6, 6:-6])
        sum(losses.values(), torch.zeros(())).backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        decay = min(0.995, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, parameter in zip(average, module.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
        window.append(float(losses["pixels"].detach()))
        if time.time() - last > 20:
            log(f"sharpen step {step} pixels {np.mean(window):.4f} {(time.time() - last) / len(window):.2f} s/step")
            last, window = time.time(), []
    with torch.no_grad():
        for mean, parameter in zip(average, module.parameters(), strict=True):
            parameter.copy_(mean)
    generator.requires_grad_(False)
