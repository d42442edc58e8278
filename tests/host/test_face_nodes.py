"""The nodes around a face: cameras from numbers, crops cut out and pasted back, folders of photos."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from face_fixtures import portrait
from face_parser import dark_is_background, is_light, pack_with_parser
from real_photos import wheel

from my3dgen_core import look_at
from my3dgen_core.camera import angles, cam2world, intrinsics
from my3dgen_core.face import CropTransform, MediaPipeModels
from my3dgen_core.face.crop import warp_crop

pytestmark = pytest.mark.usefixtures("executor")


def _camera(nodes: dict[str, Any], *numbers: float) -> torch.Tensor:
    return nodes["Camera"].make(*numbers)[0].values


def test_the_default_camera_is_the_frontal_one_of_eg3d(nodes: dict[str, Any]) -> None:
    fields = nodes["Camera"].INPUT_TYPES()["required"]
    defaults = [options["default"] for _, options in fields.values()]
    assert torch.equal(_camera(nodes, *defaults), look_at(0.0, 0.0))


def test_a_camera_is_where_its_numbers_say(nodes: dict[str, Any]) -> None:
    camera = _camera(nodes, 30.0, -10.0, 5.0, 3.0, 90.0)
    assert [math.degrees(float(a)) for a in angles(camera)] == pytest.approx([30, -10, 5], abs=1e-3)
    assert float(cam2world(camera)[0, :3, 3].norm()) == pytest.approx(3.0, abs=1e-5)
    assert float(intrinsics(camera)[0, 0, 0]) == pytest.approx(0.5, abs=1e-6)


def test_keyframes_are_read_from_the_text(nodes: dict[str, Any]) -> None:
    make = nodes["CameraPath"].make
    path = make("keyframes", 3, 0.0, 0.0, 0.0, keyframes="-30 0, 0 12.5 ,30 -5,")[0].values
    yaw, pitch, _ = (torch.rad2deg(a).tolist() for a in angles(path))
    assert yaw == pytest.approx([-30, 0, 30], abs=1e-3)
    assert pitch == pytest.approx([0, 12.5, -5], abs=1e-3)
    for text in ("", "1", "1 2 3", "a b", "200 0", "0 nan", "0 90", "0 0," * 101):
        with pytest.raises(ValueError, match=r"keyframe"):
            make("keyframes", 3, 0.0, 0.0, 0.0, keyframes=text)


def _load3d(x: float, y: float, z: float, zoom: float = 1) -> dict[str, Any]:
    target = {"x": 1.0, "y": 2.0, "z": -1.0}
    position = {"x": 1.0 + x, "y": 2.0 + y, "z": -1.0 + z}
    return {"position": position, "target": target, "zoom": zoom, "cameraType": "perspective"}


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (40, 0), (-30, 20), (120, -15)])
def test_the_3d_viewers_camera_looks_from_the_same_side(
    nodes: dict[str, Any], yaw: float, pitch: float
) -> None:
    a, b = math.radians(yaw), math.radians(pitch)
    info = _load3d(7 * math.sin(a) * math.cos(b), 7 * math.sin(b), 7 * math.cos(a) * math.cos(b))
    (cameras,) = nodes["CameraFromLoad3D"].make(info, 2.7, 13.3738)
    assert torch.allclose(cameras.values, look_at(a, b), atol=1e-5)


def test_zoom_in_the_3d_viewer_narrows_the_view(nodes: dict[str, Any]) -> None:
    (plain,) = nodes["CameraFromLoad3D"].make(_load3d(0, 0, 5), 2.7, 13.3738)
    (zoomed,) = nodes["CameraFromLoad3D"].make(_load3d(0, 0, 5, 2), 2.7, 13.3738)
    ratio = intrinsics(zoomed.values)[0, 0, 0] / intrinsics(plain.values)[0, 0, 0]
    assert float(ratio) == pytest.approx(2)
    (above,) = nodes["CameraFromLoad3D"].make(_load3d(0, 5, 0), 2.7, 13.3738)
    assert bool(torch.isfinite(above.values).all())


@pytest.mark.parametrize("info", [None, {}, "", {"position": 3, "target": 4}, _load3d(0, 0, 0)])
def test_what_is_no_camera_of_the_3d_viewer_is_one_message(nodes: dict[str, Any], info: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)move the view"):
        nodes["CameraFromLoad3D"].make(info, 2.7, 13.3738)


def _photo(height: int, width: int, seed: int) -> torch.Tensor:
    """IMAGE [1,H,W,3] of smooth colors."""
    small = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=True)
    return large.permute(0, 2, 3, 1).clamp(0, 1).contiguous()


def _cut(photo: torch.Tensor, zoom: float) -> tuple[CropTransform, torch.Tensor]:
    height, width = photo.shape[1:3]
    matrix = np.array([[zoom, 0, 256 - zoom * width / 2], [0, zoom, 256 - zoom * height / 2]])
    transform = CropTransform(matrix, (height, width))
    crop = warp_crop(photo[0].numpy(), transform)[0]
    return transform, ((crop + 1) / 2).permute(1, 2, 0)[None]


@pytest.fixture
def cut_photos(sockets: ModuleType) -> tuple[list[torch.Tensor], Any, list[torch.Tensor]]:
    """Three photos of differing size, the crops of the first and the last, and those crops."""
    photos = [_photo(240, 200, 0), _photo(100, 100, 1), _photo(180, 260, 2)]
    cuts = [_cut(photos[0], 3.0), _cut(photos[2], 4.0)]
    crops = sockets.Crops(tuple(transform for transform, _ in cuts), (0, 2), 3)
    return photos, crops, [torch.cat([crop for _, crop in cuts])]


def test_crops_pasted_back_unchanged_give_all_photos_those_without_a_crop_to_the_bit(
    nodes: dict[str, Any], cut_photos: tuple[list[torch.Tensor], Any, list[torch.Tensor]]
) -> None:
    photos, crops, images = cut_photos
    pasted, report, *_ = nodes["PasteBack"].paste(photos, [crops], images, [24.0])
    assert [p.shape for p in pasted] == [p.shape for p in photos]
    for new, old in zip(pasted, photos, strict=True):
        assert float((new - old).abs().max()) < 0.02
    assert torch.equal(pasted[1], photos[1])
    assert report.splitlines() == [
        "2 of 3 photos have a new face.",
        "Unchanged, because Align Faces gave no crop of them: 2.",
    ]


@pytest.mark.parametrize("kept", [(0, 1, 2, 8, 9), (4,), tuple(range(10))])
def test_a_clip_keeps_its_frames_whichever_of_them_have_a_face(
    nodes: dict[str, Any], sockets: ModuleType, kept: tuple[int, ...]
) -> None:
    clip = torch.cat([_photo(60, 80, seed) for seed in range(10)])
    transform, _ = _cut(clip[:1], 6.0)
    crops = sockets.Crops((transform,) * len(kept), kept, 10)
    faces = torch.ones(len(kept), 64, 64, 3)
    (pasted,), report, *_ = nodes["PasteBack"].paste([clip], [crops], [faces], [24.0])
    assert pasted.shape == clip.shape
    changed = [index for index in range(10) if not torch.equal(pasted[index], clip[index])]
    assert changed == list(kept)
    assert all(float(pasted[index, 30, 40].min()) == 1 for index in kept)
    assert report.startswith(f"{len(kept)} of 10 photos have a new face.")
    if kept == (0, 1, 2, 8, 9):
        assert report.endswith("of them: 4 to 8.")


def test_several_pictures_of_an_odd_size_are_cut_to_even_sides_unless_one_wants_them_whole(
    nodes: dict[str, Any], sockets: ModuleType
) -> None:
    photo = _photo(61, 83, 0)
    transform, crop = _cut(photo, 6.0)
    crops, clip = sockets.Crops((transform,), (0,), 1), [crop.expand(3, -1, -1, -1)]
    paste = nodes["PasteBack"].paste
    (whole,), *_ = paste([photo], [crops], clip, [24.0], even_sides=[False])
    assert whole.shape == (3, 61, 83, 3)
    (even,), report, *_ = paste([photo], [crops], clip, [24.0])
    assert torch.equal(even, whole[:, :60, :82])
    assert "Cut to 82x60 pixels" in report
    (single,), report, *_ = paste([photo], [crops], [crop], [24.0])
    assert single.shape == (1, 61, 83, 3)
    assert "Cut" not in report


def test_pasting_leaves_its_inputs_alone_and_takes_masks(
    nodes: dict[str, Any], cut_photos: tuple[list[torch.Tensor], Any, list[torch.Tensor]]
) -> None:
    photos, crops, images = cut_photos
    before = [photo.clone() for photo in photos]
    white = [torch.ones_like(images[0])]
    pasted, *_ = nodes["PasteBack"].paste(photos, [crops], white, [24.0], [torch.zeros(1, 32, 32)])
    assert torch.equal(pasted[0], photos[0])
    pasted, *_ = nodes["PasteBack"].paste(photos, [crops], white, [24.0], [torch.ones(2, 64, 64)])
    assert float(pasted[2][0, 90, 130].min()) == 1
    assert all(torch.equal(one, other) for one, other in zip(before, photos, strict=True))


def test_transparent_pixels_of_a_new_face_are_not_pasted(
    nodes: dict[str, Any], cut_photos: tuple[list[torch.Tensor], Any, list[torch.Tensor]]
) -> None:
    photos, crops, images = cut_photos
    faces = torch.cat([torch.zeros_like(images[0]), torch.zeros_like(images[0][..., :1])], 3)
    pasted, *_ = nodes["PasteBack"].paste(photos, [crops], [faces], [24.0])
    assert torch.equal(pasted[0], photos[0])
    faces[:, 156:356, 156:356, 3] = 1
    for masks in (None, [torch.ones(1, 32, 32)]):
        pasted, *_ = nodes["PasteBack"].paste(photos, [crops], [faces], [0.0], masks)
        assert float(pasted[0][0, 120, 100].max()) < 1e-6
        assert torch.equal(pasted[0][0, 120, 150], photos[0][0, 120, 150])


def test_one_photo_takes_a_whole_clip_of_its_crop(nodes: dict[str, Any], sockets: ModuleType) -> None:
    photo = _photo(240, 200, 0)
    transform, crop = _cut(photo, 3.0)
    crops = sockets.Crops((transform,), (0,), 1)
    pasted, *_ = nodes["PasteBack"].paste([photo], [crops], [crop.expand(5, -1, -1, -1)], [24.0])
    assert [tuple(p.shape) for p in pasted] == [(5, 240, 200, 3)]


def test_photos_and_crops_that_do_not_belong_together_are_one_message(
    nodes: dict[str, Any], cut_photos: tuple[list[torch.Tensor], Any, list[torch.Tensor]]
) -> None:
    photos, crops, images = cut_photos
    paste = nodes["PasteBack"].paste
    with pytest.raises(ValueError, match="1 new faces for 2 crops"):
        paste(photos, [crops], [images[0][:1]], [24.0])
    with pytest.raises(ValueError, match="got 4 photos, but Align Faces saw 3"):
        paste([*photos, photos[0]], [crops], images, [24.0])
    with pytest.raises(ValueError, match="other proportions"):
        paste(photos[::-1], [crops], images, [24.0])
    with pytest.raises(ValueError, match="3 masks for 2 pictures"):
        paste(photos, [crops], images, [24.0], [torch.ones(3, 8, 8)])


def test_align_faces_hands_out_what_is_new_last(nodes: dict[str, Any]) -> None:
    """Workflows are wired by the number of an output, and keep their settings by position."""
    node = nodes["AlignFaces"]
    first = ("images", "cameras", "masks", "report", "overview", "crops", "heads")
    assert (*first, "photo_masks") == node.RETURN_NAMES
    assert node.RETURN_TYPES[-3:] == ("EG3D_CROP", "MASK", "MASK")
    assert len(node.RETURN_TYPES) == len(node.OUTPUT_TOOLTIPS)
    assert list(node.INPUT_TYPES()["optional"])[-7:] == [
        "sequence",
        "neck",
        "by_hand",
        "masks",
        "video",
        "at_most",
        "face_landmarks",
    ]


def _align(
    nodes: dict[str, Any], folder: Path, colors: np.ndarray | None, masks: list[torch.Tensor] | None = None
) -> dict[str, Any]:
    """Align Faces as the executor calls it, with the test pack under `folder`."""
    pack_with_parser(folder / "models" / "insightface" / "models" / "pack", colors)
    photos = [torch.from_numpy(portrait())[None].float() / 255, torch.zeros(1, 60, 80, 3)]
    settings = {"face_models": ["auto"], "which": ["largest"], "upright": [True]}
    return nodes["AlignFaces"].align(
        photos,
        same_person=[False],
        drop_different=[False],
        **settings,
        names=["me.jpg", "wall.jpg"],
        masks=masks,
    )


def _align_one(nodes: dict[str, Any], **inputs: Any) -> str:
    """The report of Align Faces about one photo, as the executor calls it."""
    settings: dict[str, Any] = {"face_models": ["auto"], "which": ["largest"], "upright": [True]}
    settings |= {"same_person": [False], "drop_different": [False], "names": ["me.jpg"]}
    photo = torch.from_numpy(portrait())[None].float() / 255
    return str(nodes["AlignFaces"].align([photo], **settings | inputs)["result"][3])


def test_auto_takes_a_pack_then_mediapipe_and_the_report_has_the_license(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert nodes["AlignFaces"].INPUT_TYPES()["optional"]["face_models"][0] == ["auto", "MediaPipe"]
    valid = nodes["AlignFaces"].VALIDATE_INPUTS
    for name in ("auto", "MediaPipe"):
        assert "pip download --no-deps" in str(valid([name]))
        assert str(tmp_path / "models" / "my3dgen" / "faces") in str(valid([name]))
    faces = tmp_path / "models" / "my3dgen" / "faces"
    faces.mkdir(parents=True)
    (faces / wheel().name).symlink_to(wheel())
    assert valid(["auto"]) is True
    report = _align_one(nodes)
    assert "MediaPipe: Apache-2.0." in report
    assert "Whether the photos show one person was not checked" in report
    pack_with_parser(tmp_path / "models" / "insightface" / "models" / "pack", None)
    report = _align_one(nodes)
    assert "InsightFace pack pack: for non-commercial research only." in report
    assert "not checked" not in report
    assert "MediaPipe: Apache-2.0." in _align_one(nodes, face_models=["MediaPipe"])


def test_landmarks_that_are_connected_need_no_face_models(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    valid = nodes["AlignFaces"].VALIDATE_INPUTS
    assert valid(["auto"], face_landmarks=[None]) is True  # as ComfyUI gives what is connected
    assert "pip download" in str(valid(["MediaPipe"], face_landmarks=[None]))
    (face,) = MediaPipeModels.from_wheel(wheel()).detect(portrait())
    assert face.mesh is not None
    found = {"landmarks_xy": face.mesh[:, :2], "landmarks_3d": face.mesh, "score": 0.9, "blendshapes": {}}
    value = {"frames": [[found]], "image_size": portrait().shape[:2]}
    report = _align_one(nodes, face_landmarks=[value])
    assert "1 of 1 photos kept." in report
    assert "Landmarks from face_landmarks, no face model of its own." in report
    with pytest.raises(ValueError, match="has 2 frames for 1 photos"):
        _align_one(nodes, face_landmarks=[value, value])
    crops = nodes["AlignFaces"].align(
        [torch.from_numpy(portrait())[None].float() / 255],
        face_models=["auto"], which=["largest"], upright=[True], same_person=[False], drop_different=[False],
        face_landmarks=[value],
    )["result"][5]  # fmt: skip
    assert crops.meshes[0][0].shape == (468, 3)


def test_photos_of_one_name_are_told_apart_and_decided_each_for_itself(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pack_with_parser(tmp_path / "models" / "insightface" / "models" / "pack", None)
    photo = torch.from_numpy(portrait())[None].float() / 255
    choices = {"face_models": ["auto"], "which": ["largest"], "upright": [True]}
    decisions = '{"a.jpg": {"keep": false}, "\u00e9 (2).jpg": {"keep": false}, "gone.jpg": {"keep": true}}'
    found = nodes["AlignFaces"].align(
        [photo] * 4,
        same_person=[False],
        drop_different=[False],
        **choices,
        names=["a.jpg", "a.jpg", "a.jpg (2)", "e\u0301 (2).jpg"],
        by_hand=[decisions],
    )
    assert found["result"][5].photos == (1, 2)
    report = found["result"][3]
    assert "Photos of the same name are numbered here and in by_hand: a.jpg (3)." in report
    assert report.endswith("In by_hand, but not among the photos: gone.jpg.")


def test_without_a_parser_the_heads_are_white_and_the_report_says_so(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = _align(nodes, tmp_path, None)
    images, cameras, masks, report, overview, crops, heads, drawn = found["result"]
    assert images.shape == (1, 512, 512, 3)
    assert heads.shape == masks.shape == (1, 512, 512)
    assert bool((heads == 1).all())
    assert drawn.shape == masks.shape
    assert not bool(drawn.any())
    assert len(cameras) == len(crops) == 1
    assert report.count("head masks are all white") == 1
    assert "me.jpg" in report
    assert re.search(r"wall\.jpg\s+DROPPED.*No face was found", report)
    assert "on CPUExecutionProvider" in found["ui"]["text"][0]
    assert overview.shape[-1] == 3


def test_masks_drawn_on_the_photos_are_cut_like_the_crops(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    height, width = portrait().shape[:2]
    drawn = torch.zeros(1, height, width)
    drawn[:, height // 4 : height // 2, width // 3 : width // 2] = 1
    found = _align(nodes, tmp_path, None, [drawn, torch.zeros(1, 64, 64)])["result"]
    crops, photo_masks = found[5], found[7]
    as_photo = warp_crop(drawn[0, ..., None].expand(-1, -1, 3).numpy(), crops.transforms[0])[0]
    assert torch.allclose(photo_masks, (as_photo[:1] + 1) / 2, atol=1e-6)
    assert 0.02 < float(photo_masks.mean()) < 0.5


def test_a_mask_of_another_photo_is_named(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"mask of 30x40 pixels for a picture of 80x60.* Draw the mask on this photo"
    ):
        _align(nodes, tmp_path, None, [torch.zeros(1, 64, 64), torch.ones(1, 40, 30)])


def test_with_a_parser_the_heads_are_its_answer(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images, _, masks, report, _, _, heads, _ = _align(nodes, tmp_path, dark_is_background())["result"]
    light = is_light((images * 255).round().numpy())
    assert (heads.numpy() == light)[masks.numpy() == 0].all()
    assert 0.1 < float(heads.mean()) < 0.9
    assert "head masks" not in report


def _folder_of_photos(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "input" / "me"
    (folder / "more" / ".thumbnails").mkdir(parents=True)
    for name in ("b2.png", "b10.png", "more/a1.png", "more/.thumbnails/a1.png"):
        Image.new("RGB", (40, 30), (9, 9, 9)).save(folder / name)


def test_photos_in_subfolders_are_read_on_request_and_keep_their_place_in_the_name(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _folder_of_photos(tmp_path)
    load = nodes["LoadPhotos"]
    assert load.load("me", 50, 256)["result"][1] == ["b2.png", "b10.png"]
    shown = load.load("me", 50, 256, True)
    assert shown["result"][1] == ["b2.png", "b10.png", "more/a1.png"]
    capped = load.load("me", 2, 256, True)
    assert capped["result"][1] == ["b2.png", "b10.png"]
    assert "1 more were left out: at_most is 2" in capped["ui"]["text"][0]
    assert load.IS_CHANGED("me", 50, 256) != load.IS_CHANGED("me", 50, 256, True)


@pytest.mark.parametrize(("width", "height", "size"), [(300, 200, (256, 170)), (201, 299, (172, 256))])
def test_photos_that_are_scaled_down_have_even_sides(
    nodes: dict[str, Any], folders: Path, width: int, height: int, size: tuple[int, int]
) -> None:
    from PIL import Image

    (folders / "input" / "me").mkdir(parents=True)
    Image.new("RGB", (width, height)).save(folders / "input" / "me" / "a.png")
    (photo,), _ = nodes["LoadPhotos"].load("me", 50, 256)["result"]
    assert photo.shape == (1, size[1], size[0], 3)
    (whole,), _ = nodes["LoadPhotos"].load("me", 50, 512)["result"]
    assert whole.shape == (1, height, width, 3)
