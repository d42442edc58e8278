"""Time and memory of the compiled renderer and of PyTorch's, on one GPU.

    python -m my3dgen_core build-kernels
    python -m benchmarks.gpu --json gpu.json

Both run in one process in turns; times are medians of CUDA events. Memory is the peak of PyTorch's allocator
above its value before the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from my3dgen_core import Generator, GeneratorConfig, load_generator, look_at
from my3dgen_core.eg3d.config import PLANE_CHANNELS
from my3dgen_core.eg3d.rendering import compiled
from my3dgen_core.eg3d.rendering.rays import rays
from my3dgen_core.eg3d.rendering.renderer import render_rays

RENDERERS = ("torch", "compiled")
Run = Callable[[], object]


def ffhq() -> tuple[Generator, torch.Tensor]:
    """Return random weights and planes of ffhq512-128's size, which have no empty or hidden space."""
    torch.manual_seed(0)
    with torch.device("meta"):
        generator = Generator(GeneratorConfig())
    generator.decoder.to_empty(device="cuda").requires_grad_(False)
    for parameter in generator.decoder.parameters():
        torch.nn.init.normal_(parameter)
    return generator, torch.randn(1, 3, PLANE_CHANNELS, 256, 256, device="cuda")


def starter() -> tuple[Generator, torch.Tensor]:
    """Return the starter and the planes of its mean head."""
    generator = load_generator("starter", device="cuda")
    with torch.no_grad():
        return generator, generator.planes(generator.w_avg.expand(1, generator.num_ws, -1))


def frame(make: Callable[[], tuple[Generator, torch.Tensor]], batch: int) -> Callable[[str], Run]:
    """Return a case, a function from the renderer to a run: `batch` frames."""

    def prepared(renderer: str) -> Run:
        generator, planes = make()
        cameras = look_at(0.3, 0.1).expand(batch, -1).cuda()
        generator.renderer = renderer
        size = generator.config.neural_resolution

        @torch.no_grad()
        def run() -> object:
            return generator.march(planes.expand(batch, -1, -1, -1, -1), cameras, size)

        return run

    return prepared


def step(
    make: Callable[[], tuple[Generator, torch.Tensor]], batch: int, min_weight: float
) -> Callable[[str], Run]:
    """Return a case: a training step of 64 x 64 rays, with the gradient."""

    def prepared(renderer: str) -> Run:
        generator, planes = make()
        generator.decoder.requires_grad_(True)
        planes = planes.repeat(batch, 1, 1, 1, 1).requires_grad_(True)
        cameras = look_at(0.3, 0.1).expand(batch, -1).cuda()
        origins, directions = rays(cameras, 64)

        def run() -> object:
            out = render_rays(
                planes,
                generator.decoder,
                generator.config,
                origins,
                directions,
                min_weight=min_weight,
                renderer=renderer,
            )
            loss = out.features.square().mean() + out.weight.mean()
            return torch.autograd.grad(loss, [planes, *generator.decoder.parameters()])

        return run

    return prepared


CASES: dict[str, Callable[[str], Run]] = {
    "frame 128x128, 48+48, random": frame(ffhq, 1),
    "4 frames 128x128, 48+48, random": frame(ffhq, 4),
    "frame 64x64, 24+24, starter": frame(starter, 1),
    "step 64x64, 48+48, random, all samples": step(ffhq, 1, 0.0),
    "step 64x64, 24+24, starter, all samples": step(starter, 1, 0.0),
    "step 64x64, 24+24, starter x 4, floor .001": step(starter, 4, 1e-3),
}


def measure(case: str, rounds: int) -> dict[str, Any]:
    """Return median milliseconds and peak MiB of both renderers, and their ratios."""
    result: dict[str, Any] = {"case": case}
    runs = {renderer: CASES[case](renderer) for renderer in RENDERERS}
    times: dict[str, list[float]] = {renderer: [] for renderer in RENDERERS}
    for i in range(rounds + 3):
        for renderer, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if i >= 3:
                times[renderer].append(start.elapsed_time(end))
    for renderer, run in runs.items():
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        result[renderer] = {"median_ms": statistics.median(times[renderer]), "peak_mib": peak / 2**20}
    first, second = (result[renderer] for renderer in RENDERERS)
    return result | {key: first[key] / second[key] for key in first}


def profile(case: str) -> str:
    """Return the compiled renderer's time by CUDA kernel, as text."""
    run = CASES[case]("compiled")
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda e: -e.device_time_total)[:9]
    return "\n".join(f"  {e.device_time_total / 5000:8.3f} ms  {e.key[:90]}" for e in events)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="show each kernel's time")
    args = parser.parse_args()
    compiled.load("cuda")
    print(torch.cuda.get_device_name(), torch.__version__)
    results = [measure(case, args.rounds) for case in CASES]
    print("| case | torch ms | compiled ms | faster | torch MiB | compiled MiB | memory |")
    print("|---|---|---|---|---|---|---|")
    for r in results:
        a, b = (r[name] for name in RENDERERS)
        print(
            f"| {r['case']} | {a['median_ms']:.2f} | {b['median_ms']:.2f} | {r['median_ms']:.1f}x "
            f"| {a['peak_mib']:.0f} | {b['peak_mib']:.0f} | 1/{r['peak_mib']:.1f} |"
        )
    if args.json:
        args.json.write_text(
            json.dumps({"card": torch.cuda.get_device_name(), "cases": results}, indent=2) + "\n"
        )
    if args.profile:
        for case in CASES:
            print(case, profile(case), sep="\n")


if __name__ == "__main__":
    main()
