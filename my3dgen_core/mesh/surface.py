"""Surface of a head: an isosurface of the density (marching cubes) with vertex colors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import in_picture
from ..common.progress import OnStep
from ..eg3d import Generator
from ..eg3d.decoder import Decoder
from ..eg3d.rendering import compiled
from .errors import MeshError

if TYPE_CHECKING:
    import trimesh

INSTALL_HINT = "Meshes need scikit-image, scipy and trimesh: pip install scikit-image trimesh"
DEFAULT_LEVEL = 20.0
"""Density that absorbs half of the light within .035 world units. On the starter the surfaces of levels 1 to
80 differ by less than .006."""
# Points of the grid that are evaluated at a time.
_SLICE_POINTS = 1 << 18
# Depth in world units below the surface over which vertex colors are composited, and samples on it.
_SKIN_DEPTH, _SKIN_SAMPLES = 0.06, 12
_FEWEST_FACES = 100
# Of fast-simplification; it shrinks small meshes far enough, and a larger one pinches the surface more often.
_AGGRESSIVENESS = 4


def extract_mesh(
    generator: Generator,
    ws: Tensor,
    resolution: int = 256,
    level: float | None = None,
    on_step: OnStep | None = None,
    *,
    cut_behind: float | None = None,
    largest: bool = True,
    faces: int | None = None,
) -> trimesh.Trimesh:
    """Extract the surface of a head in world units, y up and nose towards +z (a head is about .5 high).

    The surface is found by marching cubes (scikit-image) on the composited density, softplus(raw - 1), over
    the whole box. Above the region covered by training views (`above_views`) the density is unconstrained
    and may contain artifacts. If the cross-section grows again up there, the mesh is cut at the last
    observed height.

    Args:
        generator: the generator; for a person's mesh call inside `personalized`.
        ws: latent [1, num_ws, w_dim].
        resolution: grid points along an edge of the box, >= 16. Time and memory grow with its cube.
        level: density of the surface, > 0; None: 20. Lower is fuller and smoother, higher keeps only what
            is solid.
        on_step: progress callback, called for each slice of the grid without figures or image.
        cut_behind: z in world units below which everything is removed; None: nothing. Generators trained on
            photographs model a wall behind the head, which -.25 removes.
        largest: keep only the largest connected component.
        faces: reduce the mesh to about this many triangles, >= 100, by quadric edge collapse; needs
            fast-simplification. None: all that marching cubes makes.

    Returns:
        A watertight `trimesh.Trimesh` with vertex normals and colors (sRGB, as rendered), closed at the
        border of the box and at the cuts.

    Raises:
        ValueError: several latents, or a resolution, level or number of faces out of range.
        MeshError: the density is not finite or nowhere reaches the level, or a package is not installed.
    """
    if len(ws) != 1:
        raise ValueError(f"A mesh is made of one latent, but {len(ws)} were given. Choose one.")
    if resolution < 16:
        raise ValueError(f"The grid needs at least 16 points along an edge, not {resolution}.")
    level = DEFAULT_LEVEL if level is None else float(level)
    if not (math.isfinite(level) and level > 0):
        raise ValueError(f"level must be a density above 0, not {level}.")
    if faces is not None:
        check_simplification(faces)
    try:  # imported here: optional, and slow to import
        import trimesh
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise MeshError(f"{INSTALL_HINT} (the import said: {error}).") from error
    with torch.no_grad():
        planes = _channels_last(generator.planes(ws))
        sampled = density_grid(generator, ws, resolution, planes=planes, on_step=on_step, level=level)
        density = sampled.cpu().numpy()
        half = generator.config.box_warp / 2
        spacing = 2 * half / (resolution - 1)
        if cut_behind is not None:
            density[:, :, np.linspace(-half, half, resolution) < cut_behind] = 0.0
        line = torch.linspace(-half, half, resolution, device=ws.device)
        density[:, _cut_row(density > level, above_views(generator, line).cpu().numpy()) :] = 0.0
        most = float(density.max())
        if not most > level:
            most = float(density_grid(generator, ws, min(resolution, 64), planes=planes).max())
        if not math.isfinite(most):
            raise MeshError(
                "The density has NaN or infinite numbers, so there is no surface. Likely cause: an identity "
                "whose training diverged, or a strength or direction far outside its usual range."
            )
        if not density.max() > level:
            raise MeshError(
                f"The density reaches about {most:.3g}, and nothing that is not cut off reaches the level "
                f"{level:.3g}: there is no surface. Lower the level."
            )
        padded = np.pad(density, 1)  # air around the box closes the surface at its border
        vertices, triangles, _, _ = marching_cubes(padded, level, spacing=(spacing,) * 3)
        vertices = vertices - (half + spacing)
        # process=False: merging vertices that nearly coincide would open the surface
        mesh = trimesh.Trimesh(vertices, triangles, process=False)
        if largest:
            mesh = _largest_component(mesh)
        if faces is not None:
            mesh = simplified(mesh, faces)
            mesh = _largest_component(mesh) if largest else mesh  # a pinched part may come off
        if mesh.volume < 0:
            mesh.invert()
        mesh.visual = trimesh.visual.ColorVisuals(
            mesh, vertex_colors=_vertex_colors(generator, ws, planes, mesh)
        )
        mesh.vertex_normals  # noqa: B018  computed and cached, so that exported files contain them
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
    """Evaluate the density softplus(raw - 1) of one latent on a regular grid over the box.

    Args:
        generator: the generator.
        ws: latent [1, num_ws, w_dim].
        resolution: grid points along an edge of the box, edges included.
        planes: planes of `ws` [1, 3, 32, P, P]; None: computed.
        on_step: as in `extract_mesh`.
        level: density of a surface of interest. Points that cannot lie beside it, as told by the density
            bounds of their cells, are not evaluated and set to 0 or twice the level, which leaves the
            surface unchanged. None: every point is evaluated.

    Returns:
        [resolution, resolution, resolution] float32, indexed [x, y, z].
    """
    half = generator.config.box_warp / 2
    planes = _channels_last(generator.planes(ws)) if planes is None else planes
    line = torch.linspace(-half, half, resolution, device=ws.device)
    density = torch.empty(resolution, resolution, resolution, device=ws.device)
    known = None if level is None else _densities_off_surface(generator, planes, line, level)
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


def _densities_off_surface(generator: Generator, planes: Tensor, line: Tensor, level: float) -> Tensor | None:
    """Return densities [x, y, z] away from the surface: 0 outside, twice the level inside, NaN beside it.

    None if every point must be evaluated: the grid is coarser than the cells of the density bounds, or bounds
    are not available.
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
    # cells next to one with a surface too: marching cubes interpolates between neighboring points
    beside = F.max_pool3d(beside[None, None], 3, 1, 1)[0, 0] > 0
    cells = torch.where(beside, torch.nan, torch.where(least > level, 2 * level, 0.0))
    place = (line * grid.scale + grid.shift).floor().long().clamp(0, len(cells) - 1)
    return cells[place][:, place][:, :, place].permute(2, 1, 0).contiguous()


