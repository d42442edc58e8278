"""Interpolation between cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from .pose import as_vector, cam2world, intrinsics, rotation_from_vector


def interpolate(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Interpolate the 25 numbers linearly, as the paper does; the results are not rigid.

    Args:
        start, end: cameras [1 or N, 25].
        t: [N], 0 is start and 1 is end.

    Returns:
        [N, 25]. For rigid cameras see `interpolate_orbit` and `camera.interpolate_rigid`.
    """
    return torch.lerp(start, end, t.to(start)[:, None])


def interpolate_rigid(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Interpolate cameras linearly and project the results to rigid ones.

    The linear rotation is orthonormalized (Gram-Schmidt), and the position is scaled to the interpolated
    distance from the origin: plain linear interpolation between cameras far apart comes so near that the near
    limit of the rays cuts the head.

    Args:
        start, end: cameras [1 or N, 25].
        t: [N]; 0 and 1 return `start` and `end` exactly.

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
    rigid = torch.cat((rows.flatten(1), plain[:, 16:]), dim=1)
    at = t.to(start)[:, None]
    return torch.where(at == 0, start, torch.where(at == 1, end, rigid))


def interpolate_orbit(
    start: Tensor, end: Tensor, t: Tensor, pivot: tuple[float, float, float] | Tensor | None = None
) -> Tensor:
    """Interpolate cameras on a sphere around the pivot: a rotation at constant speed about one axis.

    Unlike those of `interpolate`, the results are rigid, and between two cameras at the same distance from
    the pivot the distance stays. Halfway between two cameras 90 degrees apart, linear interpolation is 29 %
    too near and its rotation is not orthonormal.

    Args:
        start, end: cameras [1 or N, 25].
        t: [N], 0 is start and 1 is end; values outside continue the same arc.
        pivot: center of the sphere; None: the origin.

    Returns:
        [N, 25].

    Raises:
        ValueError: two cameras look in opposite directions, so that no arc between them is the shortest.
    """
    count = max(len(start), len(end), len(t))
    t = t.to(start).expand(count)
    first, last = start.double().expand(count, 25), end.double().expand(count, 25)
    one, two = cam2world(first), cam2world(last)
    center = torch.zeros(3) if pivot is None else torch.stack([as_vector(v)[0] for v in pivot])
    center = center.to(one)
    axis, angle = _axis_angle(two[:, :3, :3] @ one[:, :3, :3].transpose(1, 2))
    vector = axis * angle[:, None]
    whole, part = rotation_from_vector(vector), rotation_from_vector(vector * t.double()[:, None])
    arm = one[:, :3, 3] - center
    # the end's arm, rotated back to the start
    end_arm = (whole.transpose(1, 2) @ (two[:, :3, 3] - center)[..., None])[..., 0]
    arm = torch.lerp(arm, end_arm, t.double()[:, None])
    position = center + (part @ arm[..., None])[..., 0]
    result = torch.lerp(first, last, t.double()[:, None])
    pose = torch.zeros_like(one)
    pose[:, :3, :3], pose[:, :3, 3], pose[:, 3, 3] = part @ one[:, :3, :3], position, 1
    return torch.cat((pose.flatten(1), result[:, 16:]), dim=1).to(start.dtype)


def _axis_angle(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Convert rotations [N, 3, 3] to unit axes [N, 3] and angles [N] in 0..pi."""
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
    """Return float64 where the device has it, else float32: squaring latents loses half of the digits."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def blend_cameras(weights: Tensor, cameras: Tensor) -> Tensor:
    """Blend cameras into rigid ones.

    The rotation is the nearest one to the blended matrix (SVD). The distance from the origin is the blended
    distance, because the blended position alone would be nearer and distort the image.

    Args:
        weights: [n, N]; each row sums to 1 as a rule.
        cameras: [N, 25].

    Returns:
        [n, 25].
    """
    cameras = cameras.to(weights)
    poses = cam2world(cameras)
    left, _, right = torch.linalg.svd(torch.einsum("na,aij->nij", weights, poses[:, :3, :3]))
    sign = torch.det(left @ right).sign()
    rotation = torch.cat((left[:, :, :2], left[:, :, 2:] * sign[:, None, None]), dim=2) @ right
    position = weights @ poses[:, :3, 3]
    distance = weights @ poses[:, :3, 3].norm(dim=1, keepdim=True)
    position = position * distance / position.norm(dim=1, keepdim=True).clamp(min=1e-6)
    pose = torch.cat((rotation, position[:, :, None]), dim=2)
    last = torch.zeros_like(pose[:, :1])
    last[:, :, 3] = 1
    blended = weights @ intrinsics(cameras).flatten(1)
    return torch.cat((torch.cat((pose, last), dim=1).flatten(1), blended), dim=1)
