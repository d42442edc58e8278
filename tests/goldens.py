"""Reference outputs under tests/data/goldens, and generators with the reference's weights."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from my3dgen_core import Generator, GeneratorConfig

FOLDER = Path(__file__).parent / "data" / "goldens"
SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "white_back": {"white_back": True},
    "box_warp1.6": {"box_warp": 1.6},
    "auto_rays": {"ray_start": "auto", "ray_end": "auto"},
    "disparity": {"disparity_space_sampling": True},
    "no_importance": {"depth_resolution_importance": 0},
}
"""Settings of the renderer that the reference was run with, by the names of its numbers: render16.NAME."""


@lru_cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def values(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def build(config: GeneratorConfig, state: dict[str, Tensor], strict: bool = True) -> Generator:
    generator = Generator(config)
    generator.load_state_dict({key: value.float() for key, value in state.items()}, strict=strict)
    return generator.eval().requires_grad_(False)


def tiny(**changes: object) -> Generator:
    config = GeneratorConfig.from_official(values("tiny_config"), neural_resolution=64)
    return build(dataclasses.replace(config, **changes), tensors("tiny_weights"))


def tiny_sr(size: int) -> Generator:
    """The tiny backbone with another super-resolution; its noise constants are never used and not stored."""
    config = GeneratorConfig.from_official(values(f"tiny_sr{size}_config"), neural_resolution=128)
    backbone = {k: v for k, v in tensors("tiny_weights").items() if not k.startswith("superresolution.")}
    return build(config, backbone | tensors(f"tiny_sr{size}_weights"), strict=False)


def full_state() -> dict[str, Tensor]:
    """Weights of the full configuration by their recipe."""
    state = {}
    for key, recipe in values("full_state_dict_keys").items():
        if recipe["scale"] is None:
            taps = np.array([1.0, 3.0, 3.0, 1.0])
            array = np.outer(taps, taps) / 64
        else:
            draw = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
            array = draw.standard_normal(recipe["shape"]) * recipe["scale"] + recipe["offset"]
            if key == "decoder.net.2.weight":
                array[0] *= 8
            if key == "decoder.net.2.bias":
                array[0] += 6
        state[key] = torch.from_numpy(np.asarray(array, dtype=np.float32))
    return state


def full() -> Generator:
    config = GeneratorConfig.from_official(values("full_ffhq512-128_config"), neural_resolution=128)
    with torch.device("meta"):
        generator = Generator(config)
    generator.load_state_dict(full_state(), assign=True)
    return generator.eval().requires_grad_(False)


def stream(rays: int, coarse: int, fine: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """The reference's replaced random numbers."""

    def draw(seed: int, *shape: int) -> Tensor:
        numbers = np.random.Generator(np.random.PCG64(seed)).random(shape, dtype=np.float32)
        return torch.from_numpy(numbers)

    return draw(1001, batch, rays, coarse, 1), draw(1002, batch * rays, fine)


def normal(seed: int, shape: torch.Size) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))).float()


def our_lora_key(key: str) -> str:
    """The authors' name of a LoRA tensor to ours."""
    key = re.sub(
        r"\.(synthesis_block|synthesis_layer|to_rgb_layer|superresolution_module|fully_connected_layer)",
        "",
        key,
    )
    key = key.replace("synthesis.synthesis", "synthesis")
    return key.replace(".lora_A", ".lora_down.weight").replace(".lora_B", ".lora_up.weight")


def largest_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape, f"{list(a.shape)} against {list(b.shape)}"
    return float((a.double() - b.double()).abs().max())


def depth_difference(depth: Tensor, expected: Tensor, weight: Tensor) -> float:
    """The largest difference of depths; of rays that hit less than a hundredth, in proportion to `weight`.

    A depth is a sum divided by the ray's weight. Weights are made of 1 - exp(-x), which float32 knows to
    6e-8: where the weight is 4e-5, one unit in the last place of exp moves the depth by up to .016.
    """
    assert depth.shape == expected.shape == weight.shape
    difference = (depth.double() - expected.double()).abs()
    return float((difference * (weight.double() / 0.01).clamp(max=1)).max())


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())
