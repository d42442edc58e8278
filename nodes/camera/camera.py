"""Where to look from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from .. import host, socket_types
from ..output import plots

if TYPE_CHECKING:
    from torch import Tensor

BY_HAND, BY_HAND_CLOSED = "keyframes", "closed keyframes"
PATHS = ["ellipse", "swing", "sweep", "figure8", "spiral", BY_HAND, BY_HAND_CLOSED]
MOST_KEYFRAMES = 100
DEGREES = {"min": -180.0, "max": 180.0, "step": 1.0}


# EG3D's own camera: 2.7 units away, a field of view that means a focal length of 4.2647 image widths.
DISTANCE, FIELD_OF_VIEW = 2.7, 13.3738
_DISTANCE = {"default": DISTANCE, "min": 0.5, "max": 20.0, "step": 0.01}
_FIELD_OF_VIEW = {"default": FIELD_OF_VIEW, "min": 1.0, "max": 120.0, "step": 0.0001, "round": 0.0001}


FPS_INPUT = (
    "FLOAT",
    {
        "default": 24.0,
        "min": 1.0,
        "max": 120.0,
        "step": 1.0,
        "tooltip": "Frames per second, passed on to Create Video.",
    },
)
PATH_TYPES = (socket_types.CAMERA, "IMAGE", "INT", "FLOAT")
PATH_NAMES = ("cameras", "plot", "frames", "fps")
PATH_TOOLTIPS = (
    "The cameras, for Render Head.",
    "The path as seen from the head: yaw across, pitch up. With a model, also its trained range.",
    "Number of cameras.",
    "Frames per second, for Create Video.",
)
PathResult = tuple[socket_types.Cameras, torch.Tensor, int, float]


def _pivot(model: socket_types.Model | None) -> Any:
    return None if model is None else model.generator.config.avg_camera_pivot


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
                        "tooltip": "From the center of the head. EG3D was trained at 2.7; other distances "
                        "may break the image.",
                    },
                ),
                "field_of_view": (
                    "FLOAT",
                    {
                        **_FIELD_OF_VIEW,
                        "tooltip": "In degrees. EG3D was trained at 13.37; higher shows more around the "
                        "head.",
                    },
                ),
            },
            "optional": {
                "model": (socket_types.MODEL, {"tooltip": "Uses this generator's look-at point."}),
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
        return (socket_types.Cameras(cameras_from(yaw, pitch, roll, distance, field_of_view, _pivot(model))),)


def cameras_from(
    yaw: float,
    pitch: float,
    roll: float,
    distance: float,
    field_of_view: float,
    pivot: tuple[float, float, float] | None,
) -> Tensor:
    """The camera [1, 25] of Camera's numbers: degrees, and the distance from the centre of the head."""
    from ...my3dgen_core.camera import from_angles

    numbers = (math.radians(yaw), math.radians(pitch), math.radians(roll))
    return from_angles(*numbers, distance, pivot, _focal_length(field_of_view))


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
                "camera_info": ("LOAD3D_CAMERA", {"tooltip": "camera_info of Load 3D or of another viewer."}),
                "distance": (
                    "FLOAT",
                    {
                        **_DISTANCE,
                        "tooltip": "From the center of the head. The viewer scales every model to fit, so "
                        "its distance is ignored; its zoom is used.",
                    },
                ),
                "field_of_view": (
                    "FLOAT",
                    {**_FIELD_OF_VIEW, "tooltip": "In degrees, at zoom 1. EG3D was trained at 13.37."},
                ),
            },
            "optional": {
                "model": (socket_types.MODEL, {"tooltip": "Uses this generator's look-at point."}),
            },
        }

    def make(
        self,
        camera_info: dict[str, Any],
        distance: float,
        field_of_view: float,
        model: socket_types.Model | None = None,
    ) -> tuple[socket_types.Cameras]:
        from ...my3dgen_core import look_at

        x, y, z, zoom = _view_of(camera_info)
        yaw, pitch = math.atan2(x, z), math.atan2(y, math.hypot(x, z))
        pitch = min(max(pitch, math.radians(-89)), math.radians(89))  # straight down has no yaw
        focal = _focal_length(field_of_view) * zoom
        return (socket_types.Cameras(look_at(yaw, pitch, distance, _pivot(model), focal)),)


