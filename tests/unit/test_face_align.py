"""Alignment of a set of photos: crops, cameras, and a correct report on every photo."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from face_fixtures import OTHERS, SAME_MAN, first_face, models, portrait, real_batch
from PIL import Image, ImageFilter
from real_photos import photo, photo_path

from my3dgen_core.face import AlignmentError, PhotoError, align_faces, angles_from_labels

ANGLE_TOLERANCE = 4.0  # degrees, between two looks at one face


def _turned(pixels: np.ndarray, degrees: float) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).rotate(degrees, expand=True, resample=Image.Resampling.BICUBIC))


def _resized(pixels: np.ndarray, factor: float) -> np.ndarray:
    picture = Image.fromarray(pixels)
    size = (round(picture.width * factor), round(picture.height * factor))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference of two crops in [-1,1] seen from afar: two detections differ by some pixels."""
    near = torch.nn.functional.avg_pool2d(one - other, 8)
    return float(near.abs().mean())


def _picture(seed: int = 0) -> np.ndarray:
    """Something colorful that is no face."""
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC))


def test_the_shapes_ranges_and_order_are_the_contract() -> None:
    batch = real_batch()
    count = len(batch.kept)
    assert batch.kept == list(range(6))
    assert batch.images.shape == (count, 3, 512, 512)
    assert batch.cameras.shape == (count, 25)
    assert batch.masks.shape == (count, 1, 512, 512)
    assert batch.images.dtype == batch.cameras.dtype == batch.masks.dtype == torch.float32
    assert -1 <= float(batch.images.min()) < -0.8
    assert 0.8 < float(batch.images.max()) <= 1
    assert set(batch.masks.unique().tolist()) <= {0.0, 1.0}
    assert [row.name for row in batch.report] == [*SAME_MAN, *OTHERS]
    assert batch.embeddings is not None
    assert torch.allclose(batch.embeddings.norm(dim=1), torch.ones(count))


def test_faces_lie_where_eg3d_expects_them() -> None:
    frontal = np.array([[187.7, 192.3], [324.0, 192.4], [256.7, 266.1], [200.7, 339.7], [310.5, 339.7]])
    for row in real_batch().report:
        assert row.points is not None
        assert np.linalg.norm(row.points.mean(0) - frontal.mean(0) - [0, 2.7]) < 25
        eyes, nominal = row.points[1] - row.points[0], frontal[1] - frontal[0]
        assert abs(eyes[0] / nominal[0] - 0.977) < 0.15
        assert abs(np.degrees(np.arctan2(eyes[1], eyes[0]))) < 6


def test_the_crops_keep_the_colors_of_the_photos() -> None:
    """Channels in another order would show another mean color: skin is redder than it is blue."""
    batch = real_batch()
    for image, row in zip(batch.images, batch.report, strict=True):
        assert row.transform is not None
        left, top = row.transform.to_photo(np.array([192.0, 192.0])).astype(int)
        right, bottom = row.transform.to_photo(np.array([320.0, 320.0])).astype(int)
        in_photo = photo(row.name)[min(top, bottom) : max(top, bottom), left:right].mean((0, 1))
        in_crop = ((image[:, 192:320, 192:320].mean((1, 2)) + 1) * 127.5).numpy()
        assert np.abs(in_crop - in_photo).max() < 12
        assert in_crop[0] > in_crop[2] + 15


@pytest.mark.parametrize("degrees", [90, 180, 270, 37, 135])
def test_a_turned_photo_gives_the_same_crop_and_camera(degrees: float) -> None:
    batch = align_faces([portrait(), _turned(portrait(), degrees)], models())
    straight, turned = batch.report
    assert turned.kept
    assert turned.photo_roll is not None
    assert abs((turned.photo_roll - (straight.photo_roll or 0) + degrees + 180) % 360 - 180) < 6
    assert _difference(batch.images[0], batch.images[1]) < 0.06
    assert (torch.rad2deg(angles_from_labels(batch.cameras)).diff(dim=0).abs() < ANGLE_TOLERANCE).all()


def test_without_upright_the_roll_stays_in_picture_and_label() -> None:
    leaning = _turned(portrait(), -25)
    upright = align_faces([leaning], models())
    as_it_is = align_faces([leaning], models(), upright=False)
    assert abs(upright.report[0].roll or 0) < 5
    assert as_it_is.report[0].roll == pytest.approx(25, abs=5)
    assert np.degrees(angles_from_labels(as_it_is.cameras)[0, 2]) == pytest.approx(25, abs=5)
    assert as_it_is.report[0].yaw == pytest.approx(upright.report[0].yaw, abs=ANGLE_TOLERANCE)


