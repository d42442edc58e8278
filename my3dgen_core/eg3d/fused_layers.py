"""StyleGAN2's synthesis layer as one autograd function with a hand-written gradient.

Run one by one, modulated convolution, filter, noise, bias, leaky ReLU, gain and clamp allocate seven tensors
of the layer's size, and autograd keeps most of them. Here one tensor is changed in place, and only the
layer's input and output are saved for the backward pass, which derives the rest from them. Gains and, where
all pictures share their styles, modulation and demodulation are multiplied into the weight, which is the
smaller tensor.

A low-rank update has gradients of its own (`LowRank`): the gradient of the full weight, which costs as much
as the forward pass, is never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SLOPE = 0.2
"""Slope of the leaky ReLU for negative inputs."""
GAIN = 2**0.5
"""Gain of the activation, which keeps the variance."""


@dataclass(frozen=True)
class LowRank:
    """Low-rank update of a layer's weight, up @ down; gradients flow into both factors."""

    up: Tensor
    """[out, R], scaling included."""
    down: Tensor
    """[R, in*k*k]."""


def synthesis(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    *,
    up_kernel: Tensor | None = None,
    clamp: float | None = None,
    low_rank: LowRank | None = None,
) -> Tensor:
    """Compute lrelu(modulated convolution of x + noise + bias) * sqrt(2), clamped. Differentiable once.

    Args:
        x: [B, in, H, W], float32 or float64. Half precision only with shared styles and without gradients:
            the weight is modulated in single precision, which keeps its values near 1, and then rounded.
        weight: [out, in, k, k].
        styles: [B or 1, in]; 1: shared by all pictures.
        bias: [out].
        noise: [B or 1, 1, H', W'], of the output's resolution.
        up_kernel: the symmetric low-pass filter [4, 4]; given, the output is upsampled by 2.
        clamp: the output is clamped to [-clamp, clamp]; None: not clamped.
        low_rank: added to the weight, which then gets no gradient.

    Returns:
        [B, out, H', W']: H x W, or 2H x 2W with `up_kernel`.
    """
    if low_rank is None:
        energy, up, down = weight.square().sum((2, 3)), None, None
    else:
        up, down = low_rank.up, low_rank.down
        weight, energy = _ComposedWeight.apply(weight.detach(), up, down)
    scale = (F.linear(styles.square(), energy) + 1e-8).rsqrt()
    return _FusedLayer.apply(x, weight, styles, scale, bias, noise, up, down, up_kernel, clamp)


