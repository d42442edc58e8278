"""Videos: each frame once, in order, upright and at its time; sound beside them; one message for the rest."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import small_video

from my3dgen_core.formats.video_file import Sound, VideoError, VideoFile, write_video


def _numbers(clip: VideoFile, chosen: set[int] | None = None) -> list[int]:
    return [round((float(frame.pixels.mean()) - 20) / 8) for frame in clip.frames(chosen)]


def _times(clip: VideoFile) -> list[float]:
    return [float(frame.pts * clip.time_base) for frame in clip.frames()]


def _loudness(sound: Sound | None) -> np.ndarray:
    """Root mean square of each tenth of a second."""
    assert sound is not None
    tenth = sound.rate // 10
    blocks = sound.samples[:, : sound.samples.shape[1] // tenth * tenth]
    return np.sqrt((blocks.reshape(len(blocks), -1, tenth) ** 2).mean((0, 2)))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return small_video.write(tmp_path / "a.mp4", small_video.counted(20), sound=small_video.tone(0.8))


def test_all_frames_come_in_order_each_time_one_asks(clip: Path) -> None:
    video = VideoFile(str(clip))
    assert (len(video), video.rate) == (20, 25)
    for _ in range(2):
        assert _numbers(video) == list(range(20))
    assert _times(video) == pytest.approx([index / 25 for index in range(20)], abs=1e-3)
    frame = next(video.frames())
    assert frame.pixels.shape == (48, 64, 3)
    assert frame.pixels.dtype == np.uint8


def test_chosen_frames_come_alone_and_keep_their_numbers(clip: Path) -> None:
    video = VideoFile(str(clip))
    assert _numbers(video, {17, 3}) == [3, 17]
    assert [frame.index for frame in video.frames({17, 3})] == [3, 17]
    assert _numbers(video, set()) == []


def test_a_file_in_memory_is_read_like_one_on_disk(clip: Path) -> None:
    held = VideoFile(io.BytesIO(clip.read_bytes()))
    for _ in range(2):
        assert _numbers(held) == list(range(20))


def test_sound_begins_with_the_first_frame_and_lasts_as_long(clip: Path) -> None:
    sound = VideoFile(str(clip)).sound()
    assert sound is not None
    assert (sound.rate, len(sound.samples)) == (48000, 2)
    assert sound.samples.shape[1] / sound.rate == pytest.approx(0.8, abs=0.05)
    assert _loudness(sound)[1:7] == pytest.approx([0.5 / 2**0.5] * 6, rel=0.05)


def test_a_trimmed_part_has_its_frames_from_zero_and_its_sound(tmp_path: Path) -> None:
    loud_at_the_end = small_video.tone(1.6)
    loud_at_the_end[:, : round(0.8 * small_video.RATE)] = 0
    path = small_video.write(tmp_path / "a.mp4", small_video.counted(25), 25, loud_at_the_end)
    part = VideoFile(str(path), 0.4, 0.4)
    assert len(part) == 10
    assert _numbers(part) == list(range(10, 20))
    assert _times(part)[0] == 0
    loud = _loudness(part.sound())
    assert len(loud) in (3, 4)
    assert loud[:3].max() < 0.05
    late = VideoFile(str(path), 0.72)
    assert _numbers(late) == list(range(18, 25))
    assert _loudness(late.sound())[1:].min() > 0.3


def test_frames_of_any_duration_keep_their_times_when_they_are_written_again(tmp_path: Path) -> None:
    times = [0, 40, 240, 250, 500, 900]
    path = small_video.write(tmp_path / "a.mp4", small_video.counted(6), 10, times=times)
    video = VideoFile(str(path))
    assert _times(video) == pytest.approx([time / 1000 for time in times], abs=1e-3)
    write_video(tmp_path / "b.mp4", ((frame.pixels, frame.pts) for frame in video.frames()), video)
    again = VideoFile(str(tmp_path / "b.mp4"))
    assert _times(again) == pytest.approx([time / 1000 for time in times], abs=1e-3)
    assert _numbers(again) == list(range(6))


def test_a_video_that_lies_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = 200  # upper left
    path = small_video.turned(small_video.write(tmp_path / "a.mp4", [pixels] * 3))
    frame = next(VideoFile(str(path)).frames())
    assert frame.pixels.shape == (64, 48, 3)
    bright = frame.pixels[:, :, 0] > 100
    assert bright[:30, 26:].all()  # upper right
    assert not bright[34:].any()
    assert not bright[:, :22].any()


@pytest.mark.parametrize("space", [{}, {"colorspace": 1, "color_primaries": 1, "color_trc": 1}])
def test_colors_and_their_names_survive_decoding_and_encoding(tmp_path: Path, space: dict[str, int]) -> None:
    columns = np.linspace(30, 220, 64).astype(np.uint8)
    pixels = np.stack([np.tile(columns, (48, 1)), np.tile(columns[::-1], (48, 1)), np.full((48, 64), 90)], 2)
    path = small_video.write(tmp_path / "a.mp4", [pixels.astype(np.uint8)] * 3, **space)
    video = VideoFile(str(path))
    assert video.colors == space
    first = next(video.frames()).pixels
    assert np.abs(first.astype(int) - pixels).mean() < 3
    write_video(tmp_path / "b.mp4", ((frame.pixels, frame.pts) for frame in video.frames()), video)
    again = VideoFile(str(tmp_path / "b.mp4"))
    assert again.colors == space
    assert np.abs(next(again.frames()).pixels.astype(int) - first).mean() < 2


def test_written_videos_have_rate_frames_and_sound_of_the_original(clip: Path, tmp_path: Path) -> None:
    video = VideoFile(str(clip))
    frames = ((frame.pixels, frame.pts) for frame in video.frames())
    write_video(tmp_path / "b.mp4", frames, video, video.sound())
    again = VideoFile(str(tmp_path / "b.mp4"))
    assert (len(again), again.rate) == (20, 25)
    assert _numbers(again) == list(range(20))
    assert _loudness(again.sound())[1:7] == pytest.approx([0.5 / 2**0.5] * 6, rel=0.05)


def test_a_rate_of_television_stays_exact(tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    path = small_video.write(tmp_path / "a.mp4", small_video.counted(12), rate)
    video = VideoFile(str(path))
    write_video(tmp_path / "b.mp4", ((frame.pixels, frame.pts) for frame in video.frames()), video)
    assert VideoFile(str(tmp_path / "b.mp4")).rate == video.rate == rate


def test_sound_without_pictures_and_what_is_no_video_are_one_message(tmp_path: Path) -> None:
    song = small_video.write(tmp_path / "a.mp4", [], sound=small_video.tone(0.3))
    with pytest.raises(VideoError, match="only sound"):
        VideoFile(str(song))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video " * 100)
    for name in ("empty.mp4", "text.mp4", "missing.mp4"):
        with pytest.raises(VideoError, match=f"'{name}' cannot be opened"):
            VideoFile(str(tmp_path / name))
    with pytest.raises(VideoError, match="cannot be opened"):
        VideoFile(io.BytesIO())


def test_damage_in_the_middle_loses_the_same_frames_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(30)]
    path = small_video.write(tmp_path / "a.mkv", noise, container="matroska", options={"g": "5"})
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    video = VideoFile(str(path))
    first, second = (list(video.frames()) for _ in range(2))
    assert 5 < len(first) <= 30
    assert len(first) == len(second) == len(video)
    assert all(np.array_equal(one.pixels, two.pixels) for one, two in zip(first, second, strict=True))
    cut = path.with_name("cut.mkv")
    cut.write_bytes(content[: len(content) // 3])
    assert 0 < len(list(VideoFile(str(cut)).frames())) < 30


def test_a_part_without_a_frame_is_one_message(clip: Path) -> None:
    with pytest.raises(VideoError, match="No frame of the video"):
        list(VideoFile(str(clip), 30.0).frames())


def test_what_no_file_can_hold_is_one_message_and_leaves_no_file(clip: Path, tmp_path: Path) -> None:
    video, path = VideoFile(str(clip)), tmp_path / "b.mp4"
    for sizes, message in (
        ([(48, 63)], "even sides, not 63x48"),
        ([(48, 64), (32, 64)], "changes from 64x48 to 64x32"),
        ([], "no frame to write"),
    ):
        frames = ((np.zeros((*size, 3), np.uint8), index) for index, size in enumerate(sizes))
        with pytest.raises(VideoError, match=message):
            write_video(path, frames, video)
        assert not path.exists()
    odd = Sound(np.zeros((2, 100), np.float32), 5000)
    with pytest.raises(VideoError, match="resample it"):
        write_video(path, [], video, odd)
