"""What may lie over a face: a hand, a mask, a microphone, a lock of hair, the brim of a hat.

Three signs, each in its own words: a place of the face has the colour of no skin; the landmark network sees
it elsewhere in the mirror image, so it guesses; the two networks disagree about it.
"""

from __future__ import annotations

import numpy as np

# Radius of the disc about each of the five points (the mouth's is one) in distances between the eyes, and
# the part of it that is neither skin nor lips. Measured on 135 bare renders: eyes at most .6, nose .05, mouth
# .6; six bare real faces: .6, .1, .7; with something drawn over the place: .85-1.
_DISCS = (("eyes", 0.17, 0.8), ("eyes", 0.17, 0.8), ("nose", 0.13, 0.5), ("mouth", 0.2, 0.8))
_DARK, _PALE, _COLOURED = 0.42, 0.3, 0.06
# Mean distance in pixels of 512 between the landmarks of a picture and of its mirror image: 99 % of 135
# bare renders, which are guessed at more than photographs (six real faces: at most 2.8), stay below.
_GUESSED: tuple[tuple[str, list[int], float], ...] = (
    ("eyes", [35, 41, 42, 39, 37, 36], 4.2),
    ("eyes", [89, 95, 96, 93, 91, 90], 4.2),
    ("eyes", list(range(43, 52)), 5.0),
    ("eyes", list(range(97, 106)), 5.0),
    ("nose", [72, 73, 74, 86, 78, 79, 80, 85, 84], 5.4),
    ("mouth", list(range(52, 72)), 6.3),
)
_PARTED = 20.0  # one point of the two networks; six real faces at most 11, 9 of 10 renders less
_PARTS = ("eyes", "eyes", "nose", "mouth", "mouth")


def covered_part(
    distances: np.ndarray,
    guesses: np.ndarray | None = None,
    image: np.ndarray | None = None,
    points: np.ndarray | None = None,
) -> str:
    """What may be covered: "eyes", "nose" or "mouth", or "" where nothing speaks for it.

    Args:
        distances: [5] between the points of the two networks, from `search.point_distances`.
        guesses: [106] distances between the landmarks of the picture and of its mirror image.
        image: the crop [512,512,3] uint8 RGB with its points [5,2], near the front.
    """
    if image is not None and points is not None:
        for (part, _, most), share in zip(_DISCS, foreign_shares(image, points), strict=True):
            if share > most:
                return part
    if guesses is not None:
        over = [float(guesses[which].mean()) / most for _, which, most in _GUESSED]
        if max(over) > 1:
            return _GUESSED[int(np.argmax(over))][0]
    worst = int(distances.argmax())
    return _PARTS[worst] if distances[worst] > _PARTED else ""


def foreign_shares(image: np.ndarray, points: np.ndarray) -> list[float]:
    """How much of left eye, right eye, nose and mouth has another colour than skin or lips, 0..1.

    Foreign is what is much darker than the skin of nose bridge and cheeks, or lacks its warmth; a grey
    picture is judged by brightness alone.

    Args:
        image: [H,W,3] uint8 RGB.
        points: [5,2] the detector's points in it.
    """
    left, right, nose, mouth_left, mouth_right = points
    width = float(np.linalg.norm(right - left))
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5

    def disc(centre: np.ndarray, radius: float) -> np.ndarray:
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (radius * width) ** 2
        return image[inside].astype(np.float64) + 1

    cheeks = [0.55 * eye + 0.45 * corner for eye, corner in ((left, mouth_left), (right, mouth_right))]
    bridge = (left + right + 2 * nose) / 4
    skin = np.median(np.concatenate([disc(place, 0.08) for place in (bridge, *cheeks)]), axis=0)
    warmth = (skin[0] - skin[2]) / skin.sum()
    shares = []
    for centre, (_, radius, _) in zip(
        (left, right, nose, (mouth_left + mouth_right) / 2), _DISCS, strict=True
    ):
        pixels = disc(centre, radius)
        light = pixels.sum(1)
        foreign = light < _DARK * skin.sum()
        if warmth > _COLOURED:
            foreign |= (pixels[:, 0] - pixels[:, 2]) / light < _PALE * warmth
        shares.append(float(foreign.mean()) if len(foreign) else 0.0)
    return shares
