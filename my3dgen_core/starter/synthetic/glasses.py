"""Meshes of glasses: two rims, a bridge and temples, fitted to a face."""

from __future__ import annotations

import numpy as np

from .head_mesh import SKIN, HeadModel


def tube(path: np.ndarray, radius: float, closed: bool, sides: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Build a tube along a path.

    Args:
        path: points [N, 3].
        radius: radius of the tube.
        closed: connect the last point with the first.
        sides: number of vertices around the tube.

    Returns:
        Vertices [N * sides, 3] and triangles [M, 3].
    """
    count = len(path)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    if not closed:
        tangent[0], tangent[-1] = path[1] - path[0], path[-1] - path[-2]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    first = np.cross(tangent, np.array([0.31, 0.17, 0.94]))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.cos(angle)[None, :, None] * first[:, None] + np.sin(angle)[None, :, None] * second[:, None]
    vertices = (path[:, None] + radius * ring).reshape(-1, 3)
    triangles = []
    for i in range(count if closed else count - 1):
        j = (i + 1) % count
        for k in range(sides):
            m = (k + 1) % sides
            a, b, c, d = i * sides + k, i * sides + m, j * sides + k, j * sides + m
            triangles += [[a, b, c], [b, d, c]]
    return vertices, np.array(triangles)


def glasses(landmarks: np.ndarray, vertices: np.ndarray, model: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Build glasses for a face.

    Args:
        landmarks: eyes, nose, mouth corners of the neutral face [5, 3].
        vertices: vertices of the neutral face [V, 3].
        model: head model.

    Returns:
        Vertices [N, 3] and triangles [M, 3].
    """
    skin = np.unique(model.triangles[model.parts == SKIN])
    face = vertices[skin]
    parts = []
    rims = []
    for eye in landmarks[:2]:
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        rim = (
            np.stack([0.060 * np.cos(angle), 0.046 * np.sin(angle) - 0.006, np.zeros_like(angle)], axis=1)
            + eye
        )
        # In front of brows and cheeks, wrapping back a little on the outside.
        near = np.abs(face[:, None, :2] - rim[None, :, :2]).max(axis=2) < 0.02
        front = np.where(near, face[:, None, 2], -1.0).max(axis=0)
        rim[:, 2] = max(front[np.abs(rim[:, 0]) < 0.12].max() * 0.5 + eye[2] * 0.5, eye[2] + 0.022)
        rim[:, 2] -= 0.20 * np.clip(np.abs(rim[:, 0]) - 0.09, 0, None)
        rims.append(rim)
        parts.append(tube(rim, 0.0062, closed=True))
    inner = [rims[0][np.argmax(rims[0][:, 0])], rims[1][np.argmin(rims[1][:, 0])]]
    t = np.linspace(0, 1, 7)[:, None]
    bridge = inner[0] * (1 - t) + inner[1] * t
    bridge[:, 1] += 0.012 * np.sin(np.pi * t[:, 0])
    bridge[:, 2] += 0.022 * np.sin(np.pi * t[:, 0])
    parts.append(tube(bridge, 0.0058, closed=False))
    for rim, sign in zip(rims, (-1.0, 1.0), strict=True):
        hinge = rim[np.argmax(sign * rim[:, 0])] + np.array([0, 0.012, 0])
        band = face[(np.abs(face[:, 1] - hinge[1]) < 0.03) & (face[:, 2] < 0.10) & (face[:, 2] > -0.05)]
        wide = np.quantile(sign * band[:, 0], 0.9) + 0.006 if len(band) else 0.19
        elbow = np.array([sign * wide, hinge[1], 0.09])
        end = np.array([sign * wide, hinge[1] - 0.01, -0.045])
        path = np.concatenate(
            [
                hinge + (elbow - hinge) * np.linspace(0, 1, 8)[:-1, None],
                elbow + (end - elbow) * np.linspace(0, 1, 6)[:, None],
            ]
        )
        parts.append(tube(path, 0.0058, closed=False))
    offset, all_vertices, all_triangles = 0, [], []
    for points, triangles in parts:
        all_vertices.append(points)
        all_triangles.append(triangles + offset)
        offset += len(points)
    return np.concatenate(all_vertices), np.concatenate(all_triangles)
