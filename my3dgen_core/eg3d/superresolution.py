"""Super-resolution: volume-rendered features to the final image, by two StyleGAN2 blocks on the last w."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PLANE_CHANNELS, GeneratorConfig
from .layers import SynthesisBlock, fir_kernel, upsample

CONV_CLAMP = 256.0
"""Clamp of the activations of a super-resolution that may run in half precision."""
_STRIP_BYTES = 24 << 20
"""Size above which features are computed strip by strip on a CPU. The C library reuses freed buffers of up to
32 MiB; larger ones are mapped by the system each time, and the page faults take longer than filling them."""
_HALO = 2
"""Input rows above and below that a row of a block's output depends on."""


@dataclass(frozen=True)
class Layout:
    """Sizes of one super-resolution architecture."""

    input_resolution: int
    """Pixels along an edge of the features that the first block takes."""
    channels: tuple[int, int]
    """Channels of both blocks."""
    up: tuple[bool, bool]
    """Upsampling by 2, of both blocks."""
    resize_larger: bool = True
    """Features larger than `input_resolution` are resized; False: they are an error, as in the reference."""
    unused_filter: bool = True
    """The checkpoint has an unused `superresolution.resample_filter`."""


LAYOUTS = {
    "8XDC": Layout(128, (256, 128), (True, True), unused_filter=False),
    "8X": Layout(128, (128, 64), (True, True)),
    "4X": Layout(128, (128, 64), (False, True), resize_larger=False),
    "2X": Layout(64, (128, 64), (False, True)),
}
"""Layouts by `GeneratorConfig.superresolution`."""


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 for a CPU with bfloat16 instructions, where it halves the time; None elsewhere."""
    known: dict[str, object] = {}
    if device.type == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if known.get("avx512_bf16") or known.get("amx_bf16") else None


class SuperResolution(nn.Module):
    """EG3D's super-resolution module (SuperresolutionHybrid8XDC, 8X, 4X or 2X)."""

    block0: SynthesisBlock
    block1: SynthesisBlock

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        layout = LAYOUTS[config.superresolution]
        self.layout = layout
        self.antialias = config.sr_antialias
        self.noise_mode = config.sr_noise_mode
        fp16 = config.sr_num_fp16_res > 0
        resolution, in_channels = layout.input_resolution, PLANE_CHANNELS
        for i in range(2):
            resolution *= 2 if layout.up[i] else 1
            block = SynthesisBlock(
                in_channels,
                layout.channels[i],
                config.w_dim,
                resolution,
                3,
                up=layout.up[i],
                conv_clamp=CONV_CLAMP if fp16 else None,
                fp16=fp16,
            )
            setattr(self, f"block{i}", block)
            in_channels = layout.channels[i]
        if resolution != config.img_resolution:
            raise ValueError(
                f"Super-resolution {config.superresolution} makes {resolution} px, "
                f"but the generator says {config.img_resolution} px."
            )
        if layout.unused_filter:
            self.register_buffer("resample_filter", fir_kernel())

    def forward(
        self,
        features: Tensor,
        ws: Tensor,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Upscale a feature image of any size.

        Args:
            features: [B, 32, r, r] in [-1, 1]; the first three channels are the raw image.
            ws: [B or 1, num_ws, w_dim], of which the last latent is used.
            generator: RNG of noise mode "random".
            dtype: type of the convolutions; None: as configured.

        Returns:
            image [B, 3, R, R], about [-1, 1], not clipped.

        Raises:
            ValueError: features larger than this architecture takes.
        """
        return self.upscale(self.resized(features), ws, generator, dtype)

    def resized(self, features: Tensor) -> Tensor:
        """Resize features [B, 32, r, r] to the resolution that the first block takes."""
        size, target = features.shape[-1], self.layout.input_resolution
        if size == target:
            return features
        if size > target and not self.layout.resize_larger:
            raise ValueError(
                f"This generator's super-resolution takes at most {target} px; "
                f"use a neural resolution <= {target}, not {size}."
            )
        return F.interpolate(
            features, (target, target), mode="bilinear", align_corners=False, antialias=self.antialias
        )

    def upscale(
        self,
        features: Tensor,
        ws: Tensor,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Upscale features [B, 32, h, w] that need no resizing; with noise mode "none", patches of any size.

        Other arguments and the result are those of `forward`.
        """
        if len(ws) > 1 and ws.stride(0) == 0:
            ws = ws[:1]  # one latent from several cameras: the weights are modulated once
        last = ws[:, -1:].expand(-1, 3, -1)
        if features.device.type == "cpu":
            features = features.contiguous(memory_format=torch.channels_last)
        x, rgb = self.block0(features, features[:, :3], last, self.noise_mode, generator, dtype)
        if x.device.type == "cpu" and self.noise_mode == "none" and not torch.is_grad_enabled():
            row = self.block1.conv1.weight.shape[0] * x.shape[3] * (4 if self.block1.up else 1) * x.itemsize
            if len(x) * x.shape[2] * row > _STRIP_BYTES:
                return self._in_strips(x, rgb, last, max(1, _STRIP_BYTES // row), dtype)
        return self.block1(x, rgb, last, self.noise_mode, generator, dtype)[1]

    def _in_strips(self, x: Tensor, rgb: Tensor, ws: Tensor, rows: int, dtype: torch.dtype | None) -> Tensor:
        """Apply the second block strip by strip, with the same result as in one piece.

        Each strip has `_HALO` more rows above and below, whose results are discarded.

        Args:
            x: features [B, C, h, w] of the first block.
            rgb: image [B, 3, h, w] of the first block.
            ws: [B or 1, 3, w_dim].
            rows: maximum number of input rows per strip.
            dtype: type of the convolutions.

        Returns:
            image [B, 3, H, W].
        """
        scale, height = 2 if self.block1.up else 1, x.shape[2]
        image = upsample(rgb) if self.block1.up else rgb.clone()
        rows = math.ceil(height / math.ceil(height / rows))
        for b, first in product(range(len(x)), range(0, height, rows)):
            last = min(first + rows, height)
            begin, end = max(0, first - _HALO), min(height, last + _HALO)
            strip = x[b : b + 1, :, begin:end]
            if x.is_contiguous(memory_format=torch.channels_last):
                strip = strip.contiguous(memory_format=torch.channels_last)
            styles = ws[b : b + 1] if len(ws) > 1 else ws
            made = self.block1(strip, None, styles, self.noise_mode, None, dtype)[1]
            kept = made[0, :, (first - begin) * scale : (last - begin) * scale]
            image[b, :, first * scale : last * scale] += kept
        return image
