"""Face models from a local folder, and the search for a face that does not give up at the first miss.

Coordinates: every point and box is in *edge* coordinates of its picture: x right, y down, the picture spans
[0, W] x [0, H] and the centre of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..formats.onnx_file import OnnxGraph, read_onnx
from .parsing import FaceParser, parses_faces

INSTALL_HINT = (
    "Face detection needs the insightface package. On a CPU: pip install insightface. On an NVIDIA GPU: "
    "pip install --no-deps insightface, then pip install onnxruntime-gpu onnx opencv-python-headless "
    "scikit-image scipy tqdm requests (plain 'pip install insightface' would bring the CPU onnxruntime)."
)
MODELS_HINT = (
    "Put an InsightFace pack (buffalo_l, buffalo_s or antelopev2, from the model zoo of the InsightFace "
    "project: the unpacked .onnx files) into a folder such as ComfyUI/models/insightface/models/buffalo_l. "
    "Nothing is downloaded automatically."
)
DETECTION, LANDMARKS, RECOGNITION, PARSING = "detection", "landmarks", "recognition", "parsing"
ATTRIBUTES = "age and gender"
_LARGEST_DETECTION_SIDE = 2048
# Which of the 106 landmarks each becomes in a mirrored picture: contour 0-32, left brow and eye 33-51, mouth
# 52-71, nose 72-86, right eye and brow 87-105.
MIRRORED = (
    *(0, *range(17, 33), *range(1, 17)),
    *(87, 88, 93, 91, 90, 92, 89, 94, 96, 95, 101, 100, 99, 97, 98, 105, 104, 102, 103),
    *(61, 53, 57, 58, 59, 54, 55, 56, 60, 52, 62, 67, 68, 69, 70, 63, 64, 65, 66, 71),
    *(72, 73, 74, 81, 82, 83, 84, 85, 80, 75, 76, 77, 78, 79, 86),
    *(33, 34, 39, 37, 36, 38, 35, 40, 42, 41, 46, 47, 45, 44, 43, 50, 51, 49, 48),
)


class FaceModelError(RuntimeError):
    """Face models or the package that runs them are missing; the message says what to do."""


@dataclass(frozen=True)
class Face:
    """One detection.

    box: left, top, right, bottom; score: 0..1; points: [5,2] named by the upright picture: image-left eye,
    image-right eye, nose, image-left and image-right mouth corner.
    """

    box: np.ndarray
    score: float
    points: np.ndarray

    @property
    def size(self) -> float:
        """Geometric mean of the box sides, in pixels."""
        width, height = self.box[2:] - self.box[:2]
        return float(math.sqrt(max(width, 0.0) * max(height, 0.0)))


def role_of(graph: OnnxGraph) -> str | None:
    """Tell by its shapes what a network does: detection, 106 landmarks, recognition, parsing, or None."""
    if len(graph.inputs) != 1:
        return None
    if parses_faces(graph):
        return PARSING
    shape = next(iter(graph.inputs.values()))
    last = [out[-1] if out else None for out in graph.outputs.values()]
    if len(shape) != 4 or shape[1] != 3:
        return None
    if len(last) in (9, 15):
        return DETECTION
    if shape[2:] == [192, 192] and last == [212]:
        return LANDMARKS
    if shape[2:] == [112, 112] and last == [512]:
        return RECOGNITION
    if shape[2:] == [96, 96] and last == [3]:
        return ATTRIBUTES
    return None


class FaceModels:
    """The networks of one folder: a detector, and where the folder has them 106 landmarks, recognition and
    face parsing.

    Build it with `FaceModels.from_folder`; then use it for as many photos as you like.

    Attributes:
        files: role -> path of the ONNX file in use.
        provider: the onnxruntime provider that really runs, e.g. "CPUExecutionProvider".
    """

    def __init__(self, networks: dict[str, Any], files: dict[str, Path]) -> None:
        if DETECTION not in networks:
            raise FaceModelError(
                f"There is no face detector (SCRFD with five points) among the models. {MODELS_HINT}"
            )
        self.files = files
        self._detector = networks[DETECTION]
        self._landmarks = networks.get(LANDMARKS)
        self._recogniser = networks.get(RECOGNITION)
        self._attributes = networks.get(ATTRIBUTES)
        self._parser: FaceParser | None = networks.get(PARSING)
        self.provider: str = self._detector.session.get_providers()[0]
        # A detector with a fixed input size has it set before any prepare(); both insightface versions agree
        # on this.
        fixed = getattr(self._detector, "input_size", None)
        self._fixed_size: int | None = int(fixed[0]) if fixed else None
        self._detector.det_thresh = 0.5

    @classmethod
    def from_folder(cls, path: str | Path, providers: Sequence[str] | None = None) -> FaceModels:
        """Load the ONNX files of a folder, each for the role that its shapes tell. Downloads nothing.

        Args:
            path: folder with .onnx files, such as `ComfyUI/models/insightface/models/buffalo_l`.
            providers: onnxruntime providers in order of preference; None takes CUDA where onnxruntime offers
                it.
        Raises:
            FaceModelError: the folder, a detector in it, or a package is missing.
        """
        files = find_models(path)
        if DETECTION not in files:
            raise FaceModelError(f"No face detector (SCRFD with five points) in {path}. {MODELS_HINT}")
        try:
            import onnxruntime
            from insightface import model_zoo
        except ImportError as error:
            raise FaceModelError(f"{INSTALL_HINT} (The import said: {error}.)") from error
        available = onnxruntime.get_available_providers()
        wanted = list(providers) if providers else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        usable = [name for name in wanted if name in available]
        if not usable:
            raise FaceModelError(f"onnxruntime offers {', '.join(available)}, but not {', '.join(wanted)}.")
        # waiting threads must not spin: beside a busy program (training, another sampler) that costs tenfold
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        networks: dict[str, Any] = {}
        for role, file in files.items():
            if role == PARSING:  # insightface has no such kind
                networks[role] = FaceParser(onnxruntime.InferenceSession(str(file), options, usable))
                continue
            with contextlib.redirect_stdout(io.StringIO()):  # insightface 0.7.3 prints its providers
                networks[role] = model_zoo.get_model(str(file), providers=usable, sess_options=options)
            if networks[role] is None:
                raise FaceModelError(f"insightface does not know what to do with {file.name}. {MODELS_HINT}")
        _accept_batched_outputs(networks[DETECTION])
        return cls(networks, files)

    @property
    def has_landmarks(self) -> bool:
        """Whether the 106-point network is there: better poses, and wrong detections are recognised."""
        return self._landmarks is not None

    @property
    def has_recognition(self) -> bool:
        """Whether the identity network (ArcFace) is there."""
        return self._recogniser is not None

    @property
    def has_parsing(self) -> bool:
        """Whether a face-parsing network is there: it tells the head from the background."""
        return self._parser is not None

    @property
    def has_attributes(self) -> bool:
        """Whether the network that guesses age and gender is there."""
        return self._attributes is not None

    def describe(self) -> str:
        """One line for a log: which files run on which provider."""
        names = ", ".join(f"{role} {file.name}" for role, file in self.files.items())
        return f"Face models from {self.files[DETECTION].parent.name} on {self.provider}: {names}"

    def detect(self, image: np.ndarray, size: int = 640, pad: float = 0.0) -> list[Face]:
        """Find faces in an upright picture.

        Args:
            image: [H,W,3] uint8 RGB.
            size: side of the square the picture is scaled into. Faces that fill the frame need 320.
            pad: empty border on every side, as a fraction of the longer side.
        Returns:
            faces with a score above 0.5, best first.
        """
        side = (
            self._fixed_size or size
        )  # a detector with a fixed input gets smaller pictures on a larger canvas
        height, width = image.shape[:2]
        scale = min(size, side) / (max(height, width) * (1 + 2 * pad))
        small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
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

    def landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """The 106 landmarks [106,2] of the face in a box (edge coordinates), or None without that network:
        the mean of `landmarks_twice`.

        The network wants a roughly upright face: image is [H,W,3] uint8 RGB."""
        both = self.landmarks_twice(image, box)
        return None if both is None else both.mean(0)

    def landmarks_twice(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """The landmarks as the network sees them in the picture and in its mirror image, [2,106,2] in the
        picture's edge coordinates. Their mean is surer than either, and the same for a mirrored photo; where
        they part, the network guesses."""
        if self._landmarks is None:
            return None
        width, box = image.shape[1], np.asarray(box, np.float64)
        here = self._landmarks_of(image, box)
        there = self._landmarks_of(image[:, ::-1], np.array([width - box[2], box[1], width - box[0], box[3]]))
        there[:, 0] = width - there[:, 0]
        return np.stack([here, there[list(MIRRORED)]])

    def _landmarks_of(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        assert self._landmarks is not None
        found = self._landmarks.get(np.ascontiguousarray(image[:, :, ::-1]), _Slots(bbox=box - 0.5))
        return np.asarray(found, np.float64)[:, :2] + 0.5

    def attributes(self, image: np.ndarray, box: np.ndarray) -> dict[str, float] | None:
        """Apparent age in years and gender (0 female, 1 male) of the face in a box, or None without that
        network.

        image is [H,W,3] uint8 RGB; the box in edge coordinates."""
        if self._attributes is None:
            return None
        slots = _Slots(bbox=np.asarray(box) - 0.5)
        gender, age = self._attributes.get(np.ascontiguousarray(image[:, :, ::-1]), slots)
        return {"age": float(age), "gender": float(gender)}

    def features(self, aligned: np.ndarray) -> np.ndarray:
        """Unnormalised identity features [N,512] of aligned faces [N,112,112,3] RGB, 0..255."""
        if self._recogniser is None:
            raise FaceModelError(
                f"There is no identity network (ArcFace, 112x112 to 512) in the folder. {MODELS_HINT}"
            )
        rows = [
            self._recogniser.get_feat(np.ascontiguousarray(face[:, :, ::-1])).reshape(-1) for face in aligned
        ]
        return np.stack(rows) if rows else np.zeros((0, 512), np.float32)

    def parse(self, image: np.ndarray) -> np.ndarray | None:
        """The class of each pixel [512,512] (see parsing.CLASSES) of a crop [512,512,3] uint8 RGB, or None
        without that network."""
        return None if self._parser is None else self._parser.classes(image)


class _Slots(dict):
    """The little that insightface's landmark network wants of a face object, in both versions."""

    @property
    def bbox(self) -> np.ndarray:
        return self["bbox"]


