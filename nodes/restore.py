"""Photos repaired out of the person: hidden parts filled in, small ones made sharp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import host, sockets
from .alpha_space import BETA_INPUT, PHOTO_INPUTS, SEED_INPUT

if TYPE_CHECKING:
    from ..my3dgen_core import Identity, Latents

FILL, SHARPEN = "fill in", "sharpen"


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
        "Repairs photos of the person from what the person looks like. 'fill in': what the mask hides, such "
        "as a hand or a microphone. 'sharpen': a small or blurred photo in full size. Use the model with the "
        "identity applied."
    )
    RETURN_TYPES = ("IMAGE", "IMAGE", sockets.LATENT)
    RETURN_NAMES = ("photos", "reconstructions", "latents")
    OUTPUT_TOOLTIPS = (
        "The photos, repaired. What was known of them stays as it was.",
        "What the person's model shows of them, without the photo.",
        "Where they were found in the person, with the photos' cameras: for views from other sides.",
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
                        "tooltip": "'fill in': what the masks hide. 'sharpen': the whole photo, from what "
                        "little it shows."
                    },
                ),
                "detail": (
                    "INT",
                    {
                        "default": 32,
                        "min": 4,
                        "max": 1024,
                        "tooltip": "With 'sharpen': so many pixels of true detail an edge of the crop has. "
                        "It is shrunk to this size first; what is finer comes from the person.",
                    },
                ),
                "steps": (
                    "INT",
                    {
                        "default": 100,
                        "min": 1,
                        "max": 10000,
                        "tooltip": "Optimisation steps for each photo.",
                    },
                ),
                "space": (
                    ["p", "p+"],
                    {
                        "tooltip": "'p': one mixture of training photos for all layers. 'p+': one a layer, "
                        "closer to the photo, less safe."
                    },
                ),
                "beta": (BETA_INPUT[0], {**BETA_INPUT[1], "default": 0.03}),
                "seed": SEED_INPUT,
            },
            "optional": {
                "masks": (
                    "MASK",
                    {"tooltip": "With 'fill in': what to fill in (1). With 'sharpen' it is not used."},
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def restore(
        self,
        model: sockets.Model,
        identity: Identity,
        images: Tensor,
        cameras: sockets.Cameras,
        task: str,
        detail: int,
        steps: int,
        space: str,
        beta: float,
        seed: int,
        masks: Tensor | None = None,
        node_id: str | None = None,
    ) -> tuple[Tensor, Tensor, Latents]:
        from ..my3dgen_core import AlphaSpace, inpaint, sharpen
        from ..my3dgen_core.losses import resize

        sockets.check_same_count(len(images), len(cameras), "Restore Photos")
        sockets.check_latents(identity.anchors, model)
        if task == FILL and masks is None:
            raise ValueError("To fill in, Restore Photos needs masks: connect what to fill in (white).")
        with host.training(), model.ready(memory=host.TRAINING_MEMORY) as generator:
            device = sockets.device_of(generator)
            photos = sockets.crops_to_core(images).to(device)
            given = photos, cameras.values.clone().to(device)
            settings: dict[str, Any] = {
                "on_step": host.progress(node_id, "search"),
                "steps": steps,
                "plus": space == "p+",
                "seed": seed,
            }
            alpha = AlphaSpace(identity.anchors, beta)
            if task == FILL:
                hidden = sockets.mask_to_core(masks, len(images), device)
                assert hidden is not None
                hidden = resize(hidden, photos.shape[-1])
                found = inpaint(generator, alpha, *given, hidden, **settings)
            else:
                small = resize(photos, min(detail, photos.shape[-1]))
                found = sharpen(generator, alpha, small, given[1], **settings)
        pictures = (sockets.pictures_to_host(part) for part in (found.images, found.renders))
        return (*pictures, found.latents.to("cpu"))  # type: ignore[return-value]
