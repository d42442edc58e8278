"""Quality "fast": what it skips is not visible, and where nothing can be skipped it is exact."""

import copy
import dataclasses
import gc

import goldens
import micro
import pytest
import torch
from meta_device import META, NoCPU, cameras, on_meta

from my3dgen_core import Adapter, load_generator, look_at, personalized
from my3dgen_core.eg3d.rendering import compiled, culled
from my3dgen_core.eg3d.rendering.density_bounds import density_bounds
from my3dgen_core.eg3d.rendering.triplanes import TableField, plane_features

VIEWS = torch.cat([look_at(yaw, pitch) for yaw, pitch in ((-0.5, 0.1), (0.0, 0.0), (0.6, -0.2))])
FEATURE = 4 * culled.MAX_LOST_WEIGHT  # twice the weight that may be lost, on a scale of [-1, 1]


@pytest.fixture(scope="module")
def starter():
    generator = load_generator("starter")
    z = torch.randn(1, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ws = generator.mapping(z, look_at(0.0, 0.0), truncation_psi=0.7)
        return generator, ws, generator.planes(ws)


@pytest.fixture(scope="module")
def fog():
    generator = goldens.tiny()
    with torch.no_grad():
        return generator, generator.planes(goldens.tensors("tiny_io")["ws"])


def both(generator, planes, views, size=16, **options):
    """The marched picture, exact and fast."""
    with torch.no_grad():
        return tuple(generator.march(planes, views, size, quality=q, **options) for q in ("exact", "fast"))


def assert_same(exact, quick):
    assert (quick.features - exact.features).abs().max() <= FEATURE
    assert (quick.weight - exact.weight).abs().max() <= FEATURE
    seen = exact.weight > 0.1
    assert bool(((quick.depth - exact.depth)[seen].abs() <= 0.01).all())


def bounds_at(grid, points):
    """The bounds of scene 0 at points [M, 3]: [2, M]."""
    rays = culled._Rays(torch.zeros(len(points), dtype=torch.long), points, torch.ones_like(points))
    return rays.bounds(grid, torch.zeros(len(points), 1))[..., 0]


@pytest.mark.parametrize("cells", [4, 8, 64])
@pytest.mark.parametrize("box_warp", [1.0, 1.6])
def test_no_density_lies_outside_the_bounds_of_its_cell(cells, box_warp):
    generator = micro.generator(3)
    planes = 3 * torch.randn(1, 3, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    points = box_warp * (torch.rand(20000, 3, generator=torch.Generator().manual_seed(1)) - 0.5) * 1.6
    with torch.no_grad():
        density = generator.decoder(plane_features(planes, points[None], box_warp).mean(1))[0][0, :, 0]
        least, greatest = bounds_at(density_bounds(planes, generator.decoder, box_warp, cells), points)
    assert bool((density <= greatest + 1e-4).all())
    assert bool((density >= least - 1e-4).all())
    assert float(greatest.max() - least.min()) < 10 * float(density.max() - density.min())


@pytest.mark.slow
def test_a_path_of_the_starter_is_the_exact_one_to_the_eye(starter, renderer):
    generator, ws, planes = starter
    generator = copy.copy(generator)
    generator.renderer = renderer
    path = torch.cat([look_at(0.5 - 0.02 * i, 0.1) for i in range(4)])
    with torch.no_grad():
        exact, quick = (generator.render(ws, path, planes=planes, quality=q) for q in ("exact", "fast"))
    error = (exact.image.clamp(-1, 1) - quick.image.clamp(-1, 1)).square().mean((1, 2, 3))
    assert float((10 * torch.log10(4 / error)).min()) >= 45
    # flicker: what changes from frame to frame beyond what changes in the exact path, in steps of 8 bits
    moved = [(out.image[1:] - out.image[:-1]).abs().mean((1, 2, 3)) * 127.5 for out in (exact, quick)]
    assert float((moved[1] - moved[0]).max()) <= 0.5
    assert (quick.mask - exact.mask).abs().max() <= FEATURE


def test_most_of_the_starter_is_never_decoded(starter, monkeypatch):
    generator, _, planes = starter
    decoded = []
    density = TableField.density
    monkeypatch.setattr(
        TableField,
        "density",
        lambda self, points, scene: decoded.append(len(points)) or density(self, points, scene),
    )
    generator.march(planes, VIEWS[:1], 64, quality="fast")
    assert 0 < sum(decoded) < 64 * 64 * 48 / 3


SETTINGS = {
    "black_back": {"white_back": False},
    "white_back": {"white_back": True},
    "auto_rays": {"ray_start": "auto", "ray_end": "auto"},
    "disparity": {"disparity_space_sampling": True},
    "no_importance": {"depth_resolution_importance": 0},
    "box_warp": {"box_warp": 1.6},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("jitter", [None, 0.3])
def test_of_weights_at_random_nothing_is_missing(renderer, fog, change, jitter):
    generator, planes = copy.copy(fog[0]), fog[1]
    generator.renderer, generator.config = renderer, dataclasses.replace(generator.config, **change)
    exact, quick = both(generator, planes, goldens.tensors("tiny_io")["c"], jitter=jitter)
    assert float(exact.weight.mean()) > 0.3
    assert_same(exact, quick)


def test_a_wall_behind_a_ball_is_seen_past_it_and_hidden_by_it(renderer):
    generator = goldens.tiny(white_back=False)
    generator.renderer = renderer
    first, _, last = generator.decoder.net
    first.weight.zero_()
    first.bias.zero_()
    first.weight[0, 0] = 1 / first.weight_gain  # unit 0 is channel 0
    last.weight[0] = 0
    last.weight[0, 0] = 30 / last.weight_gain
    last.bias[0] = -60
    axis = (torch.arange(64) + 0.5) / 64 - 0.5
    planes = torch.zeros(1, 3, 32, 64, 64)
    planes[0, 0, 0] = 10 * (axis[:, None] ** 2 + axis**2 < 0.01)  # a rod along z ...
    planes[0, 1, 0] = 10 * (axis[:, None].abs() < 0.1) - 4  # ... but in the middle alone
    planes[0, 1, 0, :13] = 30  # z < -0.3
    exact, quick = both(generator, planes, look_at(0.0, 0.0), 32)
    assert float(exact.weight.min()) > 0.95
    assert float(exact.depth.max() - exact.depth.min()) > 0.25
    assert_same(exact, quick)


def test_items_of_a_batch_have_planes_of_their_own(starter, renderer):
    generator = micro.generator(4)
    generator.renderer = renderer
    with torch.no_grad():
        generator.decoder.net[2].bias[0] = -1.0  # some air
        planes = 4 * generator.planes(micro.latents(generator, 3))
    exact, quick = both(generator, planes, VIEWS)
    assert_same(exact, quick)
    alone = generator.march(planes[1:2], VIEWS[1:2], 16, quality="fast")
    assert torch.allclose(alone.features, quick.features[1:2], atol=1e-5)


def test_the_picture_does_not_depend_on_the_chunk(starter, renderer):
    generator, _, planes = starter
    generator = copy.copy(generator)
    generator.renderer = renderer
    whole, parts = (generator.march(planes, VIEWS, 32, quality="fast", chunk=c) for c in (None, 100))
    assert torch.allclose(whole.features, parts.features, atol=1e-5)
    assert torch.allclose(whole.depth, parts.depth, atol=1e-5)


def test_rays_that_meet_nothing_give_the_background(starter, renderer):
    generator, _, planes = starter
    generator = copy.copy(generator)
    generator.renderer = renderer
    away = look_at(0.0, 0.0)
    away[:, [0, 2, 8, 10]] *= -1  # half a turn
    exact, quick = both(generator, planes, away)
    assert float(exact.weight.max()) < 1e-3
    assert (quick.features - 1).abs().max() <= FEATURE  # white
    assert_same(exact, quick)


def test_what_is_not_a_number_is_seen(renderer):
    generator = micro.generator()
    generator.renderer = renderer
    planes = torch.full((1, 3, 32, 16, 16), torch.nan)
    assert generator.march(planes, VIEWS[:1], 8, quality="fast").features.isnan().all()


@pytest.mark.parametrize("inference", [False, True])
def test_changed_planes_are_looked_at_again(inference):
    generator = micro.generator(4)
    with torch.inference_mode(inference):
        planes = 4 * generator.planes(micro.latents(generator, 1))
        generator.march(planes, VIEWS, 16, quality="fast")
        planes.copy_(planes.flip(-1))
        assert_same(*both(generator, planes, VIEWS))


def test_a_changed_decoder_is_looked_at_again():
    generator = micro.generator(4)
    with torch.no_grad():
        generator.decoder.net[2].bias[0] = -30.0
        planes = generator.planes(micro.latents(generator, 1))
    nothing = generator.march(planes, VIEWS, 16, quality="fast")
    assert float(nothing.weight.max()) < culled.MAX_LOST_WEIGHT
    adapter = Adapter.create(generator, trainable="paper")
    adapter.tensors["decoder.net.2.bias.diff"][0] = 34.0
    with personalized(generator, adapter):
        exact, quick = both(generator, planes, VIEWS)
    assert float(exact.weight.min()) > 0.1
    assert_same(exact, quick)
    assert torch.equal(generator.march(planes, VIEWS, 16, quality="fast").features, nothing.features)


def test_a_grid_is_made_once_and_dies_with_its_planes(starter):
    generator = micro.generator()
    planes = generator.planes(micro.latents(generator, 1))
    generator.march(planes, VIEWS, 8, quality="fast")
    grid = generator.bounds_cache.get(planes, generator.decoder, 1.0)
    assert generator.bounds_cache.get(planes, generator.decoder, 1.0) is grid
    assert len(copy.deepcopy(generator).bounds_cache._kept) == 0
    del planes
    gc.collect()
    assert len(generator.bounds_cache._kept) == 0


def test_training_is_refused_with_a_message():
    generator = micro.generator()
    ws = micro.latents(generator, 1).requires_grad_(True)
    with pytest.raises(ValueError, match="no gradients: use 'exact'"):
        generator.render(ws, VIEWS[:1], quality="fast")
    with torch.no_grad():
        generator.render(ws, VIEWS[:1], quality="fast")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rays", [(2.25, 3.3), ("auto", "auto")])
def test_no_tensor_is_made_on_the_wrong_device(dtype, rays):
    generator = on_meta(ray_start=rays[0], ray_end=rays[1]).to(dtype)
    with NoCPU(), torch.no_grad():
        ws = torch.empty(2, generator.num_ws, 32, device=META)
        planes = generator.planes(ws)
        for jitter in (None, 0.5, torch.Generator()):
            out = generator.render(ws, cameras(2), planes=planes, jitter=jitter, quality="fast")
        generator.render(ws[:1], cameras(5), planes=planes[:1], quality="fast")
    assert out.image.device == META
    assert out.image.shape == (2, 3, 128, 128)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_exact_half_precision(dtype):
    generator = micro.generator(4)
    with torch.no_grad():
        planes = generator.planes(micro.latents(generator, 1))
    truth = generator.march(planes, VIEWS, 16)
    generator.to(dtype)
    exact, quick = both(generator, planes.to(dtype), VIEWS.to(dtype))
    errors = [(out.features.float() - truth.features).square().mean().sqrt() for out in (exact, quick)]
    assert quick.features.dtype == dtype
    assert float(errors[1]) <= 1.5 * float(errors[0]) + FEATURE


@pytest.mark.usefixtures("compiled_renderer")
def test_the_compiled_operators_keep_what_pytorch_asks_of_them():
    decoder = micro.generator(4).decoder
    planes = torch.randn(2, 3, 32, 16, 16)
    grid = density_bounds(planes, decoder, 1.0, combine=compiled.density_bounds)
    assert torch.allclose(grid.bounds, density_bounds(planes, decoder, 1.0).bounds, atol=1e-4)
    directions = torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1)
    depths = torch.linspace(0, 1, 8).expand(2, 5, 8)
    inputs = (
        planes,
        *decoder.weights(),
        grid.bounds,
        torch.randn(2, 5, 3),
        directions,
        depths,
    )
    numbers = (1.0, grid.scale, grid.shift, culled.MAX_LOST_WEIGHT, culled.MIN_WEIGHT)
    torch.library.opcheck(
        torch.ops.my3dgen.render_rays_fast.default, (*inputs, torch.rand(2, 5, 8), *numbers)
    )
    units = torch.randn(2, 6, 6, 64)
    torch.library.opcheck(
        torch.ops.my3dgen.density_bounds.default, (units, units, torch.randn(64), torch.randn(1))
    )
