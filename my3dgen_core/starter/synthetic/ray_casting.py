"""Ray casting of head meshes with warp: color, depth and coverage of each ray, averaged over its footprint.

The default is the CPU, whose pictures are the same on every machine; those of GPUs differ in the last bits.
This module needs warp, an optional dependency, so other modules import it only inside the functions that use
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import warp as wp

from .warp_kernels import cast_rays, openness


def _array(values: Any, dtype: Any, device: str, numpy_type: type = np.float32) -> Any:
    """Copy values to a warp array on the device."""
    return wp.array(np.ascontiguousarray(values, numpy_type), dtype=dtype, device=device)


@dataclass
class Scene:
    """Meshes of H heads with shared topology, as warp arrays on one device."""

    device: str
    """Device in warp's notation ("cpu", "cuda:0")."""
    meshes: list[wp.Mesh]
    """Mesh of each head; kept so that their ids stay valid."""
    ids: Any
    """Ids of the meshes [H]."""
    triangles: Any
    """Vertex indices [F, 3]."""
    parts: Any
    """Part number [F] of each triangle, see `head_mesh`."""
    attributes: Any
    """Vertex attributes [V, ATTRIBUTES]."""
    normals: Any
    """Vertex normals [H, V, 3]."""
    paint: Any
    """Shading parameters [H, PAINT]."""
    marks: Any
    """Marks on the skin [H, M, MARK]."""
    eyes: Any
    """Centers of the eyeballs in canonical coordinates [2, 3]."""


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Compute area-weighted unit normals [B, V, 3] of vertices [B, V, 3] with triangles [F, 3]."""
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
    """Build the meshes and arrays of H heads on a device.

    Args:
        vertices: world vertices [H, V, 3].
        triangles: vertex indices [F, 3].
        parts: part number [F] of each triangle.
        attributes: vertex attributes [V, ATTRIBUTES].
        paint: shading parameters [H, PAINT].
        marks: marks on the skin [H, M, MARK].
        eyes: centers of the eyeballs in canonical coordinates [2, 3].
        device: device in warp's notation ("cpu", "cuda:0").
    """
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
    """Cast rays, each averaged over the footprint of a pixel.

    Args:
        scene: heads.
        cameras: cameras [C, 25].
        head_of_camera: index [C] of the head that each camera sees.
        camera_of_ray: index [R] of the camera of each ray.
        pixels: centers of the pixels [R, 2] in image units (0..1).
        footprint: side of a pixel in image units.
        grid: `grid` x `grid` rays are averaged over the footprint.

    Returns:
        Values [R, 5] of the rays, which are RGB in [-1, 1] on white; depth along the central ray, or the mean
            of the other rays if it misses, 0 if all miss; covered fraction.
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
    """Compute ambient occlusion of vertices: the fraction of cosine-distributed rays that hit nothing.

    Args:
        vertices: vertices [V, 3].
        triangles: vertex indices [F, 3].
        rays: number of rays per vertex.
        reach: length of the rays.

    Returns:
        Openness [V]: 0 occluded, 1 open.
    """
    normals = vertex_normals(vertices[None], triangles)[0]
    points = _array(vertices, wp.vec3, "cpu")
    mesh = wp.Mesh(points, _array(triangles.reshape(-1), wp.int32, "cpu", np.int32))
    out = wp.zeros(len(vertices), dtype=float, device="cpu")
    inputs = [mesh.id, points, _array(normals, wp.vec3, "cpu"), rays, reach]
    wp.launch(openness, dim=len(vertices), inputs=inputs, outputs=[out], device="cpu")
    return out.numpy()
