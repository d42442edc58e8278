"""Fixtures of the face tests: loaded models, real photos, one small photo with a known face."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from real_photos import pack_folder, photo, wheel

from my3dgen_core.face import AlignedFaces, FaceModels, MediaPipeModels, align_faces
from my3dgen_core.face.detect import Face, detection_attempts

SAME_MAN = ("obama.jpg", "obama2.jpg", "obama3.jpg")
_FACE_WIDTH = 232  # of the face in obama.jpg, in pixels
OTHERS = ("biden.jpg", "astronaut.png", "grace_hopper.jpg")


@lru_cache(maxsize=1)
def models() -> FaceModels:
    """The test pack on the CPU."""
    return FaceModels.from_folder(pack_folder(), providers=["CPUExecutionProvider"])


@lru_cache(maxsize=1)
def mediapipe_models() -> MediaPipeModels:
    """MediaPipe's networks, out of the wheel."""
    return MediaPipeModels.from_wheel(wheel())


@lru_cache(maxsize=1)
def portrait() -> np.ndarray:
    """One portrait at a size that is quick to work with, [568,455,3] uint8."""
    picture = Image.fromarray(photo("obama.jpg"))
    return np.array(picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS))


@lru_cache(maxsize=1)
def real_batch() -> AlignedFaces:
    """All six real photos, aligned."""
    return align_faces([(name, photo(name)) for name in (*SAME_MAN, *OTHERS)], models())


def first_face(pixels: np.ndarray) -> Face:
    """The first face that is found."""
    return next(detection_attempts(models(), pixels))[1][0]


def as_image(pixels: np.ndarray) -> torch.Tensor:
    """[H,W,3] uint8 -> [1,3,H,W] in [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1


def wall_of(width: int, height: int, face: int, *places: tuple[int, int]) -> np.ndarray:
    """A gray photo with the same small portrait at each place, its face `face` pixels wide."""
    portrait = Image.fromarray(photo("obama.jpg"))
    scale = face / _FACE_WIDTH
    size = (round(portrait.width * scale), round(portrait.height * scale))
    portrait = portrait.resize(size, Image.Resampling.LANCZOS)
    wall = Image.new("RGB", (width, height), (120, 130, 125))
    for place in places:
        wall.paste(portrait, place)
    return np.array(wall)
