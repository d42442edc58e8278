"""Sides of `benchmarks.reference`: the public code, this pack, and the bare convolutions that limit both.

A side is a process, started by `benchmarks.reference`, that runs its case once for every line on its standard
input and prints the seconds. All sides have the same random weights (`goldens.full_state`) where they matter.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import goldens
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import reset_peak, resident, return_freed

Case = Callable[[], object]
# Settings of glibc that keep large buffers instead of returning them to the system.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 35),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def now() -> np.ndarray:
    """Return wall-clock and processor seconds, [2]."""
    return np.array([time.perf_counter(), time.process_time()])


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return ws [1, 14, 512], a camera [1, 25] and a photo [1, 3, 512, 512]."""
    from my3dgen_core import look_at

    draw = torch.Generator().manual_seed(0)
    ws = torch.randn(1, 1, 512, generator=draw).repeat(1, 14, 1)
    photo = torch.rand(1, 3, 512, 512, generator=draw) * 2 - 1
    return ws, look_at(0.3, 0.1, pivot=(0.0, 0.0, 0.2)), photo


def reference(eg3d: str, my3dgen: str, lora: bool) -> dict[str, Case]:
    """Return the cases of the public code, called as its own scripts do: EG3D's, or My3DGen's LoRA step."""
    sys.path.insert(0, eg3d)
    import dnnlib  # noqa: F401  (My3DGen's repository leaves it out)

    if lora:
        sys.path[0] = my3dgen
    from training.triplane import TriPlaneGenerator

    settings = goldens.values("full_ffhq512-128_config")
    settings["sr_kwargs"] = dict(settings["sr_kwargs"])
    model = TriPlaneGenerator(**settings)
    model.load_state_dict(goldens.full_state())
    model.neural_rendering_resolution = 128
    ws, camera, photo = inputs()
    if lora:
        from training.networks_stylegan2 import LoraNet
        from training.superresolution import SuperresolutionHybrid8XDCWrapper

        model.backbone.synthesis = LoraNet(model.backbone.synthesis, r=1, lora_alpha=1)
        model.superresolution = SuperresolutionHybrid8XDCWrapper(model.superresolution, r=1, lora_alpha=1)
        model.train().backbone.mapping.requires_grad_(False)
        model.decoder.requires_grad_(False)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3, (0.0, 0.992))
        small = F.interpolate(photo, (128, 128), mode="bilinear", antialias=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            out = model.synthesis(ws, camera, noise_mode="const")
            loss = F.mse_loss(out["image"], photo) + F.mse_loss(out["image_raw"], small)
            loss.backward()
            optimizer.step()

        return {"LoRA step": step}
    model.eval().requires_grad_(False)
    w = ws[:, :1].clone().requires_grad_(True)
    descent = torch.optim.Adam([w], 0.01)
    target = F.interpolate(photo, (256, 256), mode="area")

    def invert() -> None:
        descent.zero_grad(set_to_none=True)
        image = model.synthesis(w.repeat(1, 14, 1), camera, noise_mode="const")["image"]
        F.mse_loss(F.interpolate(image, (256, 256), mode="area"), target).backward()
        descent.step()

    @torch.no_grad()
    def frame(latents: Tensor = ws) -> Tensor:
        return model.synthesis(latents, camera, noise_mode="const")["image"]

    return {
        "frame": frame,
        "path": lambda: [frame(ws.double()) for _ in range(2)],  # its video script interpolates in float64
        "fast path": lambda: [frame(ws.double()) for _ in range(2)],
        "inversion step": invert,
        "inversion step as it comes": invert,
    }


def ours(renderer: str) -> dict[str, Case]:
    """Return the cases of this pack, with PyTorch's renderer or the compiled one."""
    from my3dgen_core import InversionConfig, Latents, TuningConfig, load_generator
    from my3dgen_core.fitting.inversion import _Run
    from my3dgen_core.fitting.photo_objective import PhotoObjective
    from my3dgen_core.fitting.trainer import Training

    model = goldens.full()
    model.renderer = renderer
    ws, camera, photo = inputs()
    made: dict[str | int, Any] = {}

    @torch.inference_mode()
    def frame() -> Tensor:
        return model.render(ws, camera).image

    @torch.inference_mode()
    def path(quality: str, planes: Tensor | None = None) -> np.ndarray:
        """Render two frames and count the planes by 2/24."""
        start = now()
        fresh = model.planes(ws)
        made_planes = now()
        for _ in range(2):
            model.render(ws, camera, planes=fresh if planes is None else planes, quality=quality)
        return now() - made_planes + 2 * (made_planes - start) / 24

    def fast_path() -> np.ndarray:
        if "planes" not in made:  # a trained head, because random weights have no empty space
            starter = load_generator("starter")
            latent = starter.w_avg.expand(1, starter.num_ws, -1)
            with torch.no_grad():
                made["planes"] = F.interpolate(starter.planes(latent)[0], (256, 256), mode="bilinear")[None]
            model.decoder.load_state_dict(starter.decoder.state_dict())
        return path("fast", made["planes"])

    def lora_step() -> None:
        if "training" not in made:
            settings = TuningConfig(
                trainable="released", optimizer="adam", perceptual=0.0, random_samples=True, patch=0
            )
            anchors = Latents(ws, camera)
            made["training"] = Training(model, photo, anchors, settings, None, None, None)
        made["training"].advance()

    def inversion(rays: int) -> Case:
        def step() -> None:
            if rays not in made:
                objective = PhotoObjective(model, photo, None, 0.5 if rays else 0.0)
                objective.random_samples = False
                config = InversionConfig(rays_per_image=rays, w_noise=0.0, preview_every=0)
                made[rays] = _Run(model, objective, camera, config, None)
            made[rays].descend(ws[:, :1], [0], 1)

        return step

    @torch.inference_mode()
    def backbone() -> Tensor:
        return model.planes(ws)

    features = torch.rand(1, 32, 128, 128).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def superresolution() -> Tensor:
        return model.superresolution(features, ws)

    return {
        "frame": frame,
        "path": lambda: path("exact"),
        "fast path": fast_path,
        "inversion step": inversion(0),
        "inversion step as it comes": inversion(1024),
        "LoRA step": lora_step,
        "backbone": backbone,
        "super-resolution": superresolution,
        "orbit": orbit(renderer, "exact"),
        "fast orbit": orbit(renderer, "fast"),
    }


def orbit(renderer: str, quality: str) -> Case:
    """Return the case of 24 frames of the starter, planes included."""
    from my3dgen_core import load_generator
    from my3dgen_core import orbit as cameras

    @torch.inference_mode()
    def run() -> None:
        if not hasattr(run, "model"):
            run.model = load_generator("starter")  # type: ignore[attr-defined]
            run.model.renderer = renderer  # type: ignore[attr-defined]
        model = run.model  # type: ignore[attr-defined]
        ws = model.w_avg.expand(1, model.num_ws, -1)
        planes = model.planes(ws)
        for part in cameras(24).split(2):
            model.render(ws, part, planes=planes, quality=quality)

    return run


def limit() -> dict[str, Case]:
    """Return this pack's convolutions as cases: the same shapes, channels last, one oneDNN call each."""
    model = goldens.full()
    calls: dict[str, list[tuple[Tensor, Tensor, bool]]] = {"backbone": [], "super-resolution": []}

    def record(stage: str, up: bool) -> Callable[..., None]:
        def hook(module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            x = torch.randn(arguments[0].shape).contiguous(memory_format=torch.channels_last)
            weight = module.weight.transpose(0, 1) if up else module.weight
            calls[stage].append((x, weight.contiguous(memory_format=torch.channels_last), up))

        return hook

    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in ("conv0", "conv1", "torgb"):
            stage = "backbone" if name.startswith("backbone") else "super-resolution"
            module.register_forward_hook(record(stage, getattr(module, "up", False)))
    ws, _, _ = inputs()
    with torch.inference_mode():
        model.planes(ws)
        model.superresolution(torch.rand(1, 32, 128, 128), ws)

    def run(stage: str) -> Case:
        @torch.inference_mode()
        def convolve() -> None:
            for x, weight, up in calls[stage]:
                if up:
                    F.conv_transpose2d(x, weight, stride=2)
                else:
                    F.conv2d(x, weight, padding=weight.shape[-1] // 2)

        return convolve

    return {stage: run(stage) for stage in calls}


def cases(side: str, eg3d: str, my3dgen: str, case: str) -> dict[str, Case]:
    """Return all cases of a side."""
    if side.startswith("reference"):
        return reference(eg3d, my3dgen, case == "LoRA step")
    if side == "limit":
        return limit()
    return ours("compiled" if "compiled" in side else "torch")


def serve(side: str, eg3d: str, my3dgen: str, case: str, threads: int, peak: bool) -> None:
    """Run the case for every line of standard input and print its wall-clock and processor seconds.

    With `peak`, run it twice and print the peak bytes instead. A case that returns an array has measured its
    seconds itself.
    """
    torch.set_num_threads(threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the public code prints to standard output
    torch.manual_seed(0)
    run = cases(side, eg3d, my3dgen, case)[case]
    if peak:
        return_freed()
        before = resident("VmRSS")
        reset_peak()
        run()
        run()
        print(resident("VmHWM") - before, file=answers, flush=True)
        return
    run()
    for _ in sys.stdin:
        start = now()
        result = run()
        seconds = result if isinstance(result, np.ndarray) else now() - start
        print(*seconds, file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("side", help="as the rows of benchmarks.reference name it")
    parser.add_argument("eg3d", help="folder `eg3d` of NVlabs/eg3d, or an empty string")
    parser.add_argument("my3dgen", help="folder `eg3d` of luchaoqi/my3dgen, or an empty string")
    parser.add_argument("case")
    parser.add_argument("threads", type=int)
    parser.add_argument("measure", choices=("time", "peak"))
    args = parser.parse_args()
    serve(args.side, args.eg3d, args.my3dgen, args.case, args.threads, args.measure == "peak")


if __name__ == "__main__":
    main()
