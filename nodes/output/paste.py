"""Paste node: blends new faces back into the photos from which the crops were cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import host, picture_inputs, socket_types


class PasteBack:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = ["face swap", "uncrop", "composite face", "blend face", "stitch crop", "restore crop"]
    DESCRIPTION = (
        "Pastes edited or rendered face crops back into the photos that Align Faces cut them from, with a "
        "soft edge. Everything outside stays unchanged."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("photos", "report")
    OUTPUT_TOOLTIPS = (
        "All photos in their order, those without a crop unchanged: a batch if all have one size, otherwise "
        "a list. A single crop with several images gives the photo once per image.",
        "How many photos have a new face, and which are unchanged.",
    )
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True, False)
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
                "even_sides": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Of several pictures of one size, cut the last row or column if their "
                        "height or width is odd: video encoders take only even sides.",
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
        even_sides: list[bool] | None = None,
        node_id: list[str] | None = None,
    ) -> tuple[list[Tensor], str]:
        from ...my3dgen_core.face import paste_back

        node = node_id[0] if node_id else None
        on_step = host.progress(node, "photo")
        cuts = crops[0]
        flat = [
            photo
            for batch in picture_inputs.checked_pictures(photos, "photos")
            for photo in picture_inputs.over_white(batch)
        ]
        faces = [face for batch in picture_inputs.checked_pictures(images, "images") for face in batch.cpu()]
        heads, old = _masks(masks, faces, "masks"), _masks(old_heads, faces, "old_heads")
        pasted: list[Tensor] = []
        unchanged: list[int] = []
        places = _places(cuts, len(flat), len(faces))
        for step, (photo, face, cut) in enumerate(places):
            on_step(step, len(places))
            picture = flat[photo].cpu()
            if face is None:
                unchanged.append(photo + 1)
            else:
                new = faces[face][..., :3].permute(2, 0, 1) * 2 - 1
                pixels = paste_back(
                    picture.numpy(), cuts.transforms[cut], new, _opaque(faces[face], heads[face]), feather[0],
                    old[face], wider[0] if wider else 1.0,
                )  # fmt: skip
                picture = torch.from_numpy(pixels)
            pasted.append(picture[None])
        lines = [f"{len(pasted) - len(unchanged)} of {len(pasted)} photos have a new face."]
        if unchanged:
            lines += [f"Unchanged, because Align Faces gave no crop of them: {_ranges(unchanged)}."]
        if len({picture.shape for picture in pasted}) == 1:
            batch = torch.cat(pasted)
            if len(batch) > 1 and (even_sides is None or even_sides[0]):
                batch = socket_types.even_sides(batch)
            if batch.shape[1:3] != pasted[0].shape[1:3]:
                height, width = batch.shape[1:3]
                lines += [f"Cut to {width}x{height} pixels: video encoders take only even sides."]
            pasted = [batch]
        text = "\n".join(lines)
        host.report(node, text)
        return [host.to_host(picture) for picture in pasted], text


def _masks(masks: Any, faces: list[Tensor], name: str) -> list[Tensor | None]:
    """Return one square mask [1, s, s] in its own size per face [H, W, C], or None where there is none."""
    from ...my3dgen_core.common.image_ops import resize

    each = picture_inputs.masks_of(masks, [(face.shape[0], face.shape[1]) for face in faces], name)
    return [None if mask is None else resize(mask[None, None].cpu(), max(mask.shape))[0] for mask in each]


def _opaque(face: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask [1, s, s] of a face [H, W, 3 or 4] without the face's transparent pixels."""
    from ...my3dgen_core.common.image_ops import resize

    if face.shape[-1] == 3:
        return mask
    opacity = face[None, None, ..., 3]
    return opacity[0] if mask is None else mask * resize(opacity, mask.shape[-1])[0]


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as ranges, such as "1, 9 to 25"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def _places(cuts: socket_types.Crops, photos: int, faces: int) -> list[tuple[int, int | None, int]]:
    """Return (photo, face, crop) of every picture of the result; the face is None where there is none.

    Raises:
        ValueError: the numbers of photos, crops and faces do not match.
    """
    if len(cuts) == 1 and photos in (1, cuts.photo_count) and (photos == 1 or faces > 1):
        return [(0 if photos == 1 else cuts.photos[0], face, 0) for face in range(faces)]
    if faces != len(cuts):
        raise ValueError(
            f"There are {faces} new faces for {len(cuts)} crops. Give one per crop, in their order."
        )
    if photos == cuts.photo_count:
        own = {photo: cut for cut, photo in enumerate(cuts.photos)}
        return [(photo, own.get(photo), own.get(photo, 0)) for photo in range(photos)]
    if photos == faces:
        return [(cut, cut, cut) for cut in range(faces)]
    raise ValueError(
        f"Paste Back got {photos} photos, but Align Faces saw {cuts.photo_count}. "
        "Connect the same photos to both."
    )
