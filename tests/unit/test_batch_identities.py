"""Several identities in one batch: each picture shows its own, and base weights are shared."""

import micro
import pytest
import torch
from meta_device import META, NoCPU, cameras, on_meta

from my3dgen_core import look_at
from my3dgen_core.person.adapter import Adapter
from my3dgen_core.person.apply import personalized


def person(generator, seed, layout="released", device="cpu"):
    adapter = Adapter.create(generator, trainable="paper", layout=layout, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    for tensor in adapter.tensors.values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=draw).to(device)
    return adapter


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def people(generator):
    return [person(generator, 1), person(generator, 2, "lycoris"), person(generator, 3)]


VIEWS = torch.cat([look_at(yaw, 0.1) for yaw in (-0.3, 0.0, 0.3)])


def test_every_picture_is_what_its_person_alone_gives(generator, people):
    ws = micro.latents(generator, 3)
    points = torch.rand(3, 20, 3) - 0.5
    with torch.no_grad():
        with personalized(generator, [[one] for one in people]):
            together = generator.render(ws, VIEWS)
            planes = generator.planes(ws)
            kept = generator.render(ws, VIEWS, planes=planes)
            density, color = generator.sample(ws, points)
        for i, one in enumerate(people):
            with personalized(generator, one):
                alone = generator.render(ws[i : i + 1], VIEWS[i : i + 1])
                expected = generator.sample(ws[i : i + 1], points[i : i + 1])
            for name in ("image", "image_raw", "depth", "mask"):
                assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0]), name
                assert torch.equal(getattr(kept, name)[i], getattr(alone, name)[0]), name
            assert torch.equal(density[i], expected[0][0])
            assert torch.equal(color[i], expected[1][0])
    assert (together.image[0] - together.image[2]).abs().max() > 0.01


def test_persons_may_be_stacks_with_strengths_of_their_own(generator, people):
    ws = micro.latents(generator, 1)
    with torch.no_grad():
        with personalized(generator, [people[:2], [people[2]], []], [0.5, 1.0, 1.0]):
            images = generator.render(ws, VIEWS[:1]).image
        with personalized(generator, people[:2], 0.5):
            assert torch.equal(images[0], generator.render(ws, VIEWS[:1]).image[0])
        assert torch.equal(images[2], generator.render(ws, VIEWS[:1]).image[0])


def test_the_weights_are_never_written_to_and_are_back_after_an_error(generator, people, monkeypatch):
    before = {key: (value, value.clone()) for key, value in generator.named_parameters()}

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generator.superresolution.block1.torgb, "forward", broken)
    with pytest.raises(KeyboardInterrupt), personalized(generator, [[one] for one in people]):
        generator.render(micro.latents(generator, 3), VIEWS)
    assert generator.batch_identities is None
    for key, value in generator.named_parameters():
        assert value is before[key][0]
        assert torch.equal(value, before[key][1])


def test_batches_of_another_length_are_refused(generator, people):
    with personalized(generator, [[one] for one in people]), pytest.raises(ValueError, match="3 identities"):
        generator.render(micro.latents(generator, 2), VIEWS[:2])


def test_a_misfit_is_refused_before_anything_is_rendered(generator, people):
    stranger = person(micro.generator(channel_max=8, channel_base=128), 1)
    with (
        pytest.raises(ValueError, match="another generator"),
        personalized(generator, [[people[0]], [stranger]]),
    ):
        raise AssertionError("the block must not be entered")
    with pytest.raises(ValueError, match="not both"), personalized(generator, [people[0], [people[1]]]):
        raise AssertionError("the block must not be entered")


def test_no_tensor_is_made_on_the_wrong_device():
    made = on_meta()
    adapters = [[person(made, 1, device=META)], [person(made, 2, device=META)]]
    with NoCPU(), torch.no_grad(), personalized(made, adapters):
        image = made.render(torch.empty(2, made.num_ws, 32, device=META), cameras(2)).image
    assert image.device == META
