"""Inversion and tuning on a generator of random weights: losses fall, runs repeat, nothing is left behind."""

import dataclasses
import itertools

import micro
import pytest
import torch

from my3dgen_core import (
    Adapter,
    InversionConfig,
    Latents,
    TuningConfig,
    invert,
    look_at,
    personalize,
    personalized,
)
from my3dgen_core.common.image_ops import resize
from my3dgen_core.common.rng import RngStreams
from my3dgen_core.evaluation import psnr
from my3dgen_core.fitting.photo_objective import PhotoObjective

INVERSION = InversionConfig(steps=24, shared_steps=0, lr=0.1, batch_size=2)
TUNING = TuningConfig(steps=12, patch=16)


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def cameras():
    return look_at(torch.tensor([-0.3, 0.0, 0.3]), torch.tensor([0.1, 0.0, -0.1]))


@pytest.fixture(scope="module")
def photos(generator, cameras):
    with torch.no_grad():
        return generator.render(micro.latents(generator, 3), cameras).image.clamp(-1, 1)


@pytest.fixture(scope="module")
def strange_photos(photos):
    """The same with a mark the generator does not know."""
    marked = photos.clone()
    marked[:, :, 40:80, 40:80] *= -1
    return marked


@pytest.fixture(scope="module")
def anchors(generator, cameras):
    return Latents(micro.latents(generator, 3), cameras)


def state(generator):
    return {key: value.clone() for key, value in generator.state_dict().items()}


def unchanged(generator, before):
    after = generator.state_dict()
    return list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w", "w+"])
def test_inversion_comes_nearer_to_every_photo(generator, photos, cameras, space):
    found = invert(generator, photos, cameras, dataclasses.replace(INVERSION, space=space))
    mean = generator.w_avg.expand(3, generator.num_ws, -1)
    with torch.no_grad():
        before = psnr(generator.render(mean, cameras).image, photos)
        after = psnr(generator.render(found.ws, cameras).image, photos)
    assert bool((after > before + 1).all())
    assert found.ws.shape == (3, generator.num_ws, 32)
    assert torch.equal(found.cameras, cameras)
    assert found.base_hash == generator.base_hash()
    shared = bool((found.ws == found.ws[:, :1]).all())
    assert shared == (space == "w")


@pytest.mark.slow
def test_one_shared_latent_first_gives_photos_of_one_person_a_head_start(generator, cameras):
    with torch.no_grad():
        one = micro.latents(generator, 1).expand(3, -1, -1)
        photos = generator.render(one, cameras).image.clamp(-1, 1)
    short = dataclasses.replace(INVERSION, steps=4)
    alone = invert(generator, photos, cameras, short)
    together = invert(generator, photos, cameras, dataclasses.replace(short, shared_steps=30))
    assert float(together.losses.mean()) < float(alone.losses.mean())


def test_inversion_of_whole_pictures(generator, photos, cameras):
    """The loss falls from the first step on, and both resolutions come nearer to the photos."""
    losses = []
    whole = dataclasses.replace(INVERSION, rays_per_image=0, steps=6, w_noise=0.0)

    def on_step(step, total, terms, preview):
        losses.append(terms["loss"])

    photos, cameras = photos[:1], cameras[:1]
    found = invert(generator, photos, cameras, whole, on_step=on_step)
    assert losses[-1] < 0.4 * losses[0]
    assert float(found.losses.mean()) == pytest.approx(losses[-1], rel=1e-5)
    with torch.no_grad():
        start = generator.render(generator.w_avg.expand(1, generator.num_ws, -1), cameras)
        end = generator.render(found.ws, cameras)
    small = resize(photos, generator.config.neural_resolution)
    assert bool((psnr(end.image, photos) > psnr(start.image, photos) + 1).all())
    assert bool((psnr(end.image_raw, small) > psnr(start.image_raw, small) + 1).all())


def look(name, objective, ws, planes, cameras):
    """The loss of photos 0 and 2 by one of the ways to sample pixels; the same pixels at every call."""
    index, draw = [0, 2], RngStreams(0, ws.device)
    if name == "lattice":
        return objective.lattice(planes, cameras, index, 2, draw)
    if name == "shrunk":
        return objective.shrunk(planes, cameras, index, draw)
    if name == "patch":
        return objective.patch(ws, planes, cameras, index, 32, draw)
    return objective.whole(ws, planes, cameras, index, draw)


