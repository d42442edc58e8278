"""Textures of meshes, baked from a generator's own pictures.

Vertex colors come from the radiance field and know nothing of super-resolution. A texture takes its colors
from final pictures of the views that the generator was trained on: every texel's surface point is looked up
in each picture that shows it, and the pictures are blended by how squarely they see it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import look_at
from ..common.progress import OnStep
from ..eg3d import Generator
from .errors import MeshError
from .rasterization import project, rasterize

if TYPE_CHECKING:
    import trimesh

TEXTURE_HINT = "A texture needs packages that are not installed: pip install xatlas fast-simplification"
SIZES = (256, 512, 1024, 2048, 4096)
"""Sizes of textures, in texels along an edge."""
# Largest angle in degrees between neighboring views, and from the horizon: closer to the pole views of a
# generator that was trained on every side hardly differ.
_YAW_STEP, _PITCH_STEP, _STEEPEST = 22.0, 30.0, 60.0
# Optical depth along the normal at which pictures show the surface: less, and colors shift sideways from
# view to view; more, and the silhouette shrinks.
_OPTICAL_DEPTH = 0.2
# World units along the normal, from outside to inside, on which it is looked for, and samples on them.
_OUTSIDE, _INSIDE, _SAMPLES = 0.012, 0.036, 25
_SMOOTHINGS = 3
# Edge of the depth maps that decide what a view sees, in pixels.
_DEPTH_SIZE = 512
# World units by which a point may lie behind the visible surface and still count as seen, and depth within
# a neighborhood from which on it holds the border of something in front.
_BEHIND, _STEP = 0.006, 0.025
# Pixels of the picture beside such a border that are not used: super-resolution mixes both sides there.
_BORDER = 1.5
# Exponent of the cosine between the normal and the direction of view: how much the squarest view counts.
_SQUARE = 4.0
# Weight of the fallback color beside that of a view that sees a point squarely.
_FALLBACK = 0.01
# Stiffness of the correction that tints the fallback, in the neighborhood of a vertex.
_STIFFNESS = 0.02
# Texels between charts.
_PADDING = 4


@dataclass
class _Gathered:
    """Sums over the views at surface points: weighted colors [P, 3] in [-1, 1] and weights [P]."""

    points: Tensor
    normals: Tensor
    colors: Tensor
    weights: Tensor

    @classmethod
    def of(cls, points: Tensor, normals: Tensor) -> _Gathered:
        return cls(
            points, F.normalize(normals, dim=1), torch.zeros_like(points), points.new_zeros(len(points))
        )


def check_texture_packages() -> None:
    """Raise a MeshError that names the command if xatlas is not installed."""
    try:  # imported here: optional
        import xatlas  # noqa: F401
    except ImportError as error:
        raise MeshError(f"{TEXTURE_HINT} (the import said: {error}).") from error


def texture_mesh(
    generator: Generator,
    ws: Tensor,
    mesh: trimesh.Trimesh,
    size: int = 1024,
    on_step: OnStep | None = None,
) -> trimesh.Trimesh:
    """Replace a mesh's vertex colors by a texture, baked from the generator's final pictures.

    The pictures are of the trained views (`Generator.trained_views`), at most 22 degrees apart. A view counts
    at a point if it sees the point, by the cosine of the angle at which it does to the power of 4, and not
    beside the border of something in front. Where no view looks, the vertex colors remain, tinted so that
    they meet the texture without a step.

    Pictures show what lies a little below the surface of a low level of density. The vertices are moved there
    (at most .036 world units inward), or details would shift sideways from view to view and blur.

    The atlas is made by xatlas, whose time grows faster than the number of faces and which cannot be
    interrupted: 1.5 s for 20,000 faces, 7 s for 40,000, 57 s for 200,000. Reduce the mesh before, by
    `faces` of `extract_mesh`.

    Args:
        generator: the generator; for a person's mesh call inside `personalized`.
        ws: the latent of the mesh [1, num_ws, w_dim].
        mesh: the mesh of `extract_mesh`, with its vertex colors.
        size: edge of the texture in texels, one of `SIZES`.
        on_step: progress callback, called after the atlas and after each view, with its picture.

    Returns:
        The surface with `trimesh.visual.TextureVisuals`: vertices on seams are doubled, and the
        texture is an sRGB picture in `visual.material.baseColorTexture`.

    Raises:
        ValueError: another size, several latents, or a mesh without vertex colors.
        MeshError: xatlas is not installed.
    """
    if size not in SIZES:
        raise ValueError(f"The texture's size is one of {', '.join(map(str, SIZES))}, not {size}.")
    if len(ws) != 1:
        raise ValueError(f"A mesh is made of one latent, but {len(ws)} were given. Choose one.")
    visual: Any = mesh.visual
    if visual.kind != "vertex":
        raise ValueError("The mesh has no vertex colors: give the mesh of extract_mesh.")
    check_texture_packages()
    import trimesh
    from PIL import Image

    with torch.no_grad():
        cameras = baking_cameras(generator, ws.device)
        total = len(cameras) + 2
        parents, faces, uv = _atlas(mesh, size)
        if on_step is not None:
            on_step(1, total, {}, None)
        points, normals, colors = (
            torch.tensor(np.asarray(values), dtype=torch.float32, device=ws.device)
            for values in (mesh.vertices, mesh.vertex_normals, visual.vertex_colors[:, :3] / 127.5 - 1)
        )
        planes = generator.planes(ws)
        points = points - normals * visible_depth(generator, ws, planes, points, normals, mesh)[:, None]
        triangles = torch.tensor(np.asarray(mesh.faces), dtype=torch.int64, device=ws.device)
        flat = torch.tensor(np.column_stack((uv * size, np.ones(len(uv)))), dtype=torch.float32)
        drawn = rasterize(flat.to(ws.device), faces.to(ws.device), size, size)
        doubled = parents.to(ws.device)

        def on_texels(values: Tensor) -> Tensor:
            return drawn.interpolate(values[doubled], faces.to(ws.device))

        vertices = _Gathered.of(points, normals)
        texels = _Gathered.of(on_texels(points), on_texels(normals))
        for number, camera in enumerate(cameras):
            view = generator.render(ws, camera[None], planes=planes, quality="fast")
            _gather(view.image[0].float(), camera, points, triangles, (texels, vertices))
            if on_step is not None:
                on_step(number + 2, total, {}, view.image)
        fallback = on_texels(colors + _correction(mesh, vertices, colors))
        blended = (texels.colors + _FALLBACK * fallback) / (texels.weights + _FALLBACK)[:, None]
        picture = torch.zeros(size, size, 3, device=ws.device)
        picture[drawn.covered] = blended.clamp(-1, 1)
        pixels = _padded(picture.cpu().numpy(), drawn.covered.cpu().numpy())
        if on_step is not None:
            on_step(total, total, {}, None)
    texture = Image.fromarray(((pixels + 1) * 127.5).round().astype(np.uint8))
    keep = parents.numpy()
    made = trimesh.Trimesh(
        points.cpu().numpy()[keep],
        faces.numpy(),
        vertex_normals=np.asarray(mesh.vertex_normals)[keep],
        process=False,
    )
    made.visual = trimesh.visual.TextureVisuals(
        uv=np.column_stack((uv[:, 0], 1 - uv[:, 1])),  # trimesh counts from the lower edge
        material=trimesh.visual.material.PBRMaterial(
            baseColorTexture=texture,
            baseColorFactor=[255, 255, 255, 255],  # else .mtl files darken it
            metallicFactor=0.0,
            roughnessFactor=1.0,
        ),
    )
    return made


def baking_cameras(generator: Generator, device: torch.device | None = None) -> Tensor:
    """Return the cameras [N, 25] of the pictures that a texture is baked from: a grid of trained views."""
    config, views = generator.config, generator.trained_views
    yaw, pitch = min(views.yaw, 180.0), min(views.pitch, _STEEPEST)
    around = _evenly(yaw, _YAW_STEP, device)
    if yaw == 180.0:
        around = around[1:]  # both ends are the back
    yaws, pitches = torch.meshgrid(around, _evenly(pitch, _PITCH_STEP, device), indexing="ij")
    return look_at(
        yaws.flatten().deg2rad(),
        pitches.flatten().deg2rad(),
        config.avg_camera_radius,
        config.avg_camera_pivot,
        config.focal,
        device=device,
    )


def _evenly(limit: float, step: float, device: torch.device | None) -> Tensor:
    """Return an odd number of angles from -limit to limit, at most `step` apart."""
    half = math.ceil(limit / step)
    return torch.linspace(-limit, limit, 2 * half + 1, device=device)


def visible_depth(
    generator: Generator, ws: Tensor, planes: Tensor, points: Tensor, normals: Tensor, mesh: trimesh.Trimesh
) -> Tensor:
    """Return how far below the surface pictures show it, world units >= 0, at each vertex [V].

    It is where the optical depth along the inward normal reaches .2, smoothed over neighboring vertices.
    """
    places = torch.linspace(-_OUTSIDE, _INSIDE, _SAMPLES, device=points.device)
    step = (_OUTSIDE + _INSIDE) / (_SAMPLES - 1)
    found = []
    for origins, outward in zip(points.split(1 << 14), normals.split(1 << 14), strict=True):
        along = origins[:, None] - outward[:, None] * places[:, None]
        raw, _ = generator.sample(ws, along.view(1, -1, 3), planes=planes)
        density = F.softplus(raw.float() - 1).view(-1, _SAMPLES)
        passed = F.pad((density[:, 1:] + density[:, :-1]).cumsum(1) * (step / 2), (1, 0))
        # the first sample beyond, and the fraction of the step before it
        after = (passed < _OPTICAL_DEPTH).sum(1).clamp(1, _SAMPLES - 1)
        low, high = (passed.gather(1, (after - back)[:, None])[:, 0] for back in (1, 0))
        part = ((_OPTICAL_DEPTH - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        found.append(places[after - 1] + part * step)
    depth = torch.cat(found).clamp(min=0)
    one, two = torch.tensor(np.asarray(mesh.edges_unique), device=points.device).T
    for _ in range(_SMOOTHINGS):
        total = depth.clone().index_add_(0, one, depth[two]).index_add_(0, two, depth[one])
        ones = torch.ones_like(depth)
        count = ones.clone().index_add_(0, one, ones[two]).index_add_(0, two, ones[one])
        depth = total / count
    return depth


def _atlas(mesh: trimesh.Trimesh, size: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Unfold a mesh by xatlas.

    Returns:
        the original vertex of each vertex of the atlas [W], its faces [F, 3], and its positions in 0..1 from
        the upper left [W, 2].
    """
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(
        np.asarray(mesh.vertices, np.float32),
        np.asarray(mesh.faces, np.uint32),
        np.asarray(mesh.vertex_normals, np.float32),
    )
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, _PADDING, True
    atlas.generate(pack_options=packing)
    parents, faces, uv = atlas[0]
    return torch.tensor(parents.astype(np.int64)), torch.tensor(faces.astype(np.int64)), uv


