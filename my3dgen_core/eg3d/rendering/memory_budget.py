"""How much is worked on at a time, so that a picture's working memory stays within a bound.

Bytes are told from shapes, on the safe side of what PyTorch then asks for. Weights, a person's in effect
included, what goes in and what comes out do not count; nor does what cuDNN asks for on a GPU, and what the
compiled renderer keeps for itself, which is less than a MiB a thread. All is float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..backbone import Backbone
from ..config import PLANE_CHANNELS, GeneratorConfig
from ..layers import SynthesisBlock
from ..superresolution import SuperResolution

FLOAT, MIB = 4, 2**20
_LEAST_RAYS = 16  # worked on at a time, under the tightest bound
_RAY, _DEPTH = 720, 16  # bytes of a ray for what is known of it throughout, and for each of its samples
_SAMPLE = {"exact": 800, "fast": 1400}  # bytes of each sample of the rays that PyTorch works on
_BOUNDS = 10  # planes' hidden units at a time, while a density grid is made
_CELLS = 2 << 20  # bytes of such a grid, and of what it is put together from
_SCATTERED = 0.3  # oneDNN's transposed convolution keeps this part of what it scatters, on each thread


class Networks(Protocol):
    """A generator, as far as its memory is concerned."""

    config: GeneratorConfig
    backbone: Backbone
    superresolution: SuperResolution


@dataclass(frozen=True)
class Portion:
    """The work done at a time: a number of pictures, and of rays of all of them."""

    pictures: int
    rays: int


def portion(
    generator: Networks, limit: int, pictures: int, resolution: int, quality: str, planes_made: bool
) -> Portion:
    """The largest portion of `pictures` of resolution**2 rays that takes at most `limit` bytes.

    Args:
        planes_made: for each picture of its own; False: they are given.

    Raises:
        ValueError: not even one picture fits.
    """
    config = generator.config
    samples = config.depth_resolution + config.depth_resolution_importance
    ray = _SAMPLE[quality] * samples
    size = config.plane_resolution
    planes = 3 * PLANE_CHANNELS * size**2 * FLOAT if planes_made else 0
    kept = resolution**2 * (_RAY + _DEPTH * samples)
    grid = _BOUNDS * 64 * size**2 * FLOAT + _CELLS if quality == "fast" else 0
    made = backbone_bytes(generator) if planes_made else 0
    upscaled = superresolution_bytes(generator)
    each = planes + kept + upscaled
    least = max(made, planes + grid, each, planes + kept + _LEAST_RAYS * ray) + grid // 8
    if limit < least:
        raise ValueError(
            f"A picture of this generator takes {-(-least // MIB)} MiB of working memory at least, more than "
            f"the limit of {limit // MIB} MiB. Raise the limit, or set none."
        )
    count = max(1, min(pictures, (limit - grid // 8) // max(each, made)))
    left = limit - grid // 8 - count * (planes + kept)
    while count > 1 and left < _LEAST_RAYS * ray:
        count -= 1
        left = limit - grid // 8 - count * (planes + kept)
    return Portion(count, left // ray)


def backbone_bytes(generator: Networks) -> int:
    """Bytes that the planes of one latent take while they are made, the planes included."""
    synthesis, most, side = generator.backbone.synthesis, 0, 4
    for resolution in synthesis.resolutions:
        most = max(most, _block_bytes(getattr(synthesis, f"b{resolution}"), side, 3 * PLANE_CHANNELS))
        side = resolution
    return most


def superresolution_bytes(generator: Networks) -> int:
    """Bytes that one picture takes while it is upscaled, the picture included."""
    network = generator.superresolution
    side, features = network.layout.input_resolution, PLANE_CHANNELS * network.layout.input_resolution**2
    most = 0
    for block in (network.block0, network.block1):
        most = max(most, _block_bytes(block, side, 3))
        side *= 2 if block.up else 1
    return most + features * FLOAT


def _block_bytes(block: SynthesisBlock, side: int, channels: int) -> int:
    """Of one picture: the greatest of its layers' inputs, outputs and, in between, transposed outputs."""
    threads = torch.get_num_threads() if block.conv1.weight.device.type == "cpu" else 0
    width = block.conv1.weight.shape[0]
    out = side * 2 if block.up and not block.first else side
    image = channels * out**2
    numbers = max(2 * width * out**2, width * out**2 + 4 * image) + image
    weights = 3 * block.conv1.weight.numel()
    if not block.first:
        inside = block.conv0.weight.shape[1]
        between = width * (out + 1) ** 2 if block.up else 0
        scattered = int(threads * _SCATTERED * 9 * width * side**2) if block.up else 0
        numbers = max(numbers, inside * side**2 + between + max(width * out**2, scattered) + image)
        weights = max(weights, 3 * block.conv0.weight.numel())
    return (numbers + weights) * FLOAT
