"""Direction nodes that need no face models: from example pairs, and a preview of principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import host, plots, socket_types
from ..output.view_rendering import render_views
from .directions import COMPONENT_SAMPLES

if TYPE_CHECKING:
    from ...my3dgen_core import Direction, Latents

CATEGORY = "My3DGen/Latents"


class DirectionFromExamples:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "difference vector",
        "attribute vector",
        "latent direction",
        "before and after",
        "mean difference",
    ]
    DESCRIPTION = (
        "Makes a direction from two sets of latents: the difference of their means. Invert photos without "
        "and with a smile, glasses, or anything else."
    )
    RETURN_TYPES = (socket_types.DIRECTION,)
    RETURN_NAMES = ("direction",)
    OUTPUT_TOOLTIPS = ("Connect to Apply Direction. Strength 1 goes from the first mean to the second.",)
    FUNCTION = "find"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "before": (
                    socket_types.LATENT,
                    {"tooltip": "Latents without the attribute, from Invert Photos."},
                ),
                "after": (
                    socket_types.LATENT,
                    {"tooltip": "Latents with the attribute; the number may differ."},
                ),
                "name": ("STRING", {"default": "difference", "tooltip": "Name of the direction."}),
            }
        }

    def find(self, before: Latents, after: Latents, name: str) -> tuple[Direction]:
        from ...my3dgen_core import Direction

        with host.rendering():
            return (Direction.from_pairs(before, after, name.strip() or "difference"),)


class ComponentSheet:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["component sheet", "pca", "ganspace", "variance", "eigenvectors", "latent exploration"]
    DESCRIPTION = (
        "Shows the first principal components of this generator's latents, one per row. Choose one by its "
        "number in Find Direction."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("sheet",)
    OUTPUT_TOOLTIPS = ("One row per component, from one end to the other.",)
    FUNCTION = "show"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (
                    socket_types.MODEL,
                    {"tooltip": "The generator, with or without an identity applied."},
                ),
                "components": (
                    "INT",
                    {"default": 6, "min": 1, "max": 12, "tooltip": "How many, the largest first."},
                ),
                "reach": (
                    "FLOAT",
                    {
                        "default": 2.0,
                        "min": 0.1,
                        "max": 10.0,
                        "step": 0.1,
                        "tooltip": "How far to either side, in standard deviations.",
                    },
                ),
                "columns": ("INT", {"default": 5, "min": 2, "max": 15, "tooltip": "Images per component."}),
                "cell": (
                    "INT",
                    {"default": 128, "min": 64, "max": 1024, "step": 16, "tooltip": "Image size in pixels."},
                ),
            },
            "optional": {
                "latents": (
                    socket_types.LATENT,
                    {"tooltip": "Latents whose mean is varied. Without: the generator's mean head."},
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def show(
        self,
        model: socket_types.Model,
        components: int,
        reach: float,
        columns: int,
        cell: int,
        latents: Latents | None = None,
        node_id: str | None = None,
    ) -> tuple[Tensor]:
        from ...my3dgen_core import mean_latent, random_latents
        from ...my3dgen_core.editing.direction import principal_directions

        if latents is not None:
            socket_types.check_latents(latents, model)
        amounts = torch.linspace(-reach, reach, columns)
        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            found = principal_directions(random_latents(generator, 0, COMPONENT_SAMPLES, 1.0), components)
            mean = mean_latent(generator)
            start = mean.ws if latents is None else latents.mean().to(mean.ws)
            ws = torch.cat([direction.apply(start, amounts) for direction in found])
            views = render_views(generator, ws, mean.cameras, on_step=host.progress(node_id, "picture"))
        picture = plots.sheet(
            [f"{amount:+.1f}" for amount in amounts.tolist()],
            [f"{direction.name}: {direction.meta['share']:.0%} of the variance" for direction in found],
            views.image.unflatten(0, (components, columns)).unbind(0),
            cell,
        )
        return (host.to_host(picture),)
