"""Faces whose landmarks another program found: ComfyUI's FACE_LANDMARKS as a source of faces.

A value of that type is {"frames": [[face, ...], ...], "image_size": (H, W), ...}; a face is a dictionary with
"landmarks_xy" [468 or 478, 2] in pixels, "landmarks_3d" of as many points in units of the network's picture,
"bbox_xyxy", "score", and "blendshapes" by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .detect import Face, FaceModels
from .face_mesh import POINTS, box_of_mesh, five_points
from .packs import FaceModelError

_EXPECTED = "Connect the output face_landmarks of Detect Face Landmarks (MediaPipe), run on the same photos."


class GivenLandmarks(FaceModels):
    """Known faces of a batch of photos; networks for what they lack come from a pack, if there is one."""

    def __init__(
        self, frames: Sequence[tuple[Sequence[Face], tuple[int, int]]], pack: FaceModels | None = None
    ) -> None:
        """Take the faces of each photo, with the (height, width) in whose pixels they are."""
        self.files, self.unreadable = ({}, []) if pack is None else (pack.files, pack.unreadable)
        self.provider = "none" if pack is None else pack.provider
        self._frames, self._pack = list(frames), pack

    @classmethod
    def from_values(cls, values: Sequence[Any], pack: FaceModels | None = None) -> GivenLandmarks:
        """Read FACE_LANDMARKS of ComfyUI.

        Args:
            values: one value for each batch of photos, in their order.
            pack: networks for identity and face parsing, or None.

        Raises:
            ValueError: a value is not of this type.
        """
        frames: list[tuple[Sequence[Face], tuple[int, int]]] = []
        for value in values:
            try:
                height, width = (int(side) for side in value["image_size"])
                if min(height, width) < 1:
                    raise ValueError(f"pictures of {width} x {height} pixels")
                frames += [([_face(one) for one in faces], (height, width)) for faces in value["frames"]]
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise ValueError(f"face_landmarks cannot be read: {what}. {_EXPECTED}") from error
        return cls(frames, pack)

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._frames)

    def given_faces(self, index: int, photo_size: tuple[int, int]) -> list[Face] | None:
        """Return the faces of a photo in its pixels.

        Raises:
            ValueError: there are no landmarks for this photo, or they are of one with other proportions.
        """
        if index >= len(self._frames):
            raise ValueError(
                f"face_landmarks has {len(self._frames)} frames, fewer than there are photos. {_EXPECTED}"
            )
        faces, (height, width) = self._frames[index]
        scale = np.array([photo_size[1] / width, photo_size[0] / height])
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise ValueError(
                f"face_landmarks is of a picture of {width} x {height} pixels, and photo {index + 1} has "
                f"{photo_size[1]} x {photo_size[0]}. {_EXPECTED}"
            )
        if (height, width) == photo_size:
            return list(faces)
        scaled = []
        for face in faces:
            assert face.mesh is not None
            mesh = face.mesh * [*scale, scale.mean()]
            scaled.append(
                Face(face.box * np.tile(scale, 2), face.score, face.points * scale, mesh, face.blendshapes)
            )
        return scaled

    @property
    def for_other_photos(self) -> FaceModels:
        if self._pack is None:
            raise FaceModelError(
                "face_landmarks knows only the faces of its own photos. Choose a face pack in face_models."
            )
        return self._pack

    @property
    def has_landmarks(self) -> bool:
        return True

    @property
    def has_recognition(self) -> bool:
        return self._pack is not None and self._pack.has_recognition

    @property
    def has_attributes(self) -> bool:
        return self._pack is not None and self._pack.has_attributes

    @property
    def license(self) -> str:
        known = "Landmarks from face_landmarks, no face model of its own"
        return known if self._pack is None else f"{known}; {self._pack.license}"

    def describe(self) -> str:
        text = "Faces from face_landmarks"
        return text if self._pack is None else f"{text}. {self._pack.describe()}"

    def detect(self, image: np.ndarray, size: int = 640, pad: float = 0.0) -> list[Face]:
        return self.for_other_photos.detect(image, size, pad)

    def landmarks_twice(self, image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        return None if self._pack is None else self._pack.landmarks_twice(image, box)

    def attributes(self, image: np.ndarray, box: np.ndarray) -> dict[str, float] | None:
        return None if self._pack is None else self._pack.attributes(image, box)

    def features(self, aligned: np.ndarray) -> np.ndarray:
        return self.for_other_photos.features(aligned)

    def parse(self, image: np.ndarray) -> np.ndarray | None:
        return None if self._pack is None else self._pack.parse(image)


def _face(value: Mapping[str, Any]) -> Face:
    """Convert one face of a frame.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not of that form.
    """
    flat = np.asarray(value["landmarks_xy"], np.float64)
    if flat.ndim != 2 or flat.shape[0] < POINTS or flat.shape[1] != 2 or not np.isfinite(flat).all():
        raise ValueError(f"landmarks of the shape {list(flat.shape)}")
    solid = np.asarray(value.get("landmarks_3d", np.zeros((len(flat), 3))), np.float64)
    if solid.shape != (len(flat), 3) or not np.isfinite(solid).all():
        raise ValueError(f"landmarks_3d of the shape {list(solid.shape)}")
    spread = float(solid[:, :2].std(0).max())
    depth = solid[:, 2:] * (float(flat.std(0).max()) / spread if spread > 0 else 0.0)
    shapes = value.get("blendshapes")
    return Face(
        box_of_mesh(flat),
        float(value.get("score", 1.0)),
        five_points(flat),
        np.concatenate([flat, depth], axis=1),
        {str(name): float(weight) for name, weight in shapes.items()} if shapes else None,
    )
