"""The identity loss: it looks at the face, its gradient points to the photos, and it is off by default."""

import dataclasses

import face_fixtures
import micro
import numpy as np
import pytest
import torch

from my3dgen_core import Latents, TuningConfig, load_generator, look_at, personalize
from my3dgen_core.common.rng import RngStreams
from my3dgen_core.evaluation import read_demo_person
from my3dgen_core.face.recognition import find_points
from my3dgen_core.fitting.identity_loss import NovelViewIdentity, project

TUNING = TuningConfig(steps=6, patch=16, preview_every=0, identity_every=2)


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def photos():
    return read_demo_person()[0][:2]


@pytest.fixture(scope="module")
def anchors(generator):
    return Latents(micro.latents(generator, 2), look_at(torch.tensor([-0.2, 0.2]), 0.0))


@pytest.fixture(scope="module")
def likeness(generator, photos):
    return NovelViewIdentity(generator, photos, face_fixtures.models())


def test_the_projected_mean_face_lies_on_the_face_that_is_seen(likeness):
    starter = load_generator("starter")
    cameras = look_at(torch.tensor([0.0, 0.3]), torch.tensor([0.0, 0.1]))
    mean = starter.w_avg.expand(1, starter.num_ws, -1)
    with torch.no_grad():
        views = starter.render(mean, cameras).image
    seen, found = find_points(views, face_fixtures.models())
    assert found.all()
    expected = project(likeness.points, cameras) * views.shape[-1]
    off = np.linalg.norm(expected.numpy() - seen, axis=2)
    assert off.mean() < 0.03 * views.shape[-1]  # eyes are a fifth of the picture apart
    assert off.max() < 0.06 * views.shape[-1]


def test_one_step_down_its_gradient_comes_nearer_to_the_person(generator, likeness, anchors):
    def loss(ws):
        return likeness.loss(ws, generator.planes(ws), anchors.cameras, RngStreams(0, ws.device), None)

    ws = anchors.ws.clone().requires_grad_(True)
    before = loss(ws)
    before.sum().backward()
    assert bool(torch.isfinite(ws.grad).all())
    assert bool((ws.grad.flatten(1).norm(dim=1) > 0).all())
    after = loss(ws.detach() - 0.05 * ws.grad / ws.grad.flatten(1).norm(dim=1)[:, None, None])
    assert bool((after < before).all())


def test_few_rays_at_a_time_give_the_same_loss(generator, likeness, anchors):
    generator_state = RngStreams(0, torch.device("cpu"))
    with torch.no_grad():
        planes = generator.planes(anchors.ws)
        whole = likeness.loss(anchors.ws, planes, anchors.cameras, generator_state, None)
        assert bool((whole > 0).all())
        assert bool((whole < 2).all())
        parts = likeness.loss(anchors.ws, planes, anchors.cameras, RngStreams(0, torch.device("cpu")), 512)
    assert parts == pytest.approx(whole, abs=0.05)  # other random places on the rays


@pytest.mark.slow
def test_the_loss_is_part_of_every_nth_step_and_only_when_asked_for(generator, photos, anchors):
    weighted = dataclasses.replace(TUNING, identity_weight=1.0)
    models = face_fixtures.models()
    plain = personalize(generator, photos, anchors, TUNING)
    person = personalize(generator, photos, anchors, weighted, face_models=models)
    assert person.history[0] > plain.history[0] + 0.1  # the first step looks: 1 - cosine on top
    assert person.provenance["settings"]["identity_weight"] == 1.0
    unused = personalize(generator, photos, anchors, TUNING, face_models=models)
    assert unused.history == plain.history


@pytest.mark.slow
def test_a_training_with_it_goes_on_bit_for_bit_where_it_was_cut(generator, photos, anchors, tmp_path):
    class CutError(Exception):
        pass

    def cut(step, *_):
        if step == 4:
            raise CutError

    config = dataclasses.replace(TUNING, identity_weight=1.0, checkpoint_every=3)
    models = face_fixtures.models()
    whole = personalize(generator, photos, anchors, config, face_models=models)
    kept = dataclasses.replace(config, checkpoint_dir=str(tmp_path))
    with pytest.raises(CutError):
        personalize(generator, photos, anchors, kept, on_step=cut, face_models=models)
    assert personalize(generator, photos, anchors, kept, face_models=models).history == whole.history


def test_what_is_missing_gets_a_message(generator, photos, anchors):
    weighted = dataclasses.replace(TUNING, identity_weight=1.0)
    with pytest.raises(ValueError, match="give face_models"):
        personalize(generator, photos, anchors, weighted)
    with pytest.raises(ValueError, match="No face was found in any"):
        personalize(
            generator, torch.zeros_like(photos), anchors, weighted, face_models=face_fixtures.models()
        )
    with pytest.raises(ValueError, match="identity_every"):
        TuningConfig(identity_every=0)
