"""Time, memory and fidelity of quality "fast" and "exact" on camera paths, by PyTorch and compiled.

    python -m my3dgen_core build-kernels
    python -m benchmarks.camera_path [--json FILE] [--rounds N] [--threads N] [--quick]

Generators: the bundled starter, whose heads are surrounded by empty space, and random weights of
ffhq512-128's size, which have no empty space. All combinations are timed in turns, so that other load
disturbs them alike; ratios are those of the medians. Processor seconds are given beside wall-clock seconds
for machines that are not idle. Without the compiled renderer its rows are left out. Memory is the peak of the
resident set during a path, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import reset_peak, resident, return_freed
from my3dgen_core import Generator, GeneratorConfig, load_generator, look_at
from my3dgen_core.eg3d.rendering import compiled, culled
from my3dgen_core.eg3d.rendering.density_bounds import density_bounds
from my3dgen_core.eg3d.rendering.triplanes import TableField

QUALITIES = ("exact", "fast")
BATCH = 4


class Scene:
    """A generator, a latent and its planes."""

    def __init__(self, weights: str) -> None:
        torch.manual_seed(0)
        self.generator = load_generator("starter") if weights == "starter" else random_generator()
        config = self.generator.config
        z = torch.randn(1, config.z_dim, generator=torch.Generator().manual_seed(1))
        self.ws = self.generator.mapping(z, look_at(0.0, 0.0, focal=config.focal), truncation_psi=0.7)
        self.planes = self.generator.planes(self.ws)

    def path(self, frames: int) -> torch.Tensor:
        """Return the cameras [frames, 25] of a path from left to right."""
        steps = torch.linspace(-0.6, 0.6, frames)
        return torch.cat([look_at(float(yaw), 0.1, focal=self.generator.config.focal) for yaw in steps])

    def frames(self, quality: str, renderer: str, cameras: torch.Tensor) -> Any:
        """Yield the frames of a path, a batch at a time, as for a video."""
        self.generator.renderer = renderer
        for part in cameras.split(BATCH):
            yield self.generator.render(self.ws, part, planes=self.planes, quality=quality).image

    def march(self, quality: str, renderer: str, cameras: torch.Tensor, resolution: int) -> None:
        """Render rays alone, without super-resolution."""
        self.generator.renderer = renderer
        self.generator.march(self.planes, cameras, resolution, quality=quality)


def random_generator() -> Generator:
    """Return random weights of ffhq512-128's size, with density everywhere."""
    config = GeneratorConfig()
    generator = Generator(config).eval().requires_grad_(False)
    output: Any = generator.decoder.net[2]
    with torch.no_grad():
        output.bias[0] = 3.0
    return generator


Clock = dict[str, list[tuple[float, float]]]


