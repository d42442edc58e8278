"""Detection of occluders over a face: a hand, a mask, a microphone, a lock of hair, the brim of a hat.

Three signs are checked: a part of the face does not have the color of skin; the landmark network places it
differently in the mirror image, so it is unsure; detector and landmark network disagree about it.
"""

from __future__ import annotations

import numpy as np

# Discs around the eyes, nose and mouth: radius in distances between the eyes, and the largest fraction of
# them that may be neither skin nor lips. Measured on 135 renders without occluders: eyes at most .6, nose
# .05, mouth .6; on six real faces without occluders: .6, .1, .7; with something drawn over the part: .85-1.
_DISCS = (("eyes", 0.17, 0.8), ("eyes", 0.17, 0.8), ("nose", 0.13, 0.5), ("mouth", 0.2, 0.8))
# Not skin: brightness below this fraction of the skin's, or warmth below this fraction of the skin's. The
# last is the warmth of the skin above which a picture counts as colored.
_DARK, _PALE, _COLORED = 0.42, 0.3, 0.06
# Groups of landmarks with the largest mean distance, in pixels of a 512 crop, between the picture and its
# mirror image: 99 % of 135 renders without occluders stay below (six real faces: at most 2.8, renders are
# harder).
_MIRROR_LIMITS: tuple[tuple[str, list[int], float], ...] = (
    ("eyes", [35, 41, 42, 39, 37, 36], 4.2),
    ("eyes", [89, 95, 96, 93, 91, 90], 4.2),
    ("eyes", list(range(43, 52)), 5.0),
    ("eyes", list(range(97, 106)), 5.0),
    ("nose", [72, 73, 74, 86, 78, 79, 80, 85, 84], 5.4),
    ("mouth", list(range(52, 72)), 6.3),
)
_MESH_MIRROR = 1.5  # those limits for a face mesh: 99 % of 93 renders stay below
# Largest distance in pixels between detector and landmarks at one point: six real faces at most 11, 9 of 10
# renders less.
_POINT_LIMIT = 20.0
_PARTS = ("eyes", "eyes", "nose", "mouth", "mouth")


def covered_part(
    distances: np.ndarray,
    mirror_distances: np.ndarray | None = None,
    image: np.ndarray | None = None,
    points: np.ndarray | None = None,
    mesh: bool = False,
) -> str:
    """Name the part of a near-frontal face that may be covered.

    Args:
        distances: distances [5] between the points of the two networks, from `face_search.point_distances`.
        mirror_distances: distances [106] between the landmarks of the picture and of its mirror image, or
            None.
        image: crop [512,512,3] uint8 RGB, or None.
        points: detector's points [5,2] in it, or None.
        mesh: the landmarks come from a face mesh.

    Returns:
        "eyes", "nose" or "mouth", or "" if nothing seems covered.
    """
    if image is not None and points is not None:
        for (part, _, most), share in zip(_DISCS, non_skin_fractions(image, points), strict=True):
            if share > most:
                return part
    if mirror_distances is not None:
        scale = _MESH_MIRROR if mesh else 1.0
        over = [float(mirror_distances[which].mean()) / (most * scale) for _, which, most in _MIRROR_LIMITS]
        if max(over) > 1:
            return _MIRROR_LIMITS[int(np.argmax(over))][0]
    worst = int(distances.argmax())
    return _PARTS[worst] if distances[worst] > _POINT_LIMIT else ""


def non_skin_fractions(image: np.ndarray, points: np.ndarray) -> list[float]:
    """Fractions of the discs around left eye, right eye, nose and mouth that are neither skin nor lips, 0..1.

    The skin is sampled at the bridge of the nose and the cheeks. Other pixels are much darker or lack its
    warmth; in a gray picture only brightness counts.

    Args:
        image: picture [H,W,3] uint8 RGB.
        points: detector's points [5,2] in it.
    """
    left, right, nose, mouth_left, mouth_right = points
    width = float(np.linalg.norm(right - left))
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5

    def disc(center: np.ndarray, radius: float) -> np.ndarray:
        inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 < (radius * width) ** 2
        return image[inside].astype(np.float64) + 1

    cheeks = [0.55 * eye + 0.45 * corner for eye, corner in ((left, mouth_left), (right, mouth_right))]
    bridge = (left + right + 2 * nose) / 4
    skin = np.median(np.concatenate([disc(place, 0.08) for place in (bridge, *cheeks)]), axis=0)
    warmth = (skin[0] - skin[2]) / skin.sum()
    fractions = []
    for center, (_, radius, _) in zip(
        (left, right, nose, (mouth_left + mouth_right) / 2), _DISCS, strict=True
    ):
        pixels = disc(center, radius)
        light = pixels.sum(1)
        other = light < _DARK * skin.sum()
        if warmth > _COLORED:
            other |= (pixels[:, 0] - pixels[:, 2]) / light < _PALE * warmth
        fractions.append(float(other.mean()) if len(other) else 0.0)
    return fractions
