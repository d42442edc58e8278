"""Which face of a photo to take, and whether it is one: the detection ladder with its gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..common.image_ops import from_uint8
from .crop import CROP_SIZE, CropTransform, crop_transform, warp_crop
from .detect import Face, FaceModels, as_uint8, detection_ladder
from .recognition import embed, largest
from .report import FaceReport

JUDGED_YAW = 30.0  # degrees: only faces nearer to the front are searched for what covers them
Choose = Callable[[list[Face], np.ndarray], Face | None]

# Measured on real photos and renders: good faces 4-10 pixels apart, 60 degrees of yaw 17-20, wrong
# detections 48-70.
GOOD_AGREEMENT, MAX_DISAGREEMENT = 12.0, 28.0
# Detecting once more upright and at one size: points vary by .7-1.0 pixels between copies, not by 2.4.
_SECOND_SIZE, _SECOND_ZOOM, _SETTLED = 448, 0.625, 3.0
# the detector's five points among the 106: outlines of the two eyes, nose tip, mouth corners
_LEFT_EYE, _RIGHT_EYE, _NOSE_MOUTH = [35, 41, 42, 39, 37, 36], [89, 95, 96, 93, 91, 90], [86, 52, 61]


@dataclass
class Candidate:
    """A face looked at closely: its upright crop, landmarks there, and how well the two networks agree."""

    face: Face
    step: str
    transform: CropTransform
    image: torch.Tensor
    mask: torch.Tensor
    landmarks: np.ndarray | None
    agreement: float | None
    guesses: np.ndarray | None = (
        None  # [106] how far the landmarks of the mirror image lie from the picture's
    )

    @property
    def doubt(self) -> float:
        """The agreement in pixels; without landmarks the detector's score on a similar scale."""
        return self.agreement if self.agreement is not None else 48 * (1 - self.face.score)


def search_face(
    pixels: np.ndarray,
    row: FaceReport,
    models: FaceModels,
    choose: Choose,
    det_size: int | None,
    anyway: bool = False,
) -> Candidate | None:
    """Climb the detection ladder until a face passes the gate; turn the photo when it passes only just.

    anyway: the best one found is taken though it passes no gate, with a warning.

    A detector also sees faces in faces that stand on their head, so a doubtful one has to compete with the
    turned ones. What was found, or why nothing was, goes into the row.
    """
    row.reason = "No face was found."
    best: Candidate | None = None
    for turned in (False, True):
        for step, faces in detection_ladder(models, pixels, det_size, turned):
            if len(faces) > row.faces:
                row.faces, row.boxes = len(faces), [_box(face) for face in faces]
            face = choose(faces, pixels)
            if face is None:
                row.reason = f"The face asked for is not there: {row.faces} found in the photo."
                continue
            try:
                found = _look_closely(pixels, face, step, models)
            except ValueError:
                continue  # five points that span no face
            if best is None or _is_better(found, best):
                best = found
            if best.doubt <= (GOOD_AGREEMENT if turned else MAX_DISAGREEMENT):
                break
        if best and best.doubt <= GOOD_AGREEMENT:
            break
    if best is None:
        return None
    row.agreement, row.score = best.agreement, round(best.face.score, 4)
    if best.doubt > MAX_DISAGREEMENT:
        row.reason = f"What was found is probably no face (its points disagree by {best.doubt:.0f} pixels)."
        if not anyway:
            return None
        row.warnings.append(row.reason)
    row.reason = ""
    return best


def _box(face: Face) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(side) for side in face.box)
    return left, top, right, bottom


def _is_better(new: Candidate, old: Candidate) -> bool:
    """Whether to take a later candidate: a doubtful face is only replaced by itself, seen better."""
    if new.doubt >= old.doubt:
        return False
    between = (new.face.box[:2] + new.face.box[2:] - old.face.box[:2] - old.face.box[2:]) / 2
    same_place = float(np.linalg.norm(between)) < 0.5 * max(new.face.size, old.face.size)
    return old.doubt > MAX_DISAGREEMENT or (same_place and new.face.score >= old.face.score)