def race(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Run all in turns, and return medians of wall-clock and processor seconds; the first round warms up."""
    clock: Clock = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if i:
                clock[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "wall_seconds": statistics.median(w for w, _ in times),
            "least_wall_seconds": min(w for w, _ in times),
            "cpu_seconds": statistics.median(c for _, c in times),
        }
        for name, times in clock.items()
    }


def combinations(renderers: list[str], run: Callable[[str, str], Any]) -> dict[str, Callable[[], Any]]:
    """Return a run for every quality and renderer."""
    return {f"{q}, {r}": partial(run, q, r) for r in renderers for q in QUALITIES}


def consume(frames: Any) -> None:
    """Render all frames without keeping them."""
    for _ in frames:
        pass


def fidelity(scene: Scene, renderer: str) -> dict[str, float]:
    """Compare 24 "fast" frames with exact ones: lowest PSNR in dB, and excess of frame differences of 255."""
    cameras = scene.path(24)
    exact, quick = (torch.cat(list(scene.frames(q, renderer, cameras))).clamp(-1, 1) for q in QUALITIES)
    psnr = 10 * torch.log10(4 / (exact - quick).square().mean((1, 2, 3)).clamp(min=1e-12))
    moved = [(v[1:] - v[:-1]).abs().mean() * 127.5 for v in (exact, quick)]
    return {"least_psnr": float(psnr.min()), "excess_of_255": float(moved[1] - moved[0])}


def decoded(scene: Scene, first: tuple[int, int]) -> int:
    """Count the samples whose density is decoded for a frame of 64 x 64 rays; first: `culled.FIRST`."""
    counts, density, usual = [], TableField.density, culled.FIRST

    def counting(self: Any, points: torch.Tensor, scenes: torch.Tensor) -> Any:
        counts.append(len(points))
        return density(self, points, scenes)

    TableField.density, culled.FIRST = counting, first  # type: ignore[method-assign, assignment]
    try:
        scene.march("fast", "torch", look_at(0.3, 0.1), 64)
    finally:
        TableField.density, culled.FIRST = density, usual  # type: ignore[method-assign]
    return sum(counts)


def fewer_samples(scene: Scene) -> dict[str, float]:
    """Return the PSNR in dB of exact rays with other numbers of samples to those with the starter's own."""
    usual, views = scene.generator.config, {}
    scene.generator.renderer = "torch"
    for n, k in ((24, 24), (24, 16), (24, 8), (16, 16), (48, 48)):
        scene.generator.config = replace(usual, depth_resolution=n, depth_resolution_importance=k)
        views[f"{n} + {k}"] = scene.generator.march(scene.planes, look_at(0.3, 0.1), 64).features[..., :3]
    scene.generator.config = usual
    own = views.pop(f"{usual.depth_resolution} + {usual.depth_resolution_importance}")
    return {name: float(10 * torch.log10(4 / (v - own).square().mean())) for name, v in views.items()}


def peak(frames: int, quality: str, renderer: str, threads: int) -> int:
    """Return the peak bytes of a path of the starter, measured in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.camera_path",
        "--peak",
        str(frames),
        quality,
        renderer,
        "--threads",
        str(threads),
    ]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_peak(frames: int, quality: str, renderer: str) -> int:
    """Return the peak bytes of a path of the starter in this process."""
    scene = Scene("starter")
    cameras = scene.path(frames)
    return_freed()
    before = resident("VmRSS")
    reset_peak()
    consume(scene.frames(quality, renderer, cameras))
    return resident("VmHWM") - before


def measure(renderers: list[str], rounds: int, threads: int, quick: bool) -> dict[str, Any]:
    """Return all figures; quick: short paths and small pictures."""
    scene = Scene("starter")
    result: dict[str, Any] = {"threads": threads, "rounds": rounds, "torch": torch.__version__}
    result["fidelity"] = {r: fidelity(scene, r) for r in renderers}
    result["samples"] = {
        "exact": 64 * 64 * 48,
        "bounds alone": decoded(scene, (999, 999)),
        "bounds and the front first": decoded(scene, culled.FIRST),
    }
    result["fewer_samples_psnr"] = fewer_samples(scene)
    rows = result["rows"] = []

    def row(case: str, count: int, run: Callable[[str, str], Any]) -> None:
        times = race(combinations(renderers, run), rounds)
        for name, seconds in times.items():
            quality, renderer = name.split(", ")
            rows.append({"case": case, "quality": quality, "renderer": renderer, "frames": count, **seconds})

    for frames in (1, 4, 24) if quick else (1, 8, 24, 60, 240):
        cameras = scene.path(frames)
        row(f"starter, {frames} frames, 128 px", frames, partial(run_path, scene, cameras))
    for size in (32, 64) if quick else (32, 64, 128, 256):
        row(f"starter, rays alone, {size} x {size}", 1, partial(run_rays, scene, size))
    row("starter, bounds of new planes", 1, lambda q, r: bounds(scene, r) if q == "fast" else None)
    if not quick:
        random = Scene("random")
        row("random weights, rays alone, 128 x 128", 1, partial(run_rays, random, 128))
    result["peak"] = [
        {"frames": n, "quality": q, "renderer": r, "bytes": peak(n, q, r, threads)}
        for n in ((4, 24) if quick else (4, 24, 240))
        for r in renderers
        for q in QUALITIES
    ]
    return result


def run_path(scene: Scene, cameras: torch.Tensor, quality: str, renderer: str) -> None:
    """Render a path."""
    consume(scene.frames(quality, renderer, cameras))


def run_rays(scene: Scene, size: int, quality: str, renderer: str) -> None:
    """Render the rays of one frame."""
    scene.march(quality, renderer, scene.path(1), size)


def bounds(scene: Scene, renderer: str) -> None:
    """Compute the density bounds of the scene's planes."""
    density_bounds(
        scene.planes,
        scene.generator.decoder,
        scene.generator.config.box_warp,
        combine=compiled.density_bounds if renderer == "compiled" else None,
    )


def table(result: dict[str, Any]) -> str:
    """Return all figures as Markdown tables."""
    lines = [
        "| case | renderer | exact: clock, processor ms a frame | fast | faster | fast, frames a second |",
        "|---|---|---|---|---|---|",
    ]
    rows = {(r["case"], r["renderer"], r["quality"]): r for r in result["rows"]}
    for (case, renderer, quality), exact in rows.items():
        if quality == "fast":
            continue
        fast = rows[case, renderer, "fast"]
        ms = [r[key] * 1e3 / r["frames"] for r in (exact, fast) for key in ("wall_seconds", "cpu_seconds")]
        lines.append(
            f"| {case} | {renderer} | {ms[0]:.1f}, {ms[1]:.1f} | {ms[2]:.1f}, {ms[3]:.1f} "
            f"| {ms[0] / ms[2]:.1f}x, {ms[1] / ms[3]:.1f}x | {1e3 / ms[2]:.1f} |"
        )
    lines += ["", "| fidelity | least PSNR | excess of frame differences |", "|---|---|---|"]
    lines += [
        f"| {r} | {f['least_psnr']:.1f} dB | {f['excess_of_255']:.4f} / 255 |"
        for r, f in result["fidelity"].items()
    ]
    lines += ["", "| samples decoded | | of all |", "|---|---|---|"]
    samples = result["samples"]
    lines += [f"| {name} | {n:,} | {n / samples['exact']:.0%} |" for name, n in samples.items()]
    lines += ["", "| samples a ray, exact | PSNR of the rays to 24 + 24 |", "|---|---|"]
    lines += [f"| {name} | {psnr:.1f} dB |" for name, psnr in result["fewer_samples_psnr"].items()]
    lines += ["", "| peak memory | renderer | exact MiB | fast MiB |", "|---|---|---|---|"]
    peaks = {(p["frames"], p["renderer"], p["quality"]): p["bytes"] / 2**20 for p in result["peak"]}
    lines += [
        f"| {n} frames | {r} | {peaks[n, r, 'exact']:.0f} | {peaks[n, r, 'fast']:.0f} |"
        for n, r, q in peaks
        if q == "fast"
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="short paths and small pictures")
    parser.add_argument("--peak", nargs=3, metavar=("FRAMES", "QUALITY", "RENDERER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        if args.peak:
            print(measure_peak(int(args.peak[0]), *args.peak[1:]))
            return
        renderers = ["torch", "compiled"] if compiled.available() else ["torch"]
        result = measure(renderers, args.rounds, args.threads, args.quick)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
