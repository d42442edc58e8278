"""How well latents and cameras explain photos: the one loss that inversion and tuning descend."""

from __future__ import annotations

import torch
from torch import Tensor

from ..camera import check_cameras
from ..common.image_ops import resize
from ..common.rng import RngStreams
from ..eg3d import Generator
from ..eg3d.rendering.compositing import RayOutput
from .losses import laplacian_distance, photo_loss
from .lpips import Distance

FLOOR = 1e-3
"""Samples that weigh less on their ray get no gradient: nine of ten, at next to no loss of accuracy."""

_LOW_MEMORY_RAYS = 512

SR_MARGIN = 4
"""Raw pixels at the rim of a patch that super-resolution sees with too little context."""


def _weights(masks: Tensor | None, heads: Tensor | None, background_weight: float) -> Tensor | None:
    """Weight of each pixel [N, 1, H, W], or None where all weigh the same."""
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
    """Photos as targets at the raw and at the final resolution.

    A step looks at part of each picture, to save time:

    - "lattice": every s-th raw pixel, at a random offset. The whole face at a glance, raw resolution only.
    - "patch": a random square of raw pixels, then super-resolution on it. Both resolutions, fine detail.
    - "whole": the reference's way, every pixel at both resolutions.
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
        """images [N,3,H,W] in [-1,1], square; masks [N,1,H,W], 1 = invented pixel, or None.

        heads [N,1,h,h], 1 = head: other pixels weigh `background_weight`. None: all pixels weigh the same.
        distance: the perceptual term, which weighs `perceptual`.
        """
        check_photos(images, masks)
        self.generator = generator
        self.low_memory = False
        """Rays are worked on in small parts, to save memory."""
        self.random_samples = True
        """Samples on the rays are drawn anew each time; False: they lie where pictures have them."""
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
        """The photos as they are, where they are smaller than the raw picture (see `shrunk`)."""
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
        """Rays worked on at a time; None: all."""
        return _LOW_MEMORY_RAYS if self.low_memory else None

    def _photo_loss(self, image: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        squared, perceptual = photo_loss(image, target, valid, self.perceptual, self.distance)
        return squared + perceptual

    def _march(self, planes: Tensor, cameras: Tensor, pixels: Tensor | None, draw: RngStreams) -> RayOutput:
        """Raw pixels; what weighs next to nothing on its ray gets no gradient."""
        march, jitter = self.generator.march, draw.samples if self.random_samples else None
        return march(planes, cameras, self.resolution, pixels, jitter, self.chunk, FLOOR)

    def lattice(
        self, planes: Tensor, cameras: Tensor, index: list[int], stride: int, draw: RngStreams
    ) -> Tensor:
        """Loss [B] of photos `index` on every `stride`-th raw pixel."""
        n = self.resolution // stride
        top, left = draw.places.randrange(stride), draw.places.randrange(stride)
        line = torch.arange(n, device=planes.device) * stride
        pixels = ((line + top)[:, None] * self.resolution + line + left).flatten()
        marched = self._march(planes, cameras, pixels, draw)
        image = marched.features[..., :3].transpose(1, 2).unflatten(2, (n, n))

        def thin(values: Tensor) -> Tensor:
            return values[index].flatten(2)[:, :, pixels].unflatten(2, (n, n))

        valid = None if self.valid_raw is None else thin(self.valid_raw)
        return self._photo_loss(image, thin(self.raw), valid)

    def shrunk(self, planes: Tensor, cameras: Tensor, index: list[int], draw: RngStreams) -> Tensor:
        """Loss [B] of photos smaller than the raw picture, which is shrunk to their size.

        Enlarged, they would teach blur.
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
        """Loss [B] of photos `index` on a square of `size` raw pixels each, at both resolutions."""
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
        """First row (or column) of a patch.

        It is aimed beyond the rim too and pushed back: else the rim, where silhouettes run, would be seen
        once for thirty times that the middle is.
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
        """Loss of a patch [3, s, s] whose corner is raw pixel (top, left); `margin` raw pixels are left out
        at every side but those on the rim of the picture, whose surroundings are true."""
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
        """Loss [B] of photos `index` on whole pictures at both resolutions."""
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
    """Raises ValueError with a sentence unless photos, masks and cameras belong together."""
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
