"""Report of `studies.alpha_space`: tables, answers to the claims and pictures, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from studies.alpha_space.pictures import strips, tables

Row = dict[str, Any]
PRETRAINED, PERSONAL = "pretrained", "personal"
SMILE_DROP = 0.03
"""Largest identity drop of a smile for the claim to hold."""
INTRODUCTION = """# Alpha-space study

Alpha samples, interpolation, edits, photos that training has not seen, hidden parts: the personal generator
beside the pretrained one, with the same anchors. {persons} of the study, synthetic and unknown to the
generator: {who}. {photos} photos each with exact cameras; identities: {origins}. Means over persons.
Identity is the cosine of ArcFace embeddings with the photos of the person (or its own, where there is one);
pictures without a face that the detector finds are left out, and counted. All is uncurated.

    python -m studies.personalization.persons --out build/study/persons 100 101 102 103 104 105 --plain
    python -m studies.alpha_space --identities build/study/identities --face-models FOLDER
    python -m studies.alpha_space --report

{minutes:.1f} minutes of one core a person{training}. Face models: InsightFace's
w600k_mbf and its small detector, brought by the user.
"""

SAMPLING = """Mixtures of three anchors, each seen from a mixture of their cameras. Diversity is the mean
perceptual distance (Laplacian) of two samples; pose-free: both from the front."""
SMILES = ("all layers", "later layers", "within the hull", "identity held")
KEPT = "identity held"
SMILING = """The smile of the mean anchor, from the front. The starter's direction: on all layers of the
latent, on the later half of them, and within the hull of the anchors; and the direction that Find Direction
finds about the person (`my3dgen_core/editing/identity_preserving.py`, {heads} heads), which holds identity,
on the later half. Drop: how much the identity falls over the range of smiles that the person's own frontal
photos span, measured by landmarks, less what their turns alone do to the measure; of that range "covered" is
reached; rising: at how many of those steps the smile grows. The pictures: the least smile of the photos,
unedited, the most, and two between, or the nearest that is reached."""
SMILE_TITLES = ("least", "", "", "unedited", "", "", "most")


FIGURES = {
    "alpha samples": ("samples", strips, 2),
    "Interpolation": ("interpolation", strips, 2),
    "smile": ("smile", strips, 3),
    "Held-out": ("held-out", tables, 4),
    "hidden": ("hidden", tables, 4),
}
"""Word in a title -> part of the pictures, function that draws it, and largest number of persons."""


def value(row: Row, *path: str) -> float | None:
    """Return a number in a row by its keys, or None."""
    found: Any = row
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def mean(rows: Sequence[Row], *path: str) -> float | None:
    """Return the mean over the persons who have the number, or None."""
    values = [number for number in (value(row, *path) for row in rows) if number is not None]
    return fmean(values) if values else None


def shown(number: float | None, digits: int = 3, sign: bool = False) -> str:
    """Format a number; None is a dash."""
    return "-" if number is None else f"{number:{'+' if sign else ''}.{digits}f}"


def counted(number: int, what: str) -> str:
    """Format a number with its noun, in the plural unless it is 1."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def table(columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a Markdown table; each line is a label and its cells."""
    head = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in lines)])


def sampling(rows: Sequence[Row]) -> str:
    """Return the table of alpha samples."""
    columns = ["identity", "worst", "faces found", "diversity", "diversity, pose-free"]
    paths = ["identity", "worst", "faces", "diversity", "diversity, pose-free"]
    return table(
        columns,
        [
            (model, [shown(mean(rows, model, "samples", path)) for path in paths])
            for model in (PRETRAINED, PERSONAL)
        ],
    )


def ways(rows: Sequence[Row]) -> str:
    """Return the table of interpolations."""
    paths = ["identity", "worst step"]
    return table(
        ["identity", "worst step of a way"],
        [(model, [shown(mean(rows, model, "interpolation", path)) for path in paths])
         for model in (PRETRAINED, PERSONAL)],
    )  # fmt: skip


def smiles(rows: Sequence[Row]) -> str:
    """Return the table of smiles."""
    lines = []
    for model in (PRETRAINED, PERSONAL):
        for way in SMILES:
            cells = [shown(mean(rows, model, "smile", way, path)) for path in ("drop", "covered", "rising")]
            highest = max(
                (v for row in rows if (v := value(row, model, "smile", way, "drop")) is not None),
                default=None,
            )
            lines.append((f"{model}, {way}", [cells[0], shown(highest), *cells[1:]]))
    photos = [shown(mean(rows, "own smiles", "drop")), shown(highest_own(rows)), "-", "-"]
    lines.append(("the photos: the fifths that smile most and least against the middle one", photos))
    return table(["drop", "highest of a person", "range covered", "steps at which it rises"], lines)


