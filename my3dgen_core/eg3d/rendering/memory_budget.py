"""Chunk sizes with which rendering stays within a memory limit.

Byte counts are upper estimates of PyTorch's allocations, derived from tensor shapes. Not counted: weights
(including those of an applied identity), inputs, outputs, cuDNN's workspaces, and the buffers of the compiled
renderer (less than 1 MiB per thread). float32 is assumed.
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
"""Bytes of a float32 number and of a MiB."""
_LEAST_RAYS = 16
"""Minimum number of rays rendered at a time."""
_RAY, _DEPTH = 720, 16
"""Bytes for every ray of a picture, and for each of its samples, whatever the chunk."""
_SAMPLE = {"exact": 800, "fast": 1400}
"""Bytes for each sample of the rays in a chunk, by quality."""
_BOUNDS = 10
"""Tensors of the size of a plane's hidden units that are alive while density bounds are computed."""
_CELLS = 2 << 20
"""Bytes of the density bounds of a scene and of their parts."""
_SCATTERED = 0.3
"""Share of its scattered products that oneDNN's transposed convolution buffers on each thread."""


class Networks(Protocol):
    """Generator, reduced to the parts whose memory is estimated."""

    config: GeneratorConfig
    backbone: Backbone
    superresolution: SuperResolution


@dataclass(frozen=True)
class Portion:
    """Amount of work done at a time."""

    pictures: int
    """Pictures rendered together."""
    rays: int
    """Rays of all these pictures rendered at a time."""


def portion(
    generator: Networks, limit: int, pictures: int, resolution: int, quality: str, planes_made: bool
) -> Portion:
    """Return the largest portion of a batch that fits a memory limit.

    Args:
        generator: networks and configuration.
        limit: bytes of working memory.
        pictures: pictures of the batch.
        resolution: pixels along an edge of the volume-rendered image.
        quality: "exact" or "fast".
        planes_made: planes are computed for each picture; False: they are given.

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
    """Return the peak bytes of the backbone for one latent, its planes included."""
    synthesis, most, side = generator.backbone.synthesis, 0, 4
    for resolution in synthesis.resolutions:
        most = max(most, _block_bytes(getattr(synthesis, f"b{resolution}"), side, 3 * PLANE_CHANNELS))
        side = resolution
    return most


def superresolution_bytes(generator: Networks) -> int:
    """Return the peak bytes of super-resolution for one picture, the picture included."""
    network = generator.superresolution
    side, features = network.layout.input_resolution, PLANE_CHANNELS * network.layout.input_resolution**2
    most = 0
    for block in (network.block0, network.block1):
        most = max(most, _block_bytes(block, side, 3))
        side *= 2 if block.up else 1
    return most + features * FLOAT


def _block_bytes(block: SynthesisBlock, side: int, channels: int) -> int:
    """Return the peak bytes of a synthesis block for one picture: the maximum over its layers.

    Args:
        block: the block.
        side: pixels along an edge of its input.
        channels: channels of its image.
    """
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