def _focal_length(field_of_view: float) -> float:
    """In image widths; the default is exactly the number in EG3D's labels."""
    from ...my3dgen_core.camera import FOCAL, focal_of_fov

    return FOCAL if abs(field_of_view - FIELD_OF_VIEW) < 1e-3 else float(focal_of_fov(field_of_view))


def _view_of(camera_info: Any) -> tuple[float, float, float, float]:
    """Direction from the target to the camera (three.js has the world's axes: y up), zoom."""
    try:
        position, target = camera_info["position"], camera_info["target"]
        x, y, z = (float(position[axis]) - float(target[axis]) for axis in "xyz")
        zoom = float(camera_info.get("zoom") or 1)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "This is not a camera of the 3D viewer. Connect camera_info of Load 3D, and move the view once."
        ) from error
    if not all(math.isfinite(value) for value in (x, y, z, zoom)) or zoom <= 0 or x == y == z == 0:
        raise ValueError("The 3D viewer's camera is at its own target. Move the view there once.")
    return x, y, z, zoom


class CameraPath:
    CATEGORY = "My3DGen/Cameras"
    SEARCH_ALIASES = [
        "orbit",
        "turntable",
        "camera animation",
        "360",
        "camera trajectory",
        "spiral",
        "novel view",
    ]
    DESCRIPTION = (
        "Cameras along a path around the head, one per frame: a preset, or your own through keyframes. All "
        "but 'sweep', 'spiral' and 'keyframes' are closed, so a video loops."
    )
    RETURN_TYPES = PATH_TYPES
    RETURN_NAMES = PATH_NAMES
    OUTPUT_TOOLTIPS = PATH_TOOLTIPS
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "path": (
                    PATHS,
                    {
                        "tooltip": "'ellipse': around the front, the paper's orbit. 'swing': left, right and "
                        "back. 'sweep': from one side to the other, once. 'figure8': a figure eight. "
                        "'spiral': from the outside in to the front. 'keyframes': through those below, once; "
                        "'closed keyframes': and back to the first."
                    },
                ),
                "frames": ("INT", {"default": 48, "min": 1, "max": 2000, "tooltip": "Number of cameras."}),
                "yaw": (
                    "FLOAT",
                    {**DEGREES, "default": 34.0, "tooltip": "How far to either side, in degrees."},
                ),
                "pitch": (
                    "FLOAT",
                    {**DEGREES, "default": 14.0, "tooltip": "How far up and down, in degrees."},
                ),
                "center_pitch": (
                    "FLOAT",
                    {
                        **DEGREES,
                        "default": 0.0,
                        "tooltip": "Pitch of the path's center, in degrees: above 0 looks from above.",
                    },
                ),
            },
            "optional": {
                "model": (
                    socket_types.MODEL,
                    {"tooltip": "Uses this generator's distance, look-at point and focal length."},
                ),
                "fps": FPS_INPUT,
                # the last one: workflows keep their settings by position
                "keyframes": (
                    "STRING",
                    {
                        "default": "-30 0, 0 12, 30 0",
                        "tooltip": "For the path 'keyframes': yaw and pitch of each in degrees, separated by "
                        "commas. The sphere on the node sets them.",
                    },
                ),
            },
        }

    def make(
        self,
        path: str,
        frames: int,
        yaw: float,
        pitch: float,
        center_pitch: float,
        model: socket_types.Model | None = None,
        fps: float = 24.0,
        keyframes: str = "",
    ) -> PathResult:
        from ...my3dgen_core import camera_path
        from ...my3dgen_core.camera import keyframe_path

        setting: dict[str, Any] = {}
        if model is not None:
            config = model.generator.config
            setting = {
                "radius": config.avg_camera_radius,
                "pivot": config.avg_camera_pivot,
                "focal": config.focal,
            }
        if path in (BY_HAND, BY_HAND_CLOSED):
            by_hand = keyframe_path(parse_keyframes(keyframes), frames, path == BY_HAND_CLOSED, **setting)
            return path_result(by_hand, fps, model)
        cameras = camera_path(
            path,
            frames,
            yaw=math.radians(yaw),
            pitch=math.radians(pitch),
            center_pitch=math.radians(center_pitch),
            **setting,
        )
        return path_result(cameras, fps, model)


