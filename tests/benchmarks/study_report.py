"""Tables, plots, the paper's figure and the answers to the claims, out of the study's cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Row = dict[str, Any]
MEAN, NEAREST, PIVOTAL = "mean anchor", "nearest inversion", "nearest pivotal tuning"
ORDER = (
    MEAN, NEAREST, PIVOTAL, "LyCORIS r=1", "LyCORIS r=2", "LoRA r=1", "LoRA r=2", "LoRA r=4", "full",
)  # fmt: skip
COLUMNS: dict[str, tuple[tuple[str, ...], int, float]] = {  # path in a row, digits, factor
    "views: PSNR dB": (("held-out views", "PSNR dB"), 2, 1),
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


def value(row: Row, path: Sequence[str]) -> float | None:
    """A number in a row, or None."""
    found: Any = row
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def mean(rows: Iterable[Row], path: Sequence[str]) -> float | None:
    """Over the rows that have the number."""
    values = [v for v in (value(row, path) for row in rows) if v is not None]
    return fmean(values) if values else None


def chosen(rows: list[Row], **wanted: object) -> list[Row]:
    """Rows whose cell has these values."""
    return [row for row in rows if all(row["cell"][key] == one for key, one in wanted.items())]


def usual(rows: list[Row]) -> list[Row]:
    """Rows of plain backgrounds that weigh as much as the head, with anchors in W."""
    return chosen(rows, background="plain", background_weight=1.0, space="w")


def main_cells(rows: list[Row]) -> list[Row]:
    """The main table's: most photos, exact cameras, first seed, nothing refined, the usual steps."""
    plain = usual(chosen(rows, cameras="exact", seed=0, refine=False))
    if not plain:
        return []
    photos = max(row["cell"]["photos"] for row in plain)
    plain = chosen(plain, photos=photos)
    steps = [row["cell"]["steps"] for row in plain]
    return chosen(plain, steps=max(set(steps), key=steps.count))


