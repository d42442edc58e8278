"""Rendering many views with bounded memory, progress and cancellation, for every node that shows some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import sockets

if TYPE_CHECKING:
    from ..my3dgen_core import Generator

OnStep = Callable[..., None]


@dataclass(frozen=True)
class Views:
    """image [B,3,H,W] in [-1,1]; mask and depth [B,1,H,W], enlarged to the same size. On the CPU."""

    image: Tensor
    mask: Tensor
    depth: Tensor


def pair(ws: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
    """Equal counts pair up, a single one serves all: -> ws [B, num_ws, w_dim], cameras [B, 25]."""
    count = max(len(ws), len(cameras))
    if len(ws) not in (1, count) or len(cameras) not in (1, count):
        raise ValueError(
            f"{len(ws)} latents and {len(cameras)} cameras do not fit: use as many of one as of the other, "
            "or a single one of either."
        )
    return ws.expand(count, -1, -1), cameras.expand(count, -1)


def render_views(
    generator: Generator, ws: Tensor, cameras: Tensor, batch_size: int = 2, on_step: OnStep | None = None
) -> Views:
    """Renders ws [N, num_ws, w_dim] from cameras [M, 25]; the planes of a single latent are made once."""
    device = sockets.device_of(generator)
    ws, cameras = ws.to(device), cameras.to(device)
    planes = generator.planes(ws) if len(ws) == 1 else None
    paired_ws, paired_cameras = pair(ws, cameras)
    total = len(paired_ws)
    images, masks, depths = [], [], []
    for start in range(0, total, batch_size):
        part = slice(start, start + batch_size)
        rendering = generator.render(
            ws if planes is not None else paired_ws[part], paired_cameras[part], planes=planes
        )
        size = rendering.image.shape[-2:]
        images.append(rendering.image.cpu())
        masks.append(_enlarged(rendering.mask, size))
        depths.append(_enlarged(rendering.depth, size))
        if on_step is not None:
            on_step(min(start + batch_size, total), total, {}, rendering.image[:1])
    return Views(torch.cat(images), torch.cat(masks), torch.cat(depths))


def _enlarged(values: Tensor, size: torch.Size) -> Tensor:
    return torch.nn.functional.interpolate(values.float(), size, mode="bilinear", align_corners=False).cpu()


def depth_pictures(depth: Tensor, mask: Tensor) -> Tensor:
    """Depth [B,1,H,W] along the ray -> [B,3,H,W] in [-1,1]: near is white, far and background are black.

    One scale for all views, so that a video does not flicker.
    """
    head = mask > 0.5
    if not bool(head.any()):
        return torch.full_like(depth, -1).expand(-1, 3, -1, -1)
    near, far = depth[head].min(), depth[head].max()
    closeness = 1 - (depth - near) / (far - near).clamp_min(1e-6)
    return (closeness.clamp(0, 1) * mask * 2 - 1).expand(-1, 3, -1, -1)