class CameraKeyframes:
    CATEGORY = "My3DGen/Cameras"
    SEARCH_ALIASES = ["keyframe animation", "camera interpolation", "camera trajectory", "easing", "orbit"]
    DESCRIPTION = (
        "A camera path through your own cameras, from Camera or Camera from Load 3D, at equal intervals."
    )
    RETURN_TYPES = PATH_TYPES
    RETURN_NAMES = PATH_NAMES
    OUTPUT_TOOLTIPS = PATH_TOOLTIPS
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        another = (socket_types.CAMERA, {"tooltip": "The next one; a batch of cameras is passed one by one."})
        return {
            "required": {
                "camera_1": (socket_types.CAMERA, {"tooltip": "Where the path begins."}),
                "camera_2": another,
                "frames": ("INT", {"default": 48, "min": 1, "max": 2000, "tooltip": "Number of cameras."}),
                "easing": (
                    ["smooth", "linear"],
                    {"tooltip": "'smooth' slows down at each camera; 'linear' keeps its speed."},
                ),
                "loop": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Return to the first camera at the end, so that a video loops.",
                    },
                ),
            },
            "optional": {
                "camera_3": another,
                "camera_4": another,
                "camera_5": another,
                "camera_6": another,
                "model": (
                    socket_types.MODEL,
                    {"tooltip": "Uses this generator's look-at point."},
                ),
                "fps": FPS_INPUT,
            },
        }

    def make(
        self,
        camera_1: socket_types.Cameras,
        camera_2: socket_types.Cameras,
        frames: int,
        easing: str,
        loop: bool,
        camera_3: socket_types.Cameras | None = None,
        camera_4: socket_types.Cameras | None = None,
        camera_5: socket_types.Cameras | None = None,
        camera_6: socket_types.Cameras | None = None,
        model: socket_types.Model | None = None,
        fps: float = 24.0,
    ) -> PathResult:
        from ...my3dgen_core.camera import keyframes

        given = (camera_1, camera_2, camera_3, camera_4, camera_5, camera_6)
        through = torch.cat([cameras.values for cameras in given if cameras is not None])
        return path_result(keyframes(through, frames, easing, loop, _pivot(model)), fps, model)


def path_result(cameras: Tensor, fps: float, model: socket_types.Model | None) -> PathResult:
    """What every node that makes a path gives out."""
    trained = None if model is None else model.generator.trained_views
    plot = plots.camera_plot(cameras, trained)
    return socket_types.Cameras(cameras), host.to_host(plot), len(cameras), fps


def parse_keyframes(text: str) -> Tensor:
    """ "-30 0, 0 12" -> yaw and pitch [K, 2] in radians.

    Raises:
        ValueError: it is no such list, or a number is out of its range.
    """
    import torch

    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            yaw, pitch = (float(word) for word in part.split())
        except ValueError:
            raise ValueError(f"{part!r} is not a keyframe. Write yaw and pitch, like -30 0, 0 12.") from None
        if not (abs(yaw) <= 180 and abs(pitch) <= 89):
            raise ValueError(
                f"The keyframe {part!r} is out of range: yaw within 180 degrees, pitch within 89."
            )
        found.append((yaw, pitch))
    if not 0 < len(found) <= MOST_KEYFRAMES:
        raise ValueError(f"There are {len(found)} keyframes; write between 1 and {MOST_KEYFRAMES}.")
    return torch.deg2rad(torch.tensor(found))
