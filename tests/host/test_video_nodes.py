"""Videos through Align Faces and Paste Back, as ComfyUI's executor calls them and in a real server."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy
import numpy as np
import pytest
import small_video
import torch
from face_fixtures import portrait
from prompts import Prompt, node
from real_photos import pack_folder

from my3dgen_core.formats.video_file import VideoFile

COUNT, RATE = 8, Fraction(24)


def _frames(count: int = COUNT) -> list[np.ndarray]:
    """The portrait moving to the right by two pixels a frame, with even sides."""
    picture = portrait()[:456, :454]
    return [np.roll(picture, 2 * index, axis=1) for index in range(count)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return small_video.write(path, _frames(), RATE, small_video.tone(COUNT / 24))


class _Video:
    """A VIDEO of ComfyUI, as far as nodes use it."""

    def __init__(self, path: Path, window: tuple[float, float] = (0.0, 0.0)) -> None:
        self._path, self._window = path, window

    def get_stream_source(self) -> str:
        return str(self._path)

    def get_active_trim_window(self) -> tuple[float, float]:
        return self._window


@pytest.fixture
def align(nodes: dict[str, Any], folders: Path, executor: None) -> Any:
    """Align Faces with the test pack."""
    packs = folders / "models" / "insightface" / "models"
    packs.mkdir(parents=True)
    shutil.copytree(pack_folder(), packs / "pack")

    def run(**inputs: Any) -> dict[str, Any]:
        settings = {"face_models": ["auto"], "which": ["largest"], "upright": [True]}
        flags = {"same_person": [False], "drop_different": [False]}
        return nodes["AlignFaces"].align(**settings, **flags, **inputs)

    return run


def _blank(crops: Any) -> list[torch.Tensor]:
    """A green face for each crop, without memory of its own."""
    return [torch.tensor([0.0, 1.0, 0.0]).expand(len(crops), 64, 64, 3)]


def test_every_frame_of_a_sequence_is_cut_and_pasted_into_a_video_of_the_same_rate_and_sound(
    align: Any, nodes: dict[str, Any], clip: Path
) -> None:
    found = align(video=[_Video(clip)], sequence=[True])
    images, cameras, masks, report, _, crops, heads, photo_masks = found["result"]
    assert images.shape == (COUNT, 512, 512, 3)
    assert masks.shape == heads.shape == photo_masks.shape == (COUNT, 512, 512)
    assert len(cameras) == COUNT
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert crops.photos == tuple(range(COUNT))
    assert "frame 8" in report
    assert len(found["ui"]["my3dgen_photos"]) == COUNT
    points = found["ui"]["my3dgen_photos"][0]["points"]
    assert all(0 < value < 1 for point in points for value in point)

    frames = torch.from_numpy(np.stack(_frames())).float() / 255
    same = align(photos=[frames], sequence=[True])["result"]
    assert float((same[0] - images).abs().mean()) < 0.02  # the video is compressed
    assert float((same[1].values - cameras.values).abs().max()) < 0.05

    pasted, text, video, fps, audio = nodes["PasteBack"].paste(None, [crops], _blank(crops), [24.0])
    assert text == "8 of 8 frames have a new face."
    assert fps == 24.0
    assert audio["sample_rate"] == small_video.RATE
    assert audio["waveform"].shape[:2] == (1, 2)
    assert pasted[0].shape == (COUNT, 456, 454, 3)
    written = VideoFile(video.get_stream_source())
    assert (len(written), written.rate) == (COUNT, RATE)
    sound = written.sound()
    assert sound is not None
    assert sound.samples.shape[1] / sound.rate == pytest.approx(COUNT / 24, abs=0.05)
    for index, frame in enumerate(written.frames()):
        shown = frame.pixels.astype(int)
        assert np.abs(shown / 255 - pasted[0][index].numpy()).mean() < 0.02
        center = crops.transforms[index].to_photo(np.array([256.0, 256.0])).astype(int)
        assert shown[center[1], center[0]] == pytest.approx([0, 255, 0], abs=12)
        assert np.abs(shown[:20, :20] - _frames()[index][:20, :20]).mean() < 6


def test_frames_given_as_pictures_take_the_rate_and_sound_of_the_video(
    align: Any, nodes: dict[str, Any], clip: Path
) -> None:
    crops = align(video=[_Video(clip)], sequence=[True])["result"][5]
    frames = torch.from_numpy(np.stack(_frames())).float() / 255
    pasted, _, video, fps, audio = nodes["PasteBack"].paste([frames], [crops], _blank(crops), [24.0])
    written = VideoFile(video.get_stream_source())
    assert (len(written), written.rate, fps) == (COUNT, RATE, 24.0)
    assert audio is not None
    assert pasted[0].shape == (COUNT, 456, 454, 3)


def test_without_sequence_frames_are_chosen_as_photos_and_can_be_pasted_alone(
    align: Any, nodes: dict[str, Any], tmp_path: Path
) -> None:
    picture = _frames(1)[0]
    views = [
        picture,
        picture,
        picture[:, ::-1].copy(),
        np.zeros_like(picture),
        (picture * 0.6).astype(np.uint8),
    ]
    path = small_video.write(tmp_path / "b.mp4", views, 5)
    images, cameras, _, report, _, crops, *_ = align(video=[_Video(path)], at_most=[2])["result"]
    assert len(images) == len(cameras) == len(crops) == 2
    assert "2 of 5 frames were chosen." in report
    assert crops.photos == (0, 1)
    assert set(crops.source.chosen) < {0, 1, 2, 4}
    pasted, text, video, fps, _ = nodes["PasteBack"].paste(None, [crops], _blank(crops), [24.0])
    assert text == "2 of 2 frames have a new face."
    assert pasted[0].shape == (2, 456, 454, 3)
    assert video is None
    assert fps is None


def test_a_trimmed_video_gives_its_part(align: Any, clip: Path) -> None:
    found = align(video=[_Video(clip, (2 / 24, 3 / 24))], sequence=[True])["result"]
    assert len(found[0]) == 3
    assert float((torch.diff(torch.tensor([t.inverse[0, 2] for t in found[5].transforms]))).mean()) > 1


def test_a_video_in_memory_is_read_without_loss(
    align: Any, nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, pack: ModuleType
) -> None:
    frames = torch.from_numpy(np.stack(_frames(3))).float() / 255
    audio = {"waveform": torch.from_numpy(small_video.tone(0.5, 1))[None], "sample_rate": small_video.RATE}
    held = SimpleNamespace(images=frames, audio=audio, frame_rate=Fraction(6))
    monkeypatch.setattr(pack.nodes.host, "held_video", lambda video: held)
    found = align(video=[object()], sequence=[True])["result"]
    same = align(photos=[frames], sequence=[True])["result"]
    assert torch.allclose(found[0], same[0], atol=1e-6)
    _, _, video, fps, sound = nodes["PasteBack"].paste(None, [found[5]], _blank(found[5]), [24.0])
    assert fps == 6.0
    assert sound["waveform"].shape == audio["waveform"].shape
    assert VideoFile(video.get_stream_source()).rate == 6


def test_photos_and_a_video_or_neither_and_masks_on_a_video_are_one_message(align: Any, clip: Path) -> None:
    photos = [torch.from_numpy(portrait())[None].float() / 255]
    with pytest.raises(ValueError, match="disconnect photos or video"):
        align(photos=photos, video=[_Video(clip)])
    with pytest.raises(ValueError, match="Connect photos, or a video"):
        align()
    with pytest.raises(ValueError, match="disconnect masks"):
        align(video=[_Video(clip)], masks=[torch.ones(1, 8, 8)])
    with pytest.raises(ValueError, match="got 2 videos"):
        align(video=[_Video(clip)] * 2)
    with pytest.raises(ValueError, match="must be a VIDEO, but got Tensor"):
        align(video=photos)


def test_sound_alone_an_empty_file_and_no_face_are_one_message(align: Any, tmp_path: Path) -> None:
    song = small_video.write(tmp_path / "song.mp4", [], sound=small_video.tone(0.3))
    (tmp_path / "empty.mp4").touch()
    walls = small_video.write(tmp_path / "walls.mp4", small_video.counted(3))
    for sequence in ([True], [False]):
        with pytest.raises(ValueError, match="only sound"):
            align(video=[_Video(song)], sequence=sequence)
        with pytest.raises(ValueError, match=r"'empty\.mp4' cannot be opened"):
            align(video=[_Video(tmp_path / "empty.mp4")], sequence=sequence)
        with pytest.raises(ValueError, match=r"0 of 3 frames can be used\. frame 1: No face"):
            align(video=[_Video(walls)], sequence=sequence)


def test_paste_back_says_what_is_missing(
    align: Any, nodes: dict[str, Any], sockets: ModuleType, clip: Path
) -> None:
    crops = align(video=[_Video(clip)], sequence=[True])["result"][5]
    paste = nodes["PasteBack"].paste
    with pytest.raises(ValueError, match="7 new faces for 8 crops"):
        paste(None, [crops], [torch.zeros(7, 64, 64, 3)], [24.0])
    of_photos = sockets.Crops(crops.transforms, crops.photos, COUNT)
    with pytest.raises(ValueError, match="Connect photos"):
        paste(None, [of_photos], _blank(crops), [24.0])


def test_frames_too_large_for_memory_are_only_given_as_video(
    align: Any, nodes: dict[str, Any], clip: Path, pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = align(video=[_Video(clip)], sequence=[True])["result"][5]
    monkeypatch.setattr(pack.nodes.output.paste, "MOST_BYTES", 1 << 20)
    pasted, text, video, *_ = nodes["PasteBack"].paste(None, [crops], _blank(crops), [24.0])
    assert pasted == [None]
    assert "Use the output video" in text
    assert len(VideoFile(video.get_stream_source())) == COUNT


def _prompt(file: str) -> Prompt:
    return {
        "clip": {"class_type": "LoadVideo", "inputs": {"file": file}},
        "align": node(
            "AlignFaces",
            video=["clip", 0],
            face_models="auto",
            which="largest",
            upright=True,
            same_person=False,
            drop_different=False,
            sequence=True,
        ),
        "paste": node("PasteBack", crops=["align", 5], images=["align", 0], feather=24.0),
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["paste", 2], "filename_prefix": "pasted", "format": "auto", "codec": "auto"},
        },
        "make": {
            "class_type": "CreateVideo",
            "inputs": {"images": ["paste", 0], "fps": ["paste", 3], "audio": ["paste", 4]},
        },
        "save made": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["make", 0], "filename_prefix": "made", "format": "auto", "codec": "auto"},
        },
    }


def test_a_video_goes_through_a_real_server_with_its_frames_rate_and_sound(
    server: comfy.Server, clip: Path
) -> None:
    shutil.copy(clip, server.base / "input" / "clip.mp4")
    result = server.run(_prompt("clip.mp4"))
    assert (result.status, result.error) == ("success", "")
    originals = _frames()
    for name in ("pasted", "made"):
        (file,) = (server.base / "output").glob(f"{name}_*.mp4")
        video = VideoFile(str(file))
        assert (len(video), video.rate) == (COUNT, RATE)
        sound = video.sound()
        assert sound is not None
        assert sound.rate == small_video.RATE
        assert sound.samples.shape[1] / sound.rate == pytest.approx(COUNT / 24, abs=0.05)
        assert float(np.sqrt((sound.samples[0, 4800:9600] ** 2).mean())) == pytest.approx(0.354, rel=0.05)
        for frame, original in zip(video.frames(), originals, strict=True):
            assert np.abs(frame.pixels.astype(int) - original).mean() < 6


def test_the_server_says_what_is_wrong_with_a_video(server: comfy.Server) -> None:
    small_video.write(server.base / "input" / "song.mp4", [], sound=small_video.tone(0.3))
    result = server.run(_prompt("song.mp4"))
    assert "only sound" in result.error
    both = _prompt("song.mp4")
    both["photo"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
    }
    both["align"]["inputs"]["photos"] = ["photo", 0]
    assert "disconnect photos or video" in server.run(both).error
