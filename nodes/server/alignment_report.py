"""Photo report of Align Faces for the widget on its node: thumbnails, faces found, decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import host

if TYPE_CHECKING:
    from ...my3dgen_core.face import FaceReport

EVENT = "my3dgen.photos"
MAX_PHOTOS, PIXELS = 200, 480
"""Photos in a report, and the longest side of their thumbnails."""


def photo_report(
    photos: list[tuple[str, np.ndarray]],
    report: list[FaceReport],
    sizes: list[tuple[int, int]] | None = None,
) -> dict[str, list[Any]]:
    """Return the `ui` entry of the photo report, for the first 200 photos.

    Args:
        photos: (name, picture) of each photo: [H, W, 3], floats in 0..1 or uint8.
        report: the row of each photo.
        sizes: (height, width) of each photo, if its picture is a small copy.

    Returns:
        Boxes and points are fractions of the photo's width and height, as in the input `by_hand`.
    """
    sizes = sizes or [(pixels.shape[0], pixels.shape[1]) for _, pixels in photos]
    entries = list(zip(photos, sizes, report, strict=False))[:MAX_PHOTOS]
    return {"my3dgen_photos": [_entry(pixels, size, row) for (_, pixels), size, row in entries]}


def _entry(pixels: np.ndarray, photo_size: tuple[int, int], row: FaceReport) -> dict[str, Any]:
    """Return one photo of the report, and save its thumbnail."""
    size = np.array(photo_size[::-1])
    points = None
    if row.points is not None and row.transform is not None:
        points = (row.transform.to_photo(row.points) / size).round(4).tolist()
    boxes = row.boxes or ([row.box] if row.box else [])
    return {
        "name": row.name,
        "kept": row.kept,
        "reason": row.reason,
        "warnings": row.warnings,
        "by_hand": row.by_hand,
        "boxes": [(np.array(box) / np.tile(size, 2)).round(4).tolist() for box in boxes],
        "points": points,
        "file": host.save_temporary("my3dgen_photo", ".jpg", host.jpeg(_thumbnail(pixels), 80)),
    }


def _thumbnail(pixels: np.ndarray) -> torch.Tensor:
    """Shrink a photo [H, W, 3] to a longest side of 480 px; return it as [1, 3, h, w] in [-1, 1]."""
    full = 255 if pixels.dtype == np.uint8 else 1
    picture = torch.from_numpy(np.ascontiguousarray(pixels[..., :3])).permute(2, 0, 1)[None].float()
    picture = picture * (2 / full) - 1
    scale = min(1.0, PIXELS / max(pixels.shape[:2]))
    size = [max(1, round(side * scale)) for side in pixels.shape[:2]]
    return torch.nn.functional.interpolate(picture, size, mode="area")