def above_views(generator: Generator, heights: Tensor) -> Tensor:
    """Return for heights [N] whether they are above all training views: bool [N].

    A height counts as seen if the box's vertical axis is inside the image of some view there. Training
    views look at the generator's pivot within `Generator.trained_views`, at its average distance and focal
    length.

    Args:
        heights: y in world units [N].
    """
    config = generator.config
    cameras = generator.trained_views.cameras(
        config.avg_camera_radius, config.avg_camera_pivot, config.focal, heights.device
    )
    axis = torch.stack((torch.zeros_like(heights), heights, torch.zeros_like(heights)), dim=1)
    return ~in_picture(cameras, axis).any(0) & (heights > 0)


def _cut_row(solid: np.ndarray, unseen: np.ndarray) -> int:
    """Return the first row of y to remove.

    Rows are removed from the first empty unseen one; from the first unseen one if the cross-section grows
    again after its narrowest row; and none if it narrows all the way to the top of the box.

    Args:
        solid: bool [x, y, z], the inside of the surface.
        unseen: bool [y], rows above all training views.
    """
    if not unseen.any():
        return solid.shape[1]
    first = int(unseen.argmax())
    areas = solid[:, first:].sum((0, 2))
    narrowest = int(areas.argmin())
    if areas[narrowest] == 0:
        return first + narrowest
    return solid.shape[1] if narrowest == len(areas) - 1 else first


