"""Labeled tables of pictures, drawn with Pillow, and the paper's figure.

Pillow is imported in functions, because it would take a good part of the core's import time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.drawn_text import drawable, font_for
from ..common.image_ops import to_pixels

MARGIN = 8
"""Pixels between pictures and at the border."""
MAX_SIDE, MIN_CELL = 8192, 16
"""Longest side of a table, and the smallest edge of a picture in it, in pixels."""
INK, FAINT, PAPER = (32, 32, 36), (140, 140, 148), (255, 255, 255)
"""RGB colors of titles, of labels, and of the background."""


def sheet(
    columns: Sequence[str],
    labels: Sequence[str],
    rows: Sequence[Sequence[Tensor]],
    cell: int,
    footers: Sequence[str] = (),
) -> np.ndarray:
    """Draw a table of pictures.

    Args:
        columns: title of each column; "\\n" starts a smaller second line.
        labels: line under each row; "" for none.
        rows: pictures [3, H, W] in [-1, 1], one for each column.
        cell: edge of a picture in the table, in pixels; less where the table would exceed `MAX_SIDE`.
        footers: line under each column; empty: none.

    Returns:
        [H, W, 3] uint8.
    """
    from PIL import Image, ImageDraw

    widest = MAX_SIDE // max(1, len(columns)) - 2 * MARGIN
    highest = (MAX_SIDE // (len(rows) + 1) - 2 * MARGIN) * 12 // 13  # a label has a twelfth of the cell
    cell = min(cell, max(MIN_CELL, min(widest, highest)))
    title, small = font(max(12, cell // 14)), font(max(10, cell // 18))
    line = max(14, cell // 12)
    head = MARGIN + 2 * line
    row_height = cell + (line if any(labels) else 0) + MARGIN
    width = MARGIN + len(columns) * (cell + MARGIN)
    foot = head + len(rows) * row_height
    canvas = Image.new("RGB", (width, foot + (line + MARGIN if footers else 0)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, text in enumerate(columns):
        x = MARGIN + number * (cell + MARGIN)
        for at, (part, letters) in enumerate(zip(text.split("\n"), (title, small), strict=False)):
            part = drawable(part, f"{number + 1}")
            draw.text(
                (x, MARGIN + at * line),
                part,
                fill=INK if at == 0 else FAINT,
                font=font_for(part, letters.size) or letters,
            )
    for row, (label, pictures) in enumerate(zip(labels, rows, strict=True)):
        y = head + row * row_height
        for number, picture in enumerate(pictures):
            x = MARGIN + number * (cell + MARGIN)
            canvas.paste(_cell(picture, cell), (x, y))
        label = drawable(label, f"{row + 1}")
        draw.text((MARGIN, y + cell + 1), label, fill=FAINT, font=font_for(label, small.size) or small)
    for number, text in enumerate(footers):
        draw.text((MARGIN + number * (cell + MARGIN), foot), text, fill=INK, font=small)
    canvas.thumbnail((MAX_SIDE, MAX_SIDE))  # several hundred rows are too high even in the smallest cell
    return np.array(canvas)


def paper_figure(
    persons: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    parameters: Mapping[str, int | None],
    cell: int = 160,
) -> np.ndarray:
    """Draw My3DGen's figure: one row for each person, two views of the target and of each method.

    Args:
        persons: for each person, two views [2, 3, H, W] in [-1, 1] by column ("target", "pretrained", "full",
            "LoRA"); the columns of the first person are those of the figure.
        names: line under each person's row.
        parameters: number of trained parameters by column, written under it; None or no entry: no footer.
        cell: edge of a picture in pixels.

    Returns:
        [H, W, 3] uint8.

    Raises:
        ValueError: no person, another number of names, or a person without two views of each column.
    """
    if not persons or len(persons) != len(names):
        raise ValueError(f"{len(persons)} persons and {len(names)} names do not make a figure.")
    methods = list(persons[0])
    for person, name in zip(persons, names, strict=True):
        for method in methods:
            if method not in person or len(person[method]) != 2:
                raise ValueError(f"{name} needs two views of {method!r}.")

    def footer(method: str) -> str:
        count = parameters.get(method)
        return "" if count is None else f"{count:,} parameters"

    return sheet(
        [title for method in methods for title in (method, "")],
        names,
        [[view for method in methods for view in person[method]] for person in persons],
        cell,
        [text for method in methods for text in (footer(method), "")],
    )


def font(size: int) -> Any:
    """Return Pillow's default font in a size in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _cell(picture: Tensor, size: int) -> Any:
    """Resize a picture [3, H, W] in [-1, 1] to a Pillow image of size x size."""
    from PIL import Image

    pixels = torch.nn.functional.interpolate(
        picture[None].float().cpu(), (size, size), mode="bilinear", antialias=True
    )[0]
    array = to_pixels(pixels)
    return Image.fromarray(array)
