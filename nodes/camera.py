"""Where to look from."""

from __future__ import annotations

import math
from typing import Any

from . import sockets

PATHS = ["ellipse", "swing", "sweep", "figure8"]
DEGREES = {"min": -180.0, "max": 180.0, "step": 1.0}


class CameraPath:
    CATEGORY = "My3DGen"
    DESCRIPTION = (
        "Cameras along a path around the head, one a frame. All but 'sweep' close, so a video loops."
    )
    RETURN_TYPES = (sockets.CAMERA,)
    RETURN_NAMES = ("cameras",)
    OUTPUT_TOOLTIPS = ("The cameras, for Render Head.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "path": (
                    PATHS,
                    {
                        "tooltip": "'ellipse': around the front, the paper's orbit. 'swing': left, right and "
                        "back. 'sweep': from one side to the other, once. 'figure8': an eight."
                    },
                ),
                "frames": ("INT", {"default": 48, "min": 1, "max": 2000, "tooltip": "How many cameras."}),
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
                        "tooltip": "Height of the path's middle: above 0 looks from above.",
                    },
                ),
            },
            "optional": {
                "model": (
                    sockets.MODEL,
                    {"tooltip": "Takes distance, centre and focal length from this generator."},
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
        model: sockets.Model | None = None,
    ) -> tuple[sockets.Cameras]:
        from ..my3dgen_core import camera_path

        setting: dict[str, Any] = {}
        if model is not None:
            config = model.generator.config
            setting = {
                "radius": config.avg_camera_radius,
                "pivot": config.avg_camera_pivot,
                "focal": config.focal,
            }
        cameras = camera_path(
            path,
            frames,
            yaw=math.radians(yaw),
            pitch=math.radians(pitch),
            center_pitch=math.radians(center_pitch),
            **setting,
        )
        return (sockets.Cameras(cameras),)
