"""Small faces of large photos are found in tiles; what was found without them stays as it was."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from face_fixtures import models, wall_of
from real_photos import photo

from my3dgen_core.face import AlignmentError, align_faces
from my3dgen_core.face.detect import (
    _TILE_OVERLAP,
    Face,
    _tile_starts,
    detect_in_tiles,
    detection_attempts,
    merge_faces,
)


def test_a_face_below_the_ladders_limit_is_found_in_tiles() -> None:
    wall = wall_of(4000, 1600, 40, (1850, 900))
    assert not list(detection_attempts(models(), wall))
    (row,) = align_faces([wall], models()).report
    assert row.found_by == "tiles"
    assert row.box is not None
    assert row.box[2] - row.box[0] == pytest.approx(40, rel=0.1)
    assert row.warnings[0].startswith("The face is small")


def test_a_face_across_tiles_counts_once() -> None:
    wall = wall_of(4000, 1600, 44, (1900, 300), (300, 800), (3700, 900))
    faces = detect_in_tiles(models(), wall)
    assert len(faces) == 3
    (row,) = align_faces([wall], models(), which=1).report  # the second from the left
    assert row.box is not None
    assert 1900 < row.box[0] < 2000
    assert row.faces == 3


def test_photos_that_the_ladder_covers_have_no_tiles() -> None:
    assert detect_in_tiles(models(), wall_of(2048, 1000, 60, (900, 400))) == []


@pytest.mark.parametrize(
    ("length", "side"), [(100, 1280), (1280, 1280), (1281, 1280), (4915, 1280), (4915, 640)]
)
def test_tiles_cover_a_length_with_their_overlap(length: int, side: int) -> None:
    starts = _tile_starts(length, side)
    assert starts[0] == 0
    assert starts[-1] + side >= length
    assert all(b - a <= side - _TILE_OVERLAP for a, b in pairwise(starts))


def test_of_two_detections_of_one_face_the_better_stays() -> None:
    def face(left: float, score: float) -> Face:
        return Face(np.array([left, 0.0, left + 40, 50.0]), score, np.zeros((5, 2)))

    assert [one.score for one in merge_faces([face(0, 0.7), face(4, 0.9), face(60, 0.6)])] == [0.9, 0.6]


def test_a_reference_without_a_face_is_what_the_message_is_about() -> None:
    with pytest.raises(
        AlignmentError, match=r"The reference shows no usable face\. No face was found\."
    ) as caught:
        align_faces(
            [photo("obama.jpg")], models(), which="nearest", reference=np.zeros((90, 90, 3), np.uint8)
        )
    assert caught.value.report == []
