"""Face alignment: photos of a person to EG3D crops, camera labels, masks of padded pixels, and a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..common.progress import OnStep
from .crop import crop_transform, roll_of_points, warp_crop
from .detect import FaceModels, as_uint8, resize_uint8
from .face_search import Candidate, Choose, chooser, padded_gray, point_distances, search_face
from .occlusion import covered_part
from .overrides import ByHand, override_for
from .packs import FaceModelError
from .parsing import covered_by_classes, head_mask
from .photos import Photo, count_photos, read_photos
from .pose import PoseFit, angles_of_rotation, label_of_rotation, solve_pose, solve_poses
from .recognition import align_to_template, embed
from .report import FaceReport, contact_sheet, format_report, join_reasons, report_to_json

MIN_BOX, SMALL_BOX = 30.0, 64.0  # face size in photo pixels: smaller is dropped, warned of
BLURRED = 40.0  # variance of the Laplacian: lower is warned of
LOW_INSIDE, CUT_BOX = 0.7, 0.3  # fractions warned of: crop inside the photo at most, face outside at least
WIDE_YAW, MAX_YAW = 45.0, 60.0  # degrees: more is warned of, dropped
DIFFERENT_PERSON = 0.35  # ArcFace cosine: lower is another person
_MAX_OCCLUSION_YAW = 30.0  # degrees: only faces nearer to the front are checked for occlusion
NEAR_DUPLICATE = 0.02  # mean absolute difference of 32 x 32 crops in 0..1


class AlignmentError(ValueError):
    """Error for too few usable photos; `report` has one row for each photo."""

    def __init__(self, message: str, report: list[FaceReport]) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class AlignedFaces:
    """Result of `align_faces`: the K kept faces, and one report row for every input."""

    images: torch.Tensor
    """Crops [K,3,512,512] in [-1,1]."""
    cameras: torch.Tensor
    """EG3D camera labels [K,25]."""
    masks: torch.Tensor
    """Masks [K,1,512,512], 1 where the crop lies outside the photo and was padded by reflection."""
    kept: list[int]
    """Indices of the kept inputs."""
    report: list[FaceReport]
    """One row for each input."""
    embeddings: torch.Tensor | None = None
    """ArcFace embeddings [K,512] of length 1, or None without an identity network."""
    heads: torch.Tensor | None = None
    """Head masks [K,1,512,512] for `personalize`, 1 on the head, or None without a face-parsing network."""

    def table(self) -> str:
        """Return the report as plain text, see `format_report`."""
        return format_report(self.report)

    def to_json(self) -> str:
        """Return the report as JSON, see `report_to_json`."""
        return report_to_json(self.report)

    def sheet(self, size: int = 256, columns: int = 4) -> np.ndarray:
        """Return the report as a picture [H,W,3] uint8.

        Args:
            size: side of a tile in pixels.
            columns: largest number of tiles in a row.
        """
        return contact_sheet(self.report, self.images, size, columns)


@dataclass
class KeptFace:
    """A face that passed every check, with its crop and pose."""

    image: torch.Tensor
    """Crop [3,512,512] in [-1,1]."""
    mask: torch.Tensor
    """Mask [1,512,512] of padded pixels."""
    fit: PoseFit
    """Head pose in the crop."""
    points: np.ndarray
    """Detector's five points [5,2] in the crop."""
    landmarks: np.ndarray | None
    """Landmarks [106,2] in the crop, or None without that network."""
    embedding: torch.Tensor | None
    """ArcFace embedding [512] of length 1, or None without that network."""
    row: FaceReport = field(repr=False)
    """Report row of the photo."""
    classes: np.ndarray | None = field(default=None, repr=False)
    """Class [512,512] of each pixel, see `parsing.CLASSES`, or None without that network."""
    mirror_distances: np.ndarray | None = field(default=None, repr=False)
    """Distances [106] between the landmarks of the picture and of its mirror image, see `occlusion`."""


