"""Single operations against the reference's outputs."""

import math

import goldens
import pytest
import torch

from my3dgen_core.camera import look_at
from my3dgen_core.common.image_ops import resize
from my3dgen_core.eg3d import layers
from my3dgen_core.eg3d.rendering import triplanes
from my3dgen_core.eg3d.rendering.compositing import composite
from my3dgen_core.eg3d.rendering.rays import box_limits, importance_depths, rays, sample_pdf

UNIT = goldens.tensors("unit")


def case(name):
    return {key.rsplit(".", 1)[1]: v for key, v in UNIT.items() if key.rsplit(".", 1)[0] == name}


def assert_close(actual, expected, tolerance=1e-5):
    assert goldens.largest_difference(actual, expected) <= tolerance


def test_upsampling_equals_the_reference():
    c = case("upsample2d")
    assert_close(layers.upsample(c["x"]), c["y"])


def test_the_filter_is_a_true_convolution():
    c = case("upfirdn2d_asym")  # up 2, padding (3, 1, 0, 2), gain 4, asymmetric filter
    b, ch, h, w = c["x"].shape
    spread = torch.zeros(b, ch, h, 2, w, 2)
    spread[:, :, :, 0, :, 0] = c["x"]
    assert_close(layers.fir(spread.view(b, ch, 2 * h, 2 * w), c["f"], (3, 1, 0, 2), gain=4), c["y"])


@pytest.mark.parametrize("fused", [0, 1])
@pytest.mark.parametrize("up", [1, 2])
def test_modulated_convolution_equals_both_modes_of_the_reference(up, fused):
    c = case(f"modconv_up{up}_fused{fused}")
    kernel = layers.fir_kernel() if up == 2 else None
    assert_close(layers.modulated_conv(c["x"], c["w"], c["s"], up_kernel=kernel) + c["noise"], c["y"])


def test_torgb_is_modulated_without_demodulation():
    c = case("modconv_torgb")
    assert_close(layers.modulated_conv(c["x"], c["w"], c["s"], demodulate=False), c["y"])


def test_activation_comes_before_gain_and_clamp():
    c = case("bias_act_lrelu_clamp")
    assert_close(layers.lrelu(c["x"] + c["b"][:, None, None], clamp=256), c["y"])


@pytest.mark.parametrize(
    ("name", "multiplier", "activate"), [("fc_lrelu_lrmul0.01", 0.01, True), ("fc_linear", 1.0, False)]
)
def test_fully_connected_scales_weight_and_bias(name, multiplier, activate):
    c = case(name)
    layer = layers.FullyConnected(7, 6, lr_multiplier=multiplier, activate=activate)
    layer.load_state_dict({"weight": c["w"], "bias": c["b"]})
    assert_close(layer(c["x"]), c["y"])


def test_second_moment_normalization():
    c = case("normalize_2nd_moment")
    assert_close(layers.normalize_2nd_moment(c["x"]), c["y"])


@pytest.mark.parametrize("size", [16, 32, 48])
def test_antialiased_resize(size):
    c = case(f"resize_antialias_24to{size}")
    assert_close(resize(c["x"], size), c["y"])


def test_look_at_equals_the_reference_sampler_at_the_same_angles():
    c = case("lookat")
    yaw = c["yp"][:, 0] - math.pi / 2
    pitch = torch.asin(1 - 2 * c["yp"][:, 1] / math.pi)  # the sampler's own odd elevation
    pivots = [None, (0.0, 0.0, 0.2), (0.0, 0.0, -0.06)]
    errors = [
        goldens.largest_difference(look_at(yaw, pitch, pivot=p)[:, :16].view(-1, 4, 4), c["m"])
        for p in pivots
    ]
    assert min(errors) <= 1e-5


def test_rays_go_through_pixel_centers_with_skew():
    c = case("ray_sampler")
    camera = torch.cat((c["cam"].flatten(1), c["k"].flatten(1)), dim=1)
    origins, directions = rays(camera, 6)
    assert_close(origins.expand(-1, 36, -1), c["origins"])
    assert_close(directions, c["dirs"])


def test_box_limits():
    c, r = case("ray_limits_box"), case("ray_sampler")
    start, end = box_limits(r["origins"], r["dirs"], 1.0)
    assert_close(start, c["start"])
    assert_close(end, c["end"])


def test_inverse_transform_sampling():
    c = case("sample_pdf")
    assert_close(sample_pdf(c["bins"], c["weights"], c["u"]), c["y"])


def test_importance_sampling_keeps_the_half_bin_shift():
    c = case("sample_importance")
    assert_close(importance_depths(c["z"], c["weights"], c["u"]), c["y"])


@pytest.mark.parametrize("white", [0, 1])
def test_marching(white):
    c = case(f"ray_marcher_white{white}")
    features, depth, weights = composite(c["colors"], c["densities"], c["depths"], bool(white))
    assert_close(features, c["rgb"])
    assert_close(weights, c["weights"])
    depth = torch.nan_to_num(depth, nan=math.inf).clamp(c["depths"].min(), c["depths"].max())
    assert_close(depth, c["depth"])


def test_an_empty_ray_is_as_deep_as_the_farthest_sample():
    c, full = case("ray_marcher_empty"), case("ray_marcher_white0")
    features, depth, weights = composite(full["colors"], c["densities"], full["depths"])
    assert_close(weights, c["weights"])
    assert_close(features, c["rgb"])
    depth = torch.nan_to_num(depth, nan=math.inf).clamp(full["depths"].min(), full["depths"].max())
    assert_close(depth, c["depth"])


def test_planes_are_sampled_at_xy_xz_and_zx_with_zeros_outside():
    c = case("sample_from_planes")
    assert_close(triplanes.plane_features(c["planes"], c["pts"], 1.0), c["y"])
