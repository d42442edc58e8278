"""Selection among the implementations of volume rendering, and their agreement on one request."""

import copy
import dataclasses

import micro
import pytest
import torch

from my3dgen_core import load_generator, look_at
from my3dgen_core.eg3d.decoder import Decoder
from my3dgen_core.eg3d.rendering import culled, renderer
from my3dgen_core.eg3d.rendering.density_bounds import DensityBoundsCache
from my3dgen_core.eg3d.rendering.rays import coarse_depths, jitter_numbers, rays
from my3dgen_core.eg3d.rendering.renderer import GRADIENTS, QUALITIES, check_quality, render_rays, select
from my3dgen_core.eg3d.rendering.request import RenderRequest

COMPILED = ("compiled, culled", "compiled")


@pytest.fixture
def built(monkeypatch):
    """The compiled renderer counts as built; nothing here calls it."""
    answer_ready(monkeypatch, lambda device: True)


@pytest.fixture
def unbuilt(monkeypatch):
    answer_ready(monkeypatch, lambda device: False)


def answer_ready(monkeypatch, ready):
    """Answer for the implementations that must be built whether they are."""
    table = [dataclasses.replace(one, ready=one.ready and ready) for one in renderer.IMPLEMENTATIONS]
    monkeypatch.setattr(renderer, "IMPLEMENTATIONS", tuple(table))


def ask(device="cpu", dtype=torch.float32, gradients="none", **changes):
    """A request of 3 rays in one scene; `gradients` is of `GRADIENTS`."""
    options = {"device": device, "dtype": dtype}
    return RenderRequest(
        **{
            "planes": torch.zeros(1, 3, 32, 8, 8, **options).requires_grad_(gradients == "field"),
            "decoder": Decoder().requires_grad_(False).to(**options),
            "config": micro.CONFIG,
            "origins": torch.zeros(1, 3, 3, **options).requires_grad_(gradients == "rays"),
            "directions": torch.ones(1, 3, 3, **options),
            "depths": torch.ones(1, 3, 8, 1, **options),
            "u": torch.ones(1, 3, 8, **options),
            "chunk": None,
            "min_weight": 0.0,
            "density_scale": 1.0,
            "bounds_cache": DensityBoundsCache(),
            **changes,
        }
    )


def other_decoder(features):
    """A decoder that is not EG3D's."""
    return features[..., :1], features


def chosen(quality="exact", backend="torch", **changes):
    """The name of the implementation for a request."""
    return select(ask(**changes), quality, backend).name


def test_the_table_is_consistent():
    names = [one.name for one in renderer.IMPLEMENTATIONS]
    assert len(set(names)) == len(names)
    for one in renderer.IMPLEMENTATIONS:
        assert one.qualities
        assert set(one.qualities) <= set(QUALITIES)
        assert one.backends
        assert set(one.backends) <= set(renderer.BACKENDS)
        assert one.gradients in GRADIENTS
        assert (one.ready is not None) == (one.name in COMPILED) == ("torch" not in one.backends)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize("decoder", ["EG3D's", "another"])
@pytest.mark.parametrize("density_scale", [1.0, 0.5])
def test_the_last_implementation_takes_every_request(device, dtype, gradients, decoder, density_scale):
    made = ask(device, dtype, gradients, density_scale=density_scale)
    if decoder == "another":
        made = dataclasses.replace(made, decoder=other_decoder)
    last = renderer.IMPLEMENTATIONS[-1]
    assert all(last.fits(made, quality, backend) for quality in QUALITIES for backend in renderer.BACKENDS)


@pytest.mark.parametrize(
    ("quality", "backend", "name"),
    [
        ("exact", "torch", "recompute"),
        ("fast", "torch", "culled"),
        ("exact", "compiled", "compiled"),
        ("fast", "compiled", "compiled, culled"),
    ],
)
def test_quality_and_backend_choose_on_a_cpu(built, quality, backend, name):
    assert chosen(quality, backend) == name


@pytest.mark.parametrize(
    ("quality", "backend", "name"),
    [
        ("exact", "torch", "autograd"),
        ("fast", "torch", "culled"),
        ("exact", "compiled", "compiled"),
        ("fast", "compiled", "compiled, culled"),
    ],
)
def test_on_the_meta_device_only_the_cpus_own_pytorch_code_drops_out(built, quality, backend, name):
    assert chosen(quality, backend, device="meta") == name


