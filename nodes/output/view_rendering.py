"""Rendering of many views with bounded memory, progress and cancellation, for the nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import socket_types

if TYPE_CHECKING:
    from ...my3dgen_core import Generator

OnStep = Callable[..., None]


@dataclass(frozen=True)
class Views:
    """Rendered views, on the CPU; the maps are upsampled to the size of the image."""

    image: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    mask: Tensor
    """Opacity of the head, [B, 1, H, W] in 0..1."""
    depth: Tensor
    """Distance along the ray, [B, 1, H, W]."""
    normals: Tensor
    """Unit normals as of `normals`, [B, 3, H, W]."""


def pair(ws: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
    """Pair latents with cameras one by one; a single one of either is repeated.

    Returns:
        ws [B, num_ws, w_dim], cameras [B, 25].

    Raises:
        ValueError: the numbers differ and neither is 1.
    """
    count = max(len(ws), len(cameras))
    if len(ws) not in (1, count) or len(cameras) not in (1, count):
        raise ValueError(
            f"{len(ws)} latents and {len(cameras)} cameras do not fit: use equal numbers of both, or a "
            "single one of either."
        )
    return ws.expand(count, -1, -1), cameras.expand(count, -1)


def render_views(
    generator: Generator,
    ws: Tensor,
    cameras: Tensor,
    batch_size: int = 2,
    on_step: OnStep | None = None,
    grid: bool = False,
    cut_behind: float | None = None,
) -> Views:
    """Render latents from cameras.

    The planes of a single latent are computed once, and several views of it rendered with quality "fast";
    everything else is rendered with "exact".

    Args:
        generator: the generator, on its compute device.
        ws: [N, num_ws, w_dim].
        cameras: [M, 25].
        batch_size: views rendered at once.
        on_step: called after each batch, with its first image.
        grid: render every latent from every camera, N x M views: all cameras of the first latent, then of the
            second, and so on. Otherwise latents and cameras are paired as by `pair`.
        cut_behind: exclude surfaces at z below this from the mask, such as a wall behind the head.

    Raises:
        ValueError: latents and cameras cannot be paired.
        FloatingPointError: a rendering is not finite, or entirely black.
    """
    device = socket_types.device_of(generator)
    ws, cameras = ws.to(device), cameras.to(device)
    if grid:
        total, rows = len(ws) * len(cameras), []
        for done, one in enumerate(ws.split(1)):
            step = None if on_step is None else _shifted(on_step, done * len(cameras), total)
            rows.append(render_views(generator, one, cameras, batch_size, step, cut_behind=cut_behind))
        return Views(*(torch.cat(parts) for parts in zip(*(_parts(row) for row in rows), strict=True)))
    planes = generator.planes(ws) if len(ws) == 1 else None
    paired_ws, paired_cameras = pair(ws, cameras)
    total = len(paired_ws)
    quality = "fast" if planes is not None and total > 1 else "exact"
    views = []
    for start in range(0, total, batch_size):
        part = slice(start, start + batch_size)
        rendering = generator.render(
            ws if planes is not None else paired_ws[part],
            paired_cameras[part],
            planes=planes,
            quality=quality,
        )
        socket_types.check_render(rendering.image, before=start)
        size = rendering.image.shape[-2:]
        facing = normals(rendering.depth, paired_cameras[part])
        head = rendering.mask
        if cut_behind is not None:
            head = head * in_front(rendering.depth, paired_cameras[part], cut_behind)
        maps = (_upsampled(values, size) for values in (head, rendering.depth, facing))
        views.append((rendering.image.cpu(), *maps))
        if on_step is not None:
            on_step(min(start + batch_size, total), total, {}, rendering.image[:1])
    return Views(*(torch.cat(parts) for parts in zip(*views, strict=True)))


def _parts(views: Views) -> tuple[Tensor, ...]:
    return views.image, views.mask, views.depth, views.normals


def _shifted(on_step: OnStep, done: int, total: int) -> OnStep:
    """Return an `on_step` for one part of a longer task that has `total` steps, `done` before this part."""
    return lambda step, _, losses, image: on_step(done + step, total, losses, image)


def normals(depth: Tensor, cameras: Tensor) -> Tensor:
    """Compute unit normals [B,3,r,r] from depth [B,1,r,r] along the rays of cameras [B, 25].

    Axes are those of normal maps: x to the right of the image, y up, z toward the camera.
    """
    from ...my3dgen_core.camera import intrinsics

    size = depth.shape[-1]
    k = intrinsics(cameras.to(depth))
    place = (torch.arange(size, device=depth.device, dtype=depth.dtype) + 0.5) / size
    x = ((place - k[:, 0, 2, None]) / k[:, 0, 0, None])[:, None, :].expand(-1, size, -1)
    y = ((k[:, 1, 2, None] - place) / k[:, 1, 1, None])[:, :, None].expand(-1, -1, size)
    rays = torch.nn.functional.normalize(torch.stack((x, y, -torch.ones_like(x)), dim=1), dim=1)
    points = torch.nn.functional.pad(rays * depth, (1, 1, 1, 1), mode="replicate")
    right = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2]
    up = points[:, :, :-2, 1:-1] - points[:, :, 2:, 1:-1]
    return torch.nn.functional.normalize(torch.linalg.cross(right, up, dim=1), dim=1)


def in_front(depth: Tensor, cameras: Tensor, plane: float) -> Tensor:
    """Return 1 where the surface at depth [B,1,r,r] along rays of cameras [B, 25] has z > `plane`, else 0."""
    from ...my3dgen_core.eg3d.rendering.rays import rays

    origins, directions = rays(cameras.to(depth), depth.shape[-1])
    z = origins[..., 2] + directions[..., 2] * depth.flatten(1)
    return (z > plane).to(depth).view_as(depth)


def _upsampled(values: Tensor, size: torch.Size) -> Tensor:
    return torch.nn.functional.interpolate(values.float(), size, mode="bilinear", align_corners=False).cpu()


def depth_pictures(depth: Tensor, mask: Tensor) -> Tensor:
    """Convert depth [B,1,H,W] along the ray to images [B,3,H,W] in [-1,1]: near is white, far is black.

    All views have one scale, so that a video does not flicker. The background is black.
    """
    head = mask > 0.5
    if not bool(head.any()):
        return torch.full_like(depth, -1).expand(-1, 3, -1, -1)
    near, far = depth[head].min(), depth[head].max()
    closeness = 1 - (depth - near) / (far - near).clamp_min(1e-6)
    return (closeness.clamp(0, 1) * mask * 2 - 1).expand(-1, 3, -1, -1)


def normal_pictures(normals: Tensor, mask: Tensor) -> Tensor:
    """Convert normals [B,3,H,W] to normal maps in [-1,1] in the colors of ControlNet's normal models.

    Red is left, green is up, blue is toward the camera; in most other programs red is right. The background
    is black.
    """
    signs = torch.tensor([-1.0, 1.0, 1.0], device=normals.device).view(3, 1, 1)
    facing = torch.nn.functional.normalize(normals, dim=1) * signs
    return facing * mask - (1 - mask)
