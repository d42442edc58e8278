"""Cameras of three.js, as ComfyUI's 3D nodes pass them (LOAD3D_CAMERA): to and from cameras [N, 25].

World axes are EG3D's: x right, y up, z out of the face, in the units of an extracted mesh. The axes of a
three.js camera are x right, y up, z backward. Its field of view is vertical, in degrees; in a square picture
it is the horizontal one too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pose import cam2world, check_cameras, intrinsics, pack

NO_CAMERA = "This is not a camera of the 3D viewer. Connect camera_info of Load 3D, and move the view once."
AT_TARGET = "The 3D viewer's camera is at its own target. Move the view there once."
_AXES = np.diag([1.0, -1.0, -1.0])  # camera axes of three.js to those of OpenCV, and back
_SQUARE = 1e-3  # largest difference of focal lengths, and offset of the principal point, that is left out


def to_viewer(camera: Tensor) -> dict[str, Any]:
    """Convert a camera [1, 25] to a LOAD3D_CAMERA: a dictionary of plain numbers, in world units and degrees.

    The target is the point of the viewing axis nearest to the world's origin, the center of the head, or 1
    ahead of a camera that looks away from it. The aspect is 1, the zoom 1.

    Raises:
        ValueError: not one camera, or one with different focal lengths or its principal point off the middle.
    """
    if len(check_cameras(camera)) != 1:
        raise ValueError(f"One camera is needed, not {len(camera)}.")
    values = camera.detach().double().cpu()
    pose, k = cam2world(values)[0].numpy(), intrinsics(values)[0].numpy()
    off = max(abs(k[0, 0] / k[1, 1] - 1), abs(k[0, 2] - 0.5), abs(k[1, 2] - 0.5), abs(k[0, 1]))
    if not off < _SQUARE:
        raise ValueError(
            "A 3D viewer has one focal length and looks through the middle of its picture, but this camera "
            f"has the focal lengths {k[0, 0]:.4g} and {k[1, 1]:.4g} and its center at {k[0, 2]:.3g}, "
            f"{k[1, 2]:.3g}. Use a camera of Camera, Camera Path or Align Faces."
        )
    from scipy.spatial.transform import Rotation  # here: 0.2 s that other uses of cameras need not wait for

    position, forward = pose[:3, 3], pose[:3, 2]
    ahead = float(-position @ forward)
    ahead = ahead if ahead > 0 else 1.0
    quaternion = Rotation.from_matrix(pose[:3, :3] @ _AXES).as_quat()  # x, y, z, w
    return {
        "position": dict(zip("xyz", position.tolist(), strict=True)),
        "target": dict(zip("xyz", (position + ahead * forward).tolist(), strict=True)),
        "quaternion": dict(zip("xyzw", quaternion.tolist(), strict=True)),
        "fov": math.degrees(2 * math.atan(0.5 / float(k[1, 1]))),
        "zoom": 1.0,
        "cameraType": "perspective",
        "aspect": 1.0,
        "near": 0.01 * ahead,
        "far": 100.0 * ahead,
    }


@dataclass(frozen=True)
class ViewerCamera:
    """Camera of a 3D viewer, as `read_viewer` finds it in a LOAD3D_CAMERA."""

    position: np.ndarray
    """Position [3] in the scene's units."""
    target: np.ndarray
    """Point [3] that the view turns about."""
    zoom: float = 1.0
    """Factor on the focal length."""
    rotation: np.ndarray | None = None
    """Camera axes right, up, backward as columns [3,3], or None: level, toward the target."""
    fov: float | None = None
    """Vertical field of view at zoom 1 in degrees, or None: not given."""
    height: float | None = None
    """Height of an orthographic view at zoom 1 in the scene's units, or None: perspective."""
    by_hand: bool = False
    """True if the camera is that of a viewport, which a user places by eye."""

    @property
    def whole(self) -> bool:
        """True if more is given than the direction and the zoom."""
        return self.rotation is not None or self.fov is not None

    @property
    def offset(self) -> np.ndarray:
        """Vector [3] from the target to the camera.

        Raises:
            ValueError: they coincide.
        """
        offset = self.position - self.target
        if not offset.any():
            raise ValueError(AT_TARGET)
        return offset

    def in_model(self, transform: Mapping[str, Any]) -> ViewerCamera:
        """Return the camera in the frame of a model that the viewer has moved.

        Args:
            transform: the model's position, quaternion and scale in the scene, one item of a
                LOAD3D_MODEL_INFO.

        Raises:
            ValueError: it is no such transform, or it stretches the model.
        """
        try:
            origin, scales = _vector(transform["position"], "xyz"), _vector(transform["scale"], "xyz")
            turn = _rotation(transform["quaternion"]).T
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("This is not model_3d_info of a 3D viewer. Connect that of Load 3D.") from error
        scale = float(scales[0])
        if not (scale > 0 and np.allclose(scales, scale, rtol=1e-3)):
            raise ValueError(
                f"The 3D viewer has stretched the model by {scales.tolist()}, which a camera cannot follow. "
                "Use one factor above 0 there, or disconnect model_3d_info."
            )
        return replace(
            self,
            position=turn @ (self.position - origin) / scale,
            target=turn @ (self.target - origin) / scale,
            rotation=None if self.rotation is None else turn @ self.rotation,
            height=None if self.height is None else self.height / scale,
        )

    def camera(self, focal: float) -> Tensor:
        """Return this camera, [1, 25] float32; an orthographic one as large at its target, in perspective.

        Args:
            focal: normalized focal length at zoom 1, where the viewer gives no field of view.

        Raises:
            ValueError: it has no rotation and is at its target.
        """
        axes = _level(self.offset) if self.rotation is None else self.rotation
        if self.fov is not None:
            focal = 0.5 / math.tan(math.radians(self.fov) / 2)
        if self.height is not None:
            focal = float(np.linalg.norm(self.offset)) / self.height
        return pack(
            torch.from_numpy(axes @ _AXES).float()[None],
            torch.from_numpy(self.position).float()[None],
            torch.tensor([focal * self.zoom], dtype=torch.float32),
        )


