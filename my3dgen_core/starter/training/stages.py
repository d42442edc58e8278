"""Stages of the starter's training: network sizes, shares of the time, optimizers and learning rates."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from ...eg3d.config import GeneratorConfig
from ...eg3d.generator import Generator
from ...fitting.muon import Muon

# Configuration of the finished starter.
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
    """One stage of the training."""

    name: str
    """Name for the log."""
    share: float
    """Share of the total time."""
    planes: int
    """Side of the tri-planes in texels."""
    objective: str
    """Loss: "points", "rays" or "pictures", see `objectives`."""
    heads: int = 4
    """Heads per step and worker."""
    rays: int = 1024
    """Rays per head."""
    views: int = 2
    """Pictures per head."""
    rate: float = 1.0
    """Factor of all learning rates."""
    channels: tuple[int, int] = (4096, 128)
    """`channel_base` and `channel_max` of the backbone."""

    @property
    def config(self) -> GeneratorConfig:
        """Configuration of the generator in this stage."""
        base, most = self.channels
        return dataclasses.replace(CONFIG, plane_resolution=self.planes, channel_base=base, channel_max=most)


# Narrow networks for coarse shapes, wide ones for details.
STAGES = (
    Stage("points64", 0.03, 64, "points", rays=768),
    Stage("rays64", 0.05, 64, "rays", rate=0.7),
    Stage("points128", 0.02, 128, "points", rays=768, rate=0.6),
    Stage("rays128", 0.30, 128, "rays", rate=0.4),
    Stage("pictures", 0.60, 128, "pictures", heads=1, rate=0.4, channels=(8192, 192)),
)


def optimizers(generator: Generator) -> list[torch.optim.Optimizer]:
    """Build the optimizers: Muon for the weights of convolutions and affine layers, Adam for the rest.

    The mapping network has larger rates because its learning-rate multiplier is small, and so has
    super-resolution, which is trained only in the last stage, whose factor is low. Each group stores its rate
    as "peak".

    Args:
        generator: generator to train; its noise strengths and camera embedding are frozen.
    """
    kinds: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(not name.endswith("noise_strength") and ".embed." not in name)
        if not parameter.requires_grad:
            continue
        if ".mapping." in name:
            kind = "mapping"
        else:
            part = "superresolution" if name.startswith("superresolution") else "volume"
            matrix = name.endswith(".weight") and not name.startswith("decoder")
            kind = f"{part} {'matrices' if matrix else 'rest'}"
        kinds.setdefault(kind, []).append(parameter)
    muon = [
        {"params": kinds["volume matrices"], "lr": 1e-2},
        {"params": kinds["superresolution matrices"], "lr": 2.5e-2},
    ]
    adam = [
        {"params": kinds["volume rest"], "lr": 4e-2},
        {"params": kinds["superresolution rest"], "lr": 5e-2},
        {"params": kinds["mapping"], "lr": 0.5},
    ]
    made: list[torch.optim.Optimizer] = [Muon(muon), torch.optim.Adam(adam, betas=(0.9, 0.99))]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def grow(small: Generator, config: GeneratorConfig) -> Generator:
    """Build a generator with larger planes or more channels that starts as a small one, upsampled.

    New blocks and the weights that read new channels start at 0.

    Args:
        small: trained generator.
        config: configuration of the larger generator.
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
    """Return the factor of the learning rate: linear warm-up over 50 steps, then a cosine down to 2 %.

    Args:
        progress: fraction of the stage done, 0..1.
        step: number of the step in the stage.
    """
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
