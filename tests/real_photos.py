"""The photos and face models that tests use: fetched once into build/face by programs in tools/."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "face"


@lru_cache(maxsize=2)
def _tool(name: str = "face_test_pack") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def pack_folder() -> Path:
    """The folder with the test pack's ONNX files."""
    return _tool().make_pack(CACHE)


@lru_cache(maxsize=1)
def photo_folder() -> Path:
    """The folder with obama.jpg, obama2.jpg, obama3.jpg, biden.jpg, astronaut.png and grace_hopper.jpg."""
    return _tool().fetch_photos(CACHE)


@lru_cache(maxsize=1)
def wheel() -> Path:
    """The wheel with MediaPipe's face networks."""
    return _tool("mediapipe_wheel").fetch_wheel(CACHE / "mediapipe")


def photo_path(name: str) -> Path:
    return photo_folder() / name


@lru_cache(maxsize=16)
def photo(name: str) -> np.ndarray:
    """One photo as [H,W,3] uint8 RGB; do not write into it."""
    from my3dgen_core.face import load_photo

    return load_photo(photo_path(name))
