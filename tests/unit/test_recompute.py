"""The CPU renderer's own backward pass: PyTorch's gradients in a fraction of the memory."""

import copy
import dataclasses

import goldens
import pytest
import torch
from goldens import relative_error

from my3dgen_core import load_generator, look_at
from my3dgen_core.eg3d.rendering import recompute, renderer
from my3dgen_core.eg3d.rendering.rays import rays
from my3dgen_core.eg3d.rendering.renderer import render_rays

SETTINGS = {
    "plain": {},
    "white back": {"white_back": True},
    "no second pass": {"depth_resolution_importance": 0},
    "more fine samples than coarse": {"depth_resolution": 12, "depth_resolution_importance": 30},
}


@pytest.fixture(scope="module")
def scene():
    generator = load_generator("starter")
    cameras = torch.cat([look_at(0.0, 0.0), look_at(0.4, 0.2)])
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return generator, generator.planes(generator.mapping(z, cameras)), cameras


def gradients(scene, change=None, views=2, wanted=(True, True), dtype=torch.float32, **options):
    """Gradients of all outputs with respect to the planes and the decoder's parameters, as far as wanted."""
    generator, planes, cameras = scene
    config = dataclasses.replace(generator.config, **(change or {}))
    planes = planes.detach().to(dtype).requires_grad_(wanted[0])
    decoder = copy.deepcopy(generator.decoder).to(dtype).requires_grad_(wanted[1])
    origins, directions = rays(cameras.to(dtype), 24)
    seen = planes if views == 2 else planes[:1].expand(2, -1, -1, -1, -1)
    out = render_rays(seen, decoder, config, origins, directions, None, **options)
    depth = torch.where(out.weight > 1e-3, out.depth, 0)  # of almost nothing the depth is almost anything
    total = sum(
        (value * goldens.normal(seed, value.shape).to(dtype)).sum()
        for seed, value in enumerate((out.features, out.weight, depth))
    )
    learned = [t for t in (planes, *decoder.parameters()) if t.requires_grad]
    return torch.autograd.grad(total, learned)


def autograd(monkeypatch, *args, **options):
    """The same by autograd."""
    with monkeypatch.context() as patch:
        patch.setattr(renderer, "IMPLEMENTATIONS", renderer.IMPLEMENTATIONS[-1:])
        return gradients(*args, **options)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_gradients_are_as_near_to_double_precision_as_pytorchs_own(scene, name, scale, monkeypatch):
    options = {"change": SETTINGS[name], "density_scale": scale}
    ours = gradients(scene, **options)
    theirs = autograd(monkeypatch, scene, **options)
    exact = autograd(monkeypatch, scene, dtype=torch.float64, **options)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert relative_error(mine, true.float()) <= 1.2 * relative_error(other, true.float()) + 1e-6


def test_one_scene_from_two_cameras_gathers_both_views(scene, monkeypatch):
    ours = gradients(scene, views=1)
    theirs = autograd(monkeypatch, scene, views=1)
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine, other) <= 1e-4


def test_samples_under_the_floor_get_no_gradient(scene, monkeypatch):
    floor = 1e-3
    ours, whole = gradients(scene, min_weight=floor), gradients(scene)
    theirs = autograd(monkeypatch, scene, min_weight=floor)
    for mine, other, every in zip(ours, theirs, whole, strict=True):
        assert relative_error(mine, other) <= 5e-3  # a weight at the floor may fall either way
        assert not torch.equal(mine, every)
    assert float((ours[0] == 0).float().mean()) > float((whole[0] == 0).float().mean())


@pytest.mark.parametrize("density", [-100.0, float("nan")])
def test_rays_that_meet_nothing_above_the_floor_give_no_gradient_and_no_error(scene, density):
    generator, planes, cameras = scene
    decoder = copy.deepcopy(generator.decoder)
    with torch.no_grad():
        decoder.net[2].weight[0] = 0
        decoder.net[2].bias[0] = density / decoder.net[2].bias_gain
    planes = planes.detach().requires_grad_()
    origins, directions = rays(cameras, 8)
    out = render_rays(planes, decoder, generator.config, origins, directions, min_weight=1e-3)
    (gradient,) = torch.autograd.grad(out.features.sum(), planes)
    assert float(gradient.abs().max()) == 0


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_what_is_wanted_gets_a_gradient(scene, wanted):
    part = gradients(scene, wanted=wanted)
    both = gradients(scene)
    expected = both[:1] if wanted[0] else both[1:]
    for mine, other in zip(part, expected, strict=True):
        assert torch.equal(mine, other)


def test_the_size_of_the_chunks_changes_next_to_nothing(scene, monkeypatch):
    whole = gradients(scene)
    monkeypatch.setattr(recompute, "_SAMPLES", 1000)
    for mine, other in zip(gradients(scene), whole, strict=True):
        assert relative_error(mine, other) <= 1e-4


def test_what_is_kept_for_the_gradient_is_a_few_numbers_a_sample(scene):
    generator, planes, cameras = scene
    kept = []
    origins, directions = rays(cameras, 24)
    seen = planes.detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        render_rays(seen, generator.decoder, generator.config, origins, directions)
    samples = 2 * 24 * 24 * (generator.config.depth_resolution + generator.config.depth_resolution_importance)
    numbers = sum(t.numel() for t in kept if t.data_ptr() != seen.data_ptr())
    assert samples <= numbers < 2 * samples  # PyTorch's own keeps some 300


def test_rays_that_want_a_gradient_get_it_from_pytorch(scene):
    generator, planes, cameras = scene
    cameras = cameras.clone().requires_grad_()
    origins, directions = rays(cameras, 8)
    out = render_rays(planes, generator.decoder, generator.config, origins, directions)
    (gradient,) = torch.autograd.grad(out.features.sum(), cameras)
    assert float(gradient.abs().max()) > 0
