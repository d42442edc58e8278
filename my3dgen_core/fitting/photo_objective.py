"""Photometric objective shared by inversion, projection and tuning: renderings against photos."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..camera import check_cameras
from ..common.image_ops import resize
from ..common.rng import RngStreams
from ..eg3d import Generator
from ..eg3d.rendering.compositing import RayOutput
from .losses import laplacian_distance, photo_loss
from .lpips import Distance

MIN_SAMPLE_WEIGHT = 1e-3
"""Compositing weight below which a ray sample gets no gradient; nine of ten are, with little effect."""

_LOW_MEMORY_RAYS = 512
"""Rays rendered at a time in low-memory mode."""

SR_MARGIN = 4
"""Raw pixels at the border of a patch where super-resolution lacks context."""


def _weights(masks: Tensor | None, heads: Tensor | None, background_weight: float) -> Tensor | None:
    """Return the weight of each pixel [N, 1, H, W], or None where all weigh the same."""
    known = None
    if masks is not None and (masks.device.type == "meta" or bool((masks > 0).any())):
        known = 1 - masks.detach().clone().float()
    if heads is None or background_weight == 1:
        return known
    if heads.ndim != 4 or heads.shape[1] != 1:
        raise ValueError(f"Head masks must have shape [N, 1, H, W], but these have {list(heads.shape)}.")
    near = heads.detach().clone().float()
    near = near + background_weight * (1 - near)
    if known is None:
        return near
    return known * resize(near, known.shape[-1]).to(known)


class PhotoObjective:
    """Photos as targets at the generator's raw and final resolution.

    To save time a step may compare part of each picture:

    - `lattice`: every s-th raw pixel at a random offset. Covers the whole face, raw resolution only.
    - `patch`: a random square of raw pixels and its super-resolution. Fine detail, both resolutions.
    - `whole`: every pixel at both resolutions, as in the paper.
    """

    def __init__(
        self,
        generator: Generator,
        images: Tensor,
        masks: Tensor | None,
        perceptual: float = 0.5,
        heads: Tensor | None = None,
        background_weight: float = 1.0,
        distance: Distance = laplacian_distance,
    ) -> None:
        """Resize photos and pixel weights to both resolutions, on the generator's device.

        Args:
            generator: the model whose renderings are compared.
            images: [N, 3, H, H] in [-1, 1].
            masks: [N, 1, H, H], 1 = ignored pixel, or None.
            perceptual: weight of the perceptual term.
            heads: [N, 1, h, h], 1 = head; None: no distinction between head and background.
            background_weight: weight of pixels off the head, in 0..1.
            distance: the perceptual term.

        Raises:
            ValueError: photos and masks that do not match, or head masks of another shape.
        """
        check_photos(images, masks)
        self.generator = generator
        self.low_memory = False
        """Render a few rays at a time, to save memory."""
        self.random_samples = True
        """Jitter the ray samples in each step; False: the renderer's fixed positions."""
        self.perceptual, self.distance = perceptual, distance
        config = generator.config
        self.resolution = config.neural_resolution
        self.scale = config.img_resolution // config.neural_resolution
        device = generator.w_avg.device
        # A fresh copy outside inference mode: a host may hand in tensors that autograd refuses.
        images = images.detach().clone().to(device, torch.float32)
        self.final = resize(images, config.img_resolution)
        self.raw = resize(images, self.resolution)
        self.small = images if images.shape[-1] < self.resolution else None
        """Photos at their own size if that is below the raw resolution (see `shrunk`), else None."""
        self.valid_final = self.valid_raw = self.valid_small = None
        weights = _weights(masks, heads, background_weight)
        if weights is not None:
            weights = weights.to(device, torch.float32)
            self.valid_final = resize(weights, config.img_resolution)
            self.valid_raw = resize(weights, self.resolution)
            self.valid_small = resize(weights, images.shape[-1])
        layout = generator.superresolution.layout
        self.patches_possible = layout.input_resolution == self.resolution and config.sr_noise_mode == "none"

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def chunk(self) -> int | None:
        """Rays rendered at a time; None: all."""
        return _LOW_MEMORY_RAYS if self.low_memory else None

    def _photo_loss(self, image: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """Return squared error plus weighted perceptual distance [B] of [B, 3, h, w]."""
        squared, perceptual = photo_loss(image, target, valid, self.perceptual, self.distance)
        return squared + perceptual

    def _march(self, planes: Tensor, cameras: Tensor, pixels: Tensor | None, draw: RngStreams) -> RayOutput:
        """Render raw pixels [B, M] (None: all); negligible ray samples get no gradient."""
        march, jitter = self.generator.march, draw.samples if self.random_samples else None
        return march(planes, cameras, self.resolution, pixels, jitter, self.chunk, MIN_SAMPLE_WEIGHT)

    def sampled(
        self,
        ws: Tensor,
        planes: Tensor,
        cameras: Tensor,
        index: list[int],
        rays_per_image: int,
        draw: RngStreams,
    ) -> Tensor:
        """Return the losses [B] of photos `index` on about `rays_per_image` raw pixels each.

        `shrunk` for small photos; otherwise `whole` for 0 rays, and `lattice` for more.

        Args:
            ws: [B, num_ws, w_dim].
            planes: [B, 3, 32, P, P], of ws.
            cameras: [B, 25].
            index: rows of the photos, B of them.
            rays_per_image: raw pixels for each photo; 0: all, at both resolutions.
            draw: RNG streams of the step.
        """
        if self.small is not None:
            return self.shrunk(planes, cameras, index, draw)
        if rays_per_image == 0:
            return self.whole(ws, planes, cameras, index, draw)
        side = min(self.resolution, math.ceil(math.sqrt(rays_per_image)))
        return self.lattice(planes, cameras, index, self.resolution // side, draw)

    def lattice(
        self, planes: Tensor, cameras: Tensor, index: list[int], stride: int, draw: RngStreams
    ) -> Tensor:
        """Return the losses [B] of photos `index` on every `stride`-th raw pixel."""
        n = self.resolution // stride
        top, left = draw.places.randrange(stride), draw.places.randrange(stride)
        line = torch.arange(n, device=planes.device) * stride
        pixels = ((line + top)[:, None] * self.resolution + line + left).flatten()
        marched = self._march(planes, cameras, pixels, draw)
        image = marched.features[..., :3].transpose(1, 2).unflatten(2, (n, n))

        def subsample(values: Tensor) -> Tensor:
            return values[index].flatten(2)[:, :, pixels].unflatten(2, (n, n))

        valid = None if self.valid_raw is None else subsample(self.valid_raw)
        return self._photo_loss(image, subsample(self.raw), valid)

    def shrunk(self, planes: Tensor, cameras: Tensor, index: list[int], draw: RngStreams) -> Tensor:
        """Return the losses [B] of photos smaller than the raw rendering, which is resized to theirs.

        Enlarging the photos instead would make blur the target.
        """
        assert self.small is not None
        marched = self._march(planes, cameras, None, draw)
        square = (self.resolution, self.resolution)
        image = resize(marched.features[..., :3].transpose(1, 2).unflatten(2, square), self.small.shape[-1])
        valid = None if self.valid_small is None else self.valid_small[index]
        return self._photo_loss(image, self.small[index], valid)

    def patch(
        self,
        ws: Tensor,
        planes: Tensor,
        cameras: Tensor,
        index: list[int],
        size: int,
        draw: RngStreams,
    ) -> Tensor:
        """Return the losses [B] of photos `index` on a random square each, at both resolutions.

        Falls back to `whole` where the square covers the picture or super-resolution cannot work on a part.

        Args:
            ws: [B, num_ws, w_dim].
            planes: [B, 3, 32, P, P], of ws.
            cameras: [B, 25].
            index: rows of the photos, B of them.
            size: edge of the square in raw pixels.
            draw: RNG streams of the step.
        """
        if size >= self.resolution or not self.patches_possible:
            return self.whole(ws, planes, cameras, index, draw)
        corners = [(self._corner(size, draw), self._corner(size, draw)) for _ in index]
        corner = torch.tensor(corners, device=planes.device)
        line = torch.arange(size, device=planes.device)
        rows = corner[:, :1] + line  # [B, size]
        columns = corner[:, 1:] + line
        pixels = (rows[:, :, None] * self.resolution + columns[:, None]).flatten(1)
        marched = self._march(planes, cameras, pixels, draw)
        features = marched.features.transpose(1, 2).unflatten(2, (size, size))
        image = self.generator.superresolution.upscale(features, ws)
        losses = []
        for b, (photo, (top, left)) in enumerate(zip(index, corners, strict=True)):
            raw = self._compare(features[b, :3], self.raw, self.valid_raw, photo, top, left, 0)
            final = self._compare(image[b], self.final, self.valid_final, photo, top, left, SR_MARGIN)
            losses.append(raw + final)
        return torch.stack(losses)

    def _corner(self, size: int, draw: RngStreams) -> int:
        """Draw the first row (or column) of a patch.

        Positions beyond the border are drawn too and clamped; otherwise pixels at the border, where
        silhouettes run, would be covered thirty times less often than those in the center.
        """
        last = self.resolution - size
        return min(max(draw.places.randint(-(size // 2), last + size // 2), 0), last)

    def _compare(
        self,
        patch: Tensor,
        targets: Tensor,
        valid: Tensor | None,
        photo: int,
        top: int,
        left: int,
        margin: int,
    ) -> Tensor:
        """Return the loss of a patch [3, s, s] whose corner is raw pixel (top, left).

        `margin` raw pixels are left out at each side, except sides on the border of the picture.
        """
        scale = targets.shape[-1] // self.resolution
        size = patch.shape[-1] // scale

        def span(first: int) -> slice:
            begin = first + (margin if first > 0 else 0)
            end = first + size - (margin if first + size < self.resolution else 0)
            return slice(begin * scale, end * scale)

        rows, columns = span(top), span(left)
        y, x = top * scale, left * scale
        image = patch[None, :, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        known = None if valid is None else valid[photo, None, :, rows, columns]
        return self._photo_loss(image, targets[photo, None, :, rows, columns], known)[0]

    def whole(
        self, ws: Tensor, planes: Tensor, cameras: Tensor, index: list[int], draw: RngStreams
    ) -> Tensor:
        """Return the losses [B] of photos `index` on whole pictures at both resolutions."""
        marched = self._march(planes, cameras, None, draw)
        square = (self.resolution, self.resolution)
        features = marched.features.transpose(1, 2).unflatten(2, square).contiguous()
        final = self.generator.superresolution(features, ws, draw.samples)
        total = ws.new_zeros(len(index))
        for image, target, valid in (
            (features[:, :3], self.raw, self.valid_raw),
            (final, self.final, self.valid_final),
        ):
            known = None if valid is None else valid[index]
            total = total + self._photo_loss(image, target[index], known)
        return total


def check_photos(images: Tensor, masks: Tensor | None = None, cameras: Tensor | None = None) -> None:
    """Check that photos, masks and cameras are well formed and match.

    Args:
        images: [N, 3, H, H] in [-1, 1].
        masks: [N, 1, H, H], or None.
        cameras: [N, 25], or None.

    Raises:
        ValueError: wrong shapes or counts, no photo, or pixels that are not finite or out of range.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(
            f"Photos must be square pictures [N, 3, H, H], but these have shape {list(images.shape)}. "
            "Align them first."
        )
    if len(images) == 0:
        raise ValueError("There is no photo to work on.")
    if images.device.type != "meta":
        if not bool(torch.isfinite(images).all()):
            raise ValueError("Some photo holds NaN or infinite pixels.")
        if float(images.min()) < -1.01 or float(images.max()) > 1.01:
            raise ValueError(
                f"Photos must lie in [-1, 1], but these reach from {float(images.min()):.2f} "
                f"to {float(images.max()):.2f}."
            )
    if masks is not None and masks.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(f"Masks {list(masks.shape)} do not fit the photos {list(images.shape)}.")
    if cameras is not None:
        check_cameras(cameras)
        if len(cameras) != len(images):
            raise ValueError(f"There are {len(images)} photos but {len(cameras)} cameras.")