def test_a_gpu_has_the_exact_compiled_renderer_at_both_qualities():
    devices = {one.name: one.devices for one in renderer.IMPLEMENTATIONS}
    takes_cuda = [name for name, types in devices.items() if types is None or "cuda" in types]
    assert takes_cuda == ["compiled", "culled", "autograd"]


def test_the_compiled_renderer_is_asked_about_the_device_of_the_planes(monkeypatch):
    asked = []
    answer_ready(monkeypatch, lambda device: asked.append(device.type) or True)
    for device in ("cpu", "meta"):
        chosen("exact", "compiled", device=device)
    assert asked == ["cpu", "meta"]


def test_the_compiled_renderer_is_neither_chosen_nor_asked_for_another_backend(monkeypatch):
    asked = []
    answer_ready(monkeypatch, lambda device: asked.append(device) or True)
    assert {chosen(quality, "torch") for quality in QUALITIES}.isdisjoint(COMPILED)
    assert asked == []


@pytest.mark.parametrize(("quality", "name"), [("exact", "recompute"), ("fast", "culled")])
def test_unbuilt_the_compiled_renderer_is_replaced_by_pytorch(unbuilt, quality, name):
    assert chosen(quality, "compiled") == name


@pytest.mark.parametrize(
    ("gradients", "backend", "name"),
    [
        ("field", "torch", "recompute"),
        ("rays", "torch", "autograd"),
        ("field", "compiled", "compiled"),
        ("rays", "compiled", "autograd"),
    ],
)
def test_gradients_of_rays_need_autograd_and_those_of_the_field_do_not(built, gradients, backend, name):
    assert chosen("exact", backend, gradients=gradients) == name


@pytest.mark.parametrize("backend", ["torch", "compiled"])
def test_gradients_of_the_decoder_count_as_those_of_the_field(built, backend):
    made = ask()
    made.decoder.requires_grad_(True)
    assert select(made, "exact", backend).gradients == "field"
    assert select(made, "fast", backend).gradients != "none"


@pytest.mark.parametrize("gradients", ["field", "rays"])
def test_without_grad_mode_no_gradient_is_wanted(built, gradients):
    with torch.no_grad():
        assert chosen("fast", "compiled", gradients=gradients) == "compiled, culled"
        assert chosen("fast", gradients=gradients) == "culled"
        assert chosen("exact", gradients=gradients) == "recompute"


@pytest.mark.parametrize("backend", ["torch", "compiled"])
@pytest.mark.parametrize(("quality", "name"), [("exact", "autograd"), ("fast", "culled")])
def test_double_precision_is_for_pytorch(built, backend, quality, name):
    assert chosen(quality, backend, dtype=torch.float64) == name


@pytest.mark.parametrize("part", ["planes", "origins", "directions", "depths", "u", "decoder"])
def test_one_tensor_in_double_precision_is_enough_for_that(built, part):
    made = ask()
    value = getattr(made, part)
    made = dataclasses.replace(made, **{part: copy.deepcopy(value).to(torch.float64)})
    assert select(made, "exact", "compiled").name == "autograd"


@pytest.mark.parametrize("backend", ["torch", "compiled"])
@pytest.mark.parametrize("quality", QUALITIES)
def test_a_decoder_of_another_kind_is_for_autograd(built, backend, quality):
    assert chosen(quality, backend, decoder=other_decoder) == "autograd"


@pytest.mark.parametrize(
    ("quality", "backend", "name"),
    [
        ("exact", "torch", "recompute"),
        ("fast", "torch", "autograd"),
        ("exact", "compiled", "compiled"),
        ("fast", "compiled", "compiled"),
    ],
)
def test_a_density_scale_is_for_those_that_do_not_cull(built, quality, backend, name):
    assert chosen(quality, backend, density_scale=0.5) == name


