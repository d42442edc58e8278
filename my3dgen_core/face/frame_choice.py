"""Choice of frames of a video to be used as photos: sharp ones, from many sides, none twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..common.progress import OnStep
from .align import BLURRED, MAX_YAW, NEAR_DUPLICATE, AlignmentError, align_one, reference_embedding
from .detect import FaceModels
from .face_search import chooser
from .photos import Photo
from .report import FaceReport, join_reasons

_LOOKS = 6  # frames in which a face is searched, for each one that is wanted
_SOFT = 0.5  # of the median sharpness: faces below are left out
_SIDE = 360  # of the reduced frame, in pixels, on which the sharpness of whole frames is compared


@dataclass(frozen=True)
class FrameChoice:
    """Result of `choose_frames`."""

    indices: list[int]
    """Indices of the chosen frames, ascending."""
    summary: str
    """Sentence with the number of frames and what they were left out for."""


@dataclass(frozen=True)
class _Look:
    """A frame with a usable face."""

    row: FaceReport
    """Its report row."""
    small: torch.Tensor
    """Its crop [3,32,32] in 0..1."""

    @property
    def direction(self) -> np.ndarray:
        """Yaw and half of the pitch [2] in degrees: faces should differ in yaw first."""
        return np.array([self.row.yaw or 0.0, (self.row.pitch or 0.0) / 2])


def choose_frames(
    frames: Iterable[np.ndarray],
    count: int,
    face_models: FaceModels,
    at_most: int,
    *,
    which: str | int = "largest",
    reference: Any = None,
    upright: bool = True,
    max_yaw: float = MAX_YAW,
    on_step: OnStep | None = None,
) -> FrameChoice:
    """Choose frames that are worth using as photos of a person.

    The video is divided into stretches, six for each wanted frame, and a face is searched in the sharpest
    frame of each. Faces that are blurred, and those nearly the same as a sharper one, are left out. Of the
    others the sharpest is taken first, then always the one whose direction is farthest from those taken.

    Args:
        frames: pictures [H,W,3] uint8 in temporal order; they are read once, and one is kept at a time.
        count: their number, or an estimate.
        face_models: networks from `FaceModels.from_folder`.
        at_most: largest number of frames to choose, >= 1.
        which, reference, upright, max_yaw: as in `align_faces`.
        on_step: called after each frame as on_step(step, total, {}, None); may raise to cancel.

    Returns:
        The frames, and a sentence about the others.

    Raises:
        AlignmentError: no frame shows a usable face.
        ValueError: `at_most` is below 1, or `which` is not one of the choices.
        FaceModelError: "nearest" without an identity network.
    """
    if at_most < 1:
        raise ValueError(f"At least one frame must be wanted, not {at_most}.")
    target = reference_embedding(reference, face_models) if which == "nearest" else None
    choose = chooser(which, target, face_models)
    looks: list[_Look] = []
    missed: list[FaceReport] = []
    total = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal total
        for pixels in frames:
            total += 1
            yield pixels
            if on_step:
                on_step(total, max(count, total), {}, None)

    for index, pixels in _sharpest(counted(), max(1, count // (_LOOKS * at_most))):
        name = f"frame {index + 1}"
        row = FaceReport(index, name)
        found = align_one(Photo(name, pixels), row, face_models, choose, upright, max_yaw, None)
        if found is None:
            missed.append(row)
        else:
            small = torch.nn.functional.adaptive_avg_pool2d(found.image, 32) / 2
            looks.append(_Look(row, small))
    if not looks:
        raise AlignmentError(f"0 of {total} frames can be used. {join_reasons(missed[:5])}".strip(), [])
    sharp = _sharp(looks)
    different = _different(sharp)
    taken = _spread(different, at_most)
    parts = {
        "without a usable face": len(missed),
        "blurred": len(looks) - len(sharp),
        "nearly the same as a sharper one": len(sharp) - len(different),
        "seen from nearly the same side as others": len(different) - len(taken),
    }
    others = ", ".join(f"{number} {why}" for why, number in parts.items() if number)
    summary = (
        f"{len(taken)} of {total} frames were chosen. A face was searched in {len(looks) + len(missed)}"
        f"{', of which were left out: ' + others if others else ''}."
    )
    return FrameChoice(sorted(look.row.index for look in taken), summary)


def _sharpest(frames: Iterable[np.ndarray], stretch: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and pixels of the sharpest frame of each stretch of that many frames."""
    best: tuple[float, int, np.ndarray] | None = None
    for index, pixels in enumerate(frames):
        if best is not None and index % stretch == 0:
            yield best[1], best[2]
            best = None
        sharpness = _sharpness(pixels) if stretch > 1 else 0.0
        if best is None or sharpness > best[0]:
            best = sharpness, index, pixels
    if best is not None:
        yield best[1], best[2]


def _sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian of the green channel of a frame, at a reduced size."""
    step = max(1, min(pixels.shape[:2]) // _SIDE)
    green = pixels[::step, ::step, 1].astype(np.float32)
    if min(green.shape) < 3:
        return 0.0
    around = green[:-2, 1:-1] + green[2:, 1:-1] + green[1:-1, :-2] + green[1:-1, 2:]
    return float((around - 4 * green[1:-1, 1:-1]).var())


def _sharp(looks: list[_Look]) -> list[_Look]:
    """Leave out faces that are blurred, or much less sharp than the others; the sharpest come first."""
    ordered = sorted(looks, key=lambda look: -(look.row.blur or 0.0))
    least = _SOFT * float(np.median([look.row.blur or 0.0 for look in looks]))
    sharp = [look for look in ordered if (look.row.blur or 0.0) >= max(least, BLURRED)]
    return sharp or [look for look in ordered if (look.row.blur or 0.0) >= least]


def _different(looks: list[_Look]) -> list[_Look]:
    """Leave out each crop that is nearly the same as one before it."""
    kept: list[_Look] = []
    for look in looks:
        if all(float((look.small - other.small).abs().mean()) >= NEAR_DUPLICATE for other in kept):
            kept.append(look)
    return kept


def _spread(looks: list[_Look], at_most: int) -> list[_Look]:
    """Take the first, then always the one whose direction is farthest from those taken."""
    directions = np.stack([look.direction for look in looks])
    taken = [0]
    distances = np.linalg.norm(directions - directions[0], axis=1)
    while len(taken) < min(at_most, len(looks)):
        distances[taken] = -1.0
        taken.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(directions - directions[taken[-1]], axis=1))
    return [looks[index] for index in taken]
