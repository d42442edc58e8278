"""MediaPipe's face mesh: 468 landmarks of a face with depth, from a picture of 192 pixels.

Source: Kartynnik et al. 2019, Real-time facial surface geometry from monocular video on mobile GPUs; the
region of interest is that of MediaPipe's graphs (a square of 1.5 times the face, its eyes level).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from .blaze_face import Detection
from .crop import CropTransform, warp_crop
from .tflite_network import TfliteNetwork

POINTS = 468
_MARGIN = 1.5  # of the region, in longer sides of the face's box
# Landmarks of the left and right eye, nose and mouth corners, sides as seen in the picture; forehead and chin
_LEFT_EYE, _RIGHT_EYE = [33, 160, 158, 133, 153, 144], [263, 387, 385, 362, 380, 373]
_NOSE, _MOUTH_CORNERS = [1], ([76], [306])
_TOP, _CHIN = 10, 152
# Box of an InsightFace detector: its width and the part above the forehead's highest landmark, in those of
# the mesh
_BOX_WIDTH, _FOREHEAD = 0.95, 0.13
DEPTH_SCALE = 1.2
"""Factor of the network's depth, which is too flat."""


class FaceMesh:
    """The landmark network."""

    def __init__(self, network: TfliteNetwork) -> None:
        """Check that it is this network.

        Raises:
            ValueError: it is another one.
        """
        if [math.prod(shape) for shape in network.output_shapes] != [3 * POINTS, 1]:
            raise ValueError("this is not MediaPipe's network of 468 face landmarks")
        self.network, self.size = network, network.input_size

    @torch.inference_mode()
    def __call__(self, pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Locate the landmarks of faces that fill two thirds of their picture.

        Args:
            pictures: [N,3,S,S] in [-1,1] on the CPU, S = `size`.

        Returns:
            Landmarks [N,468,3] in pixels of the picture, the third the depth, smaller nearer; probability
                [N] that there is a face.
        """
        place = next(self.network.buffers())
        points, presence = self.network((pictures / 2 + 0.5).to(place.device, place.dtype))
        chances = presence.reshape(-1).double().sigmoid()
        return points.reshape(-1, POINTS, 3).double().cpu().numpy(), chances.cpu().numpy()

    def locate(self, pixels: np.ndarray, regions: Sequence[CropTransform]) -> tuple[np.ndarray, np.ndarray]:
        """Locate the landmarks of several faces of one photo.

        Args:
            pixels: photo [H,W,3], uint8 or float in 0..1.
            regions: region of each face, from `region_of`.

        Returns:
            Landmarks [N,468,3] in pixels of the photo, and the probabilities [N] that there is a face.
        """
        if not regions:
            return np.zeros((0, POINTS, 3)), np.zeros(0)
        landmarks, presence = self(torch.stack([_view(pixels, region) for region in regions]))
        places = [_to_photo(found, region) for found, region in zip(landmarks, regions, strict=True)]
        return np.stack(places), presence

    def locate_mirrored(self, pixels: np.ndarray, region: CropTransform) -> np.ndarray:
        """Locate the landmarks of one face in its region and in the mirror image of that.

        Returns:
            Landmarks [2,468,3] in pixels of the photo, numbered alike.
        """
        view = _view(pixels, region)
        landmarks, _ = self(torch.stack([view, view.flip(2)]))
        landmarks[1, :, 0] = self.size - landmarks[1, :, 0]
        landmarks[1] = landmarks[1][mesh_arrays()["mirrored"]]
        return np.stack([_to_photo(found, region) for found in landmarks])


def _view(pixels: np.ndarray, region: CropTransform) -> torch.Tensor:
    """Cut the picture [3,S,S] in [-1,1] of a region, gray where it is outside the photo."""
    picture, mask = warp_crop(pixels, region)
    return picture * (1 - mask)


def _to_photo(landmarks: np.ndarray, region: CropTransform) -> np.ndarray:
    """Map landmarks [468,3] from the region to the photo."""
    return np.concatenate([region.to_photo(landmarks[:, :2]), landmarks[:, 2:] / region.scale], axis=1)


def region_around(
    middle: np.ndarray, box: np.ndarray, eyes: np.ndarray, photo_size: tuple[int, int], size: int = 192
) -> CropTransform:
    """Return the region in which landmarks are looked for.

    Args:
        middle: its center [2].
        box: left, top, right, bottom of the face [4], which sets its size.
        eyes: left and right eye [2,2], sides as seen in the upright picture, which become level.
        photo_size: (height, width) of the photo.
        size: side of the network's picture in pixels.

    Raises:
        ValueError: the box is empty.
    """
    side = float((box[2:] - box[:2]).max()) * _MARGIN
    if not 1e-6 < side < math.inf:
        raise ValueError("The box of the face is empty.")
    across = eyes[1] - eyes[0]
    roll, scale = math.atan2(across[1], across[0]), size / side
    turn = scale * np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    offset = size / 2 - turn @ middle
    return CropTransform(np.concatenate([turn, offset[:, None]], axis=1), photo_size, size)


def region_of_detection(detection: Detection, photo_size: tuple[int, int]) -> CropTransform:
    """Return the region of a detected face, centered on its eyes, nose and mouth.

    The box of a turned head is centered on the cheek, which the network takes for a frontal face.
    """
    middle = detection.keypoints[:4].mean(0)
    return region_around(middle, detection.box, detection.keypoints[:2], photo_size)


def region_of_mesh(mesh: np.ndarray, photo_size: tuple[int, int]) -> CropTransform:
    """Return the region of a face whose landmarks [468 or more, 2 or 3] are known, for another look."""
    flat = mesh[:POINTS, :2]
    box = np.concatenate([flat.min(0), flat.max(0)])
    return region_around((box[:2] + box[2:]) / 2, box, five_points(mesh)[:2], photo_size)


def five_points(mesh: np.ndarray) -> np.ndarray:
    """Return what an InsightFace detector calls the five points of a face.

    Args:
        mesh: landmarks [...,468 or more,2 or 3].

    Returns:
        Left eye, right eye, nose, left and right mouth corner [...,5,2], sides as seen in the upright
        picture.
    """
    parts = (_LEFT_EYE, _RIGHT_EYE, _NOSE, *_MOUTH_CORNERS)
    return np.stack([mesh[..., part, :2].mean(-2) for part in parts], -2)


def landmarks_106(mesh: np.ndarray) -> np.ndarray:
    """Return the landmarks [...,106,2] nearest to InsightFace's 106, of a mesh [...,468 or more,2 or 3]."""
    return mesh[..., mesh_arrays()["landmarks_106"], :2]


def rotation_of_mesh(mesh: np.ndarray) -> np.ndarray:
    """Fit the canonical face to landmarks with depth (weighted Procrustes, Kabsch 1976).

    Args:
        mesh: landmarks [468 or more,3] in pixels, the third the depth, smaller nearer.

    Returns:
        World-to-camera rotation [3,3] of the head, as in `pose`.
    """
    arrays = mesh_arrays()
    canonical, weights = arrays["canonical"], arrays["weights"][:, None]
    seen = mesh[:POINTS] * [1.0, 1.0, DEPTH_SCALE]
    product = ((canonical - (weights * canonical).sum(0)) * weights).T @ (seen - (weights * seen).sum(0))
    u, _, vt = np.linalg.svd(product)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    return np.asarray((u * sign @ vt).T)


@lru_cache(maxsize=1)
def mesh_arrays() -> dict[str, np.ndarray]:
    """Load the arrays of `face_mesh.npz`, which `benchmarks/mesh_pose.py` makes from synthetic heads.

    Returns:
        `canonical`: mean face [468,3], x to the viewer's right, y up, z out of the face; `weights` [468] of
            its points, the steady ones more, sum 1; `mirrored` [468]: number of each landmark in the mirror
            image; `landmarks_106` [106]: number of the landmark nearest to each of InsightFace's.
    """
    with np.load(Path(__file__).with_name("face_mesh.npz")) as data:
        return {
            name: data[name].astype(np.float64 if data[name].dtype.kind == "f" else np.int64)
            for name in data.files
        }


def box_of_mesh(mesh: np.ndarray) -> np.ndarray:
    """Return what an InsightFace detector calls the box of a face [4]: with the forehead, to the ears.

    Args:
        mesh: landmarks [468 or more,2 or 3].
    """
    flat = mesh[:POINTS, :2]
    up = flat[_TOP] - flat[_CHIN]
    middle = (flat.max(0) + flat.min(0)) / 2
    points = middle + (flat - middle) * _BOX_WIDTH
    points = np.concatenate([points, flat[[_TOP]] + up * _FOREHEAD, flat[[_CHIN]]])
    return np.concatenate([points.min(0), points.max(0)])
