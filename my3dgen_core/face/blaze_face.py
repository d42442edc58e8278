"""BlazeFace, MediaPipe's face detector: anchors, decoding, and the search of a picture in windows.

Two networks share the code: short range (128 pixels, faces that fill much of the picture) and full range (192
pixels, faces down to a twentieth of it). Sources: Bazarevsky et al. 2019, BlazeFace; numbers are the option
values of MediaPipe's graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .tflite_network import TfliteNetwork

KEYPOINTS = ("left eye", "right eye", "nose", "mouth", "left ear", "right ear")
"""Keypoints of a detection, sides as seen in the upright picture."""
_SAME = 0.3  # least overlap (intersection over union) of detections that are averaged
_MAX_SCORE = 100.0  # of the network, before the sigmoid


@dataclass(frozen=True)
class Detection:
    """One face in a picture, in edge coordinates."""

    box: np.ndarray
    """Left, top, right, bottom [4]."""
    keypoints: np.ndarray
    """`KEYPOINTS` [6,2]."""
    score: float
    """Confidence, 0..1."""


class BlazeFace:
    """One of the two detectors."""

    def __init__(self, network: TfliteNetwork) -> None:
        """Tell which of the two networks it is, by its outputs.

        Raises:
            ValueError: it is neither.
        """
        self.network, self.size = network, network.input_size
        shapes = {(self.size, *shape) for shape in network.output_shapes}
        if shapes == {(128, 1, 896, 16), (128, 1, 896, 1)}:
            layers, self._least_score = [(16, 2), (8, 6)], 0.5  # cells a side, anchors a cell
        elif shapes == {(192, 1, 2304, 16), (192, 1, 2304, 1)}:
            layers, self._least_score = [(48, 1)], 0.6
        else:
            raise ValueError("this is none of MediaPipe's face detectors")
        self._anchors = np.concatenate([_cell_centers(*layer) for layer in layers])

    @torch.inference_mode()
    def __call__(self, pictures: torch.Tensor) -> list[list[Detection]]:
        """Detect faces.

        Args:
            pictures: [N,3,S,S] in [-1,1], S = `size`.

        Returns:
            The faces of each picture in its pixels, best first.
        """
        place = next(self.network.buffers())
        outputs = self.network(pictures.to(place.device, place.dtype))
        values, scores = sorted(outputs, key=lambda output: -output.shape[-1])
        chances = scores[..., 0].float().clamp(-_MAX_SCORE, _MAX_SCORE).sigmoid().cpu().numpy()
        found = values.float().cpu().numpy()
        return [self._decode(*both) for both in zip(found, chances, strict=True)]

    def _decode(self, values: np.ndarray, scores: np.ndarray) -> list[Detection]:
        """Decode the boxes [A,16] of one picture whose score [A] suffices, and merge those of one face."""
        keep = scores >= self._least_score
        places = values[keep].reshape(-1, 8, 2).astype(np.float64)
        anchors = self._anchors[keep] * self.size
        centers, sizes = places[:, 0] + anchors, places[:, 1]
        boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
        return merge(boxes, places[:, 2:] + anchors[:, None], scores[keep])


def _cell_centers(cells: int, anchors: int) -> np.ndarray:
    """Centers [cells^2 * anchors, 2] of a grid of cells over the unit square, once for each anchor."""
    middle = (np.arange(cells) + 0.5) / cells
    x, y = np.meshgrid(middle, middle)
    return np.repeat(np.stack([x.reshape(-1), y.reshape(-1)], 1), anchors, axis=0)


def merge(boxes: np.ndarray, keypoints: np.ndarray, scores: np.ndarray) -> list[Detection]:
    """Average the detections of each face, weighted by their scores, around the best one.

    Args:
        boxes: left, top, right, bottom [M,4].
        keypoints: [M,6,2].
        scores: [M] in 0..1.

    Returns:
        Detections, best first.
    """
    found: list[Detection] = []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        same = _overlaps(boxes[left[0]], boxes[left]) > _SAME
        same[0] = True
        group, left = left[same], left[~same]
        weights = scores[group] / scores[group].sum()
        found.append(
            Detection(
                weights @ boxes[group], np.tensordot(weights, keypoints[group], 1), float(scores[group[0]])
            )
        )
    return found


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] with boxes [M,4]: [M]."""
    common = np.prod(
        np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None), 1
    )
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], 1) - common
    return common / np.maximum(union, 1e-9)


def merge_windows(found: Sequence[Detection]) -> list[Detection]:
    """Return each face once of those found in overlapping windows, best first, not averaged."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda detection: -detection.score):
        if not kept or _overlaps(one.box, np.stack([other.box for other in kept])).max() < _SAME:
            kept.append(one)
    return kept
