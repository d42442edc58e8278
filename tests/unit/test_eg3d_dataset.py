"""Folders of EG3D's preprocessing and of projectors: crops, cameras and latents are matched by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from micro import generator as micro_generator
from PIL import Image

from my3dgen_core import CheckpointError, look_at
from my3dgen_core.person.eg3d_dataset import read_anchors, read_dataset, read_labels, read_latent

CAMERAS = look_at(torch.tensor([0.0, 0.2, -0.3]), 0.1)
LATENT = np.ones((1, 14, 8), np.float32)


def save(file: Path, array: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, w=array) if file.suffix == ".npz" else np.save(file, array)


def crop(file: Path, shade: int = 90, size: tuple[int, int] = (64, 64)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(file)
    return file


def labels(folder: Path, names: list[str]) -> None:
    pairs = [[name, CAMERAS[place].tolist()] for place, name in enumerate(names)]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))


# --- Latents as projectors name them ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "00018.npy",
        "00018_w.npy",
        "00018_w_plus.npy",
        "00018_w/00018_w.npy",
        "00018_w_plus/00018_w_plus.npy",
        "w/00018_w.npy",
        "00018/projected_w.npz",
        "00018/latent.npy",
        "projected_w.npz",
        "00018_latents.npz",
    ],
)
@pytest.mark.parametrize("source", ["dataset.json", "camera of 25 numbers"])
def test_the_latent_of_a_projector_has_the_camera_of_its_photo(
    name: str, source: str, tmp_path: Path
) -> None:
    if source == "dataset.json":
        labels(tmp_path, ["00018.png"])
    else:
        save(tmp_path / ("00018.npy" if name != "00018.npy" else "cameras/00018.npy"), CAMERAS[0].numpy())
    save(tmp_path / name, LATENT)
    anchors = read_anchors(tmp_path)
    assert torch.equal(anchors.ws, torch.ones(1, 14, 8))
    assert torch.equal(anchors.cameras, CAMERAS[:1])


def test_of_two_latents_of_one_photo_the_one_in_w_is_taken(tmp_path: Path) -> None:
    save(tmp_path / "a_w/a_w.npy", LATENT)
    save(tmp_path / "a_w_plus/a_w_plus.npy", 2 * LATENT)
    save(tmp_path / "b_w_plus/b_w_plus.npy", 3 * LATENT)
    assert read_anchors(tmp_path).ws[:, 0, 0].tolist() == [1, 3]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", ["w.npy", "projected_w.npz"])
def test_latents_are_read_in_any_memory_and_byte_order(
    dtype: str, order: Any, name: str, tmp_path: Path
) -> None:
    values = np.arange(2 * 14 * 4).reshape(2, 14, 4)
    save(tmp_path / name, np.array(values, dtype=dtype, order=order))
    assert read_latent(tmp_path / name).tolist() == values.tolist()


def test_an_archive_with_several_arrays_needs_one_of_the_usual_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=LATENT, noise=np.zeros((3, 3)))
    assert read_latent(tmp_path / "a.npz").shape == (1, 14, 8)
    np.savez(tmp_path / "b.npz", x=LATENT, y=LATENT)
    with pytest.raises(CheckpointError, match=r"b\.npz holds 2 arrays \('x', 'y'\)"):
        read_latent(tmp_path / "b.npz")


def test_a_seed_or_names_beside_the_latents_in_an_archive_are_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", seed=np.array(3), names=np.array(["a"]), latent_of_anna=LATENT)
    assert torch.equal(read_latent(tmp_path / "a.npz"), torch.ones(1, 14, 8))


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("key", [None, "latents"])
def test_a_list_of_latents_is_all_of_them(kind: Any, key: str | None, tmp_path: Path) -> None:
    values = kind([torch.full((14, 8), 1.0), torch.full((1, 14, 8), 2.0), np.full((14, 8), 3, np.float32)])
    torch.save({key: values} if key else values, tmp_path / "a.pt")
    assert read_latent(tmp_path / "a.pt")[:, 0, 0].tolist() == [1, 2, 3]
    torch.save([torch.ones(14, 8), torch.ones(1, 8)], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt holds a list of latents of different shapes"):
        read_latent(tmp_path / "a.pt")


def test_a_list_of_vectors_is_not_guessed_to_be_layers_or_latents(tmp_path: Path) -> None:
    torch.save([torch.ones(8)] * 14, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"a\.pt holds a list of vectors.* one latent's layers or several"
    ):
        read_latent(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", [".pt", ".npz"])
@pytest.mark.parametrize(
    "names", [["b.png", "a.png"], ["b", "a"], ["x/b.jpg", "/data/a.jpg"], ["C:\\x\\b.png", "../a.png"]]
)
def test_latents_by_photo_have_the_cameras_of_their_photos(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    labels(tmp_path, ["a.png", "c.png", "b.png"])
    found = {name: (place + 1) * LATENT for place, name in enumerate(names)}
    if kind == ".npz":
        if names[1].startswith(("/", "..")):
            return  # no names in an archive
        np.savez(tmp_path / "all.npz", **found)
    else:
        torch.save({name: torch.from_numpy(value) for name, value in found.items()}, tmp_path / "all.pt")
    anchors = read_anchors(tmp_path)
    assert anchors.ws[:, 0, 0].tolist() == [1, 2]
    assert torch.equal(anchors.cameras, CAMERAS[[2, 0]])
    pictures = [crop(tmp_path / name) for name in ("a.png", "b.png")]
    (tmp_path / "other.pt").write_bytes(b"something else")
    dataset = read_dataset(tmp_path, pictures)
    assert dataset.latents is not None
    assert dataset.latents.ws[:, 0, 0].tolist() == [2, 1]


def test_latents_of_a_photo_without_a_camera_and_of_no_photo_are_named(tmp_path: Path) -> None:
    labels(tmp_path, ["a.png", "b.png"])
    torch.save({"a.png": torch.ones(14, 8), "c.png": torch.ones(14, 8)}, tmp_path / "all.pt")
    with pytest.raises(CheckpointError, match=r"has no camera for c\.png in all\.pt\."):
        read_anchors(tmp_path)
    torch.save([torch.ones(14, 8)] * 2, tmp_path / "all.pt")
    with pytest.raises(CheckpointError, match=r"no camera for all\.pt\. Save its 2 latents as a dictionary"):
        read_anchors(tmp_path)
    torch.save({"x": torch.ones(14, 8), "y": torch.ones(14, 8)}, tmp_path / "all.pt")
    with pytest.raises(CheckpointError, match=r"all\.pt holds a value of type dict, not one tensor"):
        read_anchors(tmp_path)


def test_hidden_and_system_files_are_not_read(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", LATENT)
    for name in ("._a.npy", ".cache/b.npy", "__MACOSX/a.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    assert len(read_anchors(tmp_path)) == 1
    crop(tmp_path / "a.png")
    (tmp_path / ".dataset.json").write_text("{")
    labels(tmp_path, ["a.png"])
    assert read_dataset(tmp_path, [tmp_path / "a.png"]).latents is not None


@pytest.mark.parametrize(
    ("photos", "files"),
    [
        (["0/a.png", "1/a.png"], ["0/a.npy", "1/a.npy"]),
        (["1/a.png", "0/a.png"], ["w/0/a_w.npy", "w/1/a_w.npy"]),
        (["images/1/a.png", "images/0/a.png"], ["latents/0/a_w/a_w.npy", "latents/1/a_w/a_w.npy"]),
        (["00000/img.png", "00001/img.png"], ["00000/w/img.npy", "00001/w/img.npy"]),
        (["a.png", "1/a.png"], ["1/a.npy", "a.npy"]),
        (["a.png", "a.jpg"], ["a.jpg.npy", "a.png.npy"]),
        (["0\\a.png", "1\\a.png"], ["0/a.npy", "1/a.npy"]),
    ],
)
def test_photos_of_one_name_are_told_apart_by_their_folders(
    photos: list[str], files: list[str], tmp_path: Path
) -> None:
    labels(tmp_path, photos)
    for file in files:
        save(tmp_path / file, LATENT)
    expected = [0, 1] if photos[0][0] == "0" else [1, 0]
    assert torch.equal(read_anchors(tmp_path).cameras, CAMERAS[expected])


@pytest.mark.parametrize("photos", [["0/a.png", "1/a.png"], ["a.png", "a.jpg"]])
def test_a_latent_that_may_be_of_several_photos_is_refused(photos: list[str], tmp_path: Path) -> None:
    labels(tmp_path, photos)
    save(tmp_path / "a_w.npy", LATENT)
    message = rf"cameras of several photos for a_w\.npy: '{photos[0]}', '{photos[1]}'"
    with pytest.raises(CheckpointError, match=message):
        read_anchors(tmp_path)


def test_a_latent_does_not_get_the_camera_of_a_photo_that_has_its_own_latent(tmp_path: Path) -> None:
    labels(tmp_path, ["1/a.png"])
    save(tmp_path / "1/a.npy", LATENT)
    save(tmp_path / "0/a.npy", LATENT)
    with pytest.raises(CheckpointError, match=r"dataset\.json has no camera for 0/a\.npy"):
        read_anchors(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pixels", r"in pixels \(focal length 2183\.53, center 256, 256\)"),
        ("zero", "not a rotation with a position"),
        ("mirrored", "not a rotation with a position"),
        ("OpenGL", "looks away from the head.*OpenGL"),
    ],
)
@pytest.mark.parametrize("source", ["dataset.json", "a.npy"])
def test_cameras_that_took_no_picture_are_refused(
    change: str, message: str, source: str, tmp_path: Path
) -> None:
    camera = CAMERAS[1].clone()
    if change == "pixels":
        camera[16:22] *= 512
    elif change == "zero":
        camera[:] = 0
    elif change == "mirrored":
        camera[[0, 4, 8]] *= -1
    else:
        camera[[1, 2, 5, 6, 9, 10]] *= -1
    if source == "a.npy":
        save(tmp_path / "cameras/a.npy", camera.numpy())
    else:
        (tmp_path / source).write_text(json.dumps({"labels": [["a.png", camera.tolist()]]}))
    save(tmp_path / "a.npy", LATENT)
    if (change, source) == ("zero", "a.npy"):  # a placeholder beside a latent, where no picture needs it
        assert not read_anchors(tmp_path).cameras.any()
    else:
        with pytest.raises(CheckpointError, match=f"camera of '(cameras/)?a' is none of EG3D's: .*{message}"):
            read_anchors(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        read_dataset(tmp_path, [crop(tmp_path / "a.png")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_are_read_with_and_without_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    text = json.dumps({"labels": [["é.png", CAMERAS[0].tolist()]]}, ensure_ascii=False)
    (tmp_path / "dataset.json").write_text(text, encoding=encoding)
    assert torch.equal(read_labels(tmp_path / "dataset.json")["é.png"], CAMERAS[0])


def test_the_other_camera_files_of_eg3d_are_told_by_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"a.png": {"pose": [[1.0] * 4] * 4, "intrinsics": [[1.0] * 3] * 3}}))
    with pytest.raises(CheckpointError, match=r"EG3D's cameras\.json.*Use the dataset\.json"):
        read_labels(path)
    with pytest.raises(CheckpointError, match=r"no cameras in .*cameras\.json.*Use the dataset\.json"):
        read_dataset(tmp_path, [crop(tmp_path / "a.png")])
    path.write_text('{"labels": null}')
    with pytest.raises(CheckpointError, match=r"no labels \(null\): it was made without cameras"):
        read_labels(path)


# --- The dataset ------------------------------------------------------------------------------------------


def test_crops_cameras_and_latents_come_in_one_order(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / f"00000/img{place}.png") for place in (2, 0, 1)]
    labels(tmp_path, [f"00000/img{place}.jpg" for place in range(3)])
    for place in range(3):
        save(tmp_path / f"w/img{place}_w.npy", place * LATENT)
    found = read_dataset(tmp_path, pictures, num_ws=14)
    assert found.names == ("00000/img2.png", "00000/img0.png", "00000/img1.png")
    assert torch.equal(found.cameras, CAMERAS[[2, 0, 1]])
    assert found.latents is not None
    assert found.latents.ws[:, 0, 0].tolist() == [2, 0, 1]
    assert torch.equal(found.latents.cameras, found.cameras)
    assert found.notes == ()


def test_what_is_left_out_is_named_once_with_its_reason(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / name) for name in ("a.png", "a_mirror.png", "b.png", "b_w.png", "c.png")]
    labels(tmp_path, ["a.png", "b.png", "c.png"])
    save(tmp_path / "a_w.npy", LATENT)
    found = read_dataset(tmp_path, pictures, at_most=2)
    assert found.names == ("a.png", "b.png")
    assert found.latents is None
    assert found.notes == (
        "1 mirrored copies were left out.",
        "1 pictures without a camera were left out: 'b_w.png'.",
        "1 more were left out: at_most is 2.",
        "There are no latents for 1 of 2 crops: 'b'.",
    )


def test_mirrored_copies_have_their_own_cameras_if_they_are_wanted(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / name) for name in ("a.png", "a_mirror.png")]
    labels(tmp_path, ["a.png", "a_mirror.png"])
    assert read_dataset(tmp_path, pictures).names == ("a.png",)
    assert torch.equal(read_dataset(tmp_path, pictures, mirrored=True).cameras, CAMERAS[:2])


def test_pictures_of_one_name_in_two_folders_keep_their_own_cameras(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / name / "a.png") for name in ("one", "two")]
    labels(tmp_path, ["two/a.png", "one/a.png"])
    assert torch.equal(read_dataset(tmp_path, pictures).cameras, CAMERAS[[1, 0]])


def test_pictures_and_latents_of_one_name_in_several_folders_stay_together(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / name) for name in ("0/a.png", "1/a.png", "b.jpg", "b.png")]
    labels(tmp_path, ["1/a.png", "0/a.png", "b.png"])
    save(tmp_path / "w/0/a_w.npy", LATENT)
    save(tmp_path / "w/1/a_w.npy", 2 * LATENT)
    save(tmp_path / "w/b_w.npy", 3 * LATENT)
    found = read_dataset(tmp_path, pictures)
    assert found.names == ("0/a.png", "1/a.png", "b.png")
    assert torch.equal(found.cameras, CAMERAS[[1, 0, 2]])
    assert found.latents is not None
    assert found.latents.ws[:, 0, 0].tolist() == [1, 2, 3]
    assert found.notes == ("1 pictures without a camera were left out: 'b.jpg'.",)


def test_a_crop_does_not_get_the_latent_of_a_photo_of_its_name_that_is_left_out(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / name) for name in ("0/a.png", "1/a.png")]
    labels(tmp_path, ["0/a.png", "1/a.png"])
    save(tmp_path / "1/a.npy", LATENT)
    found = read_dataset(tmp_path, pictures, at_most=1)
    assert found.names == ("0/a.png",)
    assert found.latents is None
    assert found.notes[-1] == "There are no latents for 1 of 1 crops: '0/a'."


def test_the_only_crop_has_the_latent_whose_name_says_nothing(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / "a.png")]
    labels(tmp_path, ["a.png", "a_mirror.png"])
    save(tmp_path / "projected_w.npz", LATENT)
    assert read_dataset(tmp_path, pictures).latents is not None


def test_a_picture_whose_name_several_cameras_have_is_left_out_and_named(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / name) for name in ("x/a.png", "b.png")]
    labels(tmp_path, ["0/a.png", "1/a.png", "b.png"])
    found = read_dataset(tmp_path, pictures)
    assert found.names == ("b.png",)
    assert found.notes == ("1 pictures were left out because several cameras have their name: 'x/a.png'.",)


def test_a_folder_without_cameras_or_with_those_of_other_pictures_says_so(tmp_path: Path) -> None:
    pictures = [crop(tmp_path / "a.png")]
    with pytest.raises(
        CheckpointError, match=r"neither a dataset\.json of EG3D nor \.npy files of 25 numbers"
    ):
        read_dataset(tmp_path, pictures)
    labels(tmp_path, ["b.png"])
    with pytest.raises(CheckpointError, match=r"cameras for 'b', pictures 'a\.png'"):
        read_dataset(tmp_path, pictures)
    save(tmp_path / "a.npy", np.zeros(25))
    with pytest.raises(CheckpointError, match="camera of 'a' is none of EG3D's"):
        read_dataset(tmp_path, pictures)


# --- The node ---------------------------------------------------------------------------------------------


@pytest.fixture
def load(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    host = sys.modules["my3dgen_pack.nodes.host"]
    monkeypatch.setattr(host, "blocked", lambda message: f"blocked: {message}")
    return pack.NODE_CLASS_MAPPINGS["My3DGenLoadEG3DDataset"]().load


def test_the_node_gives_crops_cameras_names_and_latents(load: Any, pack: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "input/anna"
    for place, name in enumerate(("a", "b", "c")):
        crop(folder / f"{name}.png", shade=51 * place, size=(64, 64) if name != "b" else (128, 128))
        save(folder / f"{name}.npy", CAMERAS[place].numpy())
        save(folder / f"w/{name}_w.npy", np.full((1, 32), place, np.float32))
    (folder / "c.png").write_bytes(b"no picture")
    sockets, host = (sys.modules[f"my3dgen_pack.nodes.{name}"] for name in ("socket_types", "host"))
    model = sockets.Model(host.manage(micro_generator(0)), "tiny")
    with torch.inference_mode():
        shown = load("anna", 50, model=model)
    images, cameras, names, latents = shown["result"]
    assert images.shape == (2, 64, 64, 3)
    assert images[:, 0, 0, 0].tolist() == pytest.approx([0, 0.2])
    assert torch.equal(cameras.values, CAMERAS[:2])
    assert names == ["a.png", "b.png"]
    assert latents.ws.shape == (2, model.generator.num_ws, 32)
    assert latents.ws[:, -1, 0].tolist() == [0, 1]
    (text,) = shown["ui"]["text"]
    assert text.startswith("2 crops with cameras from anna\nskipped: ")
    assert "c.png" in text


def test_without_fitting_latents_the_node_gives_the_rest_and_says_why(load: Any, tmp_path: Path) -> None:
    crop(tmp_path / "input/anna/a.png")
    labels(tmp_path / "input/anna", ["a.png"])
    assert (
        load("anna", 50)["result"][3]
        == "blocked: There are no latents in 'anna'. Use Invert Photos to make them."
    )
    save(tmp_path / "input/anna/a_w.npy", np.ones((1, 32), np.float32))
    images, _, _, latents = load("anna", 50)["result"]
    assert len(images) == 1
    assert latents.startswith("blocked: The latents are one w for each crop: connect the model")
    sockets, host = (sys.modules[f"my3dgen_pack.nodes.{name}"] for name in ("socket_types", "host"))
    wider = sockets.Model(host.manage(micro_generator(0, w_dim=16)), "tiny")
    assert "layers of 32 numbers, but the model's have" in load("anna", 50, model=wider)["result"][3]


def test_pictures_that_are_no_crops_are_named(load: Any, tmp_path: Path) -> None:
    crop(tmp_path / "input/anna/a.png", size=(80, 64))
    labels(tmp_path / "input/anna", ["a.png"])
    with pytest.raises(ValueError, match=r"a\.png is 80x64: EG3D's crops are square"):
        load("anna", 50)


def test_a_changed_file_makes_the_node_run_again(pack: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    crop(tmp_path / "input/anna/a.png")
    labels(tmp_path / "input/anna", ["a.png"])
    changed = pack.NODE_CLASS_MAPPINGS["My3DGenLoadEG3DDataset"].IS_CHANGED
    first = changed(folder="anna", at_most=3, mirrored=False)
    assert changed(folder="anna", at_most=3, mirrored=False) == first
    labels(tmp_path / "input/anna", ["a.png", "b.png"])
    assert changed(folder="anna", at_most=3, mirrored=False) != first
