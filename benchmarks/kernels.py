"""Time and memory of the compiled renderer and of PyTorch's, on the CPU.

    python -m my3dgen_core build-kernels
    python -m benchmarks.kernels [--json FILE] [--rounds N] [--threads N]

The two are timed in turns, so that other load disturbs both alike; ratios are given of the medians and of the
shortest times. Memory is the peak of the resident set during one run, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import reset_peak, resident, return_freed
from benchmarks.page import put
from my3dgen_core import Generator, GeneratorConfig, load_generator, look_at
from my3dgen_core.eg3d.config import PLANE_CHANNELS
from my3dgen_core.eg3d.rendering import compiled
from my3dgen_core.eg3d.rendering.rays import rays
from my3dgen_core.eg3d.rendering.renderer import render_rays
from my3dgen_core.starter.training.objectives import DENSITY_SCALE

RENDERERS = ("torch", "compiled")


def frame(renderer: str) -> Callable[[], object]:
    """Prepare a frame of ffhq512-128's size on random planes: 128 x 128 rays, 48 + 48 samples."""
    config = GeneratorConfig(depth_resolution=48, depth_resolution_importance=48, neural_resolution=128)
    torch.manual_seed(0)
    with torch.device("meta"):
        generator = Generator(config)
    generator.decoder.to_empty(device="cpu").requires_grad_(False)
    for parameter in generator.decoder.parameters():
        torch.nn.init.normal_(parameter)
    planes = torch.randn(1, 3, 256, 256, PLANE_CHANNELS).permute(0, 1, 4, 2, 3)  # as the generator makes them
    generator.renderer = renderer
    camera = look_at(0.3, 0.1)

    @torch.no_grad()
    def run() -> object:
        return generator.march(planes, camera, 128)

    return run


def step(renderer: str, batch: int) -> Callable[[], object]:
    """Prepare a training step of the starter: 64 x 64 rays, 24 + 24 samples, with the gradient."""
    generator = load_generator("starter")
    cameras = look_at(0.3, 0.1).expand(batch, -1)
    z = torch.randn(batch, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        planes = generator.planes(generator.mapping(z, cameras))
        output: Any = generator.decoder.net[2]
        output.weight[0] /= DENSITY_SCALE
        output.bias[0] /= DENSITY_SCALE
    planes.requires_grad_(True)
    generator.requires_grad_(True)
    origins, directions = rays(cameras, generator.config.neural_resolution)

    def run() -> object:
        out = render_rays(
            planes,
            generator.decoder,
            generator.config,
            origins,
            directions,
            min_weight=1e-3,
            density_scale=DENSITY_SCALE,
            renderer=renderer,
        )
        loss = out.features.square().mean() + out.weight.mean()
        return torch.autograd.grad(loss, [planes, *generator.decoder.parameters()])

    return run


CASES: dict[str, Callable[[str], Callable[[], object]]] = {
    "frame 128x128, 48+48": frame,
    "step 64x64, 24+24, batch 1": lambda renderer: step(renderer, 1),
    "step 64x64, 24+24, batch 4": lambda renderer: step(renderer, 4),
}


def peak(case: str, renderer: str, threads: int) -> int:
    """Return the peak bytes of one run, measured in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.kernels",
        "--peak",
        case,
        renderer,
        "--threads",
        str(threads),
    ]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(case: str, rounds: int, threads: int) -> dict[str, Any]:
    """Return median and shortest seconds and peak bytes of both renderers, and their ratios."""
    runs = {renderer: CASES[case](renderer) for renderer in RENDERERS}
    seconds: dict[str, list[float]] = {renderer: [] for renderer in RENDERERS}
    for i in range(rounds + 1):  # the first warms up
        for renderer, run in runs.items():
            start = time.perf_counter()
            run()
            if i:
                seconds[renderer].append(time.perf_counter() - start)
    memory = {renderer: peak(case, renderer, threads) for renderer in RENDERERS}
    result: dict[str, Any] = {"case": case, "threads": threads, "rounds": rounds}
    for renderer in RENDERERS:
        result[renderer] = {
            "median_seconds": statistics.median(seconds[renderer]),
            "least_seconds": min(seconds[renderer]),
            "peak_bytes": memory[renderer],
        }
    first, second = (result[renderer] for renderer in RENDERERS)
    for key in ("median_seconds", "least_seconds", "peak_bytes"):
        result[f"{key}_ratio"] = first[key] / second[key]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each case")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch and of the renderer")
    parser.add_argument("--page", type=Path, help="put the table into this page, between its marks")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "RENDERER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compiled.load()
    if args.peak:
        run = CASES[args.peak[0]](args.peak[1])
        return_freed()  # memory freed by the preparation would not count when the run uses it again
        before = resident("VmRSS")
        reset_peak()
        run()
        print(resident("VmHWM") - before)
        return
    results = [measure(case, args.rounds, args.threads) for case in CASES]
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    lines = [
        "| case | torch s | compiled s | faster (median, least) | torch MiB | compiled MiB | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        torch_, ours = (r[name] for name in RENDERERS)
        lines.append(
            f"| {r['case']} | {torch_['median_seconds']:.3f} | {ours['median_seconds']:.3f} "
            f"| {r['median_seconds_ratio']:.1f}x, {r['least_seconds_ratio']:.1f}x "
            f"| {torch_['peak_bytes'] / 2**20:.0f} | {ours['peak_bytes'] / 2**20:.0f} "
            f"| {1 / r['peak_bytes_ratio']:.2f}x |"
        )
    print("\n".join(lines))
    if args.page:
        put(args.page, "kernels", "\n".join(lines))


if __name__ == "__main__":
    main()
