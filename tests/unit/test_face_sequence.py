"""Video frames: crops and cameras follow the head smoothly, and short gaps are filled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_fixtures import models, portrait

from my3dgen_core.face import AlignmentError, align_sequence, angles_from_labels
from my3dgen_core.face.sequence import smooth_track


def _jerk(values: np.ndarray) -> np.ndarray:
    """Root mean square of the second difference over time."""
    return np.sqrt((np.diff(values, 2, axis=0) ** 2).mean(0))


def _still(count: int) -> np.ndarray:
    return np.tile([200.0, 150.0, np.log(2.0), 0.1, 0.2, 0.05, 0.0], (count, 1))


def _smoothed(tracks: list[np.ndarray | None]) -> np.ndarray:
    result = smooth_track(tracks)
    assert all(row is not None for row in result)
    return np.stack([row for row in result if row is not None])


NOISE = np.array([1.0, 1.0, 0.01, 0.01, 0.04, 0.04, 0.02])


def test_trembling_falls_to_a_twentieth_and_the_mean_stays() -> None:
    true = _still(80)
    seen = true + np.random.default_rng(0).normal(size=true.shape) * NOISE
    smooth = _smoothed(list(seen))
    assert (_jerk(smooth) < 0.05 * _jerk(seen)).all()
    assert (np.abs(smooth - true).mean(0) < 0.5 * np.abs(seen - true).mean(0)).all()


def test_a_turn_is_followed_without_lag() -> None:
    true = _still(60)
    time = np.arange(60)
    true[:, 4] = 0.6 * np.tanh((time - 30) / 8)  # 70 degrees in about a second
    true[:, 0] += 4.0 * time
    seen = true + np.random.default_rng(1).normal(size=true.shape) * NOISE
    smooth = _smoothed(list(seen))
    lags = [np.mean((smooth[10 + lag : 50 + lag, 4] - true[10:50, 4]) ** 2) for lag in range(-3, 4)]
    assert int(np.argmin(lags)) - 3 == 0
    assert np.abs(smooth[:, 4] - true[:, 4]).max() < 0.06  # 3.4 degrees, noise included
    assert np.abs(smooth[:, 0] - true[:, 0]).max() < 1.5
    assert (_jerk(smooth) < 0.1 * _jerk(seen)).all()


def test_a_steady_motion_is_exact_up_to_both_ends() -> None:
    true = _still(20) + np.arange(20)[:, None] * np.array([3.0, -1.0, 0.01, 0.02, 0.03, -0.01, 0.0])
    assert np.abs(_smoothed(list(true)) - true).max() < 1e-6


def test_one_wrong_detection_does_not_pull_its_neighbors() -> None:
    true = _still(30)
    seen = true.copy()
    seen[15] += [15, -12, 0.25, 0.5, -1.0, 0.6, 0.4]
    assert (np.abs(_smoothed(list(seen)) - true).max(0) < 0.02 * np.abs(seen[15] - true[15])).all()


def test_short_gaps_are_filled_on_the_way_and_held_at_the_ends() -> None:
    true = _still(40) + np.arange(40)[:, None] * np.array([2.0, 0, 0, 0, 0.01, 0, 0])
    missing = {0, 1, 12, 13, 14, 39}
    smooth = _smoothed([None if i in missing else row for i, row in enumerate(true)])
    assert np.abs(smooth[12:15] - true[12:15]).max() < 0.1
    assert np.array_equal(smooth[0], smooth[2])
    assert np.array_equal(smooth[39], smooth[38])


def test_a_long_gap_stays_empty() -> None:
    tracks: list[np.ndarray | None] = [*_still(10), *[None] * 9, *_still(10), *[None] * 9]
    smooth = smooth_track(tracks)
    assert [row is None for row in smooth] == [row is None for row in tracks]
    assert smooth_track([None, None]) == [None, None]


def test_shots_are_not_smoothed_into_each_other() -> None:
    one, other = _still(10), _still(10)
    other[:, 0] += 400
    smooth = _smoothed([*one, *other])
    assert np.abs(smooth - np.concatenate([one, other])).max() < 1e-6


def test_angles_that_pass_half_a_turn_do_not_spin_round() -> None:
    true = _still(12)
    true[:, 3] = np.pi + np.linspace(-0.2, 0.2, 12)
    wrapped = true.copy()
    wrapped[:, 3] = (wrapped[:, 3] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(np.sin(_smoothed(list(wrapped))[:, 3] - true[:, 3])).max() < 1e-6


def _clip(count: int) -> list[tuple[str, np.ndarray]]:
    """The portrait moving slowly to the right, with grain."""
    rng = np.random.default_rng(5)
    frames = []
    for index in range(count):
        moved = np.roll(portrait(), 3 * index, axis=1) + rng.normal(size=(*portrait().shape[:2], 1)) * 6
        frames.append((f"{index:03}.png", moved.clip(0, 255).astype(np.uint8)))
    return frames


@pytest.mark.slow
def test_a_real_clip_with_a_missing_frame_moves_smoothly() -> None:
    frames = [*_clip(6), ("tiny.png", np.zeros((10, 10, 3), np.uint8))]
    frames[3] = ("003.png", frames[3][1] // 100)
    seen: list[tuple[int, int]] = []
    clip = align_sequence(
        iter(frames), models(), on_step=lambda step, total, _, image: seen.append((step, total))
    )
    assert clip.kept == list(range(6))
    assert seen == [(step, 14) for step in range(1, 15)]
    assert clip.report[6].reason == "The frame has another size than the clip."
    assert clip.images.shape == (6, 3, 512, 512)
    assert "Filled from the frames around it." in clip.report[3].warnings[0]
    assert clip.report[3].points is None
    assert clip.report[2].points is not None
    centers = np.stack([row.transform.to_photo(np.full(2, 256.0)) for row in clip.report if row.transform])
    assert np.diff(centers[:, 0]).mean() == pytest.approx(3.0, abs=0.3)
    assert (_jerk(centers) < 0.1).all()
    assert (_jerk(torch.rad2deg(angles_from_labels(clip.cameras)).numpy()) < 0.1).all()


def test_a_clip_without_a_face_and_impossible_settings_are_one_message() -> None:
    nothing = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(AlignmentError, match="0 of 2 frames"):
        align_sequence([nothing, nothing], models())
    with pytest.raises(ValueError, match="0 or more"):
        align_sequence([nothing], models(), smoothing=-1)