def test_what_is_unknown_is_an_error_before_anything_is_rendered():
    made = ask()
    arguments = (made.planes, made.decoder, made.config, made.origins, made.directions)
    with pytest.raises(ValueError, match="renderer must be 'torch' or 'compiled', not 'gpu'"):
        render_rays(*arguments, renderer="gpu")
    with pytest.raises(ValueError, match="quality must be 'exact' or 'fast', not 'best'"):
        render_rays(*arguments, quality="best")
    with pytest.raises(ValueError, match="'best'"):
        check_quality("best")


@pytest.mark.parametrize("gradients", ["field", "rays"])
def test_gradients_of_quality_fast_are_an_error(gradients):
    made = ask(gradients=gradients)
    with pytest.raises(ValueError, match="gives no gradients"):
        render_rays(made.planes, made.decoder, made.config, made.origins, made.directions, quality="fast")


def test_render_rays_renders_with_the_implementation_chosen(monkeypatch):
    rendered = []
    table = [
        dataclasses.replace(one, render=lambda made, name=one.name: rendered.append(name))
        for one in renderer.IMPLEMENTATIONS
    ]
    monkeypatch.setattr(renderer, "IMPLEMENTATIONS", tuple(table))
    made = ask()
    for quality in QUALITIES:
        render_rays(made.planes, made.decoder, made.config, made.origins, made.directions, quality=quality)
    assert rendered == ["recompute", "culled"]


def views(planes, generator):
    """A request for two views of planes."""
    config, cameras = generator.config, torch.cat([look_at(-0.3, 0.1), look_at(0.5, 0.0)])
    origins, directions = rays(cameras, 12)
    origins, (b, m) = origins.expand_as(directions), directions.shape[:2]
    n, k = config.depth_resolution, config.depth_resolution_importance
    coarse, fine = jitter_numbers(None, b, m, n, k, directions)
    depths, u = coarse_depths(config, origins, directions, coarse), fine.reshape(b, m, k)
    return RenderRequest(
        planes,
        generator.decoder,
        config,
        origins,
        directions,
        depths,
        u,
        None,
        0.0,
        1.0,
        DensityBoundsCache(),
    )


@pytest.fixture(scope="module")
def fog():
    """Weights at random: density everywhere, no surface."""
    return views(torch.randn(1, 3, 32, 16, 16, generator=torch.Generator().manual_seed(1)), micro.generator())


@pytest.fixture(scope="module")
def head():
    """A head of the starter: empty space, a surface and a background."""
    generator = load_generator("starter")
    z = torch.randn(1, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ws = generator.mapping(z, look_at(0.0, 0.0), truncation_psi=0.7)
        return views(generator.planes(ws), generator)


def in_pytorch(made):
    """The implementations that fit a request at any quality with the backend "torch", by name."""
    return {
        one.name: one
        for one in renderer.IMPLEMENTATIONS
        if any(one.fits(made, quality, "torch") for quality in QUALITIES)
    }


# A surface is sharp: single precision itself is off by about 1e-4 there.
@pytest.mark.parametrize(("scene", "rounding"), [("fog", 1e-5), ("head", 1e-4)])
def test_all_implementations_in_pytorch_agree(scene, rounding, request):
    made = request.getfixturevalue(scene)
    results = {name: one.render(made) for name, one in in_pytorch(made).items()}
    exact = results.pop("autograd")
    shown = exact.weight > 0.1  # of almost nothing the depth is almost anything
    assert bool(shown.all()) == (scene == "fog")
    # Twice the weight that may be lost, on a scale of [-1, 1]; depth in world units.
    tolerances = {"recompute": (rounding, 1e-5), "culled": (4 * culled.MAX_LOST_WEIGHT, 0.01)}
    assert results.keys() == tolerances.keys()
    for name, (pixel, depth) in tolerances.items():
        assert float((results[name].features - exact.features).abs().max()) <= pixel, name
        assert float((results[name].weight - exact.weight).abs().max()) <= pixel, name
        assert float((results[name].depth - exact.depth)[shown].abs().max()) <= depth, name


def test_chunks_change_no_implementation_in_pytorch(head):
    for name, one in in_pytorch(head).items():
        whole, parts = one.render(head), one.render(dataclasses.replace(head, chunk=50))
        for field in ("features", "depth", "weight"):
            assert float((getattr(whole, field) - getattr(parts, field)).abs().max()) <= 1e-5, (name, field)
