"""Rendering of synthetic heads: posed vertices, shading parameters, ray-cast images, depth and masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...camera import look_at
from .factors import Expression, Looks, looks
from .head_mesh import EYE_LEFT, EYE_RIGHT, HeadModel
from .head_model import head_model

if TYPE_CHECKING:  # warp is an optional dependency: functions that cast rays import it
    from .ray_casting import Scene

# Height of the hairline (canonical y) by azimuth around the skull: forehead, temple, sideburn, ear, nape.
_HAIRLINE_ANGLES = np.radians([0, 20, 38, 55, 68, 80, 95, 115, 135, 160, 180])
_HAIRLINE_HEIGHTS = np.array(
    [0.236, 0.232, 0.208, 0.180, 0.110, -0.010, 0.010, -0.060, -0.115, -0.140, -0.145]
)
_SKULL_AXIS_Z = 0.0


@dataclass(frozen=True)
class ExtraGeometry:
    """Geometry added to the heads of a batch, such as glasses."""

    vertices: np.ndarray
    """Vertices [B, N, 3] in the world."""
    triangles: np.ndarray
    """Indices of its own vertices [M, 3]."""
    part: int
    """Part number of all its triangles."""


@lru_cache(maxsize=1)
def _static_attributes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attributes that all heads share.

    Returns:
        Vertex attributes [V, 9], columns as `warp_kernels.ATTRIBUTES`; centers of the eyeballs in canonical
            coordinates [2, 3]; height above the hairline [V].
    """
    model = head_model()
    canonical = model.canonical
    angle = np.arctan2(np.abs(canonical[:, 0]), canonical[:, 2] - _SKULL_AXIS_Z)
    hair = canonical[:, 1] - np.interp(angle, _HAIRLINE_ANGLES, _HAIRLINE_HEIGHTS)
    openness = 0.25 + 0.75 * np.clip(model.occlusion, 0, 1)
    attributes = np.concatenate(
        [canonical, model.fields[:, :3], hair[:, None], openness[:, None], model.fields[:, 3:]], axis=1
    )
    eyes = [
        canonical[np.unique(model.triangles[model.parts == part])].mean(axis=0)
        for part in (EYE_LEFT, EYE_RIGHT)
    ]
    return attributes.astype(np.float32), np.stack(eyes), hair


def posed_vertices(look: Looks, model: HeadModel) -> np.ndarray:
    """Compute world vertices [B, V, 3] with expression and hair, aligned by the neutral face of each head."""
    from .ray_casting import vertex_normals  # needs warp

    batch = len(look.local)
    neutral = Expression.neutral(batch).actions(model.action_labels)
    posed = model.coefficients(look.phenotypes, look.local, look.expression.actions(model.action_labels))
    reference = model.coefficients(look.phenotypes, look.local, neutral)
    vertices = model.vertices(posed, reference).numpy()
    # Hair: move the scalp outwards, with a smooth transition at the hairline.
    attributes, _, hair = _static_attributes()
    height = hair[None] - look.hairline.numpy()[:, None]
    ease = np.clip(height / 0.09, 0, 1)
    ease = ease * ease * (3 - 2 * ease) * np.clip((0.12 - attributes[:, 8]) / 0.10, 0, 1)
    bald = np.clip(look.hair_volume.numpy() / 0.012, 0, 1)[:, None]
    amount = ease * look.hair_volume.numpy()[:, None] * bald
    return vertices + amount[:, :, None] * vertex_normals(vertices, model.triangles)


def paint_rows(look: Looks) -> np.ndarray:
    """Return the shading parameters [B, PAINT] of the ray caster, columns as in `warp_kernels`."""
    columns: list[Any] = [look.colors[name] for name in ("skin", "lips", "hair", "brow", "iris", "frame")]
    scalars = [look.hairline, look.brow_width, look.brow_amount, look.beard, look.blush]
    scalars += [look.expression.gaze, torch.zeros_like(look.blush), look.freckles]
    scalars += [(1 - look.hair_volume / 0.008).clamp(0, 1)]
    return torch.cat([*columns, torch.stack(scalars, dim=1)], dim=1).numpy()


