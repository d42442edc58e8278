"""Which pixels of a crop are head: a face-parsing network, where the model folder offers one.

Any ONNX file that gives 19 classes for each pixel of a 512 x 512 picture will do: BiSeNet as it is trained on
CelebAMask-HQ. It may lie beside a pack's other files; in a sub-folder `parsing` other programs, which take
every file of a pack for one of InsightFace's, do not meet it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..formats.onnx_file import OnnxGraph

PARSING_SIZE = 512
# The order that face-parsing.PyTorch (github.com/zllrunning, MIT) gave the classes of CelebAMask-HQ, and that
# the networks after it keep. Left and right are the person's own.
CLASSES = (
    *("background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses"),
    *("left ear", "right ear", "earring", "nose", "mouth", "upper lip", "lower lip"),
    *("neck", "necklace", "cloth", "hair", "hat"),
)
_NOT_HEAD = [CLASSES.index(name) for name in ("background", "cloth")]
_NECK = [CLASSES.index(name) for name in ("neck", "necklace")]
_INNER_FACE = [*range(1, 7), *range(10, 14)]  # skin to glasses, nose to lips
# As torchvision's networks, on which BiSeNet is built, want their pictures.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
# Between eyes and mouth corners, grown by a fifth, a bare face shows nothing but itself. How much else means
# that something lies over it could not be measured here, for want of a network that may be shipped.
_GROWN, _FOREIGN = 1.2, 0.08


def parses_faces(graph: OnnxGraph) -> bool:
    """Whether a network takes [1,3,512,512] and gives 19 classes a pixel (free dimensions will do)."""
    shapes = list(graph.inputs.values())
    return (
        len(shapes) == 1
        and _fits(shapes[0], 3)
        and shapes[0][0] in (1, None)
        and any(_fits(shape, len(CLASSES)) for shape in graph.outputs.values())
    )


def _fits(shape: list[Any], channels: int) -> bool:
    """[., channels, 512, 512]; onnxruntime names free dimensions by a text."""
    return (
        len(shape) == 4
        and shape[1] == channels
        and all(side == PARSING_SIZE or not isinstance(side, int) for side in shape[2:])
    )


class FaceParser:
    """A face-parsing network in an onnxruntime session."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self._input = session.get_inputs()[0].name
        # BiSeNet has up to three outputs; the first at full size is the one that was trained for use
        self._output = next(o.name for o in session.get_outputs() if _fits(o.shape, len(CLASSES)))

    def classes(self, image: np.ndarray) -> np.ndarray:
        """The class of each pixel, [512,512] uint8 (see CLASSES), of an upright crop [512,512,3] uint8 RGB.

        Raises:
            ValueError: the network gives something else than 19 classes a pixel.
        """
        normalised = (image.astype(np.float32) / 255 - _MEAN) / _DEVIATION
        (logits,) = self.session.run([self._output], {self._input: normalised.transpose(2, 0, 1)[None]})
        if logits.shape[1:] != (len(CLASSES), *image.shape[:2]):
            raise ValueError(
                f"The face-parsing network gives {list(logits.shape)} instead of 19 classes for each of "
                "512 x 512 pixels. Take its file out of the face model folder."
            )
        return logits[0].argmax(0).astype(np.uint8)


def head_of(classes: np.ndarray, neck: bool = True) -> np.ndarray:
    """Where the head is [S,S] (bool): everything but background and clothes.

    Args:
        classes: [S,S] from `FaceParser.classes`.
        neck: whether neck and necklace belong to the head.
    """
    return ~np.isin(classes, _NOT_HEAD if neck else [*_NOT_HEAD, *_NECK])


def covered_by_classes(classes: np.ndarray, points: np.ndarray) -> str:
    """What is covered between eyes and mouth: "eyes", "nose" or "mouth", or "" where all is face.

    Args:
        classes: [S,S] and points: [5,2] in the same crop.
    """
    corners = points[[0, 1, 4, 3]]  # clockwise in the picture
    corners = corners.mean(0) + _GROWN * (corners - corners.mean(0))
    y, x = np.mgrid[: classes.shape[0], : classes.shape[1]] + 0.5
    inside = np.ones(classes.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    foreign = inside & ~np.isin(classes, _INNER_FACE)
    if foreign.sum() < _FOREIGN * max(inside.sum(), 1):
        return ""
    centre = np.array([x[foreign].mean(), y[foreign].mean()])
    places = np.concatenate([points, [points[:2].mean(0), points[3:].mean(0)]])
    nearest = int(np.linalg.norm(places - centre, axis=1).argmin())
    return ("eyes", "eyes", "nose", "mouth", "mouth", "eyes", "mouth")[nearest]
