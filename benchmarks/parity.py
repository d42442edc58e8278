"""Largest deviations from the reference implementation, by configuration: the table of docs/parity.md.

python -m benchmarks.parity [--full] [--out docs/parity.md]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import goldens
import torch
from goldens import largest_difference, relative_error

from my3dgen_core import personalized
from my3dgen_core.eg3d.rendering.rays import rays
from my3dgen_core.eg3d.rendering.renderer import render_rays
from my3dgen_core.person.adapter import Adapter, affine_gains

Row = tuple[str, str, float, str]

INTRODUCTION = """# Parity with the reference

Largest absolute difference between this pack and the public EG3D and My3DGen, float32 on a CPU, on synthetic
weights. The two convolution modes of the reference differ by some 5e-6 in images. Inputs, tolerances:
`tests/data/goldens/README.md`. This page is made by
`python -m benchmarks.parity --full --out docs/parity.md`.

| configuration | quantity | deviation | allowed |
|---|---|---|---|
"""

PROPERTIES = """
What has no reference numbers is tested by properties instead (`tests/unit/test_eg3d_properties.py`):

| configuration | what must hold |
|---|---|
"""
HELD = {
    "super-resolution 8X (afhqcats512-128)": "the official parameter count; with ToRGB at zero it is the "
    "raw picture, upsampled",
    "no antialiasing": "the resize before super-resolution is plain bilinear, and none at the native size",
    "c_gen_conditioning_zero (shapenetcars128-64)": "latents do not depend on the camera and equal a "
    "zero camera's",
    "noise mode random": "follows its generator; at strength zero equal to constant noise",
    "batches": "several latents and cameras render what each alone does",
    "random jitter": "repeatable, and independent of the chunks",
    "half precision in super-resolution": "taken off the CPU only; activations float16, picture float32 "
    "(on the meta device: shapes and types, no numbers)",
}


def tiny() -> Iterator[Row]:
    """Yield the deviations of the small configuration: mapping, planes, rays and images in every mode."""
    io, generator = goldens.tensors("tiny_io"), goldens.tiny()
    ws, c, name = io["ws"], io["c"], "2X, 128 px"
    for quantity, expected, psi, cutoff in (
        ("ws", "ws_psi1", 1.0, None),
        ("ws, truncation 0.7", "ws_psi0.7", 0.7, None),
    ):
        actual = generator.mapping(io["z"], c, psi, cutoff)[:, 0]
        yield name, quantity, largest_difference(actual, io[expected]), "1e-5"
    actual = generator.mapping(io["z"], c, 0.7, 7)
    yield name, "ws, truncation 0.7, cutoff 7", largest_difference(actual, io["ws_psi0.7_cutoff7"]), "1e-5"
    planes = generator.planes(ws)
    for quantity, value, key in (
        ("planes", planes, "planes_stride15"),
        ("planes, no noise", generator.planes(ws, "none"), "planes_noise_none_stride15"),
    ):
        difference = largest_difference(value.flatten(1, 2)[:, :, ::15, ::15], io[key])
        yield name, f"{quantity} (of their deviation)", difference / float(io[key].std()), "1e-4"
    for jitter_name, jitter in (("half", 0.5), ("strat", None), ("stream", goldens.stream(1024, 24, 20))):
        out = generator.march(planes, c, 32, None, jitter)
        difference = largest_difference(out.features[:, ::5], io[f"render32.{jitter_name}.feature.every5"])
        yield name, f"features, jitter {jitter_name}", difference, "2e-4"
    sigma, rgb = generator.sample(ws, io["points"], planes=planes)
    yield name, "sample: density", largest_difference(sigma, io["points_sigma"]), "1e-4"
    yield name, "sample: color", largest_difference(rgb, io["points_rgb"]), "1e-4"
    out = generator.render(ws, c, planes=planes)
    yield name, "image", largest_difference(out.image, io["syn64.image"]), "2e-4"
    yield name, "image_raw", largest_difference(out.image_raw, io["syn64.image_raw_before_sr"]), "2e-4"
    yield name, "depth", largest_difference(out.depth, io["syn64.image_depth"]), "2e-4"
    for resolution in (32, 96):
        out = generator.render(ws, c, planes=planes, neural_resolution=resolution)
        expected = io[f"syn{resolution}.image.stride3"]
        yield (
            f"{name}, neural resolution {resolution}",
            "image",
            largest_difference(out.image[:, :, ::3, ::3], expected),
            "2e-4",
        )
    for setting, change in (
        ("white_back", {"white_back": True}),
        ("box_warp1.6", {"box_warp": 1.6}),
        ("auto_rays", {"ray_start": "auto", "ray_end": "auto"}),
        ("disparity", {"disparity_space_sampling": True}),
        ("no_importance", {"depth_resolution_importance": 0}),
    ):
        config = dataclasses.replace(generator.config, **change)
        jitter = goldens.stream(256, 24, config.depth_resolution_importance)
        out = render_rays(planes, generator.decoder, config, *rays(c, 16), jitter)
        difference = largest_difference(out.features[:, ::5], io[f"render16.{setting}.feature.every5"])
        yield f"{name}, {setting}", "features", difference, "2e-4"


def other_sizes() -> Iterator[Row]:
    """Yield the deviations of the small configuration with the other super-resolution modules."""
    io = goldens.tensors("tiny_io")
    ws, c = io["ws"][:1], io["c"][:1]
    for size, name in ((256, "4X, 256 px"), (512, "8XDC, 512 px")):
        generator, expected = goldens.tiny_sr(size), goldens.tensors(f"tiny_sr{size}_io")
        planes = generator.planes(ws)
        for resolution in (128, 64, 160):
            prefix = "" if resolution == 128 else f"nrr{resolution}."
            if f"{prefix}image_stride4" in expected:
                image = generator.render(ws, c, planes=planes, neural_resolution=resolution).image
                difference = largest_difference(image[:, :, ::4, ::4], expected[f"{prefix}image_stride4"])
                yield f"{name}, neural resolution {resolution}", "image", difference, "2e-4"


def lora() -> Iterator[Row]:
    """Yield the deviations of a generator with LoRA, and of its gradients."""
    io, expected, generator = goldens.tensors("tiny_io"), goldens.tensors("tiny_lora_r2_io"), goldens.tiny()
    tensors = {goldens.our_lora_key(k): v.float() for k, v in goldens.tensors("tiny_lora_r2").items()}
    adapter = Adapter(tensors, 2, "released", 0.5, affine_gains(generator))
    with torch.enable_grad():
        for tensor in adapter.tensors.values():
            tensor.requires_grad_(True)
        with personalized(generator, adapter):
            out = generator.render(io["ws"], io["c"], neural_resolution=32)
        loss = (out.image_raw * goldens.normal(9001, out.image_raw.shape)).sum()
        (loss + (out.image * goldens.normal(9002, out.image.shape)).sum()).backward()
    difference = largest_difference(out.image[:, :, ::3, ::3].detach(), expected["lora.syn32.image.stride3"])
    yield "LoRA rank 2, released layout", "image", difference, "2e-4"
    worst = max(
        relative_error(tensors[goldens.our_lora_key(key.removeprefix("grad."))].grad, value)
        for key, value in expected.items()
        if key.startswith("grad.") and "lora" in key
    )
    yield "LoRA rank 2, released layout", "gradients (relative, worst tensor)", worst, "1e-3"


def full() -> Iterator[Row]:
    """Yield the deviations of a generator of full size."""
    io, generator, name = goldens.tensors("full_io"), goldens.full(), "ffhq512-128, 512 px"
    planes = generator.planes(io["ws"])
    difference = largest_difference(planes.flatten(1, 2)[:, :, ::21, ::21], io["planes_stride21"])
    yield name, "planes (of their deviation)", difference / float(io["planes_channel_std"].mean()), "1e-4"
    out = generator.render(io["ws"], io["c"], planes=planes)
    yield name, "image_raw", largest_difference(out.image_raw, io["strat.image_raw"]), "2e-4"
    yield name, "depth", largest_difference(out.depth[:, 0], io["strat.depth"]), "2e-4"
    difference = largest_difference(out.image[:, :, ::8, ::8], io["strat.image_stride8"])
    yield name, "image", difference, "2e-4"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="also the full configuration (a minute, 2 GB)")
    parser.add_argument("--out", type=Path, help="write the page here")
    arguments = parser.parse_args()
    text = INTRODUCTION
    with torch.no_grad():
        for part in (tiny, other_sizes, lora, *([full] if arguments.full else [])):
            for configuration, quantity, deviation, allowed in part():
                text += f"| {configuration} | {quantity} | {deviation:.1e} | {allowed} |\n"
    text += PROPERTIES + "".join(f"| {name} | {what} |\n" for name, what in HELD.items())
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
