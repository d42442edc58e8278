"""Report of the personalization study: tables, answers to the claims, plots and the paper's figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from studies.personalization.claims import claims
from studies.personalization.plan import CORE, plan
from studies.personalization.rows import (
    COLUMNS,
    IDENTITY,
    ORDER,
    VIEWS,
    Row,
    chosen,
    main_cells,
    main_steps,
    mean,
    persons_of,
    together,
    usual,
    value,
)


def table(rows: list[Row], key: Callable[[Row], str]) -> str:
    """Return means by `key` as a Markdown table, of numbers that all rows of a key have; no empty columns."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)

    def known(group: list[Row], path: Sequence[str]) -> bool:
        return all(value(row, path) is not None for row in group)

    columns = {name: c for name, c in COLUMNS.items() if any(known(g, c[0]) for g in groups.values())}
    lines = [f"| | persons | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name, group in groups.items():
        cells = [str(len({row["cell"]["person"] for row in group}))]
        for path, digits, factor in columns.values():
            found = mean(group, path) if known(group, path) else None
            cells.append("-" if found is None else f"{found * factor:,.{digits}f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_person(rows: list[Row]) -> str:
    """Return the PSNR in dB and identity of the held-out views, by method and person."""
    persons = sorted({row["cell"]["person"] for row in rows})
    lines = [f"| PSNR dB, identity | {' | '.join(map(str, persons))} |", "|---" * (len(persons) + 1) + "|"]
    for method in dict.fromkeys(row["cell"]["method"] for row in rows):
        cells = []
        for person in persons:
            one = chosen(rows, method=method, person=person)
            psnr, identity = mean(one, VIEWS), mean(one, IDENTITY)
            text = "-" if psnr is None else f"{psnr:.2f}"
            cells.append(text if identity is None else f"{text}, {identity:.3f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_method(row: Row) -> str:
    """Return the label of a row in the main table."""
    return str(row["cell"]["method"])


def by_condition(row: Row) -> str:
    """Return the label of a row in the table of photos, cameras, refinement and backgrounds."""
    cell = row["cell"]
    refined = ", refined" if cell["refine"] else ""
    behind = f"{cell['background']} background of weight {cell['background_weight']}"
    space = "" if cell["space"] == "w" else ", anchors in W+"
    return f"{cell['photos']} photos, {cell['cameras']} cameras, {behind}: {cell['method']}{refined}{space}"


def sorted_rows(rows: list[Row]) -> list[Row]:
    """Sort rows by their method."""
    return sorted(rows, key=lambda row: ORDER.index(row["cell"]["method"]))


def spread(rows: list[Row]) -> str:
    """Return mean and deviation over seeds by person and method, as a Markdown table."""
    lines = ["| person, method | seeds | views: PSNR dB | identity |", "|---|---|---|---|"]
    main = main_steps(usual(chosen(rows, cameras="exact", refine=False)))
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in main:
        cell = row["cell"]
        groups.setdefault((cell["person"], cell["method"], cell["photos"]), []).append(row)
    for (person, method, _), group in groups.items():
        if len(group) < 2:
            continue
        cells = []
        for path in (VIEWS, IDENTITY):
            values = [v for v in (value(row, path) for row in group) if v is not None]
            cells.append(f"{fmean(values):.3f} +- {stdev(values):.3f}" if len(values) > 1 else "-")
        lines.append(f"| {person}, {method} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def rates_table(rows: list[Row], best: Mapping[str, float]) -> str:
    """Return the held-out views by factor of the learning rates, method and person; chosen in bold."""
    factors = sorted({row["cell"]["rate"] for row in rows})
    lines = ["| method, person | " + " | ".join(f"x {factor:g}" for factor in factors) + " |"]
    lines.append("|---" * (len(factors) + 1) + "|")
    for method, person in dict.fromkeys((row["cell"]["method"], row["cell"]["person"]) for row in rows):
        cells = []
        for factor in factors:
            found = mean(chosen(rows, method=method, person=person, rate=factor), VIEWS)
            text = "-" if found is None else f"{found:.2f}"
            cells.append(f"**{text}**" if best.get(method) == factor else text)
        lines.append(f"| {method}, {person} | {' | '.join(cells)} |")
    return "\n".join(lines)


WHY = "why.md"
"""File beside the report with the interpretation, written by hand, which the report includes."""

_HOW = """\
Every number and picture here is synthetic, measured on the starter generator with persons that it has not
seen, by

    python -m studies.personalization.persons --out build/study/persons 100 101
    python -m studies.personalization.persons --out build/study/persons 102 103 104 105 300 301 --plain
    python -m my3dgen_core build-kernels
    python -m studies.personalization --rates --workers 12 --device cuda
    python -m studies.personalization --arcface FOLDER --workers 15 --device cuda
    python -m studies.personalization --report

(`--device cpu` does the same, and takes far longer; `--quick` is one person. With
`--report --out studies/personalization` this page is rendered from the committed cells, without measuring.)
ArcFace is w600k_mbf of InsightFace's pack buffalo_s, brought by the user."""

_WHAT = """\
Held-out views: the neutral face from eight cameras that no photo has, yaw to 50 degrees; the mean anchor
is rendered, or for "nearest" the latent of the one photo whose camera is nearest. Found views: the same, each
from the camera that lays the head over the true picture, which forgives a turn of the whole head that
pictures alone cannot tell; measured for LoRA. Head: the pixels of the held-out views that the true head
covers, whatever lies behind; measured where backgrounds are compared. Held-out photos: six of another album,
with other expressions, inverted into W+ on the generator as the method left it (150 steps).
Identity: mean ArcFace cosine with the person's photos, faces aligned by their true positions; the true views
reach {truth}. Multi-view error: 1 - the cosine with the nearest photo, mean over 24 frames of the paper's
orbit. Depth error in world units (a head is about .5 wide). Stray density: mean opacity of a hundredth of a
unit of space that the true views prove empty; floaters: share of pixels with density off the true surface.
Parameters are those trained; kB are of all that is kept, anchors and cameras included, in float32; peak MB is
what tensors take during training on the GPU, generator included, or all of the process on a CPU.

{seconds}"""


def _device(rows: list[Row]) -> str:
    names = [row.get("device", "CPU") for row in rows]
    counted = ", ".join(f"{names.count(name)} on {name}" for name in sorted(set(names)))
    text = f"Of the plan's {len(plan())} cells {len(rows)} are measured: {counted}."
    if set(names) == {"CPU"}:
        return text
    return (
        f"{text} Several shared the GPU, so seconds compare rows and are no measure of speed. Peak memory "
        "and seconds are means over all devices."
    )


def write_report(
    rows: list[Row],
    views: Path,
    docs: Path,
    rate_rows: Sequence[Row] = (),
    best: Mapping[str, float] | None = None,
) -> str:
    """Write README.md, plots and the figure.

    Args:
        rows: rows of the cells.
        views: folder of the saved pictures.
        docs: folder of the report.
        rate_rows: rows of the learning-rate search.
        best: chosen factor by method.

    Returns:
        The text of README.md.
    """
    from studies.personalization.plots import draw  # matplotlib: not needed to measure

    if not rows:
        raise SystemExit("There are no cells yet: run the study first.")
    docs.mkdir(parents=True, exist_ok=True)
    main = sorted_rows(main_cells(rows))
    every = {row["cell"]["person"] for row in main}
    methods = [
        method
        for method in ORDER
        if method in CORE or {row["cell"]["person"] for row in chosen(main, method=method)} == every
    ]
    methods = [method for method in methods if chosen(main, method=method)]
    whole = together(main, *methods) or main
    answers = ["| claim | holds | numbers |", "|---|---|---|"]
    answers += [f"| {claim} | {holds} | {numbers} |" for claim, holds, numbers in claims(rows)]
    grid = [row for row in main_steps(chosen(rows, seed=0)) if row not in main]
    truth = mean(whole, ("truth", "identity"))
    about = _WHAT.format(truth="-" if truth is None else f"{truth:.3f}", seconds=_device(rows))
    parts = [
        "# Personalization study",
        _HOW,
        "## Claims",
        "\n".join(answers),
        *([(docs / WHY).read_text().strip()] if (docs / WHY).exists() else []),
        "## Methods",
        f"Means over {persons_of(whole)}, which have them all: {main[0]['cell']['photos']} photos, exact "
        f"cameras, {main[0]['cell']['steps']} steps of one photo.",
        table(whole, by_method),
        "Every person:",
        by_person(main),
        about,
    ]
    drawn = draw(rows, whole, main, views, docs)
    parts += [f"![{file.split('.')[0]} (synthetic)]({file})" for file in drawn]
    if grid:
        few = sorted({row["cell"]["person"] for row in grid})
        parts += [
            "## Photos, cameras, refinement, backgrounds",
            f"Means over persons {', '.join(map(str, few))}.",
        ]
        same = [
            row
            for row in main
            if row["cell"]["person"] in few and row["cell"]["method"] in ("LoRA r=1", "full")
        ]
        parts.append(table(sorted(same + grid, key=by_condition), by_condition))
    if spread(rows):
        parts += ["## Seeds", "The seed decides order, initial factors and inversion noise.", spread(rows)]
    if rate_rows:
        parts += [
            "## Learning rates",
            "Held-out views (PSNR dB) of persons that are in no table, by factor of the product's default "
            "rates; in bold what was taken. Other ranks take the factor of their layout.",
            rates_table(list(rate_rows), best or {}),
        ]
    text = "\n\n".join(parts) + "\n"
    (docs / "README.md").write_text(text)
    return text
