"""Inversion node: face crops to latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from .. import auto_inputs, host, picture_inputs, socket_types
from ..output.view_rendering import render_views


class Invert:
    CATEGORY = "My3DGen/Person"
    SEARCH_ALIASES = [
        "gan inversion",
        "projector",
        "encode photo",
        "image to latent",
        "face to latent",
        "w+",
        "anchors",
    ]
    DESCRIPTION = (
        "Finds the latent that reproduces each photo from its camera (GAN inversion). The latents are the "
        "anchors for Train Identity; the second output shows how close the generator gets without training."
    )
    RETURN_TYPES = (socket_types.LATENT, "IMAGE")
    RETURN_NAMES = ("latents", "reconstructions")
    OUTPUT_TOOLTIPS = (
        "One latent per photo, with its camera: the anchors.",
        "Each latent rendered from its photo's camera.",
    )
    FUNCTION = "invert"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (socket_types.MODEL, {"tooltip": "The generator to invert in."}),
                "images": ("IMAGE", {"tooltip": "Face crops from Align Faces or Load Demo Person."}),
                "cameras": (
                    socket_types.CAMERA,
                    {"tooltip": "The cameras of these crops, from the same node."},
                ),
                "steps": auto_inputs.steps(
                    10000,
                    "Optimization steps for each photo. More is closer, up to what the generator can show.",
                ),
                "shared_steps": auto_inputs.shared_steps(
                    10000,
                    "Steps spent first on one latent for all photos: for photos of one person. For photos of "
                    "different people use 0.",
                ),
                "space": (
                    ["w", "w+"],
                    {
                        "tooltip": "'w': one vector for all layers; robust, and what Train Identity expects. "
                        "'w+': one per layer; closer to the photo, less accurate from other views."
                    },
                ),
                "learning_rate": auto_inputs.learning_rate(
                    "Learning rate of the optimizer. 0.05 for few steps, 0.02 for hundreds."
                ),
                "batch_size": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 256,
                        "tooltip": "Photos processed at a time. On a CPU, more is slower.",
                    },
                ),
                "seed": auto_inputs.seed("Same seed, same result."),
            },
            "optional": {
                "masks": (
                    "MASK",
                    {"tooltip": "Pixels to ignore (1), such as those that Align Faces had to fill in."},
                ),
                "cache": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Cache results in user/my3dgen/inversions: the same photos with the same "
                        "settings are not inverted again, and an interrupted run resumes after its last "
                        "complete batch. The folder may be emptied at any time.",
                    },
                ),
                "one_look": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "The photos show one look from several sides: use one latent for all of "
                        "them, such as for Pivotal Tuning.",
                    },
                ),
                "refine_cameras": auto_inputs.refinement(
                    "Refine each photo's camera along with its latent: cameras estimated from photos are a "
                    "few degrees off."
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, refine_cameras: Any = None, input_types: dict[str, str] | None = None
    ) -> bool | str:
        return auto_inputs.check(cls, "refine_cameras", refine_cameras, input_types)

    def invert(
        self,
        model: socket_types.Model,
        images: Tensor,
        cameras: socket_types.Cameras,
        steps: int,
        shared_steps: int,
        space: str,
        learning_rate: float,
        batch_size: int,
        seed: int,
        masks: Tensor | None = None,
        cache: bool = True,
        one_look: bool = False,
        refine_cameras: str | bool = auto_inputs.AUTO,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import InversionConfig, invert

        photos, hidden = picture_inputs.crops_and_masks(images, masks)
        socket_types.check_same_count(len(photos), len(cameras), "Invert Photos")
        auto = auto_inputs.AutoValues(model.generator, cameras.source)
        shared = auto.number("shared_steps", shared_steps, 0, auto.recipe.shared_steps_for(len(photos)))
        own_steps, own_rate = auto.recipe.own_steps(shared)
        config = InversionConfig(
            steps=auto.number("steps", steps, 1, own_steps),
            shared_steps=shared,
            space=space,
            lr=auto.number("learning_rate", learning_rate, auto_inputs.LEAST_RATE, own_rate),
            batch_size=batch_size,
            seed=seed,
            one_look=one_look,
            refine_cameras=auto.switch("refine_cameras", refine_cameras),
            cache_dir=str(host.cache_folder("inversions")) if cache else None,
        )
        with host.training(), model.ready(memory=host.TRAINING_MEMORY) as generator:
            device = socket_types.device_of(generator)
            latents = invert(
                generator,
                photos.to(device),
                cameras.values.clone().to(device),
                config,
                masks=picture_inputs.moved(hidden, device),
                on_step=host.progress(node_id, "inversion"),
            )
        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            views = render_views(
                generator, latents.ws, latents.cameras, on_step=host.progress(node_id, "picture")
            )
        latents = replace(socket_types.checked_latents(latents), camera_source=cameras.source)
        text = "\n".join(filter(None, [f"{len(latents)} latents", str(auto)]))
        result = (latents, socket_types.pictures_to_host(views.image))
        return {"ui": host.report(node_id, text), "result": result}
