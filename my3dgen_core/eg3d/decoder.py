"""Decoder of the radiance field: mean plane features to density and color features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .config import PLANE_CHANNELS
from .layers import FullyConnected

HIDDEN, COLORS = 64, 32
"""Hidden units and color features of the decoder."""
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""w0 [64, 32], b0 [64], w1 [33, 64] and b1 [33] of the decoder, gains applied (see `Decoder.weights`)."""
Decode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Mean plane features [..., 32] -> raw density [..., 1] and color features [..., C]."""


class Decoder(nn.Module):
    """EG3D's decoder: a two-layer perceptron with 64 hidden units (softplus)."""

    def __init__(self, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            FullyConnected(PLANE_CHANNELS, HIDDEN, lr_multiplier=lr_multiplier),
            nn.Softplus(),
            FullyConnected(HIDDEN, 1 + COLORS, lr_multiplier=lr_multiplier),
        )

    def weights(self, density_scale: float = 1.0) -> Weights:
        """Return the weights with their gains applied, differentiable.

        Args:
            density_scale: factor of the raw density, multiplied into the last layer.

        Returns:
            w0 [64, 32], b0 [64], w1 [33, 64], b1 [33]; the first row of the last two gives the raw density.
        """
        first, _, last = self.net
        assert isinstance(first, FullyConnected)
        assert isinstance(last, FullyConnected)
        w0, b0 = first.weight * first.weight_gain, first.bias * first.bias_gain
        w1, b1 = last.weight * last.weight_gain, last.bias * last.bias_gain
        if density_scale != 1:
            scale = torch.ones_like(b1)
            scale[0] = density_scale
            w1, b1 = w1 * scale[:, None], b1 * scale
        return w0, b0, w1, b1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean plane features [..., 32] -> raw density [..., 1] and color features [..., 32]."""
        out = self.net(features)
        return out[..., :1], colors_of(out[..., 1:])


def colors_of(raw: Tensor) -> Tensor:
    """Raw color outputs of the decoder -> color features in [-0.001, 1.001], same shape."""
    return raw.sigmoid() * 1.002 - 0.001
