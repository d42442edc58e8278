"""Pasting of an edited crop back into its photo: the inverse warp, with a soft edge."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..common.image_ops import pull_push_fill
from .crop import CropTransform

FEATHER = 24.0
"""Default width of the soft edge, in pixels of a 512 crop."""


def paste_back(
    pixels: np.ndarray,
    transform: CropTransform,
    crop: torch.Tensor,
    mask: torch.Tensor | None = None,
    feather: float = FEATHER,
    old: torch.Tensor | None = None,
    wider: float = 1.0,
) -> np.ndarray:
    """Paste an edited crop back into its photo with a soft edge.

    Outside the crop, and further than half the feather outside the masks, the photo stays bit-identical. A
    crop with fewer pixels than the face in the photo is upsampled and adds no detail.

    Args:
        pixels: photo [H,W,3], uint8 or float in 0..1; a copy of the photo in another size is accepted.
        transform: transform that the crop was cut with.
        crop: edited crop [3,S,S] in [-1,1], of any size S.
        mask: mask [1,s,s] in 0..1, of any size s, 1 where the crop replaces the photo; None takes all of the
            crop.
        feather: width of the soft edge in pixels of a 512 crop: inwards at the border of the crop, half to
            either side at the border of the mask. 0 gives a hard edge.
        old: mask [1,s,s] in 0..1 of the head that is replaced; its pixels that the crop does not cover are
            filled from the surrounding photo. None fills nothing.
        wider: factor by which crop and masks show more than what was cut out (`camera.widened`), to include
            hair and shoulders.

    Returns:
        A new photo of the same size and dtype.

    Raises:
        ValueError: the photo has other proportions than the one that the crop came from, the crop or a mask
            is not square or not finite, or `old` covers the whole picture.
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
    new = _sample(crop.detach().float().cpu().clamp(-1, 1), grid, transform, "bicubic").clamp(-1, 1)
    inside = 1 - grid[0].abs().amax(-1)  # [h,w] distance to the border of the crop, 1 at its center
    soft = feather / transform.crop_size * 2
    weight = (inside / soft).clamp(0, 1) if soft > 0 else (inside > 0).float()
    if mask is not None:
        _check_square(mask, 1, "The mask")
        softened = _soften_edge(mask.detach().float().cpu().clamp(0, 1), feather)
        weight = weight * _sample(softened, grid, transform, "bilinear")[0].clamp(0, 1)
    full = 255.0 if pixels.dtype == np.uint8 else 1.0
    photo = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).float()
    changed = (weight > 0).numpy()
    if old is not None:
        _check_square(old, 1, "The mask of the old head")
        grown = _dilate(old.detach().float().cpu().clamp(0, 1), feather)
        gone = _sample(grown, grid, transform, "bilinear").clamp(0, 1) * (inside > 0)
        photo = _fill_removed(photo, gone)
        changed |= (gone[0] > 0).numpy()
    mixed = torch.lerp(photo, (new.permute(1, 2, 0) + 1) / 2 * full, weight[..., None])
    mixed_pixels = (mixed.round() if full == 255 else mixed).numpy().astype(pixels.dtype)
    result[top:bottom, left:right][changed] = mixed_pixels[changed]
    return result


def _sample(source: torch.Tensor, grid: torch.Tensor, transform: CropTransform, mode: str) -> torch.Tensor:
    """Sample a crop at photo pixels, antialiased where it shrinks.

    Args:
        source: picture [C,S,S] in the frame of the crop.
        grid: photo pixels [1,h,w,2] in normalized coordinates of the crop.
        transform: photo to crop.
        mode: interpolation of `grid_sample`.

    Returns:
        Picture [C,h,w].
    """
    picture = source[None]
    per_pixel = source.shape[-1] * transform.scale / transform.crop_size  # source pixels per photo pixel
    if per_pixel > 1:
        smaller = max(1, round(source.shape[-1] / per_pixel))
        picture = F.interpolate(picture, smaller, mode="bilinear", antialias=True, align_corners=False)
    return F.grid_sample(picture, grid, mode=mode, padding_mode="border", align_corners=False)[0]


def _soften_edge(mask: torch.Tensor, feather: float) -> torch.Tensor:
    """Replace edges of a mask [1,s,s] by ramps as wide as `feather`, in pixels of a 512 crop."""
    half = round(feather * mask.shape[-1] / 512 / 2)
    if half < 1:
        return mask
    from kornia.filters import box_blur  # here: 0.3 s that programs without masks need not wait for

    width = 2 * min(half, mask.shape[-1] - 1) + 1
    return box_blur(mask[None], (width, width), "replicate", separable=True)[0]


def _dilate(mask: torch.Tensor, feather: float) -> torch.Tensor:
    """Dilate a mask [1,s,s] by a few pixels and soften its new edge outwards."""
    ramp = max(1, round(feather * mask.shape[-1] / 512 / 2))
    reach = 2 * ramp + 1  # so that the whole ramp lies outside the old edge
    wide = F.max_pool2d(mask, (1, 2 * reach + 1), 1, (0, reach))
    return _soften_edge(F.max_pool2d(wide, (2 * reach + 1, 1), 1, (reach, 0)), feather)


def _fill_removed(photo: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """Fill the part of a photo from which the old head was removed, with colors of its surroundings.

    Args:
        photo: [h,w,3], in any range of values.
        gone: mask of the removed part [1,h,w] in [0, 1]; in between, fill and photo are mixed.

    Returns:
        Photo [h,w,3].

    Raises:
        ValueError: the mask covers the whole photo.
    """
    picture, known = photo.permute(2, 0, 1)[None], 1 - gone[None]
    sure = (known == 1).float()  # partly masked pixels still show the old head: do not fill from them
    if not bool(sure.any()):
        raise ValueError("The old head's mask covers all of the picture: nothing is left to fill it from.")
    filled = pull_push_fill(picture * sure, sure)
    return torch.lerp(filled, picture, known)[0].permute(1, 2, 0)


def _check_square(picture: torch.Tensor, channels: int, what: str) -> None:
    """Raise a ValueError unless a picture is [channels,S,S] and finite; `what` opens the message."""
    if picture.ndim != 3 or picture.shape[0] != channels or picture.shape[1] != picture.shape[2]:
        raise ValueError(
            f"{what} must be a square crop [{channels}, S, S], but this one is {list(picture.shape)}."
        )
    if not bool(torch.isfinite(picture).all()):
        raise ValueError(f"{what} holds a NaN or an infinite number: an earlier step has failed.")
