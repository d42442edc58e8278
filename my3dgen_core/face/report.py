"""Reports of face alignment: one row for each photo, as text table, JSON and contact sheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from ..common.drawn_text import drawable, font_for
from ..common.image_ops import to_uint8
from .crop import CropTransform
from .pose import project_to_crop, rotation_of_angles

_NOT_IN_JSON = ("thumbnail", "mesh", "blendshapes")  # large, and not for a reader


@dataclass
class FaceReport:
    """Report row of one input of `align_faces`.

    Angles are in degrees, lengths in pixels of the photo unless stated otherwise. Values that were not
    measured are None. All fields but `_NOT_IN_JSON` are written to JSON under their names.
    """

    index: int
    """Position of the input in the batch."""
    name: str
    """Name of the photo."""
    kept: bool = False
    """True if the photo is among the results."""
    reason: str = ""
    """Message that says why it was dropped, "" if kept."""
    warnings: list[str] = field(default_factory=list)
    """Messages about possible problems."""
    score: float | None = None
    """Confidence of the detector, 0..1."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom of the chosen face."""
    faces: int = 0
    """Number of faces found in the photo."""
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Boxes of all these faces."""
    by_hand: str = ""
    """Description of the user's overrides, "" if there are none."""
    found_by: str = ""
    """Detection setting that found the face, e.g. "640" or "640, turned 90 degrees"."""
    yaw: float | None = None
    """Yaw of the head in the crop; above 0 the camera is at the viewer's right."""
    pitch: float | None = None
    """Pitch of the head in the crop; above 0 the camera is above."""
    roll: float | None = None
    """Roll of the head in the crop; above 0 it leans clockwise."""
    photo_roll: float | None = None
    """Roll of the face in the photo."""
    blur: float | None = None
    """Variance of the Laplacian of the 112 x 112 face; low is blurred."""
    agreement: float | None = None
    """Mean distance between the detector's points and the landmarks, in pixels of the 512 crop."""
    identity: float | None = None
    """ArcFace cosine to the medoid of the batch, its most typical face."""
    inside: float | None = None
    """Fraction of the crop inside the photo."""
    transform: CropTransform | None = None
    """Transform from photo to crop."""
    points: np.ndarray | None = None
    """Detector's five points [5,2] in the crop."""
    thumbnail: np.ndarray | None = None
    """Small copy [h,w,3] uint8 of a dropped photo."""
    mesh: np.ndarray | None = None
    """Landmarks [468 or more,3] of MediaPipe's face mesh in the crop, the third the depth, or None."""
    blendshapes: dict[str, float] | None = None
    """Weights of expressions by name, if the landmarks came with them."""

    @property
    def face_size(self) -> float:
        """Geometric mean of the sides of `box`, in pixels; 0 if there is none."""
        if self.box is None:
            return 0.0
        left, top, right, bottom = self.box
        return (max(right - left, 0.0) * max(bottom - top, 0.0)) ** 0.5

    def to_dict(self) -> dict[str, Any]:
        """Return all fields but `_NOT_IN_JSON` as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_IN_JSON}
        if self.transform is not None:
            values["transform"] = {
                "matrix": self.transform.matrix.tolist(),
                "photo_size": list(self.transform.photo_size),
                "crop_size": self.transform.crop_size,
            }
        if self.points is not None:
            values["points"] = self.points.tolist()
        return values


MAX_TILES = 64
"""Tiles of a contact sheet: those of a long clip would make a picture that no program opens."""
# Columns of the text table: title, field, format.
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
    """Format the report as a plain-text table: one line for each photo, and a last line with the count."""
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


def join_reasons(rows: Sequence[FaceReport]) -> str:
    """Return one sentence with the names and reasons of rows, an empty text for none."""
    return "; ".join(f"{row.name}: {row.reason.rstrip('.')}" for row in rows) + "." * bool(rows)


def report_to_json(report: Sequence[FaceReport]) -> str:
    """Format the report as a JSON list with one object for each photo."""
    return json.dumps([row.to_dict() for row in report], indent=1)


def contact_sheet(
    report: Sequence[FaceReport],
    images: torch.Tensor | Sequence[torch.Tensor],
    size: int = 256,
    columns: int = 4,
) -> np.ndarray:
    """Draw kept crops with their five points and head axes, and dropped photos as gray tiles with the reason.

    Args:
        report: one row for each input. Of more than `MAX_TILES`, as many as fit are shown, spread evenly, and
            the last tile says so.
        images: kept crops [K,3,512,512] in [-1,1], in order.
        size: side of a tile in pixels.
        columns: largest number of tiles in a row.

    Returns:
        The sheet [H,W,3] uint8.
    """
    # Deferred: importing Pillow takes about as long as importing the whole core.
    from PIL import Image, ImageDraw

    labels = {row.name: drawable(row.name, f"photo {row.index + 1}") for row in report}
    labels = {name: label for name, label in labels.items() if name != label}
    crops = list(accumulate((row.kept for row in report), initial=0))  # index of each kept row's crop
    count = len(report)
    shown = range(count)
    if count > MAX_TILES:
        shown = np.linspace(0, count - 1, MAX_TILES - 1).round().astype(int).tolist()
    tiles = []
    for index in shown:
        row = report[index]
        if row.kept:
            pixels = to_uint8(images[crops[index]].cpu())
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
            ends = np.concatenate([np.zeros((1, 3)), np.eye(3) * 0.6])
            axes = project_to_crop(ends, rotation, np.array([0, 0, 10.0])) * zoom
            for end, color in zip(axes[1:], ((255, 60, 60), (60, 220, 60), (80, 130, 255)), strict=True):
                draw.line([*axes[0], *end], fill=color, width=max(2, size // 128))
        text = row.reason or " ".join(row.warnings)
        for name, label in labels.items():  # "Nearly the same picture as ..."
            text = text.replace(name, label)
        lines = [labels.get(row.name, row.name), *_wrap(text, size // 7)]
        for i, line in enumerate(lines):
            draw.text(
                (5, 4 + 13 * i),
                line,
                fill=(255, 255, 255),
                font=font_for(line),
                stroke_width=2,
                stroke_fill=(0, 0, 0),
            )
        tiles.append(np.asarray(tile))
    if count > MAX_TILES:
        tile = Image.new("RGB", (size, size))
        note = f"{len(shown)} of {count} are shown, spread evenly. The report lists them all."
        for i, line in enumerate(_wrap(note, size // 7)):
            ImageDraw.Draw(tile).text((5, 4 + 13 * i), line, fill=(255, 255, 255))
        tiles.append(np.asarray(tile))
    while len(tiles) % columns and len(tiles) > columns:
        tiles.append(np.zeros((size, size, 3), np.uint8))
    columns = min(columns, len(tiles))
    return np.concatenate(
        [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0
    )


def _wrap(text: str, width: int) -> list[str]:
    """Break a text between words into lines of at most `width` letters."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line] if line else lines