@pytest.mark.parametrize("name", ["lattice", "shrunk", "patch", "whole"])
def test_gradients_of_the_photo_loss_are_its_finite_differences(strange_photos, cameras, name):
    """With respect to the latents and to each part of the generator, for every way to sample pixels."""
    generator = micro.generator().requires_grad_(True)
    objective = PhotoObjective(generator, resize(strange_photos, 32 if name == "shrunk" else 128), None)
    objective.random_samples = False
    ws = micro.latents(generator, 2, seed=2).detach().requires_grad_(True)

    def loss():
        return look(name, objective, ws, generator.planes(ws), cameras[[0, 2]]).sum()

    groups = {
        "ws": [ws],
        "backbone": list(generator.backbone.synthesis.parameters()),
        "decoder": list(generator.decoder.parameters()),
    }
    if name in ("patch", "whole"):  # the others look at raw pixels
        groups["superresolution"] = list(generator.superresolution.parameters())
    tensors = [tensor for group in groups.values() for tensor in group]
    value = loss()
    grads = iter(torch.autograd.grad(value, tensors, allow_unused=True))
    for group, parts in groups.items():
        pairs = [(tensor, grad) for tensor in parts if (grad := next(grads)) is not None]
        norm = float(sum(grad.square().sum() for _, grad in pairs).sqrt())
        step = 0.001 * float(value.detach()) / norm
        values = []
        for shift in (step, -2 * step, step):  # to either side along the gradient, and back
            with torch.no_grad():
                for tensor, grad in pairs:
                    tensor += shift * grad / norm
                values.append(float(loss()))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(norm, rel=0.01), group


def untrained(generator, identity, config):
    """Names of the tensors of an adapter that are as they were made: no gradient has reached them."""
    if config.method == "full":
        fresh = Adapter.full(generator)
    else:
        fresh = Adapter.create(generator, config.rank, config.layout, config.trainable, seed=config.seed)
    trained = identity.adapter.tensors
    assert trained.keys() == fresh.tensors.keys()
    return {key for key, tensor in trained.items() if torch.equal(tensor, fresh.tensors[key])}


UNUSED = {
    f"superresolution.{block}.{layer}.noise_strength.diff"
    for block in ("block0", "block1")
    for layer in ("conv0", "conv1")
}
"""Super-resolution renders without noise."""


@pytest.mark.parametrize("method", ["lora", "full"])
def test_tuning_learns_what_the_generator_did_not_know(generator, strange_photos, anchors, method):
    before = state(generator)
    config = dataclasses.replace(TUNING, method=method, steps=30)
    identity = personalize(generator, strange_photos, anchors, config)
    assert unchanged(generator, before)
    with torch.no_grad():
        pretrained = psnr(generator.render(anchors.ws, anchors.cameras).image, strange_photos)
        with personalized(generator, identity):
            personal = psnr(generator.render(anchors.ws, anchors.cameras).image, strange_photos)
    assert float(personal.mean()) > float(pretrained.mean()) + 0.2
    assert len(identity.history) == 30
    assert identity.base_hash == generator.base_hash()
    assert identity.provenance["settings"]["method"] == method
    assert not any(tensor.requires_grad for tensor in identity.adapter.tensors.values())
    assert untrained(generator, identity, config) == UNUSED


def test_tuning_on_whole_pictures(generator, strange_photos, anchors):
    """The loss of one photo falls at every step, and every tensor is trained."""
    one = Latents(anchors.ws[:1], anchors.cameras[:1])
    config = TuningConfig(steps=4, patch=0, lr=1e-3, affine_lr=1e-3, diff_lr=1e-3)
    identity = personalize(generator, strange_photos[:1], one, config)
    assert all(after < before for before, after in itertools.pairwise(identity.history))
    assert untrained(generator, identity, config) == UNUSED


def test_the_same_seed_gives_the_same_identity_and_another_seed_another(generator, photos, anchors):
    first, again = (personalize(generator, photos, anchors, TUNING) for _ in range(2))
    other = personalize(generator, photos, anchors, dataclasses.replace(TUNING, seed=1))
    assert first.history == again.history
    same = [torch.equal(again.adapter.tensors[k], v) for k, v in first.adapter.tensors.items()]
    assert all(same)
    assert other.history != first.history


