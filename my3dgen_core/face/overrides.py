"""What a person decides about single photos: keep it anyway, leave it out, that other face, these points."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .crop import crop_transform, warp_crop
from .detect import Face, FaceModels
from .face_search import GOOD_AGREEMENT, Candidate, Choose, point_distances, visible

LONGEST = 1 << 20
# A detector's box about the five points: its sides as multiples of the eyes' distance, measured on photos.
_BOX_ABOVE, _BOX_BELOW, _BOX_ASIDE = 1.1, 1.85, 1.1
_FIELDS = {"keep", "face", "points"}


@dataclass(frozen=True)
class ByHand:
    """One photo's decisions. Places are parts of the photo's width and height, from its upper left corner.

    Attributes:
        keep: True keeps the photo whatever speaks against it, False leaves it out, None decides as usual.
        face: a place in the face to take where the photo shows several.
        points: [5,2] the eye at the left of the picture, the other, nose tip, mouth corners left and right.
    """

    keep: bool | None = None
    face: tuple[float, float] | None = None
    points: tuple[tuple[float, float], ...] | None = None

    def describe(self) -> str:
        """In a few words what was decided; "" where nothing was."""
        parts = {
            "left out": self.keep is False,
            "kept": self.keep is True,
            "another face": self.face is not None,
            "points set": self.points is not None,
        }
        return ", ".join(words for words, decided in parts.items() if decided)

    def chooser(self, usual: Choose) -> Choose:
        """The face at the place chosen, or the usual choice where there is none."""
        if self.face is None:
            return usual
        place = np.array(self.face)

        def chosen(faces: list[Face], pixels: np.ndarray) -> Face | None:
            at = place * [pixels.shape[1], pixels.shape[0]]
            inside = [f for f in faces if (f.box[:2] <= at).all() and (at <= f.box[2:]).all()]
            middles = {id(f): float(np.linalg.norm((f.box[:2] + f.box[2:]) / 2 - at)) for f in inside}
            return min(inside, key=lambda f: middles[id(f)], default=None)

        return chosen

    def candidate(self, pixels: np.ndarray, models: FaceModels) -> Candidate:
        """The crop about the five points, nothing detected; landmarks only where they agree with the points.

        Raises:
            ValueError: the points span no face.
        """
        height, width = pixels.shape[:2]
        points = np.array(self.points, dtype=np.float64) * [width, height]
        transform = crop_transform(points, (height, width))
        image, mask = warp_crop(pixels, transform)
        inside = transform.to_crop(points)
        eyes, apart = inside[:2].mean(0), float(np.linalg.norm(inside[1] - inside[0]))
        apart = max(apart, 0.8 * float(np.linalg.norm(inside[3:].mean(0) - eyes)))  # of a turned head
        middle = inside.mean(0)
        low = np.array([middle[0] - _BOX_ASIDE * apart, eyes[1] - _BOX_ABOVE * apart])
        high = np.array([middle[0] + _BOX_ASIDE * apart, eyes[1] + _BOX_BELOW * apart])
        corners = transform.to_photo(np.array([low, [low[0], high[1]], high, [high[0], low[1]]]))
        face = Face(np.concatenate([corners.min(0), corners.max(0)]), 1.0, points)
        landmarks, agreement = None, None
        if models.has_landmarks:
            landmarks = models.landmarks(visible(image, mask), np.concatenate([low, high]))
            assert landmarks is not None
            agreement = float(point_distances(landmarks, inside).mean())
        if agreement is not None and agreement > GOOD_AGREEMENT:
            landmarks = None  # the points are right, so what contradicts them is not
        return Candidate(face, "by hand", transform, image, mask, landmarks, agreement)


def read_by_hand(text: str) -> dict[str, ByHand]:
    """Decisions by the names of photos, out of JSON: {"a.jpg": {"keep": true}, "b.jpg": {"face": [0.7, 0.4]}}

    An empty text is no decision.

    Raises:
        ValueError: it is no such text; the sentence says what is wrong and where.
    """
    if not text.strip():
        return {}
    if len(text) > LONGEST:
        raise ValueError(f"The decisions by hand have more than {LONGEST} letters.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"The decisions by hand are not JSON ({error}). Clear the text to begin anew."
        ) from None
    if not isinstance(found, dict):
        raise ValueError('The decisions by hand must be an object, such as {"photo.jpg": {"keep": true}}.')
    return {name: _decision(name, value) for name, value in found.items()}


def _decision(name: str, value: Any) -> ByHand:
    if not isinstance(value, Mapping) or not value.keys() <= _FIELDS:
        raise ValueError(f"By hand, {name!r}: write an object with keep, face or points.")
    keep, face, points = (value.get(field) for field in ("keep", "face", "points"))
    if keep is not None and not isinstance(keep, bool):
        raise ValueError(f"By hand, {name!r}: keep must be true or false.")
    if face is not None:
        face = _place(face, name)
    if points is not None:
        if not isinstance(points, list) or len(points) != 5:
            raise ValueError(f"By hand, {name!r}: points must be five places.")
        points = tuple(_place(point, name) for point in points)
    return ByHand(keep, face, points)


def _place(value: Any, name: str) -> tuple[float, float]:
    numbers = value if isinstance(value, list) else []
    right = [v for v in numbers if isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 1]
    if len(right) != 2 or len(numbers) != 2:
        raise ValueError(
            f"By hand, {name!r}: a place is [x, y], parts of the photo's width and height from 0 to 1."
        )
    return float(right[0]), float(right[1])
