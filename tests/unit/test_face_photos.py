"""Photos are read upright, as RGB, in the right range; an unreadable one gives a message."""

from __future__ import annotations

import io
import struct
import sys
import types
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_fixtures import portrait
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, TiffImagePlugin, features

from my3dgen_core.face import PhotoError, list_photos, load_photo, read_photos
from my3dgen_core.face.photo_files import describe_left_out, survey_photos


def _red_left_blue_right(height: int = 20, width: int = 30) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 100
    return pixels


def test_colors_are_rgb(tmp_path: Path) -> None:
    Image.fromarray(_red_left_blue_right()).save(tmp_path / "a.png")
    assert (load_photo(tmp_path / "a.png") == _red_left_blue_right()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_stands_the_photo_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(_red_left_blue_right())
    transpose = Image.Transpose
    stored = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }
    picture = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    assert (load_photo(tmp_path / "a.png") == _red_left_blue_right()).all()


def test_sixteen_bit_gray_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    gray = np.array([[0, 257 * 40], [257 * 128, 65535]], np.uint16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png")[:, :, 1].tolist() == [[0, 40], [128, 255]]
    (from_array,) = read_photos([np.repeat(gray[:, :, None], 3, 2)])
    assert from_array.pixels is not None
    assert from_array.pixels[:, :, 0].tolist() == [[0, 40], [128, 255]]


@pytest.mark.parametrize(("full", "highlight"), [(1.0, 1.0), (1.0, 9.0), (255.0, 255.0)])
def test_a_highlight_does_not_change_the_range_of_a_float_file(
    tmp_path: Path, full: float, highlight: float
) -> None:
    gray = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    gray[:4] = 0  # a black background
    stored = gray * full
    stored[7, 7] = highlight
    Image.fromarray(stored).save(tmp_path / "a.tif")
    loaded = load_photo(tmp_path / "a.tif")
    assert loaded.dtype == np.float32
    assert np.abs(loaded[:, :, 1] - gray).max() < 1e-6


@pytest.mark.parametrize(("full", "dtype"), [(255, np.int32), (65535, np.int32), (65535, np.uint16)])
def test_integers_of_every_width_keep_their_brightness(tmp_path: Path, full: int, dtype: type) -> None:
    gray = np.array([[0, 40], [128, 255]]) * (full // 255)
    Image.fromarray(gray.astype(dtype)).save(tmp_path / "a.tif")
    assert load_photo(tmp_path / "a.tif")[:, :, 1].tolist() == [[0, 40], [128, 255]]


def test_a_dark_sixteen_bit_photo_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 200, np.uint16)).save(tmp_path / "a.tif")
    assert load_photo(tmp_path / "a.tif").max() == 1


