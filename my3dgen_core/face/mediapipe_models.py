"""MediaPipe's face networks as a source of faces: read out of the PyPI wheel, run in torch.

The wheel is never installed or imported; it is a zip archive with three .tflite files (Apache-2.0) among
others. They give boxes and 468 landmarks, of which the five points and 106 landmarks of an InsightFace pack
are made, so that everything after detection is common to both. There is no identity network among them.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from ..common.folders import read_folder
from ..formats.tflite_file import read_tflite
from .blaze_face import BlazeFace, Detection, merge_windows
from .detect import Face, FaceModels, resize_uint8
from .face_mesh import (
    FaceMesh,
    box_of_mesh,
    five_points,
    landmarks_106,
    region_around,
    region_of_detection,
    region_of_mesh,
)
from .packs import FaceModelError
from .tflite_network import TfliteNetwork

REQUIREMENT = "mediapipe==0.10.21"
"""Package whose wheel holds the networks."""
LICENSE = "MediaPipe: Apache-2.0"
_MEMBERS = {
    "short": "modules/face_detection/face_detection_short_range.tflite",
    "full": "modules/face_detection/face_detection_full_range_sparse.tflite",
    "mesh": "modules/face_landmark/face_landmark.tflite",
}
_MAX_BYTES = 1 << 24  # of a network: the largest has 1.2 MB
_PRESENT = 0.5  # least probability of a face for its landmarks
_MAX_FACES = 64  # of one picture, best first
_MESH_IN_BOX = 0.85  # height of a mesh in that of a box with the forehead
# Windows of the full-range detector for each input size from which they are used: their side as a fraction
# of the picture's longer side, and how many along it.
_WINDOWS = ((640, 0.6, 2), (1280, 0.25, 5))
_LEAST_FACE = (
    0.055  # of the picture's longer side: the full-range detector finds smaller ones only in windows
)
_SMALL = 24.0  # pixels: smaller faces are not looked for


def download_command(folder: str | Path) -> str:
    """Return the command that puts the wheel into a folder.

    The files in it are the same for every system and version of Python, so one command serves all; the
    platform is that of the smallest wheel (35 MB).
    """
    return (
        "pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 "
        f'-d "{folder}" {REQUIREMENT}'
    )


def find_wheel(folder: str | Path) -> Path | None:
    """Return MediaPipe's wheel in a folder, or None; of several the last by name."""
    names = [
        name
        for name in read_folder(folder).files
        if name.lower().startswith("mediapipe") and name.endswith(".whl")
    ]
    return Path(folder) / names[-1] if names else None


def read_networks(wheel: str | Path) -> dict[str, TfliteNetwork]:
    """Read the two detectors and the landmark network, "short", "full" and "mesh", out of a wheel.

    Raises:
        FaceModelError: the file is no wheel, lacks one of them, or one cannot be read.
    """
    wheel = Path(wheel)
    networks: dict[str, TfliteNetwork] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            missing = [member for member in _MEMBERS.values() if member not in names]
            if missing:
                raise ValueError(f"{missing[0]} is not in it")
            for role, member in _MEMBERS.items():
                with archive.open(names[member]) as stream:
                    data = stream.read(_MAX_BYTES + 1)
                if len(data) > _MAX_BYTES:
                    raise ValueError(f"{member} is larger than {_MAX_BYTES >> 20} MiB")
                networks[role] = TfliteNetwork(read_tflite(data, member)).train(False)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # RuntimeError: an encrypted member; NotImplementedError, one of them, an unknown compression
        raise FaceModelError(
            f"MediaPipe's face networks cannot be read from {wheel} ({error}). Delete the file and download "
            f"it again: {download_command(wheel.parent)}"
        ) from error
    return networks


