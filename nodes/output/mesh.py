"""Mesh node: a latent to a colored mesh, for ComfyUI's 3D nodes and as a .glb file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import host, socket_types

if TYPE_CHECKING:
    from ...my3dgen_core import Latents


class ExtractMesh:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = ["glb", "export 3d", "marching cubes", "3d model", "geometry", "blender", "3d print"]
    DESCRIPTION = (
        "Extracts the head as a colored mesh: closed, y up, nose toward +z. Also writes it as a .glb with "
        "colors; the mesh output is for core's SaveGLB, the file output for Preview3D."
    )
    RETURN_TYPES = ("MESH", "STRING", "STRING")
    RETURN_NAMES = ("mesh", "model_file", "summary")
    OUTPUT_TOOLTIPS = (
        "For core's 3D nodes, with colors and normals if they support them.",
        "The .glb file for Preview3D: its name under output/.",
        "Size of the mesh, and whether it is closed.",
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
                "cut_behind": (
                    "FLOAT",
                    {
                        "default": -1.0,
                        "min": -1.0,
                        "max": 0.5,
                        "step": 0.01,
                        "tooltip": "Cuts off everything behind this z. Generators trained on photos put a "
                        "wall behind the head: try -0.25. -1 cuts nothing.",
                    },
                ),
                "filename_prefix": (
                    "STRING",
                    {"default": "my3dgen/meshes/head", "tooltip": "Folder and name under output/."},
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
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import extract_mesh, save_glb

        socket_types.check_latents(latents, model)
        chosen = socket_types.chosen(latents, which, index)
        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            mesh = extract_mesh(
                generator,
                chosen.ws.to(socket_types.device_of(generator)),
                resolution,
                level,
                host.progress(node_id, "slice"),
                cut_behind=cut_behind if cut_behind > -1 else None,
            )
        colors = np.asarray(mesh.visual.vertex_colors)[None, :, :3].astype(np.float32) / 255
        value = socket_types.make_mesh(
            host.to_host(torch.tensor(np.asarray(mesh.vertices)[None], dtype=torch.float32)),
            host.to_host(torch.tensor(np.asarray(mesh.faces)[None], dtype=torch.int64)),
            host.to_host(torch.from_numpy(colors)),
            host.to_host(torch.tensor(np.asarray(mesh.vertex_normals)[None], dtype=torch.float32)),
        )
        with host.save_path(filename_prefix, ".glb") as path:
            save_glb(mesh, path)
        closed = "closed" if mesh.is_watertight else "not closed"
        text = f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces, {closed}: {path}"
        name = path.relative_to(host.output_root().absolute()).as_posix()
        return {"ui": host.report(node_id, text), "result": (value, name, text)}
