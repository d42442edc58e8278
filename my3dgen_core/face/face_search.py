"""Search for the face of a photo: detection with fallbacks, refinement, and rejection of false detections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..common.image_ops import from_uint8
from .crop import CROP_SIZE, CropTransform, crop_transform, warp_crop
from .detect import Face, FaceModels, as_uint8, detect_in_tiles, detection_attempts, merge_faces
from .face_mesh import box_of_mesh, five_points, landmarks_106
from .recognition import embed, largest
from .report import FaceReport

Choose = Callable[[list[Face], np.ndarray], Face | None]
"""Function of the faces found and the photo [H,W,3] that returns the face to take, or None."""

# Mean distance in crop pixels between detector and landmarks: accepted at once, accepted at all. Measured on
# real photos and renders: good faces 4-10, 60 degrees of yaw 17-20, false detections 48-70.
GOOD_AGREEMENT, MAX_DISAGREEMENT = 12.0, 28.0
# Agreement of a face mesh in that of the 106 landmarks: BlazeFace's keypoints are less exact. Half of 200
# renders have 13 pixels, 99 % less than 50.
_MESH_DOUBT = 0.5
NOT_SEEN_AGAIN = 70.0
"""Agreement of a face mesh whose upright crop shows no face to the detector."""
# Second detection, upright and at a standard size: input size, zoom of the crop in it, and the movement in
# crop pixels at which the iteration stops. It reduces the scatter of points between copies of a photo from
# 2.4 to .7-1.0 pixels.
_SECOND_SIZE, _SECOND_ZOOM, _CONVERGED = 448, 0.625, 3.0
# Indices of the detector's five points among the 106: outlines of the two eyes, nose tip, mouth corners.
_LEFT_EYE, _RIGHT_EYE, _NOSE_MOUTH = [35, 41, 42, 39, 37, 36], [89, 95, 96, 93, 91, 90], [86, 52, 61]


@dataclass
class Candidate:
    """A detected face with its upright crop, landmarks, and the agreement of the two networks."""

    face: Face
    """Refined detection in photo coordinates."""
    step: str
    """Name of the detection setting that found it."""
    transform: CropTransform
    """Transform of the upright crop."""
    image: torch.Tensor
    """Upright crop [3,512,512] in [-1,1]."""
    mask: torch.Tensor
    """Mask [1,512,512] of padded pixels."""
    landmarks: np.ndarray | None
    """Landmarks [106,2] in the crop, or None without that network."""
    agreement: float | None
    """Mean distance in crop pixels between the detector's points and the landmarks, or None without them."""
    mirror_distances: np.ndarray | None = None
    """Distances [106] between the landmarks of the crop and of its mirror image, or None without them."""
    mesh: np.ndarray | None = None
    """Landmarks [468 or more,3] of MediaPipe's face mesh in the crop, or None."""

    @property
    def doubt(self) -> float:
        """Agreement in pixels, lower is better; without it the detector's score on a similar scale."""
        if self.agreement is None:
            return 48 * (1 - self.face.score)
        return self.agreement * (_MESH_DOUBT if self.mesh is not None else 1.0)


