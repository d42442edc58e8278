"""Inpainting and super-resolution of photos with a personal prior (MyStyle).

Both first project the photo into the person's alpha space, comparing known pixels only: those that no mask
hides, or those of the small photo. The rendering is then blended into the photo, which keeps known pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.image_ops import pull_push_fill, resize
from ..common.progress import OnStep
from ..eg3d import Generator
from ..fitting.alpha_projection import ProjectionConfig
from ..fitting.photo_objective import check_photos
from ..person.latents import Latents
from .alpha_space import AlphaSpace

_ROUNDS = 8
"""Iterations of back-projection."""


@dataclass(frozen=True)
class RestorationResult:
    """Result of `inpaint` or `sharpen`."""

    images: Tensor
    """Restored photos [n, 3, S, S] in [-1, 1]."""
    renders: Tensor
    """Renderings of the projected latents [n, 3, R, R], before blending."""
    latents: Latents
    """Projected latents with the photos' cameras."""


def inpaint(
    generator: Generator,
    space: AlphaSpace,
    images: Tensor,
    cameras: Tensor,
    masks: Tensor,
    config: ProjectionConfig | None = None,
    on_step: OnStep | None = None,
    **settings: Any,
) -> RestorationResult:
    """Fill masked parts of photos from the person's model (MyStyle).

    Args:
        generator: with the person's identity applied around the call (`personalized`).
        space: alpha space of the person's anchors.
        images: aligned photos [n, 3, H, H] in [-1, 1], any size.
        cameras: [n, 25], of the photos.
        masks: [n, 1, H, H], 1 = pixel to ignore and fill.
        config, on_step, settings: as in `AlphaSpace.project`.

    Returns:
        `RestorationResult` with pictures of the photos' size H; where the mask is 0 they equal the photos
        bit-exactly.

    Raises:
        ValueError: photos, masks and cameras that do not match, a mask that covers a whole photo, or anchors
            of another generator.
    """
    check_photos(images, masks, cameras)
    if masks.device.type != "meta" and bool((masks.flatten(1).amin(1) >= 1).any()):
        raise ValueError("A mask hides the whole photo: nothing is left to find the person by.")
    found = space.project(generator, images, cameras, config, masks, on_step, **settings)
    renders = _render(generator, found)
    return RestorationResult(blend(images.to(renders), renders, masks.to(renders)), renders, found)


def sharpen(
    generator: Generator,
    space: AlphaSpace,
    images: Tensor,
    cameras: Tensor,
    config: ProjectionConfig | None = None,
    on_step: OnStep | None = None,
    **settings: Any,
) -> RestorationResult:
    """Upscale small photos to the generator's resolution with the person's detail (super-resolution).

    Args:
        generator: with the person's identity applied around the call (`personalized`).
        space: alpha space of the person's anchors.
        images: aligned photos [n, 3, h, h] in [-1, 1], at the size at which they are sharp: do not upscale
            them first.
        cameras: [n, 25], of the photos.
        config, on_step, settings: as in `AlphaSpace.project`.

    Returns:
        `RestorationResult` with pictures of the generator's size R; downsampled to h, they approximate the
        photos.

    Raises:
        ValueError: photos and cameras that do not match, photos not smaller than R, or anchors of another
            generator.
    """
    check_photos(images, None, cameras)
    full = generator.config.img_resolution
    if images.shape[-1] >= full:
        raise ValueError(
            f"The photos have {images.shape[-1]} pixels a side, and this generator's pictures {full}: "
            "nothing can be gained. Give the photo in the size in which it is sharp."
        )
    found = space.project(generator, images, cameras, config, None, on_step, **settings)
    renders = _render(generator, found)
    return RestorationResult(back_project(images.to(renders), renders), renders, found)


def blend(photos: Tensor, renders: Tensor, masks: Tensor) -> Tensor:
    """Blend renderings into masked parts of photos without a seam.

    The difference around the hole is interpolated smoothly into it (a membrane, as in Poisson blending),
    which adapts the rendering to the light and color of the photo.

    Args:
        photos: [n, 3, H, H] in [-1, 1].
        renders: [n, 3, R, R], any size.
        masks: [n, 1, H, H], 1 = rendering, 0 = photo.

    Returns:
        [n, 3, H, H].
    """
    renders = resize(renders, photos.shape[-1])
    known = 1 - masks
    filled = (renders + pull_push_fill(photos - renders, known)).clamp(-1, 1)
    return torch.where(known == 1, photos, known * photos + masks * filled)


def back_project(small: Tensor, renders: Tensor) -> Tensor:
    """Correct renderings by iterative back-projection so that, downsampled, they match small photos.

    Args:
        small: [n, 3, h, h] in [-1, 1].
        renders: [n, 3, R, R].

    Returns:
        [n, 3, R, R] in [-1, 1].
    """
    size, image = renders.shape[-1], renders
    for _ in range(_ROUNDS):
        missing = small - resize(image, small.shape[-1])
        image = image + F.interpolate(missing, (size, size), mode="bicubic", align_corners=False)
    return image.clamp(-1, 1)


@torch.no_grad()
def _render(generator: Generator, found: Latents) -> Tensor:
    """Render latents from their own cameras, one at a time: [n, 3, R, R] in [-1, 1]."""
    assert found.cameras is not None
    pairs = zip(found.ws.split(1), found.cameras.split(1), strict=True)
    return torch.cat([generator.render(ws, camera).image for ws, camera in pairs]).clamp(-1, 1)
