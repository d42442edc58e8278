"""Camera nodes: single cameras and the field of view."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import socket_types
from ..socket_types import DISTANCE, FIELD_OF_VIEW

if TYPE_CHECKING:
    from torch import Tensor

_MODEL_TOOLTIP = (
    "Uses this generator's look-at point, and its own distance and field of view where these inputs are left "
    "at their defaults, 2.7 and 13.3738."
)
DEGREES = {"min": -180.0, "max": 180.0, "step": 1.0}
_DISTANCE = {"default": DISTANCE, "min": 0.5, "max": 20.0, "step": 0.01}
_FIELD_OF_VIEW = {"default": FIELD_OF_VIEW, "min": 1.0, "max": 120.0, "step": 0.0001, "round": 0.0001}


def pivot_of(model: socket_types.Model | None) -> Any:
    """Return the look-at point of the model's cameras, or None without a model."""
    return None if model is None else model.generator.config.avg_camera_pivot


def own_view(model: socket_types.Model | None, distance: float, field_of_view: float) -> tuple[float, float]:
    """Return distance and focal length (in image widths) of a camera node's inputs.

    With a model, inputs that have their defaults stand for the generator's own values: those of heads for
    NVIDIA's generators of heads, others for objects such as cars.
    """
    focal = _focal_length(field_of_view)
    if model is not None:
        config = model.generator.config
        distance = config.avg_camera_radius if abs(distance - DISTANCE) < 1e-6 else distance
        focal = config.focal if abs(field_of_view - FIELD_OF_VIEW) < 1e-3 else focal
    return distance, focal


class Camera:
    CATEGORY = "My3DGen/Cameras"
    SEARCH_ALIASES = [
        "camera pose",
        "yaw pitch roll",
        "viewpoint",
        "view angle",
        "focal length",
        "fov",
        "novel view",
    ]
    DESCRIPTION = "One camera from plain numbers. With all angles 0 it looks straight at the face."
    RETURN_TYPES = (socket_types.CAMERA,)
    RETURN_NAMES = ("camera",)
    OUTPUT_TOOLTIPS = ("The camera, for Render Head.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "yaw": (
                    "FLOAT",
                    {**DEGREES, "default": 0.0, "tooltip": "Degrees to the viewer's right; below 0 is left."},
                ),
                "pitch": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": -89.0,
                        "max": 89.0,
                        "step": 1.0,
                        "tooltip": "Degrees above the face; below 0 looks up at it.",
                    },
                ),
                "roll": (
                    "FLOAT",
                    {
                        **DEGREES,
                        "default": 0.0,
                        "tooltip": "Turns the camera clockwise about its own axis, in degrees: in the image "
                        "the head leans the other way.",
                    },
                ),
                "distance": (
                    "FLOAT",
                    {
                        **_DISTANCE,
                        "tooltip": "From the center of the head. EG3D's heads were trained at 2.7, which "
                        "with a model means its own distance; other distances may break the image.",
                    },
                ),
                "field_of_view": (
                    "FLOAT",
                    {
                        **_FIELD_OF_VIEW,
                        "tooltip": "In degrees. EG3D's heads were trained at 13.37, which with a model means "
                        "its own field of view; higher shows more around the head.",
                    },
                ),
            },
            "optional": {
                "model": (socket_types.MODEL, {"tooltip": _MODEL_TOOLTIP}),
            },
        }

    def make(
        self,
        yaw: float,
        pitch: float,
        roll: float,
        distance: float,
        field_of_view: float,
        model: socket_types.Model | None = None,
    ) -> tuple[socket_types.Cameras]:
        values = cameras_from(yaw, pitch, roll, distance, field_of_view, model)
        return (socket_types.Cameras(values, socket_types.EXACT),)


def cameras_from(
    yaw: float,
    pitch: float,
    roll: float,
    distance: float,
    field_of_view: float,
    model: socket_types.Model | None,
) -> Tensor:
    """Return the camera [1, 25] of the Camera node's inputs.

    Args:
        yaw, pitch, roll: degrees.
        distance: from the world's origin, the center of the head, in EG3D's units.
        field_of_view: degrees.
        model: generator whose look-at point is used, and whose own view (`own_view`); None: the origin.
    """
    from ...my3dgen_core.camera import from_angles

    numbers = (math.radians(yaw), math.radians(pitch), math.radians(roll))
    distance, focal = own_view(model, distance, field_of_view)
    return from_angles(*numbers, distance, pivot_of(model), focal)


