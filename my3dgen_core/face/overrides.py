"""User overrides for single photos: keep it anyway, leave it out, take another face, set the five points."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.folders import name_key
from .crop import crop_transform, warp_crop
from .detect import Face, FaceModels
from .face_search import GOOD_AGREEMENT, Candidate, Choose, padded_gray, point_distances

_MAX_LETTERS = 1 << 20  # of the JSON text
# Box of a detector around the five points: distances of its sides as multiples of the distance between the
# eyes, measured on photos.
_BOX_ABOVE, _BOX_BELOW, _BOX_ASIDE = 1.1, 1.85, 1.1
_FIELDS = {"keep", "face", "points"}


@dataclass(frozen=True)
class ByHand:
    """User overrides of one photo.

    Places are (x, y) fractions of the photo's width and height from its upper left corner.
    """

    keep: bool | None = None
    """True keeps the photo in spite of any objection, False leaves it out, None decides automatically."""
    face: tuple[float, float] | None = None
    """Place inside the face to take where the photo shows several, or None."""
    points: tuple[tuple[float, float], ...] | None = None
    """Left eye, right eye, nose tip, left and right mouth corner, sides as seen in the picture, or None."""

    def describe(self) -> str:
        """Return a short description of the overrides for the report, "" if there are none."""
        parts = {
            "left out": self.keep is False,
            "kept": self.keep is True,
            "another face": self.face is not None,
            "points set": self.points is not None,
        }
        return ", ".join(words for words, decided in parts.items() if decided)

    def chooser(self, usual: Choose) -> Choose:
        """Return a function that picks the face at the chosen place, or `usual` if no place is set."""
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
        """Cut the crop around the five points without detection.

        Landmarks are kept only if they agree with the points.

        Args:
            pixels: photo [H,W,3], uint8 or float in 0..1.
            models: face networks.

        Raises:
            ValueError: the points span no face.
        """
        height, width = pixels.shape[:2]
        points = np.array(self.points, dtype=np.float64) * [width, height]
        transform = crop_transform(points, (height, width))
        image, mask = warp_crop(pixels, transform)
        inside = transform.to_crop(points)
        eyes, apart = inside[:2].mean(0), float(np.linalg.norm(inside[1] - inside[0]))
        # On a turned head the eyes appear closer: the height of the face sets the scale.
        apart = max(apart, 0.8 * float(np.linalg.norm(inside[3:].mean(0) - eyes)))
        middle = inside.mean(0)
        low = np.array([middle[0] - _BOX_ASIDE * apart, eyes[1] - _BOX_ABOVE * apart])
        high = np.array([middle[0] + _BOX_ASIDE * apart, eyes[1] + _BOX_BELOW * apart])
        corners = transform.to_photo(np.array([low, [low[0], high[1]], high, [high[0], low[1]]]))
        face = Face(np.concatenate([corners.min(0), corners.max(0)]), 1.0, points)
        landmarks, agreement = None, None
        if models.has_landmarks:
            landmarks = models.landmarks(padded_gray(image, mask), np.concatenate([low, high]))
            assert landmarks is not None
            agreement = float(point_distances(landmarks, inside).mean())
        if agreement is not None and agreement > GOOD_AGREEMENT:
            landmarks = None  # the user's points are taken as true
        return Candidate(face, "by hand", transform, image, mask, landmarks, agreement)


def override_for(by_hand: Mapping[str, ByHand] | None, name: str) -> ByHand | None:
    """Return the overrides of the photo with this name, in any spelling with the same `name_key`."""
    if not by_hand or name in by_hand:
        return (by_hand or {}).get(name)
    key = name_key(name)
    return next((hand for other, hand in by_hand.items() if name_key(other) == key), None)


def read_by_hand(text: str) -> dict[str, ByHand]:
    """Parse overrides by photo name from JSON: {"a.jpg": {"keep": true}, "b.jpg": {"face": [0.7, 0.4]}}.

    Args:
        text: JSON object; "" or white space means no overrides.

    Raises:
        ValueError: the text is not of this form; the message says what is wrong and where.
    """
    if not text.strip():
        return {}
    if len(text) > _MAX_LETTERS:
        raise ValueError(f"The decisions by hand have more than {_MAX_LETTERS} letters.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"The decisions by hand are not JSON ({error}). Clear the text to start over."
        ) from None
    if not isinstance(found, dict):
        raise ValueError('The decisions by hand must be an object, such as {"photo.jpg": {"keep": true}}.')
    return {name: _parse_override(name, value) for name, value in found.items()}


def _parse_override(name: str, value: Any) -> ByHand:
    """Check the JSON value of one photo and convert it."""
    if not isinstance(value, Mapping) or not value.keys() <= _FIELDS:
        raise ValueError(f"By hand, {name!r}: write an object with keep, face or points.")
    keep, face, points = (value.get(field) for field in ("keep", "face", "points"))
    if keep is not None and not isinstance(keep, bool):
        raise ValueError(f"By hand, {name!r}: keep must be true or false.")
    if face is not None:
        face = _parse_place(face, name)
    if points is not None:
        if not isinstance(points, list) or len(points) != 5:
            raise ValueError(f"By hand, {name!r}: points must be five places.")
        points = tuple(_parse_place(point, name) for point in points)
    return ByHand(keep, face, points)


def _parse_place(value: Any, name: str) -> tuple[float, float]:
    """Check a JSON value [x, y] in 0..1 and convert it; `name` is the photo for the message."""
    numbers = value if isinstance(value, list) else []
    right = [v for v in numbers if isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 1]
    if len(right) != 2 or len(numbers) != 2:
        raise ValueError(
            f"By hand, {name!r}: a place is [x, y], parts of the photo's width and height from 0 to 1."
        )
    return float(right[0]), float(right[1])
