"""Properties of the generator that hold for any weights and that no reference number covers."""

import dataclasses

import goldens
import micro
import pytest
import torch
import torch.nn.functional as F
from goldens import largest_difference

from my3dgen_core import Generator, GeneratorConfig, look_at
from my3dgen_core.eg3d import layers, superresolution

CAMERAS = look_at(torch.tensor([0.3, -0.5]), torch.tensor([0.1, -0.1]))


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


def sized(layout):
    size = {"8XDC": 512, "8X": 512, "4X": 256, "2X": 128}[layout]
    raw = 64 if layout == "2X" else 128
    return {"superresolution": layout, "img_resolution": size, "neural_resolution": raw}


@pytest.mark.slow
@pytest.mark.parametrize("superresolution", ["8XDC", "8X", "4X", "2X"])
def test_super_resolution_that_adds_nothing_is_the_raw_picture_upsampled(superresolution):
    made = micro.generator(**sized(superresolution))
    ws = micro.latents(made, 1)
    doublings = 0
    for block in (made.superresolution.block0, made.superresolution.block1):
        torch.nn.init.zeros_(block.torgb.weight)
        doublings += block.up
    features = torch.rand(1, 32, *[made.config.neural_resolution] * 2)
    expected = features[:, :3]
    for _ in range(doublings):
        expected = layers.upsample(expected)
    image = made.superresolution(features, ws)
    assert image.shape == (1, 3, *[made.config.img_resolution] * 2)
    assert largest_difference(image, expected) <= 1e-5


@pytest.mark.slow
def test_8x_has_the_parameters_of_its_layout():
    with torch.device("meta"):
        made = Generator(GeneratorConfig(**sized("8X")))
    assert sum(p.numel() for p in made.superresolution.parameters()) == 574_954
    assert "superresolution.resample_filter" in made.state_dict()


def test_the_raw_picture_is_not_changed_by_super_resolution(generator):
    ws = micro.latents(generator, 1)
    out = generator.render(ws, CAMERAS[:1])
    assert torch.equal(out.image_raw, out.features[:, :3])
    again = generator.march(generator.planes(ws), CAMERAS[:1], 64)
    raw = again.features[..., :3].transpose(1, 2).unflatten(2, (64, 64))
    assert torch.equal(out.image_raw, raw)


@pytest.mark.parametrize("antialias", [True, False])
def test_antialiasing_is_what_the_configuration_says(antialias):
    made = micro.generator(sr_antialias=antialias)
    features = torch.rand(1, 32, 96, 96)
    expected = F.interpolate(features, (64, 64), mode="bilinear", align_corners=False, antialias=antialias)
    assert torch.equal(made.superresolution.resized(features), expected)
    same = torch.rand(1, 32, 64, 64)
    assert made.superresolution.resized(same) is same


def test_4x_refuses_what_the_reference_cannot_do_either():
    made = micro.generator(**sized("4X"))
    with pytest.raises(ValueError, match="neural resolution <= 128"):
        made.superresolution(torch.rand(1, 32, 160, 160), micro.latents(made, 1))


def test_zero_conditioning_makes_the_mapping_blind_to_the_camera():
    z = torch.randn(2, 16)
    blind, seeing = micro.generator(), micro.generator(c_gen_conditioning_zero=False)
    assert torch.equal(blind.mapping(z, CAMERAS), blind.mapping(z, torch.zeros(2, 25)))
    assert not torch.equal(seeing.mapping(z, CAMERAS), seeing.mapping(z, torch.zeros(2, 25)))
    assert torch.equal(blind.mapping(z, CAMERAS), seeing.mapping(z, torch.zeros(2, 25)))


def test_truncation_to_zero_is_the_mean_latent_up_to_the_cutoff(generator):
    made = micro.generator()
    made.backbone.mapping.w_avg.copy_(torch.randn(32))
    z = torch.randn(2, 16)
    ws, full = made.mapping(z, CAMERAS, 0.0, 3), made.mapping(z, CAMERAS)
    assert largest_difference(ws[:, :3], made.w_avg.expand(2, 3, -1)) <= 1e-6
    assert torch.equal(ws[:, 3:], full[:, 3:])


def test_random_noise_follows_its_generator_and_its_strength(generator):
    ws = micro.latents(generator, 1)

    def planes(mode, seed=0):
        return generator.planes(ws, mode, torch.Generator().manual_seed(seed))

    assert torch.equal(planes("random"), planes("const"))  # strengths start at zero
    noisy = micro.generator()
    for name, parameter in noisy.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.1)
    generator = noisy
    assert torch.equal(planes("random", 1), planes("random", 1))
    assert not torch.equal(planes("random", 1), planes("random", 2))
    assert not torch.equal(planes("random"), planes("none"))


def test_unknown_noise_gets_a_message(generator):
    with pytest.raises(ValueError, match="'const', 'random' or 'none'"):
        generator.planes(micro.latents(generator, 1), "loud")


def test_a_batch_of_cameras_renders_what_each_alone_does(generator):
    ws = micro.latents(generator, 2)
    both = generator.render(ws, CAMERAS)
    for i in range(2):
        alone = generator.render(ws[i : i + 1], CAMERAS[i : i + 1])
        assert largest_difference(both.image[i : i + 1], alone.image) <= 1e-5
        assert largest_difference(both.mask[i : i + 1], alone.mask) <= 1e-5


