"""The CUDA renderer's kernels, run on the CPU thread by thread, against PyTorch's own path."""

import shutil
import subprocess

import cuda_emulator
import goldens
import pytest
import torch
from goldens import largest_difference, relative_error

from my3dgen_core.eg3d.rendering.rays import coarse_depths, rays
from my3dgen_core.eg3d.rendering.renderer import render_rays

IO = goldens.tensors("tiny_io")
SETTINGS = {
    "plain": {},
    "white back, one plane for both": {"white_back": True},
    "no importance": {"depth_resolution_importance": 0},
    "min_weight": {"min_weight": 1e-3},
}


@pytest.fixture(scope="module")
def emulated(compiler, tmp_path_factory):
    return cuda_emulator.Emulated(compiler, tmp_path_factory.mktemp("cuda"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_pictures_and_gradients_are_those_of_pytorch(emulated, name):
    settings = {"white_back": False, "depth_resolution_importance": 20, "min_weight": 0.0, **SETTINGS[name]}
    floor = settings.pop("min_weight")
    generator = goldens.tiny(**settings).requires_grad_(True)
    config, decoder = generator.config, generator.decoder
    with torch.no_grad():
        planes = generator.planes(IO["ws"])
    if "one plane" in name:
        planes = planes[:1].expand(2, -1, -1, -1, -1)
    planes = planes.requires_grad_(True)
    origins, directions = rays(IO["c"], 7)
    origins = origins.expand_as(directions)
    n, k = config.depth_resolution, config.depth_resolution_importance
    jitter = goldens.stream(49, n, k)
    depths = coarse_depths(config, origins, directions, jitter[0])
    theirs = render_rays(planes, decoder, config, origins, directions, jitter, min_weight=floor)
    weights = decoder.weights()
    ours = emulated.forward(
        planes.detach(),
        weights,
        origins,
        directions,
        depths[..., 0],
        jitter[1].view(2, 49, k),
        config.box_warp,
        config.white_back,
    )
    for field in ("features", "depth", "weight"):
        assert largest_difference(ours[field], getattr(theirs, field).view_as(ours[field])) <= 1e-4
    incoming = [goldens.normal(seed, ours[f].shape) for seed, f in enumerate(("features", "depth", "weight"))]
    outputs = (theirs.features, theirs.depth[..., 0], theirs.weight[..., 0])
    expected = torch.autograd.grad(
        sum((a * b).sum() for a, b in zip(outputs, incoming, strict=True)),
        [planes, *decoder.parameters()],
    )
    of_planes, of_weights = emulated.backward(*incoming, floor)
    if "one plane" in name:
        of_planes = of_planes.sum(0, keepdim=True).expand(2, -1, -1, -1, -1)
        expected = (expected[0].sum(0, keepdim=True).expand_as(of_planes), *expected[1:])
    of_parameters = torch.autograd.grad(weights, list(decoder.parameters()), of_weights)
    for a, b in zip((of_planes, *of_parameters), expected, strict=True):
        assert relative_error(a, b) <= 1e-3


@pytest.mark.compiled
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_the_cuda_source_compiles(tmp_path):
    source = cuda_emulator.SOURCES / "render.cu"
    command = ["nvcc", "-std=c++17", "-arch=sm_75", "-cubin", "-o", tmp_path / "render.cubin", source]
    subprocess.run(command, check=True)
