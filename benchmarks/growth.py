"""Growth of time and memory with frames, neural resolution, photos and persons, on the bundled starter.

    python -m my3dgen_core build-kernels
    python -m benchmarks.growth [--json FILE] [--plots FOLDER] [--rounds N] [--work]
    python -m benchmarks.growth --from FILE --plots FOLDER    # the plots alone

Seconds are medians of wall-clock time, or with --work of processor time on one thread; the curves of a case
are timed in turns. Memory is PyTorch's own count of the most bytes alive at once, beyond those alive before
(`tests/allocations.py`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from allocations import peak

from benchmarks.page import put
from benchmarks.people import full_generators, person
from my3dgen_core import (
    Generator,
    InversionConfig,
    Latents,
    TuningConfig,
    invert,
    load_generator,
    look_at,
    orbit,
    personalized,
)
from my3dgen_core.eg3d.rendering import compiled
from my3dgen_core.eg3d.rendering.backend import select_backend
from my3dgen_core.evaluation import read_demo_person
from my3dgen_core.fitting.trainer import Training

IMPLEMENTATIONS = tuple(itertools.product(("PyTorch", "compiled"), ("exact", "fast")))
LONGEST = {("PyTorch", "exact"): 80}
"""Largest number of frames for slow implementations; it takes half a minute a round."""
BATCH = 2  # the default batch size of Render Head
MEMORY_FRAMES = (1, 8, 24)
"""Numbers of frames for which memory is measured."""
Points = dict[str, dict[str, float]]
Runs = dict[str, Callable[[], Any]]


def race(runs: Runs, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Run all in turns, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def renderers() -> dict[str, Generator]:
    """Return the starter with PyTorch's renderer, and with the compiled one if it is built."""
    both = {"PyTorch": load_generator("starter")}
    if compiled.available():
        both["compiled"] = load_generator("starter")
        select_backend(both["compiled"], "compiled")
    return both


def path(generator: Generator, quality: str, frames: int) -> None:
    """Render a path around the mean head, planes included, without keeping the frames."""
    ws = generator.w_avg.expand(1, generator.num_ws, -1)
    planes = generator.planes(ws)
    for cameras in orbit(frames).split(BATCH):
        generator.render(ws, cameras, planes=planes, quality=quality)


def frames(count: int) -> tuple[Runs, Runs]:
    """Return the runs to time and to measure the memory of: a path of `count` frames."""
    both = renderers()
    runs: Runs = {
        f"{name}, {quality}": torch.no_grad()(lambda g=both[name], q=quality: path(g, q, count))
        for name, quality in IMPLEMENTATIONS
        if name in both and count <= LONGEST.get((name, quality), count)
    }
    return runs, runs if count in MEMORY_FRAMES else {}


@torch.no_grad()
def resolution(size: int) -> tuple[Runs, Runs]:
    """Return the runs of one picture with this neural resolution."""
    both, camera = renderers(), look_at(0.3, 0.1)
    ws = both["PyTorch"].w_avg.expand(1, both["PyTorch"].num_ws, -1)
    planes = both["PyTorch"].planes(ws)

    def picture(generator: Generator, quality: str) -> None:
        generator.render(ws, camera, planes=planes, neural_resolution=size, quality=quality)

    return {
        f"{name}, {quality}": torch.no_grad()(lambda g=both[name], q=quality: picture(g, q))
        for name, quality in IMPLEMENTATIONS
        if name in both
    }, {}


def photos(count: int) -> tuple[Runs, Runs]:
    """Return the runs of an inversion step of every photo, and of a training step, which uses one photo."""
    generator = list(renderers().values())[-1]
    some, cameras, *_ = read_demo_person()
    index = torch.arange(count) % len(some)
    images, seen_from = some[index], cameras[index]
    inversion = InversionConfig(steps=1, shared_steps=0, preview_every=0)
    anchors = Latents(generator.w_avg.expand(count, generator.num_ws, -1).clone(), seen_from)
    training = Training(generator, images, anchors, TuningConfig(), None, None, None)
    runs: Runs = {
        "inversion, a step for every photo": lambda: invert(generator, images, seen_from, inversion),
        "training, a step": training.advance,
    }
    return runs, runs


