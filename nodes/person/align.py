"""Face alignment node: photos to face crops with cameras."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import host, picture_inputs, socket_types
from ..server import ui_results
from ..server.alignment_report import EVENT, photo_report
from ..video_inputs import clip_of
from .video_faces import Found, align_chosen, align_clip

if TYPE_CHECKING:
    from ...my3dgen_core.face import CropTransform, FaceModels, FaceReport

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
NO_IDENTITY = (
    "Whether the photos show one person was not checked: these face models have no identity network."
)
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
        "face parsing",
        "mediapipe",
    ]
    DESCRIPTION = (
        "Finds the face in every photo, or in the frames of a video, crops it as EG3D's training images were "
        "cropped, and estimates its camera. Unusable photos are left out; the report says why."
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
            # optional altogether: photos may be left open, and inputs keep their places in saved workflows
            "optional": {
                "photos": (
                    "IMAGE",
                    {"tooltip": "Photos of one person: a batch, or a list of any sizes. Or connect a video."},
                ),
                "face_models": (
                    ["auto", *host.list_face_models()],
                    {
                        "tooltip": "A face pack in models/insightface/models, such as buffalo_l, or "
                        "MediaPipe's wheel in models/my3dgen/faces (Apache-2.0, without an identity "
                        "network). 'auto' uses face_landmarks if it is connected, else the first pack found, "
                        "else MediaPipe."
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
                        "tooltip": "The photos are the frames of one video, or every frame of video is used: "
                        "crops and cameras are smoothed over time, and short gaps without a face are filled "
                        "in.",
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
                "video": (
                    "VIDEO",
                    {
                        "tooltip": "A video of the person instead of photos. With sequence every frame is "
                        "used; without, sharp frames from many sides are chosen as photos."
                    },
                ),
                "at_most": (
                    "INT",
                    {
                        "default": 20,
                        "min": 1,
                        "max": 200,
                        "tooltip": "Largest number of frames that are chosen as photos from a video.",
                    },
                ),
                "face_landmarks": (
                    socket_types.FACE_LANDMARKS,
                    {
                        "tooltip": "Faces of the same photos from Detect Face Landmarks (MediaPipe); no face "
                        "models are needed then. A pack chosen in face_models adds the identity."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, face_models: Sequence[str | None] = ("auto",), face_landmarks: Any = None
    ) -> bool | str:
        # a connected input arrives as [None]
        if face_landmarks is not None and (face_models[0] or "auto") == "auto":
            return True
        try:
            host.find_face_models(face_models[0] or "auto")
        except FileNotFoundError as error:
            return str(error)
        return True

    def align(
        self,
        photos: list[Tensor] | None = None,
        face_models: Sequence[str] = ("auto",),
        which: Sequence[str] = ("largest",),
        upright: Sequence[bool] = (True,),
        same_person: Sequence[bool] = (False,),
        drop_different: Sequence[bool] = (False,),
        names: list[str] | None = None,
        reference: list[Tensor] | None = None,
        sequence: list[bool] | None = None,
        neck: list[bool] | None = None,
        by_hand: list[str] | None = None,
        masks: list[Tensor] | None = None,
        video: list[Any] | None = None,
        at_most: list[int] | None = None,
        face_landmarks: list[Any] | None = None,
        node_id: list[str] | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import align_faces
        from ...my3dgen_core.face import AlignmentError, align_sequence
        from ...my3dgen_core.face.overrides import read_by_hand

        if photos is None and video is None:
            raise ValueError("There is nothing to align. Connect photos, or a video to video.")
        if photos is not None and video is not None:
            raise ValueError("Photos and a video at once are too much: disconnect photos or video.")
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
        in_order = bool(sequence and sequence[0])
        if in_order and decided:
            raise ValueError("Manual decisions are for photos, not for a sequence: clear by_hand.")
        if not in_order:
            settings |= {"same_person": same_person[0], "drop_different": drop_different[0]}
            settings["by_hand"] = decided
        if video is not None:
            if masks is not None:
                raise ValueError("Masks are drawn on photos, not on a video: disconnect masks.")
            if face_landmarks is not None:
                raise ValueError("face_landmarks is of photos: disconnect it, or connect photos.")
            clip, models = clip_of(video), _face_models(face_models[0], None, 0)
            if in_order:
                return _result(node, models, align_clip(clip, models, settings, node))
            return _result(
                node,
                models,
                align_chosen(clip, models, settings, at_most[0] if at_most else 20, node),
                decided,
            )
        pictures = _pictures(photos, "photos")
        models = _face_models(face_models[0], face_landmarks, len(pictures))
        drawn = _drawn(masks, pictures)
        named = _named(pictures, names)
        renamed = _tell_apart(named)
        align = align_sequence if in_order else align_faces
        try:
            with host.rendering():
                aligned = align(named, models, **settings)
        except AlignmentError as error:  # a failed node has no `ui`, but the page needs the report most then
            hint = _hint_at_scaling(named, error.report)
            if error.report:  # empty if the reference is at fault
                host.publish(EVENT, {"node": node, **photo_report(named, error.report)})
            raise AlignmentError(f"{error}{hint}", error.report) from error
        _hint_at_scaling(named, aligned.report)
        notes = []
        if renamed:
            more = f" and {len(renamed) - 5} more" if len(renamed) > 5 else ""
            notes.append(
                f"Photos of the same name are numbered here and in by_hand: {', '.join(renamed[:5])}{more}."
            )
        places = [row.transform for row in aligned.report if row.kept and row.transform]
        found = Found(
            images=socket_types.pictures_to_host(aligned.images),
            crops=aligned.images,
            cameras=aligned.cameras,
            masks=socket_types.mask_to_host(aligned.masks),
            heads=None if aligned.heads is None else socket_types.mask_to_host(aligned.heads),
            photo_masks=socket_types.mask_to_host(
                torch.stack(
                    [_cut(drawn[photo], place) for photo, place in zip(aligned.kept, places, strict=True)]
                )
            ),
            report=aligned.report,
            shown=photo_report(named, aligned.report),
            notes=notes,
        )
        return _result(node, models, found, decided)


def _result(
    node: str | None, models: FaceModels, found: Found, decided: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the executor gets: the outputs, and the `ui` of the node.

    Args:
        node: id of the node.
        models: face networks, which the report names.
        found: the crops.
        decided: manual decisions by photo name; the report names those that met no photo.
    """
    from ...my3dgen_core.common.folders import name_key
    from ...my3dgen_core.face import describe_coverage, format_report

    lines = [format_report(found.report), describe_coverage(found.report), f"{models.license}."]
    if not models.has_recognition:
        lines.append(NO_IDENTITY)
    if found.heads is None:
        lines.append(NO_PARSING)
    lines += found.notes
    present = {name_key(row.name) for row in found.report}
    missing = [name for name in decided or {} if name_key(name) not in present]
    if missing:
        lines.append(f"In by_hand, but not among the photos: {', '.join(sorted(missing))}.")
    report = "\n".join(lines)
    overview = host.to_host(torch.from_numpy(_overview(found))[None].float() / 255)
    kept = [row for row in found.report if row.kept and row.transform]
    crops = socket_types.Crops(
        tuple(row.transform for row in kept if row.transform),
        tuple(row.index for row in kept),
        len(found.report),
        found.source,
        tuple((row.mesh, row.blendshapes) for row in kept),
    )
    result = (
        found.images,
        socket_types.Cameras(found.cameras, socket_types.ESTIMATED),
        found.masks,
        report,
        overview,
        crops,
        torch.ones(1).expand_as(found.masks) if found.heads is None else found.heads,
        found.photo_masks,
    )
    text = host.report(node, f"{models.describe()}\n{report}")
    ui = {**text, **host.preview(overview), **found.shown}
    return {"ui": ui_results.remember(node, ui), "result": result}


