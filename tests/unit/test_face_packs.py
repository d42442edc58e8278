"""Face packs are read as they come: nested, in part, with files of other kinds beside the networks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from real_photos import pack_folder

from my3dgen_core.face import FaceModelError, FaceModels
from my3dgen_core.face.packs import read_pack

DETECTOR, LANDMARKS, RECOGNIZER = "scrfd_500m_bnkps.onnx", "2d106det.onnx", "w600k_mbf.onnx"


def _copy(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(pack_folder() / name, folder / name)
    return folder


def test_what_the_folder_itself_lacks_is_taken_from_those_in_it(tmp_path: Path) -> None:
    _copy(tmp_path, RECOGNIZER)
    _copy(tmp_path / "antelopev2" / "antelopev2", DETECTOR, LANDMARKS, RECOGNIZER)
    pack = read_pack(tmp_path)
    assert pack.files["recognition"] == tmp_path / RECOGNIZER
    assert pack.files["detection"] == tmp_path / "antelopev2" / "antelopev2" / DETECTOR
    assert pack.others == [RECOGNIZER]
    assert FaceModels.from_folder(tmp_path).has_landmarks


def test_hidden_files_are_no_networks(tmp_path: Path) -> None:
    _copy(tmp_path, DETECTOR)
    (tmp_path / f"._{DETECTOR}").write_bytes(b"\x00\x05\x16\x07" + bytes(4092))
    _copy(tmp_path / "__MACOSX", LANDMARKS)
    pack = read_pack(tmp_path)
    assert pack.files == {"detection": tmp_path / DETECTOR}
    assert pack.unreadable == []


def test_a_damaged_file_costs_its_own_network_only_and_is_named(tmp_path: Path) -> None:
    _copy(tmp_path, DETECTOR, LANDMARKS)
    (tmp_path / RECOGNIZER).write_bytes((pack_folder() / RECOGNIZER).read_bytes()[:100_000])
    models = FaceModels.from_folder(tmp_path, ["CPUExecutionProvider"])
    assert models.has_landmarks
    assert not models.has_recognition
    assert f"Not used: {RECOGNIZER} cannot be read" in models.describe()


def test_a_pack_without_a_detector_says_what_it_has(tmp_path: Path) -> None:
    _copy(tmp_path, RECOGNIZER)
    (tmp_path / DETECTOR).write_text("<html>")
    assert read_pack(tmp_path / "gone").describe() == "no .onnx files"
    with pytest.raises(FaceModelError) as caught:
        FaceModels.from_folder(tmp_path)
    for part in (f"recognition {RECOGNIZER}", f"{DETECTOR} cannot be read", "no face detector", "buffalo_l"):
        assert part in str(caught.value)