def scene_of(look: Looks, extra: ExtraGeometry | None = None, device: str = "cpu") -> Scene:
    """Prepare a batch of heads for ray casting.

    Args:
        look: heads.
        extra: geometry added to them, or None.
        device: device in warp's notation ("cpu", "cuda:0").
    """
    from .ray_casting import make_scene  # needs warp

    model = head_model()
    attributes, eyes, _ = _static_attributes()
    vertices, triangles, parts = posed_vertices(look, model), model.triangles, model.parts
    if extra is not None:
        triangles = np.concatenate([triangles, extra.triangles + vertices.shape[1]]).astype(np.int32)
        parts = np.concatenate([parts, np.full(len(extra.triangles), extra.part)]).astype(np.int32)
        vertices = np.concatenate([vertices, extra.vertices], axis=1)
        filler = np.zeros((extra.vertices.shape[1], attributes.shape[1]), np.float32)
        filler[:, 7] = 1.0
        attributes = np.concatenate([attributes, filler])
    paint, marks = paint_rows(look), look.marks.numpy()
    return make_scene(vertices, triangles, parts, attributes, paint, marks, eyes, device)


def pixel_grid(resolution: int) -> np.ndarray:
    """Return pixel centers in image units (0..1) [R*R, 2], row by row."""
    line = (np.arange(resolution) + 0.5) / resolution
    return np.stack([np.tile(line, resolution), np.repeat(line, resolution)], axis=1)


def photograph(
    scene: Scene, cameras: torch.Tensor, heads: np.ndarray, resolution: int, grid: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Render heads of a scene by ray casting.

    Args:
        scene: heads from `scene_of`.
        cameras: cameras [N, 25].
        heads: index [N] of the head that each camera sees.
        resolution: side of the images in pixels.
        grid: `grid` x `grid` rays are averaged per pixel.

    Returns:
        Images [N,3,R,R] in [-1,1] on white; depth [N,1,R,R] along the ray, 0 outside the head; mask [N,1,R,R]
            in 0..1, the covered fraction.
    """
    from .ray_casting import cast  # needs warp

    count = len(cameras)
    pixels = np.tile(pixel_grid(resolution), (count, 1))
    ray_camera = np.repeat(np.arange(count), resolution * resolution)
    seen = cast(scene, cameras.detach().cpu().numpy(), heads, ray_camera, pixels, 1.0 / resolution, grid)
    planes = torch.from_numpy(seen.copy()).view(count, resolution, resolution, 5).permute(0, 3, 1, 2)
    return planes[:, :3].contiguous(), planes[:, 3:4].contiguous(), planes[:, 4:].contiguous()


def truth(
    z: torch.Tensor, cameras: torch.Tensor, resolution: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Render the head that z defines: the ground truth for the generator.

    Args:
        z: latents [B, z_dim], first normalized to length sqrt(z_dim) as in the mapping network. Rays are cast
            on its device; on a GPU the last bits may differ from those of the CPU.
        cameras: cameras [B, 25], one for each z; a single z or camera is used for all.
        resolution: side of the images in pixels.

    Returns:
        Images [B,3,R,R] in [-1,1] on white, supersampled; depth [B,1,R,R] along the ray in world units, 0
            outside the head; mask [B,1,R,R] in 0..1, the covered fraction of each pixel.

    Raises:
        ValueError: the numbers of latents and cameras do not match.
        ImportError: the `starter` extra is not installed.
    """
    count = max(len(z), len(cameras))
    if {len(z), len(cameras)} - {1, count} or cameras.ndim != 2 or cameras.shape[1] != 25:
        raise ValueError(
            f"Give one camera [25] for each z (or a single one): z is {list(z.shape)}, "
            f"cameras {list(cameras.shape)}."
        )
    scene = scene_of(looks(z, head_model()), device=str(z.device))
    heads = np.arange(count) if len(z) == count else np.zeros(count, int)
    image, depth, mask = photograph(scene, cameras.expand(count, 25), heads, resolution)
    return image.to(z.device), depth.to(z.device), mask.to(z.device)


def random_cameras(
    count: int, rng: np.random.Generator, yaw: float = 60.0, pitch: float = 25.0, wander: float = 0.0
) -> torch.Tensor:
    """Sample cameras with uniform yaw and pitch.

    Args:
        count: number of cameras.
        rng: random generator.
        yaw: largest yaw in degrees, either way.
        pitch: largest pitch in degrees, either way.
        wander: largest shift of the point looked at, as in photos, in world units along z (a tenth of it
            along y).

    Returns:
        Cameras [count, 25].
    """
    yaws = np.radians(rng.uniform(-yaw, yaw, count))
    pitches = np.radians(rng.uniform(-pitch, pitch, count))
    pivots = np.stack(
        [np.zeros(count), wander * 0.1 * rng.uniform(-1, 1, count), wander * rng.uniform(0, 1, count)], 1
    )
    rows = [
        look_at(float(y), float(p), pivot=tuple(v)) for y, p, v in zip(yaws, pitches, pivots, strict=True)
    ]
    return torch.cat(rows)