@torch.no_grad()
def persons(count: int) -> tuple[Runs, Runs]:
    """Return the runs of one batch of `count` persons, and of one generator per person for the memory."""
    generator, camera = list(renderers().values())[-1], look_at(0.3, 0.1)
    people = [[person(generator, i)] for i in range(count)]
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    ws = generator.mapping(z, camera.expand(count, -1), 0.7)

    @torch.no_grad()
    def batch(who: Any) -> None:
        with personalized(generator, who):
            generator.render(ws, camera)

    def shared() -> None:
        """Render all persons in one batch with one generator."""
        weights = {key: value.clone() for key, value in generator.state_dict().items()}
        batch([[person(generator, i)] for i in range(count)])
        del weights

    @torch.no_grad()
    def apart() -> None:
        for one in full_generators(generator, count):
            one.render(ws[:1], camera)

    return {
        "as many latents of one person": lambda: batch(people[0]),
        "persons": lambda: batch(people),
    }, {"one generator and the persons": shared, "a generator for each": apart}


@dataclass(frozen=True)
class Case:
    """A quantity that grows."""

    label: str
    places: tuple[int, ...]
    """Values of the quantity."""
    at: Callable[[int], tuple[Runs, Runs]]
    """Function from a value to the runs to time, and to the runs whose memory is measured."""


CASES = {
    "frames": Case("frames of a path", (1, 8, 24, 80, 240), frames),
    "resolution": Case("neural resolution", (32, 64, 128, 256), resolution),
    "photos": Case("photos", (5, 10, 20, 50), photos),
    "persons": Case("persons", (1, 4, 16, 64), persons),
}


def measure(case: Case, rounds: int, work: bool) -> dict[str, Points]:
    """Return seconds and MiB: curve -> value of the quantity -> figure."""
    unit = "processor seconds" if work else "seconds"
    result: dict[str, Points] = {unit: {}, "MiB": {}}
    for run in case.at(case.places[0])[0].values():
        run()  # warms up
    for place in case.places:
        timed, measured = case.at(place)
        for name, value in race(timed, rounds, time.process_time if work else time.perf_counter).items():
            result[unit].setdefault(name, {})[str(place)] = value
        for name, run in measured.items():
            result["MiB"].setdefault(name, {})[str(place)] = peak(run) / 2**20
    return {unit: curves for unit, curves in result.items() if curves}


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown tables."""
    lines = []
    for name, case in CASES.items():
        for unit, curves in result.get(name, {}).items():
            places = list(dict.fromkeys(x for points in curves.values() for x in points))
            lines += [f"| {case.label}: {unit} | " + " | ".join(places) + " |"]
            lines += ["|---" * (len(places) + 1) + "|"]
            for curve, points in curves.items():
                cells = [f"{points[x]:.3g}" if x in points else "" for x in places]
                lines.append(f"| {curve} | " + " | ".join(cells) + " |")
            lines.append("")
    return "\n".join(lines)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Write one plot per case: seconds, and MiB beside them if they were measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        if name not in result:
            continue
        units = result[name]
        figure = Figure(figsize=(4.2 * len(units), 3.6), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (unit, curves) in zip(
            figure.subplots(1, len(units), squeeze=False)[0], units.items(), strict=True
        ):
            for curve, points in curves.items():
                axes.plot(list(map(int, points)), list(points.values()), "o-", markersize=3, label=curve)
            axes.set(xscale="log", yscale="log", xlabel=case.label, ylabel=unit)
            axes.set_xticks(case.places, list(map(str, case.places)), minor=False)
            axes.xaxis.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        threads = result["threads"]
        figure.suptitle(f"the bundled starter, {threads} thread{'s'[: threads > 1]}", fontsize=8)
        figure.savefig(folder / f"{name}.png", pil_kwargs={"optimize": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    parser.add_argument("--page", type=Path, help="put the tables into this page, between their marks")
    parser.add_argument("--from", dest="source", type=Path, help="figures of an earlier run")
    parser.add_argument(
        "--only", action="append", choices=list(CASES), help="this case; the rest from --json"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--work", action="store_true", help="processor seconds on one thread: for a busy machine"
    )
    args = parser.parse_args()
    torch.set_num_threads(1 if args.work else args.threads)
    source = args.source or (args.json if args.only else None)
    result: dict[str, Any] = json.loads(source.read_text()) if source else {}
    if not args.source:
        result |= {"threads": torch.get_num_threads(), "rounds": args.rounds, "torch": torch.__version__}
        for case in args.only or CASES:
            result[case] = measure(CASES[case], args.rounds, args.work)
            if args.json:  # after each case, so that an interrupted run keeps its figures
                args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    if args.plots:
        draw(result, args.plots)
    if args.page:
        put(args.page, "growth", table(result))


if __name__ == "__main__":
    main()
