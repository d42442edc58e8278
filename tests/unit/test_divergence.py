"""Diverging optimizations are noticed at once and end with a message; noisy ones go on."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable

import micro
import pytest
import torch

from my3dgen_core import (
    AlphaSpace,
    DivergedError,
    InversionConfig,
    Latents,
    TuningConfig,
    invert,
    look_at,
    personalize,
    pivotal_tune,
)
from my3dgen_core.common.rng import ShuffledIndices
from my3dgen_core.fitting.divergence import DivergenceCheck
from my3dgen_core.fitting.inversion import _Run
from my3dgen_core.fitting.trainer import Training
from my3dgen_core.fitting.tuning import StopAndKeep
from my3dgen_core.person.adapter import UP

TUNING = TuningConfig(steps=30, patch=16, preview_every=0)
WILD = {"lr": 1e12, "affine_lr": 1e12, "diff_lr": 1e12}
CAMERAS = look_at(torch.tensor([-0.3, 0.0, 0.3]), torch.tensor([0.1, 0.0, -0.1]))


def diverges_at(losses: Iterable[float], epoch: int = 1) -> int | None:
    """Index of the loss at which the check gives up."""
    check = DivergenceCheck(epoch)
    for step, loss in enumerate(losses):
        check.add(torch.tensor(loss))
        if check.diverged:
            return step
    return None


def falling(count: int, low: float = 0.01) -> list[float]:
    return [low + 0.3 * 0.9**step for step in range(count)]


def test_an_explosion_is_noticed_within_a_few_steps_from_the_first_on() -> None:
    assert diverges_at([0.3, 5.4, 2.5, 452.0, 3.8, 4.2, 15.2, 147.0]) == 5
    assert diverges_at([0.16, 20.0, 400.0, 8e3, 5.5e6]) == 2
    for begun in (3, 15, 40, 300):
        exploding = [0.1 * 4.0**step for step in range(20)]
        at = diverges_at(falling(begun) + exploding)
        assert at is not None
        assert begun < at <= begun + 7


def test_a_collapse_to_a_useless_picture_is_noticed_though_its_loss_is_not_above_the_first() -> None:
    assert diverges_at(falling(100) + [0.3] * 10) == 102


def test_one_loss_that_is_not_a_number_is_enough() -> None:
    assert diverges_at([0.3, 0.2, math.nan, 0.2]) == 2
    assert diverges_at([*falling(50), math.inf]) == 50
    assert diverges_at([math.nan]) == 0


def test_single_spikes_and_noise_go_on() -> None:
    assert diverges_at([0.3, 5.0, 0.2, 0.15, 9.0, 0.12, 0.1]) is None
    spiky = [loss * (100 if step % 7 == 6 else 1) for step, loss in enumerate(falling(200))]
    assert diverges_at(spiky) is None
    draw = random.Random(0)
    noisy = [loss * math.exp(draw.gauss(0, 1)) for loss in falling(2000)]
    assert diverges_at(noisy) is None


@pytest.mark.parametrize("hard", [1, 5, 25, 45])
def test_photos_that_differ_in_difficulty_go_on(hard: float) -> None:
    for seed in range(20):
        order = ShuffledIndices(50, seed)
        losses = [0.5 if order.take(1)[0] < hard else 0.02 for _ in range(1000)]
        assert diverges_at(losses, epoch=50) is None


def test_a_fit_that_begins_or_ends_perfect_goes_on() -> None:
    draw = random.Random(0)
    assert diverges_at([1e-12] + [0.01 * draw.random() for _ in range(100)]) is None
    assert diverges_at([0.3 * 0.8**step for step in range(100)] + [0.01] * 50) is None


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def anchors(generator):
    return Latents(micro.latents(generator, 3), CAMERAS)


@pytest.fixture(scope="module")
def photos(generator, anchors):
    with torch.no_grad():
        images = generator.render(anchors.ws, CAMERAS).image.clamp(-1, 1)
    images[:, :, 40:80, 40:80] *= -1
    return images


def run_away(monkeypatch: pytest.MonkeyPatch, at: int, seen: list[dict[str, torch.Tensor]]) -> None:
    """Let a training explode at a step; `seen` receives its tensors before each step."""
    advance = Training.advance

    def wild(self: Training, *arguments) -> float:
        seen.append({name: tensor.detach().clone() for name, tensor in self._optimized()})
        if self.done == at:
            self.rates = [1e9 for _ in self.rates]
        return advance(self, *arguments)

    monkeypatch.setattr(Training, "advance", wild)


def test_a_training_that_runs_away_hands_over_what_it_had_learned(generator, photos, anchors, monkeypatch):
    seen: list[dict[str, torch.Tensor]] = []
    run_away(monkeypatch, 7, seen)
    config = dataclasses.replace(TUNING, steps=100, refine=True)
    with pytest.raises(DivergedError, match=r"The training diverged: .* Lower the learning rates") as caught:
        personalize(generator, photos, anchors, config)
    identity = caught.value.identity
    assert identity is not None
    done = identity.provenance["steps_done"]
    assert done in (5, 6, 7)
    assert len(identity.history) == done + 1  # with the loss of these very weights
    assert identity.provenance["final_loss"] == identity.history[-1] < 2 * identity.history[0]  # not run away
    for key, tensor in identity.adapter.tensors.items():
        assert torch.equal(tensor, seen[done][f"adapter/{key}"])
    for row, ws in enumerate(identity.anchors.ws):
        assert torch.equal(ws[:1], seen[done][f"anchors/{row}"])


def test_a_training_that_explodes_at_once_hands_over_an_untrained_identity(generator, photos, anchors):
    with pytest.raises(DivergedError) as caught:
        personalize(generator, photos, anchors, dataclasses.replace(TUNING, **WILD))
    identity = caught.value.identity
    assert identity is not None
    assert (identity.provenance["steps_done"], len(identity.history)) == (0, 1)
    assert all(
        bool((tensor == 0).all()) for key, tensor in identity.adapter.tensors.items() if key.endswith(UP)
    )


def test_a_training_whose_first_loss_is_no_number_speaks_of_its_input(photos, anchors):
    broken = micro.generator()
    with torch.no_grad():
        next(broken.decoder.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match=r"first loss is nan.*contain NaN") as caught:
        personalize(broken, photos, anchors, TUNING)
    assert caught.value.identity is None


def test_pivotal_tuning_that_diverges_hands_over_an_identity_that_names_what_lies_below(
    generator, photos, anchors
):
    person = personalize(generator, photos, anchors, dataclasses.replace(TUNING, steps=2))
    one = Latents(anchors.ws[:1], CAMERAS[:1])
    with pytest.raises(DivergedError) as caught:
        pivotal_tune(generator, photos[:1], one, dataclasses.replace(TUNING, **WILD), over=person)
    identity = caught.value.identity
    assert identity is not None
    assert identity.base_identity_hash == person.content_hash()
    assert identity.provenance["kind"] == "pivotal tuning"


def test_the_weight_of_mirrored_photos_is_not_taken_for_divergence(generator, photos, anchors):
    config = dataclasses.replace(TUNING, steps=8, mirrored=1e-4)
    history = personalize(generator, photos, anchors, config).history
    assert max(history) > 100 * min(history)  # with photos and mirrored ones among them


def test_stopping_writes_the_state_and_the_same_call_goes_on_bit_for_bit(
    generator, photos, anchors, tmp_path
):
    config = dataclasses.replace(TUNING, steps=9)
    whole = personalize(generator, photos, anchors, config)
    kept = dataclasses.replace(config, checkpoint_dir=str(tmp_path))

    def stop(step, *_):
        if step == 4:
            raise StopAndKeep

    personalize(generator, photos, anchors, kept, on_step=stop)
    seen: list[int] = []
    resumed = personalize(generator, photos, anchors, kept, on_step=lambda step, *_: seen.append(step))
    assert seen == [5, 6, 7, 8, 9]
    assert resumed.history == whole.history
    assert all(torch.equal(t, whole.adapter.tensors[k]) for k, t in resumed.adapter.tensors.items())


def test_an_inversion_that_runs_away_names_its_learning_rate(generator, photos, monkeypatch):
    loss, steps = _Run._loss, []

    def growing(self, ws, index):
        steps.append(index)
        return loss(self, ws, index) * 10.0 ** len(steps)

    monkeypatch.setattr(_Run, "_loss", growing)
    config = InversionConfig(steps=20, shared_steps=0, rays_per_image=64, preview_every=0)
    message = r"The inversion diverged: .* Lower the learning rate, which is 0\.05\."
    with pytest.raises(FloatingPointError, match=message):
        invert(generator, photos, CAMERAS, config)
    assert len(steps) < 8


def test_a_projection_whose_loss_is_no_number_says_so(photos, anchors):
    broken = micro.generator()
    with torch.no_grad():
        next(broken.decoder.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="The projection cannot start: its first loss is nan"):
        AlphaSpace(anchors, 0.0).project(broken, photos, CAMERAS, steps=2, preview_every=0)
