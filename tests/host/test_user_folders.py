"""Files and folders of users that nodes offer and find: photos, models, face packs."""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from face_fixtures import portrait
from PIL import Image
from real_photos import pack_folder

pytestmark = pytest.mark.usefixtures("executor")
DETECTOR, RECOGNIZER = "scrfd_500m_bnkps.onnx", "w600k_mbf.onnx"


@pytest.fixture
def host(pack: ModuleType, folders: Path) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.host"]


def _face_pack(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        shutil.copyfile(pack_folder() / name, folder / name)
    return folder


def test_hidden_folders_are_not_offered(host: ModuleType, folders: Path) -> None:
    for name in ("anna/.thumbnails", "anna/2024", ".cache", "@eaDir/x", "__MACOSX"):
        (folders / "input" / name).mkdir(parents=True)
    (folders / "elsewhere" / "sub").mkdir(parents=True)
    (folders / "input" / "link").symlink_to(folders / "elsewhere")
    (folders / "elsewhere" / "loop").symlink_to(folders / "input")
    assert host.list_input_folders() == ["anna", "anna/2024", "link", "link/sub"]


def test_a_folder_is_read_again_only_when_it_has_changed(
    host: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from my3dgen_core.common import folders as module

    def old(path: Path) -> None:  # a change just now may be followed by another with the same time
        os.utime(path, ns=(time.time_ns(), time.time_ns() - 10 * 10**9))

    for name in ("a/b", "c"):
        (folders / "input" / name).mkdir(parents=True)
    for path in (folders / "input", *(folders / "input").rglob("*")):
        old(path)
    read, real = [], module.read_folder
    monkeypatch.setattr(module, "read_folder", lambda path: (read.append(Path(path).name), real(path))[1])
    assert host.list_input_folders() == ["a", "a/b", "c"]
    assert sorted(read) == ["a", "b", "c", "input"]
    read.clear()
    assert host.list_input_folders() == ["a", "a/b", "c"]
    assert read == []
    (folders / "input" / "c" / "new").mkdir()
    assert host.list_input_folders() == ["a", "a/b", "c", "c/new"]
    assert sorted(read) == ["c", "new"]


def test_models_and_latents_leave_out_hidden_files(pack: ModuleType, host: ModuleType, folders: Path) -> None:
    for place, name in (
        ("models/my3dgen/identities", "anna.safetensors"),
        ("models/my3dgen/directions", "smile.npy"),
        ("models/my3dgen/generators", "sub/g.PKL"),
        ("output/my3dgen/latents", "x.safetensors"),
    ):
        for file in (folders / place / name, (folders / place / name).with_name(f"._{Path(name).name}")):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    assert host.list_models("identities") == ["anna.safetensors"]
    assert host.list_models("directions") == ["smile.npy"]
    assert host.list_models("generators") == ["sub/g.PKL"]
    latents = sys.modules["my3dgen_pack.nodes.latent.latents"]
    assert latents.list_latents() == ["x.safetensors"]
    with pytest.raises(FileNotFoundError):
        latents.find_latents("._x.safetensors")


def test_names_of_a_workflow_from_another_system_are_found(
    pack: ModuleType, host: ModuleType, folders: Path, nodes: dict[str, Any]
) -> None:
    name = unicodedata.normalize("NFD", "Zoé")
    for path in (
        folders / "input" / name / "2024 ",
        folders / "models/my3dgen/identities" / name,
        folders / "output/my3dgen/latents" / name,
    ):
        path.mkdir(parents=True)
        (path / "x.safetensors").touch()
    assert host.find_input_folder("Zoé\\2024") == folders / "input" / name / "2024 "
    assert nodes["LoadPhotos"].VALIDATE_INPUTS("Zoé\\2024") is True
    assert host.find_model("identities", "Zoé\\x.safetensors").is_file()
    assert sys.modules["my3dgen_pack.nodes.latent.latents"].find_latents("Zoé\\x.safetensors").is_file()
    with pytest.raises(ValueError, match="not a folder inside"):
        host.find_input_folder("../models")


def test_of_two_roots_with_one_name_the_first_is_used(host: ModuleType, folders: Path) -> None:
    for place in ("models", "output"):
        (folders / place / "my3dgen" / "identities").mkdir(parents=True)
        (folders / place / "my3dgen" / "identities" / "anna.safetensors").touch()
    assert host.list_models("identities") == ["anna.safetensors"]
    assert host.find_model("identities", "anna.safetensors").is_relative_to(folders / "models")


def test_a_nested_pack_is_listed_by_its_outer_name_and_used(host: ModuleType, folders: Path) -> None:
    root = folders / "models" / "insightface" / "models"
    _face_pack(root / "antelopev2" / "antelopev2", DETECTOR)
    assert host.list_face_packs() == ["antelopev2"]
    assert host.find_face_pack("auto") == root / "antelopev2"


def test_an_archive_unpacked_without_a_folder_of_its_own_is_a_pack(host: ModuleType, folders: Path) -> None:
    root = _face_pack(folders / "models" / "insightface" / "models", DETECTOR)
    assert host.list_face_packs() == ["models"]
    assert host.find_face_pack("auto") == root


def test_auto_takes_the_first_pack_with_a_detector(host: ModuleType, folders: Path) -> None:
    root = folders / "models" / "insightface" / "models"
    _face_pack(root / "antelopev2", RECOGNIZER)
    (root / "aaa").mkdir()
    (root / "aaa" / "inswapper_128.onnx").write_bytes(b"no network")
    _face_pack(root / "buffalo_l", DETECTOR)
    assert host.list_face_packs() == ["aaa", "antelopev2", "buffalo_l"]
    assert host.find_face_pack("auto") == root / "buffalo_l"


def test_without_a_detector_the_message_says_what_each_folder_lacks(
    host: ModuleType, folders: Path, nodes: dict[str, Any]
) -> None:
    root = folders / "models" / "insightface" / "models"
    _face_pack(root / "antelopev2", RECOGNIZER)
    (root / "aaa").mkdir()
    (root / "aaa" / "inswapper_128.onnx").write_bytes(b"no network")
    message = nodes["AlignFaces"].VALIDATE_INPUTS(["auto"])
    for part in (
        "No face pack has a face detector",
        f"{root / 'antelopev2'} (recognition {RECOGNIZER}; no face detector)",
        f"{root / 'aaa'} (inswapper_128.onnx cannot be read",
    ):
        assert part in message
    assert str(root / "aaa") not in nodes["AlignFaces"].VALIDATE_INPUTS(["antelopev2"])


@pytest.mark.parametrize("key", ["insightface", "insightface_models"])
@pytest.mark.parametrize("level", ["", "models"])
def test_packs_are_found_through_extra_model_paths_in_every_spelling(
    host: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch, key: str, level: str
) -> None:
    extra = folders / "shared" / "insightface"
    _face_pack(extra / "models" / "antelopev2", DETECTOR)
    (folders / "models/insightface/models/antelopev2").mkdir(parents=True)  # empty: not this one
    comfy = SimpleNamespace(
        models_dir=str(folders / "models"),
        folder_names_and_paths={key: ([str(extra / level)], set())},
        get_folder_paths=lambda name: [str(extra / level)],
    )
    monkeypatch.setattr(host.comfyui, "folder_paths", comfy)
    assert host.list_face_packs() == ["antelopev2"]
    assert host.find_face_pack("antelopev2") == extra / "models" / "antelopev2"


def _photos(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (9, 9, 9)).save(folder / f"{number}.jpg")


def test_load_photos_names_what_it_leaves_out_once(folders: Path, nodes: dict[str, Any]) -> None:
    _photos(folders / "input" / "me", 3)
    for name, content in (("notes.txt", b"text"), ("bad.jpg", b"text"), ("raw.nef", b"MM\0*" + bytes(99))):
        (folders / "input" / "me" / name).write_bytes(content)
    cut = (folders / "input" / "me" / "2.jpg").read_bytes()[:-30]
    (folders / "input" / "me" / "2.jpg").write_bytes(cut)
    shown = nodes["LoadPhotos"].load("me", 50, 256)
    assert shown["result"][1] == ["0.jpg", "1.jpg", "2.jpg"]
    text = shown["ui"]["text"][0]
    assert text.startswith("3 photos from me, 0 MB of memory\n")
    for line in (
        "left out: bad.jpg cannot be read as a picture (unknown format).",
        "left out, not a picture: notes.txt",
        "left out, a camera raw file: export it as JPEG: raw.nef",
    ):
        assert line in text.splitlines()
    assert [text.count(name) for name in ("bad.jpg", "notes.txt", "raw.nef", "2.jpg is damaged")] == [1] * 4


@pytest.mark.parametrize("at_most", [1, 3])
def test_load_photos_says_how_many_it_has_scaled_down(
    folders: Path, nodes: dict[str, Any], at_most: int
) -> None:
    _photos(folders / "input" / "me", 3, (600, 400))
    text = nodes["LoadPhotos"].load("me", at_most, 256)["ui"]["text"][0]
    assert f"{at_most} scaled down to longest_side 256" in text


def test_much_memory_is_warned_of_before_the_photos_are_read(
    pack: ModuleType, host: ModuleType, folders: Path, nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from my3dgen_core.face import photos

    load = sys.modules["my3dgen_pack.nodes.person.load"]
    _photos(folders / "input" / "me", 5, (512, 512))  # 3 MB each
    monkeypatch.setattr(load, "MUCH_MEMORY", 12 << 20)
    monkeypatch.setattr(host, "memory", lambda: (64 << 30, 9 << 30))
    said: list[str] = []
    monkeypatch.setattr(host.log, "warning", said.append)
    real = photos.read_photos
    monkeypatch.setattr(photos, "read_photos", lambda files: (said.append("read"), real(files))[1])
    text = nodes["LoadPhotos"].load("me", 50, 512)["ui"]["text"][0]
    warning = "5 photos with longest_side 512 need 15 MB of memory. Lower at_most, or longest_side: 448 needs"
    assert said[0].startswith(warning)
    assert said[0].endswith("9.0 GB are free.")
    assert said[1:] == ["read"]
    assert said[0] in text
    assert "need" not in nodes["LoadPhotos"].load("me", 3, 512)["ui"]["text"][0]
    monkeypatch.setattr(host, "memory", lambda: (14 << 20, 9 << 20))
    with pytest.raises(ValueError, match=r"need 15 MB of memory.*This computer has 14 MB"):
        nodes["LoadPhotos"].load("me", 50, 512)


def _align(nodes: dict[str, Any], folder: Path, photo: np.ndarray, **changes: Any) -> Any:
    shutil.copytree(pack_folder(), folder / "models/insightface/models/testpack", dirs_exist_ok=True)
    given: dict[str, Any] = {"face_models": "auto", "which": "largest", "upright": True, "same_person": False}
    given |= {"drop_different": False} | changes
    image = torch.from_numpy(photo)[None].float() / 255
    lists = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    return nodes["AlignFaces"].align([image], **lists)["result"][3]


def _small(width: int, height: int, face: int) -> np.ndarray:
    """The portrait, its face so many pixels wide, in a photo of this size."""
    picture, wall = Image.fromarray(portrait()), np.full((height, width, 3), 125, np.uint8)
    scale = face / 116
    small = np.array(picture.resize((round(picture.width * scale), round(picture.height * scale))))
    wall[100 : 100 + small.shape[0], 100 : 100 + small.shape[1]] = small
    return wall


def test_a_small_face_in_a_photo_that_was_perhaps_scaled_down_names_the_setting(
    nodes: dict[str, Any], folders: Path
) -> None:
    assert "raise longest_side in Load Photo Folder" in _align(nodes, folders, _small(512, 400, 40))
    assert "longest_side" not in _align(nodes, folders, _small(500, 400, 40))  # no size of that setting
    assert "longest_side" not in _align(nodes, folders, _small(640, 600, 90))
    with pytest.raises(ValueError, match=r"No face was found\..* raise longest_side in Load Photo Folder"):
        _align(nodes, folders, np.zeros((900, 1024, 3), np.uint8))


def test_a_reference_without_a_face_sends_no_report_of_the_photos(
    host: ModuleType, nodes: dict[str, Any], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(host, "publish", lambda event, data: sent.append(data))
    with pytest.raises(ValueError, match="The reference shows no usable face"):
        _align(
            nodes,
            folders,
            portrait(),
            which="most like the reference",
            reference=[torch.zeros(1, 90, 90, 3)],
        )
    assert sent == []
