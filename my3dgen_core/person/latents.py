"""Latents with what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..camera.pose import check_cameras


@dataclass(frozen=True)
class Latents:
    """N latents: ws [N, num_ws, w_dim]; the rest is None where unknown.

    cameras [N, 25]; losses [N] (the objective at the end of an inversion); alphas [N, anchors];
    base_hash: `Generator.base_hash()` of the generator they belong to.
    """

    ws: Tensor
    cameras: Tensor | None = None
    losses: Tensor | None = None
    alphas: Tensor | None = None
    base_hash: str | None = None

    def __post_init__(self) -> None:
        if self.ws.ndim != 3:
            raise ValueError(f"Latents must have shape [N, num_ws, w_dim], not {list(self.ws.shape)}.")
        if self.cameras is not None:
            check_cameras(self.cameras)
            if len(self.cameras) != len(self.ws):
                raise ValueError(
                    f"There are {len(self.ws)} latents but {len(self.cameras)} cameras. "
                    "Each latent needs the camera of its own photo."
                )

    def __len__(self) -> int:
        return len(self.ws)

    def mean(self) -> Tensor:
        """The mean latent [1, num_ws, w_dim]: the person without any one photo's expression."""
        return self.ws.mean(dim=0, keepdim=True)

    def to(self, device: torch.device | str) -> Latents:
        """The same on another device."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        moved = move(self.cameras), move(self.losses), move(self.alphas)
        return Latents(self.ws.to(device), *moved, self.base_hash)
