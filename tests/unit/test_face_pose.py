"""Camera labels: the convention, and the solver's error on heads whose pose is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from face_fixtures import real_batch

from my3dgen_core.face import angles_from_labels, labels_from_angles
from my3dgen_core.face.crop import STANDARD_POINTS
from my3dgen_core.face.pose import (
    ShapePrior,
    angles_of_rotation,
    label_of_rotation,
    project_to_crop,
    rotation_of_angles,
    shape_prior,
    solve_pose,
    solve_shape_and_poses,
)


def _degrees_between(one: np.ndarray, other: np.ndarray) -> float:
    return math.degrees(math.acos(np.clip((np.trace(one @ other.T) - 1) / 2, -1, 1)))


def _errors(
    prior: ShapePrior, *, noise: float, sigma: float, unmodeled: float = 0.0, count: int = 150
) -> np.ndarray:
    """Median and 95 % error in degrees, seen from 25 degrees above to 25 below; `unmodeled` moves points
    (decimeters) as no mode does."""
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(count):
        rotation = rotation_of_angles(
            *np.radians([rng.uniform(-45, 45), rng.uniform(-25, 25), rng.normal(0, 5)])
        )
        shape = prior.mean + np.tensordot(rng.normal(size=len(prior.modes)), prior.modes, 1)
        shape = shape + rng.normal(size=shape.shape) * unmodeled
        seen = (
            project_to_crop(shape, rotation, np.array([0, 0, 10.0]))
            + rng.normal(size=(len(shape), 2)) * noise
        )
        fit = solve_shape_and_poses(seen[None], prior, sigma)[0]
        errors.append(_degrees_between(fit.rotation, rotation))
    return np.percentile(errors, [50, 95])


def test_dense_exact_points_give_the_pose_within_a_few_degrees() -> None:
    median, most = _errors(shape_prior(dense=True), noise=1.5, sigma=1.5)
    assert median < 3.0
    assert most < 7.8


def test_heads_that_the_modes_cannot_make_cost_little_more() -> None:
    median, most = _errors(shape_prior(dense=True), noise=1.5, sigma=5.0, unmodeled=0.02)
    assert median < 4.3
    assert most < 10.6


def test_five_points_alone_still_give_a_usable_pose() -> None:
    median, most = _errors(shape_prior(dense=False), noise=1.5, sigma=5.0)
    assert median < 5.5
    assert most < 14


@pytest.mark.parametrize("yaw", [-40, -15, 0, 25])
@pytest.mark.parametrize("pitch", [-8, 4, 12])
def test_the_standard_face_which_no_mode_was_made_from_is_read_right(yaw: float, pitch: float) -> None:
    rotation = rotation_of_angles(*np.radians([yaw, pitch, 3]))
    fit = solve_pose(project_to_crop(STANDARD_POINTS, rotation, np.array([0.1, -0.05, 10.2])))
    found = np.degrees(angles_of_rotation(fit.rotation))
    assert np.abs(found - [yaw, pitch, 3]).max() < 8  # five points leave the pitch to the prior


def test_a_wide_smile_does_not_turn_the_head_over() -> None:
    rotation = rotation_of_angles(0, math.radians(5), 0)
    smile = STANDARD_POINTS.copy()
    smile[3:] += [[-0.06, 0.08, 0], [0.06, 0.08, 0]]
    pitch = math.degrees(
        angles_of_rotation(solve_pose(project_to_crop(smile, rotation, np.array([0, 0, 10.0]))).rotation)[1]
    )
    assert abs(pitch - 5) < 12


def test_many_photos_of_one_head_agree_better_together() -> None:
    prior = shape_prior(dense=True)
    rng = np.random.default_rng(1)
    alone, together = [], []
    for _ in range(8):
        shape = prior.mean + np.tensordot(rng.normal(size=len(prior.modes)), prior.modes, 1)
        turns = [rotation_of_angles(*np.radians([yaw, rng.normal(4, 6), 0])) for yaw in (-30, -10, 5, 25)]
        views = np.stack([project_to_crop(shape, turn, np.array([0, 0, 10.0])) for turn in turns])
        views += rng.normal(size=views.shape) * 2
        fits = solve_shape_and_poses(views, prior, 3.0)
        together += [_degrees_between(fit.rotation, turn) for fit, turn in zip(fits, turns, strict=True)]
        singles = [solve_shape_and_poses(view[None], prior, 3.0)[0] for view in views]
        alone += [_degrees_between(fit.rotation, turn) for fit, turn in zip(singles, turns, strict=True)]
    assert np.mean(together) < 0.7 * np.mean(alone)


def test_a_label_is_what_eg3d_expects() -> None:
    label = label_of_rotation(rotation_of_angles(0, 0, 0))
    assert label.shape == (25,)
    assert np.allclose(label[:16].reshape(4, 4)[:3, :3], np.diag([1, -1, -1]))
    assert np.allclose(label[16:], [4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1])
    for yaw, pitch, roll in [(30, 10, 5), (-50, -20, 0)]:
        matrix = label_of_rotation(rotation_of_angles(*np.radians([yaw, pitch, roll])))[:16].reshape(4, 4)
        center, forward = matrix[:3, 3], matrix[:3, 2]
        assert np.linalg.norm(center) == pytest.approx(2.7, abs=1e-5)
        # the optical axis meets the face's origin, a little before the world's
        target = np.array([0, 0.006, 0.161])
        assert np.linalg.norm(np.cross(target - center, forward)) < 0.03
        assert np.sign(center[0]) == np.sign(yaw)  # yaw > 0: camera at +x
        assert np.sign(center[1]) == np.sign(pitch)  # pitch > 0: camera above


def test_angles_and_labels_go_both_ways() -> None:
    angles = torch.tensor([[0.5, 0.2, -0.1], [-0.9, -0.3, 0.4], [0.0, 0.0, 0.0]])
    assert torch.allclose(angles_from_labels(labels_from_angles(angles)), angles, atol=1e-5)


def test_roll_is_positive_when_the_head_leans_clockwise() -> None:
    rotation = rotation_of_angles(0.3, 0.1, math.radians(20))
    foot, head = project_to_crop(np.array([[0, -0.1, 0], [0, 0.1, 0]]), rotation, np.array([0, 0, 10.0]))
    assert head[0] > foot[0]
    assert head[1] < foot[1]


def test_real_photos_have_the_poses_that_one_sees() -> None:
    """obama looks straight, obama2 shows its right cheek to us, obama3 is seen from below."""
    rows = real_batch().report
    angles = {row.name: (row.yaw or 0.0, row.pitch or 0.0) for row in rows}
    assert abs(angles["obama.jpg"][0]) < 6
    assert angles["obama2.jpg"][0] > 8
    assert angles["obama3.jpg"][1] < -3
    assert angles["obama3.jpg"][0] < -5
    assert abs(angles["astronaut.png"][0]) < 8
