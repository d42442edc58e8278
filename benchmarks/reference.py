"""Speed and memory of this pack and of the public reference code, in one run.

    python -m benchmarks.reference --eg3d FOLDER --my3dgen FOLDER [--only CASE] [--json FILE]
        [--page studies/performance/README.md]

The folders are the `eg3d` folders in checkouts of NVlabs/eg3d and luchaoqi/my3dgen, which have licenses of
their own; nothing of them is in this repository. Without them this pack is measured alone.

Each side is a process of its own, and the sides take turns in every round, so that other load disturbs all
alike. Ratios are those of medians. "tuned malloc" is the reference with glibc set to keep large buffers, a
setting that its users would have to know. Configuration ffhq512-128, random weights, one picture; a frame of
a path counts 1/24 of the planes. Memory is the peak above the idle process, each side in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import contestants
from benchmarks.page import put

REFERENCE, TUNED, OURS, COMPILED, LIMIT = (
    "reference",
    "reference, tuned malloc",
    "ours",
    "ours, compiled",
    "limit",
)
THEIRS = (REFERENCE, TUNED, OURS, COMPILED)


@dataclass(frozen=True)
class Row:
    """A case: the sides that take part, and the targets."""

    sides: tuple[str, ...]
    must: tuple[float, ...] | None = None
    """Required speed: ratios to the reference without and with tuned malloc, percent of the limit, or frames
    per second."""
    memory: float | None = None
    """Largest allowed ratio of the peak memory to the reference's."""
    frames: int = 0
    """Frames that one run renders; with this pack each counts 1/24 of the planes."""
    aim: tuple[float, ...] | None = None
    """Desired speed, in the units of `must`."""
    label: str = ""
    unit: str = "x"

    def found(self, sides: dict[str, Any], side: str) -> tuple[float, ...]:
        """Return a side's speed in the units of `must`."""
        median = sides[side]["median"]
        if LIMIT in sides:
            return (100 * sides[LIMIT]["median"] / median,)
        if not self.label.startswith("starter"):
            return tuple(sides[base]["median"] / median for base in (REFERENCE, TUNED) if base in sides)
        return (self.frames / median,)


ROWS = {
    "frame": Row(THEIRS, (2.5, 1.5), aim=(4, 2.5), label="exact frame, planes included"),
    "path": Row(THEIRS, (2.5, 1.5), 0.5, 2, (4, 2.5), "exact frame of a 24-frame path"),
    "fast path": Row(
        THEIRS, (5, 3), 0.5, 2, (10, 6), "fast frame of a 24-frame path (planes and decoder: the starter's)"
    ),
    "inversion step": Row(THEIRS, (2, 1.3), aim=(4, 2.5), label="W inversion step, whole picture"),
    "inversion step as it comes": Row(
        THEIRS, (2, 1.3), aim=(4, 2.5), label="W inversion step as ours does it: 1024 rays, raw picture"
    ),
    "LoRA step": Row(THEIRS, (3, 1.5), 0.5, aim=(6, 3), label="LoRA training step"),
    "backbone": Row((LIMIT, OURS), (70,), aim=(90,), label="backbone, of bare oneDNN calls", unit=" %"),
    "super-resolution": Row(
        (LIMIT, OURS), (70,), aim=(90,), label="super-resolution, of bare oneDNN calls", unit=" %"
    ),
    "orbit": Row((OURS, COMPILED), (8,), frames=24, aim=(25,), label="starter, exact orbit", unit=" fps"),
    "fast orbit": Row(
        (OURS, COMPILED),
        (8,),
        frames=24,
        aim=(25,),
        label="starter, orbit as Render Head does it",
        unit=" fps",
    ),
}
MEMORY_AIM = 0.3


