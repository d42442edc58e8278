"""Time and memory of several persons in one batch, against latents of one person and several generators.

    python -m benchmarks.people [--people N] [--rounds N] [--threads N] [--full]

The two batches are timed in turns; the ratio is that of the medians. Memory is the peak above the idle
process, in a process of its own each: one generator with N identities, or N generators with merged
identities. --full uses random weights of ffhq512-128's size instead of the starter.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import goldens
import torch

from benchmarks.memory import reset_peak, resident, return_freed
from benchmarks.page import put
from my3dgen_core import Adapter, Generator, load_generator, look_at, personalized
from my3dgen_core.person.apply import merged_state_dict


def generator(full: bool) -> Generator:
    """Return the starter, or a generator of ffhq512-128's size with random weights."""
    return goldens.full() if full else load_generator("starter")


def person(model: Generator, seed: int) -> Adapter:
    """Return a random adapter of rank 1 with the default layout."""
    adapter = Adapter.create(model, trainable="paper", seed=seed)
    draw = torch.Generator().manual_seed(seed)
    for tensor in adapter.tensors.values():
        tensor += 0.01 * torch.randn(tensor.shape, generator=draw)
    return adapter


def full_generators(model: Generator, count: int) -> list[Generator]:
    """Return one generator per person, with the person's adapter merged."""
    models = []
    for i in range(count):
        with torch.device("meta"):
            one = Generator(model.config)
        state = {k: v.clone() for k, v in merged_state_dict(model, person(model, i)).items()}
        one.load_state_dict(state, assign=True)
        one.renderer = model.renderer
        models.append(one)
    return models


@torch.inference_mode()
def peak(way: str, count: int, full: bool) -> int:
    """Return the peak bytes above the idle process while all persons are in memory and rendered once.

    Args:
        way: "identities", one generator with adapters; or "generators", one merged generator per person.
        count: number of persons.
        full: as in `generator`.
    """
    before = resident("VmRSS")
    reset_peak()
    model = generator(full)
    ws, camera = model.w_avg.expand(1, model.num_ws, -1), look_at(0.3, 0.1)
    if way == "identities":
        people = [[person(model, i)] for i in range(count)]
        with personalized(model, people):
            model.render(ws, camera)
    else:
        for one in full_generators(model, count):
            one.render(ws, camera)
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--work", action="store_true", help="processor seconds on one thread: for a busy machine"
    )
    parser.add_argument("--page", type=Path, help="put the figures into this page, between their marks")
    parser.add_argument("--peak", choices=("identities", "generators"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1 if args.work else args.threads)
    if args.peak:
        return_freed()
        print(peak(args.peak, args.people, args.full))
        return
    model, count = generator(args.full), args.people
    people = [person(model, i) for i in range(count)]
    z = torch.randn(count, model.config.z_dim, generator=torch.Generator().manual_seed(0))
    cameras = look_at(0.3, 0.1)
    ws = model.mapping(z, cameras.expand(count, -1), 0.7)
    clock = time.process_time if args.work else time.perf_counter
    seconds: dict[str, list[float]] = {"one person": [], "persons": []}
    with torch.inference_mode():
        for i in range(args.rounds + 1):
            for name, who in (("one person", people[0]), ("persons", [[one] for one in people])):
                start = clock()
                with personalized(model, who):
                    model.render(ws, cameras)
                if i:  # the first warms up
                    seconds[name].append(clock() - start)
    one, several = (statistics.median(times) for times in seconds.values())
    command = [sys.executable, "-m", "benchmarks.people", "--people", str(count)] + (
        ["--full"] if args.full else []
    )
    sizes = [
        int(subprocess.run([*command, "--peak", way], capture_output=True, text=True, check=True).stdout)
        for way in ("identities", "generators")
    ]
    kind = "of the size of ffhq512-128" if args.full else "the starter"
    found = (
        f"{count} latents of one person take {one:.3f} {'processor ' * args.work}seconds, of {count} persons "
        f"{several:.3f} ({several / one:.2f}x; must: 1.15x). {count} persons and one generator, {kind}, take "
        f"{sizes[0] / 2**20:.0f} MiB, {count} generators {sizes[1] / 2**20:.0f} MiB "
        f"({sizes[1] / sizes[0]:.1f}x as much), each way with a picture of everybody."
    )
    print(found)
    if args.page:
        put(args.page, "people-full" if args.full else "people", found)


if __name__ == "__main__":
    main()