def read_viewer(info: Any) -> ViewerCamera:
    """Read a LOAD3D_CAMERA: a dictionary with position and target, and often zoom, quaternion and fov.

    Raises:
        ValueError: it is none, or holds numbers that no camera has.
    """
    try:
        position, target = _vector(info["position"], "xyz"), _vector(info["target"], "xyz")
        zoom, quaternion, fov = float(info.get("zoom") or 1), info.get("quaternion"), info.get("fov")
        frustum = info.get("frustum")
        flat = str(info.get("cameraType", "")).lower().startswith("ortho")
        camera = ViewerCamera(
            position,
            target,
            zoom,
            _rotation(quaternion) if quaternion else None,
            float(fov) if fov else None,
            float(frustum["top"]) - float(frustum["bottom"]) if flat and frustum else None,
            bool(frustum),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(NO_CAMERA) from error
    sizes = [zoom] if camera.height is None else [zoom, camera.height]
    if camera.fov is not None and not 0 < camera.fov < 180:
        raise ValueError(
            f"The 3D viewer's field of view is {camera.fov:g} degrees; it must lie between 0 and 180."
        )
    if not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"The 3D viewer's zoom or height of view is no number above 0. {NO_CAMERA}")
    return camera


def at_distance(camera: Tensor, distance: float) -> Tensor:
    """Move a camera along its viewing axis, and change its focal length so that the head keeps its size.

    The plane through the world's origin across the axis keeps its place in the picture to rounding; what is
    before and behind it changes in perspective.

    Args:
        camera: [1, 25].
        distance: from that plane, in world units, above 0.

    Returns:
        [1, 25]; a camera that looks away from the origin is returned unchanged.
    """
    forward, position = cam2world(camera)[0, :3, 2], cam2world(camera)[0, :3, 3]
    depth = float(-position @ forward)
    if depth <= 0:
        return camera
    moved = camera.clone()
    moved[0, [3, 7, 11]] = position + forward * (depth - distance)
    moved[0, [16, 20]] *= distance / depth
    return moved


def _vector(value: Any, axes: Sequence[str]) -> np.ndarray:
    """Read the finite numbers of a dictionary with these keys."""
    vector = np.array([float(value[axis]) for axis in axes])
    if not np.isfinite(vector).all():
        raise ValueError("not finite")
    return vector


def _rotation(quaternion: Any) -> np.ndarray:
    """Convert a quaternion x, y, z, w of any length above 0 to a rotation [3,3]."""
    from scipy.spatial.transform import Rotation  # as in `to_viewer`

    return Rotation.from_quat(_vector(quaternion, "xyzw")).as_matrix()


def _level(backward: np.ndarray) -> np.ndarray:
    """Return the axes right, up, backward as columns [3,3] of a level camera, as three.js' lookAt does."""
    z = backward / np.linalg.norm(backward)
    up = np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 1 - 1e-9 else np.array([0.0, 0.0, -z[1]])
    x = np.cross(up, z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], 1)
