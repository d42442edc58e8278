"""What happened to each photo: a table for people, JSON for programs, a contact sheet for the eye."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from ..common.image_ops import to_uint8
from .crop import CropTransform


@dataclass
class FaceReport:
    """One input of `align_faces`. Angles in degrees; pixels of the photo unless said otherwise.

    Attributes:
        index, name: which input.
        kept: whether it is among the results; reason: a sentence that says why not ("" when kept).
        warnings: sentences about a kept photo that may disappoint.
        score: of the detector, 0..1; box: left, top, right, bottom; faces: how many were in the photo.
        boxes: of all these faces; by_hand: what a person decided about this photo ("" where nothing).
        found_by: the detection step that found it, e.g. "640" or "640, turned 90 degrees".
        yaw, pitch, roll: of the head in the crop (yaw > 0: camera at the viewer's right, pitch > 0: above,
            roll > 0: leaning clockwise); photo_roll: how far the photo was turned to stand upright.
        blur: variance of the Laplacian on the 112 x 112 face, low is blurred.
        agreement: mean distance between the detector's points and the landmarks' in pixels of the 512 crop,
            or None.
        identity: cosine to the most typical face of the batch, or None.
        inside: fraction of the crop that the photo covers.
        thumbnail: [h,w,3] uint8, the photo made small, when it was dropped (not in the JSON).
        transform: photo <-> crop; points: [5,2] the detector's points in the crop.
    """

    index: int
    name: str
    kept: bool = False
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    score: float | None = None
    box: tuple[float, float, float, float] | None = None
    faces: int = 0
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    by_hand: str = ""
    found_by: str = ""
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    photo_roll: float | None = None
    blur: float | None = None
    agreement: float | None = None
    identity: float | None = None
    inside: float | None = None
    transform: CropTransform | None = None
    points: np.ndarray | None = None
    thumbnail: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "thumbnail"}
        if self.transform is not None:
            values["transform"] = {
                "matrix": self.transform.matrix.tolist(),
                "photo_size": list(self.transform.photo_size),
                "crop_size": self.transform.crop_size,
            }
        if self.points is not None:
            values["points"] = self.points.tolist()
        return values


_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("score", "score", "{:.2f}"),
    ("yaw", "yaw", "{:+.0f}"),
    ("pitch", "pitch", "{:+.0f}"),
    ("roll", "photo_roll", "{:+.0f}"),
    ("blur", "blur", "{:.0f}"),
    ("agree", "agreement", "{:.0f}"),
    ("same", "identity", "{:.2f}"),
    ("inside", "inside", "{:.2f}"),
)


def format_report(report: Sequence[FaceReport]) -> str:
    """The report as a table in plain text, one line a photo, and a last line with the count."""
    rows = [["photo", "", "face", *(title for title, _, _ in _COLUMNS), ""]]
    for row in report:
        size = "-" if row.box is None else f"{row.box[2] - row.box[0]:.0f}x{row.box[3] - row.box[1]:.0f}"
        values = [getattr(row, name) for _, name, _ in _COLUMNS]
        cells = [
            "-" if v is None else form.format(v) for v, (_, _, form) in zip(values, _COLUMNS, strict=True)
        ]
        name = row.name if len(row.name) <= 32 else "..." + row.name[-29:]
        rows.append(
            [
                name,
                "kept" if row.kept else "DROPPED",
                size,
                *cells,
                " ".join([row.reason, *row.warnings]).strip(),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for cells in rows:
        left = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=False))
        ]
        lines.append("  ".join([*left, cells[-1]]).rstrip())
    kept = sum(row.kept for row in report)
    return "\n".join([*lines, f"{kept} of {len(report)} photos kept."])


def report_to_json(report: Sequence[FaceReport]) -> str:
    """The report as a JSON list, one object a photo."""
    return json.dumps([row.to_dict() for row in report], indent=1)


def contact_sheet(
    report: Sequence[FaceReport], images: torch.Tensor, size: int = 256, columns: int = 4
) -> np.ndarray:
    """Kept crops with their five points and head axes, dropped photos as grey tiles with the reason.

    Args:
        report: one row an input.
        images: [K,3,512,512] in [-1,1], the kept ones in order.
    Returns:
        [H,W,3] uint8.
    """
    from PIL import Image, ImageDraw

    from .pose import project, rotation_of_angles

    kept = iter(images)
    tiles = []
    for row in report:
        if row.kept:
            pixels = to_uint8(next(kept).cpu())
            tile = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(
                (size, size), Image.Resampling.LANCZOS
            )
        else:
            tile = Image.new("RGB", (size, size), (72, 72, 72))
            if row.thumbnail is not None:
                small = Image.fromarray(row.thumbnail // 2)
                small.thumbnail((size, size))
                tile.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
        draw = ImageDraw.Draw(tile)
        if row.kept and row.points is not None and row.yaw is not None:
            zoom = size / 512
            for x, y in row.points * zoom:
                draw.ellipse([x - 3, y - 3, x + 3, y + 3], outline=(255, 255, 255))
            angles = np.radians([row.yaw, row.pitch or 0.0, row.roll or 0.0])
            rotation = rotation_of_angles(*angles)
            axes = (
                project(np.concatenate([np.zeros((1, 3)), np.eye(3) * 0.6]), rotation, np.array([0, 0, 10.0]))
                * zoom
            )
            for end, colour in zip(axes[1:], ((255, 60, 60), (60, 220, 60), (80, 130, 255)), strict=True):
                draw.line([*axes[0], *end], fill=colour, width=max(2, size // 128))
        lines = [row.name, *_wrap(row.reason or " ".join(row.warnings), size // 7)]
        for i, line in enumerate(lines):
            draw.text((5, 4 + 13 * i), line, fill=(255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0))
        tiles.append(np.asarray(tile))
    while len(tiles) % columns and len(tiles) > columns:
        tiles.append(np.zeros((size, size, 3), np.uint8))
    columns = min(columns, len(tiles))
    return np.concatenate(
        [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0
    )


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line] if line else lines
