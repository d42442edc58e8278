"""What a photo lacks, out of the person: hidden parts filled in, small photos made sharp (MyStyle's tasks).

Both find the photo in the person's alpha space first, looking at what is there alone: the pixels that no mask
hides, or the few that a small photo has. What the person looks like there is then blended into the photo, so
that what was known stays as it was.
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
"""Corrections until a sharpened photo, shrunk, is the small one."""


@dataclass(frozen=True)
class RestorationResult:
    """images [n, 3, S, S] in [-1, 1]: the photos, restored.

    renders [n, 3, R, R]: what the person's model shows of them, without the photo. latents: where they were
    found, with the photos' cameras.
    """

    images: Tensor
    renders: Tensor
    latents: Latents


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
    """Fills in what the masks hide, from the person.

    Args:
        generator: the person's; apply the identity around the call (`personalized`).
        space: over the person's anchors.
        images: [n, 3, H, H] in [-1, 1], any size.
        cameras: [n, 25].
        masks: [n, 1, H, H], 1 = hidden: not looked at, and filled in.
        config, on_step, settings: as in `AlphaSpace.project`.

    Returns:
        Pictures of the photos' own size; where the mask is 0 they are the photos to the last bit.

    Raises:
        ValueError: photos, masks and cameras that do not belong together, a mask that hides all, anchors of
            another generator.
    """
    check_photos(images, masks, cameras)
    if masks.device.type != "meta" and bool((masks.flatten(1).amin(1) >= 1).any()):
        raise ValueError("A mask hides the whole photo: nothing is left to find the person by.")
    found = space.project(generator, images, cameras, config, masks, on_step, **settings)
    renders = _rendered(generator, found)
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
    """Small photos in the generator's full size, with the person's detail (super-resolution).

    Args:
        images: [n, 3, h, h] in [-1, 1], in the size in which they are sharp: do not enlarge them first.
        generator, space, cameras, config, on_step, settings: as in `inpaint`.

    Returns:
        Pictures of the generator's size R; shrunk to h, they are the small photos, nearly.

    Raises:
        ValueError: as in `inpaint`, or photos that are not smaller than R.
    """
    check_photos(images, None, cameras)
    full = generator.config.img_resolution
    if images.shape[-1] >= full:
        raise ValueError(
            f"The photos have {images.shape[-1]} pixels a side, and this generator's pictures {full}: "
            "nothing can be gained. Give the photo in the size in which it is sharp."
        )
    found = space.project(generator, images, cameras, config, None, on_step, **settings)
    renders = _rendered(generator, found)
    return RestorationResult(back_project(images.to(renders), renders), renders, found)


def blend(photos: Tensor, renders: Tensor, masks: Tensor) -> Tensor:
    """Photos [n, 3, H, H] with renderings of any size where masks [n, 1, H, H] are 1, without a seam.

    What the two differ by around the hole goes on smoothly into it (a membrane, as in Poisson blending), so
    that light and colour of the photo are taken over.
    """
    renders = resize(renders, photos.shape[-1])
    known = 1 - masks
    filled = (renders + pull_push_fill(photos - renders, known)).clamp(-1, 1)
    return torch.where(known == 1, photos, known * photos + masks * filled)


def back_project(small: Tensor, renders: Tensor) -> Tensor:
    """Renderings [n, 3, R, R] corrected until, shrunk, they are the small photos [n, 3, h, h]."""
    size, image = renders.shape[-1], renders
    for _ in range(_ROUNDS):
        missing = small - resize(image, small.shape[-1])
        image = image + F.interpolate(missing, (size, size), mode="bicubic", align_corners=False)
    return image.clamp(-1, 1)


@torch.no_grad()
def _rendered(generator: Generator, found: Latents) -> Tensor:
    assert found.cameras is not None
    pairs = zip(found.ws.split(1), found.cameras.split(1), strict=True)
    return torch.cat([generator.render(ws, camera).image for ws, camera in pairs]).clamp(-1, 1)
