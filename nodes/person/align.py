"""Face alignment node: photos to face crops with cameras."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import host, picture_inputs, socket_types
from ..server import ui_results
from ..server.alignment_report import EVENT, photo_report

if TYPE_CHECKING:
    from ...my3dgen_core import AlignedFaces
    from ...my3dgen_core.face import CropTransform, FaceReport

CHOICES: dict[str, str | int] = {
    "largest": "largest",
    "first from the left": 0,
    "second from the left": 1,
    "third from the left": 2,
    "most like the reference": "nearest",
}
SIDE_STEP = 64
"""Step of longest_side in Load Photo Folder."""
SCALED = "If the face was larger in the file, raise longest_side in Load Photo Folder."
NO_PARSING = (
    "The head masks are all white: there is no face-parsing model (BiSeNet with 19 classes, .onnx) in the "
    "subfolder 'parsing' of the face models."
)


class AlignFaces:
    CATEGORY = "My3DGen/Person"
    SEARCH_ALIASES = [
        "face crop",
        "face detection",
        "insightface",
        "landmarks",
        "head pose",
        "camera pose",
        "portrait",
        "face parsing",
    ]
    DESCRIPTION = (
        "Finds the face in every photo, crops it as EG3D's training images were cropped, and estimates its "
        "camera. Unusable photos are left out; the report says why."
    )
    RETURN_TYPES = (
        "IMAGE",
        socket_types.CAMERA,
        "MASK",
        "STRING",
        "IMAGE",
        socket_types.CROP,
        "MASK",
        "MASK",
    )
    RETURN_NAMES = ("images", "cameras", "masks", "report", "overview", "crops", "heads", "photo_masks")
    OUTPUT_TOOLTIPS = (
        "The face crops, 512 x 512, of the photos that were kept.",
        "One camera per crop.",
        "1 where a crop extends past the edge of its photo and was filled in; training ignores these pixels.",
        "A table: which photos were kept, their pose, and why the others were dropped.",
        "The report as an image: every crop with its pose, or why there is none; below, the viewing angles "
        "that the photos cover.",
        "Where each crop lies in its photo. Connect to Paste Back.",
        "1 on the head, 0 on background and clothes, for Train Identity and Paste Back. All 1 if there is no "
        "face-parsing model in the folder of the face models.",
        "The masks of the photos, cut like the crops, and 1 where a photo is transparent; for Inpaint / "
        "Super-Resolve Photos and the masks of the other nodes. All 0 without masks.",
    )
    INPUT_IS_LIST = True
    FUNCTION = "align"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "photos": ("IMAGE", {"tooltip": "Photos of one person: a batch, or a list of any sizes."}),
                "face_models": (
                    ["auto", *host.list_face_packs()],
                    {
                        "tooltip": "A face pack in models/insightface/models, such as buffalo_l. "
                        "'auto' uses the first one found."
                    },
                ),
                "which": (
                    list(CHOICES),
                    {"tooltip": "Which face to use if a photo shows several."},
                ),
                "upright": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Turn tilted heads upright before cropping."},
                ),
                "same_person": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "All photos show one person with one expression: one face shape is fitted "
                        "to all, which makes their cameras more consistent. A smile counts as shape: leave "
                        "this off if expressions vary.",
                    },
                ),
                "drop_different": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Leave out photos that show someone other than the person in most of "
                        "them. Off: the report only warns.",
                    },
                ),
            },
            "optional": {
                "names": (
                    "STRING",
                    {
                        "forceInput": True,
                        "tooltip": "File names for the report, from Load Photo Folder.",
                    },
                ),
                "reference": (
                    "IMAGE",
                    {"tooltip": "A photo of the wanted person, for 'most like the reference'."},
                ),
                # the last ones: workflows keep their settings by position
                "sequence": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "The photos are the frames of one video: crops and cameras are smoothed "
                        "over time, and short gaps without a face are filled in.",
                    },
                ),
                "neck": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Include the neck in the output heads."},
                ),
                "by_hand": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Manual decisions about single photos, as JSON: keep anyway, leave out, "
                        "another face, the five points. The report on the node writes it.",
                    },
                ),
                "masks": (
                    "MASK",
                    {
                        "tooltip": "Masks drawn on the photos, one per photo or one for all. They are cut "
                        "like the crops: see photo_masks."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, face_models: list[str | None]) -> bool | str:
        try:
            host.find_face_pack(face_models[0] or "auto")
        except FileNotFoundError as error:
            return str(error)
        return True

    def align(
        self,
        photos: list[Tensor],
        face_models: list[str],
        which: list[str],
        upright: list[bool],
        same_person: list[bool],
        drop_different: list[bool],
        names: list[str] | None = None,
        reference: list[Tensor] | None = None,
        sequence: list[bool] | None = None,
        neck: list[bool] | None = None,
        by_hand: list[str] | None = None,
        masks: list[Tensor] | None = None,
        node_id: list[str] | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import align_faces
        from ...my3dgen_core.common.folders import name_key
        from ...my3dgen_core.face import (
            AlignmentError,
            FaceModels,
            align_sequence,
            describe_coverage,
            format_report,
        )
        from ...my3dgen_core.face.overrides import read_by_hand

        node = node_id[0] if node_id else None
        choice = CHOICES[which[0]]
        if choice == "nearest" and reference is None:
            raise ValueError("'most like the reference' needs a photo: connect one to reference.")
        settings: dict[str, Any] = {
            "which": choice,
            "reference": _reference(reference) if choice == "nearest" else None,
            "upright": upright[0],
            "neck": neck is None or neck[0],
            "on_step": host.progress(node, "photo"),
        }
        decided = read_by_hand(by_hand[0] if by_hand else "")
        if sequence and sequence[0]:
            if decided:
                raise ValueError("Manual decisions are for photos, not for a sequence: clear by_hand.")
            align = align_sequence
        else:
            align = align_faces
            settings |= {"same_person": same_person[0], "drop_different": drop_different[0]}
            settings["by_hand"] = decided
        models = FaceModels.from_folder(host.find_face_pack(face_models[0]))
        pictures = _pictures(photos, "photos")
        drawn = _drawn(masks, pictures)
        named = _named(pictures, names)
        renamed = _tell_apart(named)
        try:
            with host.rendering():
                aligned = align(named, models, **settings)
        except AlignmentError as error:  # a failed node has no `ui`, but the page needs the report most then
            hint = _hint_at_scaling(named, error.report)
            if error.report:  # empty if the reference is at fault
                host.publish(EVENT, {"node": node, **photo_report(named, error.report)})
            raise AlignmentError(f"{error}{hint}", error.report) from error
        _hint_at_scaling(named, aligned.report)
        report = f"{format_report(aligned.report)}\n{describe_coverage(aligned.report)}"
        heads = aligned.heads
        if heads is None:
            heads, report = torch.ones_like(aligned.masks), f"{report}\n{NO_PARSING}"
        if renamed:
            more = f" and {len(renamed) - 5} more" if len(renamed) > 5 else ""
            report += (
                f"\nPhotos of the same name are numbered here and in by_hand: {', '.join(renamed[:5])}{more}."
            )
        present = {name_key(name) for name, _ in named}
        missing = [name for name in decided if name_key(name) not in present]
        if missing:
            report += f"\nIn by_hand, but not among the photos: {', '.join(sorted(missing))}."
        overview = host.to_host(torch.from_numpy(_overview(aligned))[None].float() / 255)
        places = [row.transform for row in aligned.report if row.kept and row.transform]
        result = (
            socket_types.pictures_to_host(aligned.images),
            socket_types.Cameras(aligned.cameras, socket_types.ESTIMATED),
            socket_types.mask_to_host(aligned.masks),
            report,
            overview,
            socket_types.Crops(tuple(places), tuple(aligned.kept), len(aligned.report)),
            socket_types.mask_to_host(heads),
            socket_types.mask_to_host(
                torch.stack(
                    [_cut(drawn[photo], place) for photo, place in zip(aligned.kept, places, strict=True)]
                )
            ),
        )
        text = host.report(node, f"{models.describe()}\n{report}")
        ui = {**text, **host.preview(overview), **photo_report(named, aligned.report)}
        return {"ui": ui_results.remember(node, ui), "result": result}


def _cut(mask: Tensor | None, place: CropTransform) -> Tensor:
    """Cut a photo's mask [h,w] to its crop, [1,S,S]; without a mask all 0."""
    from ...my3dgen_core.face import warp_mask

    return torch.zeros(1, place.crop_size, place.crop_size) if mask is None else warp_mask(mask.cpu(), place)


