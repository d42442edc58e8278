"""Refinement of camera labels by direct image alignment (Lucas and Kanade, 1981).

Labels estimated from landmarks are off by some degrees, which blurs what is fitted to them. Five angles per
photo correct a label: three rotate the camera about the head, two about itself, which shifts the picture. The
distance to the head is fixed, because the scale of the face would drift otherwise.

The angles are few and the pixels many, so Gauss-Newton steps are used: one replaces hundreds of gradient
steps, and its derivatives are finite differences of renderings, which ask no gradient of the renderer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import check_cameras, rotate_cameras
from ..eg3d import Generator

SIGMAS = (0.06, 0.06, 0.06, 1e-3, 1e-3)
"""Prior standard deviations of the corrections in radians.

3.5 degrees about the head; less than half a pixel of 128 about the camera, because landmarks determine the
shift of a picture best.
"""

_PIXEL_SIGMA = 0.05  # standard deviation of a pixel's error that has other causes than pose, of a range of 2
_OUTLIER = 6.0  # scale of the Cauchy loss, in such deviations
_STEP_FRACTIONS = (1.0, 0.5, 0.25)  # line search along a Gauss-Newton step
_PROBE = 0.01 / 0.06  # step of the finite differences, in standard deviations
_MIN_LABELS = 8  # labels from which their mean error is small enough to remove the mean correction
_SIDE = 64  # raw pixels compared along an edge

FINGERPRINT_SETTINGS = (SIGMAS, _PIXEL_SIGMA, _OUTLIER, _STEP_FRACTIONS, _SIDE)
"""Constants that enter the cache key of an inversion with refined cameras."""


class CameraRefinement:
    """Camera labels [N, 25] with corrections `angles` [N, 5], in units of `SIGMAS`."""

    def __init__(self, labels: Tensor, free: bool) -> None:
        """Start from zero corrections.

        Args:
            labels: [N, 25], copied.
            free: apply corrections; False: `cameras` returns the labels.
        """
        self.labels, self.free = check_cameras(labels).detach().clone(), free
        self.angles = self.labels.new_zeros(len(labels), len(SIGMAS))

    def cameras(self, index: list[int] | None = None) -> Tensor:
        """Return the corrected cameras [B, 25] of the photos `index` (None: all)."""
        rows = slice(None) if index is None else index
        if not self.free:
            return self.labels[rows]
        return rotate_cameras(self.labels[rows], self.angles[rows] * self.angles.new_tensor(SIGMAS))

    @torch.no_grad()
    def gauss_newton_step(
        self, generator: Generator, ws: Tensor, photos: Tensor, weights: Tensor | None, index: list[int]
    ) -> None:
        """Align renderings with their photos by one Gauss-Newton step on `angles`, with a line search.

        Minimizes a Cauchy loss of the pixel errors plus the squared corrections.

        Args:
            generator: rendered at its raw resolution r.
            ws: [1 or len(index), num_ws, w_dim].
            photos: [N, 3, r, r] in [-1, 1].
            weights: weights of the pixels [N, 1, r, r], or None.
            index: rows of the photos whose cameras are corrected.
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
            # Errors of neighboring pixels are correlated: count as many as along one edge.
            counts = torch.full_like(photo[0], 1 / len(line))
            if weights is not None:
                counts = counts * weights[row, :, ::stride, ::stride].expand(3, -1, -1).flatten()

            def errors(angles: Tensor, own: Tensor = own, row: int = row, photo: Tensor = photo) -> Tensor:
                cameras = rotate_cameras(self.labels[row].expand(len(angles), -1), angles * sigmas)
                marched = generator.march(own.expand(len(angles), -1, -1, -1, -1), cameras, size, pixels)
                seen = marched.features[..., :3].transpose(1, 2).unflatten(2, (len(line), len(line)))
                return (_blurred(seen).flatten(1) - photo) / _PIXEL_SIGMA

            now = self.angles[row]
            probed = errors(now + torch.cat((torch.zeros_like(unit[:1]), _PROBE * unit)))
            error, slope = probed[0], (probed[1:] - probed[0]) / _PROBE
            trust = counts / (1 + (error / _OUTLIER).square())
            step = torch.linalg.solve((slope * trust) @ slope.mT + unit, -(slope * trust) @ error - now)
            tried = now + step * now.new_tensor(_STEP_FRACTIONS)[:, None]
            every, angles = torch.cat((error[None], errors(tried))), torch.cat((now[None], tried))
            cost = _OUTLIER**2 * (1 + (every / _OUTLIER).square()).log() @ counts + angles.square().sum(1)
            self.angles[row] = angles[cost.argmin()]

    def remove_mean(self) -> None:
        """Subtract the mean correction if there are at least `_MIN_LABELS` photos.

        A common rotation of all cameras cannot be told from a rotation of the head that was fitted with
        them; the labels, which are unbiased, decide.
        """
        if len(self.angles) >= _MIN_LABELS:
            self.angles -= self.angles.mean(0)


def _blurred(images: Tensor) -> Tensor:
    """Blur pictures [N, C, H, W] by a 3 x 3 binomial filter, for smooth finite differences."""
    line = images.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
