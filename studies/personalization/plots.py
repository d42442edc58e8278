"""Plots of the personalization study, by matplotlib, and the paper's figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from my3dgen_core.common.image_ops import from_uint8
from my3dgen_core.evaluation import paper_figure
from studies.personalization.rows import (
    IDENTITY,
    MEAN,
    ORDER,
    PIVOTAL,
    VIEWS,
    Row,
    chosen,
    curve_by_yaw,
    main_steps,
    mean,
    usual,
)

ONE_PHOTO = {"pretrained": MEAN, "full": "full", "LoRA": "LoRA r=1"}
FIGURE = {"target": None, "pretrained": MEAN, "full": "full", "LoRA": "LoRA r=1"}


def draw(rows: list[Row], main: list[Row], shown: list[Row], views: Path, docs: Path) -> list[str]:
    """Draw everything for which there are cells, and return the names of the files.

    Args:
        rows: all rows.
        main: rows of the persons that have every method.
        shown: rows of the main table, for the figure.
        views: folder of the saved pictures.
        docs: folder of the plots.
    """
    drawn = {
        "parameters.png": lambda axes: _parameters(axes, main),
        "photos.png": lambda axes: _photos(axes, rows),
        "overfitting.png": lambda axes: _overfitting(axes, main),
        "yaw.png": lambda axes: _yaw(axes, main),
        "one_photo.png": lambda axes: _one_photo(axes, main),
        "steps.png": lambda axes: _steps(axes, rows),
    }
    names = [name for name, plot in drawn.items() if _figure(docs / name, plot)]
    figure = docs / "figure.jpg"  # without the pictures, as on another machine, an earlier figure is kept
    return (["figure.jpg"] if _paper_figure(shown, views, figure) or figure.exists() else []) + names


def _figure(path: Path, plot) -> bool:  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if not plot(axes):
        return False
    axes.set_title("synthetic persons", fontsize=9, loc="right")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.savefig(path, pil_kwargs={"optimize": True})
    return True


def _parameters(axes, main: list[Row]) -> bool:  # type: ignore[no-untyped-def]
    """Plot identity, or the PSNR of held-out views if it was not measured, over parameters."""
    path = IDENTITY if mean(main, IDENTITY) is not None else VIEWS
    points = []
    for method in ORDER:
        rows = chosen(main, method=method)
        count, score = mean(rows, ("parameters",)), mean(rows, path)
        if method != PIVOTAL and count is not None and score is not None:
            points.append((count, score, method))
    for count, score, method in points:
        axes.plot(count, score, "o")
        axes.annotate(method, (count, score), fontsize=8, xytext=(4, 4), textcoords="offset points")
    base = mean(chosen(main, method=MEAN), path)
    if base is not None:
        axes.axhline(base, color="gray", linestyle=":", label="pretrained, mean anchor")
    axes.set(xscale="log", xlabel="parameters", ylabel=f"held-out views: {path[-1]}")
    return bool(points)


def _photos(axes, rows: list[Row]) -> bool:  # type: ignore[no-untyped-def]
    """Plot the PSNR of held-out views over the number of photos."""
    plain = main_steps(usual(chosen(rows, cameras="exact", seed=0, refine=False)))
    counts = sorted({row["cell"]["photos"] for row in plain})
    if len(counts) < 2:
        return False
    fewest = chosen(plain, photos=counts[0])
    persons = {row["cell"]["person"] for row in fewest}
    plain = [row for row in plain if row["cell"]["person"] in persons]
    for method in dict.fromkeys(row["cell"]["method"] for row in fewest):
        scores = [mean(chosen(plain, photos=count, method=method), VIEWS) for count in counts]
        known = [(c, s) for c, s in zip(counts, scores, strict=True) if s is not None]
        axes.plot(*zip(*known, strict=True), "o-", label=method)
    axes.set(xlabel="training photos", ylabel="held-out views: PSNR dB")
    return True


def _overfitting(axes, main: list[Row]) -> bool:  # type: ignore[no-untyped-def]
    """Plot the PSNR of training photos and held-out views over steps."""
    found = False
    for color, method in (("tab:blue", "LoRA r=1"), ("tab:orange", "full")):
        curves = [row["curve"] for row in chosen(main, method=method) if row.get("curve")]
        if not curves:
            continue
        found = True
        steps, training, held = np.mean(curves, axis=0).T
        axes.plot(steps, training, "--", color=color, label=f"{method}: training photos")
        axes.plot(steps, held, "-o", color=color, markersize=3, label=f"{method}: held-out views")
    axes.set(xlabel="steps", ylabel="PSNR dB")
    return found


def _yaw(axes, main: list[Row]) -> bool:  # type: ignore[no-untyped-def]
    """Plot identity over yaw, for the methods of one photo and of all."""
    found = False
    for method in ("mean anchor", "nearest inversion", PIVOTAL, "LoRA r=1", "full"):
        points = curve_by_yaw(chosen(main, method=method))
        if points:
            found = True
            axes.plot(list(points), list(points.values()), "o-", markersize=3, label=method)
    axes.set(xlabel="yaw in degrees", ylabel="identity (cosine)")
    return found


def _one_photo(axes, main: list[Row]) -> bool:  # type: ignore[no-untyped-def]
    """Plot identity over yaw of a held-out photo, before and after pivotal tuning."""
    rows = [row for row in main if row.get("one photo by yaw")]
    for color, (name, method) in zip(("gray", "tab:orange", "tab:blue"), ONE_PHOTO.items(), strict=True):
        for when, line in (("before", "--"), ("after", "-")):
            points = curve_by_yaw(chosen(rows, method=method), ("one photo by yaw", when))
            if points:
                label = f"{name}, {when}"
                axes.plot(
                    *zip(*points.items(), strict=True), f"o{line}", color=color, markersize=3, label=label
                )
    axes.set(xlabel="yaw in degrees", ylabel="identity (cosine)")
    return bool(rows)


def _steps(axes, rows: list[Row]) -> bool:  # type: ignore[no-untyped-def]
    """Plot the PSNR over steps, for trainings of one person with different numbers of steps."""
    plain = usual(chosen(rows, cameras="exact", seed=0, refine=False, method="LoRA r=1"))
    plain = [row for row in plain if row.get("curve")]
    longest = max((row["cell"]["steps"] for row in plain), default=0)
    persons = {row["cell"]["person"] for row in chosen(plain, steps=longest)}
    mine = [row for row in plain if row["cell"]["person"] in persons]
    most = max((row["cell"]["photos"] for row in mine), default=0)
    mine = sorted(chosen(mine, photos=most), key=lambda row: row["cell"]["steps"])
    lengths = list(dict.fromkeys(row["cell"]["steps"] for row in mine))
    if len(lengths) < 2:
        return False
    for number, length in enumerate(lengths):
        steps, training, held = np.mean([row["curve"] for row in chosen(mine, steps=length)], axis=0).T
        axes.plot(steps, training, "--", color=f"C{number}", label=f"{length} steps: training photos")
        axes.plot(steps, held, color=f"C{number}", label=f"{length} steps: held-out views")
    axes.set(xscale="log", xlabel="steps", ylabel="PSNR dB")
    return True


def _paper_figure(main: list[Row], views: Path, path: Path) -> bool:
    from PIL import Image

    persons, names = [], []
    for person in sorted({row["cell"]["person"] for row in main}):
        files = {}
        for column, method in FIGURE.items():
            rows = chosen(main, person=person, method=method) if method else []
            if method is None or rows:
                files[column] = views / f"{rows[0]['name'] if rows else f'{person}-target'}.png"
        if len(files) == len(FIGURE) and all(file.exists() for file in files.values()):
            persons.append({column: _two_views(file) for column, file in files.items()})
            names.append(f"person {person} (synthetic)")
    if not persons:
        return False
    counts = {
        column: mean(chosen(main, method=method), ("parameters",)) if method else None
        for column, method in FIGURE.items()
    }
    whole = {column: None if count is None else round(count) for column, count in counts.items()}
    Image.fromarray(paper_figure(persons, names, whole, cell=112)).save(path, quality=85, optimize=True)
    return True


def _two_views(file: Path) -> torch.Tensor:
    from PIL import Image

    pixels = from_uint8(torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1))
    return torch.stack(pixels.chunk(2, dim=2))
