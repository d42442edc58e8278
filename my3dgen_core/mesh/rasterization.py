"""Rasterization of triangles in PyTorch: which face covers a pixel, and where on it the pixel lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import cam2world, intrinsics

if TYPE_CHECKING:
    import trimesh

# Pairs of a face and a pixel of its bounding box that are tested at a time.
_PAIRS = 1 << 22
# Tolerance of the barycentric weights, so that a pixel on an edge belongs to a face.
_EDGE = 1e-6


@dataclass(frozen=True)
class Fragments:
    """The nearest face at each pixel of a picture."""

    faces: Tensor
    """Index of the face, int64 [H, W]; -1 where there is none."""
    weights: Tensor
    """Weights of its corners, perspectively correct, [H, W, 3]; 0 where there is no face."""
    depth: Tensor
    """Depth [H, W]; infinite where there is no face."""

    @property
    def covered(self) -> Tensor:
        """Pixels with a face, bool [H, W]."""
        return self.faces >= 0

    def interpolate(self, values: Tensor, faces: Tensor) -> Tensor:
        """Interpolate values [V, C] of the vertices of faces [F, 3] at the covered pixels: [P, C]."""
        covered = self.covered
        corners = values[faces[self.faces[covered]]]
        return (self.weights[covered][..., None] * corners).sum(1)


def project(camera: Tensor, points: Tensor, size: int) -> Tensor:
    """Project points [P, 3] into the square image of a camera [25].

    Returns:
        column and row in pixels (0 to `size`, the upper left pixel's middle is at .5) and depth along the
        optical axis, [P, 3].
    """
    pose, k = cam2world(camera[None])[0], intrinsics(camera[None])[0]
    local = (points - pose[:3, 3]) @ pose[:3, :3]  # right, down, forward
    depth = local[:, 2:]
    place = (local @ k.mT)[:, :2] / torch.where(depth.abs() < 1e-9, 1e-9, depth)
    return torch.cat((place * size, depth), dim=1)


def rasterize(points: Tensor, faces: Tensor, height: int, width: int) -> Fragments:
    """Find the nearest face at the middle of each pixel.

    Args:
        points: column and row in pixels and depth of each vertex [V, 3]. A face with a corner at depth <= 0
            is left out. Equal depths give a plain drawing, as of an atlas.
        faces: vertex indices [F, 3]; both sides are drawn.
        height: rows.
        width: columns.
    """
    corners = points[faces]
    low = (corners[..., :2].amin(1) - 0.5).ceil().clamp(min=0).long()
    edge = torch.tensor((width, height), device=points.device)
    high = torch.minimum((corners[..., :2].amax(1) - 0.5).floor().long(), edge - 1)
    span = (high - low + 1).clamp(min=0)
    counts = span.prod(1) * (corners[..., 2] > 0).all(1)
    drawn = counts.nonzero()[:, 0]
    groups = (counts[drawn].cumsum(0) - 1).div(_PAIRS, rounding_mode="floor")
    pixels, indices, weights, nearness = [], [], [], []
    for part in drawn.split(torch.unique_consecutive(groups, return_counts=True)[1].tolist()):
        count = counts[part]
        face = part.repeat_interleave(count)
        first = (count.cumsum(0) - count).repeat_interleave(count)
        place = torch.arange(len(face), device=face.device) - first
        columns = span[face, 0]
        column = low[face, 0] + place % columns
        row = low[face, 1] + place.div(columns, rounding_mode="floor")
        inside, flat = _barycentric(corners[face, :, :2], torch.stack((column, row), dim=1) + 0.5)
        inverse = flat / corners[face[inside], :, 2]
        near = inverse.sum(1, keepdim=True)
        pixels.append((row * width + column)[inside])
        indices.append(face[inside])
        weights.append(inverse / near)
        nearness.append(near[:, 0])
    shape = (height, width)
    nearest = torch.full((height * width,), -1, dtype=torch.int64, device=points.device)
    found = points.new_zeros(height * width, 3)
    depth = points.new_full((height * width,), torch.inf)
    if pixels:
        pixel, near = torch.cat(pixels), torch.cat(nearness)
        most = near.new_zeros(height * width).scatter_reduce_(0, pixel, near, "amax")
        winners = (near == most[pixel]).nonzero()[:, 0]
        entry = torch.full_like(nearest, -1)
        entry[pixel[winners]] = winners  # of equally near ones any
        hit = entry >= 0
        entry = entry[hit]
        nearest[hit] = torch.cat(indices)[entry]
        found[hit] = torch.cat(weights)[entry]
        depth[hit] = 1 / near[entry]
    return Fragments(nearest.view(shape), found.view(*shape, 3), depth.view(shape))


def _barycentric(corners: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return which places [N, 2] lie in their triangles [N, 3, 2], bool [N], and the weights of those."""
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    to = places - corners[:, 0]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    safe = torch.where(area == 0, torch.nan, area)
    second = (to[:, 0] * two[:, 1] - to[:, 1] * two[:, 0]) / safe
    third = (one[:, 0] * to[:, 1] - one[:, 1] * to[:, 0]) / safe
    weights = torch.stack((1 - second - third, second, third), dim=1)
    inside = (weights >= -_EDGE).all(1)
    weights = weights[inside].clamp(min=0)
    return inside, weights / weights.sum(1, keepdim=True)


def render_mesh(
    mesh: trimesh.Trimesh, camera: Tensor, size: int, background: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw a mesh with its vertex colors or its texture, unlit, from one camera.

    Vertex colors are interpolated as viewers do, in linear light; textures bilinearly.

    Args:
        mesh: the mesh of `extract_mesh` or `texture_mesh`.
        camera: [25] or [1, 25].
        size: edge of the picture in pixels.
        background: value of pixels without a face, in [-1, 1].

    Returns:
        picture [3, size, size] in [-1, 1], and the pixels with a face, bool [size, size].
    """
    camera = camera.view(25).float()
    points = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32, device=camera.device)
    faces = torch.tensor(np.asarray(mesh.faces), dtype=torch.int64, device=camera.device)
    fragments = rasterize(project(camera, points, size), faces, size, size)
    return shade(mesh, fragments, faces, background), fragments.covered


def shade(mesh: trimesh.Trimesh, fragments: Fragments, faces: Tensor, background: float = 1.0) -> Tensor:
    """Return the unlit picture [3, H, W] in [-1, 1] of rasterized faces [F, 3] of a mesh."""
    device = faces.device
    visual: Any = mesh.visual
    picture = torch.full((*fragments.faces.shape, 3), background, device=device)
    if visual.kind == "texture":
        texture = torch.tensor(np.array(visual.material.baseColorTexture.convert("RGB")), device=device)
        uv = torch.tensor(np.asarray(visual.uv), dtype=torch.float32, device=device)
        at = fragments.interpolate(uv, faces) * torch.tensor((2.0, -2.0), device=device)
        at = at + torch.tensor((-1.0, 1.0), device=device)
        values = F.grid_sample(
            texture.permute(2, 0, 1)[None].float() / 255,
            at.view(1, -1, 1, 2),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        shown = values[0, :, :, 0].T
    else:
        colors = torch.tensor(np.asarray(visual.vertex_colors)[:, :3], device=device).float() / 255
        linear = torch.where(
            colors <= 0.04045, colors / 12.92, ((colors.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
        )
        light = fragments.interpolate(linear, faces)
        shown = torch.where(
            light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
        )
    picture[fragments.covered] = shown.clamp(0, 1) * 2 - 1
    return picture.permute(2, 0, 1)
