"""What the two networks' disagreement says about a face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_fixtures import real_batch

from my3dgen_core.face.align import KeptFace, warn_of_cover
from my3dgen_core.face.pose import PoseFit
from my3dgen_core.face.report import FaceReport
from my3dgen_core.face.search import covered_part, point_distances

_FIVE = np.array([[188.0, 192.0], [324.0, 192.0], [257.0, 266.0], [201.0, 340.0], [310.0, 340.0]])
_EYES = ([35, 41, 42, 39, 37, 36], [89, 95, 96, 93, 91, 90])


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
    assert covered_part(landmarks, _FIVE) == ""
    landmarks[moved] += [12, 16]
    assert point_distances(landmarks, _FIVE).max() == pytest.approx(20)
    assert covered_part(landmarks, _FIVE) == part
    assert _warnings(landmarks, -20.0) == [f"Something may cover the {part}."]
    assert _warnings(landmarks, 45.0) == []  # a turned head parts them too
    landmarks[moved] -= [6, 8]
    assert covered_part(landmarks, _FIVE) == ""


def _warnings(landmarks: np.ndarray, yaw: float) -> list[str]:
    row = FaceReport(0, "a face", yaw=yaw)
    fit = PoseFit(np.eye(3), np.zeros(3), np.zeros(0), 0.0, 0.0)
    warn_of_cover(KeptFace(torch.zeros(0), torch.zeros(0), fit, _FIVE, landmarks, None, row))
    return row.warnings


def test_no_bare_face_is_suspected() -> None:
    assert not [row.name for row in real_batch().report if any("cover" in said for said in row.warnings)]
