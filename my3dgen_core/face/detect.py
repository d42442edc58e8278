"""Face networks from a local folder, and detection with fallbacks.

Every point and box is in *edge* coordinates of its picture: x right, y down, the picture spans
[0, W] x [0, H], and the center of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .packs import (
    ATTRIBUTES,
    DETECTION,
    LANDMARKS,
    MODELS_HINT,
    PARSING,
    RECOGNITION,
    FaceModelError,
    usable_pack,
)
from .parsing import FaceParser

INSTALL_HINT = (
    "Face detection needs insightface, OpenCV and onnxruntime. Install what is missing: for insightface, pip "
    "install --no-deps insightface and pip install onnx requests tqdm; for cv2, opencv-python-headless; for "
    "onnxruntime, the package of that name, or onnxruntime-gpu on an NVIDIA GPU. Plain 'pip install "
    "insightface' would put another OpenCV and the CPU's onnxruntime over yours."
)
_CPU = "CPUExecutionProvider"
_LARGEST_DETECTION_SIDE = 2048  # pixels: larger photos are shrunk before detection, or searched in tiles
# Tiles show a face of 30 pixels, the smallest that `align_faces` keeps, with 18, and any face of up to their
# overlap as a whole in one of them; the detection ladder finds larger ones.
_TILE_SCALE, _TILE_SIDE, _TILE_OVERLAP = 0.6, 1280, 160
_SAME_FACE = 0.4  # least overlap (intersection over union) of two boxes of one face
# Permutation of the 106 landmarks by mirroring the picture: contour 0-32, left brow and eye 33-51, mouth
# 52-71, nose 72-86, right eye and brow 87-105.
MIRRORED = (
    *(0, *range(17, 33), *range(1, 17)),
    *(87, 88, 93, 91, 90, 92, 89, 94, 96, 95, 101, 100, 99, 97, 98, 105, 104, 102, 103),
    *(61, 53, 57, 58, 59, 54, 55, 56, 60, 52, 62, 67, 68, 69, 70, 63, 64, 65, 66, 71),
    *(72, 73, 74, 81, 82, 83, 84, 85, 80, 75, 76, 77, 78, 79, 86),
    *(33, 34, 39, 37, 36, 38, 35, 40, 42, 41, 46, 47, 45, 44, 43, 50, 51, 49, 48),
)


@dataclass(frozen=True)
class Face:
    """One detected face."""

    box: np.ndarray
    """Left, top, right, bottom [4]."""
    score: float
    """Confidence of the detector, 0..1."""
    points: np.ndarray
    """Left eye, right eye, nose, left and right mouth corner [5,2], sides as seen in the upright picture."""
    mesh: np.ndarray | None = None
    """Landmarks [468 or more,3] of MediaPipe's face mesh, or None; the third is the depth, smaller nearer."""
    blendshapes: dict[str, float] | None = None
    """Weights of expressions by name, if the landmarks came with them."""

    @property
    def size(self) -> float:
        """Geometric mean of the box sides, in pixels."""
        width, height = self.box[2:] - self.box[:2]
        return float(math.sqrt(max(width, 0.0) * max(height, 0.0)))


