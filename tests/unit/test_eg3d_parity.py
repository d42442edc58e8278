"""The whole generator against the reference's outputs, at the tolerances of tests/data/goldens/README.md."""

import dataclasses

import goldens
import pytest
import torch
from goldens import depth_difference, largest_difference, relative_error

from my3dgen_core.eg3d import Generator, GeneratorConfig
from my3dgen_core.eg3d.rendering import triplanes
from my3dgen_core.eg3d.rendering.rays import rays
from my3dgen_core.eg3d.rendering.renderer import render_rays

IO = goldens.tensors("tiny_io")
IMAGE = DEPTH = 2e-4


@pytest.fixture(scope="module")
def generator():
    return goldens.tiny()


@pytest.fixture(scope="module")
def planes(generator):
    return generator.planes(IO["ws"])


def test_mapping_with_truncation_and_cutoff(generator):
    z, c = IO["z"], IO["c"]
    assert largest_difference(generator.mapping(z, c)[:, 0], IO["ws_psi1"]) <= 1e-5
    assert largest_difference(generator.mapping(z, c, 0.7)[:, 0], IO["ws_psi0.7"]) <= 1e-5
    assert largest_difference(generator.mapping(z, c, 0.7, 7), IO["ws_psi0.7_cutoff7"]) <= 1e-5


@pytest.mark.parametrize(("mode", "key"), [("const", "planes"), ("none", "planes_noise_none")])
def test_planes(generator, mode, key):
    expected = IO[f"{key}_stride15"]
    actual = generator.planes(IO["ws"], mode).flatten(1, 2)[:, :, ::15, ::15]
    assert largest_difference(actual, expected) <= 1e-4 * float(expected.std())


@pytest.mark.parametrize("chunk", [None, 100])
@pytest.mark.parametrize(("name", "jitter"), [("half", 0.5), ("strat", None), ("stream", "stream")])
def test_ray_marching_does_not_depend_on_chunks(generator, planes, name, jitter, chunk):
    jitter = goldens.stream(1024, 24, 20) if jitter == "stream" else jitter
    out = generator.march(planes, IO["c"], 32, None, jitter, chunk)
    for value, key, tolerance in (
        (out.features, "feature", IMAGE),
        (out.depth, "depth", DEPTH),
        (out.weight, "weights_sum", IMAGE),
    ):
        assert largest_difference(value[:, ::5], IO[f"render32.{name}.{key}.every5"]) <= tolerance


@pytest.mark.parametrize("name", [name for name in goldens.SETTINGS if name != "plain"])
def test_rendering_settings(generator, planes, name):
    config = dataclasses.replace(generator.config, **goldens.SETTINGS[name])
    origins, directions = rays(IO["c"], 16)
    jitter = goldens.stream(256, 24, config.depth_resolution_importance)
    out = render_rays(planes, generator.decoder, config, origins, directions, jitter)
    assert largest_difference(out.features[:, ::5], IO[f"render16.{name}.feature.every5"]) <= IMAGE
    assert largest_difference(out.depth[:, ::5], IO[f"render16.{name}.depth.every5"]) <= DEPTH
    assert largest_difference(out.weight[:, ::5], IO[f"render16.{name}.weights_sum.every5"]) <= IMAGE


@pytest.mark.parametrize("way", [-1.0, 1.0])
def test_rounding_decides_the_depth_of_a_ray_that_hits_next_to_nothing(generator, planes, monkeypatch, way):
    """Effect of other exponentials, such as a GPU's, on depths: why `depth_difference` looks at weights."""
    exp = torch.exp

    def neighbor(x):
        return torch.nextafter(exp(x), torch.tensor(way)).clamp(max=1)

    config = dataclasses.replace(generator.config, box_warp=1.6)
    origins, directions = rays(IO["c"], 16)
    jitter = goldens.stream(256, 24, 20)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "exp", neighbor)
        out = render_rays(planes, generator.decoder, config, origins, directions, jitter)
    depth, weight = (IO[f"render16.box_warp1.6.{key}.every5"] for key in ("depth", "weights_sum"))
    difference = (out.depth[:, ::5] - depth).abs()
    assert float(difference.max()) > 10 * DEPTH
    assert float(weight.flatten()[difference.argmax()]) < 1e-4
    assert float(difference[weight > 0.01].max()) <= DEPTH
    assert depth_difference(out.depth[:, ::5], depth, weight) <= DEPTH
    assert depth_difference(out.depth[:, ::5] + 3e-4, depth, weight) > DEPTH


def test_points_of_the_radiance_field(generator, planes):
    sigma, rgb = generator.sample(IO["ws"], IO["points"], planes=planes, chunk=300)
    assert largest_difference(sigma, IO["points_sigma"]) <= 1e-4
    assert largest_difference(rgb, IO["points_rgb"]) <= 1e-4
    features = triplanes.plane_features(planes, IO["points"][:, :200], 1.0)
    assert largest_difference(features, IO["points_plane_features"]) <= 1e-4


def test_pictures_at_the_native_neural_resolution(generator, planes):
    out = generator.render(IO["ws"], IO["c"], planes=planes)
    assert largest_difference(out.image, IO["syn64.image"]) <= IMAGE
    assert largest_difference(out.image_raw, IO["syn64.image_raw_before_sr"]) <= IMAGE
    assert largest_difference(out.depth, IO["syn64.image_depth"]) <= DEPTH


