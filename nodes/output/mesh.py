"""Mesh node: a latent to a colored or textured mesh, for ComfyUI's 3D nodes and as a .glb file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import auto_inputs, host, socket_types

if TYPE_CHECKING:
    import trimesh

    from ...my3dgen_core import Latents

NO_TEXTURE = "none"
TEXTURED_FACES = 20_000
"""Faces of a textured mesh, unless the user says how many."""


class ExtractMesh:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = [
        "glb",
        "export 3d",
        "marching cubes",
        "3d model",
        "geometry",
        "texture",
        "low poly",
        "blender",
    ]
    DESCRIPTION = (
        "Extracts the head as a mesh, colored or textured: closed, y up, nose toward +z. Also writes it as a "
        ".glb; the mesh output is for core's SaveGLB, the file outputs for Preview3D."
    )
    RETURN_TYPES = ("MESH", "STRING", "STRING", "FILE_3D_GLB")
    RETURN_NAMES = ("mesh", "model_file", "summary", "model_3d")
    OUTPUT_TOOLTIPS = (
        "For core's 3D nodes, with colors or texture and normals if they support them.",
        "The .glb file for Preview3D: its name under output/.",
        "Size of the mesh, whether it is closed, and the cut that was chosen by 'auto'.",
        "The .glb file for core's nodes of 3D files, in ComfyUI 0.12 and newer.",
    )
    OUTPUT_NODE = True
    FUNCTION = "extract"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (
                    socket_types.MODEL,
                    {"tooltip": "A generator, with or without identities applied."},
                ),
                "latents": (socket_types.LATENT, {"tooltip": "The latents to choose a head from."}),
                "which": (
                    [socket_types.MEAN, socket_types.SINGLE],
                    {"tooltip": "'mean': the average of all latents. 'single': the one at index."},
                ),
                "index": (
                    "INT",
                    {"default": 0, "min": 0, "max": 100000, "tooltip": "Which latent, with 'single'."},
                ),
                "resolution": (
                    "INT",
                    {
                        "default": 192,
                        "min": 32,
                        "max": 768,
                        "step": 16,
                        "tooltip": "Grid points per side. Time and memory grow with its cube.",
                    },
                ),
                "level": (
                    "FLOAT",
                    {
                        "default": 20.0,
                        "min": 0.1,
                        "max": 1000.0,
                        "step": 0.5,
                        "tooltip": "Density threshold of the surface: lower is fuller, higher is thinner.",
                    },
                ),
                "cut_behind": auto_inputs.cut_behind(
                    "Cuts off everything behind this z. Generators trained on photos put a wall behind the "
                    "head: -0.25 cuts it off."
                ),
                "filename_prefix": (
                    "STRING",
                    {"default": "my3dgen/meshes/head", "tooltip": "Folder and name under output/."},
                ),
            },
            "optional": {
                "texture": (
                    [NO_TEXTURE, "1024", "2048"],
                    {
                        "default": NO_TEXTURE,
                        "tooltip": "'none': colors of the vertices. Else a texture of this many pixels per "
                        "side, baked from pictures of the trained views; sharper. Needs: "
                        "pip install xatlas fast-simplification.",
                    },
                ),
                "faces": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2000000,
                        "step": 1000,
                        "tooltip": "Reduces the mesh to about this many triangles. 0: 20,000 with a texture, "
                        "else all. The atlas of a texture takes seconds for 40,000, a minute for 200,000.",
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def extract(
        self,
        model: socket_types.Model,
        latents: Latents,
        which: str,
        index: int,
        resolution: int,
        level: float,
        cut_behind: float,
        filename_prefix: str,
        texture: str = NO_TEXTURE,
        faces: int = 0,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import extract_mesh, save_glb, texture_mesh
        from ...my3dgen_core.mesh import check_texture_packages

        socket_types.check_latents(latents, model)
        chosen = socket_types.chosen(latents, which, index)
        textured = texture != NO_TEXTURE
        if textured:
            check_texture_packages()  # before minutes of other work
            faces = faces or TEXTURED_FACES
        auto = auto_inputs.AutoValues(model.generator)
        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            ws = chosen.ws.to(socket_types.device_of(generator))
            mesh = extract_mesh(
                generator,
                ws,
                resolution,
                level,
                host.progress(node_id, "slice"),
                cut_behind=auto.cut(cut_behind),
                faces=faces or None,
            )
            closed = "closed" if mesh.is_watertight else "not closed"
            if textured:
                mesh = texture_mesh(generator, ws, mesh, int(texture), host.progress(node_id, "view"))
        value = _for_core(mesh)  # which refuses what is not finite, before a file is written
        with host.save_path(filename_prefix, ".glb") as path:
            save_glb(mesh, path)
        pixels = f", texture of {texture} x {texture}" if textured else ""
        size = f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces{pixels}"
        text = f"{size}, {closed}, {path.stat().st_size / 1e6:.1f} MB: {path}"
        text = "\n".join(filter(None, [text, str(auto)]))
        name = path.relative_to(host.output_root().absolute()).as_posix()
        return {"ui": host.report(node_id, text), "result": (value, name, text, host.file_3d(path))}


def _for_core(mesh: trimesh.Trimesh) -> Any:
    """Return a mesh of the core as a MESH: vertex colors linear, a texture sRGB from its upper left."""
    from ...my3dgen_core.mesh import srgb_to_linear

    def batch(values: Any, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return host.to_host(torch.tensor(np.asarray(values)[None], dtype=kind))

    visual: Any = mesh.visual
    colors = uvs = picture = None
    if visual.kind == "texture":
        up = np.asarray(visual.uv)
        uvs = batch(np.column_stack((up[:, 0], 1 - up[:, 1])))
        picture = batch(np.asarray(visual.material.baseColorTexture)) / 255
    else:
        colors = batch(srgb_to_linear(np.asarray(visual.vertex_colors)[:, :3] / 255))
    return socket_types.make_mesh(
        batch(mesh.vertices),
        batch(mesh.faces, torch.int64),
        colors,
        batch(mesh.vertex_normals),
        uvs,
        picture,
    )
