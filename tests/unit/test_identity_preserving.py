"""Directions about one head raise the score and preserve the embedding."""

import dataclasses

import micro
import pytest
import torch

from my3dgen_core import Adapter, Direction, look_at, personalized
from my3dgen_core.editing.identity_preserving import LocalFinderConfig, find_local_directions

CONFIG = LocalFinderConfig(samples=96, batch_size=8, preview_every=0)


@pytest.fixture(scope="module")
def generator():
    return micro.generator(neural_resolution=64, depth_resolution=4, depth_resolution_importance=4)


@pytest.fixture(scope="module")
def middle(generator):
    return micro.latents(generator, 1, seed=5)


def redness(images):
    """A labeler that needs no face."""
    return {"red": images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))}


def brightness(images):
    """Stands for an identity network: where the picture is light, eight by eight."""
    cells = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1)
    return torch.nn.functional.normalize(cells, dim=1), torch.ones(len(images), dtype=torch.bool)


def effect(generator, middle, direction, strength):
    """Change of the score and distance of the embeddings along a direction."""
    with torch.no_grad():
        ws = torch.cat((middle, direction.apply(middle, strength)))
        images = generator.render(ws, look_at(0.0, 0.0).expand(2, -1)).image
    scores, features = redness(images)["red"], brightness(images)[0]
    return float(scores[1] - scores[0]), float((features[1] - features[0]).norm())


@pytest.fixture(scope="module")
def found(generator, middle):
    return find_local_directions(generator, middle, redness, brightness, ["red"], CONFIG)["red"]


@pytest.mark.slow
def test_the_direction_raises_the_score_and_moves_the_later_half_of_the_layers(generator, middle, found):
    assert effect(generator, middle, found, 2.0)[0] > 0
    assert effect(generator, middle, found, -2.0)[0] < 0
    half = generator.num_ws // 2
    assert float(found.vector[:half].abs().max()) == 0
    assert torch.equal(found.vector[half:], found.vector[half : half + 1].expand_as(found.vector[half:]))
    assert found.base_hash == generator.base_hash()
    assert found.meta["correlation"] > 0.5
    assert found.meta["faces"] == 96


@pytest.mark.slow
def test_what_is_held_moves_less_for_the_same_change_of_the_score(generator, middle, found):
    free = dataclasses.replace(CONFIG, freedom=1e6)
    steepest = find_local_directions(generator, middle, redness, brightness, ["red"], free)["red"]
    moved = {}
    for name, direction in (("held", found), ("free", steepest)):
        strength = 0.5 * steepest.meta["score"] / direction.meta["score"]
        rise, distance = effect(generator, middle, direction, strength)
        moved[name] = distance / rise
    assert moved["held"] < 0.9 * moved["free"]


@pytest.mark.slow
def test_it_is_found_in_the_person_whose_identity_is_in_effect(generator, middle, found):
    adapter = Adapter.create(generator, seed=3)
    for tensor in adapter.tensors.values():
        tensor += 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    with personalized(generator, adapter):
        persons = find_local_directions(generator, middle, redness, brightness, ["red"], CONFIG)["red"]
    assert persons.base_hash == found.base_hash
    assert not torch.allclose(persons.vector, found.vector, atol=1e-3)


@pytest.mark.slow
def test_what_was_found_is_kept_for_this_head_and_this_person(generator, middle, found, tmp_path):
    def blind(images):
        raise AssertionError("the labeler was asked again")

    def search(labeler, middle=middle, person="anna"):
        return find_local_directions(
            generator, middle, labeler, brightness, ["red"], CONFIG, (tmp_path, person)
        )["red"]

    first = search(redness)
    assert torch.equal(first.vector, found.vector)  # the same seed, the same direction
    assert torch.equal(search(blind).vector, first.vector)
    (file,) = tmp_path.iterdir()
    assert torch.equal(Direction.load(file).vector, first.vector)
    for other in ({"person": "ben"}, {"middle": middle + 0.1}):
        with pytest.raises(AssertionError, match="asked again"):
            search(blind, **other)


@pytest.mark.slow
def test_heads_without_a_face_do_not_count_and_too_few_are_said(generator, middle):
    def half_blind(images):
        features, found = brightness(images)
        return features, found & (torch.arange(len(images)) % 2 == 0)

    found = find_local_directions(generator, middle, redness, half_blind, None, CONFIG)["red"]
    assert found.meta["faces"] == 48
    with pytest.raises(ValueError, match=r"0 could be measured: too few to find 'red'. Look at more"):
        find_local_directions(
            generator, middle, lambda images: {"red": torch.full((len(images),), torch.nan)}, brightness,
            None, dataclasses.replace(CONFIG, samples=8),
        )  # fmt: skip
    with pytest.raises(ValueError, match="all the same"):
        find_local_directions(
            generator, middle, lambda images: {"red": torch.zeros(len(images))}, brightness, None, CONFIG
        )
    with pytest.raises(ValueError, match="does not score 'beard', but: red"):
        find_local_directions(
            generator, middle, redness, brightness, ["beard"], dataclasses.replace(CONFIG, samples=8)
        )


def test_wrong_settings_and_heads_are_said(generator, middle):
    with pytest.raises(ValueError, match="spread must be above 0"):
        LocalFinderConfig(spread=0.0)
    with pytest.raises(ValueError, match=r"one latent \[1, "):
        find_local_directions(generator, middle.expand(2, -1, -1), redness, brightness, ["red"], CONFIG)


@pytest.mark.slow
def test_a_canceled_search_keeps_nothing_and_progress_counts_every_head(generator, middle, tmp_path):
    steps = []

    def watch(step, total, losses, image):
        steps.append((step, total))
        if step == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_local_directions(
            generator, middle, redness, brightness, ["red"], CONFIG, (tmp_path, "anna"), watch
        )
    assert steps == [(step, 96) for step in range(8, 81, 8)]
    assert list(tmp_path.iterdir()) == []
