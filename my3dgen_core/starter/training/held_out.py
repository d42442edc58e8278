"""How near a generator comes to the truth, on heads it has not seen."""

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
    """Views of unseen heads: z [B, 64], cameras [B, V, 25], images [B, V, 3, 128, 128], depth and mask
    alike."""

    z: torch.Tensor
    cameras: torch.Tensor
    images: torch.Tensor
    depth: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device | str) -> HeldOut:
        """The same on a device."""
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
        """Heads of a seed that no shard uses, cast and kept on the device; yaw within 60 degrees, pitch
        within 25."""
        z = torch.randn(heads, Z_DIM, generator=torch.Generator().manual_seed(seed))
        cameras = random_cameras(heads * views, np.random.default_rng(seed)).view(heads, views, 25)
        z, cameras = z.to(device), cameras.to(device)
        parts = [truth(z[i : i + 1], cameras[i], resolution) for i in range(heads)]
        images, depth, mask = (torch.stack([part[k] for part in parts]) for k in range(3))
        return cls(z, cameras, images, depth, mask)


@dataclass
class Scores:
    """Means over views: PSNR in dB (peak 2, images clipped) of the whole image, two pixels inside the head,
    of the raw image rendered at full size, of a constant mean head; SSIM; depth error in world units; IoU
    of the mask."""

    psnr: float
    psnr_inside: float
    psnr_raw: float
    ssim: float
    depth: float
    iou: float

    def __str__(self) -> str:
        return (
            f"PSNR {self.psnr:.2f} dB (inside {self.psnr_inside:.2f}, raw at full size {self.psnr_raw:.2f}), "
            f"SSIM {self.ssim:.3f}, depth {self.depth:.4f}, IoU {self.iou:.3f}"
        )


def psnr(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """Per image, [B]: images [B,3,H,W] in [-1,1], `where` [B,1,H,W] limits the pixels."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=1, keepdim=True)
    if where is None:
        mse = error.mean(dim=(1, 2, 3))
    else:
        mse = (error * where).sum(dim=(1, 2, 3)) / where.sum(dim=(1, 2, 3)).clamp(min=1)
    return 10 * torch.log10(4 / mse.clamp(min=1e-12))


def ssim(a: torch.Tensor, b: torch.Tensor, window: int = 7) -> torch.Tensor:
    """Structural similarity per image, [B]: uniform window, images in [-1, 1]."""
    a, b = (a.clamp(-1, 1) + 1) / 2, (b.clamp(-1, 1) + 1) / 2

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, window, 1)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return score.mean(dim=(1, 2, 3))


def inside(mask: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """The mask shrunk by `pixels`: fully covered pixels with only such ones around, [B,1,H,W] of 0 and 1."""
    hole = (mask < 0.999).float()
    return 1 - F.max_pool2d(hole, 2 * pixels + 1, 1, pixels)


@torch.no_grad()
def measure(generator: Generator, held_out: HeldOut) -> Scores:
    """Scores of a finished generator (density scale folded in). Before super-resolution is trained, look at
    `raw`."""
    rows = []
    size = held_out.images.shape[-1]
    for i in range(len(held_out.z)):
        ws = latents(generator, held_out.z[i : i + 1])
        planes = generator.planes(ws)
        for k in range(held_out.cameras.shape[1]):
            camera, target = held_out.cameras[i, k : k + 1], held_out.images[i, k : k + 1]
            mask, depth = held_out.mask[i, k : k + 1], held_out.depth[i, k : k + 1]
            image = generator.render(ws, camera, planes=planes).image
            # The super-resolution would refuse a large raw image, so march it alone.
            marched = generator.march(planes, camera, size)
            raw, far, weight = (
                v.transpose(1, 2).unflatten(2, (size, size))
                for v in (marched.features[..., :3], marched.depth, marched.weight)
            )
            full = inside(mask, 2)
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
    return Scores(*torch.tensor([[float(v) for v in row] for row in rows]).mean(dim=0).tolist())
