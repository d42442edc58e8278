"""Losses of the distillation into the generator: at points, along rays, and of whole pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...eg3d.generator import Generator
from ...eg3d.rendering.compositing import composite
from ...eg3d.rendering.rays import rays
from ...eg3d.rendering.renderer import render_rays
from .picture_shards import Pictures
from .ray_shards import Rays

DENSITY_SCALE = 30.0
"""Factor of the decoder's density while training, folded into its last layer on export: surfaces need
densities in the hundreds, while weights should stay near 1."""


def latents(generator: Generator, z: torch.Tensor) -> torch.Tensor:
    """Map z [B, z_dim] to ws [B, num_ws, w_dim]; the mapping ignores the camera."""
    return generator.mapping(z, z.new_zeros(len(z), generator.config.c_dim))


def point_loss(generator: Generator, batch: Rays, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Loss of occupancy around and before the first hit of rays, and of color at the hit.

    Points further behind the first hit are not supervised: there are mouth, eye sockets and other invisible
    parts.

    Args:
        generator: generator in training.
        batch: supervised rays.
        rng: generator of random numbers, on the device of the batch.

    Returns:
        The weighted losses "occupancy" and "color".
    """

    def between(low: torch.Tensor | float, high: torch.Tensor | float) -> torch.Tensor:
        noise = torch.rand(batch.depths.shape, generator=rng, device=rng.device)
        return low + (high - low) * noise

    start, end = float(generator.config.ray_start), float(generator.config.ray_end)
    hit, miss = batch.covers > 0.75, batch.covers < 0.01
    depth = batch.depths
    inside = torch.where(hit, depth + between(0.004, 0.030), depth + between(-0.08, 0.08))
    before = torch.where(hit, depth - between(0.004, 0.030), depth + between(-0.25, 0.25))
    free = torch.where(hit, between(start, depth - 0.006), between(start, end))
    skin = depth + between(-0.010, 0.010)
    t = torch.cat([inside, before, free, skin], dim=1)
    points = batch.origins.repeat(1, 4, 1) + t * batch.directions.repeat(1, 4, 1)
    planes = generator.planes(latents(generator, batch.z))
    density, color = generator.sample(latents(generator, batch.z), points, planes=planes)
    m = depth.shape[1]
    known = (hit | miss).float()
    labels = torch.cat([hit.float(), torch.zeros_like(depth), torch.zeros_like(depth)], dim=1)
    occupancy = F.binary_cross_entropy_with_logits(density[:, : 3 * m], labels, reduction="none")
    full = (batch.covers > 0.99).float()
    error = (color[:, 3 * m :, :3] - batch.colors).abs().mean(dim=2, keepdim=True)
    return {
        "occupancy": (occupancy * known.repeat(1, 3, 1)).mean(),
        "color": 2 * (error * full).sum() / full.sum().clamp(min=1),
    }