def test_transparent_pixels_show_mid_gray(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = [250, 10, 20, 255]
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    loaded = load_photo(tmp_path / "rgba.png")
    assert loaded[0, 0].tolist() == [250, 10, 20]
    assert loaded[3, 3].tolist() == [128, 128, 128]
    (from_array,) = read_photos([pixels])
    assert from_array.pixels is not None
    assert (from_array.pixels == loaded).all()


def test_a_picture_that_is_transparent_everywhere_shows_its_colors_and_says_so(tmp_path: Path) -> None:
    pixels = np.dstack((_red_left_blue_right(), np.zeros((20, 30), np.uint8)))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for photo in read_photos([tmp_path / "a.png", ("a.png", pixels), ("a.png", pixels / np.float32(255))]):
        assert photo.pixels is not None
        full = 255 if photo.pixels.dtype == np.uint8 else 1
        assert np.allclose(photo.pixels * (255 / full), _red_left_blue_right(), atol=1e-4)
        assert photo.warning == "a.png is transparent everywhere: its hidden colors are used."
    pixels[0, 0, 3] = 255
    (photo,) = read_photos([pixels])
    assert photo.pixels is not None
    assert photo.warning == ""
    assert photo.pixels[19, 29].tolist() == [128, 128, 128]


def _profile_with_red_and_green_exchanged() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)
    at = {bytes(profile[tag : tag + 4]): tag + 4 for tag in tags}
    red, green = (slice(at[name], at[name] + 8) for name in (b"rXYZ", b"gXYZ"))
    profile[red], profile[green] = profile[green], profile[red]
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with transparency"])
def test_the_color_profile_counts_with_alpha_and_palette_too(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(np.repeat(np.uint8([[255], [0]]), [2, 2], 0).repeat(4, 1)))
    options: dict[str, Any] = {"transparency": 1} if "transparency" in mode else {}
    if mode.startswith("P"):
        picture = picture.quantize(2)
    picture.save(tmp_path / "a.png", icc_profile=_profile_with_red_and_green_exchanged(), **options)
    loaded = load_photo(tmp_path / "a.png").astype(int)
    assert np.abs(loaded[0, 0] - [0, 255, 0]).max() <= 2
    assert np.abs(loaded[3, 3] - ([128, 128, 128] if mode == "RGBA" else [0, 255, 0])).max() <= 2


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1"])
def test_other_color_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(portrait()).convert(mode).save(tmp_path / "a.tif")
    loaded = load_photo(tmp_path / "a.tif").astype(float)
    assert loaded.shape == portrait().shape
    plain = portrait().astype(float)
    if mode in ("L", "1"):
        loaded, plain = loaded.mean(), plain.mean()
    assert np.abs(loaded - plain).mean() < 25


def test_floats_keep_their_range() -> None:
    (photo,) = read_photos([portrait() / 255.0])
    assert photo.pixels is not None
    assert photo.pixels.dtype == np.float32
    assert np.abs(photo.pixels - portrait() / 255.0).max() < 1e-6
    (tensor,) = read_photos(torch.from_numpy(portrait()).permute(2, 0, 1)[None] / 127.5 - 1)
    assert tensor.pixels is not None
    assert np.abs(tensor.pixels - portrait() / 255.0).max() < 1e-6
    assert tensor.is_crop


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.full((8, 8, 3), 200.0), "0..1"),
        (np.zeros((8, 8, 2), np.uint8), "[H, W, 3]"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (torch.full((3, 8, 8), float("nan")), "NaN"),
        (torch.zeros(8, 8, 3), "[3, H, W]"),
    ],
)
def test_a_wrong_array_comes_with_a_message(array: np.ndarray | torch.Tensor, word: str) -> None:
    (photo,) = read_photos([array])
    assert photo.pixels is None
    assert word in photo.error
    assert photo.error.endswith(".")