def search_face(
    pixels: np.ndarray,
    row: FaceReport,
    models: FaceModels,
    choose: Choose,
    det_size: int | None,
    anyway: bool = False,
) -> Candidate | None:
    """Run the detection attempts until a face is accepted, and rotate the photo if it is doubtful.

    A detector also finds faces in upside-down faces, so a doubtful one competes with those of the rotated
    photo. A large photo is searched in tiles if nothing else was found.

    Args:
        pixels: photo [H,W,3], uint8 or float in 0..1.
        row: report row; receives all boxes and either the score or the reason of a rejection.
        models: face networks.
        choose: picks one of the faces found.
        det_size: detector input size to try first, or None.
        anyway: return the best face with a warning even if it would be rejected.

    Returns:
        The accepted face, or None with `row.reason` set.
    """
    row.reason = "No face was found."
    given = models.given_faces(row.index, (pixels.shape[0], pixels.shape[1]))
    if given is not None:
        found = _examine(pixels, row, models, choose, "face_landmarks", given) if given else None
        row.reason = "" if found else row.reason
        return found
    best: Candidate | None = None
    seen: list[Face] = []
    for turned in (False, True):
        for step, faces in detection_attempts(models, pixels, det_size, turned):
            seen = faces if len(faces) > len(seen) else seen
            found = _examine(pixels, row, models, choose, step, faces)
            if found and (best is None or _is_better(found, best)):
                best = found
            if best and best.doubt <= (GOOD_AGREEMENT if turned else MAX_DISAGREEMENT):
                break
        if best and best.doubt <= GOOD_AGREEMENT:
            break
    if best is None or best.doubt > MAX_DISAGREEMENT:  # faces too small for the ladder come last
        small = detect_in_tiles(models, pixels)
        faces = merge_faces([*seen, *small]) if best is None else small  # the others are no faces
        found = _examine(pixels, row, models, choose, "tiles", faces) if small else None
        if found and (best is None or _is_better(found, best)):
            best = found
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


def _examine(
    pixels: np.ndarray, row: FaceReport, models: FaceModels, choose: Choose, step: str, faces: list[Face]
) -> Candidate | None:
    """Note the faces of one detection in the row, and refine the chosen one, if there is one."""
    if len(faces) > row.faces:
        row.faces, row.boxes = len(faces), [_box(face) for face in faces]
    face = choose(faces, pixels)
    if face is None:
        row.reason = f"The face asked for is not there: {row.faces} found in the photo."
        return None
    try:
        return (_refine if face.mesh is None else _refine_mesh)(pixels, face, step, models)
    except ValueError:
        return None  # five points that span no face


def _box(face: Face) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(side) for side in face.box)
    return left, top, right, bottom


def _is_better(new: Candidate, old: Candidate) -> bool:
    """Return True if a later candidate replaces an earlier one.

    A false detection is replaced by anything better, a face only by a better detection at the same place.
    """
    if new.doubt >= old.doubt:
        return False
    between = (new.face.box[:2] + new.face.box[2:] - old.face.box[:2] - old.face.box[2:]) / 2
    same_place = float(np.linalg.norm(between)) < 0.5 * max(new.face.size, old.face.size)
    return old.doubt > MAX_DISAGREEMENT or (same_place and new.face.score >= old.face.score)


def _refine(pixels: np.ndarray, face: Face, step: str, models: FaceModels) -> Candidate:
    """Detect the face again in its upright crop until its points converge, then find its landmarks.

    Raises:
        ValueError: the five points span no face.
    """
    photo_size = (pixels.shape[0], pixels.shape[1])
    transform = crop_transform(face.points, photo_size)
    for iteration in range(3):
        face = _detect_upright(pixels, face, models)
        before, transform = transform, crop_transform(face.points, photo_size)
        moved = np.linalg.norm(before.to_crop(face.points) - transform.to_crop(face.points), axis=1)
        if iteration and moved.mean() < _CONVERGED:
            break
    image, mask = warp_crop(pixels, transform)
    if not models.has_landmarks:
        return Candidate(face, step, transform, image, mask, None, None)
    center = transform.to_crop((face.box[:2] + face.box[2:]) / 2)
    half = np.full(2, float((face.box[2:] - face.box[:2]).max()) / 2 * transform.scale)
    both = models.landmarks_twice(padded_gray(image, mask), np.concatenate([center - half, center + half]))
    assert both is not None
    landmarks, mirror_distances = both.mean(0), np.linalg.norm(both[0] - both[1], axis=1)
    agreement = float(point_distances(landmarks, transform.to_crop(face.points)).mean())
    return Candidate(face, step, transform, image, mask, landmarks, agreement, mirror_distances)