def _hint_at_scaling(photos: list[tuple[str, np.ndarray]], report: list[FaceReport]) -> str:
    """Add to the rows of small faces that Load Photo Folder may have scaled the photo down.

    Only photos of a size that its longest_side can have are meant, and of those without a face, large ones.

    Returns:
        The hint, after a space, if a row has it; "" otherwise.
    """
    from ...my3dgen_core.face.align import SMALL_BOX

    found = ""
    for (_, pixels), row in zip(photos, report, strict=False):
        side = max(pixels.shape[:2])
        scaled = side % SIDE_STEP == 0 and (row.box is not None or side >= 1024)
        if not scaled or row.by_hand or (row.box is not None and row.face_size >= SMALL_BOX):
            continue
        if row.kept:
            row.warnings.append(SCALED)
        else:
            row.reason, found = f"{row.reason} {SCALED}", f" {SCALED}"
    return found


def _overview(aligned: AlignedFaces) -> np.ndarray:
    """Draw the contact sheet above the coverage plot, [H,W,3] uint8."""
    from ...my3dgen_core.face import coverage_plot

    sheet = aligned.sheet()
    plot = coverage_plot(aligned.report, width=max(sheet.shape[1], 512))
    sheet = np.pad(sheet, ((0, 0), (0, plot.shape[1] - sheet.shape[1]), (0, 0)))
    return np.concatenate([sheet, plot])


