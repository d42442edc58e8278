"""Alpha-space nodes: sample, mix, project and interpolate an identity's anchors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import host, picture_inputs, socket_types
from ..output.view_rendering import render_views
from ..server import live_preview, ui_results
from ..server.live_handles import Mixture
from ..typed_lists import plain_signs, split_list

if TYPE_CHECKING:
    from ...my3dgen_core import Identity, Latents

CATEGORY = "My3DGen/Latents"
IDENTITY_INPUT = (socket_types.IDENTITY, {"tooltip": "From Train Identity or Load Identity."})
# Inputs of the nodes that project photos into alpha space.
PHOTO_INPUTS = {
    "model": (
        socket_types.MODEL,
        {"tooltip": "The model with the same identity applied, from Apply Identity."},
    ),
    "identity": IDENTITY_INPUT,
    "images": ("IMAGE", {"tooltip": "Face crops from Align Faces."}),
    "cameras": (socket_types.CAMERA, {"tooltip": "The cameras of these crops."}),
}
BETA_INPUT = (
    "FLOAT",
    {
        "default": 0.02,
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "How far weights may fall below 0. 0 stays strictly between the anchors; higher values "
        "are more expressive, but less faithful to the person.",
    },
)
SEED_INPUT = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": 2**53,
        "control_after_generate": False,
        "tooltip": "Same seed, same result.",
    },
)


class SampleAlphaSpace:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "random looks",
        "new expressions",
        "mystyle",
        "anchor mixture",
        "convex combination",
        "variations",
    ]
    DESCRIPTION = (
        "New looks of the person: random mixtures of a few anchors. Render them with the identity applied; "
        "without a Camera Path each is seen from a mixture of its anchors' cameras."
    )
    RETURN_TYPES = (socket_types.LATENT,)
    RETURN_NAMES = ("latents",)
    OUTPUT_TOOLTIPS = ("One latent per look. Render Head shows them all with 'every'.",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "identity": IDENTITY_INPUT,
                "count": ("INT", {"default": 8, "min": 1, "max": 4096, "tooltip": "How many looks."}),
                "anchors_per_sample": (
                    "INT",
                    {
                        "default": 3,
                        "min": 1,
                        "max": 1000,
                        "tooltip": "Anchors mixed in each look, at most all of them. The paper uses 3.",
                    },
                ),
                "temperature": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.05,
                        "max": 20.0,
                        "step": 0.05,
                        "tooltip": "1 mixes evenly; lower stays near single anchors, higher near their mean.",
                    },
                ),
                "beta": BETA_INPUT,
                "seed": SEED_INPUT,
            }
        }

    def sample(
        self,
        identity: Identity,
        count: int,
        anchors_per_sample: int,
        temperature: float,
        beta: float,
        seed: int,
    ) -> tuple[Latents]:
        from ...my3dgen_core import AlphaSpace

        space = AlphaSpace(identity.anchors, beta)
        with host.rendering():
            looks = space.sample(count, seed, min(anchors_per_sample, len(space)), temperature)
        return (socket_types.checked_latents(looks),)


class MixAnchors:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["blend photos", "blend expressions", "polygon", "weights", "morph", "alpha space"]
    DESCRIPTION = (
        "One look of the person, mixed from anchors that you choose and weight: drag the point between them. "
        "Render it with the identity applied; the camera is mixed in the same way."
    )
    RETURN_TYPES = (socket_types.LATENT,)
    RETURN_NAMES = ("latents",)
    OUTPUT_TOOLTIPS = ("The mixture, with a camera mixed in the same way.",)
    FUNCTION = "mix"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "identity": IDENTITY_INPUT,
                "weights": (
                    "STRING",
                    {
                        "default": "0: 1",
                        "tooltip": "Number of each anchor, from 0, and its weight, such as 0: 0.7, 4: 0.3. "
                        "Weights are normalized to sum to 1.",
                    },
                ),
                "beta": BETA_INPUT,
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def mix(
        self, identity: Identity, weights: str, beta: float, node_id: str | None = None
    ) -> dict[str, Any]:
        from ...my3dgen_core import AlphaSpace

        anchors = identity.anchors
        with host.rendering():
            mixed = AlphaSpace(anchors, beta).combine(parse_weights(weights, len(anchors), beta))
        ui = live_preview.publish(Mixture(anchors), identity, count=len(anchors))
        return {"ui": ui_results.remember(node_id, ui), "result": (socket_types.checked_latents(mixed),)}


def parse_weights(text: str, count: int, beta: float) -> Tensor:
    """Parse weights, such as "0: 0.5, 2: 1.5", and normalize them to the sum 1.

    Args:
        text: "anchor: weight" pairs, separated by commas; anchors not named have the weight 0.
        count: number of anchors.
        beta: how far a weight may fall below 0.

    Returns:
        [1, count].

    Raises:
        ValueError: the text is no such list, an anchor does not exist, the sum is not positive, or a weight
            is below -beta.
    """
    weights = torch.zeros(1, count, dtype=torch.float64)
    for part in split_list(text):
        name, _, amount = (word.strip() for word in plain_signs(part).partition(":"))
        try:
            index, weight = int(name), float(amount)
        except ValueError:
            raise ValueError(f"{part!r} is not a weight. Write anchor: weight, such as 0: 0.7.") from None
        if not 0 <= index < count:
            raise ValueError(f"There is no anchor {index}: these are 0 to {count - 1}.")
        weights[0, index] += weight
    total = float(weights.sum())
    if not math.isfinite(total) or total <= 1e-6:
        raise ValueError("The weights must have a sum above 0.")
    weights /= total
    if float(weights.min()) < -beta - 1e-3:
        raise ValueError(
            f"A weight is {float(weights.min()):.3f}, below -beta = {-beta:g}: that leaves the person's "
            "alpha space. Raise beta, or the weight."
        )
    # The text has rounded weights: do not refuse one that is below -beta by a rounding error.
    weights = weights.clamp(min=-beta)
    return (weights / weights.sum()).float()


class ProjectAlphaSpace:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "projector",
        "gan inversion",
        "constrained inversion",
        "mystyle",
        "inpaint",
        "reconstruct photo",
    ]
    DESCRIPTION = (
        "Projects a photo into the identity's alpha space: finds the mixture of anchors nearest to it. What "
        "the mask hides is filled in from the identity. Use the model with the identity applied."
    )
    RETURN_TYPES = (socket_types.LATENT, "IMAGE")
    RETURN_NAMES = ("latents", "reconstructions")
    OUTPUT_TOOLTIPS = (
        "One latent per photo, with the photo's camera.",
        "Each latent rendered from its photo's camera.",
    )
    FUNCTION = "project"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                **PHOTO_INPUTS,
                "steps": (
                    "INT",
                    {
                        "default": 150,
                        "min": 1,
                        "max": 10000,
                        "tooltip": "Optimization steps for each photo.",
                    },
                ),
                "space": (
                    ["p", "p+"],
                    {
                        "tooltip": "'p': one mixture for all layers. 'p+': one per layer, closer to the "
                        "photo, but less faithful to the person."
                    },
                ),
                "beta": (BETA_INPUT[0], {**BETA_INPUT[1], "default": 0.03}),
                "learning_rate": (
                    "FLOAT",
                    {
                        "default": 0.01,
                        "min": 0.0001,
                        "max": 1.0,
                        "step": 0.0001,
                        "round": 0.0001,
                        "tooltip": "Learning rate of the optimizer.",
                    },
                ),
                "batch_size": (
                    "INT",
                    {"default": 4, "min": 1, "max": 256, "tooltip": "Photos processed at a time."},
                ),
                "seed": SEED_INPUT,
            },
            "optional": {
                "masks": ("MASK", {"tooltip": "Pixels to fill in from the identity (1)."}),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def project(
        self,
        model: socket_types.Model,
        identity: Identity,
        images: Tensor,
        cameras: socket_types.Cameras,
        steps: int,
        space: str,
        beta: float,
        learning_rate: float,
        batch_size: int,
        seed: int,
        masks: Tensor | None = None,
        node_id: str | None = None,
    ) -> tuple[Latents, Tensor]:
        from ...my3dgen_core import AlphaSpace

        photos, hidden = picture_inputs.crops_and_masks(images, masks)
        socket_types.check_same_count(len(photos), len(cameras), "Project into Alpha Space")
        socket_types.check_latents(identity.anchors, model)
        with host.training(), model.ready(memory=host.TRAINING_MEMORY) as generator:
            device = socket_types.device_of(generator)
            latents = AlphaSpace(identity.anchors, beta).project(
                generator,
                photos.to(device),
                cameras.values.clone().to(device),
                masks=picture_inputs.moved(hidden, device),
                on_step=host.progress(node_id, "projection"),
                steps=steps,
                plus=space == "p+",
                lr=learning_rate,
                batch_size=batch_size,
                seed=seed,
            )
        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            views = render_views(
                generator, latents.ws, cameras.values, on_step=host.progress(node_id, "picture")
            )
        return socket_types.checked_latents(latents.to("cpu")), socket_types.pictures_to_host(views.image)


class InterpolateLatents:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["morph", "lerp", "latent walk", "transition", "tween", "animate"]
    DESCRIPTION = (
        "Interpolates from one latent to another in equal steps, cameras included. Send the latents to "
        "Render Head with 'every', and its frames to Create Video."
    )
    RETURN_TYPES = (socket_types.LATENT,)
    RETURN_NAMES = ("latents",)
    OUTPUT_TOOLTIPS = ("One latent per frame; the first and the last are the two chosen.",)
    FUNCTION = "interpolate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        index = {"default": 0, "min": 0, "max": 100000}
        return {
            "required": {
                "latents": (
                    socket_types.LATENT,
                    {"tooltip": "Anchors from Load Identity or Invert Photos, or any other latents."},
                ),
                "start": ("INT", {**index, "tooltip": "Number of the first latent, from 0."}),
                "end": ("INT", {**index, "default": 1, "tooltip": "Number of the last latent."}),
                "frames": (
                    "INT",
                    {
                        "default": 11,
                        "min": 2,
                        "max": 2000,
                        "tooltip": "Number of latents, both ends included.",
                    },
                ),
                "and_back": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Go back the same way, so that a video loops."},
                ),
            }
        }

    def interpolate(
        self, latents: Latents, start: int, end: int, frames: int, and_back: bool
    ) -> tuple[Latents]:
        from ...my3dgen_core import AlphaSpace

        t = torch.linspace(0, 1, frames)
        if and_back:
            t = torch.cat((t, t[1:-1].flip(0)))
        with host.rendering():
            between = AlphaSpace(latents).interpolate(start, end, t)
        return (socket_types.checked_latents(between),)