def test_the_same_seed_gives_the_same_latents(generator, photos, cameras):
    short = dataclasses.replace(INVERSION, steps=5)
    first, again = (invert(generator, photos, cameras, short) for _ in range(2))
    assert torch.equal(first.ws, again.ws)


class StopError(Exception):
    pass


def test_cancelling_leaves_the_generator_as_it_was(generator, photos, cameras, anchors):
    before, seen = state(generator), []

    def on_step(step, total, losses, preview):
        seen.append((step, total, set(losses)))
        if step == 3:
            raise StopError

    with pytest.raises(StopError):
        personalize(generator, photos, anchors, TUNING, on_step=on_step)
    with pytest.raises(StopError):
        invert(generator, photos, cameras, INVERSION, on_step=on_step)
    assert unchanged(generator, before)
    assert seen[:3] == [(1, 12, {"loss"}), (2, 12, {"loss"}), (3, 12, {"loss"})]


def test_steps_are_reported_in_order_with_previews(generator, photos, cameras):
    seen = []
    config = InversionConfig(steps=3, shared_steps=2, batch_size=2, preview_every=2)
    invert(generator, photos, cameras, config, on_step=lambda *args: seen.append(args))
    assert [s[0] for s in seen] == list(range(1, 9))
    assert {s[1] for s in seen} == {8}
    assert [s[3] is not None for s in seen] == [False, True] * 4
    assert seen[1][3].shape == (1, 3, 128, 128)


def test_it_works_on_tensors_made_in_inference_mode(generator, photos, cameras, anchors):
    with torch.inference_mode():
        pictures, poses = photos.clone(), cameras.clone()
        latents = Latents(anchors.ws.clone(), poses)
        found = invert(generator, pictures, poses, InversionConfig(steps=2, shared_steps=0))
        identity = personalize(generator, pictures, latents, TuningConfig(steps=2))
    assert bool(torch.isfinite(found.ws).all())
    assert len(identity.history) == 2


def test_invented_pixels_are_not_looked_at(generator, photos, cameras, anchors):
    masks = torch.zeros(3, 1, 128, 128)
    masks[:, :, :64] = 1
    scribbled = photos.clone()
    scribbled[:, :, :56] = -1  # some pixels away from the border, which resizing blends
    clean, dirty = (
        personalize(generator, p, anchors, TuningConfig(steps=3, patch=0), masks) for p in (photos, scribbled)
    )
    assert clean.history == pytest.approx(dirty.history, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:, :, :100], "square"),
        (lambda p: p * 255, r"\[-1, 1\]"),
        (lambda p: p * float("nan"), "NaN"),
        (lambda p: p[:0], "no photo"),
        (lambda p: p[:2], "2 photos but 3 cameras"),
        (lambda p: p[:, :1], "square pictures"),
    ],
)
def test_bad_photos_get_a_message(generator, photos, cameras, anchors, change, message):
    with pytest.raises(ValueError, match=message):
        invert(generator, change(photos), cameras, INVERSION)
    with pytest.raises(ValueError, match=message):
        personalize(generator, change(photos), anchors, TUNING)


def test_latents_of_another_generator_get_a_message(generator, photos, anchors):
    wrong = dataclasses.replace(anchors, ws=anchors.ws[:, :3])
    with pytest.raises(ValueError, match="another generator"):
        personalize(generator, photos, wrong, TUNING)


def test_anchors_without_cameras_get_a_message(generator, photos, anchors):
    with pytest.raises(ValueError, match="no cameras"):
        personalize(generator, photos, dataclasses.replace(anchors, cameras=None), TUNING)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"method": "magic"}, "method"), ({"steps": 0}, "steps"), ({"patch": -1}, "patch")],
)
def test_bad_settings_get_a_message(settings, message):
    with pytest.raises(ValueError, match=message):
        TuningConfig(**settings)


def test_a_loss_that_explodes_stops_with_a_message(generator, photos, anchors):
    before = state(generator)
    wild = dataclasses.replace(TUNING, lr=1e30, affine_lr=1e30, diff_lr=1e30)
    with pytest.raises(FloatingPointError, match="Lower the learning rates"):
        personalize(generator, photos, anchors, wild)
    assert unchanged(generator, before)
