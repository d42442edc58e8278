"""Mapping network: noise z and a camera label to latents w."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import GeneratorConfig
from .layers import FullyConnected, normalize_2nd_moment


class MappingNetwork(nn.Module):
    """StyleGAN2 mapping network, conditioned on a camera label: z and camera to latents ws."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.num_ws = config.num_ws
        self.num_layers = config.mapping_layers
        self.c_scale = 0.0 if config.c_gen_conditioning_zero else config.c_scale
        self.embed = FullyConnected(config.c_dim, config.w_dim)
        width = config.z_dim + config.w_dim
        for i in range(self.num_layers):
            layer = FullyConnected(width, config.w_dim, lr_multiplier=0.01, activate=True)
            setattr(self, f"fc{i}", layer)
            width = config.w_dim
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(
        self, z: Tensor, camera: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """Map noise and cameras to latents.

        Args:
            z: [B, z_dim], standard normal.
            camera: [B, c_dim].
            truncation_psi: interpolation from the mean latent (0) to w (1).
            truncation_cutoff: number of latents per picture that are truncated, from the first on; None: all.

        Returns:
            ws [B, num_ws, w_dim].
        """
        embedded = normalize_2nd_moment(self.embed(camera * self.c_scale))
        x = torch.cat((normalize_2nd_moment(z), embedded), dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        ws = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            layers = slice(None, truncation_cutoff)
            ws[:, layers] = self.w_avg.to(ws.dtype).lerp(ws[:, layers], truncation_psi)
        return ws