def test_one_latent_serves_many_cameras_and_one_camera_many_latents(generator):
    ws = micro.latents(generator, 2)
    assert generator.render(ws[:1], CAMERAS).image.shape[0] == 2
    assert generator.render(ws, CAMERAS[:1]).image.shape[0] == 2
    with pytest.raises(ValueError, match="equal counts pair up"):
        generator.render(ws, torch.cat((CAMERAS, CAMERAS[:1])))


def test_random_jitter_is_repeatable_and_does_not_depend_on_chunks(generator):
    ws = micro.latents(generator, 1)

    def image(seed, chunk=None):
        jitter = torch.Generator().manual_seed(seed)
        return generator.render(ws, CAMERAS[:1], jitter=jitter, chunk=chunk).image_raw

    assert torch.equal(image(1), image(1))
    assert largest_difference(image(1, 333), image(1)) <= 1e-5
    assert not torch.equal(image(1), image(2))


def test_single_pixels_are_those_of_the_whole_picture(generator):
    planes = generator.planes(micro.latents(generator, 2))
    whole = generator.march(planes, CAMERAS, 16)
    pixels = torch.tensor([[0, 5, 255], [17, 100, 3]])
    some = generator.march(planes, CAMERAS, 16, pixels)
    expected = torch.stack([whole.features[i, pixels[i]] for i in range(2)])
    assert largest_difference(some.features, expected) <= 1e-5


@pytest.mark.parametrize("chunk", [None, 100])
def test_leaving_out_samples_without_weight_changes_no_picture_and_hardly_a_gradient(generator, chunk):
    planes = generator.planes(micro.latents(generator, 2)).detach()
    pixels = torch.arange(0, 4096, 13)
    pictures, gradients = [], []
    for floor in (0.0, 1e-3):
        own = planes.clone().requires_grad_(True)
        with torch.enable_grad():
            marched = generator.march(own, CAMERAS, 64, pixels, chunk=chunk, floor=floor)
            (marched.features[..., :3] - 0.3).square().mean().backward()
        pictures.append(marched.features)
        gradients.append(own.grad)
    assert largest_difference(*pictures) <= 1e-5
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.02


def test_the_mask_is_a_share_and_depth_lies_between_the_limits(generator):
    out = generator.render(micro.latents(generator, 1), CAMERAS[:1])
    assert float(out.mask.min()) >= 0
    assert float(out.mask.max()) <= 1 + 1e-5
    assert float(out.depth.min()) >= 2.25
    assert float(out.depth.max()) <= 3.3 + 1.05 / 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"superresolution": "16X"}, "super-resolution"),
        ({"plane_resolution": 100}, "power of two"),
        ({"ray_start": "auto"}, "both"),
        ({"depth_resolution": 2}, "at least 4"),
        ({"img_resolution": 500}, "500 px"),
    ],
)
def test_impossible_configurations_get_a_message(change, message):
    with pytest.raises(ValueError, match=message):
        Generator(dataclasses.replace(micro.CONFIG, **change))


def test_a_configuration_survives_json_and_unknown_settings_are_refused():
    config = GeneratorConfig.from_official(goldens.values("full_ffhq512-128_config"))
    assert GeneratorConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="does not know: color"):
        GeneratorConfig.from_dict({**config.to_dict(), "color": 1})


def test_the_hash_names_weights_and_configuration():
    one, same, other = micro.generator(0), micro.generator(0), micro.generator(1)
    assert one.base_hash() == same.base_hash() != other.base_hash()
    assert micro.generator(0, white_back=False).base_hash() != one.base_hash()


def test_wrong_latents_get_a_message(generator):
    with pytest.raises(ValueError, match="another generator"):
        generator.planes(torch.zeros(1, 14, 512))
    with pytest.raises(ValueError, match="quality"):
        generator.render(micro.latents(generator, 1), CAMERAS[:1], quality="best")


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_half_precision_agrees_with_float_even_where_the_plain_product_would_overflow(up, scale):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 16, 16, generator=draw)
    weight = torch.randn(16, 32, 3, 3, generator=draw) * scale
    styles = torch.randn(2, 32, generator=draw) * scale
    kernel = layers.fir_kernel() if up else None
    exact = layers.modulated_conv(x, weight, styles, up_kernel=kernel)
    half = layers.modulated_conv(x.half(), weight, styles, up_kernel=kernel)
    assert half.dtype == torch.float16
    assert largest_difference(half, exact) <= 0.01 * float(exact.abs().max())


@pytest.mark.parametrize("people", [1, 2])
def test_super_resolution_in_strips_is_super_resolution(monkeypatch, people):
    generator = micro.generator(2)
    ws = micro.latents(generator, people)
    features = torch.randn(2, 32, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = generator.superresolution(features, ws)
        for nbytes in (1, 1 << 17, 1 << 20):
            monkeypatch.setattr(superresolution, "_STRIP_BYTES", nbytes)
            assert torch.allclose(whole, generator.superresolution(features, ws), atol=1e-6)


def test_a_picture_without_gradients_is_the_one_with_them():
    """Two ways of rendering: by table and colors last, and the one that training goes."""
    generator = micro.generator(2)
    ws = micro.latents(generator, 2)
    learned = generator.render(ws.requires_grad_(True), CAMERAS)
    with torch.no_grad():
        shown = generator.render(ws, CAMERAS)
    for name in ("image", "image_raw", "depth", "mask"):
        assert torch.allclose(getattr(learned, name), getattr(shown, name), atol=2e-6), name