def table(rows: list[Row], key: Callable[[Row], str]) -> str:
    """Means by `key` as Markdown; columns that no row has are left out."""
    names = list(dict.fromkeys(key(row) for row in rows))
    columns = {name: c for name, c in COLUMNS.items() if any(value(row, c[0]) is not None for row in rows)}
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = []
        for path, digits, factor in columns.values():
            found = mean((row for row in rows if key(row) == name), path)
            cells.append("-" if found is None else f"{found * factor:,.{digits}f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_method(row: Row) -> str:
    return str(row["cell"]["method"])


def by_condition(row: Row) -> str:
    cell = row["cell"]
    refined = ", refined" if cell["refine"] else ""
    behind = f"{cell['background']} background of weight {cell['background_weight']}"
    space = "" if cell["space"] == "w" else ", anchors in W+"
    return f"{cell['photos']} photos, {cell['cameras']} cameras, {behind}: {cell['method']}{refined}{space}"


def sorted_rows(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: ORDER.index(row["cell"]["method"]))


# --- Claims -----------------------------------------------------------------------------------------------


def gain(rows: list[Row], method: str, path: Sequence[str]) -> float | None:
    """What a method gains over the mean anchor of the pretrained generator, mean over persons."""
    found, base = mean(chosen(rows, method=method), path), mean(chosen(rows, method=MEAN), path)
    return None if found is None or base is None else found - base


def claims(rows: list[Row]) -> list[tuple[str, str, str]]:
    """(claim, yes / no / in part / moot / not measured, its numbers)."""
    main = main_cells(rows)
    answers = [
        _beats_pretrained(main), _keeps_gain(main), _few_photos(rows), _by_yaw(main), _few_steps(rows),
        _refining(rows), _half_size(main), _floaters(main),
    ]  # fmt: skip
    texts = (
        "1. LoRA beats the best of three pretrained answers on held-out views and identity, every person",
        "2. LoRA r=1 keeps >= 95 % of full fine-tuning's held-out gain",
        "3. With the fewest photos LoRA beats full fine-tuning on held-out views",
        "4. Identity falls less with yaw than for pivotal tuning of one photo",
        "5. 1,000 steps reach within 2 % of the loss at 6,000",
        "6. Refining recovers >= 80 % of what 3.5 degrees of pose error cost",
        "7. LyCORIS r=1 at half precision costs < 0.1 dB and < .005 identity against LoRA r=1; at full size "
        "it fits in 0.35 MB",
        "8. LoRA leaves fewer floaters than full fine-tuning",
    )
    return [(text, *(answer or ("not measured", ""))) for text, answer in zip(texts, answers, strict=True)]


Answer = tuple[str, str] | None


def _answer(holds: bool, numbers: str, whole: bool = True) -> Answer:
    """whole: every part of the claim was measured."""
    return ("no" if not holds else "yes" if whole else "in part"), numbers


def _beats_pretrained(main: list[Row]) -> Answer:
    told, holds, whole = [], True, True
    for person in sorted({row["cell"]["person"] for row in main}):
        rows = chosen(main, person=person)
        for path, unit in ((VIEWS, "dB"), (IDENTITY, "identity")):
            mine = mean(chosen(rows, method="LoRA r=1"), path)
            others = [mean(chosen(rows, method=method), path) for method in (MEAN, NEAREST, PIVOTAL)]
            known = [other for other in others if other is not None]
            if mine is None or len(known) < 3:
                whole = False
                continue
            holds &= mine > max(known)
            told.append(f"{person}: {mine:.3f} against {max(known):.3f} {unit}")
    return _answer(holds, "; ".join(told), whole) if told else None


def _keeps_gain(main: list[Row]) -> Answer:
    told, shares = [], []
    for path, unit in ((VIEWS, "dB"), (IDENTITY, "identity")):
        lora, full = gain(main, "LoRA r=1", path), gain(main, "full", path)
        if lora is not None and full is not None and full > 0:
            shares.append(lora / full)
            told.append(f"{lora:+.3f} of {full:+.3f} {unit} ({100 * lora / full:.0f} %)")
    counts = [mean(chosen(main, method=m), ("parameters",)) for m in ("full", "LoRA r=1", "LyCORIS r=1")]
    for count, layout in zip(counts[1:], ("released", "LyCORIS"), strict=True):
        if counts[0] is not None and count is not None:
            told.append(f"{counts[0] / count:.0f}x fewer parameters here in the {layout} layout")
    return _answer(min(shares) >= 0.95, "; ".join(told), len(shares) == 2) if shares else None


def _few_photos(rows: list[Row]) -> Answer:
    plain = usual(chosen(rows, cameras="exact", seed=0, refine=False))
    trained = [row for row in plain if row["cell"]["method"] in ("LoRA r=1", "full")]
    if not trained:
        return None
    few = chosen(trained, photos=min(row["cell"]["photos"] for row in trained))
    lora, full = (mean(chosen(few, method=method), VIEWS) for method in ("LoRA r=1", "full"))
    if lora is None or full is None:
        return None
    return _answer(lora > full, f"{few[0]['cell']['photos']} photos: {lora:.2f} against {full:.2f} dB")


def curve_by_yaw(rows: list[Row]) -> dict[int, float]:
    """Mean identity by yaw in degrees."""
    points: dict[int, list[float]] = {}
    for row in rows:
        for yaw, cosine in row.get("identity by yaw", []):
            if cosine is not None:
                points.setdefault(yaw, []).append(cosine)
    return {yaw: fmean(values) for yaw, values in sorted(points.items())}


def _fall(points: dict[int, float]) -> float | None:
    """From the front to 45 degrees, both sides."""
    sides = [points[yaw] for yaw in (-45, 45) if yaw in points]
    return points[0] - fmean(sides) if sides and 0 in points else None


def _by_yaw(main: list[Row]) -> Answer:
    lora, single = (_fall(curve_by_yaw(chosen(main, method=m))) for m in ("LoRA r=1", PIVOTAL))
    if lora is None or single is None:
        return None
    return _answer(lora < single, f"from 0 to 45 degrees: {lora:.3f} against {single:.3f}")


def _few_steps(rows: list[Row]) -> Answer:
    one, six = (mean(chosen(rows, steps=steps, seed=0), ("train", "loss")) for steps in (1000, 6000))
    if one is None or six is None:
        return None
    return _answer(one <= 1.02 * six, f"{one:.5f} against {six:.5f} ({100 * (one / six - 1):+.1f} %)")


def _refining(rows: list[Row]) -> Answer:
    lora = usual(chosen(rows, method="LoRA r=1", seed=0))
    persons = {row["cell"]["person"] for row in chosen(lora, cameras="noisy")}
    lora = [row for row in lora if row["cell"]["person"] in persons]
    most = max((row["cell"]["photos"] for row in chosen(lora, cameras="noisy")), default=0)
    lora = chosen(main_steps(lora), photos=most)
    exact = mean(chosen(lora, cameras="exact", refine=False), VIEWS)
    noisy = mean(chosen(lora, cameras="noisy", refine=False), VIEWS)
    refined = mean(chosen(lora, cameras="noisy", refine=True), VIEWS)
    if exact is None or noisy is None or refined is None:
        return None
    if exact <= noisy:
        return "moot", f"pose errors cost nothing: exact {exact:.2f}, noisy {noisy:.2f} dB"
    share = (refined - noisy) / (exact - noisy)
    return _answer(
        share >= 0.8, f"exact {exact:.2f}, noisy {noisy:.2f}, refined {refined:.2f} dB ({share:.0%})"
    )


def main_steps(rows: list[Row]) -> list[Row]:
    """Rows of the usual number of steps."""
    steps = [row["cell"]["steps"] for row in rows]
    return chosen(rows, steps=max(set(steps), key=steps.count)) if steps else []


def _half_size(main: list[Row]) -> Answer:
    lean, usual = chosen(main, method="LyCORIS r=1"), chosen(main, method="LoRA r=1")
    psnr = mean(lean, ("half", "PSNR dB")), mean(usual, VIEWS)
    if psnr[0] is None or psnr[1] is None:
        return None
    cost, size = psnr[1] - psnr[0], mean(lean, ("half", "bytes")) or 0.0
    holds, text = cost < 0.1, f"{size / 1e3:.0f} kB, costs {cost:.3f} dB"
    full = full_size()
    text += f"; at ffhq512-128 with 50 anchors in W {full / 1e3:.0f} kB of tensors"
    half, whole = mean(lean, ("half", "identity")), mean(usual, IDENTITY)
    if half is None or whole is None:
        return _answer(holds and full <= 350_000, text, whole=False)
    text += f"; costs {whole - half:.4f} identity"
    return _answer(holds and full <= 350_000 and whole - half < 0.005, text)


def full_size(photos: int = 50) -> int:
    """Bytes of a person of NVIDIA's size: LyCORIS r=1, anchors in W, half precision; cameras in full."""
    import torch

    from my3dgen_core import Adapter, Generator, GeneratorConfig

    with torch.device("meta"):
        generator = Generator(GeneratorConfig())
    adapter = Adapter.create(generator, 1, "lycoris", "paper")
    return 2 * (adapter.parameter_count + photos * generator.config.w_dim) + 4 * photos * 25


def _floaters(main: list[Row]) -> Answer:
    told, holds = [], True
    for path, where in ((STRAY, "opacity of empty space"), (COLUMNS["floaters %"][0], "pixels")):
        lora, full = (mean(chosen(main, method=method), path) for method in ("LoRA r=1", "full"))
        if lora is None or full is None:
            return None
        holds &= lora < full
        told.append(f"{100 * lora:.3f} % against {100 * full:.3f} % ({where})")
    base = mean(chosen(main, method=MEAN), STRAY)
    told += [] if base is None else [f"pretrained {100 * base:.3f} % (opacity of empty space)"]
    return _answer(holds, "; ".join(told))


# --- Output -----------------------------------------------------------------------------------------------


def spread(rows: list[Row]) -> str:
    """Mean and deviation over seeds, per person and method."""
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
    """Held-out views by factor of the learning rates, for each method and person; the best in bold."""
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


_HOW = """\
Every number and picture here is synthetic, measured on the starter generator with persons that it has not
seen, by

    python tests/benchmarks/study_persons.py --out build/study/persons 100 101
    python tests/benchmarks/study_persons.py --out build/study/persons 102 103 104 105 300 301 --plain
    python tests/benchmarks/study.py --rates --workers 6 --device cuda
    python tests/benchmarks/study.py --arcface FOLDER --workers 6 --device cuda
    python tests/benchmarks/study.py --report

(`--device cpu` does the same, in days rather than minutes; `--quick` is one person in a quarter of an hour.)
ArcFace is w600k_mbf of InsightFace's pack buffalo_s, brought by the user."""

_WHAT = """\
Held-out views: the neutral face from eight cameras that no photo has, yaw to 50 degrees; the mean anchor
is rendered, or for "nearest" the latent of the one photo whose camera is nearest. Held-out photos: six of
another album, with other expressions, inverted into W+ on the generator as the method left it (150 steps).
Identity:
mean ArcFace cosine with the person's photos, faces aligned by their true positions; the true views reach
{truth}. Multi-view error: 1 - the cosine with the nearest photo, mean over 24 frames of the paper's orbit.
Depth error in world units (a head is about .5 wide). Stray density: mean opacity of a hundredth of a unit of
space that the true views prove empty; floaters: share of pixels with density off the true surface. Parameters
are those trained; kB are of all that is kept, anchors and cameras included, in float32; peak MB is what
tensors take during training, generator included. {seconds}"""


def _device(rows: list[Row]) -> str:
    names = sorted({row.get("device", "CPU") for row in rows})
    if names == ["CPU"]:
        return "Seconds are those of the training, on a CPU."
    return (
        f"Seconds are those of the training on one {' and one '.join(names)} that several trainings shared: "
        "good for comparing rows, no measure of speed."
    )


def write_report(
    rows: list[Row],
    views: Path,
    docs: Path,
    rate_rows: Sequence[Row] = (),
    best: Mapping[str, float] | None = None,
) -> str:
    """README.md, plots and the figure into `docs`; returns the text."""
    from study_plots import draw

    if not rows:
        raise SystemExit("There are no cells yet: run the study first.")
    docs.mkdir(parents=True, exist_ok=True)
    main = sorted_rows(main_cells(rows))
    persons = sorted({row["cell"]["person"] for row in main})
    answers = ["| claim | holds | numbers |", "|---|---|---|"]
    answers += [f"| {claim} | {holds} | {numbers} |" for claim, holds, numbers in claims(rows)]
    grid = [row for row in main_steps(chosen(rows, seed=0)) if row not in main]
    truth = mean(main, ("truth", "identity"))
    about = _WHAT.format(truth="-" if truth is None else f"{truth:.3f}", seconds=_device(rows))
    parts = [
        "# The study: what personalisation buys",
        _HOW,
        "## Claims",
        "\n".join(answers),
        "## Methods",
        f"Persons {', '.join(map(str, persons))}, {main[0]['cell']['photos']} photos, exact cameras, "
        f"{main[0]['cell']['steps']} steps of one photo; means over persons.",
        table(main, by_method),
        about,
    ]
    drawn = draw(rows, main, views, docs)
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
