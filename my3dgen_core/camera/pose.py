"""Cameras of EG3D, [N, 25]: cam2world (16, row-major) followed by normalized intrinsics (9).

World: x right, y up, z out of the face. Camera axes are OpenCV's: x right, y down, z forward. Intrinsics are
divided by the image size, so the principal point is .5 and the focal length 4.2647 means a field of view of
13.4 degrees. Angles are radians: yaw > 0 puts the camera at +x, pitch > 0 above the head; (0, 0) is frontal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 2.7
FOCAL = 4.2647
OBJECT_RADIUS, OBJECT_FOCAL = 1.7, 1.7074
"""Camera of EG3D's generators of objects (ShapeNet cars); `RADIUS` and `FOCAL` are those of heads."""
# Entries of the 25 numbers that change sign when an image is mirrored left to right.
_MIRRORED = (1, 2, 3, 4, 8)


def check_cameras(cameras: Tensor) -> Tensor:
    """Return `cameras` unchanged if it is a finite [N, 25] tensor.

    Raises:
        ValueError: another shape, or a camera with NaN or infinite numbers.
    """
    if cameras.ndim != 2 or cameras.shape[1] != 25:
        raise ValueError(f"Cameras must have shape [N, 25], but these have {list(cameras.shape)}.")
    if cameras.device.type != "meta" and not bool(torch.isfinite(cameras).all()):
        raise ValueError("Some camera holds a NaN or an infinite number. Align the photos again.")
    return cameras


def camera_problem(camera: Tensor) -> str:
    """Return why no picture can have been taken with a camera [25] of a file; "" if nothing is wrong.

    Cameras with the world to camera matrix for a pose are not recognized: those of a frontal view are equal.
    """
    numbers = camera.detach().double().cpu()
    pose, (fx, fy, cx, cy) = numbers[:16].view(4, 4), numbers[[16, 20, 18, 21]].tolist()
    rotation, position = pose[:3, :3], pose[:3, 3]
    orthogonal = float((rotation @ rotation.T - torch.eye(3).double()).abs().max()) <= 0.05
    if not orthogonal or float(torch.linalg.det(rotation)) <= 0 or not (fx > 0 and fy > 0):
        return (
            "its 25 numbers are not a rotation with a position (16) and intrinsics with a focal length (9)."
        )
    if max(abs(cx), abs(cy)) > 4:
        return (
            f"its intrinsics seem to be in pixels (focal length {fx:g}, center {cx:g}, {cy:g}). Divide them "
            "by the size of the picture: the center is then about 0.5."
        )
    away = float(rotation[:, 2] @ position)
    if away > 0 and away > 0.5 * float(position.norm()):
        return (
            "it looks away from the head. Its axes may be those of OpenGL (y up, z backward); EG3D's are "
            "those of OpenCV (y down, z forward): negate the second and third column of its 4x4 pose."
        )
    return ""


def as_vector(value: float | Tensor, device: torch.device | None = None) -> Tensor:
    """Convert a number or tensor to a float32 vector [N]; a number gives [1]."""
    if isinstance(value, Tensor):
        return value.to(device, torch.float32).reshape(-1)
    return torch.full((1,), float(value), device=device)


def look_at(
    yaw: float | Tensor,
    pitch: float | Tensor,
    radius: float | Tensor = RADIUS,
    pivot: tuple[float, float, float] | Tensor | None = None,
    focal: float | Tensor = FOCAL,
    device: torch.device | None = None,
) -> Tensor:
    """Return cameras at distance `radius` from the origin that look at `pivot`.

    Args:
        yaw, pitch: radians, a number or [N]. Pitch is the elevation of the camera above the horizon.
        radius: distance from the origin in world units, a number or [N].
        pivot: point that the cameras look at; None: the origin.
        focal: normalized focal length, a number or [N].
        device: device of the result; None: the CPU.

    Returns:
        [N, 25] float32; numbers and tensors of different length are broadcast.
    """
    numbers = [as_vector(value, device) for value in (yaw, pitch, radius, focal)]
    yaws, pitches, radii, focals = torch.broadcast_tensors(*numbers)
    x, y, z = (0.0, 0.0, 0.0) if pivot is None else pivot
    target = torch.cat([as_vector(value, device) for value in (x, y, z)])
    position = radii[:, None] * torch.stack(
        (yaws.sin() * pitches.cos(), pitches.sin(), yaws.cos() * pitches.cos()), dim=1
    )
    forward = torch.nn.functional.normalize(target - position, dim=1)
    up = torch.zeros_like(forward)
    up[:, 1] = 1
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    down = torch.linalg.cross(forward, right)
    return pack(torch.stack((right, down, forward), dim=2), position, focals)


