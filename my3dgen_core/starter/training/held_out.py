"""Scores of a generator on held-out heads: PSNR, SSIM, depth error and mask IoU against the ground truth."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from ...eg3d.generator import Generator
from ..synthetic.factors import Z_DIM
from ..synthetic.heads import random_cameras, truth
from .objectives import latents


@dataclass
class HeldOut:
    """Ground-truth views of held-out heads."""

    z: torch.Tensor
    """Latents [B, 64]."""
    cameras: torch.Tensor
    """Cameras [B, V, 25]."""
    images: torch.Tensor
    """Pictures [B, V, 3, R, R] in [-1, 1] on white."""
    depth: torch.Tensor
    """Depth along the ray [B, V, 1, R, R], 0 outside the head."""
    mask: torch.Tensor
    """Coverage [B, V, 1, R, R] in 0..1."""

    def to(self, device: torch.device | str) -> HeldOut:
        """Return a copy on a device."""
        return HeldOut(*(getattr(self, each.name).to(device) for each in fields(self)))

    @classmethod
    def make(
        cls,
        heads: int = 8,
        views: int = 2,
        seed: int = 777_000,
        resolution: int = 128,
        device: torch.device | str = "cpu",
    ) -> HeldOut:
        """Render random heads with yaw within 60 and pitch within 25 degrees.

        Args:
            heads: number of heads.
            views: number of views per head.
            seed: seed of heads and cameras; no shard uses the default.
            resolution: side of the pictures in pixels.
            device: device that casts the rays and keeps the results.
        """
        z = torch.randn(heads, Z_DIM, generator=torch.Generator().manual_seed(seed))
        cameras = random_cameras(heads * views, np.random.default_rng(seed)).view(heads, views, 25)
        z, cameras = z.to(device), cameras.to(device)
        parts = [truth(z[i : i + 1], cameras[i], resolution) for i in range(heads)]
        images, depth, mask = (torch.stack([part[k] for part in parts]) for k in range(3))
        return cls(z, cameras, images, depth, mask)


@dataclass
class HeldOutScores:
    """Means over views. PSNR is in dB for clipped pictures with peak 2."""

    psnr: float
    """PSNR of the whole picture."""
    psnr_inside: float
    """PSNR at least two pixels inside the silhouette."""
    psnr_raw: float
    """PSNR of the raw picture without super-resolution, rendered at full size."""
    ssim: float
    """SSIM of the whole picture."""
    depth: float
    """Mean absolute depth error on the head in world units."""
    iou: float
    """Intersection over union of the masks."""

    def __str__(self) -> str:
        return (
            f"PSNR {self.psnr:.2f} dB (inside {self.psnr_inside:.2f}, raw at full size {self.psnr_raw:.2f}), "
            f"SSIM {self.ssim:.3f}, depth {self.depth:.4f}, IoU {self.iou:.3f}"
        )


def psnr(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the PSNR in dB of each picture [B].

    Args:
        a: pictures [B,3,H,W] in [-1,1].
        b: pictures [B,3,H,W] in [-1,1].
        where: weights of the pixels [B,1,H,W]; None weighs all the same.
    """
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=1, keepdim=True)
    if where is None:
        mse = error.mean(dim=(1, 2, 3))
    else:
        mse = (error * where).sum(dim=(1, 2, 3)) / where.sum(dim=(1, 2, 3)).clamp(min=1)
    return 10 * torch.log10(4 / mse.clamp(min=1e-12))


def ssim(a: torch.Tensor, b: torch.Tensor, window: int = 7) -> torch.Tensor:
    """Compute the SSIM [B] of pictures [B,3,H,W] in [-1,1] with a uniform window."""
    a, b = (a.clamp(-1, 1) + 1) / 2, (b.clamp(-1, 1) + 1) / 2

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, window, 1)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return score.mean(dim=(1, 2, 3))


def interior_mask(mask: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """Erode a mask [B,1,H,W] by `pixels`: 1 where all pixels around are fully covered, else 0."""
    hole = (mask < 0.999).float()
    return 1 - F.max_pool2d(hole, 2 * pixels + 1, 1, pixels)


@torch.no_grad()
def measure(generator: Generator, held_out: HeldOut) -> HeldOutScores:
    """Score a finished generator.

    Args:
        generator: generator with the density scale folded in, see `export`. Before super-resolution is
            trained only `psnr_raw`, `depth` and `iou` are meaningful.
        held_out: ground truth.
    """
    rows = []
    size = held_out.images.shape[-1]
    for i in range(len(held_out.z)):
        ws = latents(generator, held_out.z[i : i + 1])
        planes = generator.planes(ws)
        for k in range(held_out.cameras.shape[1]):
            camera, target = held_out.cameras[i, k : k + 1], held_out.images[i, k : k + 1]
            mask, depth = held_out.mask[i, k : k + 1], held_out.depth[i, k : k + 1]
            image = generator.render(ws, camera, planes=planes).image
            # Super-resolution does not take a raw picture of full size, so render that alone.
            marched = generator.march(planes, camera, size)
            raw, far, weight = (
                v.transpose(1, 2).unflatten(2, (size, size))
                for v in (marched.features[..., :3], marched.depth, marched.weight)
            )
            full = interior_mask(mask, 2)
            both = (mask > 0.999) & (weight > 0.5)
            rows.append(
                [
                    psnr(image, target),
                    psnr(image, target, full),
                    psnr(raw, target),
                    ssim(image, target),
                    (far - depth).abs()[both].mean()[None],
                    (((mask > 0.5) & (weight > 0.5)).sum() / ((mask > 0.5) | (weight > 0.5)).sum())[None],
                ]
            )
    return HeldOutScores(*torch.tensor([[float(v) for v in row] for row in rows]).mean(dim=0).tolist())
