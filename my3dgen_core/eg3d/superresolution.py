"""Super-resolution: the raw feature image to the final one, by two StyleGAN2 blocks on the last w."""

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
_STRIP_BYTES = 24 << 20
"""Larger features are made strip by strip on a CPU. The C library keeps freed buffers of up to 32 MiB for the
next; larger ones it asks of the system each time, page by page, which takes longer than to fill them."""
_HALO = 2  # rows of its input that a row of a block's output depends on, to either side


@dataclass(frozen=True)
class Layout:
    input_resolution: int
    channels: tuple[int, int]
    up: tuple[bool, bool]
    resize_larger: bool = True
    """False: a larger input is an error, as in the reference."""
    spare_filter: bool = True
    """The checkpoint holds an unused `superresolution.resample_filter`."""


LAYOUTS = {
    "8XDC": Layout(128, (256, 128), (True, True), spare_filter=False),
    "8X": Layout(128, (128, 64), (True, True)),
    "4X": Layout(128, (128, 64), (False, True), resize_larger=False),
    "2X": Layout(64, (128, 64), (False, True)),
}


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 on a CPU that multiplies in it, where it halves the time; None elsewhere."""
    known: dict[str, object] = {}
    if device.type == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if known.get("avx512_bf16") or known.get("amx_bf16") else None


class SuperResolution(nn.Module):
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
        if layout.spare_filter:
            self.register_buffer("resample_filter", fir_kernel())

    def forward(
        self,
        features: Tensor,
        ws: Tensor,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Feature image [B, 32, r, r] (its first three: rgb), ws [B or 1, ...] -> image [B, 3, R, R].

        dtype: of the convolutions; None: the generator's own.
        """
        return self.upscale(self.resized(features), ws, generator, dtype)

    def resized(self, features: Tensor) -> Tensor:
        """The features at the resolution that the first block takes."""
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
        """As `forward`, for features of the right scale: a patch of any size will do when noise is "none"."""
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
        """The second block, some rows of one picture at a time: the same numbers from small buffers.

        Each strip sees `_HALO` rows more on either side, whose results are thrown away.
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
