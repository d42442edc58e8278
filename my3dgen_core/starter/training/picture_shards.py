"""Shards of whole pictures of many heads, supersampled, with coverage and depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...common.image_ops import from_uint8, to_uint8
from ..synthetic.factors import Z_DIM
from ..synthetic.heads import random_cameras, truth
from .shards import Shards, save_arrays

VIEWS_PER_HEAD = 4
SIDE = 128  # of a picture in pixels
DEPTH_ORIGIN = 2.7  # depths are stored as float16 relative to this
_STEEP = 0.03  # largest range of depths within a raw pixel whose depth is supervised


@dataclass
class Pictures:
    """Batch of B heads with V views each, flattened to B * V pictures of side R, head by head."""

    z: torch.Tensor
    """Latents [B, z_dim]."""
    cameras: torch.Tensor
    """Cameras [B*V, 25]."""
    images: torch.Tensor
    """Pictures [B*V, 3, R, R] in [-1, 1]."""
    masks: torch.Tensor
    """Coverage [B*V, 1, R, R] in 0..1."""
    depths: torch.Tensor
    """Depth along the ray [B*V, 1, R/2, R/2], 0 where it is not supervised: outside the head and at edges."""


class PictureShards(Shards):
    """Shards of pictures in a folder, sampled in random batches."""

    kind = "pictures"
    heads_per_shard = 64

    @classmethod
    def write(cls, path: Path, seed: int, device: str = "cpu") -> None:
        """Write one shard of random heads; the same seed gives the same shard."""
        rng = np.random.default_rng([seed, 20260117])
        z = torch.randn(cls.heads_per_shard, Z_DIM, generator=torch.Generator().manual_seed(1_000_000 + seed))
        cameras = random_cameras(len(z) * VIEWS_PER_HEAD, rng, yaw=64, pitch=28, wander=0.08)
        parts: list[list[torch.Tensor]] = [[], [], []]
        for i in range(0, len(z), 8):
            heads = z[i : i + 8].repeat_interleave(VIEWS_PER_HEAD, 0)
            views = cameras[i * VIEWS_PER_HEAD :][: len(heads)]
            image, depth, mask = (seen.cpu() for seen in truth(heads.to(device), views, SIDE))
            parts[0].append(to_uint8(image))
            parts[1].append((mask * 255 + 0.5).byte())
            parts[2].append(_supervised_depth(depth, mask))
        shape = (len(z), VIEWS_PER_HEAD)
        images, masks, depths = (torch.cat(part).unflatten(0, shape).numpy() for part in parts)
        arrays = {"z": z.numpy(), "cameras": cameras.unflatten(0, shape).numpy()}
        save_arrays(path, arrays | {"images": images, "masks": masks, "depths": depths})

    def batch(
        self, heads: int, views: int, rng: np.random.Generator, device: torch.device | str = "cpu"
    ) -> Pictures:
        """Sample random heads with different random views.

        Args:
            heads: number of heads.
            views: number of views per head, at most `VIEWS_PER_HEAD`.
            rng: random generator.
            device: device of the batch.
        """
        rows: dict[str, list[np.ndarray]] = {name: [] for name in ("cameras", "images", "masks", "depths")}
        latents = []
        for _ in range(heads):
            shard, head = self.draw(rng)
            chosen = rng.permutation(VIEWS_PER_HEAD)[:views]
            latents.append(shard["z"][head])
            for name, values in rows.items():
                values.append(shard[name][head][chosen])
        t = {name: torch.from_numpy(np.concatenate(v)).to(device) for name, v in rows.items()}
        depths = t["depths"].float()
        return Pictures(
            torch.from_numpy(np.stack(latents)).to(device),
            t["cameras"],
            from_uint8(t["images"]),
            t["masks"].float() / 255,
            torch.where(depths == 0, depths, depths + DEPTH_ORIGIN),
        )


def _supervised_depth(depth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Reduce depth [N, 1, R, R] and mask to raw pixels [N, 1, R/2, R/2].

    Returns:
        Depth relative to `DEPTH_ORIGIN` as float16, 0 at edges and outside the head.
    """
    mean = F.avg_pool2d(depth, 2)
    spread = F.max_pool2d(depth, 2) + F.max_pool2d(-depth, 2)
    sure = (F.avg_pool2d(mask, 2) > 0.999) & (spread < _STEEP)
    return torch.where(sure, mean - DEPTH_ORIGIN, torch.zeros_like(mean)).half()