def test_bad_files_do_not_stop_the_others(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    Image.fromarray(portrait()).save(good)
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    photos = {
        photo.name: photo for photo in read_photos([*sorted(tmp_path.iterdir()), tmp_path / "gone.jpg"])
    }
    assert photos["good.jpg"].pixels is not None
    for name in ("text.jpg", "empty.png", "gone.jpg"):
        assert photos[name].pixels is None
        assert name in photos[name].error
    assert "it is empty" in photos["empty.png"].error


def test_a_decompression_bomb_is_one_message(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (photo,) = read_photos(tmp_path / "bomb.png")
    assert "million pixels" in photo.error


def test_heic_says_which_package_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PhotoError, match="pip install pillow-heif"):
        load_photo(tmp_path / "a.heic")


def test_a_heic_photo_is_read_where_the_package_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package only has to tell Pillow about the format; here it does so for one made up."""
    from PIL import ImageFile

    class Made(ImageFile.ImageFile):
        format = "MADE"

        def _open(self) -> None:
            self.fp.read(4)
            self._size, self._mode = (3, 2), "RGB"
            self.tile = [ImageFile._Tile("raw", (0, 0, 3, 2), 4, "RGB")]

    def register() -> None:
        Image.register_open("MADE", Made, lambda prefix: prefix.startswith(b"made"))

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 9
    (tmp_path / "a.HEIC").write_bytes(b"made" + pixels.tobytes())
    assert (load_photo(tmp_path / "a.HEIC") == pixels).all()


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for name in ("p10.png", "p2.png", "P1.PNG", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in list_photos(tmp_path)] == ["P1.PNG", "p2.png", "p10.png"]
    assert [photo.name for photo in read_photos(str(tmp_path))] == ["P1.PNG", "p2.png", "p10.png"]


def test_an_empty_or_missing_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="no picture"):
        list_photos(tmp_path)
    with pytest.raises(PhotoError, match="does not exist"):
        list_photos(tmp_path / "gone")


def _bytes(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _jpeg() -> bytes:
    return _bytes(Image.fromarray(portrait()), "JPEG")


def test_a_truncated_photo_is_read_as_far_as_it_goes_with_a_warning(tmp_path: Path) -> None:
    whole = np.array(Image.open(io.BytesIO(_jpeg())))
    (tmp_path / "cut.jpg").write_bytes(_jpeg()[: len(_jpeg()) // 2])
    (photo,) = read_photos(tmp_path)
    assert photo.pixels is not None
    assert (photo.pixels[:100] == whole[:100]).all()
    assert (photo.pixels[-100:] == 128).all()
    assert "cut.jpg is damaged" in photo.warning
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # as it was: other packs use Pillow too


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png", "a.tif"])
def test_the_first_frame_is_taken_and_the_number_of_frames_is_said(tmp_path: Path, name: str) -> None:
    first, *others = (Image.new("RGB", (8, 8), (value, value, value)) for value in (50, 100, 150, 200))
    first.save(tmp_path / name, save_all=True, append_images=others)
    (photo,) = read_photos(tmp_path / name)
    assert photo.pixels is not None
    assert np.abs(photo.pixels.astype(int) - 50).max() <= 2
    assert photo.warning == f"{name} has 4 frames or pages: the first is taken."


def test_the_preview_in_a_camera_photo_is_no_frame(tmp_path: Path) -> None:
    picture = Image.fromarray(portrait())
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture.resize((40, 40))])
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.n_frames == 2
    (photo,) = read_photos(tmp_path / "a.jpg")
    assert photo.pixels is not None
    assert photo.warning == ""


@pytest.mark.parametrize("fault", ["text", "profile", "checksum"])
def test_damaged_metadata_cost_no_pixels(tmp_path: Path, fault: str) -> None:
    picture, text = Image.fromarray(portrait()), PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2_000_000, zip=True)
    content = {
        "text": lambda: _bytes(picture, "PNG", pnginfo=text),
        "profile": lambda: _bytes(picture, "PNG", icc_profile=bytes(2_000_000)),
        "checksum": lambda: _bytes(picture, "PNG", dpi=(72, 72)).replace(b"pHYs", b"pHYz"),
    }[fault]()
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises((ValueError, OSError)), Image.open(io.BytesIO(content)) as opened:
        opened.load()
    (photo,) = read_photos(tmp_path / "a.png")
    assert photo.pixels is not None
    assert (photo.pixels == portrait()).all()
    assert photo.warning == ""


def _exif(*tag: bytes) -> bytes:
    """Exif data with the orientation 6 and one more tag, of which the value follows."""
    head = b"Exif\0\0II*\0" + struct.pack("<IHHHIHH", 8, 2, 0x0112, 3, 1, 6, 0)
    return head + tag[0] + struct.pack("<I", 0) + b"".join(tag[1:])


@pytest.mark.parametrize(
    "exif",
    [
        _exif(struct.pack("<HHII", 0x011A, 10, 1, 38), struct.pack("<ii", -72, 1)),
        _exif(struct.pack("<HHI", 0x011A, 2, 3) + b"72\0\0"),
    ],
)
def test_odd_exif_tags_neither_end_a_folder_nor_cost_the_orientation(tmp_path: Path, exif: bytes) -> None:
    lying = Image.fromarray(portrait()).rotate(90, expand=True)
    lying.save(tmp_path / "1.jpg", exif=exif)
    Image.fromarray(portrait()).save(tmp_path / "2.jpg")
    first, second = read_photos(tmp_path)
    assert first.pixels is not None
    assert second.pixels is not None
    assert first.pixels.shape == portrait().shape
    assert np.abs(first.pixels.astype(int) - second.pixels).mean() < 5


def test_content_decides_what_a_picture_is_and_the_rest_is_named_with_its_kind(tmp_path: Path) -> None:
    picture = Image.fromarray(portrait())
    named = [("1.jfif", "JPEG"), ("2.jp2", "JPEG2000"), ("3.hif", "JPEG"), ("4.heic", "PNG"), ("5", "JPEG")]
    for name, kind in named:
        picture.save(tmp_path / name, format=kind)
    others = {
        "clip.mp4": b"\0\0\0\x18ftypmp42" + bytes(60),
        "film.mkv": b"\x1aE\xdf\xa3" + bytes(60),
        "raw.dng": b"II*\0" + bytes(1000),
        "shot.CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(60),
        "notes.txt": b"no picture",
        "none": b"",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    found = survey_photos(tmp_path)
    assert [path.name for path in found.photos] == [name for name, _ in named]
    assert all(photo.pixels is not None for photo in read_photos(found.photos))
    kinds = dict(found.left_out)
    assert kinds.keys() == others.keys()
    assert kinds["clip.mp4"] == kinds["film.mkv"] == "a video"
    assert kinds["raw.dng"] == kinds["shot.CR3"] == "a camera raw file: export it as JPEG"
    assert (kinds["notes.txt"], kinds["none"]) == ("not a picture", "empty")
    assert "left out, a video: clip.mp4, film.mkv" in describe_left_out(found.left_out)


def test_a_long_list_of_other_files_is_cut_with_their_number() -> None:
    others = [(f"{number}.txt", "not a picture") for number in range(7)]
    assert describe_left_out(others, 2) == ["left out, not a picture: 0.txt, 1.txt and 5 more"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\3\4" + bytes(60), "an archive"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "a vector drawing"),
    ],
)
def test_a_file_with_a_pictures_suffix_is_named_by_what_it_is(
    tmp_path: Path, content: bytes, kind: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(PhotoError, match=rf"a\.jpg cannot be read as a picture: it is {kind}"):
        load_photo(tmp_path / "a.jpg")


def test_a_raw_file_is_not_read_as_its_thumbnail(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"  # DNGVersion
    Image.fromarray(portrait()).save(tmp_path / "a.tif", tiffinfo=tags)
    with pytest.raises(PhotoError, match="camera raw file"):
        load_photo(tmp_path / "a.tif")
    Image.fromarray(portrait()).save(tmp_path / "b.tif")
    assert (load_photo(tmp_path / "b.tif") == portrait()).all()


def test_heic_under_another_name_says_which_package_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IMG_1.jpg", "IMG_2"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    photos = list(read_photos(tmp_path))
    assert [photo.name for photo in photos] == ["IMG_1.jpg", "IMG_2"]
    assert all("pip install pillow-heif" in photo.error for photo in photos)


def test_avif_is_not_asked_of_the_heic_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.fromarray(portrait()).save(tmp_path / "a.jpg", format="AVIF")
    assert load_photo(tmp_path / "a.jpg").shape == portrait().shape


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (photo,) = read_photos(tmp_path)
    assert photo.error == "a.jpg leads to a file that does not exist."


def test_a_folder_without_pictures_says_what_it_has_instead(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "more").mkdir()
    with pytest.raises(PhotoError, match=r"not a picture: notes\.txt.*subfolders"):
        list_photos(tmp_path)


def test_subfolders_come_after_the_folders_own_files_and_hidden_ones_never(tmp_path: Path) -> None:
    for name in ("z.png", "set10/a.png", "set2/b.png", "set2/deep/c.png", ".trash/d.png", "set2/._e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in list_photos(tmp_path, subfolders=True)]
    assert found == ["z.png", "set2/b.png", "set2/deep/c.png", "set10/a.png"]
    assert [path.name for path in list_photos(tmp_path)] == ["z.png"]