def highest_own(rows: Sequence[Row]) -> float | None:
    """Return the largest identity drop between a person's own photos."""
    found = [drop for row in rows if (drop := value(row, "own smiles", "drop")) is not None]
    return max(found, default=None)


def edits(rows: Sequence[Row]) -> str:
    """Return the table of the other edits."""
    paths = ["unedited", "within", "free"]
    return table(
        ["unedited", "within the person", "free"],
        [
            (model, [shown(mean(rows, model, "edits", path)) for path in paths])
            for model in (PRETRAINED, PERSONAL)
        ],
    )


def photos(rows: Sequence[Row], part: str, extra: Sequence[str] = ()) -> str:
    """Return the table of held-out or inpainted photos; extra: columns before the usual ones."""
    columns = [*extra, "PSNR dB", "SSIM", "VIF", "identity", "faces"]
    digits = {"PSNR dB": 2, **dict.fromkeys(extra, 2)}
    return table(
        columns,
        [(name, [shown(mean(rows, part, name, column), digits.get(column, 3)) for column in columns])
         for name in rows[0][part] if all(name in row[part] for row in rows)],
    )  # fmt: skip


# --- Claims -----------------------------------------------------------------------------------------------


def claims(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return (claim, yes / no / not measured, its numbers); a claim holds if it holds for every person."""
    hole = "PSNR of the hidden part, dB"
    alpha = f"{PERSONAL}, alpha P+"
    return [
        better(rows, "Alpha samples look more like the person", ("samples", "identity")),
        better(rows, "They are no less diverse, pose-free", ("samples", "diversity, pose-free"), 0.9),
        better(rows, "Interpolation keeps the person better, in all poses", ("interpolation", "identity")),
        better(rows, "So do edits within the person", ("edits", "within")),
        smile(rows),
        between(rows, "Held-out photos: alpha P+ against W in the pretrained generator, identity",
                ("held-out photos", alpha, "identity"), ("held-out photos", f"{PRETRAINED}, W", "identity")),
        between(rows, "The same, PSNR", ("held-out photos", alpha, "PSNR dB"),
                ("held-out photos", f"{PRETRAINED}, W", "PSNR dB"), 2),
        between(rows, "40 % hidden: identity of what is filled in, against W in the pretrained generator",
                ("hidden", alpha, "identity"), ("hidden", f"{PRETRAINED}, W", "identity")),
        between(rows, "The same, PSNR of the hidden part", ("hidden", alpha, hole),
                ("hidden", f"{PRETRAINED}, W", hole), 2),
    ]  # fmt: skip


def verdict(pairs: Sequence[tuple[float | None, float | None]], factor: float = 1.0) -> str:
    """Answer whether the first number of each pair exceeds `factor` times the second.

    Returns:
        "yes", "no" if it holds for no pair, the number of pairs, or "not measured".
    """
    known = [(mine, other) for mine, other in pairs if mine is not None and other is not None]
    if not known:
        return "not measured"
    wins = sum(mine > factor * other for mine, other in known)
    return "yes" if wins == len(known) else f"{wins} of {len(known)} persons" if wins else "no"


def better(
    rows: Sequence[Row], claim: str, path: tuple[str, ...], factor: float = 1.0
) -> tuple[str, str, str]:
    """Answer whether the personal generator exceeds `factor` times the pretrained one."""
    return between(rows, claim, (PERSONAL, *path), (PRETRAINED, *path), factor=factor)


def between(
    rows: Sequence[Row],
    claim: str,
    mine: tuple[str, ...],
    other: tuple[str, ...],
    digits: int = 3,
    factor: float = 1.0,
) -> tuple[str, str, str]:
    """Answer whether the number at `mine` exceeds `factor` times the one at `other`."""
    pairs = [(value(row, *mine), value(row, *other)) for row in rows]
    numbers = f"{shown(mean(rows, *mine), digits)} against {shown(mean(rows, *other), digits)}"
    return claim, verdict(pairs, factor), numbers


def smile(rows: Sequence[Row]) -> tuple[str, str, str]:
    """Answer whether the identity drops by less than .03 over the whole range of the photos' own smiles."""
    sweeps = [row[PERSONAL]["smile"][KEPT] for row in rows]
    known = [(sweep["drop"], sweep["covered"]) for sweep in sweeps if sweep["drop"] is not None]
    claim = f"A smile, {KEPT}: it drops by less than {SMILE_DROP} over the photos' own range"
    if not known:
        return claim, "not measured", "-"
    kept = sum(drop < SMILE_DROP and covered > 0.99 for drop, covered in known)
    answer = "yes" if kept == len(known) else f"{kept} of {len(known)} persons" if kept else "no"
    drops, covers = zip(*known, strict=True)
    reached = f"{fmean(covers):.0%} of the range reached"
    rising = fmean(sweep["rising"] for sweep in sweeps if sweep["drop"] is not None)
    numbers = (
        f"drop {fmean(drops):.3f} (highest {max(drops):.3f}), {reached}, rising at {rising:.0%} of the steps"
    )
    return claim, answer, numbers


def write_report(rows: Sequence[Row], path: Path, pictures: Path) -> str:
    """Write the report of the latest settings with its pictures, and append notes.md from the same folder.

    Args:
        rows: rows of `read_rows`.
        path: the file to write.
        pictures: folder of the saved pictures.

    Returns:
        The text of the report.

    Raises:
        ValueError: nothing has been measured yet.
    """
    if not rows:
        raise ValueError("There is nothing to report yet: run `python -m studies.alpha_space` first.")
    rows = list({row["person"]: row for row in rows if row["stamp"] == rows[-1]["stamp"]}.values())
    rows.sort(key=lambda row: row["person"])
    settings = rows[0]["settings"]
    own = [row["training seconds"] for row in rows if row["training seconds"] > 30]
    text = INTRODUCTION.format(
        persons=counted(len(rows), "person"), who=", ".join(str(row["person"]) for row in rows),
        photos=settings["photos"],
        origins=origins(rows), minutes=fmean(row["seconds"] for row in rows) / 60,
        training=f", and {fmean(own) / 60:.1f} where the identity is trained first" if own else "",
    )  # fmt: skip
    hidden = settings["hidden"]
    answers = [(claim, [answer, numbers]) for claim, answer, numbers in claims(rows)]
    parts = {
        "The claims": table(["holds for every person", "numbers"], answers),
        f"{settings['samples']} alpha samples": f"{SAMPLING}\n\n{sampling(rows)}",
        f"Interpolation, every step in {settings['poses']} poses": (
            f"{counted(settings['pairs'], 'way')} of {settings['way']} steps from anchor to anchor."
            f"\n\n{ways(rows)}"
        ),
        "A smile, up and down": (f"{SMILING.format(heads=settings['finder']['samples'])}\n\n{smiles(rows)}"),
        "Other edits": f"Age, weight and jaw, two standard deviations both ways.\n\n{edits(rows)}",
        "Held-out photos": photos(rows, "held-out photos"),
        f"{hidden:.0%} of the picture hidden": (
            f"A square over the face.\n\n{photos(rows, 'hidden', ['PSNR of the hidden part, dB'])}"
        ),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for title, body in parts.items():
        shown = drawn(title, rows, pictures, path)
        text += f"\n## {title}\n{body}\n" + (f"\n![{title} (synthetic)]({shown})\n" if shown else "")
    notes = path.with_name("notes.md")
    if notes.is_file():
        text += f"\n{notes.read_text(encoding='utf-8')}"
    path.write_text(text, encoding="utf-8")
    return text


def origins(rows: Sequence[Row]) -> str:
    """Describe the trainings of the identities, each with its persons if there are several."""
    ways: dict[str, list[str]] = {}
    for row in rows:
        ways.setdefault(row["origin"], []).append(str(row["person"]))
    if len(ways) == 1:
        return next(iter(ways))
    return "; ".join(f"{name}: {', '.join(persons)}" for name, persons in ways.items())


def drawn(title: str, rows: Sequence[Row], pictures: Path, path: Path) -> str | None:
    """Draw the picture of a section beside the report and return its file name; None if there is none."""
    from PIL import Image

    for word, (part, draw, most) in FIGURES.items():
        if word not in title:
            continue
        found = draw(part, rows[:most], pictures, SMILE_TITLES if part == "smile" else ())
        if found is not None:
            name = f"{part.replace('-', '_')}.jpg"
            Image.fromarray(found).save(path.parent / name, quality=85, optimize=True)
            return name
    return None