def test_a_mirrored_photo_has_the_mirrored_camera() -> None:
    batch = align_faces([photo("obama2.jpg"), photo("obama2.jpg")[:, ::-1].copy()], models())
    one, other = np.degrees(angles_from_labels(batch.cameras).numpy())
    assert one[0] > 8
    assert np.abs(one * [-1, 1, -1] - other).max() < ANGLE_TOLERANCE


def test_a_photo_from_the_phone_lying_on_its_side_is_stood_up(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(portrait())).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    (row,) = align_faces([tmp_path / "phone.jpg"], models()).report
    assert row.kept
    assert abs(row.photo_roll or 0) < 5
    assert "turned" not in row.found_by


def test_sizes_and_kinds_of_one_photo_all_lead_to_one_crop(tmp_path: Path) -> None:
    picture = Image.fromarray(portrait())
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 60, 60))
    rgba = picture.copy()
    rgba.putalpha(alpha)
    rgba.save(tmp_path / "rgba.png")
    gray16 = (np.asarray(picture.convert("L")).astype(np.uint16)) * 257
    Image.fromarray(gray16).save(tmp_path / "gray16.png")
    picture.convert("L").save(tmp_path / "gray.jpg", quality=95)
    picture.resize((picture.width * 4, picture.height * 4)).save(tmp_path / "large.jpg", quality=95)
    kinds: list[object] = [
        portrait(),
        *sorted(tmp_path.iterdir()),
        portrait() / 255.0,
        portrait().astype(np.uint16) * 257,
    ]
    batch = align_faces(kinds, models())
    assert len(batch.kept) == len(kinds)
    reference = batch.images[0].mean(0, keepdim=True)
    for image, row in zip(batch.images, batch.report, strict=True):
        assert _difference(image.mean(0, keepdim=True), reference) < 0.06, row.name
    assert any("Nearly the same picture" in warning for warning in batch.report[-1].warnings)


def test_every_bad_photo_is_dropped_or_warned_about_for_the_right_reason(tmp_path: Path) -> None:
    good = portrait()
    face = first_face(good)
    left, _, right, _ = face.box.astype(int)
    middle = (left + right) // 2
    buffer = io.BytesIO()
    Image.fromarray(good).save(buffer, "JPEG")
    (tmp_path / "corrupt.jpg").write_bytes(buffer.getvalue()[:2000])
    blurred = np.asarray(Image.fromarray(good).filter(ImageFilter.GaussianBlur(3)))
    expected = {
        "good": (good, True, ""),
        "tiny": (_resized(good, 20 / face.size), False, "too small"),
        "small": (_resized(good, 45 / face.size), True, "is small"),
        "blurred": (blurred, True, "blurred"),
        "cut": (good[:, middle + 5 :].copy(), False, ""),
        "edge": (good[:, left + 26 :].copy(), True, "of the crop is in the photo"),
        "no face": (_picture(), False, "No face"),
        "gray wall": (np.full((300, 300, 3), 127, np.uint8), False, "No face"),
        "speck": (np.zeros((5, 5, 3), np.uint8), False, "only 5 x 5"),
        "corrupt.jpg": (tmp_path / "corrupt.jpg", False, "corrupt.jpg is damaged"),
        "nan": (np.full((64, 64, 3), np.nan), False, "NaN"),
        "biden": (photo_path("biden.jpg"), True, "different person"),
        "again": (good, True, "Nearly the same picture as good"),
    }
    batch = align_faces([(name, source) for name, (source, _, _) in expected.items()], models())
    for row, (name, (_, kept, message)) in zip(batch.report, expected.items(), strict=True):
        said = " ".join([row.reason, *row.warnings])
        assert row.kept == kept, f"{name}: {said}"
        assert message in said, f"{name}: {said}"
        assert row.kept or row.reason, name
        assert row.kept == (row.index in batch.kept)
    assert batch.report[0].warnings == []
    assert all(row.thumbnail is not None for row in batch.report if row.name in ("tiny", "cut", "no face"))
    dropped = align_faces([good, _turned(good, 5), photo("biden.jpg")], models(), drop_different=True)
    assert dropped.kept == [0, 1]
    assert "different person" in dropped.report[2].reason


def test_a_huge_photo_is_cropped_at_full_resolution() -> None:
    pixels = portrait()
    huge = np.zeros((8000, 9000, 3), np.uint8)
    inset = _resized(pixels, 6)
    huge[3000 : 3000 + len(inset), 4000 : 4000 + inset.shape[1]] = inset
    batch = align_faces([huge, pixels], models())
    assert batch.kept == [0, 1]
    assert _difference(batch.images[0], batch.images[1]) < 0.06


