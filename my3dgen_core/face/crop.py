"""EG3D's face crop as one continuous, antialiased warp; `paste` holds the inverse.

Source: EG3D's description of its in-the-wild preprocessing: a weak-perspective fit of five points, a crop of
1024 pixels at 300 pixels per decimeter, its central 700 resized to 512. Coordinates are edge coordinates, see
`detect`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

CROP_SIZE = 512
"""Side of EG3D's crop in pixels."""
# Five points of EG3D's standard face, in decimeters: x to the viewer's right, y up, z out of the face.
STANDARD_POINTS = np.array(
    [
        [-0.311487, 0.290361, 0.133780],
        [0.309799, 0.289720, 0.131795],
        [0.003253, -0.046179, 0.552442],
        [-0.252169, -0.381339, 0.224057],
        [0.248466, -0.381282, 0.222358],
    ]
)
PIXELS_PER_UNIT = 300.0 * CROP_SIZE / 700.0
"""Crop pixels per decimeter of the standard face."""
# Correction of zoom and height (crop pixels) for SCRFD, whose points differ a little from those of the
# detector that EG3D's crops were made with; measured on real photos.
_SCRFD_ZOOM, _SCRFD_SHIFT_Y = 0.977, -2.7


@dataclass(frozen=True)
class CropTransform:
    """Similarity transform from photo to crop: crop = matrix @ (x, y, 1), both in edge coordinates."""

    matrix: np.ndarray
    """Photo to crop [2,3]: rotation, scale and shift."""
    photo_size: tuple[int, int]
    """(height, width) of the photo."""
    crop_size: int = CROP_SIZE
    """Side of the square crop."""

    @property
    def scale(self) -> float:
        """Crop pixels per photo pixel."""
        return float(math.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @property
    def inverse(self) -> np.ndarray:
        """Crop to photo [2,3]."""
        linear = np.linalg.inv(self.matrix[:, :2])
        return np.concatenate([linear, -linear @ self.matrix[:, 2:]], axis=1)

    def for_photo_size(self, height: int, width: int) -> CropTransform:
        """Return the transform of the same crop for a larger or smaller copy of the photo.

        Args:
            height: height of the copy in pixels.
            width: width of the copy in pixels.

        Raises:
            ValueError: the copy has other proportions, so it is another photo.
        """
        if (height, width) == self.photo_size:
            return self
        old_height, old_width = self.photo_size
        zoom = math.sqrt(height * width / (old_height * old_width))
        if abs(height - zoom * old_height) > 1.5 or abs(width - zoom * old_width) > 1.5:
            raise ValueError(
                f"The crop comes from a photo of {old_width} x {old_height} pixels, and this photo of "
                f"{width} x {height} has other proportions. Give the photo that was aligned."
            )
        matrix = self.matrix.copy()
        matrix[:, :2] /= zoom
        return replace(self, matrix=matrix, photo_size=(height, width))

    def wider(self, factor: float) -> CropTransform:
        """Return a crop of the same size and center that shows `factor` times as much on either axis.

        Raises:
            ValueError: the factor is not a finite number above 0.
        """
        if not 0 < factor < math.inf:
            raise ValueError(f"A crop can be widened by a number above 0, not by {factor}.")
        matrix = self.matrix / factor
        matrix[:, 2] += self.crop_size / 2 * (1 - 1 / factor)
        return replace(self, matrix=matrix)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Map photo points [...,2] to the crop."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Map crop points [...,2] to the photo."""
        inverse = self.inverse
        return points @ inverse[:, :2].T + inverse[:, 2]


def weak_perspective(
    points: np.ndarray, model: np.ndarray = STANDARD_POINTS
) -> tuple[np.ndarray, float, np.ndarray]:
    """Fit a weak-perspective camera, points = scale * R[:2] @ model + shift, by linear least squares (POS).

    Args:
        points: picture points [M,2], y up.
        model: the same points of a face [M,3].

    Returns:
        The first two rows of the rotation [2,3], each of length 1 but not made orthogonal; the scale, mean of
            their fitted lengths; the shift [2].
    """
    system = np.concatenate([model, np.ones((len(model), 1))], axis=1)
    solution = np.linalg.lstsq(system, points, rcond=None)[0].T  # [2,4]
    lengths = np.linalg.norm(solution[:, :3], axis=1)
    return solution[:, :3] / lengths[:, None].clip(1e-9), float(lengths.mean()), solution[:, 3]


def roll_of_points(points: np.ndarray) -> float:
    """Clockwise roll in radians of a face with five points [5,2], from its eyes and mouth."""
    across = points[1] - points[0] + points[4] - points[3]
    down = (points[3] + points[4] - points[0] - points[1]) / 2
    axis = across / 2 + np.array([down[1], -down[0]])
    return float(math.atan2(axis[1], axis[0]))


def crop_transform(
    points: np.ndarray, photo_size: tuple[int, int], upright: bool = True, detector_offset: bool = True
) -> CropTransform:
    """Return EG3D's crop of a face.

    Args:
        points: left eye, right eye, nose, left and right mouth corner in the photo [5,2].
        photo_size: (height, width) of the photo.
        upright: rotate the face upright; False leaves its roll in the crop (and in the camera label).
        detector_offset: correct for SCRFD's points; False gives EG3D's plain formula.

    Raises:
        ValueError: the points do not span a face.
    """
    roll = roll_of_points(points) if upright else 0.0
    turn = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])  # removes the roll
    _, scale, shift = weak_perspective((points @ turn.T) * [1, -1])
    if not scale > 1e-6:
        raise ValueError("The five points of the face fall together.")
    zoom, shift_y = (_SCRFD_ZOOM, _SCRFD_SHIFT_Y) if detector_offset else (1.0, 0.0)
    factor = PIXELS_PER_UNIT / scale * zoom
    center = np.array([shift[0], -shift[1]])
    offset = CROP_SIZE / 2 - factor * center - np.array([0.0, shift_y])
    return CropTransform(np.concatenate([factor * turn, offset[:, None]], axis=1), photo_size)