class FaceModels:
    """Face networks of one folder.

    A detector is required; 106 landmarks, recognition, age and gender, and face parsing are optional. Build
    it with `FaceModels.from_folder`, once for any number of photos.

    Attributes:
        files: ONNX file in use for each role.
        unreadable: messages about files in the folder that cannot be read.
        provider: onnxruntime provider that the detector runs on, e.g. "CPUExecutionProvider".
    """

    def __init__(self, networks: dict[str, Any], files: dict[str, Path]) -> None:
        if DETECTION not in networks:
            raise FaceModelError(
                f"There is no face detector (SCRFD with five points) among the models. {MODELS_HINT}"
            )
        self.files = files
        self.unreadable: list[str] = []
        self._detector = networks[DETECTION]
        self._landmarks = networks.get(LANDMARKS)
        self._recognizer = networks.get(RECOGNITION)
        self._attributes = networks.get(ATTRIBUTES)
        self._parser: FaceParser | None = networks.get(PARSING)
        self.provider: str = self._detector.session.get_providers()[0]
        # A detector with a fixed input size has it set before any prepare(), in both insightface versions.
        fixed = getattr(self._detector, "input_size", None)
        self._fixed_size: int | None = int(fixed[0]) if fixed else None
        self._detector.det_thresh = 0.5

    @classmethod
    def from_folder(cls, path: str | Path, providers: Sequence[str] | None = None) -> FaceModels:
        """Load the ONNX files of a folder, each in the role identified by its shapes. Downloads nothing.

        Args:
            path: folder with .onnx files, such as `ComfyUI/models/insightface/models/buffalo_l`.
            providers: onnxruntime providers in order of preference; None takes CUDA where available, else the
                CPU. If the first cannot start and the CPU is among the others, all networks run there, with a
                warning.

        Raises:
            FaceModelError: the folder, a detector in it, or a required package is missing, or a package
                cannot be imported.
        """
        pack = usable_pack(path)
        files = pack.files
        if DETECTION not in files:
            raise FaceModelError(
                f"No face detector (SCRFD with five points) in {path}. It holds: {pack.describe()}. "
                f"{MODELS_HINT}"
            )
        with _explained_import("onnxruntime"):
            import onnxruntime
        available = onnxruntime.get_available_providers()
        wanted = list(providers) if providers else ["CUDAExecutionProvider", _CPU]
        usable = [name for name in wanted if name in available]
        if not usable:
            raise FaceModelError(f"onnxruntime offers {', '.join(available)}, but not {', '.join(wanted)}.")
        try:
            networks = _load_networks(files, usable)
        except FaceModelError:
            raise
        except Exception as error:  # each provider that is offered but cannot start has a type of its own
            if _CPU not in usable[1:]:
                raise
            networks = _load_networks(files, [_CPU])
            warnings.warn(
                f"The face models run on the CPU: {usable[0]} is offered by onnxruntime, but cannot start. "
                f"Check that CUDA and cuDNN have the versions it needs. It said: {error}",
                stacklevel=2,
            )
        for role, network in networks.items():
            if network is None:
                name = files[role].name
                raise FaceModelError(f"insightface does not know what to do with {name}. {MODELS_HINT}")
        _accept_batched_outputs(networks[DETECTION])
        models = cls(networks, files)
        models.unreadable = pack.unreadable
        return models

    @property
    def for_other_photos(self) -> FaceModels:
        """Networks that find faces in any picture, such as a reference."""
        return self

    @property
    def has_landmarks(self) -> bool:
        """True if the 106-landmark network is loaded; poses are better, and false detections are rejected."""
        return self._landmarks is not None

    @property
    def has_recognition(self) -> bool:
        """True if the identity network (ArcFace) is loaded."""
        return self._recognizer is not None

    @property
    def has_attributes(self) -> bool:
        """True if the network that estimates age and gender is loaded."""
        return self._attributes is not None

    @property
    def license(self) -> str:
        """License of the networks in use, for the report."""
        return f"InsightFace pack {self.files[DETECTION].parent.name}: for non-commercial research only"

    def describe(self) -> str:
        """Return one line for a log: the files and the provider that they run on."""
        names = ", ".join(f"{role} {file.name}" for role, file in self.files.items())
        text = f"Face models from {self.files[DETECTION].parent.name} on {self.provider}: {names}"
        return " ".join([text, *(f"Not used: {message}" for message in self.unreadable)])

    def detect(self, image: np.ndarray, size: int = 640, pad: float = 0.0) -> list[Face]:
        """Find faces in an upright picture.

        Args:
            image: picture [H,W,3] uint8 RGB.
            size: side of the square in pixels that the picture is scaled into. Faces that fill the frame need
                320.
            pad: empty border on every side, as a fraction of the longer side.

        Returns:
            The faces with a score above 0.5, best first.
        """
        # A detector with a fixed input gets smaller pictures on a larger canvas.
        side = self._fixed_size or size
        height, width = image.shape[:2]
        scale = min(size, side) / (max(height, width) * (1 + 2 * pad))
        small = resize_uint8(image, max(1, round(height * scale)), max(1, round(width * scale)))
        offset = round(pad * max(height, width) * scale)
        canvas = np.zeros((side, side, 3), np.uint8)
        inside = canvas[offset : offset + small.shape[0], offset : offset + small.shape[1]]
        inside[:] = small[: inside.shape[0], : inside.shape[1], ::-1]  # insightface works in BGR
        boxes, points = self._detector.detect(canvas, input_size=(side, side))
        if points is None or len(boxes) == 0:
            return []
        to_image = np.array([width / small.shape[1], height / small.shape[0]])
        corners = (boxes[:, :4].reshape(-1, 2, 2) - offset) * to_image
        points = (points - offset) * to_image
        return [
            Face(corners[i].reshape(4), float(boxes[i, 4]), points[i])
            for i in np.argsort(-boxes[:, 4], kind="stable")
        ]

    def largest_input(self, size: int) -> int:
        """Return the side of the square that `detect` really uses if asked for one of `size`."""
        return min(size, self._fixed_size or size)

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """Locate the 106 landmarks of a face: the mean of `landmarks_twice`.

        Args:
            image: picture [H,W,3] uint8 RGB with a roughly upright face.
            box: left, top, right, bottom of the face [4].

        Returns:
            Landmarks [106,2], or None without that network.
        """
        both = self.landmarks_twice(image, box)
        return None if both is None else both.mean(0)

    def landmarks_twice(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """Locate the landmarks in the picture and in its mirror image.

        Their mean is more accurate than either and equivariant to mirroring; their distance is large where
        the network is unsure, as at covered parts.

        Args:
            image: picture [H,W,3] uint8 RGB with a roughly upright face.
            box: left, top, right, bottom of the face [4].

        Returns:
            Both estimates [2,106,2] in the coordinates of the picture, or None without that network.
        """
        if self._landmarks is None:
            return None
        width, box = image.shape[1], np.asarray(box, np.float64)
        here = self._landmarks_of(image, box)
        there = self._landmarks_of(image[:, ::-1], np.array([width - box[2], box[1], width - box[0], box[3]]))
        there[:, 0] = width - there[:, 0]
        return np.stack([here, there[list(MIRRORED)]])

    def _landmarks_of(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Landmarks [106,2] of a face in a box [4], without the mirror image."""
        assert self._landmarks is not None
        found = self._landmarks.get(np.ascontiguousarray(image[:, :, ::-1]), _FaceDict(bbox=box - 0.5))
        return np.asarray(found, np.float64)[:, :2] + 0.5

    def given_faces(self, index: int, photo_size: tuple[int, int]) -> list[Face] | None:
        """Return the faces of a photo that are known without detection; None where faces are to be detected.

        Args:
            index: position of the photo in the batch.
            photo_size: (height, width) of the photo.
        """
        return None

    def second_look(self, pixels: np.ndarray, mesh: np.ndarray) -> np.ndarray | None:
        """Locate the landmarks of a face mesh again, see `MediaPipeModels`; None without that network."""
        return None

    def keypoints(self, crop: np.ndarray) -> np.ndarray | None:
        """Detect eyes, nose and mouth in a crop, see `MediaPipeModels`; None without that network."""
        return None

    def attributes(self, image: np.ndarray, box: np.ndarray) -> dict[str, float] | None:
        """Estimate age and gender of a face.

        Args:
            image: picture [H,W,3] uint8 RGB.
            box: left, top, right, bottom of the face [4].

        Returns:
            "age" in years and "gender" (0 female, 1 male), or None without that network.
        """
        if self._attributes is None:
            return None
        slots = _FaceDict(bbox=np.asarray(box) - 0.5)
        gender, age = self._attributes.get(np.ascontiguousarray(image[:, :, ::-1]), slots)
        return {"age": float(age), "gender": float(gender)}

    def features(self, aligned: np.ndarray) -> np.ndarray:
        """Compute identity features, not normalized, see `recognition.embed`.

        Args:
            aligned: faces aligned to ArcFace's template [N,112,112,3], RGB in 0..255.

        Returns:
            Features [N,512].

        Raises:
            FaceModelError: there is no identity network.
        """
        if self._recognizer is None:
            raise FaceModelError(
                f"There is no identity network (ArcFace, 112x112 to 512) in the folder. {MODELS_HINT}"
            )
        rows = [
            self._recognizer.get_feat(np.ascontiguousarray(face[:, :, ::-1])).reshape(-1) for face in aligned
        ]
        return np.stack(rows) if rows else np.zeros((0, 512), np.float32)

    def parse(self, image: np.ndarray) -> np.ndarray | None:
        """Classify the pixels of a crop.

        Args:
            image: upright crop [512,512,3] uint8 RGB.

        Returns:
            Classes [512,512], see `parsing.CLASSES`, or None without that network.
        """
        return None if self._parser is None else self._parser.classes(image)


@contextlib.contextmanager
def _explained_import(package: str) -> Iterator[None]:
    """Explain why the import of an optional package inside the block fails.

    Raises:
        FaceModelError: the package is missing or cannot be imported; the message says what to do.
    """
    try:
        yield
    except ImportError as error:
        raise FaceModelError(f"{INSTALL_HINT} (The import of {package} said: {error}.)") from error
    except Exception as error:  # binary packages raise anything: ValueError, AttributeError, OSError
        raise FaceModelError(
            f"{package} is installed, but its import fails with {type(error).__name__}: {error}. Usually it "
            f"was built for another version of NumPy, or a library of CUDA is missing. Reinstall {package} "
            "and what the error names in the versions that fit together (pip install --force-reinstall "
            "--no-deps), then restart."
        ) from error


def _load_networks(files: dict[str, Path], providers: list[str]) -> dict[str, Any]:
    """Load the network of each role with onnxruntime; None where insightface does not know the file."""
    with _explained_import("onnxruntime"):
        import onnxruntime
    with _explained_import("insightface"):
        from insightface import model_zoo
    # Waiting threads must not spin: next to a busy program (training, another sampler) that is ten times
    # slower.
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    networks: dict[str, Any] = {}
    for role, file in files.items():
        if role == PARSING:  # a role that insightface does not know
            networks[role] = FaceParser(onnxruntime.InferenceSession(str(file), options, providers))
            continue
        with contextlib.redirect_stdout(io.StringIO()):  # insightface 0.7.3 prints its providers
            networks[role] = model_zoo.get_model(str(file), providers=providers, sess_options=options)
    return networks


class _FaceDict(dict):
    """Face object with the one item that insightface's networks read, in both versions of the package."""

    @property
    def bbox(self) -> np.ndarray:
        return self["bbox"]


def _accept_batched_outputs(detector: Any) -> None:
    """Drop the batch dimension of detector outputs, which insightface 0.7.3 cannot read."""
    if getattr(detector, "batched", None) is not None:
        return  # newer versions handle it
    session = detector.session
    if len(session.get_outputs()[0].shape) == 3:
        detector.session = _Unbatched(session)


class _Unbatched:
    """Wrapper of an onnxruntime session that removes the first dimension of its outputs."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return [output[0] if output.ndim == 3 else output for output in self._session.run(*args, **kwargs)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def resize_uint8(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resize: [H,W,3] uint8 to [height,width,3] uint8."""
    if image.shape[:2] == (height, width):
        return image
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    small = F.interpolate(tensor, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return small[0].permute(1, 2, 0).contiguous().numpy()


def as_uint8(pixels: np.ndarray) -> np.ndarray:
    """Convert a photo (uint8, or float in 0..1) to uint8."""
    return pixels if pixels.dtype == np.uint8 else np.round(pixels * 255).astype(np.uint8)


def detection_attempts(
    models: FaceModels, pixels: np.ndarray, det_size: int | None = None, turned: bool = False
) -> Iterator[tuple[str, list[Face]]]:
    """Run the detector with a series of settings, from the most common case to the rarest.

    Input size 640, then 320 (faces that fill the frame), 640 with an empty border (faces cut by the picture's
    edge), 1280 (small faces); or, if `turned`, the picture rotated by 90, 180 and 270 degrees at 640 and 320.

    Args:
        pixels: photo [H,W,3], uint8 or float in 0..1.
        det_size: size to try before the others (320 for crops and renders).
        turned: use the rotated pictures instead of the upright one.

    Yields:
        The name of the setting, and the faces in photo coordinates; settings without a face are skipped.
    """
    height, width = pixels.shape[:2]
    shrink = min(1.0, _LARGEST_DETECTION_SIDE / max(height, width))
    small = as_uint8(pixels)
    small = resize_uint8(small, max(1, round(height * shrink)), max(1, round(width * shrink)))
    to_photo = np.array([width / small.shape[1], height / small.shape[0]])
    sizes = list(dict.fromkeys(size for size in (det_size, 640, 320) if size))
    if turned:
        steps = [(turns, size, 0.0) for size in sizes for turns in (1, 2, 3)]
    else:
        steps = [(0, size, 0.0) for size in sizes] + [(0, 640, 0.5)]
        steps += [(0, 1280, 0.0)] if max(height, width) > 640 else []
    for turns, size, pad in steps:
        faces = models.detect(np.rot90(small, turns), size, pad)
        faces = [_rotate_back(face, turns, small.shape[1], small.shape[0]) for face in faces]
        if faces:
            border = " with border" if pad else ""
            rotation = f", turned {turns * 90} degrees" if turns else ""
            name = f"{size}{border}{rotation}"
            yield (
                name,
                [_moved(face, to_photo, np.zeros(2)) for face in faces],
            )


def _rotate_back(face: Face, turns: int, width: int, height: int) -> Face:
    """Map a face found in np.rot90(picture, turns) to the upright picture of the given size."""
    if turns == 0:
        return face

    def back(points: np.ndarray) -> np.ndarray:
        x, y = points[:, 0], points[:, 1]
        if turns == 1:
            return np.stack([width - y, x], 1)
        if turns == 2:
            return np.stack([width - x, height - y], 1)
        return np.stack([y, height - x], 1)

    corners = back(face.box.reshape(2, 2))
    mesh = None if face.mesh is None else np.concatenate([back(face.mesh[:, :2]), face.mesh[:, 2:]], axis=1)
    return Face(
        np.concatenate([corners.min(0), corners.max(0)]),
        face.score,
        back(face.points),
        mesh,
        face.blendshapes,
    )


def detect_in_tiles(models: FaceModels, pixels: np.ndarray) -> list[Face]:
    """Detect faces too small for the detection ladder, in overlapping tiles of a large photo.

    Args:
        models: face networks.
        pixels: photo [H,W,3], uint8 or float in 0..1.

    Returns:
        Faces in photo coordinates, best first; none if the photo is small enough for the ladder.
    """
    height, width = pixels.shape[:2]
    if max(height, width) <= _LARGEST_DETECTION_SIDE:
        return []
    photo = resize_uint8(as_uint8(pixels), round(height * _TILE_SCALE), round(width * _TILE_SCALE))
    side = models.largest_input(_TILE_SIDE)
    to_photo = np.array([width / photo.shape[1], height / photo.shape[0]])
    found: list[Face] = []
    for top in _tile_starts(photo.shape[0], side):
        for left in _tile_starts(photo.shape[1], side):
            corner = np.array([left, top])
            for face in models.detect(photo[top : top + side, left : left + side], side):
                found.append(_moved(face, to_photo, corner))
    return merge_faces(found)


def _moved(face: Face, scale: np.ndarray, corner: np.ndarray) -> Face:
    """Map a face found in a part of a shrunk photo to the photo.

    Args:
        face: the face in the part.
        scale: photo pixels per pixel of the shrunk photo, (x, y).
        corner: upper left corner of the part in the shrunk photo.
    """
    box = ((face.box.reshape(2, 2) + corner) * scale).reshape(4)
    mesh = face.mesh
    if mesh is not None:
        places = (mesh[:, :2] + corner) * scale
        mesh = np.concatenate([places, mesh[:, 2:] * scale.mean()], axis=1)
    return Face(box, face.score, (face.points + corner) * scale, mesh, face.blendshapes)


def _tile_starts(length: int, side: int) -> list[int]:
    """Return where tiles start that cover a length evenly, with at least `_TILE_OVERLAP` in common."""
    count = max(1, math.ceil((length - _TILE_OVERLAP) / (side - _TILE_OVERLAP)))
    return [round(i * (length - side) / (count - 1)) for i in range(count)] if count > 1 else [0]


def merge_faces(faces: Sequence[Face]) -> list[Face]:
    """Return each face once, by its best detection, best first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_overlap(face.box, other.box) < _SAME_FACE for other in kept):
            kept.append(face)
    return kept


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return intersection over union of two boxes."""
    common = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return float(common / union) if union > 0 else 0.0
