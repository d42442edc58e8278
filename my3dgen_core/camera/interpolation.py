"""Interpolation between cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from .pose import _rotation_of_vector, _vector, cam2world, intrinsics


def interpolate(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Linear interpolation of the 25 numbers, as the paper does: [1 or N, 25] twice and t [N] -> [N, 25]."""
    return torch.lerp(start, end, t.to(start)[:, None])


def interpolate_rigid(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """As `interpolate`, but every result is a true camera at a distance between those of the two ends.

    The rotation is made one again (Gram-Schmidt on the linear one), and the position is moved back out.
    Between cameras far apart the plain numbers come too near: the head is cut by the near limit of the rays.

    Args:
        start, end: cameras [1 or N, 25]; t: [N]. At t = 0 and 1 the ends come back exactly.

    Returns:
        [N, 25].
    """
    plain = interpolate(start, end, t)
    pose = cam2world(plain)
    forward = torch.nn.functional.normalize(pose[:, :3, 2], dim=1)
    down = pose[:, :3, 1]
    down = torch.nn.functional.normalize(down - (down * forward).sum(1, keepdim=True) * forward, dim=1)
    right = torch.linalg.cross(down, forward)
    radii = [cam2world(ends)[:, :3, 3].norm(dim=1) for ends in (start, end)]
    radius = torch.lerp(radii[0], radii[1], t.to(start))
    position = torch.nn.functional.normalize(pose[:, :3, 3], dim=1) * radius[:, None]
    rows = torch.cat((torch.stack((right, down, forward, position), dim=2), pose[:, 3:]), dim=1)
    true = torch.cat((rows.flatten(1), plain[:, 16:]), dim=1)
    at = t.to(start)[:, None]
    return torch.where(at == 0, start, torch.where(at == 1, end, true))


def interpolate_orbit(
    start: Tensor, end: Tensor, t: Tensor, pivot: tuple[float, float, float] | Tensor | None = None
) -> Tensor:
    """Interpolation on the sphere around the pivot: the camera turns steadily about one axis.

    Unlike `interpolate`, every result is a true camera: its rotation is one, and between two cameras at the
    same distance from the pivot the distance stays. Halfway between two cameras 90 degrees apart, the 25
    numbers interpolated linearly are 29 % too near and their rotation is none.

    Args:
        start, end: cameras [1 or N, 25].
        t: [N], 0 is start and 1 is end; values outside go on along the same arc.
        pivot: the centre of the sphere; None is the origin.

    Returns:
        [N, 25].

    Raises:
        ValueError: the two cameras look in opposite directions, and no arc between them is the shortest.
    """
    count = max(len(start), len(end), len(t))
    t = t.to(start).expand(count)
    first, last = start.double().expand(count, 25), end.double().expand(count, 25)
    one, two = cam2world(first), cam2world(last)
    centre = torch.zeros(3) if pivot is None else torch.stack([_vector(v, None)[0] for v in pivot])
    centre = centre.to(one)
    axis, angle = _axis_angle(two[:, :3, :3] @ one[:, :3, :3].transpose(1, 2))
    turn = axis * angle[:, None]
    whole, part = _rotation_of_vector(turn), _rotation_of_vector(turn * t.double()[:, None])
    arm = one[:, :3, 3] - centre
    end_arm = (whole.transpose(1, 2) @ (two[:, :3, 3] - centre)[..., None])[
        ..., 0
    ]  # turned back to the start
    arm = torch.lerp(arm, end_arm, t.double()[:, None])
    position = centre + (part @ arm[..., None])[..., 0]
    result = torch.lerp(first, last, t.double()[:, None])
    pose = torch.zeros_like(one)
    pose[:, :3, :3], pose[:, :3, 3], pose[:, 3, 3] = part @ one[:, :3, :3], position, 1
    return torch.cat((pose.flatten(1), result[:, 16:]), dim=1).to(start.dtype)


def _axis_angle(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Axis [N,3] of length 1 and angle [N] in 0..pi of rotations [N,3,3]."""
    skew = torch.stack(
        (
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ),
        dim=1,
    )
    sine, cosine = skew.norm(dim=1) / 2, (rotation.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    if bool(((sine < 1e-5) & (cosine < 0)).any()):
        raise ValueError(
            "Two cameras look in opposite directions: put one in between to say which way round."
        )
    return torch.nn.functional.normalize(skew, dim=1), torch.atan2(sine, cosine)


def precise_dtype(like: Tensor) -> torch.dtype:
    """float64 where the device has it: squared latents lose half the digits."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def blend_cameras(weights: Tensor, cameras: Tensor) -> Tensor:
    """Cameras [N, 25] mixed by weights [n, N] into rigid ones [n, 25].

    The rotation is the one nearest to the mixed matrix, the distance from the origin the mixed distance: a
    plain mean of two cameras stands nearer and squeezes the picture.
    """
    cameras = cameras.to(weights)
    poses = cam2world(cameras)
    left, _, right = torch.linalg.svd(torch.einsum("na,aij->nij", weights, poses[:, :3, :3]))
    turn = torch.det(left @ right).sign()
    rotation = torch.cat((left[:, :, :2], left[:, :, 2:] * turn[:, None, None]), dim=2) @ right
    position = weights @ poses[:, :3, 3]
    distance = weights @ poses[:, :3, 3].norm(dim=1, keepdim=True)
    position = position * distance / position.norm(dim=1, keepdim=True).clamp(min=1e-6)
    pose = torch.cat((rotation, position[:, :, None]), dim=2)
    last = torch.zeros_like(pose[:, :1])
    last[:, :, 3] = 1
    mixed = weights @ intrinsics(cameras).flatten(1)
    return torch.cat((torch.cat((pose, last), dim=1).flatten(1), mixed), dim=1)