def warp_crop(pixels: np.ndarray, transform: CropTransform) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a crop out of the full-resolution photo.

    Pixels outside the photo are padded by reflection at its edge. Shrinking is antialiased; one bicubic
    interpolation follows.

    Args:
        pixels: photo [H,W,3], uint8 or float in 0..1.
        transform: the crop.

    Returns:
        The crop [3,S,S] in [-1,1], and a mask [1,S,S] that is 1 where it was padded.

    Raises:
        ValueError: the transform is for a photo of another size.
    """
    height, width = transform.photo_size
    if pixels.shape[:2] != (height, width):
        raise ValueError(
            f"The transform is for a {width} x {height} photo, this one is {pixels.shape[1::-1]}."
        )
    grid = _SamplingGrid(transform)
    left, top, right, bottom = grid.window
    part = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).permute(2, 0, 1)
    return grid.sample(part) * 2 - 1, grid.mask


def warp_mask(mask: torch.Tensor, transform: CropTransform) -> torch.Tensor:
    """Cut a mask of a photo like `warp_crop` cuts the photo, with the same padding.

    Args:
        mask: [h,w] in 0..1, of the photo's size or in another size of the same proportions.
        transform: the crop.

    Returns:
        [1,S,S] in 0..1.

    Raises:
        ValueError: the mask has other proportions than the photo.
    """
    grid = _SamplingGrid(transform.for_photo_size(mask.shape[0], mask.shape[1]))
    left, top, right, bottom = grid.window
    return grid.sample(mask[None, top:bottom, left:right])


def warp_crops(
    images: torch.Tensor, transforms: Sequence[CropTransform]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut crops out of a batch of picture tensors like `warp_crop`; differentiable in the pictures.

    Args:
        images: pictures [N,3,H,W] in [-1,1], on any device.
        transforms: N crops of such pictures, all of one crop size.

    Returns:
        The crops [N,3,S,S] in [-1,1], and masks [N,1,S,S] that are 1 where they were padded.

    Raises:
        ValueError: the number of transforms or their photo size does not match the pictures.
    """
    sizes = {transform.photo_size for transform in transforms}
    if len(images) != len(transforms) or sizes - {tuple(images.shape[2:])}:
        raise ValueError(
            f"{len(images)} pictures of {list(images.shape[2:])} pixels do not go with {len(transforms)} "
            f"crops of {', '.join(str(list(size)) for size in sizes)} pixels."
        )
    crops, masks = [], []
    for image, transform in zip(images, transforms, strict=True):
        grid = _SamplingGrid(transform)
        left, top, right, bottom = grid.window
        crops.append(grid.sample((image[:, top:bottom, left:right] + 1) / 2) * 2 - 1)
        masks.append(grid.mask.to(image))
    return torch.stack(crops), torch.stack(masks)


class _SamplingGrid:
    """Sampling positions of a crop in its photo.

    Attributes:
        mask: [1,S,S], 1 where the position lies outside the photo.
        window: left, top, right, bottom of the part of the photo that is needed, with a margin for the
            filters.
    """

    def __init__(self, transform: CropTransform) -> None:
        height, width = transform.photo_size
        self._scale = min(1.0, transform.scale)
        centers = torch.arange(transform.crop_size, dtype=torch.float64) + 0.5
        inverse = torch.from_numpy(transform.inverse)
        x = inverse[0, 0] * centers + inverse[0, 1] * centers[:, None] + inverse[0, 2]  # [S,S] in the photo
        y = inverse[1, 0] * centers + inverse[1, 1] * centers[:, None] + inverse[1, 2]
        self.mask = ((x < 0) | (x > width) | (y < 0) | (y > height)).float()[None]
        x, y = _reflect(x, width), _reflect(y, height)
        room = math.ceil(3 / self._scale) + 2
        left, right = max(0, math.floor(x.min()) - room), min(width, math.ceil(x.max()) + room)
        top, bottom = max(0, math.floor(y.min()) - room), min(height, math.ceil(y.max()) + room)
        self.window = left, top, right, bottom
        self._grid = torch.stack(
            [(x - left) / (right - left) * 2 - 1, (y - top) / (bottom - top) * 2 - 1], -1
        )[None].float()

    def sample(self, part: torch.Tensor) -> torch.Tensor:
        """Sample the crop [3,S,S] in 0..1 from the window's pixels [3,h,w], uint8 or float in 0..1."""
        picture = part[None]
        shrunk = [max(1, round(side * self._scale)) for side in part.shape[1:]]
        if shrunk != list(part.shape[1:]):
            picture = F.interpolate(picture, shrunk, mode="bicubic", antialias=True, align_corners=False)
        picture = picture.float() / 255 if part.dtype == torch.uint8 else picture.float()
        grid = self._grid.to(picture.device)
        sampled = F.grid_sample(picture, grid, mode="bicubic", padding_mode="border", align_corners=False)
        return sampled[0].clamp(0, 1)


def _reflect(values: torch.Tensor, size: int) -> torch.Tensor:
    """Reflect coordinates at 0 and `size`, as often as needed."""
    folded = values.remainder(2 * size)
    return torch.minimum(folded, 2 * size - folded)
