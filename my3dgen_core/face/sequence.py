"""Face alignment of video frames with temporally smooth crops and cameras.

Each frame is aligned independently. Then position, size and roll of the crops and the angles of the cameras
are smoothed over time with a symmetric window, which adds no lag. Short gaps without a face are interpolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
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
    warn_of_occlusion,
)
from .crop import CROP_SIZE, CropTransform, warp_crop
from .detect import Face, FaceModels
from .face_search import Choose, chooser, padded_gray
from .photos import count_photos, read_photos
from .pose import angles_of_rotation, label_of_rotation, rotation_of_angles
from .report import FaceReport, join_reasons

SMOOTHING, MAX_GAP = 2.5, 8  # frames
# Changes per frame beyond which a new shot begins: position in crop pixels, log scale.
_JUMP, _ZOOM = 0.5 * CROP_SIZE, math.log(1.5)
_INTERPOLATED_WEIGHT = 1e-3  # of frames without a face in the fit; those with one weigh 1
# Residuals up to which a frame keeps its full weight, as in a quick motion; at three times as much it is an
# outlier. In the order of the track: crop pixels, log scale, radians.
_INLIER_RESIDUALS = np.array([12.0, 12.0, 0.04, 0.1, 0.1, 0.1, 0.1])


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
    """Align the frames of one clip like `align_faces`, with crops and cameras that are smooth over time.

    Args:
        frames: frames in temporal order, in any form that `photos` of `align_faces` takes.
        face_models: networks from `FaceModels.from_folder`.
        which: face to take where the first frames show several, as in `align_faces`; it is tracked from then
            on.
        reference: photo or embedding [512] of the wanted person; required by "nearest".
        upright: rotate the crops so that the face is upright; False leaves its roll in crops and labels.
        smoothing: standard deviation of the temporal window in frames; 0 turns smoothing off.
        max_gap: largest number of consecutive frames without a face that are interpolated (at the ends of the
            clip: copied from the nearest frame); longer gaps are dropped.
        max_yaw: largest yaw in degrees; frames with the head turned further are dropped.
        neck: count the neck as part of the head in `heads`.
        on_step: called as on_step(step, total, {}, crop or None) after the search in each frame and again
            after cutting each crop (total is twice the number of frames); may raise to cancel.

    Returns:
        The kept frames as from `align_faces`. Rows of interpolated frames have a warning; `embeddings` is
            None.

    Raises:
        AlignmentError: no frame can be used.
        PhotoError: the folder does not exist or is empty.
        ValueError: `smoothing` or `max_gap` is negative, or `which` is not one of the choices.
        FaceModelError: "nearest" without an identity network.
    """
    report: list[FaceReport] = []
    cuts = list(
        cut_sequence(
            frames,
            face_models,
            report,
            which=which,
            reference=reference,
            upright=upright,
            smoothing=smoothing,
            max_gap=max_gap,
            max_yaw=max_yaw,
            on_step=on_step,
        )
    )
    return AlignedFaces(
        images=torch.stack([cut.image for cut in cuts]),
        cameras=torch.stack([cut.camera for cut in cuts]),
        masks=torch.stack([cut.mask for cut in cuts]),
        kept=[cut.row.index for cut in cuts],
        report=report,
        heads=head_masks([cut.classes for cut in cuts], neck),
    )


@dataclass(frozen=True)
class FrameCut:
    """Crop of one frame of a clip."""

    row: FaceReport
    """Report row of the frame."""
    image: torch.Tensor
    """Crop [3,512,512] in [-1,1]."""
    mask: torch.Tensor
    """Mask [1,512,512] of padded pixels."""
    camera: torch.Tensor
    """Camera label [25]."""
    classes: np.ndarray | None
    """Class [512,512] of each pixel, or None without a face-parsing network."""


def cut_sequence(
    frames: Any,
    face_models: FaceModels,
    report: list[FaceReport],
    *,
    which: str | int = "largest",
    reference: Any = None,
    upright: bool = True,
    smoothing: float = SMOOTHING,
    max_gap: int = MAX_GAP,
    max_yaw: float = MAX_YAW,
    on_step: OnStep | None = None,
) -> Iterator[FrameCut]:
    """Yield the crops of `align_sequence` one at a time: neither frames nor crops are kept.

    The frames are read twice, first for the faces, then for the crops.

    Args:
        frames, face_models, which, reference, upright, smoothing, max_gap, max_yaw, on_step: as in
            `align_sequence`; frames that are read as they are needed, see `read_photos`, stay so.
        report: empty list, to which a row for each frame is added.

    Yields:
        The crop of each kept frame, in order; at least one.

    Raises:
        As `align_sequence`.
    """
    if smoothing < 0 or max_gap < 0:
        raise ValueError(f"smoothing and max_gap must be 0 or more, not {smoothing} and {max_gap}.")
    if not isinstance(frames, (str, Sequence, np.ndarray, torch.Tensor)) and hasattr(frames, "__next__"):
        frames = list(frames)
    target = reference_embedding(reference, face_models) if which == "nearest" else None
    tracker = _FaceTracker(chooser(which, target, face_models))
    total = 2 * count_photos(frames)
    tracks: list[np.ndarray | None] = []
    points: list[np.ndarray | None] = []  # five points in the frame
    for index, photo in enumerate(read_photos(frames)):
        row = FaceReport(index, photo.name, reason=photo.error)
        kept = align_one(photo, row, face_models, tracker, upright, 180.0, None)
        report.append(row)
        if kept:
            warn_of_occlusion(kept)
        tracks.append(None if kept is None else _track_values(kept))
        points.append(tracker.update(kept))
        if photo.pixels is not None and kept is None:
            row.thumbnail = thumbnail_of(photo.pixels)
        if on_step:
            on_step(index + 1, max(total, index + 1), {}, None if kept is None else kept.image[None])
    smooth = smooth_track(tracks, smoothing, max_gap)
    sizes = {row.transform.photo_size for row in report if row.transform is not None and row.kept}
    found = False
    for row, photo, five, values in zip(report, read_photos(frames), points, smooth, strict=True):
        row.kept, cut = False, None
        if sizes and five is None and photo.pixels is not None and photo.pixels.shape[:2] not in sizes:
            row.reason = "The frame has another size than the clip."
        elif photo.pixels is not None and values is not None:
            transform, rotation = _from_track_values(values, (photo.pixels.shape[0], photo.pixels.shape[1]))
            _update_row(row, five, transform, rotation)
            if abs(row.yaw or 0.0) > max_yaw:
                row.reason = (
                    f"The head is turned {abs(row.yaw or 0):.0f} degrees; {max_yaw:.0f} is the limit."
                )
            else:
                row.kept, row.reason, row.thumbnail = True, "", None
                image, mask = warp_crop(photo.pixels, transform)
                row.inside = 1 - float(mask.mean())
                classes = face_models.parse(padded_gray(image, mask))
                camera = torch.from_numpy(label_of_rotation(rotation))
                cut = FrameCut(row, image, mask, camera, classes)
        if on_step:
            on_step(len(report) + row.index + 1, 2 * len(report), {}, cut.image[None] if cut else None)
        if cut:
            found = True
            yield cut
    if not found:
        text = f"0 of {len(report)} frames can be used. {join_reasons(report[:5])}"
        raise AlignmentError(text.strip(), report)


@dataclass
class _FaceTracker:
    """Choice of the face nearest to the last one, or by `choose` where the track is lost."""

    choose: Choose
    """Choice in the first frame and after a loss."""
    last: Face | None = None
    """Face of the last frame that had one."""

    def __call__(self, faces: list[Face], pixels: np.ndarray) -> Face | None:
        if self.last is None:
            return self.choose(faces, pixels)
        middle = (self.last.box[:2] + self.last.box[2:]) / 2
        distances = [float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle)) for face in faces]
        nearest = int(np.argmin(distances))
        if distances[nearest] > self.last.size:
            return self.choose(faces, pixels)
        return faces[nearest]

    def update(self, kept: KeptFace | None) -> np.ndarray | None:
        """Store the face of this frame; return its five points [5,2] in the frame, or None without a face."""
        if kept is None or kept.row.box is None or kept.row.transform is None:
            return None
        points = kept.row.transform.to_photo(kept.points)
        self.last = Face(np.array(kept.row.box), kept.row.score or 0.0, points)
        return points


def _track_values(kept: KeptFace) -> np.ndarray:
    """Values of a frame that are smoothed.

    Returns:
        Crop center x, y in the frame, log scale, crop angle, then yaw, pitch and roll of the head [7]; the
            roll is that in the frame, which does not depend on the rotation of the crop.
    """
    transform = kept.row.transform
    assert transform is not None
    center = transform.to_photo(np.full(2, transform.crop_size / 2))
    angle = math.atan2(transform.matrix[1, 0], transform.matrix[0, 0])
    yaw, pitch, roll = angles_of_rotation(kept.fit.rotation)
    return np.array([*center, math.log(transform.scale), angle, yaw, pitch, roll - angle])


def _from_track_values(values: np.ndarray, photo_size: tuple[int, int]) -> tuple[CropTransform, np.ndarray]:
    """Invert `_track_values`: the crop's transform and the head's rotation [3,3] from values [7]."""
    x, y, log_scale, angle, yaw, pitch, roll = values.tolist()
    c, s = math.exp(log_scale) * math.cos(angle), math.exp(log_scale) * math.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    offset = CROP_SIZE / 2 - turn @ [x, y]
    transform = CropTransform(np.concatenate([turn, offset[:, None]], axis=1), photo_size)
    return transform, rotation_of_angles(yaw, pitch, roll + angle)


def smooth_track(
    tracks: Sequence[np.ndarray | None], smoothing: float = SMOOTHING, max_gap: int = MAX_GAP
) -> list[np.ndarray | None]:
    """Smooth the values of all frames, shot by shot, and fill short gaps.

    Args:
        tracks: values [7] of each frame (center x, y in pixels, log scale, four angles in radians), or None
            where no face was found.
        smoothing: standard deviation of the temporal window in frames; 0 turns smoothing off.
        max_gap: largest number of consecutive frames that are filled.

    Returns:
        Values [7] for each frame, None where a gap is too long to fill.
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
        weights = np.where(np.isin(times, found[begin:end]), 1.0, _INTERPOLATED_WEIGHT)
        inlier = _INLIER_RESIDUALS / [*[np.exp(filled[:, 2].mean())] * 2, 1, 1, 1, 1, 1]
        smooth = filled if smoothing == 0 else _local_linear_fit(filled, weights, smoothing, inlier)
        result[first : last + 1] = list(smooth)
    _fill_from_nearest(result, max_gap)
    return result