def _pictures(photos: Any, name: str) -> list[Tensor]:
    """Return every picture [H,W,3 or 4] in 0..1 of an IMAGE input, of any sizes."""
    return [picture for batch in picture_inputs.checked_pictures(photos, name) for picture in batch]


def _named(pictures: list[Tensor], names: list[str] | None) -> list[tuple[str, Any]]:
    """Return (name, [H,W,3] in 0..1) of every photo."""
    names = names or []
    if len(names) != len(pictures):
        names = [f"photo {index + 1}" for index in range(len(pictures))]
    names = [os.path.basename(name) if os.path.isabs(name) else name for name in names]
    photos = [picture_inputs.over_white(picture).cpu().numpy() for picture in pictures]
    return list(zip(names, photos, strict=True))


def _tell_apart(named: list[tuple[str, Any]]) -> list[str]:
    """Number photos of one name in place, as "a.jpg (2)", so that a decision by hand is about one of them.

    Returns:
        The new names.
    """
    from ...my3dgen_core.common.folders import name_key

    taken, seen, counts = {name_key(name) for name, _ in named}, set(), Counter[str]()
    renamed = []
    for index, (name, pixels) in enumerate(named):
        key = own = name_key(name)
        if key in seen:
            counts[key] += 1
            while (own := f"{key} ({counts[key] + 1})") in taken:
                counts[key] += 1
            named[index] = own, pixels
            renamed.append(own)
            taken.add(own)
        seen.add(own)
    return renamed


def _reference(photos: Any) -> Any:
    """Return the first picture of the input `reference`, [H,W,3] in 0..1."""
    return _named(_pictures(photos, "reference"), None)[0][1]


def _drawn(masks: Any, pictures: list[Tensor]) -> list[Tensor | None]:
    """Return the mask [h,w] of every photo with its transparent pixels, or None where there is neither.

    Raises:
        ValueError: a mask has other proportions than its photo, or there are too many or too few.
    """
    from ...my3dgen_core.common.image_ops import resize

    sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    each = picture_inputs.masks_of(
        masks, sizes, remedy="Draw the mask on this photo, or give the masks in the order of the photos."
    )
    for index, picture in enumerate(pictures):
        if picture.shape[-1] == 4:
            hidden, mask = 1 - picture[..., 3], each[index]
            if mask is not None:
                hidden = torch.maximum(hidden, resize(mask[None, None], sizes[index])[0, 0])
            each[index] = hidden
    return each
