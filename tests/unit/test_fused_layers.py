"""The fused synthesis layer equals its parts, gradient included, with and without a low-rank update."""

import dataclasses

import micro
import pytest
import torch
from goldens import relative_error

from my3dgen_core import look_at
from my3dgen_core.eg3d import fused_layers, layers
from my3dgen_core.person.adapter import Adapter
from my3dgen_core.person.apply import personalized, with_trainable_adapter


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("clamp", [None, 1.0])
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_equals_its_parts_and_so_does_its_gradient(up, rows, clamp, low_rank, layout):
    torch.manual_seed(0)
    side = 10 if up else 5
    x, weight, styles, bias = draw(2, 4, 5, 5), draw(3, 4, 3, 3), draw(rows, 4), draw(3)
    x, noise = x.contiguous(memory_format=layout), 0.3 * draw(1, 1, side, side)
    factors = fused_layers.LowRank(draw(3, 2), draw(2, 36))
    kernel = layers.fir_kernel().double() if up else None
    free = [x, styles, bias, noise, *((factors.up, factors.down) if low_rank else (weight,))]
    for tensor in free:
        tensor.requires_grad_(True)
    update = factors if low_rank else None
    actual = fused_layers.synthesis(
        x, weight, styles, bias, noise, up_kernel=kernel, clamp=clamp, low_rank=update
    )
    composed = weight + (factors.up @ factors.down).view_as(weight) if low_rank else weight
    parts = layers.modulated_conv(x, composed, styles.expand(2, -1), up_kernel=kernel)
    expected = layers.lrelu(parts + noise + bias[:, None, None], clamp)
    assert (expected.abs() == 1).any() == (clamp is not None)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, free, grad)
    torch.testing.assert_close(torch.autograd.grad(actual, free, grad), wanted)


def test_it_keeps_its_input_and_output_alone_for_the_gradient():
    x = torch.randn(1, 4, 64, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = fused_layers.synthesis(x, torch.randn(4, 4, 3, 3), torch.randn(1, 4), torch.randn(4), clamp=256.0)
    large = {t.data_ptr() for t in kept if t.numel() >= x.numel()}
    assert large == {x.data_ptr(), y.data_ptr()}


@pytest.mark.parametrize("layout", ["released", "lycoris"])
def test_a_training_step_has_the_gradients_of_the_composed_weights(layout):
    generator = micro.generator()
    adapter = Adapter.create(generator, rank=2, trainable="released", layout=layout)
    noise = torch.Generator().manual_seed(0)
    for tensor in adapter.tensors.values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=noise)
        tensor.requires_grad_(True)
    ws, views = micro.latents(generator, 2), look_at(torch.tensor([0.2, -0.2]), torch.zeros(2))
    found = []
    for block in (
        personalized(generator, adapter),
        with_trainable_adapter(generator, adapter, dict(generator.named_parameters())),
    ):
        with block:
            loss = generator.render(ws, views, neural_resolution=16).image.square().mean()
        used = [t for k, t in adapter.tensors.items() if "superres" not in k or "noise" not in k]
        found.append(torch.autograd.grad(loss, used))
    for composed, beside in zip(*found, strict=True):
        assert relative_error(beside, composed) <= 1e-3


def test_no_update_is_left_behind():
    generator = micro.generator()
    adapter = Adapter.create(generator)
    layer = generator.superresolution.block0.conv0

    def interrupted():
        with with_trainable_adapter(generator, adapter, dict(generator.named_parameters())):
            assert layer.low_rank is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert layer.low_rank is None
    broken = dataclasses.replace(adapter, tensors={"no.such.bias.diff": torch.zeros(1)})
    with (
        pytest.raises(ValueError, match="another generator"),
        with_trainable_adapter(generator, broken, dict(generator.named_parameters())),
    ):
        raise AssertionError("the block must not be entered")
