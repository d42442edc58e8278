"""Small corrections of camera labels, found along with a latent or an adapter (3DGAN-Inversion, WACV 2023).

A label from landmarks is some degrees off, and every degree is paid for in blur. Six angles a photo correct
it: three turn the camera about the head, three about itself, which shifts and rolls the picture. The
distance to the head stays what it was; were it free, the scale of the face would drift.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .camera import cam2world, check_cameras

SIGMA = 0.06
"""Standard deviation of a label's error in radians (3.5 degrees): what the prior holds the angles to."""

LEVER = (1.0, 1.0, 1.0, 0.1, 0.1, 0.1)
"""A turn of the camera about itself moves the picture ten times as far as one about the head, whose surface
is that much nearer to its axis: corrections count in these units, so that one rate suits all six."""

PENALTY = 1e-4
"""Weight of that prior beside losses of some hundredths."""


def _rotation(angles: Tensor) -> Tensor:
    """Rotation vectors [N, 3] in radians -> matrices [N, 3, 3]; differentiable, also at 0."""
    x, y, z = angles.unbind(1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=1).unflatten(1, (3, 3))
    return torch.linalg.matrix_exp(skew)


def turned(cameras: Tensor, angles: Tensor) -> Tensor:
    """Cameras [N, 25] turned by angles [N, 6] in radians.

    The first three are a rotation vector about the world's origin, in world axes; the last three one about
    the camera's own centre, in camera axes. Intrinsics and the distance to the origin stay.
    """
    pose = cam2world(cameras)
    around, own = _rotation(angles[:, :3]), _rotation(angles[:, 3:])
    turned_pose = torch.cat((around @ pose[:, :3, :3] @ own, around @ pose[:, :3, 3:]), dim=2)
    return torch.cat((torch.cat((turned_pose, pose[:, 3:]), dim=1).flatten(1), cameras[:, 16:]), dim=1)


class CameraRefinement:
    """Labels [N, 25] with their corrections `angles`, N times [6] in radians over `LEVER`, zero at first; to
    be optimised if `free`.

    Each photo's are a tensor of their own: an optimiser with momentum moves those of the photos it has just
    looked at, and leaves the others where they are.
    """

    def __init__(self, cameras: Tensor, free: bool) -> None:
        self.labels, self.free = check_cameras(cameras).detach().clone(), free
        self.angles = [torch.zeros(6, device=cameras.device).requires_grad_(free) for _ in cameras]

    def cameras(self, index: list[int] | None = None) -> Tensor:
        """Corrected cameras of photos `index` (None: all)."""
        rows = list(range(len(self.labels))) if index is None else index
        if not self.free:
            return self.labels[rows]
        return turned(self.labels[rows], self.chosen(rows) * self.labels.new_tensor(LEVER))

    def chosen(self, index: list[int]) -> Tensor:
        """Corrections of photos `index`, [B, 6]."""
        return torch.stack([self.angles[row] for row in index]) if index else self.labels.new_zeros(0, 6)

    def penalty(self, index: list[int]) -> Tensor:
        """Negative log probability of the corrections [B], up to a constant: keeps them near the labels."""
        return 0.5 * (self.chosen(index) / SIGMA).square().sum(1)
