"""Pictures made of pictures: the labelled sheet and the loss plot, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MARGIN = 8
INK, FAINT, PAPER, LINE = (32, 32, 36), (140, 140, 148), (255, 255, 255), (38, 99, 170)


def sheet(
    columns: Sequence[str], labels: Sequence[str], rows: Sequence[Sequence[Tensor]], cell: int
) -> Tensor:
    """The core's table of pictures as IMAGE [1,H,W,3]."""
    from ..my3dgen_core.evaluation.figure import sheet as drawn

    return _to_image(drawn(columns, labels, rows, cell))


def loss_plot(history: Sequence[float], width: int = 640, height: int = 320) -> Tensor:
    """Loss over steps on a logarithmic scale, smoothed by a running mean. IMAGE [1,H,W,3]."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(canvas), _font(12)
    values = [value for value in history if math.isfinite(value) and value > 0]
    left, top, right, bottom = 56, 16, width - 12, height - 28
    draw.rectangle((left, top, right, bottom), outline=FAINT)
    if not values:
        draw.text((left + MARGIN, top + MARGIN), "no loss was recorded", fill=FAINT, font=font)
        return _to_image(canvas)
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
    return _to_image(canvas)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _to_image(canvas: Any) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255)[None]
