"""Scores of face pictures: geometry from landmarks, similarity to a text by CLIP."""

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

Labeler = Callable[[Tensor], Mapping[str, Tensor]]
"""Scoring function: pictures [B, 3, H, W] in [-1, 1] -> scores [B] by name, NaN for no score."""
SMILE, MOUTH_OPEN, EYES_OPEN = "smile", "mouth open", "eyes open"
FACE_WIDTH, JAW_WIDTH = "face width", "jaw width"
LANDMARK_SCORES = (SMILE, MOUTH_OPEN, EYES_OPEN, FACE_WIDTH, JAW_WIDTH)
"""Names of the scores from 106 landmarks."""
AGE, GENDER = "age", "gender"
# Indices into InsightFace's 106 landmarks. Mouth: both corners, upper and lower inner lip. Each eye: both
# corners, middle of the upper and of the lower lid.
_MOUTH = (52, 61, 62, 60)
_EYES = ((35, 39, 40, 33), (89, 93, 94, 87))
# Outline: the chin, and points left and right next to the nose, where a face is widest, and below the corners
# of the mouth.
_CHIN, _CHEEKS, _JAW = 0, (12, 28), (3, 19)


class FaceGeometry:
    """Labeler that measures the largest face in each picture.

    Scores smile, mouth open, eyes open, face width and jaw width; age and gender if the pack has that
    network. All but the last two are ratios of lengths, invariant to scale and in-plane rotation. Without the
    106-point network only the smile is scored, from the detector's five points.
    """

    def __init__(self, models: FaceModels) -> None:
        """Determine the available scores, `names`, from the networks of the pack."""
        self.models = models
        self.names: tuple[str, ...] = LANDMARK_SCORES if models.has_landmarks else (SMILE,)
        if models.has_attributes:
            self.names += (AGE, GENDER)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Score pictures [B, 3, H, W] in [-1, 1]: [B] by name, NaN without a face."""
        rows = [self._scores(image) for image in images.detach().float().cpu()]
        return {name: torch.tensor([row.get(name, float("nan")) for row in rows]) for name in self.names}

    def _scores(self, image: Tensor) -> dict[str, float]:
        """Score one picture [3, H, W]; empty without a face."""
        pixels = to_pixels(image)
        scale = max(1, round(256 / pixels.shape[0]))  # detectors miss small faces
        pixels = np.ascontiguousarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))
        faces = self.models.detect(pixels, pad=0.25)
        if not faces:
            return {}
        face = max(faces, key=lambda found: found.size)
        landmarks = self.models.landmarks(pixels, face.box)
        return measure(face.points, landmarks) | (self.models.attributes(pixels, face.box) or {})


class TextSimilarity:
    """Labeler by CLIP: similarity of a picture to a text, minus that to an opposite text."""

    def __init__(
        self, name: str, embed: Callable[[Tensor], Tensor], wanted: Tensor, opposite: Tensor
    ) -> None:
        """Store the image encoder and the embeddings of both texts.

        Args:
            name: of the score.
            embed: image encoder, pictures [B, 3, H, W] in [-1, 1] -> [B, d].
            wanted, opposite: embeddings of the texts [d], by the text encoder of the same CLIP.

        Raises:
            ValueError: both texts have the same embedding.
        """
        self.name, self.embed = name, embed
        self.texts = [
            F.normalize(text.detach().float().cpu().flatten(), dim=0) for text in (wanted, opposite)
        ]
        if float((self.texts[0] - self.texts[1]).norm()) < 1e-4:
            raise ValueError("The words and their opposite mean the same to this CLIP. Say what differs.")

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Score pictures [B, 3, H, W] in [-1, 1]: [B] under `name`.

        Raises:
            ValueError: image and text embeddings differ in length.
        """
        seen = F.normalize(self.embed(images).detach().float().cpu(), dim=1)
        if seen.shape[1] != len(self.texts[0]):
            raise ValueError(
                f"The text encoder gives {len(self.texts[0])} numbers, the image encoder {seen.shape[1]}: "
                "they are not of one CLIP. Load both of the same."
            )
        return {self.name: seen @ self.texts[0] - seen @ self.texts[1]}


def measure(points: np.ndarray, landmarks: np.ndarray | None = None) -> dict[str, float]:
    """Measure one face.

    Smile is the width of the mouth plus the height of its corners above its middle, in distances between the
    eyes (from five points: plus the closeness of the corners to the tip of the nose). Mouth open is the gap
    between the inner lips, in the same unit. Eyes open is the gap between the lids over the width of the eye,
    mean of both. Face width is that at the cheeks over the height from the eyes to the chin; jaw width is
    that below the mouth over that at the cheeks.

    Args:
        points: the detector's five points [5, 2] in pixels.
        landmarks: 106 landmarks [106, 2] in pixels, or None.

    Returns:
        scores by name: `LANDMARK_SCORES`, only the smile without landmarks, empty for a degenerate face.
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
