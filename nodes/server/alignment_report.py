"""The photos of Align Faces for the report on its node: small pictures, faces, what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import host

if TYPE_CHECKING:
    from ...my3dgen_core.face import FaceReport

EVENT = "my3dgen.photos"
MOST, PIXELS = 200, 480


def photo_report(photos: list[tuple[str, np.ndarray]], report: list[FaceReport]) -> dict[str, list[Any]]:
    """For a node's `ui`. Photos [H, W, 3] in 0..1 with their rows; of more than 200 the first ones.

    Places are parts of the photo's width and height, as `by_hand` takes them.
    """
    pairs = list(zip(photos, report, strict=False))[:MOST]
    return {"my3dgen_photos": [_entry(pixels, row) for (_, pixels), row in pairs]}


def _entry(pixels: np.ndarray, row: FaceReport) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    size = np.array([width, height])
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
        "file": host.save_temporary("my3dgen_photo", ".jpg", host.jpeg(_small(pixels), 80)),
    }


def _small(pixels: np.ndarray) -> torch.Tensor:
    """[1, 3, h, w] in [-1, 1], 480 px at its longest side at most."""
    picture = torch.from_numpy(np.ascontiguousarray(pixels[..., :3])).permute(2, 0, 1)[None].float() * 2 - 1
    scale = min(1.0, PIXELS / max(pixels.shape[:2]))
    size = [max(1, round(side * scale)) for side in pixels.shape[:2]]
    return torch.nn.functional.interpolate(picture, size, mode="area")
