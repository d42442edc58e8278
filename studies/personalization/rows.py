"""Rows of the personalization study: names of methods and columns, selection and means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

Row = dict[str, Any]
MEAN, NEAREST, PIVOTAL = "mean anchor", "nearest inversion", "nearest pivotal tuning"
ORDER = (
    MEAN, NEAREST, PIVOTAL, "LyCORIS r=1", "LyCORIS r=2", "LoRA r=1", "LoRA r=2", "LoRA r=4", "full",
)  # fmt: skip
COLUMNS: dict[str, tuple[tuple[str, ...], int, float]] = {  # path in a row, digits, factor
    "views: PSNR dB": (("held-out views", "PSNR dB"), 2, 1),
    "found views: PSNR dB": (("registered views", "PSNR dB"), 2, 1),
    "head: PSNR dB": (("held-out views", "head PSNR dB"), 2, 1),
    "SSIM": (("held-out views", "SSIM"), 3, 1),
    "VIF": (("held-out views", "VIF"), 3, 1),
    "identity": (("held-out views", "identity"), 3, 1),
    "depth error": (("held-out views", "depth error"), 4, 1),
    "floaters %": (("held-out views", "floaters"), 2, 100),
    "stray density %": (("held-out views", "stray density"), 3, 100),
    "photos: PSNR dB": (("held-out photos", "PSNR dB"), 2, 1),
    "photos: VIF": (("held-out photos", "VIF"), 3, 1),
    "photos: identity": (("held-out photos", "identity"), 3, 1),
    "multi-view error": (("multi-view identity error", "aligned"), 3, 1),
    "multi-view error (unaligned)": (("multi-view identity error", "unaligned"), 3, 1),
    "parameters": (("parameters",), 0, 1),
    "kB": (("bytes",), 0, 1e-3),
    "seconds": (("seconds",), 0, 1),
    "peak MB": (("peak memory",), 0, 1e-6),
}
STRAY = COLUMNS["stray density %"][0]
VIEWS, IDENTITY = COLUMNS["views: PSNR dB"][0], COLUMNS["identity"][0]
REGISTERED = COLUMNS["found views: PSNR dB"][0]


def value(row: Row, path: Sequence[str]) -> float | None:
    """Return a number in a row by its keys, or None."""
    found: Any = row
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def mean(rows: Iterable[Row], path: Sequence[str]) -> float | None:
    """Return the mean over the rows that have the number, or None."""
    values = [v for v in (value(row, path) for row in rows) if v is not None]
    return fmean(values) if values else None


def chosen(rows: list[Row], **wanted: object) -> list[Row]:
    """Select the rows whose cell has these values."""
    return [row for row in rows if all(row["cell"][key] == one for key, one in wanted.items())]


def usual(rows: list[Row]) -> list[Row]:
    """Select the rows with plain backgrounds of full weight and anchors in W."""
    return chosen(rows, background="plain", background_weight=1.0, space="w")


def main_cells(rows: list[Row]) -> list[Row]:
    """Select the main table: most photos, exact cameras, first seed, no refinement, usual steps."""
    plain = usual(chosen(rows, cameras="exact", seed=0, refine=False))
    if not plain:
        return []
    photos = max(row["cell"]["photos"] for row in plain)
    plain = chosen(plain, photos=photos)
    steps = [row["cell"]["steps"] for row in plain]
    return chosen(plain, steps=max(set(steps), key=steps.count))


def main_steps(rows: list[Row]) -> list[Row]:
    """Select the rows with the most frequent number of steps."""
    steps = [row["cell"]["steps"] for row in rows]
    return chosen(rows, steps=max(set(steps), key=steps.count)) if steps else []


def together(rows: list[Row], *methods: str) -> list[Row]:
    """Select the rows of these methods and of the persons that have all of them, for a fair comparison."""
    persons = [{row["cell"]["person"] for row in chosen(rows, method=method)} for method in methods]
    common = set.intersection(*persons) if persons else set()
    return [row for row in rows if row["cell"]["person"] in common and row["cell"]["method"] in methods]


def persons_of(rows: Iterable[Row]) -> str:
    """Format the persons of the rows, such as "persons 100, 101"."""
    return "persons " + ", ".join(map(str, sorted({row["cell"]["person"] for row in rows})))


def gain(rows: list[Row], method: str, path: Sequence[str]) -> float | None:
    """Return a method's mean gain over the mean anchor of the pretrained generator."""
    found, base = mean(chosen(rows, method=method), path), mean(chosen(rows, method=MEAN), path)
    return None if found is None or base is None else found - base


def curve_by_yaw(rows: list[Row], of: Sequence[str] = ("identity by yaw",)) -> dict[int, float]:
    """Return the mean identity by yaw in degrees."""
    points: dict[int, list[float]] = {}
    for row in rows:
        found: Any = row
        for key in of:
            found = found.get(key, {})
        for yaw, cosine in found:
            if cosine is not None:
                points.setdefault(yaw, []).append(cosine)
    return {yaw: fmean(values) for yaw, values in sorted(points.items())}
