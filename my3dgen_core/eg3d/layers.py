"""StyleGAN2 layers as EG3D uses them: fully-connected, modulated convolution, ToRGB, synthesis block."""

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
    """Scale each row of [B, C] to mean square 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def lrelu(x: Tensor, clamp: float | None = None) -> Tensor:
    """Apply leaky ReLU and multiply by sqrt(2); then clamp to [-clamp, clamp], if given."""
    x = F.leaky_relu(x, SLOPE) * GAIN
    return x if clamp is None else x.clamp(-clamp, clamp)


def fir_kernel() -> Tensor:
    """Return the low-pass filter of every resampling: [4, 4], sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def fir(x: Tensor, kernel: Tensor, padding: tuple[int, int, int, int], gain: float = 1.0) -> Tensor:
    """Convolve (not correlate) every channel of x with a filter.

    Args:
        x: [B, C, H, W].
        kernel: [k, k].
        padding: zeros added at (left, right, top, bottom).
        gain: factor of the filter.

    Returns:
        [B, C, H + top + bottom - k + 1, W + left + right - k + 1].
    """
    channels = x.shape[1]
    weight = (kernel * gain).flip((0, 1)).to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv2d(F.pad(x, padding), weight, groups=channels)


class _Upsample(torch.autograd.Function):
    """Upsampling by 2 as zero insertion and `fir_kernel` with gain 4: bilinear interpolation, zero-padded.

    The gradient is hand-written: that of torch's interpolation is several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, 2H, 2W]."""
        doubled = F.interpolate(
            F.pad(x, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return doubled[:, :, 2:-2, 2:-2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Gradient of the output [B, C, 2H, 2W] -> gradient of x [B, C, H, W]."""
        g = F.pad(grad, (0, 0, 1, 1))
        g = 0.75 * (g[:, :, 1:-2:2] + g[:, :, 2:-1:2]) + 0.25 * (g[:, :, :-3:2] + g[:, :, 3::2])
        g = F.pad(g, (1, 1))
        return 0.75 * (g[..., 1:-2:2] + g[..., 2:-1:2]) + 0.25 * (g[..., :-3:2] + g[..., 3::2])


def upsample(x: Tensor) -> Tensor:
    """Upsample [B, C, H, W] to [B, C, 2H, 2W]: a zero after every sample, then `fir_kernel` with gain 4."""
    return _Upsample.apply(x)


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up_kernel: Tensor | None = None,
) -> Tensor:
    """Convolve with modulated and demodulated weights (StyleGAN2, section 2.2).

    The scales are applied to the activations, not to the weights, so that the whole batch shares one dense
    convolution.

    Args:
        x: [B, in, H, W].
        weight: [out, in, k, k].
        styles: factors of the input channels [B, in].
        demodulate: divide each output channel by the norm of its modulated weight.
        up_kernel: the low-pass filter [4, 4]; given, the output is upsampled by 2.

    Returns:
        [B, out, H, W], or [B, out, 2H, 2W] with `up_kernel`.
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
    """Fully-connected layer with equalized learning rate: unit-variance weights, scaled at run time."""

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
        """x [..., in] -> [..., out]."""
        weight = self.weight.to(x.dtype) * self.weight_gain
        x = F.linear(x, weight, self.bias.to(x.dtype) * self.bias_gain)
        return lrelu(x) if self.activate else x


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, optionally upsampling by 2, then noise, bias and leaky ReLU."""

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
        """Low-rank update in training, beside the weight; written by `apply.with_trainable_adapter` alone."""

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """Apply the layer.

        Args:
            x: [B, in, H, W].
            w: [B or 1, w_dim]; 1: shared by all pictures.
            noise_mode: "const", "random" or "none".
            generator: RNG of noise_mode "random".

        Returns:
            [B, out, H, W], or [B, out, 2H, 2W] where the layer upsamples.

        Raises:
            ValueError: unknown noise mode, or "const" at another resolution than the layer's own.
        """
        kernel = self.resample_filter if self.up else None
        noise = self._noise(
            (len(x), 1, *(side * (1 + self.up) for side in x.shape[2:])), noise_mode, generator
        )
        styles = self.affine(w)
        half = x.dtype in (torch.float16, torch.bfloat16)
        # Under autocast the hand-written backward would run in other types than the forward.
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
        """Return the noise [1 or B, 1, H, W] for an output of `shape` [B, 1, H, W]; None if there is none."""
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
        """x [B, in, H, W] and w [B or 1, w_dim] -> [B, out, H, W]."""
        styles = self.affine(w) * self.weight_gain
        if len(styles) == 1:
            weight = (self.weight * styles[:, :, None, None]).to(x.dtype)  # smaller than x
            x = _pointwise(x, weight, self.bias.to(x.dtype))
        else:
            x = modulated_conv(x, self.weight, styles, demodulate=False)
            x = x + self.bias.to(x.dtype)[:, None, None]
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a 1x1 convolution: x [B, in, H, W], weight [out, in, 1, 1] and bias [out] -> [B, out, H, W].

    Channels-last float32 on a CPU goes through a matrix product, which keeps the memory format: on a single
    thread PyTorch's convolution reorders both input and output.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.permute(0, 2, 3, 1).is_contiguous():
        return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias)


class SynthesisBlock(nn.Module):
    """Two synthesis layers (one in the first block) and a ToRGB that adds to the upsampled image."""

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
        """Apply the block. Shapes: r is its resolution, p its input's (r / 2 where it upsamples, else r).

        Args:
            x: features [B, in, p, p]; None in the first block.
            img: image [B, img_channels, p, p]; None: none so far.
            ws: [B or 1, 3, w_dim], one latent per layer; [B, 2, w_dim] in the first block.
            noise_mode: "const", "random" or "none".
            generator: RNG of noise_mode "random".
            dtype: type of the convolutions; None: half precision if the block is set to `fp16` and runs on
                another device than a CPU, else float32.

        Returns:
            features [B, out, r, r] and image [B, img_channels, r, r], float32.
        """
        latents = iter(ws.unbind(dim=1))
        if self.first:
            x = self.const.to(torch.float32).expand(ws.shape[0], -1, -1, -1)
            if x.device.type == "cpu":  # later layers keep this memory format: far faster there
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