class Side:
    """A process that runs one case on request."""

    def __init__(self, side: str, case: str, args: argparse.Namespace, peak: bool = False) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.contestants",
            side,
            args.eg3d or "",
            args.my3dgen or "",
            case,
        ]
        command += [str(args.threads), "peak" if peak else "time"]
        environment = os.environ | (contestants.MALLOC if side == TUNED else {})
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self) -> list[float]:
        """Return wall-clock and processor seconds of one run."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> list[float]:
        """Read one line of numbers from the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            command = " ".join(map(str, self.process.args))  # type: ignore[arg-type]
            raise RuntimeError(f"A side ended: {command}")
        return [float(number) for number in line.split()]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of every round and the peak bytes, by side."""
    row = ROWS[case]
    sides = [side for side in row.sides if args.eg3d or not side.startswith("reference")]
    result: dict[str, Any] = {"case": case, "threads": args.threads, "rounds": args.rounds, "sides": {}}
    result["measure"] = "seconds of work" if args.work else "seconds"
    running = {side: Side(side, case, args) for side in sides}
    rounds: dict[str, list[list[float]]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, process in running.items():
            rounds[side].append(process.run())
    for process in running.values():
        process.close()
    for side in sides:
        clock, work = zip(*rounds[side], strict=True)
        result["sides"][side] = {
            "median": statistics.median(work if args.work else clock),
            "seconds": clock,
            "work": work,
        }
        if row.memory is not None and args.memory:
            once = Side(side, case, args, peak=True)
            result["sides"][side]["peak_bytes"] = once.answer()[0]
            once.close()
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| what | side | median s | least s | against the reference | tuned malloc | peak MiB | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        sides = result["sides"]
        base, tuned = sides.get(REFERENCE), sides.get(TUNED)
        for side, values in sides.items():
            median = values["median"]
            ratios = [f"{other['median'] / median:.2f}x" if other else "" for other in (base, tuned)]
            if LIMIT in sides:
                ratios = [f"{sides[LIMIT]['median'] / median:.0%} of the limit", ""]
            least = min(values["work" if "work" in result["measure"] else "seconds"])
            peak = values.get("peak_bytes")
            memory = f"{peak / base['peak_bytes']:.2f}x" if peak and base and "peak_bytes" in base else ""
            frames = ROWS[result["case"]].frames
            if frames == 24:
                ratios = [f"{frames / median:.1f} frames/s", ""]
            lines.append(
                f"| {result['case']} | {side} | {median:.3f} | {least:.3f} | {ratios[0]} "
                f"| {ratios[1]} | {f'{peak / 2**20:.0f}' if peak else ''} | {memory} |"
            )
    return "\n".join(lines)


def verdicts(results: list[dict[str, Any]]) -> str:
    """Return targets, results and verdicts as a Markdown table."""
    lines = ["| what | must | aim | ours | ours, compiled renderer | verdict |", "|---|---|---|---|---|---|"]
    for result in results:
        row, sides = ROWS[result["case"]], result["sides"]
        if row.must is None or row.aim is None:
            continue
        found = {side: row.found(sides, side) for side in (OURS, COMPILED) if side in sides}
        lines.append(_verdict(row.label, row.must, row.aim, found, row.unit))
        if row.memory is not None and "peak_bytes" in sides.get(REFERENCE, {}):
            most = sides[REFERENCE]["peak_bytes"]
            shares: dict[str, tuple[float, ...]] = {
                side: (sides[side]["peak_bytes"] / most,) for side in found
            }
            lines.append(
                _verdict(f"{row.label}: peak memory", (row.memory,), (MEMORY_AIM,), shares, "x", True)
            )
    return "\n".join(lines)


def _verdict(
    label: str,
    must: tuple[float, ...],
    aim: tuple[float, ...],
    found: dict[str, tuple[float, ...]],
    unit: str = "x",
    less: bool = False,
) -> str:
    """Return one line of `verdicts`; `less`: smaller values are better."""

    def reached(values: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
        return len(values) == len(wanted) and all(
            (v <= w) if less else (v >= w) for v, w in zip(values, wanted, strict=True)
        )

    def written(values: tuple[float, ...], digits: str = ".3g") -> str:
        return " / ".join(f"{value:{digits}}{unit}" for value in values)

    words = []
    for side, values in found.items():
        grade = "aim" if reached(values, aim) else "holds" if reached(values, must) else "falls short"
        words.append(
            grade if len(found) == 1 else f"{'compiled' if side == COMPILED else 'PyTorch'}: {grade}"
        )
    cells = [written(found[side]) if side in found else "" for side in (OURS, COMPILED)]
    bound = "<= " if less else ">= "
    return (
        f"| {label} | {bound}{written(must, 'g')} | {written(aim, 'g')} | {cells[0]} | {cells[1]} "
        f"| {', '.join(dict.fromkeys(words))} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--eg3d", help="folder `eg3d` of a checkout of NVlabs/eg3d")
    parser.add_argument("--my3dgen", help="folder `eg3d` of a checkout of luchaoqi/my3dgen")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this case (may be repeated)")
    parser.add_argument("--json", type=Path, help="keep the figures here; cases that are there are replaced")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--work", action="store_true", help="compare processor seconds on one thread: for a busy machine"
    )
    parser.add_argument("--page", type=Path, help="put both tables into this page, between their marks")
    parser.add_argument("--show", action="store_true", help="measure nothing: the tables of --json")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out peak memory")
    args = parser.parse_args()
    if args.work:
        args.threads = 1
    known: dict[str, dict[str, Any]] = {}
    if args.json and args.json.exists():
        known = {result["case"]: result for result in json.loads(args.json.read_text())}
    for case in [] if args.show else args.only or ROWS:
        known[case] = measure(case, args)
        if args.json:
            args.json.write_text(json.dumps(list(known.values()), indent=1) + "\n")
    results = [known[case] for case in ROWS if case in known]
    found = f"{verdicts(results)}\n\n{table(results)}"
    print(found)
    if args.page:
        put(args.page, "reference", found)


if __name__ == "__main__":
    main()
