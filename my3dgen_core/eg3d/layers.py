"""Layers of StyleGAN2, as EG3D uses them: equalised fully-connected, modulated convolution, ToRGB, block."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..common.rng import normal
from .fused_layers import GAIN, SLOPE, LowRank, synthesis


def normalize_2nd_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scales each row of [B, C] to mean square 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def lrelu(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU times sqrt(2), then the clamp."""
    x = F.leaky_relu(x, SLOPE) * GAIN
    return x if clamp is None else x.clamp(-clamp, clamp)


def fir_kernel() -> Tensor:
    """The low-pass filter of every resampling, [4, 4], sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def fir(x: Tensor, kernel: Tensor, padding: tuple[int, int, int, int], gain: float = 1.0) -> Tensor:
    """True convolution of every channel with `kernel` [k, k]; padding is (left, right, top, bottom)."""
    channels = x.shape[1]
    weight = (kernel * gain).flip((0, 1)).to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv2d(F.pad(x, padding), weight, groups=channels)


class _Doubled(torch.autograd.Function):
    """Zeros between samples, then the low-pass filter of `fir_kernel`: bilinear, but for zeros at the rim.

    The gradient is written out: torch's own is several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        doubled = F.interpolate(
            F.pad(x, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return doubled[:, :, 2:-2, 2:-2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        g = F.pad(grad, (0, 0, 1, 1))
        g = 0.75 * (g[:, :, 1:-2:2] + g[:, :, 2:-1:2]) + 0.25 * (g[:, :, :-3:2] + g[:, :, 3::2])
        g = F.pad(g, (1, 1))
        return 0.75 * (g[..., 1:-2:2] + g[..., 2:-1:2]) + 0.25 * (g[..., :-3:2] + g[..., 3::2])


def upsample(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W]: zeros inserted after every sample, then the filter of `fir_kernel`."""
    return _Doubled.apply(x)


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up_kernel: Tensor | None = None,
) -> Tensor:
    """Convolution whose input channels are scaled by `styles`, outputs renormalised to unit variance.

    Args:
        x: [B, in, H, W].
        weight: [out, in, k, k].
        styles: [B, in].
        demodulate: divide each output channel by the norm of its modulated weight.
        up_kernel: the low-pass filter [4, 4]; given, the output is [B, out, 2H, 2W].

    The scales are applied to activations, not weights, so one dense convolution serves the whole batch.
    """
    half = x.dtype in (torch.float16, torch.bfloat16)
    if half and demodulate:  # the norm cancels in the demodulation; without it half precision overflows
        fan_in = weight[0].numel()
        weight = weight * weight.abs().amax((1, 2, 3), keepdim=True).reciprocal() / math.sqrt(fan_in)
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    scale = None
    if demodulate:
        energy = weight.square().sum((2, 3)).to(styles.dtype)
        power = torch.einsum("bi,oi->bo", styles.square(), energy)
        scale = (power + 1e-8).rsqrt().to(x.dtype)
    weight = weight.to(x.dtype)
    x = x * styles.to(x.dtype)[:, :, None, None]
    if up_kernel is None:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    else:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        x = fir(x, up_kernel, (1, 1, 1, 1), gain=4)
    return x if scale is None else x * scale[:, :, None, None]


class FullyConnected(nn.Module):
    """x [B, in] -> [B, out]; stored weights have unit variance and are scaled at run time (equalised)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) * self.weight_gain
        x = F.linear(x, weight, self.bias.to(x.dtype) * self.bias_gain)
        return lrelu(x) if self.activate else x


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: bool = False,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up = up
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", fir_kernel())
        self.low_rank: LowRank | None = None
        """An update in training, beside the weight (see `adapter.trained`)."""

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """x [B, in, H, W] and w [B or 1, w_dim] -> [B, out, H or 2H, ...].

        noise_mode: "const", "random" or "none".
        """
        kernel = self.resample_filter if self.up else None
        noise = self._noise(
            (len(x), 1, *(side * (1 + self.up) for side in x.shape[2:])), noise_mode, generator
        )
        styles = self.affine(w)
        half = x.dtype in (torch.float16, torch.bfloat16)
        # Under autocast the written-out gradient would meet other types than the forward did.
        mixed = torch.is_autocast_enabled("cuda" if x.device.type == "cuda" else "cpu")
        if not mixed and (not half or (len(styles) == 1 and not torch.is_grad_enabled())):
            precise = torch.float32 if half else x.dtype
            return synthesis(
                x,
                self.weight.to(precise),
                styles.to(precise),
                self.bias.to(precise),
                None if noise is None else noise.to(precise),
                up_kernel=kernel,
                clamp=self.conv_clamp,
                low_rank=self.low_rank,
            )
        weight: Tensor = self.weight
        if self.low_rank is not None:
            weight = weight + (self.low_rank.up @ self.low_rank.down).view_as(weight)
        x = modulated_conv(x, weight, styles, up_kernel=kernel)
        if noise is not None:
            x = x + noise.to(x.dtype)
        return lrelu(x + self.bias.to(x.dtype)[:, None, None], self.conv_clamp)

    def _noise(
        self, shape: tuple[int, ...], noise_mode: str, generator: torch.Generator | None
    ) -> Tensor | None:
        """What is added to all channels of an output of that shape, [1 or B, 1, H, W]."""
        if noise_mode == "none":
            return None
        if noise_mode == "random":
            return normal(shape, generator, self.noise_const.device) * self.noise_strength
        if noise_mode != "const":
            raise ValueError(f"noise_mode must be 'const', 'random' or 'none', not {noise_mode!r}.")
        if shape[2:] != self.noise_const.shape:
            raise ValueError(
                f"Constant noise has {list(self.noise_const.shape)} pixels, the features have "
                f"{list(shape[2:])}. Use noise_mode='none' for patches."
            )
        return (self.noise_const * self.noise_strength)[None, None]


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation: features to image (or plane) channels."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        if len(styles) == 1:
            weight = (self.weight * styles[:, :, None, None]).to(x.dtype)  # the smaller tensor is modulated
            x = _pointwise(x, weight, self.bias.to(x.dtype))
        else:
            x = modulated_conv(x, self.weight, styles, demodulate=False)
            x = x + self.bias.to(x.dtype)[:, None, None]
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution. Of channels side by side on a CPU it is a matrix product, and they stay so.

    On a single thread PyTorch's convolution would lay them out anew, in and out.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.permute(0, 2, 3, 1).is_contiguous():
        return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias)


