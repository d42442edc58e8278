"""Scores of faces: geometry from landmarks, similarity to words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.image_ops import to_pixels

if TYPE_CHECKING:
    from ..face import FaceModels

Labeller = Callable[[Tensor], Mapping[str, Tensor]]
"""Pictures [B, 3, H, W] in [-1, 1] -> scores [B] by name, NaN where there is none."""
SMILE, MOUTH_OPEN, EYES_OPEN = "smile", "mouth open", "eyes open"
FACE_WIDTH, JAW_WIDTH = "face width", "jaw width"
LANDMARK_SCORES = (SMILE, MOUTH_OPEN, EYES_OPEN, FACE_WIDTH, JAW_WIDTH)
AGE, GENDER = "age", "gender"
# Of the 106 landmarks of InsightFace: corner, corner, upper inner lip, lower inner lip; for an eye the
# corners and the middles of the lids.
_MOUTH = (52, 61, 62, 60)
_EYES = ((35, 39, 40, 33), (89, 93, 94, 87))
# Of its outline the chin, and points left and right: beside the nose, where a face is widest, and beneath the
# corners of the mouth.
_CHIN, _CHEEKS, _JAW = 0, (12, 28), (3, 19)


class FaceGeometry:
    """Scores pictures by the face in them: smile, mouth open, eyes open, the shape of the head by its width
    and that of its jaw; age and gender with such a network.

    All but the last two are ratios of lengths, so that size and turn in the picture do not matter. Without
    the 106-point network there is only the smile, from the five points.
    """

    def __init__(self, models: FaceModels) -> None:
        self.models = models
        self.names: tuple[str, ...] = LANDMARK_SCORES if models.has_landmarks else (SMILE,)
        if models.has_attributes:
            self.names += (AGE, GENDER)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        rows = [self._scores(image) for image in images.detach().float().cpu()]
        return {name: torch.tensor([row.get(name, float("nan")) for row in rows]) for name in self.names}

    def _scores(self, image: Tensor) -> dict[str, float]:
        pixels = to_pixels(image)
        scale = max(1, round(256 / pixels.shape[0]))  # detectors overlook small faces
        pixels = np.ascontiguousarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))
        faces = self.models.detect(pixels, pad=0.25)
        if not faces:
            return {}
        face = max(faces, key=lambda found: found.size)
        landmarks = self.models.landmarks(pixels, face.box)
        return measure(face.points, landmarks) | (self.models.attributes(pixels, face.box) or {})


class TextSimilarity:
    """Scores pictures by words: how much nearer they are to what is wanted than to its opposite.

    For an image and a text encoder of one CLIP, of the user's own.
    """

    def __init__(
        self, name: str, embed: Callable[[Tensor], Tensor], wanted: Tensor, opposite: Tensor
    ) -> None:
        """name of the score; embed: pictures [B, 3, H, W] in [-1, 1] -> [B, d]; embeddings of both texts [d].

        Raises:
            ValueError: the two texts mean the same to the encoder.
        """
        self.name, self.embed = name, embed
        self.texts = [
            F.normalize(text.detach().float().cpu().flatten(), dim=0) for text in (wanted, opposite)
        ]
        if float((self.texts[0] - self.texts[1]).norm()) < 1e-4:
            raise ValueError("The words and their opposite mean the same to this CLIP. Say what differs.")

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        seen = F.normalize(self.embed(images).detach().float().cpu(), dim=1)
        if seen.shape[1] != len(self.texts[0]):
            raise ValueError(
                f"The text encoder gives {len(self.texts[0])} numbers, the image encoder {seen.shape[1]}: "
                "they are not of one CLIP. Load both of the same."
            )
        return {self.name: seen @ self.texts[0] - seen @ self.texts[1]}


def measure(points: np.ndarray, landmarks: np.ndarray | None = None) -> dict[str, float]:
    """Scores of one face from the detector's points [5, 2] and, if there are any, 106 landmarks [106, 2].

    smile: width of the mouth plus how far its corners stand above its middle (five points: plus how near
    they come to the tip of the nose). mouth open: gap between the inner lips. eyes open: gap between the lids
    over the width of the eye, mean of both. face width: at the cheeks, over the height from the eyes to the
    chin. jaw width: beneath the mouth, over that at the cheeks.
    """
    across = points[1] - points[0]
    unit = float(np.linalg.norm(across))
    if not unit > 0:
        return {}
    down = np.array([-across[1], across[0]]) / unit  # y points down in pictures
    corners = points[3:5]
    if landmarks is None:
        raised = -float((corners.mean(0) - points[2]) @ down)
        return {SMILE: (float(np.linalg.norm(corners[1] - corners[0])) + raised) / unit}
    left, right, upper, lower = landmarks[list(_MOUTH)]
    raised = float(((upper + lower) / 2 - (left + right) / 2) @ down)
    height = float((landmarks[_CHIN] - points[:2].mean(0)) @ down)
    cheeks, jaw = (float(np.linalg.norm(landmarks[b] - landmarks[a])) for a, b in (_CHEEKS, _JAW))
    gaps = [
        float(np.linalg.norm(landmarks[top] - landmarks[bottom]))
        / max(float(np.linalg.norm(landmarks[b] - landmarks[a])), 1e-6)
        for a, b, top, bottom in _EYES
    ]
    return {
        SMILE: (float(np.linalg.norm(right - left)) + raised) / unit,
        MOUTH_OPEN: float((lower - upper) @ down) / unit,
        EYES_OPEN: sum(gaps) / len(gaps),
        FACE_WIDTH: cheeks / max(height, 1e-6),
        JAW_WIDTH: jaw / max(cheeks, 1e-6),
    }
