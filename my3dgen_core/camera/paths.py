"""Camera paths around a head: predefined ones, and paths through keyframes. Angles are in radians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .interpolation import interpolate_orbit
from .pose import FOCAL, RADIUS, check_cameras, look_at

PATHS = ("ellipse", "swing", "sweep", "figure8", "spiral")
EASINGS = ("smooth", "linear")


def orbit(
    frames: int,
    yaw: float = 0.6,
    pitch: float = 0.25,
    radius: float = RADIUS,
    pivot: tuple[float, float, float] | Tensor | None = None,
    focal: float = FOCAL,
    center_pitch: float = 0.0,
) -> Tensor:
    """Return cameras on a closed ellipse around the front: `camera_path("ellipse", ...)`.

    Args:
        frames: number of cameras, >= 1.
        yaw: amplitude of the yaw in radians.
        pitch: amplitude of the pitch around `center_pitch` in radians.
        radius, pivot, focal: as in `look_at`.
        center_pitch: mean pitch in radians.

    Returns:
        [frames, 25].
    """
    return camera_path("ellipse", frames, yaw, pitch, radius, pivot, focal, center_pitch)


def camera_path(
    kind: str,
    frames: int,
    yaw: float = 0.6,
    pitch: float = 0.25,
    radius: float = RADIUS,
    pivot: tuple[float, float, float] | Tensor | None = None,
    focal: float = FOCAL,
    center_pitch: float = 0.0,
) -> Tensor:
    """Return cameras along a predefined path.

    All paths but "sweep" and "spiral" are closed, so that a video loops without a stop.

    Args:
        kind: "ellipse" (yaw and pitch a quarter period apart, the paper's orbit), "sweep" (yaw from -`yaw`
            to +`yaw` at `center_pitch`), "swing" (the same and back), "figure8" or "spiral" (two turns that
            end in front).
        frames: number of cameras, >= 1.
        yaw, pitch: amplitudes in radians.
        radius, pivot, focal: as in `look_at`.
        center_pitch: mean pitch in radians; the spiral ends there.

    Returns:
        [frames, 25].

    Raises:
        ValueError: an unknown path, or no frame.
    """
    if frames < 1:
        raise ValueError(f"A camera path needs at least one frame, but {frames} were asked for.")
    turn = torch.arange(frames) / frames * (2 * math.pi)
    if kind == "ellipse":
        yaws, pitches = yaw * turn.sin(), center_pitch + pitch * turn.cos()
    elif kind == "sweep":
        yaws = torch.linspace(-yaw, yaw, frames) if frames > 1 else torch.zeros(1)
        pitches = torch.full((frames,), center_pitch)
    elif kind == "swing":
        yaws, pitches = yaw * turn.sin(), torch.full((frames,), center_pitch)
    elif kind == "figure8":
        yaws, pitches = yaw * turn.sin(), center_pitch + pitch * (2 * turn).sin()
    elif kind == "spiral":
        left = torch.linspace(1, 0, frames) if frames > 1 else torch.zeros(1)
        yaws = yaw * left * (4 * math.pi * left).cos()
        pitches = center_pitch + pitch * left * (4 * math.pi * left).sin()
    else:
        raise ValueError(f"Unknown camera path {kind!r}. Known: {', '.join(PATHS)}.")
    return look_at(yaws, pitches, radius, pivot, focal)


def keyframes(
    cameras: Tensor,
    frames: int,
    easing: str = "smooth",
    loop: bool = False,
    pivot: tuple[float, float, float] | Tensor | None = None,
) -> Tensor:
    """Return a path through keyframe cameras, each reached after equal time.

    Between two keyframes the camera rotates at constant speed about the pivot (`interpolate_orbit`).

    Args:
        cameras: keyframes [K, 25], K >= 2.
        frames: number of cameras, >= 1; without `loop` the last one is the last keyframe.
        easing: "smooth" slows down at each keyframe, "linear" does not.
        loop: return to the first keyframe; the frame that would repeat it is left out.
        pivot: center of the rotations; None: the origin.

    Returns:
        [frames, 25].

    Raises:
        ValueError: fewer than two keyframes, no frame, an unknown easing, or two opposite keyframes.
    """
    check_cameras(cameras)
    if len(cameras) < 2 or frames < 1:
        raise ValueError(
            f"A path needs two keyframes and one frame at least, not {len(cameras)} and {frames}."
        )
    if easing not in EASINGS:
        raise ValueError(f"easing must be one of {', '.join(EASINGS)}, not {easing!r}.")
    ends = torch.cat((cameras, cameras[:1])) if loop else cameras
    legs = len(ends) - 1
    at = torch.arange(frames, device=cameras.device) * (legs / (frames if loop else max(1, frames - 1)))
    leg = at.floor().clamp(max=legs - 1).long()
    t = at - leg
    if easing == "smooth":
        t = t * t * (3 - 2 * t)
    return interpolate_orbit(ends[leg], ends[leg + 1], t, pivot)


def keyframe_path(
    keyframes: Tensor,
    frames: int,
    closed: bool = False,
    radius: float = RADIUS,
    pivot: tuple[float, float, float] | Tensor | None = None,
    focal: float = FOCAL,
) -> Tensor:
    """Return a smooth path through keyframe angles, each reached after equal time.

    The path is a Catmull-Rom spline in yaw and pitch; yaw takes the shorter way around between keyframes.

    Args:
        keyframes: [K, 2], yaw and pitch in radians, K >= 1.
        frames: number of cameras, >= 1. An open path begins at the first keyframe and ends at the last.
        closed: return from the last keyframe to the first, so that a video loops.
        radius, pivot, focal: as in `look_at`.

    Returns:
        [frames, 25].

    Raises:
        ValueError: no keyframe or no frame.
    """
    if frames < 1 or len(keyframes) < 1:
        raise ValueError(
            f"A camera path needs at least one keyframe and one frame, not {len(keyframes)} and {frames}."
        )
    keys = keyframes.double().clone()
    count = len(keys)
    steps = torch.remainder(keys[:, 0].roll(-1) - keys[:, 0] + math.pi, 2 * math.pi) - math.pi
    keys[1:, 0] = keys[0, 0] + steps[:-1].cumsum(0)
    if closed:
        round_trip = torch.stack((steps.sum(), torch.zeros_like(steps[0])))
        keys = torch.cat((keys - round_trip, keys, keys + round_trip, keys + 2 * round_trip))[count - 1 :]
        t = torch.arange(frames, dtype=keys.dtype) / frames * count
    else:
        keys = torch.cat((keys[:1], keys, keys[-1:], keys[-1:]))
        t = torch.linspace(0, count - 1, frames, dtype=keys.dtype)
    whole = t.floor().long()
    s = (t - whole)[:, None]
    a, b, c, d = (keys[whole + offset] for offset in range(4))
    at = b + s / 2 * (c - a + s * (2 * a - 5 * b + 4 * c - d + s * (3 * (b - c) + d - a)))
    limit = math.radians(89)  # at 90 degrees yaw is undefined
    return look_at(at[:, 0].float(), at[:, 1].clamp(-limit, limit).float(), radius, pivot, focal)
