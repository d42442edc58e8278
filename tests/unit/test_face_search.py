"""Occlusions are detected by color, by unreliable landmarks, and by disagreement of two networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_fixtures import models, real_batch
from occluders import KINDS, covered

from my3dgen_core.face import align_faces
from my3dgen_core.face.align import KeptFace, warn_of_occlusion
from my3dgen_core.face.detect import MIRRORED
from my3dgen_core.face.face_search import point_distances
from my3dgen_core.face.occlusion import covered_part, non_skin_fractions
from my3dgen_core.face.pose import PoseFit
from my3dgen_core.face.report import FaceReport

_FIVE = np.array([[188.0, 192.0], [324.0, 192.0], [257.0, 266.0], [201.0, 340.0], [310.0, 340.0]])
_EYES = ([35, 41, 42, 39, 37, 36], [89, 95, 96, 93, 91, 90])
_SKIN = np.array([200, 150, 120], np.uint8)


def _landmarks() -> np.ndarray:
    """106 landmarks whose five points are exactly the detector's."""
    landmarks = np.full((106, 2), 256.0)
    for eye, point in zip(_EYES, _FIVE, strict=False):
        landmarks[eye] = point
    landmarks[[86, 52, 61]] = _FIVE[2:]
    return landmarks


@pytest.mark.parametrize(
    ("moved", "part"),
    [([86], "nose"), ([52], "mouth"), ([61], "mouth"), (_EYES[0], "eyes"), (_EYES[1], "eyes")],
)
def test_the_part_on_which_the_networks_disagree_may_be_covered(moved: list[int], part: str) -> None:
    landmarks = _landmarks()
    assert covered_part(point_distances(landmarks, _FIVE)) == ""
    landmarks[moved] += [12.6, 16.8]
    assert point_distances(landmarks, _FIVE).max() == pytest.approx(21)
    assert covered_part(point_distances(landmarks, _FIVE)) == part
    assert _warnings(landmarks, -20.0) == [f"Something may cover the {part}."]
    assert _warnings(landmarks, 45.0) == []  # a turned head parts them too
    landmarks[moved] -= [6, 8]
    assert covered_part(point_distances(landmarks, _FIVE)) == ""


@pytest.mark.parametrize(
    ("guessed", "part"),
    [
        (_EYES[0], "eyes"),
        (list(range(97, 106)), "eyes"),
        ([72, 78, 80, 84, 86], "nose"),
        ([*range(52, 72)], "mouth"),
    ],
)
def test_the_part_that_is_guessed_at_may_be_covered(guessed: list[int], part: str) -> None:
    """Landmarks of the mirror image that lie elsewhere are guesses; those of the contour may."""
    guesses = np.full(106, 2.0)
    guesses[:33] = 9.0
    assert covered_part(np.zeros(5), guesses) == ""
    guesses[guessed] = 11.0
    assert covered_part(np.zeros(5), guesses) == part


def _warnings(landmarks: np.ndarray, yaw: float) -> list[str]:
    row = FaceReport(0, "a face", yaw=yaw)
    fit = PoseFit(np.eye(3), np.zeros(3), np.zeros(0), 0.0, 0.0)
    skin = (torch.from_numpy(_SKIN).float() / 127.5 - 1)[:, None, None].expand(3, 512, 512)
    warn_of_occlusion(KeptFace(skin, torch.zeros(1, 512, 512), fit, _FIVE, landmarks, None, row))
    return row.warnings


@pytest.mark.parametrize("color", [(0, 0, 0), (200, 220, 235), (40, 45, 70)])
def test_what_is_no_skin_over_eye_or_mouth_is_seen_by_its_color(color: tuple[int, int, int]) -> None:
    face = np.broadcast_to(_SKIN, (512, 512, 3)).copy()
    assert non_skin_fractions(face, _FIVE) == [0, 0, 0, 0]
    face[310:370, 215:295] = color
    assert non_skin_fractions(face, _FIVE)[3] > 0.8
    assert non_skin_fractions(face, _FIVE)[:3] == [0, 0, 0]
    face[310:370, 215:295] = [190, 90, 95]  # lips
    assert non_skin_fractions(face, _FIVE)[3] == 0
    gray = np.full((512, 512, 3), 160, np.uint8)
    assert non_skin_fractions(gray, _FIVE) == [0, 0, 0, 0]


def test_no_bare_face_is_suspected() -> None:
    assert not [row.name for row in real_batch().report if any("cover" in said for said in row.warnings)]


@pytest.mark.parametrize(
    ("kind", "least"), [("hand", 2), ("mask", 2), ("hair", 2), ("microphone", 3), ("brim", 3)]
)
def test_things_over_real_faces_are_warned_about(kind: str, least: int) -> None:
    """A hand, which has the face's own color, is the hardest: it takes six photographs, the others three."""
    batch = real_batch()
    said = []
    for image, row in list(zip(batch.images, batch.report, strict=True))[:: 1 if kind == "hand" else 2]:
        assert row.points is not None
        crop = ((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        (found,) = align_faces([covered(crop, row.points, kind, row.index)], models(), det_size=320).report
        said.append(" ".join(found.warnings))
    assert sum("may cover" in text for text in said) >= least, said
    assert any(f"may cover the {KINDS[kind]}" in text for text in said), said


def test_a_mirrored_crop_has_the_mirrored_landmarks() -> None:
    """The network alone sees the two pictures differently, by pixels."""
    image = ((real_batch().images[1].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    box = np.array([110.0, 60.0, 390.0, 440.0])
    mirrored_box = np.array([512 - 390.0, 60.0, 512 - 110.0, 440.0])
    landmarks = models().landmarks(image, box)
    there = models().landmarks(image[:, ::-1].copy(), mirrored_box)
    twice = models().landmarks_twice(image, box)
    assert landmarks is not None
    assert there is not None
    assert twice is not None
    back = there[list(MIRRORED)] * [-1, 1] + [512, 0]
    assert np.abs(back - landmarks).max() < 1e-3
    assert np.abs(twice[0] - twice[1]).max() > 1
    assert np.abs(twice[0] - twice[1]).mean() < 4  # and the numbers of the landmarks are the right ones
    assert sorted(MIRRORED) == list(range(106))
    assert all(MIRRORED[MIRRORED[i]] == i for i in range(106))
