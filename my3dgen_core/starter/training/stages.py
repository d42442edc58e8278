"""The stages of the starter's training: sizes, shares of the time, learning rates."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from ...eg3d.config import GeneratorConfig
from ...eg3d.generator import Generator
from ...fitting.muon import Muon

CONFIG = GeneratorConfig(
    z_dim=64,
    w_dim=128,
    img_resolution=128,
    plane_resolution=128,
    channel_base=8192,
    channel_max=192,
    superresolution="2X",
    sr_num_fp16_res=0,
    neural_resolution=64,
    depth_resolution=24,
    depth_resolution_importance=24,
    ray_start=2.25,
    ray_end=3.2,
    white_back=True,
    c_gen_conditioning_zero=True,
    avg_camera_pivot=(0.0, 0.0, 0.0),
)


@dataclass(frozen=True)
class Stage:
    """One stage: share of the time, size and channels of the planes' network, what is supervised, batch of a
    worker, learning rate."""

    name: str
    share: float
    planes: int
    objective: str  # "points", "rays" or "pictures"
    heads: int = 4
    rays: int = 1024  # of a head
    views: int = 2  # pictures of a head
    rate: float = 1.0
    channels: tuple[int, int] = (4096, 128)  # channel_base, channel_max

    @property
    def config(self) -> GeneratorConfig:
        base, most = self.channels
        return dataclasses.replace(CONFIG, plane_resolution=self.planes, channel_base=base, channel_max=most)


# Narrow while what is learned is coarse, wide for the details.
STAGES = (
    Stage("points64", 0.03, 64, "points", rays=768),
    Stage("rays64", 0.05, 64, "rays", rate=0.7),
    Stage("points128", 0.02, 128, "points", rays=768, rate=0.6),
    Stage("rays128", 0.30, 128, "rays", rate=0.4),
    Stage("pictures", 0.60, 128, "pictures", heads=1, rate=0.4, channels=(8192, 192)),
)


def optimizers(generator: Generator) -> list[torch.optim.Optimizer]:
    """Muon on the weights of convolutions and affines, Adam on the rest.

    The mapping's rates are 100 times larger, as its own multiplier is small; the super-resolution, which
    joins for the last stage and its low rate only, learns faster than what is finished by then.
    """
    kinds: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(not name.endswith("noise_strength") and ".embed." not in name)
        if not parameter.requires_grad:
            continue
        if ".mapping." in name:
            kind = "mapping"
        else:
            part = "sharp" if name.startswith("superresolution") else "volume"
            matrix = name.endswith(".weight") and not name.startswith("decoder")
            kind = f"{part} {'matrices' if matrix else 'rest'}"
        kinds.setdefault(kind, []).append(parameter)
    muon = [
        {"params": kinds["volume matrices"], "lr": 1e-2},
        {"params": kinds["sharp matrices"], "lr": 2.5e-2},
    ]
    adam = [
        {"params": kinds["volume rest"], "lr": 4e-2},
        {"params": kinds["sharp rest"], "lr": 5e-2},
        {"params": kinds["mapping"], "lr": 0.5},
    ]
    made: list[torch.optim.Optimizer] = [Muon(muon), torch.optim.Adam(adam, betas=(0.9, 0.99))]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def grow(small: Generator, config: GeneratorConfig) -> Generator:
    """A generator with larger planes or more channels that starts as the small one (upsampled).

    New blocks add nothing yet; new channels are computed, but nobody listens to them yet.
    """
    large = Generator(config)
    state = large.state_dict()
    for name, old in small.state_dict().items():
        new = state[name]
        if new.shape == old.shape:
            state[name] = old
            continue
        kept = tuple(slice(0, size) for size in old.shape)
        if name.endswith(".weight") and ".affine." not in name:  # [out, in, k, k]
            new[: old.shape[0], old.shape[1] :] = 0
            if ".torgb." in name:  # its gain is 1 / sqrt(in)
                old = old * math.sqrt(new.shape[1] / old.shape[1])
        new[kept] = old
    large.load_state_dict(state)
    for resolution in config.block_resolutions:
        if resolution not in small.config.block_resolutions:
            torgb = getattr(large.backbone.synthesis, f"b{resolution}").torgb
            torch.nn.init.zeros_(torgb.weight)
            torch.nn.init.zeros_(torgb.bias)
    return large


def rate(progress: float, step: int) -> float:
    """Warm-up over 50 steps, then a cosine to 2 %."""
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