def align_faces(
    photos: Any,
    face_models: FaceModels,
    *,
    which: str | int = "largest",
    reference: Any = None,
    upright: bool = True,
    min_photos: int = 1,
    max_yaw: float = MAX_YAW,
    same_person: bool = False,
    drop_different: bool = False,
    det_size: int | None = None,
    neck: bool = True,
    by_hand: Mapping[str, ByHand] | None = None,
    on_step: OnStep | None = None,
) -> AlignedFaces:
    """Find the face in each photo and cut the crop and camera label that EG3D expects.

    Crops follow EG3D's preprocessing of photos in the wild; cameras come from `pose.solve_pose`. One bad
    photo never fails the batch: it is dropped, and its report row says why. Results keep the order of the
    input, and the same batch gives the same result.

    Args:
        photos: a folder, or a list of paths, arrays of any size or tensors [N,3,H,W] in [-1,1], see
            `read_photos`.
        face_models: networks from `FaceModels.from_folder`.
        which: face to take where a photo has several: "largest", "leftmost", "rightmost", "nearest" (to
            `reference`), or a number from the left (0, 1, ...; -1 is the last).
        reference: photo or embedding [512] of the wanted person; required by "nearest".
        upright: rotate the crop so that the face is upright; False leaves its roll in crop and label.
        min_photos: smallest number of kept photos; fewer raise an error.
        max_yaw: largest yaw in degrees; faces turned further are dropped.
        same_person: fit one face shape to all photos, so that their labels agree better.
        drop_different: drop photos that look like another person instead of only warning (needs 3 photos).
        det_size: detector input size to try first; None starts with 640, for tensors (crops, renders) with
            320.
        neck: count the neck as part of the head in `heads`.
        by_hand: user overrides by photo name, see `read_by_hand`.
        on_step: called after each photo as on_step(step, total, {}, crop or None); may raise to cancel.

    Returns:
        The kept faces, and one report row for each photo.

    Raises:
        AlignmentError: fewer than `min_photos` photos can be used.
        PhotoError: the folder does not exist or is empty.
        ValueError: `which` is not one of the choices, or "nearest" comes without a reference.
        FaceModelError: "nearest" without an identity network.
    """
    target = reference_embedding(reference, face_models) if which == "nearest" else None
    choose = chooser(which, target, face_models)
    total = count_photos(photos)
    report: list[FaceReport] = []
    kept: list[KeptFace] = []
    wanted: set[str] = set()
    for index, photo in enumerate(read_photos(photos)):
        row = FaceReport(index, photo.name, reason=photo.error)
        report.append(row)
        hand = override_for(by_hand, photo.name)
        if hand and hand.keep:
            wanted.add(photo.name)
        found = align_one(photo, row, face_models, choose, upright, max_yaw, det_size, hand)
        if found:
            found.classes = face_models.parse(padded_gray(found.image, found.mask))
            warn_of_occlusion(found)
            kept.append(found)
        elif photo.pixels is not None:
            row.thumbnail = thumbnail_of(photo.pixels)
        if on_step:
            on_step(index + 1, total, {}, found.image[None] if found else None)
    kept = _compare_photos(kept, drop_different, wanted)
    if len(kept) < max(min_photos, 1):
        reasons = join_reasons([row for row in report if not row.kept])
        need = f"at least {min_photos} are needed" if min_photos > 1 else "at least one is needed"
        raise AlignmentError(
            f"{len(kept)} of {len(report)} photos can be used, {need}. {reasons}".strip(), report
        )
    if same_person and len(kept) > 1:
        _solve_poses_jointly(kept)
    embeddings = [item.embedding for item in kept if item.embedding is not None]
    return AlignedFaces(
        images=torch.stack([item.image for item in kept]),
        cameras=torch.from_numpy(np.stack([label_of_rotation(item.fit.rotation) for item in kept])),
        masks=torch.stack([item.mask for item in kept]),
        kept=[item.row.index for item in kept],
        report=report,
        embeddings=torch.stack(embeddings) if len(embeddings) == len(kept) else None,
        heads=head_masks([item.classes for item in kept], neck),
    )