def find_models(path: str | Path) -> dict[str, Path]:
    """Role -> ONNX file in a folder (or in its only subfolder with ONNX files, as antelopev2 unpacks); a
    face-parsing network may lie in its subfolder `parsing`.

    Raises:
        FaceModelError: there is no such folder or no ONNX file in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FaceModelError(f"The face model folder {folder} does not exist. {MODELS_HINT}")
    files = sorted(folder.glob("*.onnx"))
    if not files:
        nested = [
            sub
            for sub in sorted(folder.iterdir())
            if sub.is_dir() and sub.name != PARSING and any(sub.glob("*.onnx"))
        ]
        files = sorted(nested[0].glob("*.onnx")) if len(nested) == 1 else []
    if not files:
        raise FaceModelError(f"There are no .onnx files in {folder}. {MODELS_HINT}")
    roles: dict[str, Path] = {}
    for file in [*files, *sorted((folder / PARSING).glob("*.onnx"))]:
        try:
            role = role_of(read_onnx(file, weights=False))
        except ValueError as error:
            raise FaceModelError(str(error)) from error
        if role:
            roles.setdefault(role, file)
    return roles


def _accept_batched_outputs(detector: Any) -> None:
    """insightface 0.7.3 wants detector outputs without a batch dimension; drop it where there is one."""
    if getattr(detector, "batched", None) is not None:
        return  # newer versions look for themselves
    session = detector.session
    if len(session.get_outputs()[0].shape) == 3:
        detector.session = _Unbatched(session)


class _Unbatched:
    """An onnxruntime session whose outputs have lost their first dimension."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return [output[0] if output.ndim == 3 else output for output in self._session.run(*args, **kwargs)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased resize of [H,W,3] uint8."""
    if image.shape[:2] == (height, width):
        return image
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    small = F.interpolate(tensor, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return small[0].permute(1, 2, 0).contiguous().numpy()


def as_uint8(pixels: np.ndarray) -> np.ndarray:
    """A photo (uint8, or float in 0..1) as uint8."""
    return pixels if pixels.dtype == np.uint8 else np.round(pixels * 255).astype(np.uint8)


def detection_ladder(
    models: FaceModels, pixels: np.ndarray, det_size: int | None = None, turned: bool = False
) -> Iterator[tuple[str, list[Face]]]:
    """Yield (what was tried, faces in photo coordinates) for ever more patient ways to look.

    640, then 320 (faces that fill the frame), then with an empty border (faces cut by the picture's edge),
    then 1280 (small faces); or, turned, the picture by 90, 180 and 270 degrees. Steps without a face are not
    yielded.

    Args:
        pixels: the photo, [H,W,3] uint8 or float in 0..1.
        det_size: a size to try before the others (320 for crops and renders).
        turned: look at the turned pictures instead of the upright one.
    """
    height, width = pixels.shape[:2]
    shrink = min(1.0, _LARGEST_DETECTION_SIDE / max(height, width))
    small = as_uint8(pixels)
    small = resize(small, max(1, round(height * shrink)), max(1, round(width * shrink)))
    to_photo = np.array([width / small.shape[1], height / small.shape[0]])
    sizes = list(dict.fromkeys(size for size in (det_size, 640, 320) if size))
    if turned:
        steps = [(turns, size, 0.0) for size in sizes for turns in (1, 2, 3)]
    else:
        steps = [(0, size, 0.0) for size in sizes] + [(0, 640, 0.5)]
        steps += [(0, 1280, 0.0)] if max(height, width) > 640 else []
    for turns, size, pad in steps:
        faces = models.detect(np.rot90(small, turns), size, pad)
        faces = [_turn_back(face, turns, small.shape[1], small.shape[0]) for face in faces]
        if faces:
            name = (
                f"{size}"
                + (" with border" if pad else "")
                + (f", turned {turns * 90} degrees" if turns else "")
            )
            yield (
                name,
                [Face(face.box * np.tile(to_photo, 2), face.score, face.points * to_photo) for face in faces],
            )


def _turn_back(face: Face, turns: int, width: int, height: int) -> Face:
    """Undo np.rot90(picture, turns) for a face; width and height are of the upright picture."""
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
    return Face(np.concatenate([corners.min(0), corners.max(0)]), face.score, back(face.points))