class SynthesisBlock(nn.Module):
    """Two convolutions (one in the first block) and a ToRGB that adds to the upsampled image so far."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        up: bool = True,
        conv_clamp: float | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__()
        self.up = up
        self.fp16 = fp16
        self.first = in_channels == 0
        self.register_buffer("resample_filter", fir_kernel())
        if self.first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim, resolution, up=up, conv_clamp=conv_clamp
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, conv_clamp=conv_clamp)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        noise_mode: str = "const",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and image at the previous resolution, ws [B or 1, 2 or 3, w_dim] -> those at this one.

        dtype: of the convolutions; None: half precision where the block asks for it and the device has it.
        """
        latents = iter(ws.unbind(dim=1))
        if self.first:
            x = self.const.to(torch.float32).expand(ws.shape[0], -1, -1, -1)
            if x.device.type == "cpu":  # all that follows keeps its channels side by side: far faster there
                x = x.contiguous(memory_format=torch.channels_last)
        else:
            assert x is not None
            if dtype is None:
                dtype = torch.float16 if self.fp16 and x.device.type != "cpu" else torch.float32
            x = self.conv0(x.to(dtype), next(latents), noise_mode, generator)
        x = self.conv1(x, next(latents), noise_mode, generator)
        rgb = self.torgb(x, next(latents)).to(torch.float32)
        if img is not None:
            rgb = (upsample(img) if self.up else img) + rgb
        return x, rgb
