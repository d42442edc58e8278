"""View coverage of a set of photos: counts by side, advice on missing views, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .report import FaceReport

YAW, PITCH = 60.0, 30.0  # degrees: range of the plot in either direction
SIDE, ENOUGH = 12.0, 2  # yaw in degrees above which a view counts as from the side; views wanted of each kind
FAR, STEP = 20.0, 20  # yaw in degrees beyond which a photo of each side is wanted; step of the counts by yaw
_BACKGROUND, _GRID, _TEXT, _KEPT = (28, 28, 30), (64, 64, 68), (210, 210, 214), (90, 170, 255)


def coverage(report: Sequence[FaceReport]) -> dict[str, int]:
    """Count the kept photos by side: camera yaw beyond 12 degrees to the viewer's left or right, or between.

    Returns:
        Counts for "left", "front" and "right".
    """
    yaws = [row.yaw for row in report if row.kept and row.yaw is not None]
    return {
        "left": sum(yaw < -SIDE for yaw in yaws),
        "front": sum(abs(yaw) <= SIDE for yaw in yaws),
        "right": sum(yaw > SIDE for yaw in yaws),
    }


def describe_coverage(report: Sequence[FaceReport]) -> str:
    """Describe in one line how many views there are from each side and by yaw, and which to add."""
    yaws = [row.yaw for row in report if row.kept and row.yaw is not None]
    if not yaws:
        return _sides(report)
    edges = range(-int(YAW), int(YAW) + 1, STEP)
    counts, _ = np.histogram(np.clip(yaws, -YAW, YAW), edges)
    steps = ", ".join(
        f"{low:+d} to {high:+d}: {count}" for low, high, count in zip(edges, edges[1:], counts, strict=False)
    )
    beyond = {"left": min(yaws) < -FAR, "right": max(yaws) > FAR}
    lacking = [side for side, there in beyond.items() if not there]
    far = f" No photo from the {' or the '.join(lacking)} beyond {FAR:.0f} degrees." if lacking else ""
    return f"{_sides(report)} Yaw in degrees (left is negative): {steps}.{far}"


def _sides(report: Sequence[FaceReport]) -> str:
    """Describe how many views there are from each side, and of which more are wanted."""
    counts = coverage(report)
    text = ", ".join(f"{count} from the {side}" for side, count in counts.items())
    missing = [side for side, count in counts.items() if count < ENOUGH]
    if not missing:
        return f"Views: {text}."
    return f"Views: {text}. More photos from the {' and the '.join(missing)} would help."


def coverage_plot(report: Sequence[FaceReport], width: int = 512, height: int = 288) -> np.ndarray:
    """Plot the cameras of the kept photos by yaw and pitch, with a histogram of yaw below.

    Args:
        report: one row for each photo; angles beyond +-60 (yaw) and +-30 degrees (pitch) are drawn at the
            border.
        width: width of the picture in pixels, at least 160.
        height: height of the picture in pixels, at least 120.

    Returns:
        The picture [height,width,3] uint8.

    Raises:
        ValueError: the picture would be too small to read.
    """
    # Deferred: importing Pillow takes about as long as importing the whole core.
    from PIL import Image, ImageDraw

    if width < 160 or height < 120:
        raise ValueError(f"A coverage plot needs at least 160 x 120 pixels, not {width} x {height}.")
    picture = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    left, right, top, middle, bottom = 34, width - 12, 34, int(height * 0.66), height - 18
    _draw_grid(draw, left, right, top, middle, bottom)
    shown = [
        (row.yaw, row.pitch) for row in report if row.kept and row.yaw is not None and row.pitch is not None
    ]

    def across(yaw: float) -> float:
        return left + (np.clip(yaw, -YAW, YAW) / YAW + 1) / 2 * (right - left)

    for yaw, pitch in shown:
        x, y = across(yaw), middle - (np.clip(pitch, -PITCH, PITCH) / PITCH + 1) / 2 * (middle - top)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=_KEPT, outline=_BACKGROUND)
    counts, edges = np.histogram(np.clip([yaw for yaw, _ in shown], -YAW, YAW), 12, (-YAW, YAW))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        size = count / max(counts.max(), 1) * (bottom - middle - 14)
        if count:
            draw.rectangle([across(low) + 1, bottom - size, across(high) - 1, bottom], fill=_KEPT)
    draw.text((left, 2), _sides(report).replace(". ", ".\n"), fill=_TEXT)
    return np.asarray(picture)


def _draw_grid(draw: Any, left: int, right: int, top: int, middle: int, bottom: int) -> None:
    for yaw in range(-60, 61, 15):
        x = left + (yaw / YAW + 1) / 2 * (right - left)
        draw.line([x, top, x, bottom], fill=_GRID)
        if yaw % 30 == 0:
            draw.text((x - 9, bottom + 3), f"{yaw:+d}", fill=_TEXT)
    for pitch in range(-30, 31, 15):
        y = middle - (pitch / PITCH + 1) / 2 * (middle - top)
        draw.line([left, y, right, y], fill=_GRID)
        draw.text((4, y - 6), f"{pitch:+d}", fill=_TEXT)
    draw.line([left, bottom, right, bottom], fill=_GRID)
