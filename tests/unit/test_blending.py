"""Blended identities: the exact sum of their updates, and a path whose ends are the two identities."""

import micro
import pytest
import torch

from my3dgen_core import Adapter, Identity, Latents, camera_path, load_generator, look_at, personalized
from my3dgen_core.checkpoint import starter_path
from my3dgen_core.person.blending import mix_anchors, mix_persons, render_between


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


def person(generator, seed, layout="released", trainable="lora", rank=1, full=False):
    adapter = Adapter.full(generator) if full else Adapter.create(
        generator, rank=rank, layout=layout, trainable=trainable, seed=seed
    )  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    for key, tensor in adapter.tensors.items():
        scale = 0.05 if full else 0.3
        adapter.tensors[key] = tensor + scale * torch.randn(tensor.shape, generator=draw)
    anchors = Latents(
        2 * micro.latents(generator, 3, seed), camera_path("sweep", 3), base_hash=generator.base_hash()
    )
    return Identity(adapter, anchors, generator.base_hash())


PAIRS = [
    ({}, {"rank": 2}),
    ({}, {"layout": "lycoris"}),
    ({"trainable": "paper"}, {}),
    ({}, {"full": True}),
    ({"full": True}, {"full": True}),
]


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_a_mixture_renders_as_both_updates_applied_in_their_shares(generator, one, two, tmp_path):
    first, second = person(generator, 1, **one), person(generator, 2, **two)
    mixed = mix_persons([first, second], [0.3, 0.7])
    mixed.save(tmp_path / "mixed.safetensors")
    ws, camera = first.anchors.ws[:1], look_at(0.2, 0.0)
    with torch.no_grad():
        bare = generator.render(ws, camera).image
        with personalized(generator, [first, second], [0.3, 0.7]):
            expected = generator.render(ws, camera).image
        with personalized(generator, Identity.load(tmp_path / "mixed.safetensors")):
            found = generator.render(ws, camera).image
    assert float((expected - bare).abs().max()) > 0.01
    assert torch.allclose(found, expected, atol=1e-4)


def test_anchors_are_mixed_with_those_seen_from_the_same_side(generator):
    first, second = person(generator, 1).anchors, person(generator, 2).anchors
    turned = Latents(second.ws.flip(0), second.cameras.flip(0), base_hash=second.base_hash)
    mixed = mix_anchors([first, turned], [0.25, 0.75])
    assert torch.allclose(mixed.ws, 0.25 * first.ws + 0.75 * second.ws, atol=1e-5)
    assert torch.allclose(mixed.cameras, first.cameras, atol=1e-4)
    assert mixed.base_hash == generator.base_hash()


def test_a_mixture_of_one_is_that_person(generator):
    first, second = person(generator, 1), person(generator, 2)
    alone = mix_persons([first, second], [1.0, 0.0])
    assert torch.allclose(alone.anchors.ws, first.anchors.ws)
    zeros = {name: torch.zeros_like(value) for name, value in generator.named_parameters()}
    updates, own = (who.adapter.merged_weights(zeros) for who in (alone, first))
    assert updates.keys() == own.keys()
    for name, update in own.items():
        assert float(update.abs().max()) > 1e-3
        assert torch.allclose(updates[name], update, atol=1e-6)


def test_the_way_between_two_persons_begins_with_one_and_ends_with_the_other(generator):
    first, second = person(generator, 1), person(generator, 2)
    before, steps = generator.base_hash(), []
    ends = Latents(
        torch.cat((first.anchors.ws[:1], second.anchors.ws[2:])),
        torch.cat((first.anchors.cameras[:1], second.anchors.cameras[2:])),
    )
    pictures = render_between(
        generator, first, second, ends, torch.linspace(0, 1, 3), on_step=lambda *step: steps.append(step[:2])
    )
    for place, who, latent in ((0, first, 0), (2, second, 2)):
        with torch.no_grad(), personalized(generator, who):
            alone = generator.render(who.anchors.ws[latent, None], who.anchors.cameras[latent, None]).image
        assert torch.allclose(pictures[place], alone[0], atol=1e-4)
    assert float((pictures[1] - pictures[0]).abs().max()) > 0.01
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert generator.base_hash() == before


def test_persons_that_do_not_mix_are_refused_with_a_message(generator):
    first = person(generator, 1)
    stranger = Identity(first.adapter, first.anchors, "0123456789abcdef")
    with pytest.raises(ValueError, match="trained on generator 0123456789ab"):
        mix_persons([first, stranger], [0.5, 0.5])
    look = Identity(first.adapter, first.anchors, first.base_hash, {"over": "someone"})
    with pytest.raises(ValueError, match="a look that was tuned on top of another"):
        mix_persons([first, look], [0.5, 0.5])
    with pytest.raises(ValueError, match="2 identities need as many weights"):
        mix_persons([first, first], [1.0])
    with pytest.raises(ValueError, match="finite numbers"):
        mix_persons([first], [float("nan")])
    with pytest.raises(ValueError, match="has two ends, but 3"):
        render_between(generator, first, first, first.anchors, torch.zeros(1))
    with pytest.raises(ValueError, match="no cameras of their own"):
        render_between(generator, first, first, Latents(first.anchors.ws[:2]), torch.zeros(1))


def test_the_bundled_persons_are_small_differ_and_meet_half_way():
    generator, folder = load_generator(), starter_path().parent
    files = [folder / f"{name}_identity.safetensors" for name in ("demo", "second")]
    assert all(file.stat().st_size < 200_000 and file.with_suffix(".md").is_file() for file in files)
    first, second = (Identity.load(file) for file in files)
    for identity in (first, second):
        identity.check_base(generator.base_hash())
    ends = Latents(torch.cat((first.anchors.mean(), second.anchors.mean())), base_hash=first.base_hash)
    way = render_between(generator, first, second, ends, torch.tensor([0.0, 0.5, 1.0]), look_at(0.0, 0.0))
    far, near = (way[2] - way[0]).abs().mean(), (way[1] - (way[0] + way[2]) / 2).abs().mean()
    assert float(far) > 0.1
    assert float(near) < 0.5 * float(far)
