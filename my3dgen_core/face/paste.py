"""An edited crop, back in its photo: one warp, with a soft edge."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..common.image_ops import pull_push_fill
from .crop import CropTransform

FEATHER = 24.0


def paste_back(
    pixels: np.ndarray,
    transform: CropTransform,
    crop: torch.Tensor,
    mask: torch.Tensor | None = None,
    feather: float = FEATHER,
    old: torch.Tensor | None = None,
    wider: float = 1.0,
) -> np.ndarray:
    """Put an edited crop back into its photo, with a soft edge.

    Outside the crop, and further than half the feather outside the masks, the photo stays as it is to the
    last bit. Inside, a crop that is smaller than the face in the photo brings only the detail it has.

    Args:
        pixels: the photo [H,W,3], uint8 or float in 0..1. A copy of the photo in another size will do.
        transform: where the crop was cut out.
        crop: [3,S,S] in [-1,1] (any S).
        mask: [1,s,s] in 0..1 (any s), 1 = take the crop; None takes all of it.
        feather: width of the soft edge, in pixels of a 512 crop: inwards at the border of the crop, half to
            either side at the border of the mask. 0 is a hard edge.
        old: [1,s,s] in 0..1, where the head was that is replaced: what the new one does not cover of it is
            filled in from the photo around. None: nothing is filled in.
        wider: the crop and the masks show so many times what was cut out (`camera.widened`), to reach hair
            and shoulders beyond it.
    Returns:
        a new photo of the same size and type.
    Raises:
        ValueError: the photo has other proportions than the one the crop came from, the crop or a mask is
            not a square picture, or the old head's covers all there is.
    """
    _check_square(crop, 3, "The picture to paste")
    transform = transform.for_photo_size(pixels.shape[0], pixels.shape[1]).wider(wider)
    height, width = transform.photo_size
    corners = transform.to_photo(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * float(transform.crop_size))
    left, top = np.floor(corners.min(0)).astype(int).clip(0, [width, height])
    right, bottom = np.ceil(corners.max(0)).astype(int).clip(0, [width, height])
    result = pixels.copy()
    if left >= right or top >= bottom:
        return result
    x = torch.arange(left, right, dtype=torch.float64) + 0.5
    y = torch.arange(top, bottom, dtype=torch.float64)[:, None] + 0.5
    matrix = torch.from_numpy(transform.matrix) * (2 / transform.crop_size)
    grid = torch.stack([row[0] * x + row[1] * y + row[2] - 1 for row in matrix], -1)[None].float()
    new = _sampled(crop.detach().float().cpu().clamp(-1, 1), grid, transform, "bicubic").clamp(-1, 1)
    inside = 1 - grid[0].abs().amax(-1)  # [h,w] distance to the crop's border; 1 in the middle
    soft = feather / transform.crop_size * 2
    weight = (inside / soft).clamp(0, 1) if soft > 0 else (inside > 0).float()
    if mask is not None:
        _check_square(mask, 1, "The mask")
        softened = _softened(mask.detach().float().cpu().clamp(0, 1), feather)
        weight = weight * _sampled(softened, grid, transform, "bilinear")[0].clamp(0, 1)
    full = 255.0 if pixels.dtype == np.uint8 else 1.0
    photo = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).float()
    changed = (weight > 0).numpy()
    if old is not None:
        _check_square(old, 1, "The mask of the old head")
        grown = _grown(old.detach().float().cpu().clamp(0, 1), feather)
        gone = _sampled(grown, grid, transform, "bilinear").clamp(0, 1) * (inside > 0)
        photo = _without(photo, gone)
        changed |= (gone[0] > 0).numpy()
    mixed = torch.lerp(photo, (new.permute(1, 2, 0) + 1) / 2 * full, weight[..., None])
    mixed_pixels = (mixed.round() if full == 255 else mixed).numpy().astype(pixels.dtype)
    result[top:bottom, left:right][changed] = mixed_pixels[changed]
    return result


def _sampled(source: torch.Tensor, grid: torch.Tensor, transform: CropTransform, mode: str) -> torch.Tensor:
    """Picture [C,S,S] at the grid [1,h,w,2] of photo pixels -> [C,h,w], antialiased where it shrinks."""
    picture = source[None]
    per_pixel = source.shape[-1] * transform.scale / transform.crop_size  # its pixels, a photo pixel
    if per_pixel > 1:
        smaller = max(1, round(source.shape[-1] / per_pixel))
        picture = F.interpolate(picture, smaller, mode="bilinear", antialias=True, align_corners=False)
    return F.grid_sample(picture, grid, mode=mode, padding_mode="border", align_corners=False)[0]


def _softened(mask: torch.Tensor, feather: float) -> torch.Tensor:
    """A mask [1,s,s] with a ramp as wide as the feather (of a 512 crop) where it had an edge."""
    half = round(feather * mask.shape[-1] / 512 / 2)
    if half < 1:
        return mask
    from kornia.filters import box_blur  # here: 0.3 s that programs without masks need not wait for

    width = 2 * min(half, mask.shape[-1] - 1) + 1
    return box_blur(mask[None], (width, width), "replicate", separable=True)[0]


def _grown(mask: torch.Tensor, feather: float) -> torch.Tensor:
    """A mask [1,s,s] that is 1 to some pixels beyond its edge and falls softly from there."""
    ramp = max(1, round(feather * mask.shape[-1] / 512 / 2))
    reach = 2 * ramp + 1  # the ramp comes on top, and lies outside as a whole
    wide = F.max_pool2d(mask, (1, 2 * reach + 1), 1, (0, reach))
    return _softened(F.max_pool2d(wide, (2 * reach + 1, 1), 1, (reach, 0)), feather)


def _without(photo: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """A photo [h,w,3] with what is around in place of what is gone [1,h,w]."""
    picture, known = photo.permute(2, 0, 1)[None], 1 - gone[None]
    sure = (known == 1).float()  # a half-hidden pixel is half of the old head: it must not spread
    if not bool(sure.any()):
        raise ValueError("The old head's mask covers all of the picture: nothing is left to fill it from.")
    filled = pull_push_fill(picture * sure, sure)
    return torch.lerp(filled, picture, known)[0].permute(1, 2, 0)


def _check_square(picture: torch.Tensor, channels: int, what: str) -> None:
    if picture.ndim != 3 or picture.shape[0] != channels or picture.shape[1] != picture.shape[2]:
        raise ValueError(
            f"{what} must be a square crop [{channels}, S, S], but this one is {list(picture.shape)}."
        )
    if not bool(torch.isfinite(picture).all()):
        raise ValueError(f"{what} holds a NaN or an infinite number: an earlier step has failed.")
