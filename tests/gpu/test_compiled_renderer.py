"""The compiled renderer on the GPU against PyTorch's own path on the same card."""

import dataclasses

import goldens
import pytest
import torch
from goldens import SETTINGS, depth_difference, largest_difference, relative_error

from my3dgen_core import load_generator, look_at
from my3dgen_core.eg3d.rendering import compiled as kernels
from my3dgen_core.eg3d.rendering.compiled.builder import build
from my3dgen_core.eg3d.rendering.rays import rays
from my3dgen_core.eg3d.rendering.renderer import render_rays

IO = {key: value.cuda() for key, value in goldens.tensors("tiny_io").items()}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    for device in ("cpu", "cuda"):
        build(device=device)
        kernels.load(device)


@pytest.fixture(scope="module")
def tiny(exact):
    generator = goldens.tiny().cuda()
    with torch.no_grad():
        return generator, generator.planes(IO["ws"])


def march(renderer, generator, planes, cameras, resolution, jitter=None, change=None, **options):
    config = dataclasses.replace(generator.config, **(change or {}))
    origins, directions = rays(cameras, resolution)
    return render_rays(
        planes, generator.decoder, config, origins, directions, jitter, renderer=renderer, **options
    )


def jitter_of(change, rays=256):
    return goldens.stream(rays, 24, change.get("depth_resolution_importance", 20))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_renders_as_pytorch_and_as_the_reference(tiny, name):
    jitter = jitter_of(SETTINGS[name])
    with torch.no_grad():
        ours, theirs = (march(r, *tiny, IO["c"], 16, jitter, SETTINGS[name]) for r in ("compiled", "torch"))
    for field, key in (("features", "feature"), ("depth", "depth"), ("weight", "weights_sum")):
        value = getattr(ours, field)
        assert largest_difference(value, getattr(theirs, field)) <= 1e-4
        if name == "plain":
            continue
        expected = IO[f"render16.{name}.{key}.every5"]
        if field == "depth":
            weight = IO[f"render16.{name}.weights_sum.every5"]
            assert depth_difference(value[:, ::5], expected, weight) <= 2e-4
        else:
            assert largest_difference(value[:, ::5], expected) <= 2e-4


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("min_weight", [0.0, 1e-3])
def test_gradients_are_those_of_pytorch(tiny, name, floor):
    generator, planes = tiny
    found = []
    for renderer in ("compiled", "torch"):
        generator.requires_grad_(True)
        leaf = planes.clone().requires_grad_(True)
        out = march(
            renderer,
            generator,
            leaf,
            IO["c"],
            16,
            jitter_of(SETTINGS[name]),
            SETTINGS[name],
            min_weight=floor,
        )
        values = [out.features, out.weight]
        if bool((out.weight > 0).all()):
            values.append(out.depth)
        total = sum((v * goldens.normal(seed, v.shape).cuda()).sum() for seed, v in enumerate(values))
        found.append(torch.autograd.grad(total, [leaf, *generator.decoder.parameters()]))
        generator.requires_grad_(False)
    for a, b in zip(*found, strict=True):
        # Of thousands of samples one may lie so near the floor that rounding moves it across.
        assert relative_error(a, b) <= (1e-3 if floor == 0 else 5e-3)


def test_the_starter_renders_as_exactly_as_pytorch(figures):
    """Steep surfaces: one unit in the last place of a depth shows; both are equally far from float64."""
    generator = load_generator("starter", device="cuda")
    cameras = torch.cat([look_at(0.0, 0.0), look_at(0.4, 0.2)]).cuda()
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(1)).cuda()
    with torch.no_grad():
        planes = generator.planes(generator.mapping(z, cameras))
        ours, theirs = (march(r, generator, planes, cameras, 64) for r in ("compiled", "torch"))
        truth = march("torch", generator.double(), planes.double(), cameras.double(), 64)
    for field in ("features", "depth", "weight"):
        error, usual = ((getattr(o, field) - getattr(truth, field)).abs() for o in (ours, theirs))
        figures[f"starter, largest error of {field}, compiled"] = float(error.max())
        figures[f"starter, largest error of {field}, torch"] = float(usual.max())
        assert float(error.max()) <= max(1.5 * float(usual.max()), 1e-4)
        assert float(error.mean()) <= 1.5 * float(usual.mean()) + 1e-8


def test_one_scene_from_several_cameras_many_rays_and_parts(tiny, monkeypatch):
    generator, planes = tiny
    shared = planes[:1].expand(3, -1, -1, -1, -1)
    cameras = torch.cat([look_at(0.1 * i, 0.1) for i in range(3)]).cuda()
    with torch.no_grad():
        ours, theirs = (march(r, generator, shared, cameras, 256) for r in ("compiled", "torch"))
    assert 3 * 256**2 * 44 > 2**23  # more samples than are worked on at a time
    for field in ("features", "depth", "weight"):
        assert largest_difference(getattr(ours, field), getattr(theirs, field)) <= 1e-4


def test_nothing_depends_on_the_run_but_the_order_of_sums_in_gradients(tiny):
    with torch.no_grad():
        first, second = (march("compiled", *tiny, IO["c"], 32) for _ in range(2))
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.depth, second.depth)


def operands(requires_grad=True):
    planes = goldens.normal(1, (2, 3, 32, 8, 8)).cuda().requires_grad_(requires_grad)
    weights = [
        (0.3 * goldens.normal(i, shape)).cuda().requires_grad_(requires_grad)
        for i, shape in enumerate(((64, 32), (64,), (33, 64), (33,)))
    ]
    directions = torch.nn.functional.normalize(goldens.normal(2, (2, 5, 3)), dim=-1).cuda()
    depths = torch.linspace(0.1, 0.9, 6).expand(2, 5, 6).contiguous().cuda()
    u = torch.linspace(0.1, 0.9, 4).expand(2, 5, 4).contiguous().cuda()
    return planes, *weights, -0.5 * directions, directions, depths, u, 1.0, True, 0.0


@pytest.mark.parametrize("gradient", [True, False])
def test_the_operator_is_what_pytorch_asks_of_one(gradient):
    torch.library.opcheck(torch.ops.my3dgen.render_rays.default, (*operands(gradient), gradient))


def test_broken_planes_show(tiny):
    generator, planes = tiny
    broken = torch.full_like(planes, torch.nan)
    with torch.no_grad():
        assert march("compiled", generator, broken, IO["c"], 8).features.isnan().all()