def _fill_from_nearest(result: list[np.ndarray | None], max_gap: int) -> None:
    """Fill short gaps before, after and between shots with the last values, or the first at the beginning."""
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


def _local_linear_fit(
    values: np.ndarray, weights: np.ndarray, width: float, inlier: np.ndarray
) -> np.ndarray:
    """Smooth by robust local linear regression: a line in a Gaussian window around each frame.

    Lines reproduce steady motion exactly, also at the ends. Outliers (false detections) lose their weight in
    three iterations.

    Args:
        values: values [K,D] of consecutive frames.
        weights: weights [K] of the frames.
        width: standard deviation of the window in frames.
        inlier: residuals [D] up to which a frame keeps its weight.

    Returns:
        Smoothed values [K,D].
    """
    count = len(values)
    offsets = np.arange(count)[None] - np.arange(count)[:, None]  # [at, from], in frames
    window = np.exp(-0.5 * (offsets / width) ** 2)
    trust = weights
    for _ in range(3):
        smooth = np.stack([_line_values(offsets, window * trust, column) for column in values.T], 1)
        beyond = np.clip((np.abs(values - smooth) / inlier - 1) / 2, 0, 1).max(1)
        trust = weights * (1 - beyond**2) ** 2 + 1e-6
    return smooth


def _line_values(offsets: np.ndarray, window: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at offset 0 of weighted line fits: offsets, window [K,K], values [K] to [K].

    Where the window has too few frames for a line, its weighted mean.
    """
    s0, s1, s2 = window.sum(1), (window * offsets).sum(1), (window * offsets**2).sum(1)
    m0, m1 = window @ values, (window * offsets) @ values
    determinant = s0 * s2 - s1 * s1
    steady = determinant > 1e-9 * s0 * s0 + 1e-12
    line = (s2 * m0 - s1 * m1) / np.where(steady, determinant, 1.0)
    return np.where(steady, line, m0 / s0.clip(1e-12))


def _update_row(
    row: FaceReport, five: np.ndarray | None, transform: CropTransform, rotation: np.ndarray
) -> None:
    """Write the smoothed pose to the row of a frame; `five` [5,2]: its points in the frame, or None."""
    if five is None:
        row.warnings.append(f"Filled from the frames around it. {row.reason}".strip())
    row.points = None if five is None else transform.to_crop(five)
    row.transform = transform
    row.yaw, row.pitch, row.roll = (math.degrees(angle) for angle in angles_of_rotation(rotation))