def test_the_report_can_be_read_by_people_and_programs() -> None:
    batch = align_faces([("good one", portrait()), ("nothing", _picture())], models())
    table = batch.table()
    assert len({line.index("kept") if "kept" in line else -1 for line in table.splitlines()}) > 1
    assert "good one" in table
    assert "DROPPED" in table
    assert "No face was found." in table
    assert table.endswith("1 of 2 photos kept.")
    rows = json.loads(batch.to_json())
    assert [row["name"] for row in rows] == ["good one", "nothing"]
    assert rows[0]["kept"]
    assert rows[0]["transform"]["photo_size"] == list(portrait().shape[:2])
    sheet = batch.sheet(size=128)
    assert sheet.shape == (128, 256, 3)
    dropped = sheet[:, 128:]  # the photo made small and dim, with the reason over it
    assert (dropped[:60] > 180).all(2).sum() > 30
    assert (dropped[60:] <= 128).all()
    assert dropped[60:].reshape(-1, 3).std(0).min() > 10


def test_a_batch_with_nothing_usable_is_one_message_with_the_report(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match=r"0 of 2 photos can be used.*No face was found") as caught:
        align_faces([_picture(1), _picture(2)], models())
    assert len(caught.value.report) == 2
    with pytest.raises(AlignmentError, match="at least 3"):
        align_faces([portrait()], models(), min_photos=3)
    with pytest.raises(PhotoError):
        align_faces(str(tmp_path), models())  # an empty folder


def test_the_same_batch_gives_the_same_result_twice() -> None:
    photos = [portrait(), _turned(portrait(), 180), _picture(), photo("astronaut.png")]
    one, other = align_faces(photos, models()), align_faces(photos, models())
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.cameras, other.cameras)
    assert one.to_json() == other.to_json()


def test_a_batch_can_be_cancelled_between_photos() -> None:
    seen = []

    def stop_after_two(step: int, total: int, losses: dict[str, float], image: torch.Tensor | None) -> None:
        seen.append((step, total, None if image is None else tuple(image.shape)))
        if step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        align_faces([portrait(), _picture(), portrait()], models(), on_step=stop_after_two)
    assert seen == [(1, 3, (1, 3, 512, 512)), (2, 3, None)]


def test_one_of_several_faces_can_be_chosen() -> None:
    man, woman = _resized(photo("biden.jpg"), 0.3)[:300], photo("astronaut.png")[:300]
    pair = np.concatenate([np.zeros((300, 40, 3), np.uint8), man, woman], axis=1)
    names = {}
    for which in ("largest", "leftmost", "rightmost", 0, 1, -1):
        (row,) = align_faces([pair], models(), which=which).report
        assert row.faces == 2
        assert row.box is not None
        names[which] = "man" if row.box[0] < 40 + man.shape[1] else "woman"
    assert names["leftmost"] == names[0] == "man"
    assert names["rightmost"] == names[1] == names[-1] == "woman"
    nearest = align_faces([pair], models(), which="nearest", reference=photo("biden.jpg"))
    assert nearest.report[0].box == align_faces([pair], models(), which=0).report[0].box
    with pytest.raises(AlignmentError, match="not there: 2 found"):
        align_faces([pair], models(), which=5)
    with pytest.raises(ValueError, match="needs a reference"):
        align_faces([pair], models(), which="nearest")
    with pytest.raises(ValueError, match="which must be"):
        align_faces([pair], models(), which="prettiest")


def test_ready_crops_are_found_again_and_get_the_same_cameras() -> None:
    """Results of this function, and small renders, go through it once more."""
    batch = real_batch()
    small = torch.nn.functional.interpolate(batch.images, 128, mode="bilinear", antialias=True)
    again = align_faces(torch.nn.functional.interpolate(small, 256), models())
    assert len(again.kept) == len(batch.kept)
    difference = torch.rad2deg(angles_from_labels(again.cameras) - angles_from_labels(batch.cameras)).abs()
    assert float(difference.median()) < 2.5
    assert float(difference.max()) < 8


def test_photos_of_one_person_can_share_a_shape() -> None:
    photos = [(name, photo(name)) for name in SAME_MAN]
    shared = align_faces(photos, models(), same_person=True)
    assert shared.kept == [0, 1, 2]
    yaws = torch.rad2deg(angles_from_labels(shared.cameras))[:, 0]
    alone = torch.rad2deg(angles_from_labels(real_batch().cameras))[:3, 0]
    assert (yaws - alone).abs().max() < 10
