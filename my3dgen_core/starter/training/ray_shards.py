"""Shards of supervised rays of many heads, written once and sampled at random.

Each head has several cameras, and each camera rays through random points of its image: some anywhere, some
near silhouettes and depth edges, some at eyes, nose and mouth. A ray has the color and coverage of its pixel
(supersampled) and the depth of its first hit, or that of the nearest hit in the image if it misses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from ..synthetic.factors import Z_DIM, looks
from ..synthetic.head_model import head_model
from ..synthetic.heads import photograph, posed_vertices, random_cameras, scene_of
from .shards import Shards, save_arrays

HEADS_PER_SHARD = 128
CAMERAS_PER_HEAD = 8
RAYS_PER_CAMERA = 1024
FOOTPRINT = 1 / 128  # side in image units of the pixel whose mean color supervises a ray
DEPTH_ORIGIN = 2.7  # depths are stored as float16 relative to this
_COARSE = 64  # side in pixels of the depth map in which edges are detected


def write_shard(path: Path, seed: int, device: str) -> None:
    """Write one shard of random heads; the same seed gives the same shard.

    Args:
        path: .npz file.
        seed: number of the shard.
        device: device in warp's notation that casts the rays.
    """
    from ..synthetic.ray_casting import cast  # needs warp, an optional dependency

    model = head_model()
    rng = np.random.default_rng([seed, 20240607])
    z = torch.randn(HEADS_PER_SHARD, Z_DIM, generator=torch.Generator().manual_seed(seed))
    cameras, pixels, colors, covers, depths = [], [], [], [], []
    for start in range(0, HEADS_PER_SHARD, 16):
        look = looks(z[start : start + 16], model)
        count = len(look.local)
        scene = scene_of(look, device=device)
        landmarks = model.landmarks(torch.from_numpy(posed_vertices(look, model)).float()).numpy()
        cams = random_cameras(count * CAMERAS_PER_HEAD, rng, yaw=66.0, pitch=29.0, wander=0.16)
        heads = np.repeat(np.arange(count), CAMERAS_PER_HEAD)
        _, depth, mask = photograph(scene, cams, heads, _COARSE, grid=1)
        chosen = np.stack(
            [
                _choose_pixels(
                    depth[i, 0].numpy(), mask[i, 0].numpy(), landmarks[heads[i]], cams[i].numpy(), rng
                )
                for i in range(len(cams))
            ]
        )
        ray_camera = np.repeat(np.arange(len(cams)), RAYS_PER_CAMERA)
        seen = cast(scene, cams.numpy(), heads, ray_camera, chosen.reshape(-1, 2), FOOTPRINT, 2)
        seen = seen.reshape(len(cams), RAYS_PER_CAMERA, 5).copy()
        for i in range(len(cams)):
            _fill_missing_depth(seen[i], chosen[i], depth[i, 0].numpy())
        shape = (count, CAMERAS_PER_HEAD, RAYS_PER_CAMERA)
        cameras.append(cams.view(count, CAMERAS_PER_HEAD, 25).numpy())
        pixels.append(np.clip(chosen * 65535, 0, 65535).astype(np.uint16).reshape(*shape, 2))
        colors.append(np.clip((seen[..., :3] + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8).reshape(*shape, 3))
        covers.append((seen[..., 4] * 255 + 0.5).astype(np.uint8).reshape(shape))
        depths.append((seen[..., 3] - DEPTH_ORIGIN).astype(np.float16).reshape(shape))
    # Cached shards hold these keys: they do not change with the names in the code.
    parts = {"cameras": cameras, "pixels": pixels, "colours": colors, "covers": covers, "depths": depths}
    save_arrays(path, {"z": z.numpy()} | {name: np.concatenate(part) for name, part in parts.items()})


def _project_to_image(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Project world points [M, 3] with a camera [25] to image units [M, 2], 0..1 in the image."""
    pose = camera[:16].reshape(4, 4)
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    return 0.5 + camera[16] * local[:, :2] / local[:, 2:]