def align_one(
    photo: Photo,
    row: FaceReport,
    models: FaceModels,
    choose: Choose,
    upright: bool,
    max_yaw: float,
    det_size: int | None,
    by_hand: ByHand | None = None,
) -> KeptFace | None:
    """Align one photo and fill its report row.

    Args:
        photo: the input, as `read_photos` gives it.
        row: report row to fill.
        models: face networks.
        choose: picks one of the faces found.
        upright: rotate the crop so that the face is upright.
        max_yaw: largest yaw in degrees.
        det_size: detector input size to try first, or None.
        by_hand: user override of this photo, or None.

    Returns:
        The crop and pose, or None with `row.reason` set.
    """
    pixels, hand = photo.pixels, by_hand or ByHand()
    if pixels is None:
        return None
    if photo.warning:
        row.warnings.append(photo.warning)

    def rejected(reason: str) -> bool:
        """Record the reason: reject the photo (True), or only warn where the user keeps it (False)."""
        if hand.keep:
            row.warnings.append(reason)
            return False
        row.reason = reason
        return True

    row.by_hand = hand.describe()
    if hand.keep is False:
        row.reason = "Left out by hand."
        return None
    if min(pixels.shape[:2]) < 16:
        row.reason = f"The picture is only {pixels.shape[1]} x {pixels.shape[0]} pixels."
        return None
    if hand.points is not None:
        try:
            candidate: Candidate | None = hand.candidate(pixels, models)
        except ValueError:
            row.reason = "The five points set by hand span no face."
            return None
        row.reason = ""
    else:
        size = det_size or (320 if photo.is_crop else None)
        candidate = search_face(pixels, row, models, hand.chooser(choose), size, hand.keep is True)
    if candidate is None:
        return None
    height, width = pixels.shape[:2]
    face = candidate.face
    left, top, right, bottom = face.box
    row.score, row.box = round(face.score, 4), (float(left), float(top), float(right), float(bottom))
    row.found_by = candidate.step
    row.photo_roll = math.degrees(roll_of_points(face.points))
    if face.size < MIN_BOX and rejected(
        f"The face is too small ({face.size:.0f} pixels; {MIN_BOX:.0f} are needed)."
    ):
        return None
    if ((face.points < 0) | (face.points > [width, height])).any() and rejected(
        "The edge of the photo cuts through the eyes, nose or mouth."
    ):
        return None

    transform, image, mask = candidate.transform, candidate.image, candidate.mask
    landmarks, mesh = candidate.landmarks, candidate.mesh
    if not upright:
        transform = crop_transform(face.points, (height, width), upright=False)
        if landmarks is not None:
            landmarks = transform.to_crop(candidate.transform.to_photo(landmarks))
        if mesh is not None:
            places = transform.to_crop(candidate.transform.to_photo(mesh[:, :2]))
            mesh = np.concatenate([places, mesh[:, 2:]], axis=1)
        image, mask = warp_crop(pixels, transform)
    points = transform.to_crop(face.points)
    fit = solve_pose(points, landmarks, mesh=mesh)
    row.transform, row.points, row.mesh, row.blendshapes = transform, points, mesh, face.blendshapes
    row.yaw, row.pitch, row.roll = (math.degrees(angle) for angle in angles_of_rotation(fit.rotation))
    if abs(row.yaw) > max_yaw and rejected(
        f"The head is turned {abs(row.yaw):.0f} degrees; {max_yaw:.0f} is the limit."
    ):
        return None
    row.inside = 1 - float(mask.mean())
    row.blur = _sharpness(image, points)
    seen = max(min(right, width) - max(left, 0), 0) * max(min(bottom, height) - max(top, 0), 0)
    cut = 1 - seen / max((right - left) * (bottom - top), 1e-9)
    if face.size < SMALL_BOX:
        row.warnings.append(f"The face is small ({face.size:.0f} pixels).")
    if row.inside < LOW_INSIDE:
        row.warnings.append(f"Only {row.inside:.0%} of the crop is in the photo.")
    if cut > CUT_BOX:
        row.warnings.append("The edge of the photo cuts the face.")
    if row.blur < BLURRED:
        row.warnings.append("The face is blurred.")
    if abs(row.yaw) > WIDE_YAW:
        row.warnings.append(f"The head is turned {abs(row.yaw):.0f} degrees.")
    embedding = _embedding(image, points, models)
    row.kept = True
    return KeptFace(
        image, mask, fit, points, landmarks, embedding, row, mirror_distances=candidate.mirror_distances
    )


def warn_of_occlusion(found: KeptFace) -> None:
    """Add a warning to the row where something may cover the face.

    The evidence is the parsed classes where there are any, else colors and disagreeing networks. On a turned
    head the networks disagree anyway and half of the face is hidden, so only near-frontal faces are checked.
    """
    row = found.row
    if abs(row.yaw or 0.0) > _MAX_OCCLUSION_YAW:
        return
    part = "" if found.classes is None else covered_by_classes(found.classes, found.points)
    if not part and found.landmarks is not None:
        distances = point_distances(found.landmarks, found.points)
        part = covered_part(
            distances,
            found.mirror_distances,
            padded_gray(found.image, found.mask),
            found.points,
            row.mesh is not None,
        )
    if part:
        row.warnings.append(f"Something may cover the {part}.")


def head_masks(classes: Sequence[np.ndarray | None], neck: bool) -> torch.Tensor | None:
    """Head masks [K,1,S,S] from the classes [S,S] of K crops, or None if any crop has none.

    Args:
        classes: pixel classes of each crop, or None where it was not parsed.
        neck: count the neck as part of the head.
    """
    known = [head_mask(one, neck) for one in classes if one is not None]
    return torch.from_numpy(np.stack(known)[:, None]).float() if len(known) == len(classes) else None