def pack(rotation: Tensor, position: Tensor, focal: Tensor) -> Tensor:
    """Assemble cameras [N, 25].

    Args:
        rotation: [N, 3, 3], columns right, down, forward.
        position: [N, 3], in world units.
        focal: normalized focal lengths [N]; the principal point is .5.
    """
    n = rotation.shape[0]
    cam2world = rotation.new_zeros(n, 4, 4)
    cam2world[:, :3, :3] = rotation
    cam2world[:, :3, 3] = position
    cam2world[:, 3, 3] = 1
    intrinsics = rotation.new_zeros(n, 3, 3)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, 0, 2] = intrinsics[:, 1, 2] = 0.5
    intrinsics[:, 2, 2] = 1
    return torch.cat((cam2world.flatten(1), intrinsics.flatten(1)), dim=1)


def cam2world(cameras: Tensor) -> Tensor:
    """Return the cam2world matrices [N, 4, 4] of cameras [N, 25]."""
    return cameras[:, :16].view(-1, 4, 4)


def intrinsics(cameras: Tensor) -> Tensor:
    """Return the intrinsics [N, 3, 3] of cameras [N, 25], divided by the image size."""
    return cameras[:, 16:].view(-1, 3, 3)


def angles(cameras: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return yaw, pitch and roll of the viewing directions in radians, each [N].

    They depend on the rotation alone: for a camera of `look_at` with pivot None they are its yaw and pitch,
    with roll 0. Roll > 0 turns the camera clockwise about its own axis, as seen from behind it.
    """
    rotation = cam2world(cameras)[:, :3, :3]
    right, forward = rotation[:, :, 0], rotation[:, :, 2]
    yaw = torch.atan2(-forward[:, 0], -forward[:, 2])
    pitch = torch.asin((-forward[:, 1]).clamp(-1, 1))
    level = torch.stack((yaw.cos(), torch.zeros_like(yaw), -yaw.sin()), dim=1)
    below = torch.linalg.cross(forward, level)
    roll = torch.atan2((right * below).sum(1), (right * level).sum(1))
    return yaw, pitch, roll


def from_angles(
    yaw: float | Tensor,
    pitch: float | Tensor,
    roll: float | Tensor = 0.0,
    radius: float | Tensor = RADIUS,
    pivot: tuple[float, float, float] | Tensor | None = None,
    focal: float | Tensor = FOCAL,
) -> Tensor:
    """Return cameras as `look_at` does, with a roll about the camera's own axis: the inverse of `angles`.

    Args:
        yaw, pitch, roll: angles in radians, a number or [N]; with pivot None `angles` returns them.
        radius, pivot, focal: as in `look_at`.

    Returns:
        [N, 25] float32.
    """
    rolls = as_vector(roll)
    level = look_at(yaw, pitch, radius, pivot, focal)
    level, rolls = level.expand(max(len(level), len(rolls)), 25), rolls.expand(max(len(level), len(rolls)))
    right, down, forward = cam2world(level)[:, :3, :3].unbind(dim=2)
    c, s = rolls.cos()[:, None], rolls.sin()[:, None]
    rotation = torch.stack((right * c + down * s, down * c - right * s, forward), dim=2)
    return pack(rotation, cam2world(level)[:, :3, 3], intrinsics(level)[:, 0, 0])


@dataclass(frozen=True)
class ViewRange:
    """Range of views that a generator was trained on: largest yaw and pitch in degrees, to both sides."""

    yaw: float = 180.0
    """Largest angle to the left and right of the front, in degrees."""
    pitch: float = 90.0
    """Largest angle above and below the front, in degrees."""

    def out_of_range_warning(self, cameras: Tensor) -> str:
        """Return a warning about the cameras [N, 25] outside the range; empty if there are none."""
        yaw, pitch, _ = (torch.rad2deg(values).abs() for values in angles(cameras.detach().float().cpu()))
        count = int(((yaw > self.yaw + 0.5) | (pitch > self.pitch + 0.5)).sum())
        if not count:
            return ""
        return (
            f"{count} of {len(cameras)} cameras look from farther round than this generator was trained for "
            f"(yaw to {float(yaw.max()):.0f}, pitch to {float(pitch.max()):.0f} degrees; trained to "
            f"{self.yaw:.0f} and {self.pitch:.0f}): pictures from there may break."
        )

    def cameras(
        self,
        radius: float = RADIUS,
        pivot: tuple[float, float, float] | None = None,
        focal: float = FOCAL,
        device: torch.device | None = None,
    ) -> Tensor:
        """Return cameras of `look_at` on a regular grid over the range, corners included: [45, 25]."""
        yaw, pitch = (
            min(self.yaw, 180.0),
            min(self.pitch, 89.0),
        )  # at 90 degrees up is undefined
        yaws, pitches = torch.meshgrid(
            torch.linspace(-yaw, yaw, 9, device=device),
            torch.linspace(-pitch, pitch, 5, device=device),
            indexing="ij",
        )
        return look_at(
            yaws.flatten().deg2rad(), pitches.flatten().deg2rad(), radius, pivot, focal, device=device
        )


def in_picture(cameras: Tensor, points: Tensor) -> Tensor:
    """Return which points [P, 3] project into the images of cameras [N, 25], occluded or not: bool [N, P]."""
    pose, k = cam2world(cameras), intrinsics(cameras)
    local = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]  # right, down, forward
    place = local @ k.mT
    ahead = place[..., 2] > 0
    return ahead & ((place[..., :2] / place[..., 2:] - 0.5).abs() <= 0.5).all(-1)


def focal_of_fov(degrees: float | Tensor) -> Tensor:
    """Convert fields of view, degrees in (0, 180) or [N] of them, to normalized focal lengths (float64)."""
    return 0.5 / torch.tan(torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float64)) / 2)


def mirror(cameras: Tensor) -> Tensor:
    """Return the cameras [N, 25] from which the mirrored head looks like the mirrored images of `cameras`."""
    sign = torch.ones(25, dtype=cameras.dtype)
    sign[list(_MIRRORED)] = -1
    return cameras * sign.to(cameras.device)


def widened(cameras: Tensor, factor: float) -> Tensor:
    """Return cameras [N, 25] whose images show `factor` times the extent around the same center.

    Args:
        factor: divides the focal length; above 1 shows more.

    Raises:
        ValueError: `factor` is not a finite number above 0.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"A view can be widened by a number above 0, not by {factor}.")
    shorter = torch.ones_like(cameras)
    shorter[:, [16, 20]] = 1 / factor
    return check_cameras(cameras) * shorter


def rotation_from_vector(angles: Tensor) -> Tensor:
    """Convert rotation vectors [N, 3] in radians to matrices [N, 3, 3]; differentiable at 0."""
    x, y, z = angles.unbind(1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=1).unflatten(1, (3, 3))
    return torch.linalg.matrix_exp(skew)


def rotate_cameras(cameras: Tensor, angles: Tensor) -> Tensor:
    """Rotate cameras [N, 25]; intrinsics and the distance from the origin stay.

    Args:
        angles: [N, 5] in radians: a rotation vector (3) about the world's origin in world axes, and a
            rotation vector (2) about the camera's own x and y axes.

    Returns:
        [N, 25].
    """
    pose = cam2world(cameras)
    around, own = rotation_from_vector(angles[:, :3]), rotation_from_vector(F.pad(angles[:, 3:], (0, 1)))
    turned_pose = torch.cat((around @ pose[:, :3, :3] @ own, around @ pose[:, :3, 3:]), dim=2)
    return torch.cat((torch.cat((turned_pose, pose[:, 3:]), dim=1).flatten(1), cameras[:, 16:]), dim=1)