def _choose_pixels(
    depth: np.ndarray, mask: np.ndarray, landmarks: np.ndarray, camera: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sample points of rays in the image: 35 % anywhere, 35 % at edges, 30 % around eyes, nose and mouth.

    Args:
        depth: depth map [64, 64].
        mask: coverage [64, 64].
        landmarks: features in the world [5, 3].
        camera: camera [25].
        rng: random generator.

    Returns:
        Points [RAYS_PER_CAMERA, 2] in image units, shuffled.
    """
    padded = np.pad(np.where(mask > 0, depth, 9.0), 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    edges = np.argwhere(windows.max((2, 3)) - windows.min((2, 3)) > 0.06)
    counts = [int(0.35 * RAYS_PER_CAMERA), int(0.30 * RAYS_PER_CAMERA)]
    counts.append(RAYS_PER_CAMERA - sum(counts))
    anywhere = rng.random((counts[2], 2))
    at_edges = (
        edges[rng.integers(0, len(edges), counts[0])] if len(edges) else rng.random((counts[0], 2)) * _COARSE
    )
    at_edges = (at_edges[:, ::-1] + rng.random((counts[0], 2))) / _COARSE
    face = _project_to_image(landmarks, camera)[rng.integers(0, 5, counts[1])]
    face = face + rng.normal(size=(counts[1], 2)) * np.array([0.055, 0.045])
    face = np.where((face > 0) & (face < 1), face, rng.random(face.shape))
    return rng.permutation(np.concatenate([anywhere, at_edges, face])).clip(0.0, 1.0)


def _fill_missing_depth(seen: np.ndarray, places: np.ndarray, depth: np.ndarray) -> None:
    """Set the depth of rays that miss to that of the nearest hit pixel, where halos would form; in place.

    Args:
        seen: color, depth and coverage of rays [M, 5].
        places: points of the rays in image units [M, 2].
        depth: depth map [64, 64], 0 outside the head.
    """
    nearest = distance_transform_edt(depth <= 0, return_distances=False, return_indices=True)
    column, row = (np.clip(places * _COARSE, 0, _COARSE - 1).astype(int)).T
    filled = depth[tuple(nearest[:, row, column])]
    seen[:, 3] = np.where(seen[:, 4] > 0, seen[:, 3], filled)


@dataclass
class Rays:
    """Batch of supervised rays: B heads with M rays each."""

    z: torch.Tensor
    """Latents [B, z_dim]."""
    origins: torch.Tensor
    """Origins [B, M, 3]."""
    directions: torch.Tensor
    """Directions [B, M, 3] of length 1."""
    colors: torch.Tensor
    """RGB [B, M, 3] in 0..1."""
    covers: torch.Tensor
    """Coverage [B, M, 1] in 0..1."""
    depths: torch.Tensor
    """Depth along the ray [B, M, 1]."""


class RayShards(Shards):
    """Shards of rays in a folder, sampled in random batches."""

    kind = "rays"
    heads_per_shard = HEADS_PER_SHARD

    @classmethod
    def write(cls, path: Path, seed: int, device: str = "cpu") -> None:
        """Write one shard, see `write_shard`."""
        write_shard(path, seed, device)

    def batch(
        self, heads: int, rays: int, rng: np.random.Generator, device: torch.device | str = "cpu"
    ) -> Rays:
        """Sample random heads with random rays from all their cameras.

        Args:
            heads: number of heads.
            rays: number of rays per head.
            rng: random generator.
            device: device of the batch.
        """
        parts: dict[str, list[np.ndarray]] = {
            name: [] for name in ("z", "cam", "pixels", "colours", "covers", "depths")
        }
        for _ in range(heads):
            shard, head = self.draw(rng)
            index = rng.integers(0, CAMERAS_PER_HEAD * RAYS_PER_CAMERA, rays)
            parts["z"].append(shard["z"][head])
            parts["cam"].append(shard["cameras"][head][index // RAYS_PER_CAMERA])
            for name in ("pixels", "colours", "covers", "depths"):
                flat = shard[name][head].reshape(CAMERAS_PER_HEAD * RAYS_PER_CAMERA, -1)
                parts[name].append(flat[index])
        t = {
            name: torch.from_numpy(np.stack(value).astype(np.float32)).to(device)
            for name, value in parts.items()
        }
        pose = t["cam"][..., :16].unflatten(2, (4, 4))
        uv = (t["pixels"] / 65535 - 0.5) / t["cam"][..., 16:17]
        local = torch.cat([uv, torch.ones_like(uv[..., :1])], dim=2)
        directions = torch.nn.functional.normalize((pose[..., :3, :3] @ local[..., None])[..., 0], dim=2)
        return Rays(
            t["z"],
            pose[..., :3, 3],
            directions,
            t["colours"] / 255,
            t["covers"] / 255,
            t["depths"] + DEPTH_ORIGIN,
        )