class MediaPipeModels(FaceModels):
    """MediaPipe's detectors and face mesh in the place of an InsightFace pack.

    Attributes:
        wheel: file that the networks were read from.
    """

    def __init__(self, networks: dict[str, TfliteNetwork], wheel: Path) -> None:
        """Take networks from `read_networks`.

        Raises:
            FaceModelError: they are other networks than their names say.
        """
        self.wheel, self.files, self.unreadable, self.provider = wheel, {}, [], "torch"
        self._recognizer = self._attributes = self._parser = None
        try:
            self._short, self._full = BlazeFace(networks["short"]), BlazeFace(networks["full"])
            self._mesh = FaceMesh(networks["mesh"])
        except ValueError as error:
            raise FaceModelError(
                f"{wheel}: {error}. Download it again: {download_command(wheel.parent)}"
            ) from error

    @classmethod
    def from_wheel(cls, path: str | Path) -> MediaPipeModels:
        """Load the networks of a wheel.

        Args:
            path: the wheel, or a folder with it, such as `ComfyUI/models/my3dgen/faces`.

        Raises:
            FaceModelError: there is no wheel, or it cannot be read; the message has the command that
                downloads it.
        """
        wheel = find_wheel(path) if Path(path).is_dir() else Path(path)
        if wheel is None or not wheel.is_file():
            raise FaceModelError(
                f"MediaPipe's wheel is not in {path}. This command downloads it (35 MB, Apache-2.0; it is "
                f"not installed): {download_command(path if Path(path).is_dir() else Path(path).parent)}"
            )
        return cls(read_networks(wheel), wheel)

    @property
    def has_landmarks(self) -> bool:
        return True

    @property
    def license(self) -> str:
        return LICENSE

    def describe(self) -> str:
        return f"Face models from {self.wheel.name}: MediaPipe's face detectors and face mesh"

    def largest_input(self, size: int) -> int:
        return size

    def detect(self, image: np.ndarray, size: int = 640, pad: float = 0.0) -> list[Face]:
        """Find faces in an upright or sideways picture, with their landmarks.

        Args:
            image: picture [H,W,3] uint8 RGB.
            size: how finely the picture is searched: up to 320 as a whole, from 640 and 1280 on also in
                windows.
            pad: empty border on every side, as a fraction of the longer side.

        Returns:
            The faces, best first.
        """
        height, width = image.shape[:2]
        photo_size, longest = (height, width), max(height, width)
        whole = longest * (1 + 2 * pad)
        corner = np.array([width - whole, height - whole]) / 2
        found = [
            *self._in_window(self._short, image, corner, whole),
            *self._in_window(self._full, image, corner, whole),
        ]
        if _LEAST_FACE * longest > _SMALL and not pad:
            for least, side, count in _WINDOWS:
                if size >= least:
                    found += self._in_windows(image, side * longest, count)
        found = merge_windows(found)[:_MAX_FACES]
        regions = [region_of_detection(one, photo_size) for one in found]
        landmarks, presence = self._mesh.locate(image, regions)
        faces = [
            Face(box_of_mesh(mesh), one.score, five_points(mesh), mesh)
            for one, mesh, probability in zip(found, landmarks, presence, strict=True)
            if probability >= _PRESENT
        ]
        return faces

    def _in_windows(self, image: np.ndarray, side: float, count: int) -> list[Detection]:
        """Detect faces with the full-range network in square windows, `count` along the longer side."""
        height, width = image.shape[:2]
        shrink = self._full.size / side
        small = resize_uint8(image, max(1, round(height * shrink)), max(1, round(width * shrink)))
        scale = np.array([width / small.shape[1], height / small.shape[0]])
        step = (max(small.shape[:2]) - self._full.size) / (count - 1)
        corners = [
            (top, left)
            for top in _starts(small.shape[0], self._full.size, step)
            for left in _starts(small.shape[1], self._full.size, step)
        ]
        views = np.zeros((len(corners), self._full.size, self._full.size, 3), np.uint8)
        for view, (top, left) in zip(views, corners, strict=True):
            part = small[top : top + self._full.size, left : left + self._full.size]
            view[: part.shape[0], : part.shape[1]] = part
        found = []
        for (top, left), faces in zip(corners, self._full(_as_tensor(views)), strict=True):
            found += [_moved(face, scale, np.array([left, top]) * scale) for face in faces]
        return found

    def _in_window(
        self, detector: BlazeFace, image: np.ndarray, corner: np.ndarray, side: float
    ) -> list[Detection]:
        """Detect faces in one square window around the whole picture, black beyond it."""
        height, width = image.shape[:2]
        shrink = detector.size / side
        small = resize_uint8(image, max(1, round(height * shrink)), max(1, round(width * shrink)))
        left, top = (max(0, round(float(-value * shrink))) for value in corner)
        view = np.zeros((1, detector.size, detector.size, 3), np.uint8)
        inside = view[0, top : top + small.shape[0], left : left + small.shape[1]]
        inside[:] = small[: inside.shape[0], : inside.shape[1]]
        scale = np.array([width / small.shape[1], height / small.shape[0]])
        return [_moved(face, scale, -np.array([left, top]) * scale) for face in detector(_as_tensor(view))[0]]

    def keypoints(self, crop: np.ndarray) -> np.ndarray | None:
        """Detect the keypoints of the face in the middle of an upright crop, independently of its landmarks.

        Args:
            crop: crop [S,S,3] uint8 RGB.

        Returns:
            Left eye, right eye, nose, middle of the mouth [4,2], or None without a face there.
        """
        side = crop.shape[0]
        found = self._in_window(self._short, crop, np.zeros(2), side)
        middles = [float(np.abs(one.keypoints[:4].mean(0) - side / 2).max()) for one in found]
        return found[int(np.argmin(middles))].keypoints[:4] if found and min(middles) < 0.2 * side else None

    def second_look(self, pixels: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """Locate the landmarks of a face again in a region around them, in the picture and in its mirror
        image.

        Args:
            pixels: photo [H,W,3], uint8 or float in 0..1.
            mesh: landmarks [468,3] from a first look, in the photo.

        Returns:
            Landmarks [2,468,3] in the photo, numbered alike. Their mean belongs to the mirror image likewise.
        """
        photo_size = (pixels.shape[0], pixels.shape[1])
        (nearer,), _ = self._mesh.locate(pixels, [region_of_mesh(mesh, photo_size)])
        return self._mesh.locate_mirrored(pixels, region_of_mesh(nearer, photo_size))

    def landmarks_twice(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        corners = np.asarray(box, np.float64).reshape(2, 2)
        middle, level = corners.mean(0), np.array([[0.0, 0.0], [1.0, 0.0]])
        inner = (middle + (corners - middle) * _MESH_IN_BOX).reshape(4)
        region = region_around(middle, inner, level, (image.shape[0], image.shape[1]))
        (first,), _ = self._mesh.locate(image, [region])
        return landmarks_106(self.second_look(image, first))


def _starts(length: int, side: int, step: float) -> list[int]:
    """Return where windows start that cover a length, at most `step` apart."""
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / max(step, 1) - 1e-6))
    return [round(i * (length - side) / count) for i in range(count + 1)]


def _as_tensor(pictures: np.ndarray) -> torch.Tensor:
    """Convert pictures [N,H,W,3] uint8 to [N,3,H,W] in [-1,1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _moved(face: Detection, scale: np.ndarray, corner: np.ndarray) -> Detection:
    """Map a detection in a window to the picture."""
    return Detection(
        (face.box.reshape(2, 2) * scale + corner).reshape(4), face.keypoints * scale + corner, face.score
    )
