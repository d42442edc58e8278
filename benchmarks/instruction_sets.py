"""Time of the compiled CPU renderer's libraries, one for each instruction set, side by side.

    python -m build tools/kernels_wheel --outdir build/wheel && unzip build/wheel/*.whl -d build/wheel
    python -m benchmarks.instruction_sets build/wheel/my3dgen_kernels/*.so [--rounds N] [--threads N]

Libraries that the processor cannot run must not be named. All are called in turns in one process: on the rays
of a frame of ffhq512-128's size (128 x 128, 48 + 48 samples, random planes), and a quarter of them with
the gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from my3dgen_core.eg3d.rendering.compiled.cpu_kernels import CpuKernels

RAYS, SAMPLES, SIDE = 128 * 128, 48, 256


def operands() -> tuple[Any, ...]:
    """Return the operator's tensors for one scene: planes, decoder weights, and rays."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    planes = normal(1, 3, SIDE, SIDE, 32).permute(0, 1, 4, 2, 3)  # as the generator makes them
    weights = [0.3 * normal(*shape) for shape in ((64, 32), (64,), (33, 64), (33,))]
    directions = torch.nn.functional.normalize(normal(1, RAYS, 3), dim=-1)
    depths = torch.linspace(0.1, 0.9, SAMPLES).expand(1, RAYS, SAMPLES).contiguous()
    u = torch.rand(1, RAYS, SAMPLES, generator=generator)
    return planes, *weights, -0.5 * directions, directions, depths, u


def frame(library: CpuKernels, inputs: tuple[Any, ...]) -> None:
    """Render all rays."""
    library.render_rays(*inputs, 1.0, False, 0.0, False)


def gradient(library: CpuKernels, inputs: tuple[Any, ...]) -> None:
    """Render a quarter of the rays, and compute the gradient of all outputs."""
    scene, rays = inputs[:5], [t[:, : RAYS // 4] for t in inputs[5:]]
    *outputs, _, depths, densities = library.render_rays(*scene, *rays, 1.0, False, 1e-3, True)
    upstream = [torch.ones_like(t) for t in outputs]
    library.render_rays_backward(*scene, *rays[:2], depths, densities, *upstream, 1.0, False, 1e-3, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("libraries", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each case")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    libraries = {path.stem: CpuKernels(path.resolve()) for path in args.libraries}
    inputs = operands()
    print("| case | library | median ms | least ms | processor, median ms |\n|---|---|---|---|---|")
    for case in (frame, gradient):
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in libraries}
        for i in range(args.rounds + 1):  # the first warms up
            for name, library in libraries.items():
                start = time.perf_counter(), time.process_time()
                case(library, inputs)
                if i:
                    seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
        for name, pairs in seconds.items():
            clock, processor = ([1000 * value for value in values] for values in zip(*pairs, strict=True))
            print(
                f"| {case.__name__} | {name} | {statistics.median(clock):.1f} | {min(clock):.1f} "
                f"| {statistics.median(processor):.1f} |"
            )


if __name__ == "__main__":
    main()
