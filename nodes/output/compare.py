"""Comparison node: photos beside renders of the pretrained and the personalized generator, with PSNR."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import host, picture_inputs, plots, socket_types
from .view_rendering import render_views

if TYPE_CHECKING:
    from ...my3dgen_core import Latents


class Compare:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = ["evaluate", "before and after", "psnr", "metrics", "quality check", "contact sheet"]
    DESCRIPTION = (
        "A labeled sheet: photo, reconstruction by the pretrained generator, reconstruction by the "
        "personalized one, and two novel views. The text output has the metrics."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("sheet", "figures")
    OUTPUT_TOOLTIPS = ("The sheet, one row per photo.", "PSNR to the photos in dB, before and after.")
    FUNCTION = "compare"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pretrained": (socket_types.MODEL, {"tooltip": "The model from Load EG3D Generator."}),
                "personalized": (socket_types.MODEL, {"tooltip": "The model from Apply Identity."}),
                "images": ("IMAGE", {"tooltip": "Face crops to compare with, or held-out views."}),
                "anchors": (socket_types.LATENT, {"tooltip": "From Invert Photos or Load Identity."}),
                "rows": (
                    "INT",
                    {"default": 5, "min": 1, "max": 50, "tooltip": "How many photos, spread over the set."},
                ),
                "novel_yaw": (
                    "FLOAT",
                    {
                        "default": 32.0,
                        "min": 0.0,
                        "max": 90.0,
                        "step": 1.0,
                        "tooltip": "Yaw of the two novel views, in degrees to either side.",
                    },
                ),
                "cell": (
                    "INT",
                    {
                        "default": 192,
                        "min": 64,
                        "max": 1024,
                        "step": 16,
                        "tooltip": "Image size in pixels.",
                    },
                ),
            },
            "optional": {
                "cameras": (
                    socket_types.CAMERA,
                    {
                        "tooltip": "Cameras of the images if they are not the anchors' own photos: the mean "
                        "of the anchors is then rendered from them, as for held-out views."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def compare(
        self,
        pretrained: socket_types.Model,
        personalized: socket_types.Model,
        images: Tensor,
        anchors: Latents,
        rows: int,
        novel_yaw: float,
        cell: int,
        cameras: socket_types.Cameras | None = None,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import Latents, look_at
        from ...my3dgen_core.common.image_ops import resize
        from ...my3dgen_core.evaluation import psnr

        photos = picture_inputs.crops_to_core(images)
        socket_types.check_latents(anchors, pretrained)
        socket_types.check_latents(anchors, personalized)
        if cameras is None:
            socket_types.check_same_count(len(photos), len(anchors), "Compare with Photos", "anchors")
            latents = anchors
        else:
            socket_types.check_same_count(len(photos), len(cameras), "Compare with Photos")
            latents = Latents(anchors.mean().expand(len(photos), -1, -1), cameras.values)
        if latents.cameras is None:
            raise ValueError("The anchors have no cameras: connect the cameras of the images.")
        shown = torch.linspace(0, len(photos) - 1, min(rows, len(photos))).round().long()
        photos, ws, seen_from = photos[shown], latents.ws[shown], latents.cameras[shown].cpu()
        config = pretrained.generator.config
        yaws = torch.tensor([math.radians(-novel_yaw), math.radians(novel_yaw)])
        sides = look_at(yaws, 0.0, config.avg_camera_radius, config.avg_camera_pivot, config.focal)
        on_step = host.progress(node_id, "picture")
        with host.rendering():
            with pretrained.ready(memory=host.RENDER_MEMORY) as generator:
                before = render_views(generator, ws, seen_from, on_step=on_step).image
            with personalized.ready(memory=host.RENDER_MEMORY) as generator:
                after = render_views(generator, ws, seen_from, on_step=on_step).image
                left, right = (
                    render_views(generator, ws, side.expand(len(ws), -1), on_step=on_step).image
                    for side in sides.split(1)
                )
            truth = resize(photos, before.shape[-1])
            scores = [psnr(before, truth).tolist(), psnr(after, truth).tolist()]
        text = (
            f"PSNR over {len(shown)} {'photos' if cameras is None else 'views'}: pretrained "
            f"{_mean(scores[0]):.2f} dB, personalized {_mean(scores[1]):.2f} dB "
            f"({_mean(scores[1]) - _mean(scores[0]):+.2f} dB)"
        )
        angle = f"{novel_yaw:.0f} degrees"
        picture = plots.sheet(
            columns=(
                "photo" if cameras is None else "held-out view",
                f"pretrained\n{_mean(scores[0]):.2f} dB",
                f"personalized\n{_mean(scores[1]):.2f} dB",
                f"novel view\n{angle} left",
                f"novel view\n{angle} right",
            ),
            labels=[
                f"{number + 1}: {one:.1f} dB -> {two:.1f} dB"
                for number, one, two in zip(shown.tolist(), *scores, strict=True)
            ],
            rows=list(zip(photos, before, after, left, right, strict=True)),
            cell=cell,
        )
        return {"ui": host.report(node_id, text), "result": (host.to_host(picture), text)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