def _gather(
    picture: Tensor, camera: Tensor, points: Tensor, triangles: Tensor, gathered: tuple[_Gathered, ...]
) -> None:
    """Add a picture [3, H, H] to the sums of surface points that it shows."""
    depth = rasterize(project(camera, points, _DEPTH_SIZE), triangles, _DEPTH_SIZE, _DEPTH_SIZE).depth
    depth = depth.clamp(max=1e3)[None, None]
    radius = math.ceil(_BORDER * _DEPTH_SIZE / picture.shape[-1])
    near = -F.max_pool2d(-depth, 3, 1, 1)
    far = F.max_pool2d(depth, 3, 1, 1)
    border = ((far - near) > _STEP).float()
    border = F.max_pool2d(border, 2 * radius + 1, 1, radius)
    clear = 1 - F.avg_pool2d(border, 2 * radius + 1, 1, radius, count_include_pad=False)
    maps = torch.cat((far, clear), dim=1)
    position = camera[:16].view(4, 4)[:3, 3]
    for part in gathered:
        toward = F.normalize(position - part.points, dim=1)
        cosine = (toward * part.normals).sum(1)
        ahead = (cosine > 0.1).nonzero()[:, 0]
        places = project(camera, part.points[ahead], 1)
        inside = ((places[:, :2] - 0.5).abs() < 0.5).all(1)
        ahead, places = ahead[inside], places[inside]
        grid = (places[:, :2] * 2 - 1).view(1, -1, 1, 2)
        surface, free = _sampled(maps, grid).T
        seen = places[:, 2] < surface + _BEHIND
        weight = torch.where(seen, free * cosine[ahead] ** _SQUARE, 0.0)
        part.weights[ahead] += weight
        part.colors[ahead] += weight[:, None] * _sampled(picture[None], grid, "bicubic")


