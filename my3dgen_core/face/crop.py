"""EG3D's face crop as one continuous, antialiased warp, and the way back into the photo.

Source: EG3D's description of its in-the-wild pipeline (weak-perspective fit of five points, 1024 crop at 300
pixels a decimetre, centre 700, resized to 512). Coordinates are edge coordinates (see detect.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

CROP_SIZE = 512
# The five points of EG3D's standard face, in decimetres: x to the viewer's right, y up, z out of the face.
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
# SCRFD's points lie a little differently from those that EG3D's crops were made with (measured on real
# photos).
_SCRFD_ZOOM, _SCRFD_SHIFT_Y = 0.977, -2.7


@dataclass(frozen=True)
class CropTransform:
    """Where a crop came from: crop = matrix @ (x, y, 1) for photo points, both in edge coordinates.

    Attributes:
        matrix: [2,3] photo -> crop, a similarity.
        photo_size: (height, width) of the photo.
        crop_size: side of the square crop.
    """

    matrix: np.ndarray
    photo_size: tuple[int, int]
    crop_size: int = CROP_SIZE

    @property
    def scale(self) -> float:
        """Crop pixels per photo pixel."""
        return float(math.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @property
    def inverse(self) -> np.ndarray:
        """[2,3] crop -> photo."""
        linear = np.linalg.inv(self.matrix[:, :2])
        return np.concatenate([linear, -linear @ self.matrix[:, 2:]], axis=1)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Photo points [...,2] -> crop points."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Crop points [...,2] -> photo points."""
        inverse = self.inverse
        return points @ inverse[:, :2].T + inverse[:, 2]


def weak_perspective(
    points: np.ndarray, model: np.ndarray = STANDARD_POINTS
) -> tuple[np.ndarray, float, np.ndarray]:
    """Fit points [M,2] (y up) = scale * R[:2] @ model + shift by linear least squares ("POS").

    Returns:
        rows: [2,3] the two fitted rows, each of length 1; scale: mean length of the rows; shift: [2].
    """
    system = np.concatenate([model, np.ones((len(model), 1))], axis=1)
    solution = np.linalg.lstsq(system, points, rcond=None)[0].T  # [2,4]
    lengths = np.linalg.norm(solution[:, :3], axis=1)
    return solution[:, :3] / lengths[:, None].clip(1e-9), float(lengths.mean()), solution[:, 3]


def roll_of_points(points: np.ndarray) -> float:
    """How far the face of five points [5,2] leans clockwise, in radians, from eyes and mouth."""
    across = points[1] - points[0] + points[4] - points[3]
    down = (points[3] + points[4] - points[0] - points[1]) / 2
    axis = across / 2 + np.array([down[1], -down[0]])
    return float(math.atan2(axis[1], axis[0]))


def crop_transform(
    points: np.ndarray, photo_size: tuple[int, int], upright: bool = True, detector_offset: bool = True
) -> CropTransform:
    """The crop that EG3D makes of a face.

    Args:
        points: [5,2] left eye, right eye, nose, left and right mouth corner in the photo.
        photo_size: (height, width).
        upright: turn the face upright first; otherwise its roll stays in the picture (and in the camera
            label).
        detector_offset: correct for SCRFD's points; False gives the plain formula.
    Raises:
        ValueError: the points do not span a face.
    """
    roll = roll_of_points(points) if upright else 0.0
    turn = np.array(
        [[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]]
    )  # takes the lean away
    _, scale, shift = weak_perspective((points @ turn.T) * [1, -1])
    if not scale > 1e-6:
        raise ValueError("The five points of the face fall together.")
    zoom, shift_y = (_SCRFD_ZOOM, _SCRFD_SHIFT_Y) if detector_offset else (1.0, 0.0)
    factor = PIXELS_PER_UNIT / scale * zoom
    centre = np.array([shift[0], -shift[1]])
    offset = CROP_SIZE / 2 - factor * centre - np.array([0.0, shift_y])
    return CropTransform(np.concatenate([factor * turn, offset[:, None]], axis=1), photo_size)


