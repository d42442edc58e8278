"""Render node: latents and cameras to images, masks, depth and normals."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import auto_inputs, host, socket_types
from ..server import frame_sheet, live_preview, ui_results
from ..server.live_handles import Head
from .view_rendering import depth_pictures, normal_pictures, render_views

if TYPE_CHECKING:
    from ...my3dgen_core import Latents


class Render:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = [
        "novel view",
        "eg3d render",
        "portrait",
        "face",
        "depth map",
        "normal map",
        "turntable",
        "avatar",
    ]
    DESCRIPTION = (
        "Renders heads. Equal numbers of latents and cameras are paired one by one; one latent is rendered "
        "from all cameras; one camera renders all latents; 'grid' renders every latent from every camera. "
        "Send the frames to Create Video or Save Animated WEBP."
    )
    RETURN_TYPES = ("IMAGE", "MASK", "IMAGE", "IMAGE", "IMAGE")
    RETURN_NAMES = ("images", "head", "depth", "normals", "distance")
    OUTPUT_TOOLTIPS = (
        "The images, in the order of the cameras.",
        "Mask: 1 on the head, 0 on the background.",
        "Depth map for viewing and ControlNet: near is white, background is black.",
        "Normal map as ControlNet's normal models expect it: red is left, green is up, blue is toward the "
        "camera.",
        "Raw distance from the camera along each ray, in world units (EG3D's camera is at 2.7): for "
        "computing, not for viewing.",
    )
    FUNCTION = "render"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (
                    socket_types.MODEL,
                    {"tooltip": "A generator, with or without identities applied."},
                ),
                "latents": (
                    socket_types.LATENT,
                    {"tooltip": "The heads: from Invert Photos or an identity."},
                ),
                "which": (
                    [socket_types.MEAN, socket_types.EVERY, socket_types.SINGLE],
                    {
                        "tooltip": "'mean': the average of all latents, without any single photo's "
                        "expression. 'every': all latents. 'single': the one with the index below."
                    },
                ),
                "index": (
                    "INT",
                    {"default": 0, "min": 0, "max": 100000, "tooltip": "Which latent, with 'single'."},
                ),
                "batch_size": (
                    "INT",
                    {"default": 2, "min": 1, "max": 64, "tooltip": "Frames rendered at a time."},
                ),
            },
            "optional": {
                "cameras": (
                    socket_types.CAMERA,
                    {"tooltip": "Such as a Camera Path. Without: each latent's own camera."},
                ),
                # the last one: workflows keep their settings by position
                "grid": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Render every latent from every camera: all cameras of the first latent, "
                        "then of the second ...",
                    },
                ),
                "cut_behind": auto_inputs.cut_behind(
                    "Everything behind this z counts as background in head, depth and normals. Generators "
                    "trained on photos put a wall behind the head: -0.25 cuts it off."
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def render(
        self,
        model: socket_types.Model,
        latents: Latents,
        which: str,
        index: int,
        batch_size: int,
        cameras: socket_types.Cameras | None = None,
        grid: bool = False,
        cut_behind: float = auto_inputs.AUTO_CUT,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        socket_types.check_latents(latents, model)
        chosen = socket_types.chosen(latents, which, index)
        seen_from = cameras.values if cameras is not None else chosen.cameras
        if seen_from is None:
            raise ValueError("These latents have no cameras of their own: connect a Camera Path.")
        auto = auto_inputs.AutoValues(model.generator)
        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            progress = host.progress(node_id, "frame")

            def on_step(step: int, total: int, losses: dict[str, float], image: Tensor) -> None:
                progress(step, total, losses)  # without the preview: the node's own viewer shows the frames

            cut = auto.cut(cut_behind)
            views = render_views(generator, chosen.ws, seen_from, batch_size, on_step, grid, cut)
            distance = socket_types.check_result(views.depth, "The distances")
            depth = depth_pictures(distance, views.mask)
            facing = normal_pictures(views.normals, views.mask)
        result = (
            socket_types.pictures_to_host(views.image),
            socket_types.mask_to_host(views.mask),
            socket_types.pictures_to_host(depth),
            socket_types.pictures_to_host(facing),
            host.to_host(distance.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()),
        )
        head = Head(weakref.ref(model), chosen.ws[:1].detach().clone())
        ui = live_preview.publish(head, model) | frame_sheet.save_frames(views.image)
        warning = model.generator.trained_views.out_of_range_warning(seen_from)
        if text := "\n".join(filter(None, [warning, str(auto)])):
            ui |= host.report(node_id, text)
        return {"ui": ui_results.remember(node_id, ui), "result": result}