def _sampled(maps: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample maps [1, C, H, W] at places [1, P, 1, 2] in [-1, 1]: [P, C]."""
    found = F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)
    return found[0, :, :, 0].T


def _correction(mesh: trimesh.Trimesh, vertices: _Gathered, colors: Tensor) -> Tensor:
    """Return what to add to vertex colors [V, 3] to meet the baked ones, continued where there are none."""
    # imported here: optional, as trimesh is
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import cg

    weights = vertices.weights.clamp(max=1).cpu().numpy().astype(np.float64)
    baked = vertices.colors / vertices.weights.clamp(min=1e-6)[:, None]
    wanted = torch.where(vertices.weights[:, None] > 1e-6, baked - colors, 0.0).cpu().numpy()
    edges = mesh.edges_unique
    count = len(mesh.vertices)
    ones = np.ones(len(edges))
    links = coo_matrix((ones, edges.T), shape=(count, count))
    links = (links + links.T).tocsr()
    laplacian = diags(np.asarray(links.sum(1))[:, 0]) - links
    system = (diags(weights + 1e-6) + _STIFFNESS * laplacian).tocsr()
    scale = diags(1 / system.diagonal())
    solved = [cg(system, weights * wanted[:, band], M=scale, rtol=1e-4, maxiter=400)[0] for band in range(3)]
    return torch.tensor(np.stack(solved, axis=1), dtype=colors.dtype, device=colors.device)


def _padded(picture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Give texels [H, W, 3] outside the charts the color of the nearest covered one."""
    from scipy.ndimage import distance_transform_edt  # imported here: optional, as trimesh is

    row, column = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return picture[row, column]
