"""Camera path nodes: presets and keyframes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from .. import host, plots, socket_types
from ..typed_lists import plain_signs, split_list
from .camera import DEGREES, pivot_of

if TYPE_CHECKING:
    from torch import Tensor

BY_HAND, BY_HAND_CLOSED = "keyframes", "closed keyframes"
PATHS = ["ellipse", "swing", "sweep", "figure8", "spiral", BY_HAND, BY_HAND_CLOSED]
MAX_KEYFRAMES = 100
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
            return path_result(socket_types.Cameras(by_hand, socket_types.EXACT), fps, model)
        cameras = camera_path(
            path,
            frames,
            yaw=math.radians(yaw),
            pitch=math.radians(pitch),
            center_pitch=math.radians(center_pitch),
            **setting,
        )
        return path_result(socket_types.Cameras(cameras, socket_types.EXACT), fps, model)


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

        connected = (camera_1, camera_2, camera_3, camera_4, camera_5, camera_6)
        given = [cameras for cameras in connected if cameras is not None]
        through = torch.cat([cameras.values for cameras in given])
        values = keyframes(through, frames, easing, loop, pivot_of(model))
        return path_result(socket_types.Cameras.joined(values, given), fps, model)


def path_result(cameras: socket_types.Cameras, fps: float, model: socket_types.Model | None) -> PathResult:
    """Return the outputs of a path node: cameras, plot, number of frames, frames per second."""
    trained = None if model is None else model.generator.trained_views
    plot = plots.camera_plot(cameras.values, trained)
    return cameras, host.to_host(plot), len(cameras), fps


def parse_keyframes(text: str) -> Tensor:
    """Parse keyframes, such as "-30 0, 0 12" in degrees, into yaw and pitch [K, 2] in radians.

    Raises:
        ValueError: the text is no such list, a number is out of its range, or there are too many.
    """
    found = []
    for part in split_list(text):
        try:
            yaw, pitch = (float(word) for word in plain_signs(part).split())
        except ValueError:
            raise ValueError(f"{part!r} is not a keyframe. Write yaw and pitch, like -30 0, 0 12.") from None
        if not (abs(yaw) <= 180 and abs(pitch) <= 89):
            raise ValueError(
                f"The keyframe {part!r} is out of range: yaw within 180 degrees, pitch within 89."
            )
        found.append((yaw, pitch))
    if not 0 < len(found) <= MAX_KEYFRAMES:
        raise ValueError(f"There are {len(found)} keyframes; write between 1 and {MAX_KEYFRAMES}.")
    return torch.deg2rad(torch.tensor(found))
