"""Plots and sheets as IMAGE, drawn with Pillow: labeled pictures, the training loss, camera positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..my3dgen_core.camera import ViewRange

MARGIN = 8
INK, FAINT, PAPER, LINE = (32, 32, 36), (140, 140, 148), (255, 255, 255), (38, 99, 170)
LAST, TRAINED = (196, 60, 50), (236, 238, 242)
"""Colors of the last camera, and of the range of views that the generator was trained on."""


def sheet(
    columns: Sequence[str], labels: Sequence[str], rows: Sequence[Sequence[Tensor]], cell: int
) -> Tensor:
    """Draw a table of pictures as IMAGE [1,H,W,3], with the core's `sheet`.

    Args:
        columns: titles of the columns.
        labels: one label per row.
        rows: pictures [3, h, w] in [-1, 1] of each row.
        cell: side of a picture in the sheet, in pixels.
    """
    from ..my3dgen_core.evaluation.picture_table import sheet as draw_sheet

    return to_image(draw_sheet(columns, labels, rows, cell))


def loss_plot(history: Sequence[float], width: int = 640, height: int = 320) -> Tensor:
    """Plot the loss over steps, smoothed by a running mean, on a logarithmic scale, as IMAGE [1,H,W,3]."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(canvas), _font(12)
    values = [value for value in history if math.isfinite(value) and value > 0]
    left, top, right, bottom = 56, 16, width - 12, height - 28
    draw.rectangle((left, top, right, bottom), outline=FAINT)
    if not values:
        draw.text((left + MARGIN, top + MARGIN), "no loss was recorded", fill=FAINT, font=font)
        return to_image(canvas)
    window = max(1, len(values) // 40)
    smooth = [
        sum(values[max(0, i - window) : i + 1]) / (i + 1 - max(0, i - window)) for i in range(len(values))
    ]
    low, high = math.log(min(smooth)), math.log(max(smooth))
    span = max(high - low, 1e-6)
    points = [
        (
            left + (right - left) * i / max(1, len(smooth) - 1),
            bottom - (bottom - top) * (math.log(value) - low) / span,
        )
        for i, value in enumerate(smooth)
    ]
    draw.line(points if len(points) > 1 else [points[0], points[0]], fill=LINE, width=2)
    for value, y in ((max(smooth), top), (min(smooth), bottom)):
        draw.text((4, y - 6), f"{value:.3g}", fill=INK, font=font)
    draw.text((left, bottom + 6), f"training loss over {len(values)} steps", fill=INK, font=font)
    return to_image(canvas)


def camera_plot(cameras: Tensor, trained: ViewRange | None, size: int = 320) -> Tensor:
    """Plot cameras [N, 25] by yaw (across) and pitch (up) in degrees, as IMAGE [1,size,size,3].

    The color runs from blue, the first camera, to red, the last. A gray field is the trained range of views.
    """
    from PIL import Image, ImageDraw

    from ..my3dgen_core.camera import angles

    yaw, pitch = (torch.rad2deg(values).tolist() for values in angles(cameras.detach().float().cpu())[:2])
    canvas = Image.new("RGB", (size, size), PAPER)
    draw, font = ImageDraw.Draw(canvas), _font(11)
    reach = max(30.0, 1.15 * max(map(abs, (*yaw, *pitch))))

    def place(x: float, y: float) -> tuple[float, float]:
        return size / 2 * (1 + 0.9 * x / reach), size / 2 * (1 - 0.9 * y / reach)

    if trained is not None:
        wide, high = min(trained.yaw, 1.1 * reach), min(trained.pitch, 1.1 * reach)
        draw.rectangle((*place(-wide, high), *place(wide, -high)), fill=TRAINED)
    for line in ((place(-reach, 0), place(reach, 0)), (place(0, -reach), place(0, reach))):
        draw.line(line, fill=FAINT)
    draw.text((size - 92, size / 2 + 4), f"yaw {reach:.0f} deg", fill=FAINT, font=font)
    draw.text((size / 2 + 6, 4), f"pitch {reach:.0f} deg", fill=FAINT, font=font)
    points = [place(x, y) for x, y in zip(yaw, pitch, strict=True)]
    if len(points) > 1:
        draw.line(points, fill=FAINT)
    for number, (x, y) in enumerate(points):
        share = number / max(1, len(points) - 1)
        ink = tuple(round(a + share * (b - a)) for a, b in zip(LINE, LAST, strict=True))
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=ink)
    return to_image(canvas)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def to_image(canvas: Any) -> Tensor:
    """Convert a Pillow image or pixels [H,W,3] uint8 to IMAGE [1,H,W,3]."""
    import numpy as np

    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255)[None]