def check_simplification(faces: int) -> None:
    """Raise unless a mesh can be reduced to this many faces.

    Raises:
        ValueError: fewer than 100 faces.
        MeshError: fast-simplification is not installed.
    """
    if faces < _FEWEST_FACES:
        raise ValueError(f"A head needs at least {_FEWEST_FACES} faces, not {faces}.")
    try:  # imported here: optional
        import fast_simplification  # noqa: F401
    except ImportError as error:
        raise MeshError(
            "Reducing the faces of a mesh needs a package that is not installed: "
            f"pip install fast-simplification (the import said: {error})."
        ) from error


def simplified(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """Reduce a mesh to about this many faces by quadric edge collapse; one with fewer stays as it is."""
    import fast_simplification
    import trimesh

    if len(mesh.faces) <= faces:
        return mesh
    vertices, triangles = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int64)
    reduced = fast_simplification.simplify(vertices, triangles, target_count=faces, agg=_AGGRESSIVENESS)
    return _unpinched(trimesh.Trimesh(reduced[0], reduced[1], process=False))


def _unpinched(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Double the vertices of edges at which more than two faces meet: each sheet gets its own.

    Collapsing edges may pinch a surface so. The corners of faces that share an edge with nothing else stay
    one vertex.
    """
    import trimesh
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if mesh.is_watertight:
        return mesh
    faces = np.asarray(mesh.faces)
    sides = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=2).reshape(-1, 2)
    face = np.repeat(np.arange(len(faces)), 3)
    _, edge, count = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(edge.ravel(), kind="stable")
    pairs = order[(count == 2)[edge.ravel()[order]]].reshape(-1, 2)  # the two sides of each plain edge

    def corner(side: np.ndarray, end: int) -> np.ndarray:
        return 3 * face[side] + (faces[face[side]] == sides[side, end][:, None]).argmax(1)

    one, two = (np.concatenate([corner(pairs[:, k], end) for end in (0, 1)]) for k in (0, 1))
    links = coo_matrix((np.ones(len(one), dtype=bool), (one, two)), shape=(faces.size, faces.size))
    _, labels = connected_components(links, directed=False)
    _, first = np.unique(labels, return_index=True)
    points = np.asarray(mesh.vertices)[faces.ravel()[first]]
    return trimesh.Trimesh(points, labels.reshape(-1, 3), process=False)


def _channels_last(planes: Tensor) -> Tensor:
    """Return planes [1, 3, 32, P, P] in channels-last format, to which each sampling call would convert."""
    flat = planes.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, planes.shape[:2])


def _largest_component(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Reduce a mesh to its connected component with the most faces, in place."""
    # imported here: optional, as scikit-image and trimesh are
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


def _vertex_colors(generator: Generator, ws: Tensor, planes: Tensor, mesh: trimesh.Trimesh) -> np.ndarray:
    """Return vertex colors, uint8 [V, 4] (RGBA), composited along a ray against the normal of each vertex.

    The color at the surface itself would be hazy, because the density there is still low.
    """
    device = ws.device
    vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32, device=device)
    inward = -torch.tensor(np.asarray(mesh.vertex_normals), dtype=torch.float32, device=device)
    depths = torch.linspace(-0.2, 1.0, _SKIN_SAMPLES, device=device) * _SKIN_DEPTH
    step = _SKIN_DEPTH * 1.2 / (_SKIN_SAMPLES - 1)
    colors = []
    for origins, directions in zip(vertices.split(1 << 15), inward.split(1 << 15), strict=True):
        points = origins[:, None] + directions[:, None] * depths[:, None]
        raw, features = generator.sample(ws, points.view(1, -1, 3), planes=planes)
        density = F.softplus(raw.float() - 1).view(-1, _SKIN_SAMPLES)
        passed = torch.exp(-step * (density.cumsum(1) - density))
        weight = passed * (1 - torch.exp(-step * density))
        rgb = features[..., :3].float().view(-1, _SKIN_SAMPLES, 3)
        colors.append((weight[..., None] * rgb).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-6))
    pixels = (torch.cat(colors).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return np.concatenate((pixels, np.full((len(pixels), 1), 255, np.uint8)), axis=1)
