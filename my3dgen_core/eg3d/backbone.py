"""StyleGAN2 backbone: latents to tri-planes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import PLANE_CHANNELS, GeneratorConfig
from .layers import SynthesisBlock
from .mapping import MappingNetwork


class SynthesisNetwork(nn.Module):
    """StyleGAN2 synthesis network whose image is the three planes: blocks of resolution 4, 8, ... P."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.resolutions = config.block_resolutions
        in_channels = 0
        for resolution in self.resolutions:
            out_channels = config.channels(resolution)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                config.w_dim,
                resolution,
                3 * PLANE_CHANNELS,
                conv_clamp=config.conv_clamp,
            )
            setattr(self, f"b{resolution}", block)
            in_channels = out_channels

    def forward(
        self, ws: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """Synthesize the planes of latents.

        Args:
            ws: [B, num_ws, w_dim].
            noise_mode: "const", "random" or "none".
            generator: RNG of noise_mode "random".

        Returns:
            planes [B, 3 * 32, P, P], float32.
        """
        ws = ws.to(torch.float32)  # interpolated latents may be float64
        x: Tensor | None = None
        planes: Tensor | None = None
        first = 0
        for resolution in self.resolutions:
            block = getattr(self, f"b{resolution}")
            convolutions = 1 if block.first else 2
            # ToRGB shares its latent with the next block's first convolution
            x, planes = block(x, planes, ws[:, first : first + convolutions + 1], noise_mode, generator)
            first += convolutions
        assert planes is not None
        return planes


class Backbone(nn.Module):
    """Mapping and synthesis network under the names of the official state dict."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.synthesis = SynthesisNetwork(config)
        self.mapping = MappingNetwork(config)