def _face_models(name: str, landmarks: list[Any] | None, photos: int) -> FaceModels:
    """Load the source of faces: landmarks that are given, an InsightFace pack, or MediaPipe.

    Raises:
        ValueError: there are other landmarks than photos.
    """
    from ...my3dgen_core.face import FaceModels, MediaPipeModels
    from ...my3dgen_core.face.given_landmarks import GivenLandmarks

    models: FaceModels | None = None
    if landmarks is None or name != "auto":
        path = host.find_face_models(name)
        models = FaceModels.from_folder(path) if path.is_dir() else MediaPipeModels.from_wheel(path)
    if landmarks is None:
        assert models is not None
        return models
    given = GivenLandmarks.from_values(landmarks, models)
    if len(given) != photos:
        raise ValueError(
            f"face_landmarks has {len(given)} frames for {photos} photos. Connect the same photos to Detect "
            "Face Landmarks (MediaPipe) and to Align Faces."
        )
    return given


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


def _overview(found: Found) -> np.ndarray:
    """Draw the contact sheet above the coverage plot, [H,W,3] uint8."""
    from ...my3dgen_core.face import contact_sheet, coverage_plot

    sheet = contact_sheet(found.report, found.crops)
    plot = coverage_plot(found.report, width=max(sheet.shape[1], 512))
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
