"""Frames of a video -> crops and cameras that do not tremble.

Every frame is looked at by itself; then the place, size and roll of its crop, and the angles of its camera,
are smoothed over time with what came before and after, so that nothing lags behind. Frames in which no face
was found take their place from their neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..common.progress import OnStep
from .align import (
    MAX_YAW,
    AlignedFaces,
    AlignmentError,
    KeptFace,
    align_one,
    head_masks,
    reference_embedding,
    thumbnail_of,
    warn_of_cover,
)
from .crop import CROP_SIZE, CropTransform, warp_crop
from .detect import Face, FaceModels
from .face_search import Choose, chooser, visible
from .photos import count_photos, read_photos
from .pose import angles_of_rotation, label_of_rotation, rotation_of_angles
from .report import FaceReport

SMOOTHING, MAX_GAP = 2.5, 8
# A new shot: the face jumps by half a crop, or changes its size by half, from one frame to the next.
_JUMP, _ZOOM = 0.5 * CROP_SIZE, math.log(1.5)
_INVENTED_WEIGHT = 1e-3
# A frame this far off its neighbours' line may still be a quick move; three times as far it is a mistake.
# Crop pixels, log scale, radians.
_QUICK = np.array([12.0, 12.0, 0.04, 0.1, 0.1, 0.1, 0.1])


def align_sequence(
    frames: Any,
    face_models: FaceModels,
    *,
    which: str | int = "largest",
    reference: Any = None,
    upright: bool = True,
    smoothing: float = SMOOTHING,
    max_gap: int = MAX_GAP,
    max_yaw: float = MAX_YAW,
    neck: bool = True,
    on_step: OnStep | None = None,
) -> AlignedFaces:
    """`align_faces` for the frames of one clip: crops and cameras move as smoothly as the head does.

    Args:
        frames: as `photos` of `align_faces`, in the order of time.
        face_models, which, reference, upright: as for `align_faces`; once found, a face is followed.
        smoothing: standard deviation of the time window, in frames; 0 leaves every frame as it was found.
        max_gap: up to so many frames in a row without a face are filled from their neighbours (at the ends
            of the clip from the nearest); longer gaps are dropped.
        max_yaw: frames in which the head is turned further (degrees) are dropped.
        neck: whether the neck belongs to the head in `heads`.
        on_step: called as on_step(step, total, {}, crop or None) after each frame is searched and again
            after each is cut (total is twice the number of frames); may raise to cancel.
    Returns:
        as `align_faces`; rows of filled frames say so in their warnings, and `embeddings` is None.
    Raises:
        AlignmentError: no frame can be used; ValueError: `smoothing` or `max_gap` is negative, or `which` is
        not understood; the others as for `align_faces`.
    """
    if smoothing < 0 or max_gap < 0:
        raise ValueError(f"smoothing and max_gap must be 0 or more, not {smoothing} and {max_gap}.")
    if not isinstance(frames, (str, Sequence, np.ndarray, torch.Tensor)) and hasattr(frames, "__next__"):
        frames = list(frames)
    target = reference_embedding(reference, face_models) if which == "nearest" else None
    follow = _Follow(chooser(which, target, face_models))
    total = 2 * count_photos(frames)
    report: list[FaceReport] = []
    tracks: list[np.ndarray | None] = []
    points: list[np.ndarray | None] = []  # the five, in the frame
    for index, photo in enumerate(read_photos(frames)):
        row = FaceReport(index, photo.name, reason=photo.error)
        kept = align_one(photo, row, face_models, follow, upright, 180.0, None)
        report.append(row)
        if kept:
            warn_of_cover(kept)
        tracks.append(None if kept is None else _track_of(kept))
        points.append(follow.accept(kept))
        if photo.pixels is not None and kept is None:
            row.thumbnail = thumbnail_of(photo.pixels)
        if on_step:
            on_step(index + 1, total, {}, None if kept is None else kept.image[None])
    smooth = smooth_track(tracks, smoothing, max_gap)
    sizes = {row.transform.photo_size for row in report if row.transform is not None and row.kept}
    images, masks, cameras, kept_indices, classes = [], [], [], [], []
    for row, photo, five, values in zip(report, read_photos(frames), points, smooth, strict=True):
        row.kept = False
        if five is None and photo.pixels is not None and photo.pixels.shape[:2] not in sizes:
            row.reason = "The frame has another size than the clip."
        elif photo.pixels is not None and values is not None:
            transform, rotation = _from_track(values, (photo.pixels.shape[0], photo.pixels.shape[1]))
            _describe(row, five, transform, rotation)
            if abs(row.yaw or 0.0) > max_yaw:
                row.reason = (
                    f"The head is turned {abs(row.yaw or 0):.0f} degrees; {max_yaw:.0f} is the limit."
                )
            else:
                row.kept, row.reason, row.thumbnail = True, "", None
                image, mask = warp_crop(photo.pixels, transform)
                row.inside = 1 - float(mask.mean())
                classes.append(face_models.parse(visible(image, mask)))
                images.append(image)
                masks.append(mask)
                cameras.append(label_of_rotation(rotation))
                kept_indices.append(row.index)
        if on_step:
            on_step(len(report) + row.index + 1, total, {}, images[-1][None] if row.kept else None)
    if not images:
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in report[:5])
        raise AlignmentError(f"0 of {len(report)} frames can be used. {reasons}".strip(), report)
    return AlignedFaces(
        images=torch.stack(images),
        cameras=torch.from_numpy(np.stack(cameras)),
        masks=torch.stack(masks),
        kept=kept_indices,
        report=report,
        heads=head_masks(classes, neck),
    )


@dataclass
class _Follow:
    """Chooses the face nearest to where the last frame had it, and as the user asked where it was lost."""

    choose: Choose
    last: Face | None = None

    def __call__(self, faces: list[Face], pixels: np.ndarray) -> Face | None:
        if self.last is None:
            return self.choose(faces, pixels)
        middle = (self.last.box[:2] + self.last.box[2:]) / 2
        distances = [float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle)) for face in faces]
        nearest = int(np.argmin(distances))
        if distances[nearest] > self.last.size:
            return self.choose(faces, pixels)
        return faces[nearest]

    def accept(self, kept: KeptFace | None) -> np.ndarray | None:
        """Remember where the face of this frame was; its five points [5,2] in the frame, None without one."""
        if kept is None or kept.row.box is None or kept.row.transform is None:
            return None
        points = kept.row.transform.to_photo(kept.points)
        self.last = Face(np.array(kept.row.box), kept.row.score or 0.0, points)
        return points


def _track_of(kept: KeptFace) -> np.ndarray:
    """What is smoothed, [7]: the crop's centre in the photo, log scale and angle; the head's yaw, pitch, and
    its roll *in the photo*, which does not depend on how the crop was turned."""
    transform = kept.row.transform
    assert transform is not None
    centre = transform.to_photo(np.full(2, transform.crop_size / 2))
    angle = math.atan2(transform.matrix[1, 0], transform.matrix[0, 0])
    yaw, pitch, roll = angles_of_rotation(kept.fit.rotation)
    return np.array([*centre, math.log(transform.scale), angle, yaw, pitch, roll - angle])


def _from_track(values: np.ndarray, photo_size: tuple[int, int]) -> tuple[CropTransform, np.ndarray]:
    x, y, log_scale, angle, yaw, pitch, roll = values.tolist()
    c, s = math.exp(log_scale) * math.cos(angle), math.exp(log_scale) * math.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    offset = CROP_SIZE / 2 - turn @ [x, y]
    transform = CropTransform(np.concatenate([turn, offset[:, None]], axis=1), photo_size)
    return transform, rotation_of_angles(yaw, pitch, roll + angle)


def smooth_track(
    tracks: Sequence[np.ndarray | None], smoothing: float = SMOOTHING, max_gap: int = MAX_GAP
) -> list[np.ndarray | None]:
    """Smooth what was measured in each frame, shot by shot, and fill short gaps.

    Args:
        tracks: of each frame [7] (centre x, y in pixels, log scale, and four angles in radians), or None.
        smoothing, max_gap: as for `align_sequence`.
    Returns:
        [7] for each frame, None where a gap is too long to fill.
    """
    found = [i for i, track in enumerate(tracks) if track is not None]
    result: list[np.ndarray | None] = [None] * len(tracks)
    if not found:
        return result
    values = np.stack([track for track in tracks if track is not None])
    values[:, 3:] = np.unwrap(values[:, 3:], axis=0)
    gaps = np.diff(found)
    moved = np.linalg.norm(np.diff(values[:, :2], axis=0), axis=1) * np.exp(values[1:, 2])
    new_shot = (moved > _JUMP * gaps) | (np.abs(np.diff(values[:, 2])) > _ZOOM * gaps) | (gaps > max_gap + 1)
    starts = [0, *(np.flatnonzero(new_shot) + 1).tolist(), len(found)]
    for begin, end in itertools.pairwise(starts):
        first, last = found[begin], found[end - 1]
        times = np.arange(first, last + 1)
        filled = np.stack([np.interp(times, found[begin:end], column) for column in values[begin:end].T], 1)
        weights = np.where(np.isin(times, found[begin:end]), 1.0, _INVENTED_WEIGHT)
        quick = _QUICK / [*[np.exp(filled[:, 2].mean())] * 2, 1, 1, 1, 1, 1]
        smooth = filled if smoothing == 0 else _local_lines(filled, weights, smoothing, quick)
        result[first : last + 1] = list(smooth)
    _hold(result, found, max_gap)
    return result


def _hold(result: list[np.ndarray | None], found: list[int], max_gap: int) -> None:
    """Frames before, after and between shots take the nearest frame's place, if the gap is short."""
    index = 0
    while index < len(result):
        if result[index] is not None:
            index += 1
            continue
        end = index
        while end < len(result) and result[end] is None:
            end += 1
        if end - index <= max_gap:
            source = result[index - 1] if index > 0 else result[end]
            result[index:end] = [source] * (end - index)
        index = end


