"""Ray casting with warp: what a camera ray sees of a head, averaged over its footprint.

The CPU is the default, and the only device whose pictures are the same everywhere.

This module needs warp and is therefore imported only by the functions that use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import warp as wp

from .warp_kernels import cast_rays, openness


def _array(values: Any, dtype: Any, device: str, numpy_type: type = np.float32) -> Any:
    """A warp array on the device."""
    return wp.array(np.ascontiguousarray(values, numpy_type), dtype=dtype, device=device)


@dataclass
class Scene:
    """Heads ready for casting: `heads` meshes that share triangles and attributes, each with its own
    paint, on a device in warp's words ("cpu", "cuda:0")."""

    device: str
    meshes: list[wp.Mesh]
    ids: Any
    triangles: Any
    parts: Any
    attributes: Any
    normals: Any
    paint: Any
    marks: Any
    eyes: Any


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [B, V, 3] of vertices [B, V, 3]."""
    corner = vertices[:, triangles]
    face = np.cross(corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0])
    normals = np.zeros_like(vertices)
    flat = triangles.reshape(-1)
    for i in range(len(vertices)):
        for axis in range(3):
            normals[i, :, axis] = np.bincount(
                flat, np.repeat(face[i, :, axis], 3), minlength=vertices.shape[1]
            )
    return normals / np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-12)


def make_scene(
    vertices: np.ndarray,
    triangles: np.ndarray,
    parts: np.ndarray,
    attributes: np.ndarray,
    paint: np.ndarray,
    marks: np.ndarray,
    eyes: np.ndarray,
    device: str = "cpu",
) -> Scene:
    """Meshes and device arrays of heads [H, V, 3] with triangles [F, 3], paint [H, PAINT], marks [H, M,
    MARK]."""
    vertices = np.ascontiguousarray(vertices, dtype=np.float32)
    flat = _array(triangles.reshape(-1), wp.int32, device, np.int32)
    meshes = [wp.Mesh(_array(points, wp.vec3, device), flat) for points in vertices]
    return Scene(
        device=device,
        meshes=meshes,
        ids=_array([mesh.id for mesh in meshes], wp.uint64, device, np.uint64),
        triangles=_array(triangles, wp.int32, device, np.int32),
        parts=_array(parts, wp.int32, device, np.int32),
        attributes=_array(attributes, float, device),
        normals=_array(vertex_normals(vertices, triangles), wp.vec3, device),
        paint=_array(paint, float, device),
        marks=_array(marks, float, device),
        eyes=_array(eyes, wp.vec3, device),
    )


def cast(
    scene: Scene,
    cameras: np.ndarray,
    head_of_camera: np.ndarray,
    camera_of_ray: np.ndarray,
    pixels: np.ndarray,
    footprint: float,
    grid: int,
) -> np.ndarray:
    """What rays see, [R, 5]: colour in [-1, 1] (white where nothing is), depth along the ray, covered
    fraction.

    Args:
        cameras: [C, 25]; head_of_camera: [C]; camera_of_ray: [R]; pixels: [R, 2] in image units (0..1).
        footprint: side of a pixel in image units; colour and coverage average `grid` x `grid` rays over it.
        Depth is that of the middle ray; where only a part of the pixel is covered, the mean of that part; 0
        outside.
    """
    device = scene.device
    out = wp.zeros((len(pixels), 5), dtype=float, device=device)
    rays = [
        _array(cameras, float, device),
        _array(head_of_camera, wp.int32, device, np.int32),
        _array(camera_of_ray, wp.int32, device, np.int32),
        _array(pixels, wp.vec2, device),
    ]
    heads = [scene.ids, scene.triangles, scene.parts, scene.attributes, scene.normals, scene.paint]
    wp.launch(
        cast_rays,
        dim=len(pixels),
        inputs=[*heads, scene.marks, scene.eyes, *rays, float(footprint), int(grid)],
        outputs=[out],
        device=device,
    )
    return out.numpy()


def ambient_occlusion(
    vertices: np.ndarray, triangles: np.ndarray, rays: int = 192, reach: float = 0.25
) -> np.ndarray:
    """How open to the sky each vertex is, [V] in 0..1: the share of cosine-distributed rays that leave
    freely."""
    normals = vertex_normals(vertices[None], triangles)[0]
    points = _array(vertices, wp.vec3, "cpu")
    mesh = wp.Mesh(points, _array(triangles.reshape(-1), wp.int32, "cpu", np.int32))
    out = wp.zeros(len(vertices), dtype=float, device="cpu")
    inputs = [mesh.id, points, _array(normals, wp.vec3, "cpu"), rays, reach]
    wp.launch(openness, dim=len(vertices), inputs=inputs, outputs=[out], device="cpu")
    return out.numpy()
