"""Layers of StyleGAN2, as EG3D uses them: equalised fully-connected, modulated convolution, ToRGB, block."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..randomness import normal

LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2)


def normalize_2nd_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scales each row of [B, C] to mean square 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def lrelu(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU times sqrt(2), then the clamp."""
    x = F.leaky_relu(x, LRELU_SLOPE) * LRELU_GAIN
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
    """Zeros between samples, then the low-pass filter of `fir_kernel`.

    The gradient is written out for that filter: torch's own is several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        b, c, h, w = x.shape
        spread = x.new_zeros(b, c, h, 2, w, 2)
        spread[:, :, :, 0, :, 0] = x
        return fir(spread.view(b, c, 2 * h, 2 * w), kernel, (2, 1, 2, 1), gain=4)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        g = F.pad(grad, (0, 0, 1, 1))
        g = 0.75 * (g[:, :, 1:-2:2] + g[:, :, 2:-1:2]) + 0.25 * (g[:, :, :-3:2] + g[:, :, 3::2])
        g = F.pad(g, (1, 1))
        return 0.75 * (g[..., 1:-2:2] + g[..., 2:-1:2]) + 0.25 * (g[..., :-3:2] + g[..., 3::2]), None


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W]: zeros inserted after every sample, then the filter of `fir_kernel`."""
    return _Doubled.apply(x, kernel)


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

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """x [B, in, H, W] and w [B, w_dim] -> [B, out, H or 2H, ...]. Noise: "const", "random" or "none"."""
        kernel = self.resample_filter if self.up else None
        x = modulated_conv(x, self.weight, self.affine(w), up_kernel=kernel)
        if noise_mode == "const":
            noise = self.noise_const if self._fits(x) else self._crop(x)
            x = x + (noise * self.noise_strength).to(x.dtype)
        elif noise_mode == "random":
            shape = (x.shape[0], 1, *x.shape[2:])
            noise = normal(shape, generator, x.device)
            x = x + (noise * self.noise_strength).to(x.dtype)
        elif noise_mode != "none":
            raise ValueError(f"noise_mode must be 'const', 'random' or 'none', not {noise_mode!r}.")
        return lrelu(x + self.bias.to(x.dtype)[:, None, None], self.conv_clamp)

    def _fits(self, x: Tensor) -> bool:
        return x.shape[-2:] == self.noise_const.shape

    def _crop(self, x: Tensor) -> Tensor:
        raise ValueError(
            f"Constant noise has {list(self.noise_const.shape)} pixels, the features have "
            f"{list(x.shape[-2:])}. Use noise_mode='none' for patches."
        )


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
        x = modulated_conv(x, self.weight, styles, demodulate=False)
        x = x + self.bias.to(x.dtype)[:, None, None]
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


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
        """Features and image at the previous resolution, and ws [B, 2 or 3, w_dim], to those at this one.

        dtype: of the convolutions; None: half precision where the block asks for it and the device has it.
        """
        latents = iter(ws.unbind(dim=1))
        if self.first:
            x = self.const.to(torch.float32).expand(ws.shape[0], -1, -1, -1)
        else:
            assert x is not None
            if dtype is None:
                dtype = torch.float16 if self.fp16 and x.device.type != "cpu" else torch.float32
            x = self.conv0(x.to(dtype), next(latents), noise_mode, generator)
        x = self.conv1(x, next(latents), noise_mode, generator)
        rgb = self.torgb(x, next(latents)).to(torch.float32)
        if img is not None:
            rgb = (upsample(img, self.resample_filter) if self.up else img) + rgb
        return x, rgb
