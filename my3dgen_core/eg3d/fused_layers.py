"""A synthesis layer as one operation, with its gradient written out.

Modulated convolution, filter, noise, bias, leaky ReLU, gain and clamp, one after the other, make seven
tensors of the layer's size, and autograd keeps most of them. Here there is one, changed in place, and
training remembers a layer's input and output alone: everything else follows from them. Gains and, where all
pictures share their styles, modulation and demodulation go into the weight, which is the smaller tensor.

A low-rank update has gradients of its own (`LowRank`), so that the weight's, which costs as much as the whole
layer did, is never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SLOPE = 0.2
GAIN = 2**0.5


@dataclass(frozen=True)
class LowRank:
    """up [out, R] @ down [R, in*k*k], added to a layer's weight. Gradients flow into both."""

    up: Tensor
    down: Tensor


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
    """lrelu(modulated convolution of x + noise + bias) * sqrt(2), clamped. Differentiable once.

    Args:
        x: [B, in, H, W]. In half precision, with shared styles, without gradients: the weight is modulated
            in single precision, which keeps it at size 1, and then rounded.
        weight: [out, in, k, k].
        styles: [B or 1, in]; 1: all pictures share them.
        bias: [out].
        noise: [B or 1, 1, H', W'].
        up_kernel: the symmetric low-pass filter [4, 4]; given, the output is [B, out, 2H, 2W].
        low_rank: added to the weight, which gets no gradient then.
    """
    if low_rank is None:
        energy, up, down = weight.square().sum((2, 3)), None, None
    else:
        up, down = low_rank.up, low_rank.down
        weight, energy = _Composed.apply(weight.detach(), up, down)
    scale = (F.linear(styles.square(), energy) + 1e-8).rsqrt()
    return _Layer.apply(x, weight, styles, scale, bias, noise, up, down, up_kernel, clamp)


class _Composed(torch.autograd.Function):
    """weight + up @ down, without gradient, and with it the sum of squares of each kernel [out, in]."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        composed = torch.addmm(weight.flatten(1), up, down).view_as(weight)
        ctx.save_for_backward(composed, up, down)
        ctx.mark_non_differentiable(composed)
        return composed, composed.square().sum((2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        composed, up, down = ctx.saved_tensors
        full = (composed * (2 * grad)[:, :, None, None]).flatten(1)
        return None, full @ down.mT, up.mT @ full


class _Layer(torch.autograd.Function):
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
        gained = bias * GAIN
        shared = len(styles) == 1
        if shared:
            w = weight * (scale.mT * styles * GAIN)[:, :, None, None]
            x_, offset = x, gained.to(x.dtype)
        else:
            x_, w, offset = x * styles[:, :, None, None], weight, None
        y = _convolved(x_, w.to(x.dtype), offset, kernel)
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
        x, weight, styles, scale, bias, noise, up, down, kernel, y = ctx.saved_tensors
        _, wants_weight, wants_styles, wants_scale, wants_bias, wants_noise, *_ = ctx.needs_input_grad
        shared = len(styles) == 1
        if y.is_contiguous(memory_format=torch.channels_last):
            grad = grad.contiguous(memory_format=torch.channels_last)
        if ctx.clamp is not None:
            grad = torch.ops.aten.hardtanh_backward(grad, y, -ctx.clamp, ctx.clamp)
        g = torch.ops.aten.leaky_relu_backward(grad, y, SLOPE, True)  # times GAIN: the activation's input's
        g_bias = g_noise = g_scale = g_styles = g_weight = g_up = g_down = None
        sums = g.sum((2, 3)) * GAIN
        if wants_bias:
            g_bias = sums.sum(0)
        if wants_noise:
            g_noise = (g.sum(1, keepdim=True) * GAIN).sum_to_size(noise.shape)
        if wants_scale:
            # gradient times value is the same before and after the activation; noise and bias are not scaled
            product = (grad * y).sum((2, 3)) - sums * bias
            if noise is not None:
                product = product - GAIN * (noise.flatten(2) @ g.flatten(2).mT)[:, 0]
            g_scale = (product / scale).sum_to_size(scale.shape)
        del grad
        if kernel is not None:
            g = _filtered(g, kernel, 2)
        factor = scale * GAIN
        if not shared:
            g.mul_(factor[:, :, None, None])
            factor = torch.ones_like(factor[:1])
        if up is not None:
            g_up, g_down = _low_rank_gradients(x, g, styles, factor, up, down, kernel is not None)
        elif wants_weight:
            x_ = x if shared else x * styles[:, :, None, None]
            g_weight = _gradient(g, x_, weight, kernel is not None, of_weight=True)
            if shared:
                g_weight.mul_((factor.mT * styles)[:, :, None, None])
        w = weight * factor[0, :, None, None, None] if shared else weight
        g = _gradient(g, x, w, kernel is not None, of_weight=False)
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


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Tensor | None) -> Tensor:
    """The convolution, or the transposed one of stride 2 and the filter behind it."""
    if kernel is None:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
    return _filtered(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), kernel, 1, bias)


def _filtered(x: Tensor, kernel: Tensor, padding: int, bias: Tensor | None = None) -> Tensor:
    """Each channel through the filter with gain 4."""
    channels = x.shape[1]
    taps = (kernel * 4).to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv2d(x, taps, bias, padding=padding, groups=channels)


def _gradient(g: Tensor, x: Tensor, weight: Tensor, transposed: bool, of_weight: bool) -> Tensor:
    """The convolution's gradient with respect to x or to the weight."""
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
    """Gradients of up [out, R] and down [R, in*k*k] from the convolution's input and output gradient.

    Both factors are applied as matrices, on R*k*k channels, which is a few per cent of the convolution.
    """
    rank, inside = len(up.mT), x.shape[1]
    side = round((down.shape[1] / inside) ** 0.5)
    kernels = down.view(rank, inside, side, side)
    if not transposed:
        kernels = kernels.flip((2, 3))
    moves: dict[str, Any] = {"stride": 2} if transposed else {"padding": side // 2}
    # x through down: what the layer's update sees
    taps = kernels.permute(0, 2, 3, 1).reshape(1, -1, inside) * styles[:, None]
    seen = F.fold(mixed(taps, x).flatten(2), g.shape[2:], side, **moves)
    g_up = correlated(seen, g).sum(0).mT * factor.mT
    # the gradient through up, moved to where each tap of down takes its pixels from
    told = F.unfold(mixed((up * factor.mT).mT[None], g), side, **moves).unflatten(2, x.shape[2:])
    g_taps = (correlated(told, x) * styles[:, None]).sum(0).view(rank, side, side, inside).permute(0, 3, 1, 2)
    if not transposed:
        g_taps = g_taps.flip((2, 3))
    return g_up, g_taps.reshape(rank, -1)


def mixed(weights: Tensor, x: Tensor) -> Tensor:
    """Channels of x [B, C, H, W] mixed by weights [B or 1, R, C], R far below C: [B, R, H, W].

    On a CPU as a convolution: matrix products this thin take up to five times as long there.
    """
    if x.device.type != "cpu":
        return (weights @ x.flatten(2)).unflatten(2, x.shape[2:])
    if len(weights) == 1:
        return F.conv2d(x, weights[0, :, :, None, None])
    parts = zip(x.split(1), weights, strict=True)
    return torch.cat([F.conv2d(picture, w[:, :, None, None]) for picture, w in parts])


def correlated(a: Tensor, x: Tensor) -> Tensor:
    """Sums of products over the pixels of a [B, R, H, W] and x [B, C, H, W]: [B, R, C].

    On a CPU as the gradient of a convolution's weight, which is up to nine times faster there.
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
