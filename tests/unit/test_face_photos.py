"""Photos are read upright, as RGB, in the right range; an unreadable one gives a message."""

from __future__ import annotations

import struct
import sys
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from face_fixtures import portrait
from PIL import Image

from my3dgen_core.face import PhotoError, list_photos, load_photo, read_photos


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
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    photos = {
        photo.name: photo for photo in read_photos([*sorted(tmp_path.iterdir()), tmp_path / "gone.jpg"])
    }
    assert photos["good.jpg"].pixels is not None
    for name in ("cut.jpg", "text.jpg", "empty.png", "gone.jpg"):
        assert photos[name].pixels is None
        assert name in photos[name].error


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
    for name in ("p10.png", "p2.png", "P1.PNG", "notes.txt", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    assert [path.name for path in list_photos(tmp_path)] == ["P1.PNG", "p2.png", "p10.png"]
    assert [photo.name for photo in read_photos(str(tmp_path))] == ["P1.PNG", "p2.png", "p10.png"]


def test_an_empty_or_missing_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="no picture"):
        list_photos(tmp_path)
    with pytest.raises(PhotoError, match="does not exist"):
        list_photos(tmp_path / "gone")


def test_subfolders_come_after_the_folders_own_files_and_hidden_ones_never(tmp_path: Path) -> None:
    for name in ("z.png", "set10/a.png", "set2/b.png", "set2/deep/c.png", ".trash/d.png", "set2/._e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in list_photos(tmp_path, subfolders=True)]
    assert found == ["z.png", "set2/b.png", "set2/deep/c.png", "set10/a.png"]
    assert [path.name for path in list_photos(tmp_path)] == ["z.png"]