class CameraFromLoad3D:
    CATEGORY = "My3DGen/Cameras"
    SEARCH_ALIASES = ["3d viewer camera", "viewport camera", "camera info", "camera pose", "viewpoint"]
    DESCRIPTION = (
        "Uses the camera of ComfyUI's 3D viewer (Load 3D): turn the model there, and render the head here "
        "from the same side."
    )
    RETURN_TYPES = (socket_types.CAMERA,)
    RETURN_NAMES = ("camera",)
    OUTPUT_TOOLTIPS = ("The camera, for Render Head.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "camera_info": (
                    "LOAD3D_CAMERA",
                    {"tooltip": "camera_info of Load 3D or another viewer, or of Create Camera Info."},
                ),
                "distance": (
                    "FLOAT",
                    {
                        **_DISTANCE,
                        "tooltip": "From the center of the head, for a camera that was placed in a viewer: "
                        "it moves there along its axis, and the head keeps its size. With a model, 2.7 means "
                        "its own distance. A camera that a node made stays where it is.",
                    },
                ),
                "field_of_view": (
                    "FLOAT",
                    {
                        **_FIELD_OF_VIEW,
                        "tooltip": "In degrees, at zoom 1, where camera_info has none, as in older versions "
                        "of ComfyUI. EG3D's heads were trained at 13.37, which with a model means its own "
                        "field of view.",
                    },
                ),
            },
            "optional": {
                "model": (socket_types.MODEL, {"tooltip": _MODEL_TOOLTIP}),
                "model_3d_info": (
                    "LOAD3D_MODEL_INFO",
                    {
                        "tooltip": "model_3d_info of Load 3D, if the model was moved, turned or fitted to "
                        "the viewer there."
                    },
                ),
            },
        }

    def make(
        self,
        camera_info: dict[str, Any],
        distance: float,
        field_of_view: float,
        model: socket_types.Model | None = None,
        model_3d_info: list[dict[str, Any]] | None = None,
    ) -> tuple[socket_types.Cameras]:
        from ...my3dgen_core import look_at
        from ...my3dgen_core.camera import at_distance, read_viewer

        view = read_viewer(camera_info)
        if model_3d_info:
            view = view.in_model(model_3d_info[0])
        distance, focal = own_view(model, distance, field_of_view)
        if view.whole:
            camera = view.camera(focal)
            values = at_distance(camera, distance) if view.by_hand else camera
            return (socket_types.Cameras(values, socket_types.EXACT),)
        x, y, z = view.offset.tolist()
        yaw, pitch = math.atan2(x, z), math.atan2(y, math.hypot(x, z))
        pitch = min(max(pitch, math.radians(-89)), math.radians(89))  # straight up or down has no yaw
        values = look_at(yaw, pitch, distance, pivot_of(model), focal * view.zoom)
        return (socket_types.Cameras(values, socket_types.EXACT),)


class CameraToLoad3D:
    CATEGORY = "My3DGen/Cameras"
    SEARCH_ALIASES = ["camera info", "3d viewer camera", "viewport camera", "splat camera", "preview 3d"]
    DESCRIPTION = (
        "Gives a camera to ComfyUI's own 3D nodes, such as Preview 3D or Render Splat: they show a mesh or "
        "splat of the head from where Render Head shows it."
    )
    RETURN_TYPES = ("LOAD3D_CAMERA",)
    RETURN_NAMES = ("camera_info",)
    OUTPUT_TOOLTIPS = (
        "The camera as 3D nodes read it: position, target, quaternion and vertical field of view. All "
        "cameras come as a list, for which the next node runs once per camera.",
    )
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "cameras": (socket_types.CAMERA, {"tooltip": "From Camera, a Camera Path or Align Faces."}),
                "index": (
                    "INT",
                    {
                        "default": 0,
                        "min": -1,
                        "max": 4095,
                        "tooltip": "Which of several cameras; the first is 0. -1: all of them, as a list.",
                    },
                ),
            }
        }

    def make(self, cameras: socket_types.Cameras, index: int) -> tuple[list[dict[str, Any]]]:
        from ...my3dgen_core.camera import to_viewer

        count = len(cameras)
        if not -1 <= index < count:
            raise ValueError(f"There is no camera number {index}: these are 0 to {count - 1}.")
        chosen = range(count) if index == -1 else [index]
        return ([to_viewer(cameras.values[number : number + 1]) for number in chosen],)


def _focal_length(field_of_view: float) -> float:
    """Return the focal length in image widths; for the default view exactly the value of EG3D's labels."""
    from ...my3dgen_core.camera import FOCAL, focal_of_fov

    return FOCAL if abs(field_of_view - FIELD_OF_VIEW) < 1e-3 else float(focal_of_fov(field_of_view))


class WidenView:
    CATEGORY = "My3DGen/Cameras"
    SEARCH_ALIASES = ["fov", "zoom out", "wide angle", "uncrop", "focal length", "shoulders"]
    DESCRIPTION = (
        "Widens the field of view: hair and shoulders beyond the face crop. Set the same value in Paste "
        "Back. Far above 1.3, generators show what they were never trained on."
    )
    RETURN_TYPES = (socket_types.CAMERA,)
    RETURN_NAMES = ("cameras",)
    OUTPUT_TOOLTIPS = ("The cameras, for Render Head.",)
    FUNCTION = "widen"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "cameras": (socket_types.CAMERA, {"tooltip": "From Align Faces, Camera or a Camera Path."}),
                "wider": (
                    "FLOAT",
                    {
                        "default": 1.25,
                        "min": 1.0,
                        "max": 4.0,
                        "step": 0.05,
                        "tooltip": "Factor on the width and height of what the camera sees. 1: no change.",
                    },
                ),
            }
        }

    def widen(self, cameras: socket_types.Cameras, wider: float) -> tuple[socket_types.Cameras]:
        from ...my3dgen_core.camera import widened

        return (socket_types.Cameras(widened(cameras.values, wider), cameras.source),)