class _ComposedWeight(torch.autograd.Function):
    """Composed weight, and the energy of its kernels, which the demodulation needs.

    The composed weight has no gradient here: `_FusedLayer` computes those of the factors.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """Compose weight + up @ down.

        Args:
            weight: [out, in, k, k].
            up, down: [out, R] and [R, in*k*k].

        Returns:
            composed weight [out, in, k, k] and the sums of squares of its kernels [out, in].
        """
        composed = torch.addmm(weight.flatten(1), up, down).view_as(weight)
        ctx.save_for_backward(composed, up, down)
        ctx.mark_non_differentiable(composed)
        return composed, composed.square().sum((2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        """Gradient of the sums of squares [out, in] -> gradients of up [out, R] and down [R, in*k*k]."""
        composed, up, down = ctx.saved_tensors
        full = (composed * (2 * grad)[:, :, None, None]).flatten(1)
        return None, full @ down.mT, up.mT @ full


class _FusedLayer(torch.autograd.Function):
    """Synthesis layer as one function. Shapes: H' x W' is H x W, or 2H x 2W with a filter `kernel`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        styles: Tensor,
        scale: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        up: Tensor | None,
        down: Tensor | None,
        kernel: Tensor | None,
        clamp: float | None,
    ) -> Tensor:
        """Apply the layer.

        Args:
            x: [B, in, H, W].
            weight: [out, in, k, k], with the low-rank update.
            styles: [B or 1, in].
            scale: demodulation factors [B or 1, out].
            bias: [out].
            noise: [B or 1, 1, H', W'], or None.
            up, down: factors of the low-rank update [out, R] and [R, in*k*k], or None.
            kernel: low-pass filter [4, 4] of the upsampling, or None.
            clamp: limit of the output's magnitude, or None.

        Returns:
            [B, out, H', W'].
        """
        gained = bias * GAIN
        shared = len(styles) == 1
        if shared:
            w = weight * (scale.mT * styles * GAIN)[:, :, None, None]
            x_, offset = x, gained.to(x.dtype)
        else:
            x_, w, offset = x * styles[:, :, None, None], weight, None
        y = _convolve(x_, w.to(x.dtype), offset, kernel)
        if not shared:
            y.mul_((scale * GAIN)[:, :, None, None]).add_(gained[:, None, None])
        if noise is not None:
            y.add_((noise * GAIN).to(y.dtype))
        F.leaky_relu_(y, SLOPE)
        if clamp is not None:
            y.clamp_(-clamp, clamp)
        ctx.clamp = clamp
        ctx.save_for_backward(x, weight, styles, scale, bias, noise, up, down, kernel, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the output [B, out, H', W'] -> gradients of `forward`'s arguments, each of its shape.

        With a low-rank update the gradients of its factors take the place of the weight's.
        """
        x, weight, styles, scale, bias, noise, up, down, kernel, y = ctx.saved_tensors
        _, wants_weight, wants_styles, wants_scale, wants_bias, wants_noise, *_ = ctx.needs_input_grad
        shared = len(styles) == 1
        if y.is_contiguous(memory_format=torch.channels_last):
            grad = grad.contiguous(memory_format=torch.channels_last)
        if ctx.clamp is not None:
            grad = torch.ops.aten.hardtanh_backward(grad, y, -ctx.clamp, ctx.clamp)
        # Times GAIN, g is the gradient of the activation's input.
        g = torch.ops.aten.leaky_relu_backward(grad, y, SLOPE, True)
        g_bias = g_noise = g_scale = g_styles = g_weight = g_up = g_down = None
        sums = g.sum((2, 3)) * GAIN
        if wants_bias:
            g_bias = sums.sum(0)
        if wants_noise:
            g_noise = (g.sum(1, keepdim=True) * GAIN).sum_to_size(noise.shape)
        if wants_scale:
            # The product of gradient and value is the same before and after the activation; `scale` does not
            # act on noise and bias.
            product = (grad * y).sum((2, 3)) - sums * bias
            if noise is not None:
                product = product - GAIN * (noise.flatten(2) @ g.flatten(2).mT)[:, 0]
            g_scale = (product / scale).sum_to_size(scale.shape)
        del grad
        if kernel is not None:
            g = _low_pass(g, kernel, 2)
        factor = scale * GAIN
        if not shared:
            g.mul_(factor[:, :, None, None])
            factor = torch.ones_like(factor[:1])
        if up is not None:
            g_up, g_down = _low_rank_gradients(x, g, styles, factor, up, down, kernel is not None)
        elif wants_weight:
            x_ = x if shared else x * styles[:, :, None, None]
            g_weight = _convolution_gradient(g, x_, weight, kernel is not None, of_weight=True)
            if shared:
                g_weight.mul_((factor.mT * styles)[:, :, None, None])
        w = weight * factor[0, :, None, None, None] if shared else weight
        g = _convolution_gradient(g, x, w, kernel is not None, of_weight=False)
        if wants_styles:
            g_styles = (g * x).sum((2, 3)).sum_to_size(styles.shape)
        return (
            g.mul_(styles[:, :, None, None]),
            g_weight,
            g_styles,
            g_scale,
            g_bias,
            g_noise,
            g_up,
            g_down,
            None,
            None,
        )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Tensor | None) -> Tensor:
    """Convolve x [B, in, H, W] with weight [out, in, k, k]; with `kernel`, upsample by 2.

    Upsampling is a transposed convolution of stride 2 followed by the low-pass filter `kernel` [4, 4].
    """
    if kernel is None:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
    return _low_pass(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), kernel, 1, bias)


def _low_pass(x: Tensor, kernel: Tensor, padding: int, bias: Tensor | None = None) -> Tensor:
    """Filter each channel of x [B, C, H, W] by kernel [4, 4] with gain 4, and add bias [C]."""
    channels = x.shape[1]
    taps = (kernel * 4).to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv2d(x, taps, bias, padding=padding, groups=channels)


def _convolution_gradient(g: Tensor, x: Tensor, weight: Tensor, transposed: bool, of_weight: bool) -> Tensor:
    """Return the gradient of a convolution with respect to the weight or to x.

    Args:
        g: gradient of the output [B, out, H', W'].
        x: input [B, in, H, W].
        weight: [out, in, k, k].
        transposed: a transposed convolution of stride 2; else one of stride 1 with padding k // 2.
        of_weight: return the gradient of the weight [out, in, k, k]; else that of x [B, in, H, W].
    """
    w = weight.transpose(0, 1) if transposed else weight
    stride, padding = (2, 0) if transposed else (1, weight.shape[-1] // 2)
    wanted = [not of_weight, of_weight, False]
    both = torch.ops.aten.convolution_backward(
        g, x, w, None, [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1, wanted
    )
    if of_weight:
        return both[1].transpose(0, 1) if transposed else both[1]
    return both[0]


def _low_rank_gradients(
    x: Tensor, g: Tensor, styles: Tensor, factor: Tensor, up: Tensor, down: Tensor, transposed: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the factors of a low-rank update.

    Both factors are applied as matrices to R*k*k channels, a few percent of the convolution's cost.

    Args:
        x: input of the convolution [B, in, H, W].
        g: gradient of the convolution's output [B, out, H', W'].
        styles: [B or 1, in].
        factor: factors of the output channels [1, out].
        up, down: [out, R] and [R, in*k*k].
        transposed: see `_convolution_gradient`.

    Returns:
        gradients of up [out, R] and of down [R, in*k*k].
    """
    rank, inside = len(up.mT), x.shape[1]
    side = round((down.shape[1] / inside) ** 0.5)
    kernels = down.view(rank, inside, side, side)
    if not transposed:
        kernels = kernels.flip((2, 3))
    geometry: dict[str, Any] = {"stride": 2} if transposed else {"padding": side // 2}
    # Output of `down` [B, R, H', W'].
    taps = kernels.permute(0, 2, 3, 1).reshape(1, -1, inside) * styles[:, None]
    reduced = F.fold(mix_channels(taps, x).flatten(2), g.shape[2:], side, **geometry)
    g_up = correlate_channels(reduced, g).sum(0).mT * factor.mT
    # Gradient of that output, moved to the pixels that each tap of `down` reads [B, R*k*k, H, W].
    moved = F.unfold(mix_channels((up * factor.mT).mT[None], g), side, **geometry).unflatten(2, x.shape[2:])
    g_taps = (correlate_channels(moved, x) * styles[:, None]).sum(0)
    g_taps = g_taps.view(rank, side, side, inside).permute(0, 3, 1, 2)
    if not transposed:
        g_taps = g_taps.flip((2, 3))
    return g_up, g_taps.reshape(rank, -1)


def mix_channels(weights: Tensor, x: Tensor) -> Tensor:
    """Multiply channels of x [B, C, H, W] by matrices [B or 1, R, C], R far below C: [B, R, H, W].

    Runs as a convolution on a CPU, where matrix products this thin take up to five times as long.
    """
    if x.device.type != "cpu":
        return (weights @ x.flatten(2)).unflatten(2, x.shape[2:])
    if len(weights) == 1:
        return F.conv2d(x, weights[0, :, :, None, None])
    parts = zip(x.split(1), weights, strict=True)
    return torch.cat([F.conv2d(picture, w[:, :, None, None]) for picture, w in parts])


def correlate_channels(a: Tensor, x: Tensor) -> Tensor:
    """Sum products of a [B, R, H, W] and x [B, C, H, W] over the pixels: [B, R, C].

    Runs as the gradient of a convolution's weight on a CPU, where that is up to nine times faster.
    """
    if x.device.type != "cpu":
        return a.flatten(2) @ x.flatten(2).mT
    shape = x.new_empty(1).expand(a.shape[1], x.shape[1], 1, 1)
    return torch.stack(
        [
            torch.ops.aten.convolution_backward(
                one, other, shape, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
            )[1][:, :, 0, 0]
            for one, other in zip(a.split(1), x.split(1), strict=True)
        ]
    )