def _look_closely(pixels: np.ndarray, face: Face, step: str, models: FaceModels) -> Candidate:
    photo_size = (pixels.shape[0], pixels.shape[1])
    transform = crop_transform(face.points, photo_size)
    for look in range(3):
        face = _see_upright(pixels, face, models)
        before, transform = transform, crop_transform(face.points, photo_size)
        moved = np.linalg.norm(before.to_crop(face.points) - transform.to_crop(face.points), axis=1)
        if look and moved.mean() < _SETTLED:
            break
    image, mask = warp_crop(pixels, transform)
    if not models.has_landmarks:
        return Candidate(face, step, transform, image, mask, None, None)
    centre = transform.to_crop((face.box[:2] + face.box[2:]) / 2)
    half = np.full(2, float((face.box[2:] - face.box[:2]).max()) / 2 * transform.scale)
    both = models.landmarks_twice(visible(image, mask), np.concatenate([centre - half, centre + half]))
    assert both is not None
    landmarks, guesses = both.mean(0), np.linalg.norm(both[0] - both[1], axis=1)
    agreement = float(point_distances(landmarks, transform.to_crop(face.points)).mean())
    return Candidate(face, step, transform, image, mask, landmarks, agreement, guesses)


def point_distances(landmarks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distances [5] between the same points of the two networks, in the pixels of [106,2] and [5,2]."""
    same = np.stack([landmarks[_LEFT_EYE].mean(0), landmarks[_RIGHT_EYE].mean(0), *landmarks[_NOSE_MOUTH]])
    return np.linalg.norm(same - points, axis=1)


def _see_upright(pixels: np.ndarray, face: Face, models: FaceModels) -> Face:
    """Detect a face once more, upright and at its standard size: its points are better there."""
    crop = crop_transform(face.points, (pixels.shape[0], pixels.shape[1]))
    matrix = crop.matrix * _SECOND_ZOOM
    matrix[:, 2] += (_SECOND_SIZE - _SECOND_ZOOM * CROP_SIZE) / 2
    view = CropTransform(matrix, crop.photo_size, _SECOND_SIZE)
    image, mask = warp_crop(pixels, view)
    faces = models.detect(visible(image, mask), _SECOND_SIZE)
    middles = [float(np.abs(found.points.mean(0) - _SECOND_SIZE / 2).max()) for found in faces]
    if not faces or min(middles) > 0.15 * _SECOND_SIZE:
        return face
    found = faces[int(np.argmin(middles))]
    centre = view.to_photo((found.box[:2] + found.box[2:]) / 2)
    half = (found.box[2:] - found.box[:2]) / 2 / view.scale
    return Face(np.concatenate([centre - half, centre + half]), found.score, view.to_photo(found.points))


def visible(image: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """[3,S,S] in [-1,1] -> [S,S,3] uint8 with grey for invented pixels, which may show a second half face."""
    return ((image * (1 - mask) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def chooser(which: str | int, target: torch.Tensor | None, models: FaceModels) -> Choose:
    """A function that picks one of the faces of a photo, or None.

    Args:
        which: "largest", "leftmost", "rightmost", "nearest", or a number from the left (negative: right).
        target: [512] the embedding that "nearest" means.
    Raises:
        ValueError: `which` is none of these, or "nearest" comes without a target.
    """
    if which == "largest":
        return lambda faces, pixels: largest(faces)
    if which == "nearest" and target is not None:
        wanted = target

        def nearest(faces: list[Face], pixels: np.ndarray) -> Face:
            image = from_uint8(torch.from_numpy(as_uint8(pixels)).permute(2, 0, 1)[None])
            points = np.stack([face.points for face in faces])
            found, _ = embed(image.expand(len(faces), -1, -1, -1), models, points)
            return faces[int((found @ wanted).argmax())]

        return nearest
    if which == "nearest":
        raise ValueError('which="nearest" needs a reference: a photo or an embedding of the person.')
    place = {"leftmost": 0, "rightmost": -1}.get(which) if isinstance(which, str) else which
    if place is None or isinstance(place, bool):
        raise ValueError(
            'which must be "largest", "leftmost", "rightmost", "nearest" or a number from the left, '
            f"not {which!r}."
        )

    def from_the_left(faces: list[Face], pixels: np.ndarray) -> Face | None:
        in_order = sorted(faces, key=lambda face: face.box[0] + face.box[2])
        return in_order[place] if -len(faces) <= place < len(faces) else None

    return from_the_left