def warp_crop(pixels: np.ndarray, transform: CropTransform) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a crop out of the full-resolution photo.

    Pixels outside the photo are filled by reflection at its edge. Shrinking is antialiased, then one cubic
    interpolation.

    Args:
        pixels: [H,W,3] uint8 or float in 0..1.
    Returns:
        image [3,S,S] in [-1,1] and mask [1,S,S] that is 1 where the photo had no pixel.
    """
    height, width = transform.photo_size
    if pixels.shape[:2] != (height, width):
        raise ValueError(
            f"The transform is for a {width} x {height} photo, this one is {pixels.shape[1::-1]}."
        )
    size = transform.crop_size
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    inverse = torch.from_numpy(transform.inverse)
    x = inverse[0, 0] * centres + inverse[0, 1] * centres[:, None] + inverse[0, 2]  # [S,S] photo coordinates
    y = inverse[1, 0] * centres + inverse[1, 1] * centres[:, None] + inverse[1, 2]
    mask = ((x < 0) | (x > width) | (y < 0) | (y > height)).float()[None]
    x, y = _reflect(x, width), _reflect(y, height)

    # only the part of the photo that the crop sees, with room for the filters
    room = math.ceil(3 / min(1.0, transform.scale)) + 2
    left, right = max(0, math.floor(x.min()) - room), min(width, math.ceil(x.max()) + room)
    top, bottom = max(0, math.floor(y.min()) - room), min(height, math.ceil(y.max()) + room)
    part = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).permute(2, 0, 1)[None]
    shrunk = [max(1, round(side * min(1.0, transform.scale))) for side in part.shape[2:]]
    if shrunk != list(part.shape[2:]):
        part = F.interpolate(part, shrunk, mode="bicubic", antialias=True, align_corners=False)
    part = part.float() / 255 if pixels.dtype == np.uint8 else part
    grid = torch.stack([(x - left) / (right - left) * 2 - 1, (y - top) / (bottom - top) * 2 - 1], -1)
    image = F.grid_sample(
        part, grid[None].float(), mode="bicubic", padding_mode="border", align_corners=False
    )[0]
    return image.clamp(0, 1) * 2 - 1, mask


def _reflect(values: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror coordinates at 0 and size, as often as needed."""
    folded = values.remainder(2 * size)
    return torch.minimum(folded, 2 * size - folded)


def paste_back(
    pixels: np.ndarray,
    transform: CropTransform,
    crop: torch.Tensor,
    mask: torch.Tensor | None = None,
    feather: int = 24,
) -> np.ndarray:
    """Put an edited crop back into its photo, with a soft edge.

    Args:
        pixels: the photo [H,W,3], uint8 or float in 0..1.
        crop: [3,S,S] in [-1,1] (any S).
        mask: [1,S,S] in 0..1, 1 = take the crop; None takes all of it.
        feather: width of the soft edge, in pixels of a 512 crop.
    Returns:
        a new photo of the same size and type.
    """
    height, width = transform.photo_size
    corners = transform.to_photo(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * float(transform.crop_size))
    left, top = np.floor(corners.min(0)).astype(int).clip(0, [width, height])
    right, bottom = np.ceil(corners.max(0)).astype(int).clip(0, [width, height])
    if left >= right or top >= bottom:
        return pixels.copy()
    x, y = torch.arange(left, right) + 0.5, torch.arange(top, bottom)[:, None] + 0.5
    matrix = torch.from_numpy(transform.matrix).float() * (2 / transform.crop_size)
    grid = torch.stack([row[0] * x + row[1] * y + row[2] - 1 for row in matrix], -1)[
        None
    ]  # [1,h,w,2] in [-1,1]
    source = crop[None].float().clamp(-1, 1)
    shrink = source.shape[-1] * transform.scale / transform.crop_size  # crop pixels per photo pixel
    if shrink > 1:
        smaller = max(1, round(source.shape[-1] / shrink))
        source = F.interpolate(source, smaller, mode="bilinear", antialias=True, align_corners=False)
    new = F.grid_sample(source, grid, mode="bicubic", padding_mode="border", align_corners=False)[0].clamp(
        -1, 1
    )
    soft = max(feather, 1) / transform.crop_size * 2
    weight = ((1 - grid[0].abs().amax(-1)) / soft).clamp(0, 1)  # [h,w], 0 at the crop's edge
    if mask is not None:
        weight = (
            weight * F.grid_sample(mask[None].float(), grid, padding_mode="border", align_corners=False)[0, 0]
        )
    weight = weight[..., None]
    result = pixels.copy()
    full = 255.0 if pixels.dtype == np.uint8 else 1.0
    old = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).float()
    mixed = old * (1 - weight) + (new.permute(1, 2, 0) + 1) / 2 * full * weight
    result[top:bottom, left:right] = (mixed.round() if full == 255 else mixed).numpy().astype(pixels.dtype)
    return result
