"""Cameras that see more."""

from __future__ import annotations

from typing import Any

from .. import socket_types


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

        return (socket_types.Cameras(widened(cameras.values, wider)),)
