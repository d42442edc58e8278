"""Blending nodes: a weighted mean of two identities, and the transition from one to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import host, socket_types

if TYPE_CHECKING:
    from ...my3dgen_core import Identity, Latents

CATEGORY = "My3DGen/Latents"
FIRST = (socket_types.IDENTITY, {"tooltip": "The first identity, from Load Identity or Train Identity."})
SECOND = (socket_types.IDENTITY, {"tooltip": "The second identity, trained on the same generator."})


class MixPersons:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "mix persons",
        "blend faces",
        "merge identities",
        "mix faces",
        "average face",
        "lora merge",
    ]
    DESCRIPTION = (
        "Blends two identities into one that can be applied and saved like any other. Its anchors are "
        "mixtures of anchors with similar cameras."
    )
    RETURN_TYPES = (socket_types.IDENTITY, socket_types.LATENT)
    RETURN_NAMES = ("identity", "anchors")
    OUTPUT_TOOLTIPS = (
        "The blended identity. Connect to Apply Identity or Save Identity.",
        "The blended anchors, with their cameras, for Render Head.",
    )
    FUNCTION = "mix"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "first": FIRST,
                "second": SECOND,
                "share": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": -1.0,
                        "max": 2.0,
                        "step": 0.05,
                        "tooltip": "0 is the first identity, 1 the second; values outside exaggerate.",
                    },
                ),
            }
        }

    def mix(self, first: Identity, second: Identity, share: float) -> tuple[Identity, Latents]:
        from ...my3dgen_core import mix_persons

        with host.rendering():
            mixed = mix_persons([first, second], [1 - share, share])
        return socket_types.checked_identity(mixed), mixed.anchors


class InterpolatePersons:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "interpolate persons",
        "morph faces",
        "face morph",
        "transition",
        "tween",
        "blend persons",
    ]
    DESCRIPTION = (
        "Renders the transition from one identity to another: weights, latents and camera move together. Use "
        "the bare generator, from Load EG3D Generator."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("The frames, for Create Video. The first and the last show the two identities.",)
    FUNCTION = "interpolate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        index = {"default": 0, "min": 0, "max": 100000}
        return {
            "required": {
                "model": (
                    socket_types.MODEL,
                    {"tooltip": "The generator of both, without an identity applied."},
                ),
                "first": FIRST,
                "second": SECOND,
                "which": (
                    [socket_types.MEAN, socket_types.SINGLE],
                    {
                        "tooltip": "'mean': the average anchor of each. 'single': the anchors with the "
                        "indices below."
                    },
                ),
                "first_index": ("INT", {**index, "tooltip": "Anchor of the first, with 'single'."}),
                "second_index": ("INT", {**index, "tooltip": "Anchor of the second, with 'single'."}),
                "frames": (
                    "INT",
                    {
                        "default": 11,
                        "min": 2,
                        "max": 2000,
                        "tooltip": "Number of frames, both ends included.",
                    },
                ),
                "and_back": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Go back the same way, so that a video loops."},
                ),
            },
            "optional": {
                "cameras": (
                    socket_types.CAMERA,
                    {
                        "tooltip": "One camera, or one per frame. Without: the anchors' own; with 'mean', "
                        "the frontal camera."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def interpolate(
        self,
        model: socket_types.Model,
        first: Identity,
        second: Identity,
        which: str,
        first_index: int,
        second_index: int,
        frames: int,
        and_back: bool,
        cameras: socket_types.Cameras | None = None,
        node_id: str | None = None,
    ) -> tuple[Tensor]:
        from ...my3dgen_core import Latents, render_between
        from ...my3dgen_core.eg3d.config import front_camera

        if model.identities:
            raise ValueError(
                "Interpolate Identities applies the two identities itself: connect the model from Load EG3D "
                "Generator, without Apply Identity."
            )
        ends = [
            socket_types.chosen(identity.anchors, which, index)
            for identity, index in ((first, first_index), (second, second_index))
        ]
        for identity in (first, second):
            identity.check_base(model.base_hash())
        t = torch.linspace(0, 1, frames)
        if and_back:
            t = torch.cat((t, t[1:-1].flip(0)))
        seen_from = None if cameras is None else cameras.values
        if seen_from is None and any(end.cameras is None for end in ends):
            seen_from = front_camera(model.generator.config, torch.device("cpu"))
        if seen_from is not None and len(seen_from) not in (1, len(t)):
            raise ValueError(f"{len(t)} frames need one camera or {len(t)}, not {len(seen_from)}.")
        own = None if seen_from is not None else torch.cat([end.cameras for end in ends])
        latents = Latents(torch.cat([end.ws for end in ends]), own, base_hash=first.base_hash)
        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            on_step = host.progress(node_id, "picture")
            pictures = render_between(generator, first, second, latents, t, seen_from, on_step)
        return (socket_types.pictures_to_host(socket_types.check_render(pictures)),)
