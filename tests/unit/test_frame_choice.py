"""Frames of a video as photos: sharp, different, from many sides, and no more than wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_fixtures import models, portrait
from PIL import Image, ImageFilter

from my3dgen_core.face import AlignmentError, choose_frames
from my3dgen_core.face.frame_choice import _different, _Look, _sharp, _sharpest, _spread
from my3dgen_core.face.report import FaceReport


def _look(index: int, blur: float = 100.0, yaw: float = 0.0, pitch: float = 0.0, gray: float = 0.0) -> _Look:
    row = FaceReport(index, f"frame {index + 1}", kept=True, blur=blur, yaw=yaw, pitch=pitch)
    return _Look(row, torch.full((3, 32, 32), gray))


def _indices(looks: list[_Look]) -> list[int]:
    return [look.row.index for look in looks]


def test_blurred_faces_are_left_out_unless_all_are() -> None:
    assert _indices(_sharp([_look(0, 39), _look(1, 150), _look(2, 300), _look(3, 120)])) == [2, 1, 3]
    assert _indices(_sharp([_look(0, 100), _look(1, 400), _look(2, 500), _look(3, 450)])) == [2, 3, 1]
    assert _indices(_sharp([_look(0, 10), _look(1, 30), _look(2, 20)])) == [1, 2, 0]


def test_of_nearly_equal_pictures_the_sharper_one_stays() -> None:
    looks = [_look(4, gray=0.5), _look(1, gray=0.51), _look(2, gray=0.53), _look(3, gray=0.2)]
    assert _indices(_different(looks)) == [4, 2, 3]


def test_those_taken_are_spread_over_yaw() -> None:
    looks = [_look(index, yaw=yaw) for index, yaw in enumerate([0, 1, 2, -40, 30, 29, -20, 3])]
    assert _indices(_spread(looks, 4)) == [0, 3, 4, 6]
    assert len(_spread(looks, 20)) == 8
    assert sorted(_indices(_spread(looks, 8))) == list(range(8))
    tilted = [_look(0), _look(1, pitch=20), _look(2, yaw=12)]
    assert _indices(_spread(tilted, 2)) == [0, 2]  # yaw counts twice as much as pitch


def test_each_stretch_gives_its_sharpest_frame() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    frames = [noise // (index + 1) for index in (3, 0, 2, 5, 4, 1, 7)]
    assert [index for index, _ in _sharpest(frames, 3)] == [1, 5, 6]
    assert [index for index, _ in _sharpest(iter(frames), 1)] == list(range(7))


def _frames() -> list[np.ndarray]:
    """Three sharp different views of the portrait, copies of them, blurred ones, and walls."""
    picture = portrait()
    dark = (picture * 0.6).astype(np.uint8)
    blurred = np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(6)))
    wall = np.zeros_like(picture)
    return [wall, picture, blurred, picture, picture[:, ::-1].copy(), blurred, dark, dark, wall]


def test_a_clip_gives_its_sharp_different_frames_once() -> None:
    seen: list[tuple[int, int]] = []
    frames = _frames()
    choice = choose_frames(
        iter(frames), len(frames), models(), 9, on_step=lambda step, total, *_: seen.append((step, total))
    )
    assert choice.indices == [1, 4, 6]
    assert choice.summary == (
        "3 of 9 frames were chosen. A face was searched in 9, of which were left out: 2 without a usable "
        "face, 2 blurred, 2 nearly the same as a sharper one."
    )
    assert seen == [(step, 9) for step in range(1, 10)]
    two = choose_frames(frames, len(frames), models(), 2)
    assert len(two.indices) == 2
    assert "seen from nearly the same side as others" in two.summary


def test_a_clip_without_a_face_and_no_wanted_frame_are_one_message() -> None:
    with pytest.raises(AlignmentError, match=r"0 of 2 frames can be used\. frame 1: No face was found"):
        choose_frames(_frames()[::8], 2, models(), 3)
    with pytest.raises(ValueError, match="At least one frame"):
        choose_frames([], 0, models(), 0)