def reference_embedding(reference: Any, models: FaceModels) -> torch.Tensor | None:
    """Return the embedding [512] of length 1 that `which="nearest"` compares with.

    Args:
        reference: an embedding [512], photos (anything `align_faces` takes; averaged), or None.
        models: face networks.

    Raises:
        FaceModelError: there is no identity network.
    """
    if reference is None:
        return None
    if not models.has_recognition:
        raise FaceModelError(
            "Choosing the nearest face needs an identity network (ArcFace), and these face models have none: "
            f"{models.describe()}. Choose an InsightFace pack, or another choice of the face."
        )
    models = models.for_other_photos
    if isinstance(reference, (np.ndarray, torch.Tensor)) and reference.ndim == 1:
        vector = torch.as_tensor(reference, dtype=torch.float32)
        return vector / vector.norm().clamp(min=1e-9)
    try:
        found = align_faces(reference, models).embeddings
    except AlignmentError as error:
        reasons = " ".join(row.reason for row in error.report)
        raise AlignmentError(
            f"The reference shows no usable face. {reasons} Choose another picture of the person.", []
        ) from error
    assert found is not None  # there is a recognition network
    mean = found.mean(0)
    return mean / mean.norm().clamp(min=1e-9)


def thumbnail_of(pixels: np.ndarray, longest: int = 256) -> np.ndarray:
    """Shrink a photo [H,W,3] (uint8, or float in 0..1) to uint8 with sides of at most `longest` pixels."""
    scale = min(1.0, longest / max(pixels.shape[:2]))
    return resize_uint8(as_uint8(pixels), *(max(1, round(side * scale)) for side in pixels.shape[:2]))


def _embedding(image: torch.Tensor, points: np.ndarray, models: FaceModels) -> torch.Tensor | None:
    """ArcFace embedding [512] of a crop [3,S,S] with its five points [5,2], or None without that network."""
    return embed(image[None], models, points[None])[0][0] if models.has_recognition else None


def _sharpness(image: torch.Tensor, points: np.ndarray) -> float:
    """Variance of the Laplacian of the gray 112 x 112 face, in gray levels of 0..255.

    Args:
        image: crop [3,S,S] in [-1,1].
        points: detector's five points [5,2] in it.
    """
    face = align_to_template(image[None], points[None])[0]
    gray = (face[0] * 0.299 + face[1] * 0.587 + face[2] * 0.114) * 127.5
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return float((around - 4 * gray[1:-1, 1:-1]).var())


def _compare_photos(kept: list[KeptFace], drop_different: bool, wanted: set[str]) -> list[KeptFace]:
    """Find other persons and near-duplicates within the batch; return the faces that stay.

    Args:
        kept: all faces of the batch.
        drop_different: drop other persons instead of warning.
        wanted: names of photos that the user keeps in any case.
    """
    vectors = [item.embedding for item in kept if item.embedding is not None]
    if len(vectors) == len(kept) and len(kept) >= 2:
        cosines = torch.stack(vectors) @ torch.stack(vectors).T
        medoid = int(cosines.sum(1).argmax())
        for item, cosine in zip(kept, cosines[medoid].tolist(), strict=True):
            item.row.identity = cosine
            if cosine < DIFFERENT_PERSON and len(kept) >= 3:
                message = f"Is this a different person? (similarity {cosine:.2f})"
                if drop_different and item.row.name not in wanted:
                    item.row.kept, item.row.reason = False, message
                else:
                    item.row.warnings.append(message)
    kept = [item for item in kept if item.row.kept]
    small = [torch.nn.functional.adaptive_avg_pool2d(item.image, 32) / 2 for item in kept]
    for i, item in enumerate(kept):
        for j in range(i):
            if (small[i] - small[j]).abs().mean() < NEAR_DUPLICATE:
                item.row.warnings.append(f"Nearly the same picture as {kept[j].row.name}.")
                break
    return kept


def _solve_poses_jointly(kept: list[KeptFace]) -> None:
    """Replace the poses by those of one face shape shared by all photos."""
    meshes = [item.row.mesh for item in kept]
    fits = solve_poses([item.points for item in kept], [item.landmarks for item in kept], meshes=meshes)
    for item, fit in zip(kept, fits, strict=True):
        item.fit = fit
        item.row.yaw, item.row.pitch, item.row.roll = (
            math.degrees(a) for a in angles_of_rotation(fit.rotation)
        )
