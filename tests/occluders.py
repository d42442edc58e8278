"""Things drawn over faces: a hand, a mask, a lock of hair, a microphone, the brim of a hat."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

KINDS = {"hand": "mouth", "mask": "mouth", "hair": "eyes", "microphone": "mouth", "brim": "eyes"}
_MASKS = ((200, 220, 235), (30, 30, 35), (240, 240, 240))
_BRIMS = ((40, 45, 70), (120, 30, 30), (60, 60, 55))


def covered(crop: np.ndarray, points: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    """A crop [H,W,3] uint8 with one of `KINDS` drawn over the face with the detector's five points [5,2]."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(crop)
    over, mask = picture.copy(), Image.new("L", picture.size, 0)
    colors, shape = ImageDraw.Draw(over), ImageDraw.Draw(mask)
    left, right, nose, *corners = points
    mouth, width = np.mean(corners, axis=0), float(np.linalg.norm(right - left))
    column, row = int(nose[0]), int(nose[1])
    skin = np.median(crop[row - 20 : row + 5, column - 25 : column + 25].reshape(-1, 3), axis=0)
    side, size = int(rng.choice([-1, 1])), rng.uniform(0.9, 1.1)

    def polygon(at: np.ndarray, corners: list[tuple[float, float]], color: object) -> None:
        places = [tuple(float(v) for v in at + np.array(corner) * width) for corner in corners]
        colors.polygon(places, fill=_color(color))
        shape.polygon(places, fill=255)

    def ellipse(at: np.ndarray, x: float, y: float, color: object) -> None:
        box = [*(at - np.array([x, y]) * width), *(at + np.array([x, y]) * width)]
        colors.ellipse(box, fill=_color(color))
        shape.ellipse(box, fill=255)

    if kind == "hand":  # four fingers of the face's own color
        middle = mouth + np.array([side * 0.1, 0.1]) * width
        for finger in range(4):
            drop, thick = -0.28 + 0.19 * finger, 0.12 * size
            for along in np.linspace(-1, 1, 9):
                place = middle + np.array([0.6 * along, drop + 0.1 * along * side]) * width
                ellipse(place, thick, 0.85 * thick, skin * rng.uniform(0.85, 1.0))
            edge = np.array([[-0.6, drop - 0.1 * side + 0.8 * thick], [0.6, drop + 0.1 * side + 0.8 * thick]])
            colors.line((middle + edge * width).reshape(-1).tolist(), fill=_color(skin * 0.6), width=2)
    elif kind == "mask":
        color = _MASKS[int(rng.integers(3))]
        chin = (mouth - nose) / width
        lower = [(0.55, chin[1] + 0.75), (-0.55, chin[1] + 0.75)]
        polygon(nose, [(-0.75, -0.1), (0.0, -0.25), (0.75, -0.1), *lower], color)
    elif kind == "hair":
        tint = skin * rng.uniform(0.15, 0.45) * [1, 0.85, 0.75]
        polygon(
            left if side < 0 else right,
            [(-0.3 * size, -0.9), (0.25, -0.9), (0.2, 0.5), (-0.05, 0.6)],
            tint,
        )
    elif kind == "microphone":
        ellipse(mouth + np.array([side * 0.1, 0.15]) * width, 0.3 * size, 0.36 * size, (35, 35, 38))
        polygon(
            mouth, [(side * 0.1 + x, y) for x, y in ((-0.08, 0.4), (0.08, 0.4), (0.2, 2), (0, 2))], (25,) * 3
        )
    elif kind == "brim":
        color = _BRIMS[int(rng.integers(3))]
        apart = (right[0] - left[0]) / width / 2
        below = [(apart + 0.8, 0.05), (apart, 0.12 * size), (-apart, 0.12 * size), (-apart - 0.8, 0.05)]
        polygon((left + right) / 2, [(-apart - 0.8, -0.9), (apart + 0.8, -0.9), *below], color)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    soft = mask.filter(ImageFilter.GaussianBlur(1.5))
    return np.asarray(Image.composite(over, picture, soft)).copy()


def _color(values: object) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(values))
