"""Directions found from renderings of a generator's own samples."""

import dataclasses

import micro
import numpy as np
import pytest
import torch

from my3dgen_core import Direction, look_at
from my3dgen_core.editing.direction_finder import FinderConfig, find_directions
from my3dgen_core.editing.face_scores import (
    EYES_OPEN,
    FACE_WIDTH,
    JAW_WIDTH,
    LANDMARK_SCORES,
    MOUTH_OPEN,
    SMILE,
    FaceGeometry,
    TextSimilarity,
    measure,
)
from my3dgen_core.face.detect import Face

CONFIG = FinderConfig(samples=48, fraction=0.25, truncation_psi=1.0, batch_size=8)


@pytest.fixture(scope="module")
def generator():
    return micro.generator(neural_resolution=64, depth_resolution=4, depth_resolution_importance=4)


class Redness:
    """A labeler that needs no face: how red a picture is; every fifth is not scored."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        red = images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))
        number = torch.arange(self.seen, self.seen + len(images))
        self.seen += len(images)
        return {"red": torch.where(number % 5 == 0, torch.nan, red)}


@pytest.fixture(scope="module")
def found(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return find_directions(generator, Redness(), ["red"], CONFIG, folder)["red"], folder


@pytest.mark.slow
def test_the_direction_does_what_it_is_called(generator, found):
    direction = found[0]
    assert direction.base_hash == generator.base_hash()
    assert direction.meta["samples"] == 48
    ws = micro.latents(generator, 3, seed=77)
    camera = look_at(0.0, 0.0)
    with torch.no_grad():
        less, more = (
            Redness()(generator.render(direction.apply(ws, strength), camera).image_raw)["red"][1:]
            for strength in (-1.5, 1.5)
        )
    assert bool((more > less).all())


@pytest.mark.slow
def test_what_was_found_is_found_again_without_looking(generator, found):
    direction, folder = found

    def blind(images):
        raise AssertionError("the labeler was asked again")

    again = find_directions(generator, blind, ["red"], CONFIG, folder)["red"]
    assert torch.equal(again.vector, direction.vector)
    for other in (dataclasses.replace(CONFIG, seed=1), dataclasses.replace(CONFIG, samples=40)):
        with pytest.raises(AssertionError, match="asked again"):
            find_directions(generator, blind, ["red"], other, folder)


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(generator, found, tmp_path):
    direction, folder = found
    (name,) = (path.name for path in folder.iterdir())
    (tmp_path / name).write_bytes(b"damaged")
    again = find_directions(generator, Redness(), ["red"], CONFIG, tmp_path)["red"]
    assert torch.allclose(again.vector, direction.vector)
    assert torch.equal(Direction.load(tmp_path / name).vector, again.vector)


@pytest.mark.slow
def test_what_cannot_be_scored_is_said(generator):
    with pytest.raises(ValueError, match="does not score 'beard', but: red"):
        find_directions(generator, Redness(), ["beard"], dataclasses.replace(CONFIG, samples=4))
    with pytest.raises(ValueError, match="same, or unknown"):
        find_directions(
            generator,
            lambda images: {"smile": torch.full((len(images),), torch.nan)},
            config=dataclasses.replace(CONFIG, samples=4),
        )


@pytest.mark.slow
def test_a_canceled_search_keeps_nothing(generator, tmp_path):
    class CanceledError(Exception):
        pass

    def cancel(step, total, losses, image):
        assert total == 48
        raise CanceledError

    with pytest.raises(CanceledError):
        find_directions(generator, Redness(), ["red"], CONFIG, tmp_path, cancel)
    assert list(tmp_path.iterdir()) == []


# --- Measuring faces --------------------------------------------------------------------------------------


def face(width=0.9, raised=0.0, gap=0.05, lids=0.3, cheeks=2.0, jaw=1.6):
    """Five points and landmarks of a plain face, eyes 100 apart."""
    points = np.array([[0, 0], [100, 0], [50, 60], [50 - 50 * width, 100], [50 + 50 * width, 100]], float)
    landmarks = np.zeros((106, 2))
    landmarks[[52, 61]] = points[3:5] - [0, 100 * raised]
    landmarks[62], landmarks[60] = [50, 100 - 50 * gap], [50, 100 + 50 * gap]
    for middle, (a, b, top, bottom) in ((0, (35, 39, 40, 33)), (100, (89, 93, 94, 87))):
        landmarks[[a, b]] = [[middle - 15, 0], [middle + 15, 0]]
        landmarks[top], landmarks[bottom] = [middle, -15 * lids], [middle, 15 * lids]
    landmarks[0] = [50, 160]  # the outline: chin, cheeks beside the nose, jaw beside the mouth
    landmarks[[12, 28]] = [[50 - 50 * cheeks, 60], [50 + 50 * cheeks, 60]]
    landmarks[[3, 19]] = [[50 - 50 * jaw, 100], [50 + 50 * jaw, 100]]
    return points, landmarks


def test_each_score_follows_its_own_change():
    plain = measure(*face())
    assert measure(*face(width=1.1))[SMILE] > plain[SMILE]
    assert measure(*face(raised=0.1))[SMILE] > plain[SMILE]
    assert measure(*face(gap=0.3))[MOUTH_OPEN] == pytest.approx(0.3)
    assert measure(*face(gap=0.3))[SMILE] == pytest.approx(plain[SMILE])
    assert measure(*face(lids=0.1))[EYES_OPEN] == pytest.approx(0.1)
    assert plain[FACE_WIDTH] == pytest.approx(200 / 160)
    assert measure(*face(cheeks=2.4, jaw=1.92))[FACE_WIDTH] == pytest.approx(240 / 160)
    assert plain[JAW_WIDTH] == measure(*face(cheeks=2.4, jaw=1.92))[JAW_WIDTH] == pytest.approx(0.8)
    assert measure(*face(jaw=1.2))[JAW_WIDTH] == pytest.approx(0.6)


def test_size_and_turn_of_the_face_do_not_matter():
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]]) * 3
    points, landmarks = face(raised=0.1, gap=0.2)
    plain, turned = measure(points, landmarks), measure(points @ turn, landmarks @ turn)
    assert turned == pytest.approx(plain)
    assert measure(points @ turn)[SMILE] == pytest.approx(measure(points)[SMILE])


def test_five_points_know_a_smile_by_the_corners_of_the_mouth():
    points = face()[0]
    raised = points - [[0, 0], [0, 0], [0, 0], [0, 10], [0, 10]]
    assert measure(raised)[SMILE] > measure(points)[SMILE]
    assert set(measure(points)) == {SMILE}


def test_a_picture_without_a_face_has_no_score():
    class Blind:
        has_landmarks, has_attributes = True, False

        def detect(self, image, size=640, pad=0.0):
            return []

    scores = FaceGeometry(Blind())(torch.zeros(2, 3, 64, 64))
    assert set(scores) == set(LANDMARK_SCORES)
    assert all(bool(values.isnan().all()) for values in scores.values())


@pytest.mark.slow
def test_words_are_scored_by_the_users_own_clip(generator):
    """A CLIP whose space is the mean color."""

    def embed(images):
        return images.mean((2, 3)) + 1.0

    red, blue = torch.tensor([1.0, 0.2, 0.2]), torch.tensor([0.2, 0.2, 1.0])
    labeler = TextSimilarity("a red face", embed, red, blue)
    found = find_directions(generator, labeler, ["a red face"], CONFIG)["a red face"]
    ws, camera = micro.latents(generator, 3, seed=77), look_at(0.0, 0.0)
    with torch.no_grad():
        less, more = (
            labeler(generator.render(found.apply(ws, strength), camera).image)["a red face"]
            for strength in (-1.5, 1.5)
        )
    assert bool((more > less).all())
    with pytest.raises(ValueError, match="mean the same"):
        TextSimilarity("x", embed, red, 2 * red)
    with pytest.raises(ValueError, match="gives 5 numbers, the image encoder 3"):
        TextSimilarity("x", embed, torch.rand(5), -torch.rand(5))(torch.zeros(1, 3, 8, 8))


def test_age_and_gender_are_scored_where_the_pack_has_the_network():
    class Models:
        has_landmarks, has_attributes = False, True

        def detect(self, image, pad):
            points = np.array([[40.0, 50], [80, 50], [60, 70], [45, 90], [75, 90]])
            return [Face(np.array([20.0, 20, 100, 110]), 0.9, points)]

        def landmarks(self, image, box):
            return None

        def attributes(self, image, box):
            return {"age": float(image.mean()), "gender": 1.0}

    labeler = FaceGeometry(Models())
    scores = labeler(torch.stack([torch.full((3, 128, 128), gray) for gray in (-1.0, 0.0)]))
    assert labeler.names == (SMILE, "age", "gender")
    assert scores["age"].tolist() == pytest.approx([0, 128], abs=1)
    assert scores["gender"].tolist() == [1, 1]
