"""Restoration node: inpainting and super-resolution of photos within an identity's alpha space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import host, picture_inputs, socket_types
from .alpha_space import BETA_INPUT, PHOTO_INPUTS, SEED_INPUT

if TYPE_CHECKING:
    from ...my3dgen_core import Identity, Latents

FILL, SHARPEN = "fill in", "sharpen"
CAUSE = f"masks with values outside 0..1, or {socket_types.BROKEN_RENDER}"


class RestorePhotos:
    CATEGORY = "My3DGen/Latents"
    SEARCH_ALIASES = [
        "restore photos",
        "inpainting",
        "super resolution",
        "upscale face",
        "deblur",
        "sharpen",
        "occlusion removal",
        "face restoration",
    ]
    DESCRIPTION = (
        "Restores photos of a person with their identity. 'fill in': inpaints what the mask covers, such as "
        "a hand or a microphone. 'sharpen': super-resolves a small or blurred photo. Use the model with the "
        "identity applied."
    )
    RETURN_TYPES = ("IMAGE", "IMAGE", socket_types.LATENT)
    RETURN_NAMES = ("photos", "reconstructions", "latents")
    OUTPUT_TOOLTIPS = (
        "The restored photos. Known pixels are kept.",
        "The projected latents rendered from the photos' cameras, before blending.",
        "The projected latents with the photos' cameras, for novel views.",
    )
    FUNCTION = "restore"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                **PHOTO_INPUTS,
                "task": (
                    [FILL, SHARPEN],
                    {
                        "tooltip": "'fill in': inpaint what the masks cover. 'sharpen': super-resolve the "
                        "whole photo."
                    },
                ),
                "detail": (
                    "INT",
                    {
                        "default": 32,
                        "min": 4,
                        "max": 1024,
                        "tooltip": "With 'sharpen': true resolution of the crop, in pixels per side. It is "
                        "scaled down to this size first; finer detail comes from the identity.",
                    },
                ),
                "steps": (
                    "INT",
                    {
                        "default": 100,
                        "min": 1,
                        "max": 10000,
                        "tooltip": "Optimization steps for each photo.",
                    },
                ),
                "space": (
                    ["p", "p+"],
                    {
                        "tooltip": "'p': one mixture of anchors for all layers. 'p+': one per layer, closer "
                        "to the photo, but less faithful to the person."
                    },
                ),
                "beta": (BETA_INPUT[0], {**BETA_INPUT[1], "default": 0.03}),
                "seed": SEED_INPUT,
            },
            "optional": {
                "masks": (
                    "MASK",
                    {"tooltip": "With 'fill in': pixels to inpaint (1). Not used with 'sharpen'."},
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def restore(
        self,
        model: socket_types.Model,
        identity: Identity,
        images: Tensor,
        cameras: socket_types.Cameras,
        task: str,
        detail: int,
        steps: int,
        space: str,
        beta: float,
        seed: int,
        masks: Tensor | None = None,
        node_id: str | None = None,
    ) -> tuple[Tensor, Tensor, Latents]:
        from ...my3dgen_core import AlphaSpace, inpaint, sharpen
        from ...my3dgen_core.common.image_ops import resize

        photos, hidden = picture_inputs.crops_and_masks(images, masks if task == FILL else None)
        socket_types.check_same_count(len(photos), len(cameras), "Inpaint / Super-Resolve Photos")
        socket_types.check_latents(identity.anchors, model)
        if task == FILL and hidden is None:
            raise ValueError(
                "Inpaint / Super-Resolve Photos needs masks for 'fill in': white is filled in. Load Image's "
                "empty mask counts as none: draw one with its mask editor."
            )
        with host.training(), model.ready(memory=host.TRAINING_MEMORY) as generator:
            device = socket_types.device_of(generator)
            given = photos.to(device), cameras.values.clone().to(device)
            settings: dict[str, Any] = {
                "on_step": host.progress(node_id, "search"),
                "steps": steps,
                "plus": space == "p+",
                "seed": seed,
            }
            alpha = AlphaSpace(identity.anchors, beta)
            if hidden is not None:
                found = inpaint(generator, alpha, *given, hidden.to(device), **settings)
            else:
                small = resize(given[0], min(detail, photos.shape[-1]))
                found = sharpen(generator, alpha, small, given[1], **settings)
        return (
            socket_types.pictures_to_host(found.images, "The restored photos", CAUSE),
            socket_types.pictures_to_host(socket_types.check_render(found.renders)),
            socket_types.checked_latents(found.latents.to("cpu")),
        )