def _refine_mesh(pixels: np.ndarray, face: Face, step: str, models: FaceModels) -> Candidate:
    """Locate the landmarks of MediaPipe's face mesh again in a region around them, and check them.

    The check compares them with the keypoints that the detector finds in the upright crop; where it finds no
    face there, it is none, or it is not upright.

    Raises:
        ValueError: the landmarks span no face.
    """
    assert face.mesh is not None
    mesh, both = face.mesh, models.second_look(pixels, face.mesh)
    if both is not None:
        mesh = both.mean(0)
    points, landmarks = five_points(mesh), landmarks_106(mesh)
    transform = crop_transform(points, (pixels.shape[0], pixels.shape[1]))
    image, mask = warp_crop(pixels, transform)
    mirror_distances, agreement = None, None
    if both is not None:
        apart = landmarks_106(both[0]) - landmarks_106(both[1])
        mirror_distances = np.linalg.norm(apart, axis=1) * transform.scale
        keypoints, seen = models.keypoints(padded_gray(image, mask)), transform.to_crop(points)
        agreement = NOT_SEEN_AGAIN
        if keypoints is not None:
            same = np.stack([*seen[:3], seen[3:].mean(0)])
            agreement = float(np.linalg.norm(keypoints - same, axis=1).mean())
    inside = np.concatenate([transform.to_crop(mesh[:, :2]), mesh[:, 2:] * transform.scale], axis=1)
    face = Face(box_of_mesh(mesh), face.score, points, mesh, face.blendshapes)
    return Candidate(
        face, step, transform, image, mask, transform.to_crop(landmarks), agreement, mirror_distances, inside
    )


def point_distances(landmarks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distances between the five points of the detector and the same points of the landmark network.

    Args:
        landmarks: landmarks [106,2].
        points: detector's points [5,2] in the same coordinates.

    Returns:
        Distances [5].
    """
    same = np.stack([landmarks[_LEFT_EYE].mean(0), landmarks[_RIGHT_EYE].mean(0), *landmarks[_NOSE_MOUTH]])
    return np.linalg.norm(same - points, axis=1)


def _detect_upright(pixels: np.ndarray, face: Face, models: FaceModels) -> Face:
    """Detect a face again, upright and at a standard size, where its points are more accurate."""
    crop = crop_transform(face.points, (pixels.shape[0], pixels.shape[1]))
    matrix = crop.matrix * _SECOND_ZOOM
    matrix[:, 2] += (_SECOND_SIZE - _SECOND_ZOOM * CROP_SIZE) / 2
    view = CropTransform(matrix, crop.photo_size, _SECOND_SIZE)
    image, mask = warp_crop(pixels, view)
    faces = models.detect(padded_gray(image, mask), _SECOND_SIZE)
    middles = [float(np.abs(found.points.mean(0) - _SECOND_SIZE / 2).max()) for found in faces]
    if not faces or min(middles) > 0.15 * _SECOND_SIZE:
        return face
    found = faces[int(np.argmin(middles))]
    center = view.to_photo((found.box[:2] + found.box[2:]) / 2)
    half = (found.box[2:] - found.box[:2]) / 2 / view.scale
    return Face(np.concatenate([center - half, center + half]), found.score, view.to_photo(found.points))


def padded_gray(image: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Convert a crop to uint8 with gray padding: reflected padding may show parts of a second face.

    Args:
        image: crop [3,S,S] in [-1,1].
        mask: [1,S,S], 1 where the crop is padded.

    Returns:
        Picture [S,S,3] uint8 RGB.
    """
    return ((image * (1 - mask) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def chooser(which: str | int, target: torch.Tensor | None, models: FaceModels) -> Choose:
    """Return a function that picks one of the faces of a photo, or None.

    Args:
        which: "largest", "leftmost", "rightmost", "nearest" (to `target`), or a number from the left,
            negative from the right.
        target: embedding [512] of length 1 that "nearest" compares with.
        models: face networks.

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
