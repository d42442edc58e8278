"""Paste node: blends new faces back into the photos from which the crops were cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import host, socket_types


class PasteBack:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = ["face swap", "uncrop", "composite face", "blend face", "stitch crop", "restore crop"]
    DESCRIPTION = (
        "Pastes edited or rendered face crops back into the photos that Align Faces cut them from, with a "
        "soft edge. Everything outside stays unchanged."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("photos",)
    OUTPUT_TOOLTIPS = (
        "The photos with their new faces, one per crop: a batch if all have one size, otherwise a list.",
    )
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "paste"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "photos": (
                    "IMAGE",
                    {
                        "tooltip": "All photos that went into Align Faces, in the same order; scaled copies "
                        "also work. A single crop takes any number of images."
                    },
                ),
                "crops": (
                    socket_types.CROP,
                    {"tooltip": "From Align Faces: where each crop lies in its photo."},
                ),
                "images": (
                    "IMAGE",
                    {"tooltip": "The new face crops, one per crop of Align Faces; square, of any size."},
                ),
                "feather": (
                    "FLOAT",
                    {
                        "default": 24.0,
                        "min": 0.0,
                        "max": 256.0,
                        "step": 1.0,
                        "tooltip": "Width of the soft edge, in pixels of a 512 px crop. 0 is a hard edge.",
                    },
                ),
            },
            "optional": {
                "masks": (
                    "MASK",
                    {
                        "tooltip": "Paste only where this is white, such as the head mask of Render Head. "
                        "One mask, or one per image."
                    },
                ),
                "old_heads": (
                    "MASK",
                    {
                        "tooltip": "Mask of the original head, for a new pose: what the new head does not "
                        "cover is filled in from around it. One mask, or one per image."
                    },
                ),
                "wider": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 1.0,
                        "max": 4.0,
                        "step": 0.05,
                        "tooltip": "Field of view of images and masks relative to the crop: the same value "
                        "as in Widen Field of View. 1: the crop itself.",
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def paste(
        self,
        photos: list[Tensor],
        crops: list[socket_types.Crops],
        images: list[Tensor],
        feather: list[float],
        masks: list[Tensor] | None = None,
        old_heads: list[Tensor] | None = None,
        wider: list[float] | None = None,
        node_id: list[str] | None = None,
    ) -> tuple[list[Tensor]]:
        from ...my3dgen_core.face import paste_back

        on_step = host.progress(node_id[0] if node_id else None, "photo")
        cuts = crops[0]
        flat = [
            photo
            for batch in socket_types.checked_pictures(photos, "photos")
            for photo in socket_types.over_white(batch)
        ]
        faces = [face for batch in socket_types.checked_pictures(images, "images") for face in batch.cpu()]
        heads, old = _masks(masks, faces, "masks"), _masks(old_heads, faces, "old_heads")
        pasted = []
        for index, (photo, cut) in enumerate(_places(cuts, len(flat), len(faces))):
            on_step(index, len(faces))
            face, pixels = faces[index], flat[photo].cpu().numpy()
            new, head = face[..., :3].permute(2, 0, 1) * 2 - 1, _opaque(face, heads[index])
            pixels = paste_back(
                pixels, cuts.transforms[cut], new, head, feather[0], old[index], wider[0] if wider else 1.0
            )
            pasted.append(torch.from_numpy(pixels)[None])
        same_size = len({picture.shape for picture in pasted}) == 1
        return ([host.to_host(p) for p in ([torch.cat(pasted)] if same_size else pasted)],)


def _masks(masks: Any, faces: list[Tensor], name: str) -> list[Tensor | None]:
    """Return one square mask [1, s, s] in its own size per face [H, W, C], or None where there is none."""
    from ...my3dgen_core.common.image_ops import resize

    each = socket_types.masks_of(masks, [(face.shape[0], face.shape[1]) for face in faces], name)
    return [None if mask is None else resize(mask[None, None].cpu(), max(mask.shape))[0] for mask in each]


def _opaque(face: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask [1, s, s] of a face [H, W, 3 or 4] without the face's transparent pixels."""
    from ...my3dgen_core.common.image_ops import resize

    if face.shape[-1] == 3:
        return mask
    opacity = face[None, None, ..., 3]
    return opacity[0] if mask is None else mask * resize(opacity, mask.shape[-1])[0]


def _places(cuts: socket_types.Crops, photos: int, faces: int) -> list[tuple[int, int]]:
    """Return the index (photo, crop) of every new face.

    Raises:
        ValueError: the numbers of photos, crops and faces do not match.
    """
    if len(cuts) == 1 and photos in (1, cuts.photo_count):
        return [(0 if photos == 1 else cuts.photos[0], 0)] * faces
    if faces != len(cuts):
        raise ValueError(
            f"There are {faces} new faces for {len(cuts)} crops. Give one per crop, in their order."
        )
    if photos == cuts.photo_count:
        return [(photo, cut) for cut, photo in enumerate(cuts.photos)]
    if photos == faces:
        return [(cut, cut) for cut in range(faces)]
    raise ValueError(
        f"Paste Back got {photos} photos, but Align Faces saw {cuts.photo_count}. "
        "Connect the same photos to both."
    )
