"""Meshes of heads: the surface of the density, its colors or texture, and glTF export."""

from .errors import MeshError
from .glb import save_glb, srgb_to_linear
from .rasterization import Fragments, project, rasterize, render_mesh
from .surface import DEFAULT_LEVEL, above_views, density_grid, extract_mesh
from .texture import check_texture_packages, texture_mesh

__all__ = [
    "DEFAULT_LEVEL",
    "Fragments",
    "MeshError",
    "above_views",
    "check_texture_packages",
    "density_grid",
    "extract_mesh",
    "project",
    "rasterize",
    "render_mesh",
    "save_glb",
    "srgb_to_linear",
    "texture_mesh",
]
