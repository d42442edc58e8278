"""Inversion and tuning, on a generator without a prior: they descend, repeat, and leave nothing behind."""

import dataclasses
import math

import micro
import pytest
import torch

from my3dgen_core import InversionConfig, Latents, TuningConfig, invert, look_at, personalize, personalized
from my3dgen_core.evaluation import psnr

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


def test_one_shared_latent_first_gives_photos_of_one_person_a_head_start(generator, cameras):
    with torch.no_grad():
        one = micro.latents(generator, 1).expand(3, -1, -1)
        photos = generator.render(one, cameras).image.clamp(-1, 1)
    short = dataclasses.replace(INVERSION, steps=4)
    alone = invert(generator, photos, cameras, short)
    together = invert(generator, photos, cameras, dataclasses.replace(short, shared_steps=30))
    assert float(together.losses.mean()) < float(alone.losses.mean())


def test_inversion_of_whole_pictures(generator, photos, cameras):
    whole = dataclasses.replace(INVERSION, rays_per_image=0, steps=3)
    assert bool(torch.isfinite(invert(generator, photos, cameras, whole).losses).all())


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


def test_tuning_on_whole_pictures(generator, strange_photos, anchors):
    identity = personalize(generator, strange_photos, anchors, TuningConfig(steps=2, patch=0))
    assert all(math.isfinite(loss) for loss in identity.history)


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
    ("change", "sentence"),
    [
        (lambda p: p[:, :, :100], "square"),
        (lambda p: p * 255, r"\[-1, 1\]"),
        (lambda p: p * float("nan"), "NaN"),
        (lambda p: p[:0], "no photo"),
        (lambda p: p[:2], "2 photos but 3 cameras"),
        (lambda p: p[:, :1], "square pictures"),
    ],
)
def test_bad_photos_get_a_sentence(generator, photos, cameras, anchors, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        invert(generator, change(photos), cameras, INVERSION)
    with pytest.raises(ValueError, match=sentence):
        personalize(generator, change(photos), anchors, TUNING)


def test_latents_of_another_generator_get_a_sentence(generator, photos, anchors):
    wrong = dataclasses.replace(anchors, ws=anchors.ws[:, :3])
    with pytest.raises(ValueError, match="another generator"):
        personalize(generator, photos, wrong, TUNING)


def test_anchors_without_cameras_get_a_sentence(generator, photos, anchors):
    with pytest.raises(ValueError, match="no cameras"):
        personalize(generator, photos, dataclasses.replace(anchors, cameras=None), TUNING)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"method": "magic"}, "method"), ({"steps": 0}, "steps"), ({"patch": -1}, "patch")],
)
def test_bad_settings_get_a_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        TuningConfig(**settings)


def test_a_loss_that_explodes_stops_with_a_sentence(generator, photos, anchors):
    before = state(generator)
    wild = dataclasses.replace(TUNING, lr=1e30, affine_lr=1e30, diff_lr=1e30)
    with pytest.raises(FloatingPointError, match="Lower the learning rates"):
        personalize(generator, photos, anchors, wild)
    assert unchanged(generator, before)
