"""Heads as meshes: the density on a grid, the surface where it passes a level, the colour seen there."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .camera import in_picture
from .common.progress import OnStep
from .eg3d import Generator
from .eg3d.decoder import Decoder
from .eg3d.rendering import compiled
from .formats.atomic_file import atomic_path

if TYPE_CHECKING:
    import trimesh

INSTALL_HINT = "Meshes need scikit-image, scipy and trimesh: pip install scikit-image trimesh"
DEFAULT_LEVEL = 20.0
"""Density that takes half of the light within .035 world units. On the starter the surfaces of levels 1 to 80
lie within .006 of one another."""
_SLICE_POINTS = 1 << 18
_SKIN_DEPTH, _SKIN_SAMPLES = 0.06, 12


class MeshError(RuntimeError):
    """There is no surface, or a package is missing; the message says what to do."""


def extract_mesh(
    generator: Generator,
    ws: Tensor,
    resolution: int = 256,
    level: float | None = None,
    on_step: OnStep | None = None,
    *,
    cut_behind: float | None = None,
    largest: bool = True,
) -> trimesh.Trimesh:
    """The surface of a head, y up and nose towards +z, in world units (the head is about half a unit high).

    Marching cubes (scikit-image) on the density that is marched, softplus(raw - 1), over the whole box. High
    up, where no view that the generator was trained for shows the middle of the box (`above_views`), anything
    may have grown. A head that narrows there to nothing, or up to the box, is whole. Where it widens again
    something has grown onto it, and it ends at the last height that is seen.

    Args:
        generator: apply an identity around the call for a person's mesh (`personalized`).
        ws: [1, num_ws, w_dim].
        resolution: grid points along an edge, >= 16. Time and memory grow with its cube.
        level: density of the surface; None: 20. Lower is fuller and smoother, higher shows what is solid.
        on_step: called as (step, total, {}, None) for each part of the grid; what it raises ends the work.
        cut_behind: everything at z below this is air. Generators trained on photographs put a wall behind
            the head: -.25 cuts it off.
        largest: keep the largest connected piece alone.

    Returns:
        A watertight `trimesh.Trimesh` with vertex normals and colours: at the border of the box and at the
        cut it is closed.

    Raises:
        ValueError: several latents, a resolution or level out of range.
        MeshError: no density reaches the level, or scikit-image or trimesh is not installed.
    """
    if len(ws) != 1:
        raise ValueError(f"A mesh is made of one latent, but {len(ws)} were given. Choose one.")
    if resolution < 16:
        raise ValueError(f"The grid needs at least 16 points along an edge, not {resolution}.")
    level = DEFAULT_LEVEL if level is None else float(level)
    if not (math.isfinite(level) and level > 0):
        raise ValueError(f"level must be a density above 0, not {level}.")
    try:
        import trimesh
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise MeshError(f"{INSTALL_HINT} (the import said: {error}).") from error
    with torch.no_grad():
        planes = _packed(generator.planes(ws))
        sampled = density_grid(generator, ws, resolution, planes=planes, on_step=on_step, level=level)
        density = sampled.cpu().numpy()
        half = generator.config.box_warp / 2
        spacing = 2 * half / (resolution - 1)
        if cut_behind is not None:
            density[:, :, np.linspace(-half, half, resolution) < cut_behind] = 0.0
        line = torch.linspace(-half, half, resolution, device=ws.device)
        density[:, _top(density > level, above_views(generator, line).cpu().numpy()) :] = 0.0
        if not density.max() > level:
            most = float(density_grid(generator, ws, min(resolution, 64), planes=planes).max())
            raise MeshError(
                f"The density reaches about {most:.3g}, and nothing that is not cut off reaches the level "
                f"{level:.3g}: there is no surface. Lower the level."
            )
        padded = np.pad(density, 1)  # air around the box closes the surface at its border
        vertices, faces, _, _ = marching_cubes(padded, level, spacing=(spacing,) * 3)
        vertices = vertices - (half + spacing)
        # as they are: merging vertices that nearly coincide would tear the surface open
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        if largest:
            mesh = _largest(mesh)
        if mesh.volume < 0:
            mesh.invert()
        mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=_colours(generator, ws, planes, mesh))
        mesh.vertex_normals  # noqa: B018  made now, so that files carry them
    return mesh


def density_grid(
    generator: Generator,
    ws: Tensor,
    resolution: int,
    *,
    planes: Tensor | None = None,
    on_step: OnStep | None = None,
    level: float | None = None,
) -> Tensor:
    """Density softplus(raw - 1) of one latent at the points of a grid: [x, y, z], each edge of the box.

    level: of a surface that is wanted. What cannot be beside it is not looked at (`eg3d.density_grid`), and
    is 0 or twice the level; the surface stays what it is. None: every point.
    """
    half = generator.config.box_warp / 2
    planes = _packed(generator.planes(ws)) if planes is None else planes
    line = torch.linspace(-half, half, resolution, device=ws.device)
    density = torch.empty(resolution, resolution, resolution, device=ws.device)
    known = None if level is None else _decided(generator, planes, line, level)
    thick = max(1, _SLICE_POINTS // resolution**2)
    for start in range(0, resolution, thick):
        part = line[start : start + thick]
        points = torch.stack(torch.meshgrid(part, line, line, indexing="ij"), dim=-1).view(1, -1, 3)
        if known is None:
            raw, _ = generator.sample(ws, points, planes=planes)
            found = F.softplus(raw.float() - 1).flatten()
        else:
            found = known[start : start + thick].flatten()
            near = found.isnan().nonzero()[:, 0]
            if len(near):
                raw, _ = generator.sample(ws, points[:, near], planes=planes)
                found[near] = F.softplus(raw.float() - 1).flatten()
        density[start : start + thick] = found.view(-1, resolution, resolution)
        if on_step is not None:
            on_step(min(start + thick, resolution), resolution, {}, None)
    return density


def _decided(generator: Generator, planes: Tensor, line: Tensor, level: float) -> Tensor | None:
    """Points of the grid [x, y, z] that no surface can be beside: 0 in air, twice the level inside; else NaN.

    None where every point must be looked at: the grid is coarser than the cells of the bounds, or the decoder
    is not the one they are known for.
    """
    if (
        line.device.type == "meta"
        or generator.batch_identities is not None
        or not isinstance(generator.decoder, Decoder)
    ):
        return None
    use_compiled = generator.renderer == "compiled" and planes.device.type == "cpu"
    combine = compiled.density_bounds if use_compiled and compiled.is_ready(planes.device) else None
    grid = generator.bounds_cache.get(planes, generator.decoder, generator.config.box_warp, combine)
    spacing = float(line[1] - line[0])
    if spacing * grid.scale > 1:
        return None
    least, most = F.softplus(grid.bounds[:, 0] - 1)  # [z, y, x]
    beside = ((least <= level) & (most >= level)).float()
    beside = F.max_pool3d(beside[None, None], 3, 1, 1)[0, 0] > 0  # a surface may be seen from the next cell
    cells = torch.where(beside, torch.nan, torch.where(least > level, 2 * level, 0.0))
    place = (line * grid.scale + grid.shift).floor().long().clamp(0, len(cells) - 1)
    return cells[place][:, place][:, :, place].permute(2, 1, 0).contiguous()


def above_views(generator: Generator, heights: Tensor) -> Tensor:
    """Which of the heights [N] are so high that no trained view shows the middle of the box there: bool [N].

    Trained views look at the generator's pivot from `trained_views`, at its distance and focal length.
    """
    config = generator.config
    cameras = generator.trained_views.cameras(
        config.avg_camera_radius, config.avg_camera_pivot, config.focal, heights.device
    )
    axis = torch.stack((torch.zeros_like(heights), heights, torch.zeros_like(heights)), dim=1)
    return ~in_picture(cameras, axis).any(0) & (heights > 0)


def _top(solid: np.ndarray, unseen: np.ndarray) -> int:
    """First row of y that is no longer the head, of a grid [x, y, z] whose upper rows [y] are unseen."""
    if not unseen.any():
        return solid.shape[1]
    first = int(unseen.argmax())
    areas = solid[:, first:].sum((0, 2))
    narrowest = int(areas.argmin())
    if areas[narrowest] == 0:
        return first + narrowest
    return solid.shape[1] if narrowest == len(areas) - 1 else first


def save_glb(mesh: trimesh.Trimesh, path: str | os.PathLike[str]) -> None:
    """Writes a binary glTF file with colours and normals, atomically."""
    data: Any = mesh.export(file_type="glb", include_normals=True)
    with atomic_path(path) as name:
        name.write_bytes(data)


def _packed(planes: Tensor) -> Tensor:
    """The same planes laid out as sampling wants them, so that no call has to do it again."""
    flat = planes.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, planes.shape[:2])


def _largest(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    one, two = mesh.edges.T
    links = coo_matrix((np.ones(len(one), dtype=bool), (one, two)), shape=(count, count))
    labels = connected_components(links, directed=False)[1]
    biggest = np.bincount(labels[mesh.faces[:, 0]]).argmax()
    mesh.update_faces(labels[mesh.faces[:, 0]] == biggest)
    mesh.remove_unreferenced_vertices()
    return mesh


def _colours(generator: Generator, ws: Tensor, planes: Tensor, mesh: trimesh.Trimesh) -> np.ndarray:
    """uint8 [V, 4]: what a ray sees that meets the surface straight on, composited from the air inwards.

    The colour at the surface itself is haze: the density there is still low.
    """
    device = ws.device
    vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32, device=device)
    inward = -torch.tensor(np.asarray(mesh.vertex_normals), dtype=torch.float32, device=device)
    depths = torch.linspace(-0.2, 1.0, _SKIN_SAMPLES, device=device) * _SKIN_DEPTH
    step = _SKIN_DEPTH * 1.2 / (_SKIN_SAMPLES - 1)
    colours = []
    for corner, way in zip(vertices.split(1 << 15), inward.split(1 << 15), strict=True):
        points = corner[:, None] + way[:, None] * depths[:, None]
        raw, features = generator.sample(ws, points.view(1, -1, 3), planes=planes)
        density = F.softplus(raw.float() - 1).view(-1, _SKIN_SAMPLES)
        passed = torch.exp(-step * (density.cumsum(1) - density))
        weight = passed * (1 - torch.exp(-step * density))
        rgb = features[..., :3].float().view(-1, _SKIN_SAMPLES, 3)
        colours.append((weight[..., None] * rgb).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-6))
    pixels = (torch.cat(colours).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return np.concatenate((pixels, np.full((len(pixels), 1), 255, np.uint8)), axis=1)