def ray_loss(
    generator: Generator, batch: Rays, rng: torch.Generator, coarse: int = 10, fine: int = 14
) -> dict[str, torch.Tensor]:
    """Loss of composited color and coverage, sampled along the whole ray and densely around the first hit.

    Rays that miss are sampled densely at the depth of the nearest hit in their image, where halos form.

    Args:
        generator: generator in training.
        batch: supervised rays.
        rng: generator of random numbers, on the device of the batch.
        coarse: samples along the whole ray.
        fine: samples around the first hit.

    Returns:
        The weighted losses "color", "coverage" and "air" (density where there must be none).
    """
    start, end = float(generator.config.ray_start), float(generator.config.ray_end)
    b, m, _ = batch.depths.shape
    device = rng.device
    steps = torch.rand(b, m, coarse, generator=rng, device=device)
    steps = (torch.arange(coarse, device=device) + steps) / coarse
    far = start + steps * (end - start)
    window = torch.where(batch.covers > 0.99, 0.06, 0.16)
    offsets = torch.rand(b, m, fine, generator=rng, device=device)
    offsets = (torch.arange(fine, device=device) + offsets) / fine - 0.5
    near = batch.depths + window * offsets
    depths = torch.cat([far, near], dim=2).sort(dim=2).values[..., None]
    points = (batch.origins[:, :, None] + depths * batch.directions[:, :, None]).flatten(1, 2)
    ws = latents(generator, batch.z)
    density, color = generator.sample(ws, points, planes=generator.planes(ws))
    shape = (m, coarse + fine)
    color, density = color[..., :3].unflatten(1, shape), DENSITY_SCALE * density.unflatten(1, shape)
    seen, _, weights = composite(color, density, depths, white_back=True)
    # Before its hit, or along all of a miss, a ray passes through air. Without this loss specks of density
    # remain near the border of the frame, which few rays visit.
    air = (depths[..., 0] < batch.depths - 0.03) | (batch.covers < 0.01)
    specks = F.softplus(density[..., 0] / DENSITY_SCALE + 1)
    return {
        "color": (seen - (2 * batch.colors - 1)).abs().mean(),
        "coverage": 0.1 * (weights.sum(2) - batch.covers).abs().mean(),
        "air": 0.05 * (specks * air).mean(),
    }


def picture_loss(generator: Generator, batch: Pictures, half: bool = True) -> dict[str, torch.Tensor]:
    """Loss of whole pictures, rendered with two-pass sampling and super-resolution.

    Args:
        generator: generator in training.
        batch: pictures.
        half: compute convolutions in bfloat16, whose rounding is far below the errors; rays are always
            float32.

    Returns:
        The weighted losses of `image_loss`, and "raw" (picture before super-resolution), "coverage" and
            "depth".
    """
    config = generator.config
    side = config.neural_resolution
    views = len(batch.cameras) // len(batch.z)

    ws = latents(generator, batch.z)
    device = ws.device.type
    with torch.autocast(device, torch.bfloat16, enabled=half):
        planes = generator.planes(ws)
    origins, directions = rays(batch.cameras, side)
    origins = origins.expand_as(directions)
    marched = render_rays(
        planes.float(),
        generator.decoder,
        config,
        origins.unflatten(0, (-1, views)).flatten(1, 2),  # the rays of all views of a head in one row
        directions.unflatten(0, (-1, views)).flatten(1, 2),
        min_weight=1e-3,
        density_scale=DENSITY_SCALE,
        renderer=generator.renderer,
    )
    features, depth, weight = (
        values.unflatten(1, (views, side, side)).flatten(0, 1).permute(0, 3, 1, 2)
        for values in (marched.features, marched.depth, marched.weight)
    )
    with torch.autocast(device, torch.bfloat16, enabled=half):
        image = generator.superresolution.upscale(features, ws.repeat_interleave(views, 0))
    scale = batch.images.shape[-1] // side
    sure = (batch.depths > 0).float()
    return image_loss(image.float(), batch.images) | {
        "raw": 0.2 * (features[:, :3] - F.avg_pool2d(batch.images, scale)).abs().mean(),
        "coverage": 0.1 * (weight - F.avg_pool2d(batch.masks, scale)).abs().mean(),
        "depth": 2 * (sure * (depth - batch.depths).abs()).sum() / sure.sum().clamp(min=1),
    }


def image_loss(image: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Loss of pictures [N, 3, R, R] in [-1, 1] without a perceptual network.

    Returns:
        The weighted losses "color" (L1), "squares" (L2) and "differences" (L1 of image gradients at three
            scales).
    """
    error = image - target
    losses = {"color": error.abs().mean(), "squares": 8 * error.square().mean()}
    total = image.new_zeros(())
    for _ in range(3):
        for axis in (2, 3):
            total = total + (image.diff(dim=axis) - target.diff(dim=axis)).abs().mean()
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
    losses["differences"] = 0.25 * total
    return losses