def test_pictures_at_another_neural_resolution(generator, planes):
    out = generator.render(IO["ws"], IO["c"], planes=planes, neural_resolution=32)
    assert largest_difference(out.image[:, :, ::3, ::3], IO["syn32.image.stride3"]) <= IMAGE
    assert largest_difference(out.image_raw, IO["syn32.image_raw"]) <= IMAGE
    out = generator.render(IO["ws"], IO["c"], planes=planes, neural_resolution=96)
    assert largest_difference(out.image[:, :, ::3, ::3], IO["syn96.image.stride3"]) <= IMAGE
    assert largest_difference(out.depth[:, :, ::3, ::3], IO["syn96.image_depth.stride3"]) <= DEPTH


def test_from_noise_to_picture(generator):
    ws = generator.mapping(IO["z"], IO["c"], 0.7)
    out = generator.render(ws, IO["c"], jitter=goldens.stream(4096, 24, 20))
    assert largest_difference(out.image[:, :, ::3, ::3], IO["fwd64_stream.image.stride3"]) <= IMAGE
    assert largest_difference(out.depth, IO["fwd64_stream.image_depth"]) <= DEPTH


def test_pictures_without_noise(generator):
    out = generator.render(IO["ws"], IO["c"], noise_mode="none")
    assert largest_difference(out.image[:, :, ::3, ::3], IO["syn64_noise_none.image.stride3"]) <= IMAGE


@pytest.mark.slow
@pytest.mark.parametrize(("size", "resolutions"), [(256, (64,)), (512, (64, 160))])
def test_other_super_resolutions(size, resolutions):
    generator, io = goldens.tiny_sr(size), goldens.tensors(f"tiny_sr{size}_io")
    ws, c = IO["ws"][:1], IO["c"][:1]
    with torch.no_grad():
        planes = generator.planes(ws)
        out = generator.render(ws, c, planes=planes)
        assert largest_difference(out.image_raw, io["image_raw_before_sr"]) <= IMAGE
        assert largest_difference(out.image[:, :, ::4, ::4], io["image_stride4"]) <= IMAGE
        assert largest_difference(out.image[:, :, ::3, ::3], io["image_fp16.stride3"]) <= 2e-3
        assert largest_difference(out.depth, io["image_depth"]) <= DEPTH
        for resolution in resolutions:
            out = generator.render(ws, c, planes=planes, neural_resolution=resolution)
            expected = io[f"nrr{resolution}.image_stride4"]
            assert largest_difference(out.image[:, :, ::4, ::4], expected) <= IMAGE


def objective(out):
    return (out.image_raw * goldens.normal(9001, out.image_raw.shape)).sum() + (
        out.image * goldens.normal(9002, out.image.shape)
    ).sum()


def test_gradients_of_every_weight_equal_the_reference():
    generator = goldens.tiny().requires_grad_(True)
    ws = IO["ws"].clone().requires_grad_(True)
    objective(generator.render(ws, IO["c"], neural_resolution=32)).backward()
    grads = {name: p.grad for name, p in generator.named_parameters()}
    expected = goldens.tensors("tiny_fullft_grads")
    assert relative_error(ws.grad, expected["grad.ws"]) <= 1e-3
    compared = [k for k in expected if k.removeprefix("grad.") in grads]
    assert len(compared) == 12
    for key in compared:
        assert relative_error(grads[key.removeprefix("grad.")], expected[key]) <= 1e-3, key
    for name, norms in goldens.values("tiny_fullft_gradnorms").items():
        if norms is not None and name in grads:
            assert abs(float(grads[name].norm()) - norms[0]) <= 1e-3 * norms[0], name


def test_the_full_configuration_has_the_official_keys_and_sizes():
    with torch.device("meta"):
        generator = Generator(GeneratorConfig.from_official(goldens.values("full_ffhq512-128_config")))
    expected = {key: v["shape"] for key, v in goldens.values("full_state_dict_keys").items()}
    assert {key: list(v.shape) for key, v in generator.state_dict().items()} == expected
    assert sum(p.numel() for p in generator.parameters()) == 30_662_136
    assert generator.num_ws == 14


@pytest.mark.slow
def test_the_full_configuration_at_512_pixels():
    generator, io = goldens.full(), goldens.tensors("full_io")
    with torch.no_grad():
        ws = generator.mapping(io["z"], io["c"])
        assert largest_difference(ws[:, 0], io["ws_psi1"]) <= 1e-5
        ws = io["ws"]
        planes = generator.planes(ws)
        difference = largest_difference(planes.flatten(1, 2)[:, :, ::21, ::21], io["planes_stride21"])
        assert difference <= 1e-4 * float(io["planes_channel_std"].mean())
        sigma, rgb = generator.sample(ws, io["points"], planes=planes)
        assert largest_difference(sigma, io["points_sigma"]) <= 1e-4
        assert largest_difference(rgb, io["points_rgb"]) <= 1e-4
        out = generator.render(ws, io["c"], planes=planes)
        assert largest_difference(out.image_raw, io["strat.image_raw"]) <= IMAGE
        assert largest_difference(out.depth[:, 0], io["strat.depth"]) <= DEPTH
        assert largest_difference(out.image[:, :, ::8, ::8], io["strat.image_stride8"]) <= IMAGE
        assert largest_difference(out.image[:, :, ::3, ::3], io["strat.image_fp16.stride3"]) <= 2e-3
        out = generator.render(ws, io["c"], planes=planes, neural_resolution=64)
        assert largest_difference(out.image[:, :, ::8, ::8], io["nrr64.strat.image_stride8"]) <= IMAGE