def _local_lines(values: np.ndarray, weights: np.ndarray, width: float, quick: np.ndarray) -> np.ndarray:
    """Fit a straight line around each frame with a Gaussian window, and take its value there.

    A line follows a steady motion exactly, at the ends too. A frame far off its neighbours' line (a wrong
    detection) loses its weight.

    Args:
        values: [K,D]; weights: [K] trust in each frame; width: standard deviation of the window in frames;
            quick: [D] how far off a frame may be without losing its weight.
    """
    count = len(values)
    offsets = np.arange(count)[None] - np.arange(count)[:, None]  # [at, from]
    window = np.exp(-0.5 * (offsets / width) ** 2)
    trust = weights
    for _ in range(3):
        smooth = np.stack([_lines(offsets, window * trust, column) for column in values.T], 1)
        beyond = np.clip((np.abs(values - smooth) / quick - 1) / 2, 0, 1).max(1)
        trust = weights * (1 - beyond**2) ** 2 + 1e-6
    return smooth


def _lines(offsets: np.ndarray, window: np.ndarray, values: np.ndarray) -> np.ndarray:
    s0, s1, s2 = window.sum(1), (window * offsets).sum(1), (window * offsets**2).sum(1)
    m0, m1 = window @ values, (window * offsets) @ values
    determinant = s0 * s2 - s1 * s1
    steady = determinant > 1e-9 * s0 * s0 + 1e-12
    line = (s2 * m0 - s1 * m1) / np.where(steady, determinant, 1.0)
    return np.where(steady, line, m0 / s0.clip(1e-12))


def _describe(
    row: FaceReport, five: np.ndarray | None, transform: CropTransform, rotation: np.ndarray
) -> None:
    """The row of a frame after smoothing; five: its points in the frame, where they were found."""
    if five is None:
        row.warnings.append(f"Filled from the frames around it. {row.reason}".strip())
    row.points = None if five is None else transform.to_crop(five)
    row.transform = transform
    row.yaw, row.pitch, row.roll = (math.degrees(angle) for angle in angles_of_rotation(rotation))
