"""Cameras of EG3D as tensors [N, 25]: poses, interpolation and paths."""

from .interpolation import blend_cameras, interpolate, interpolate_orbit, interpolate_rigid
from .paths import EASINGS, PATHS, camera_path, keyframe_path, keyframes, orbit
from .pose import (
    FOCAL,
    RADIUS,
    ViewRange,
    angles,
    cam2world,
    check_cameras,
    focal_of_fov,
    from_angles,
    in_picture,
    intrinsics,
    look_at,
    mirror,
    pack,
    rotate_cameras,
    widened,
)

__all__ = [
    "EASINGS",
    "FOCAL",
    "PATHS",
    "RADIUS",
    "ViewRange",
    "angles",
    "blend_cameras",
    "cam2world",
    "camera_path",
    "check_cameras",
    "focal_of_fov",
    "from_angles",
    "in_picture",
    "interpolate",
    "interpolate_orbit",
    "interpolate_rigid",
    "intrinsics",
    "keyframe_path",
    "keyframes",
    "look_at",
    "mirror",
    "orbit",
    "pack",
    "rotate_cameras",
    "widened",
]
