"""Face parsing: segmentation of a crop by a network of the user, if the model folder has one.

Supported is any ONNX file that gives 19 classes for each pixel of a 512 x 512 picture, such as BiSeNet
trained on CelebAMask-HQ. It may lie next to the other files of a pack, or in a subfolder `parsing`, hidden
from programs that expect only InsightFace's networks there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..formats.onnx_file import OnnxGraph

PARSING_SIZE = 512
"""Side in pixels of the pictures that a face-parsing network takes."""
# Classes of CelebAMask-HQ in the order of face-parsing.PyTorch (github.com/zllrunning, MIT), which later
# networks keep. Left and right are the person's own.
CLASSES = (
    *("background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses"),
    *("left ear", "right ear", "earring", "nose", "mouth", "upper lip", "lower lip"),
    *("neck", "necklace", "cloth", "hair", "hat"),
)
_NOT_HEAD = [CLASSES.index(name) for name in ("background", "cloth")]
_NECK = [CLASSES.index(name) for name in ("neck", "necklace")]
_INNER_FACE = [*range(1, 7), *range(10, 14)]  # skin to glasses, nose to lips
# Input normalization of torchvision's networks, on which BiSeNet is built.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
# Region between eyes and mouth corners: its scale, and the fraction of other classes in it that counts as
# covered. The fraction is not measured: no such network may be shipped with the tests.
_REGION_SCALE, _MIN_COVERED = 1.2, 0.08


def is_parsing_network(graph: OnnxGraph) -> bool:
    """Return True if a network maps [1,3,512,512] to 19 classes per pixel; free dimensions match."""
    shapes = list(graph.inputs.values())
    return (
        len(shapes) == 1
        and _has_shape(shapes[0], 3)
        and shapes[0][0] in (1, None)
        and any(_has_shape(shape, len(CLASSES)) for shape in graph.outputs.values())
    )


def _has_shape(shape: list[Any], channels: int) -> bool:
    """Return True for [., channels, 512, 512]; free dimensions are strings in onnxruntime."""
    return (
        len(shape) == 4
        and shape[1] == channels
        and all(side == PARSING_SIZE or not isinstance(side, int) for side in shape[2:])
    )


class FaceParser:
    """Face-parsing network in an onnxruntime session."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self._input = session.get_inputs()[0].name
        # BiSeNet has up to three outputs: the first at full size is the result, the others are auxiliary.
        self._output = next(o.name for o in session.get_outputs() if _has_shape(o.shape, len(CLASSES)))

    def classes(self, image: np.ndarray) -> np.ndarray:
        """Classify the pixels of a crop.

        Args:
            image: upright crop [512,512,3] uint8 RGB.

        Returns:
            Classes [512,512] uint8, indices into `CLASSES`.

        Raises:
            ValueError: the network does not give 19 classes per pixel.
        """
        normalized = (image.astype(np.float32) / 255 - _MEAN) / _DEVIATION
        (logits,) = self.session.run([self._output], {self._input: normalized.transpose(2, 0, 1)[None]})
        if logits.shape[1:] != (len(CLASSES), *image.shape[:2]):
            raise ValueError(
                f"The face-parsing network gives {list(logits.shape)} instead of 19 classes for each of "
                "512 x 512 pixels. Take its file out of the face model folder."
            )
        return logits[0].argmax(0).astype(np.uint8)


def head_mask(classes: np.ndarray, neck: bool = True) -> np.ndarray:
    """Mask of the head: everything but background and clothes.

    Args:
        classes: pixel classes [S,S] from `FaceParser.classes`.
        neck: count neck and necklace as part of the head.

    Returns:
        Mask [S,S] (bool).
    """
    return ~np.isin(classes, _NOT_HEAD if neck else [*_NOT_HEAD, *_NECK])


def covered_by_classes(classes: np.ndarray, points: np.ndarray) -> str:
    """Name the covered part between eyes and mouth.

    Args:
        classes: pixel classes [S,S] of a crop.
        points: detector's points [5,2] in it.

    Returns:
        "eyes", "nose" or "mouth", or "" if nothing is covered.
    """
    corners = points[[0, 1, 4, 3]]  # clockwise in the picture
    corners = corners.mean(0) + _REGION_SCALE * (corners - corners.mean(0))
    y, x = np.mgrid[: classes.shape[0], : classes.shape[1]] + 0.5
    inside = np.ones(classes.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    other = inside & ~np.isin(classes, _INNER_FACE)
    if other.sum() < _MIN_COVERED * max(inside.sum(), 1):
        return ""
    center = np.array([x[other].mean(), y[other].mean()])
    places = np.concatenate([points, [points[:2].mean(0), points[3:].mean(0)]])
    nearest = int(np.linalg.norm(places - center, axis=1).argmin())
    return ("eyes", "eyes", "nose", "mouth", "mouth", "eyes", "mouth")[nearest]
