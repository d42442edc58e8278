"""A training on a shared latent finds each photo's anchor on the tuned generator, and resumes bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import micro
import pytest
import torch

from my3dgen_core import Generator, Identity, Latents, TuningConfig, look_at, personalize, pivotal_tune
from my3dgen_core.fitting.tuning import StopAndKeep

SHARED = TuningConfig(steps=10, patch=16, preview_every=0, anchors="shared", anchor_steps=3)
OWN = dataclasses.replace(SHARED, anchors="own")
REFIT = 7  # steps before the anchors are optimized
CAMERAS = look_at(torch.tensor([-0.3, 0.0, 0.3]), torch.tensor([0.1, 0.0, -0.1]))


@pytest.fixture(scope="module")
def generator() -> Generator:
    return micro.generator()


@pytest.fixture(scope="module")
def anchors(generator: Generator) -> Latents:
    return Latents(micro.latents(generator, 3), CAMERAS)


@pytest.fixture(scope="module")
def photos(generator: Generator, anchors: Latents) -> torch.Tensor:
    with torch.no_grad():
        images = generator.render(anchors.ws, CAMERAS).image.clamp(-1, 1)
    images[:, :, 40:80, 40:80] *= -1
    return images


@pytest.fixture(scope="module")
def whole(generator: Generator, photos: torch.Tensor, anchors: Latents) -> Identity:
    return personalize(generator, photos, anchors, SHARED)


def equal(a: Identity, b: Identity) -> bool:
    return a.content_hash() == b.content_hash() and a.history == b.history


def test_anchors_change_and_keep_their_mean(generator: Generator, whole: Identity, anchors: Latents) -> None:
    assert not torch.equal(whole.anchors.ws, anchors.ws)
    torch.testing.assert_close(whole.anchors.mean(), anchors.mean(), atol=1e-5, rtol=0)
    assert bool((whole.anchors.ws != whole.anchors.mean()).any())
    assert whole.provenance["settings"]["anchors"] == "shared"


def test_own_anchors_are_the_default_and_leave_the_settings_of_before(
    generator: Generator, photos: torch.Tensor, anchors: Latents
) -> None:
    assert TuningConfig().anchors == "own"
    identity = personalize(generator, photos, anchors, dataclasses.replace(OWN, steps=2))
    assert torch.equal(identity.anchors.ws, anchors.ws)
    assert not {"anchors", "anchor_steps"} & identity.provenance["settings"].keys()


def test_equal_anchors_are_trained_as_they_are(
    generator: Generator, photos: torch.Tensor, anchors: Latents
) -> None:
    one_look = Latents(anchors.ws[:1].expand(3, -1, -1).clone(), CAMERAS)
    shared = personalize(generator, photos, one_look, dataclasses.replace(SHARED, steps=2))
    own = personalize(generator, photos, one_look, dataclasses.replace(OWN, steps=2))
    assert equal(shared, own)


def test_a_pivot_stays_where_it_is(generator: Generator, photos: torch.Tensor, anchors: Latents) -> None:
    tuned = pivotal_tune(generator, photos, anchors, dataclasses.replace(SHARED, steps=2))
    assert torch.equal(tuned.anchors.ws, anchors.ws)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [3, REFIT, 9])
@pytest.mark.parametrize("refine", [False, True])
def test_a_training_cut_off_goes_on_as_if_nothing_had_happened(
    generator: Generator, photos: torch.Tensor, anchors: Latents, tmp_path: Path, cut: int, refine: bool
) -> None:
    config = dataclasses.replace(SHARED, refine=refine)
    kept = dataclasses.replace(config, checkpoint_dir=str(tmp_path), checkpoint_every=1)

    def stop(step: int, *_: object) -> None:
        if step == cut:
            raise StopAndKeep

    personalize(generator, photos, anchors, kept, on_step=stop)
    assert equal(
        personalize(generator, photos, anchors, kept), personalize(generator, photos, anchors, config)
    )


def test_a_stop_among_the_anchors_steps_loses_nothing(
    generator: Generator, photos: torch.Tensor, anchors: Latents, whole: Identity, tmp_path: Path
) -> None:
    kept = dataclasses.replace(SHARED, checkpoint_dir=str(tmp_path))
    beats = []

    def stop(step: int, *_: object) -> None:
        beats.append(step)
        if beats.count(REFIT) == 3:  # the step itself, and two of the anchors'
            raise StopAndKeep

    before = generator.base_hash()
    stopped = personalize(generator, photos, anchors, kept, on_step=stop)
    assert stopped.provenance["steps_done"] == REFIT
    assert torch.equal(stopped.anchors.ws, anchors.ws)
    assert generator.base_hash() == before
    assert equal(personalize(generator, photos, anchors, kept), whole)


@pytest.mark.parametrize("change", [{"anchors": "none"}, {"anchor_steps": 0}])
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="anchor"):
        dataclasses.replace(SHARED, **change)
