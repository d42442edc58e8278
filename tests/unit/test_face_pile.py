"""Fifty careless inputs: each is kept or dropped for the right reason, and two runs agree."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_fixtures import as_image, first_face, mediapipe_models, models, portrait
from PIL import Image, ImageFilter
from real_photos import photo

from my3dgen_core import starter
from my3dgen_core.face import align_faces

Expected = dict[str, tuple[Any, bool, str]]
DEMO = Path(starter.__file__).parent / "demo_person" / "photos"


def _resized(pixels: np.ndarray, factor: float) -> np.ndarray:
    picture = Image.fromarray(pixels)
    size = (round(picture.width * factor), round(picture.height * factor))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def _colors(seed: int) -> np.ndarray:
    """No face: soft spots of color."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((120, 100), Image.Resampling.BICUBIC))


def _bomb(path: Path) -> Path:
    """A PNG of a few bytes that claims 3,600 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def _saved(folder: Path) -> Expected:
    """The portrait in every kind of file, and files that are none."""
    picture = Image.fromarray(portrait())
    on_its_side = Image.Exif()
    on_its_side[0x0112] = 6
    alpha = picture.copy()
    alpha.putalpha(255)
    kinds: dict[str, Callable[[Path], None]] = {
        "plain.png": picture.save,
        "gray.jpg": lambda path: picture.convert("L").save(path, quality=95),
        "cmyk.jpg": lambda path: picture.convert("CMYK").save(path, quality=95),
        "palette.png": picture.quantize(256).save,
        "alpha.png": alpha.save,
        "gray16.png": Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save,
        "phone.jpg": lambda path: Image.fromarray(np.rot90(portrait())).save(path, exif=on_its_side),
    }
    expected: Expected = {}
    for name, save in kinds.items():
        save(folder / name)
        expected[name] = (folder / name, True, "")
    whole = (folder / "plain.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    expected["cut.png"] = (folder / "cut.png", True, "cut.png is damaged")
    (folder / "cut.jpg").write_bytes((folder / "gray.jpg").read_bytes()[:3000])
    expected["cut.jpg"] = (folder / "cut.jpg", False, "cut.jpg is damaged")
    broken = {
        "empty.jpg": b"",
        "text.png": b"this is not a picture",
        "zeros.webp": bytes(4000),
        "noise.tif": bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8)),
        "header.gif": b"GIF89a\x10\x00",
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
        expected[name] = (folder / name, False, f"{name} cannot be read as a picture")
    (folder / "photo.heic").write_bytes(b"x")
    expected["photo.heic"] = (folder / "photo.heic", False, "pip install pillow-heif")
    expected["gone.jpg"] = (folder / "gone.jpg", False, "gone.jpg does not exist")
    expected["bomb.png"] = (_bomb(folder / "bomb.png"), False, "million pixels")
    return expected


def _in_memory() -> Expected:
    """The portrait turned, cut, small, blurred, as numbers of every kind; someone else; renders; nonsense."""
    good = portrait()
    face = first_face(good)
    left, _, right, _ = face.box.astype(int)
    nan = good / 255.0
    nan[3, 3, 1] = np.nan
    blurred = np.asarray(Image.fromarray(good).filter(ImageFilter.GaussianBlur(3)))
    expected: Expected = {
        "turned 90": (np.rot90(good).copy(), True, ""),
        "turned 180": (np.rot90(good, 2).copy(), True, ""),
        "turned 270": (np.rot90(good, 3).copy(), True, ""),
        "floats": (good / 255.0, True, ""),
        "16 bit": (good.astype(np.uint16) * 257, True, "Nearly the same picture as"),
        "tensor": (as_image(good)[0], True, ""),
        "blurred": (blurred, True, "blurred"),
        "small face": (_resized(good, 45 / face.size), True, "is small"),
        "tiny face": (_resized(good, 20 / face.size), False, "too small"),
        "half a face": (good[:, (left + right) // 2 + 5 :].copy(), False, ""),
        "at the edge": (good[:, left + 26 :].copy(), True, "of the crop is in the photo"),
        "someone else": (_resized(photo("biden.jpg"), 0.5), True, "different person"),
        "NaN": (nan, False, "NaN"),
        "NaN tensor": (torch.full((3, 64, 64), float("nan")), False, "NaN"),
        "infinite": (np.full((40, 40, 3), np.inf), False, "infinite"),
        "bytes as floats": (good.astype(np.float64), False, "0..1"),
        "whole numbers": (good.astype(np.int64), False, "int64"),
        "two channels": (good[:, :, :2].copy(), False, "[H, W, 3]"),
        "wrong tensor": (torch.zeros(50, 60, 3), False, "[3, H, W]"),
        "no pixels": (np.zeros((0, 10, 3), np.uint8), False, "[H, W, 3]"),
        "speck": (np.zeros((5, 5, 3), np.uint8), False, "only 5 x 5"),
        "stripe": (np.full((8, 900, 3), 90, np.uint8), False, "only 900 x 8"),
        "black": (np.zeros((100, 120, 3), np.uint8), False, "No face"),
        "white": (np.full((100, 120, 3), 255, np.uint8), False, "No face"),
    }
    for index, path in enumerate(sorted(DEMO.iterdir())[:6]):
        expected[f"render {index}"] = (path, True, "")
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("source", ["pack", "MediaPipe"])
def test_fifty_careless_inputs_are_each_told_the_truth(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    networks = models() if source == "pack" else mediapipe_models()
    expected = _saved(tmp_path) | _in_memory()
    if source == "MediaPipe":  # without an identity network
        expected["someone else"] = (*expected["someone else"][:2], "")
    expected |= {f"colors {i}": (_colors(i), False, "") for i in range(50 - len(expected))}
    assert len(expected) == 50
    seen: list[int] = []
    batch = align_faces(
        [(name, source) for name, (source, _, _) in expected.items()],
        networks,
        on_step=lambda step, total, _, image: seen.append(step),
    )
    wrong = []
    for row, (name, (_, kept, message)) in zip(batch.report, expected.items(), strict=True):
        said = " ".join([row.reason, *row.warnings])
        if row.name != name or row.kept != kept or message not in said or row.kept == bool(row.reason):
            wrong.append(f"{name}: kept {row.kept}, {said}")
    assert not wrong, wrong
    assert seen == list(range(1, 51))
    assert batch.kept == [i for i, (_, kept, _) in enumerate(expected.values()) if kept]
    assert bool(torch.isfinite(batch.images).all())
    assert bool(torch.isfinite(batch.cameras).all())
    assert batch.table().endswith(f"{len(batch.kept)} of 50 photos kept.")
    again = align_faces([(n, s) for n, (s, _, _) in list(expected.items())[:12]], networks)
    count = len(again.kept)
    assert torch.equal(again.images, batch.images[:count])
    assert torch.equal(again.cameras, batch.cameras[:count])
