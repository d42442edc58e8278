"""Decisions of the user about single photos are followed; other text is refused."""

from __future__ import annotations

import numpy as np
import pytest
from face_fixtures import models, portrait

from my3dgen_core.face import AlignedFaces, AlignmentError, FaceReport, align_faces
from my3dgen_core.face.overrides import ByHand, override_for, read_by_hand


def two_faces() -> np.ndarray:
    """The portrait twice, side by side."""
    return np.concatenate((portrait(), portrait()), axis=1)


def looked_at(photo: np.ndarray, by_hand: ByHand | None = None) -> tuple[FaceReport, AlignedFaces | None]:
    """The row of one photo, and what was made of it where it was kept."""
    try:
        found = align_faces([("a.jpg", photo)], models(), by_hand={"a.jpg": by_hand or ByHand()})
    except AlignmentError as error:
        return error.report[0], None
    return found.report[0], found


def parts(points: np.ndarray, photo: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points / [photo.shape[1], photo.shape[0]])


def test_another_face_can_be_picked_by_a_place_in_it() -> None:
    photo, half = two_faces(), portrait().shape[1]
    left, _, right, low = looked_at(portrait())[0].box
    for side in (0, 1):
        place = ((left + right) / 4 / half + side / 2, 0.8 * low / photo.shape[0])
        row, _ = looked_at(photo, ByHand(face=place))
        assert row.kept
        assert side * half <= row.box[0] < row.box[2] <= (side + 1) * half
        assert (len(row.boxes), row.by_hand) == (2, "another face")
    nowhere, _ = looked_at(photo, ByHand(face=(0.99, 0.99)))
    assert not nowhere.kept
    assert "The face asked for is not there" in nowhere.reason


def test_points_set_by_hand_are_taken_as_they_are() -> None:
    photo, middle = portrait(), np.array([[256.0, 256.0]])
    usual, found = looked_at(photo)
    points = usual.transform.to_photo(usual.points)
    row, same = looked_at(photo, ByHand(points=parts(points, photo)))
    assert (row.found_by, row.by_hand) == ("by hand", "points set")
    assert np.abs(row.transform.to_photo(row.points) - points).max() < 1e-3
    assert (same.images - found.images).abs().mean() < 0.01
    assert row.yaw == pytest.approx(usual.yaw, abs=3)
    moved, _ = looked_at(photo, ByHand(points=parts(points + np.array([20.0, 0.0]), photo)))
    shift = moved.transform.to_photo(middle) - row.transform.to_photo(middle)
    assert shift == pytest.approx(np.array([[20.0, 0.0]]), abs=0.1)
    flat, _ = looked_at(photo, ByHand(points=((0.5, 0.5),) * 5))
    assert flat.reason == "The five points set by hand span no face."


def test_a_photo_can_be_left_out_or_kept_whatever_speaks_against_it() -> None:
    row, found = looked_at(portrait(), ByHand(keep=False))
    assert (row.reason, found) == ("Left out by hand.", None)
    tiny = np.pad(portrait()[::10, ::10], ((0, 200), (0, 200), (0, 0)))
    usual, _ = looked_at(tiny)
    kept, found = looked_at(tiny, ByHand(keep=True))
    assert not usual.kept
    assert usual.reason in kept.warnings
    assert (kept.reason, found.kept) == ("", [0])


def test_the_text_gives_the_decisions_back() -> None:
    points = '{"points": [[0.1, 0.2], [0, 0], [0, 0], [0, 0], [1, 1]]}'
    found = read_by_hand(f'{{"a": {{"keep": true}}, "b": {{"face": [0, 1]}}, "c": {points}}}')
    assert found["a"] == ByHand(keep=True)
    assert found["b"] == ByHand(face=(0.0, 1.0))
    assert found["c"].points[0] == (0.1, 0.2)
    assert read_by_hand(" ") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "are not JSON"),
        ("[" * 100_000, "are not JSON"),
        (" " * (1 << 21) + "1", "more than"),
        ("[]", "must be an object"),
        ('{"a": 1}', "'a': write an object"),
        ('{"a": {"path": "x"}}', "write an object with keep, face or points"),
        ('{"a": {"keep": 1}}', "keep must be true or false"),
        ('{"a": {"face": [0.5]}}', "a place is"),
        ('{"a": {"face": [0.5, NaN]}}', "a place is"),
        ('{"a": {"face": [0.5, true]}}', "a place is"),
        ('{"a": {"face": [0.5, 1.5]}}', "a place is"),
        ('{"a": {"face": [0.5, 0.5, "x"]}}', "a place is"),
        ('{"a": {"points": [[0, 0]]}}', "points must be five places"),
    ],
)
def test_bad_text_gets_a_message(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_by_hand(text)


def test_a_name_is_found_however_its_accents_are_stored() -> None:
    composed, decomposed = "\u00e9.jpg", "e\u0301.jpg"
    one, other = ByHand(keep=False), ByHand(keep=True)
    assert override_for({composed: one}, decomposed) is one
    assert override_for({decomposed: one}, composed) is one
    assert override_for({composed: one, decomposed: other}, decomposed) is other
    assert override_for({composed: one}, "e.jpg") is None
    assert override_for(None, composed) is None
