"""Small corrections of camera labels, found by laying the head over its photo.

A label from landmarks is some degrees off, and every degree is paid for in blur. Five angles a photo correct
it: three turn the camera about the head, two about itself, which shifts the picture. The distance to the head
stays what it was; were it free, the scale of the face would drift.

Few angles and many pixels: a Gauss-Newton step, whose derivatives are differences of pictures, goes in one
move where gradient descent takes hundreds, and asks nothing of the renderer but pictures (direct image
alignment; Lucas and Kanade, 1981). Adam, one photo a step, recovered a third of what the errors cost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import check_cameras, rotate_cameras
from ..eg3d import Generator

SIGMAS = (0.06, 0.06, 0.06, 1e-3, 1e-3)
"""Standard deviations of a label's errors in radians, to which the corrections are held: 3.5 degrees about
the head; about the camera, less than half a pixel of 128: a picture's shift is what landmarks show best."""

_PIXEL = 0.05  # standard deviation of a pixel's error that is no matter of pose, of a range of 2
_OUTLIER = 6.0  # of these: errors beyond say less and less, they are of something else
_PARTS = (1.0, 0.5, 0.25)  # of a step, of which the best is taken, if any is better than none
_PROBE = 0.01 / 0.06  # of a standard deviation: the step of a difference
_MANY = 8  # labels, of which the mean's error is a third of one's
_SIDE = 64  # raw pixels along an edge that are looked at

FINGERPRINT_SETTINGS = (SIGMAS, _PIXEL, _OUTLIER, _PARTS, _SIDE)
"""What corrections depend on, beside pictures."""


class CameraRefinement:
    """Labels [N, 25] with corrections `angles` [N, 5] in standard deviations (`SIGMAS`), 0 unless `free`."""

    def __init__(self, labels: Tensor, free: bool) -> None:
        self.labels, self.free = check_cameras(labels).detach().clone(), free
        self.angles = self.labels.new_zeros(len(labels), len(SIGMAS))

    def cameras(self, index: list[int] | None = None) -> Tensor:
        """Corrected cameras of photos `index` (None: all)."""
        rows = slice(None) if index is None else index
        if not self.free:
            return self.labels[rows]
        return rotate_cameras(self.labels[rows], self.angles[rows] * self.angles.new_tensor(SIGMAS))

    @torch.no_grad()
    def gauss_newton_step(
        self, generator: Generator, ws: Tensor, photos: Tensor, weights: Tensor | None, index: list[int]
    ) -> None:
        """Lays the generator's heads over their photos, by one step of Gauss and Newton.

        Args:
            ws: [1 or len(index), num_ws, w_dim].
            photos: [N, 3, r, r], at the generator's raw resolution.
            weights: of their pixels [N, 1, r, r], or None.
            index: the photos whose cameras are corrected.
        """
        size = generator.config.neural_resolution
        stride = max(1, size // _SIDE)
        planes = generator.planes(ws)
        line = torch.arange(0, size, stride, device=planes.device)
        pixels = (line[:, None] * size + line).flatten()
        sigmas, unit = self.angles.new_tensor(SIGMAS), torch.eye(len(SIGMAS), device=planes.device)
        for place, row in enumerate(index):
            own = planes[place : place + 1] if len(planes) > 1 else planes
            photo = _blurred(photos[row, None, :, ::stride, ::stride]).flatten(1)
            # Neighbours err alike: an edge's worth of pixels counts, not a square's.
            counts = torch.full_like(photo[0], 1 / len(line))
            if weights is not None:
                counts = counts * weights[row, :, ::stride, ::stride].expand(3, -1, -1).flatten()

            def errors(angles: Tensor, own: Tensor = own, row: int = row, photo: Tensor = photo) -> Tensor:
                cameras = rotate_cameras(self.labels[row].expand(len(angles), -1), angles * sigmas)
                marched = generator.march(own.expand(len(angles), -1, -1, -1, -1), cameras, size, pixels)
                seen = marched.features[..., :3].transpose(1, 2).unflatten(2, (len(line), len(line)))
                return (_blurred(seen).flatten(1) - photo) / _PIXEL

            now = self.angles[row]
            probed = errors(now + torch.cat((torch.zeros_like(unit[:1]), _PROBE * unit)))
            error, slope = probed[0], (probed[1:] - probed[0]) / _PROBE
            trust = counts / (1 + (error / _OUTLIER).square())
            step = torch.linalg.solve((slope * trust) @ slope.mT + unit, -(slope * trust) @ error - now)
            tried = now + step * now.new_tensor(_PARTS)[:, None]
            every, angles = torch.cat((error[None], errors(tried))), torch.cat((now[None], tried))
            surprise = _OUTLIER**2 * (1 + (every / _OUTLIER).square()).log() @ counts + angles.square().sum(1)
            self.angles[row] = angles[surprise.argmin()]

    def remove_mean(self) -> None:
        """Makes the mean of many photos' corrections 0. Of a head that was found from them, pictures cannot
        tell a turn of all cameras from its own; the labels, right on the whole, can."""
        if len(self.angles) >= _MANY:
            self.angles -= self.angles.mean(0)


def _blurred(images: Tensor) -> Tensor:
    """[N, C, H, W], by the binomial of three pixels: differences of pictures are smooth then."""
    line = images.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
