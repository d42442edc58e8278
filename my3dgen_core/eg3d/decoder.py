"""The decoder: mean plane features to density and color features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .config import PLANE_CHANNELS
from .layers import FullyConnected

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
Decode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Mean plane features [..., 32] -> raw density [..., 1] and color features [..., C]."""


class Decoder(nn.Module):
    """Mean plane features [..., 32] -> raw density [..., 1] and color features [..., 32]."""

    def __init__(self, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            FullyConnected(PLANE_CHANNELS, 64, lr_multiplier=lr_multiplier),
            nn.Softplus(),
            FullyConnected(64, 1 + 32, lr_multiplier=lr_multiplier),
        )

    def weights(self, density_scale: float = 1.0) -> Weights:
        """The weights with their gains, differentiable; `density_scale` multiplies the raw density.

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
        out = self.net(features)
        return out[..., :1], colors_of(out[..., 1:])


def colors_of(raw: Tensor) -> Tensor:
    """The decoder's outputs for colours -> colours, in about [0, 1]."""
    return raw.sigmoid() * 1.002 - 0.001
