"""Pictures and masks that arrive at nodes: one form for all that other nodes make, or a message.

Every IMAGE input goes through `checked_pictures`, every MASK input through `masks_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import host

SLACK = 0.25
"""Distance outside 0..1 up to which values are clamped, as a bicubic upscale makes them; beyond: an error."""

FAILED = "The node it comes from has failed: look at what that node gives, for example with Preview Image."


def checked_pictures(images: Any, name: str) -> list[Tensor]:
    """Normalize the value of an IMAGE input.

    Args:
        images: a batch [B,H,W,C] or picture [H,W,C] with 1, 3 or 4 channels, of floats in 0..1, uint8, uint16
            or bool; or a list of such, of any sizes. Empty batches in it are left out, with a warning.
        name: name of the input, for messages.

    Returns:
        Batches [B,H,W,3 or 4], float32 in 0..1; `over_white` removes a fourth channel, the opacity.

    Raises:
        ValueError: another shape or type, no picture, a NaN or infinite number, or another scale.
    """
    batches: list[Tensor] = []
    for batch in _filled(images, name):
        batches.append(_normalized_pictures(batch, name, sum(map(len, batches))))
    if not batches:
        raise ValueError(f"{_input(name)} is an empty list. Connect at least one picture.")
    return batches


def over_white(pictures: Tensor) -> Tensor:
    """Lay pictures [B,H,W,4] over white; those without opacity are returned as they are."""
    if pictures.shape[-1] == 3:
        return pictures
    return torch.lerp(torch.ones_like(pictures[..., :3]), pictures[..., :3], pictures[..., 3:])


@torch.inference_mode(False)  # autograd takes no tensor of the executor's inference mode
def crops_to_core(images: Any, name: str = "images") -> Tensor:
    """Convert an IMAGE input of square crops to a copy [B,3,H,W] in [-1,1].

    Crops of several sizes are resized to the largest; transparent pixels are laid over white.

    Raises:
        ValueError: as `checked_pictures`, or the pictures are not square.
    """
    return _crops(checked_pictures(images, name), name)


@torch.inference_mode(False)
def crops_and_masks(images: Any, masks: Any) -> tuple[Tensor, Tensor | None]:
    """Convert the inputs `images` and `masks` of a node that learns from crops.

    Where there are masks, they also leave out transparent pixels.

    Returns:
        Crops [B,3,H,W] in [-1,1], and masks [B,1,H,W] in 0..1 or None.

    Raises:
        ValueError: as `crops_to_core` and `mask_to_core`, or a mask hides a whole picture.
    """
    batches = checked_pictures(images, "images")
    crops = _crops(batches, "images")
    hidden = mask_to_core(masks, crops)
    if hidden is None:
        return crops, None
    if any(batch.shape[-1] == 4 for batch in batches):
        opacity = [batch[..., 3:] if batch.shape[-1] == 4 else torch.ones_like(batch) for batch in batches]
        hidden = torch.maximum(hidden, 1 - _joined([each[..., :1] for each in opacity]))
    for number, mask in enumerate(hidden):
        if bool((mask >= 1).all()):
            raise ValueError(
                f"{_input('masks')} hides the whole of picture {number + 1}: nothing is left to work with. "
                "White (1) is left out; invert the mask if black was meant."
            )
    return crops, hidden


def _flat(value: Any) -> list[Any]:
    """Flatten nested lists of a socket into one list."""
    if isinstance(value, (list, tuple)):
        return [batch for item in value for batch in _flat(item)]
    return [value]


def _filled(value: Any, name: str) -> list[Any]:
    """Flatten the value of an input and leave out empty batches, which are named in a warning.

    Raises:
        ValueError: all batches are empty.
    """
    flat = _flat(value)
    empty = [index for index, batch in enumerate(flat) if _is_empty(batch)]
    if not empty:
        return flat
    if len(empty) == len(flat):
        raise ValueError(
            f"{_input(name)} is empty: it got {_kind(flat[0])}. Look at the node it comes from: a video "
            "loader gives no frames past the end of its clip, a filter none if nothing passes."
        )
    numbers = ", ".join(str(index + 1) for index in empty)
    host.log.warning("%s: left out as empty: %s of %d in the list.", _input(name), numbers, len(flat))
    return [batch for batch in flat if not _is_empty(batch)]


def _is_empty(batch: Any) -> bool:
    return isinstance(batch, Tensor) and batch.ndim >= 3 and len(batch) == 0


def _input(name: str) -> str:
    """Name an input at the start of a message, with the node it comes from."""
    return f"The input {name!r}{host.source_of(name)}"


def _normalized_pictures(batch: Any, name: str, before: int) -> Tensor:
    """Convert one batch or picture as `checked_pictures` says; `before`: number of pictures before it."""
    shaped = isinstance(batch, Tensor) and batch.ndim in (3, 4) and batch.shape[-1] in (1, 3, 4)
    if not shaped or batch.numel() == 0:
        first = isinstance(batch, Tensor) and batch.ndim == 4 and batch.shape[1] in (1, 3, 4)
        hint = " Its channels come first: move them to the end." if first else ""
        raise ValueError(
            f"{_input(name)} must be an IMAGE [batch, height, width, 3], but got {_kind(batch)}.{hint}"
        )
    pictures = batch.detach() if batch.ndim == 4 else batch.detach()[None]
    full = {torch.uint8: 255, torch.uint16: 65535, torch.bool: 1}.get(batch.dtype)
    if full is None and not batch.is_floating_point():
        raise ValueError(
            f"{_input(name)} must hold numbers in 0..1 or bytes, but got {_kind(batch)}. Convert it to float."
        )
    pictures = pictures.float() if full is None else pictures.float() / full
    lowest, highest = pictures.amin((1, 2, 3)).tolist(), pictures.amax((1, 2, 3)).tolist()
    for number, (low, high) in enumerate(zip(lowest, highest, strict=True)):
        which = f"picture {before + number + 1}"
        if not math.isfinite(low + high):
            raise ValueError(f"{_input(name)}: {which} contains a NaN or an infinite number. {FAILED}")
        if low < -SLACK or high > 1 + SLACK:
            raise ValueError(
                f"{_input(name)}: {which} has values from {low:.3g} to {high:.3g}, but an IMAGE lies in "
                f"0..1. {_likely_scale(low, high)}"
            )
    if min(lowest) < 0 or max(highest) > 1:
        pictures = pictures.clamp(0, 1)
    return pictures.expand(-1, -1, -1, 3) if pictures.shape[-1] == 1 else pictures


def _kind(value: Any) -> str:
    """Describe the type of a value, and a tensor's shape, for messages."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _likely_scale(low: float, high: float) -> str:
    """Say which scale a picture with these lowest and highest values probably has."""
    if low >= -1 - SLACK and high <= 1 + SLACK:
        return "They look like -1..1: add 1 and divide by 2."
    for least, full in ((16, 255), (1000, 65535)):
        if low >= -SLACK * full and least <= high <= (1 + SLACK) * full:
            return f"They look like 0..{full}: divide by {full}."
    return "They fit neither 0..255 nor -1..1; a picture of high dynamic range must be tone-mapped first."


def _crops(batches: list[Tensor], name: str) -> Tensor:
    for batch in batches:
        height, width = batch.shape[1:3]
        if height != width:
            raise ValueError(
                f"{_input(name)} must be square face crops, but these are {width}x{height}. "
                "Use Align Faces first."
            )
    return _joined([over_white(batch) for batch in batches]) * 2 - 1


def _joined(batches: list[Tensor]) -> Tensor:
    """Join square batches [B,H,W,C] as [B,C,H,W] of the largest size."""
    from ..my3dgen_core.common.image_ops import resize

    size = max(batch.shape[1] for batch in batches)
    return torch.cat([resize(batch.permute(0, 3, 1, 2).contiguous(), size) for batch in batches])


ALIGN_IT = (
    "A mask that was drawn on the photo must be cut like the crop: connect it to masks of Align Faces, "
    "together with its photo, and use the output photo_masks."
)


def masks_of(
    masks: Any, sizes: Sequence[tuple[int, int]], name: str = "masks", remedy: str = ALIGN_IT
) -> list[Tensor | None]:
    """Normalize the value of a MASK input.

    Args:
        masks: [H,W], [B,H,W], [B,1,H,W] or [B,H,W,1] in 0..1 or 0..255, a list of such, or None. One mask is
            used for all pictures. Empty batches in a list are left out, with a warning.
        sizes: (height, width) of each picture; a mask may have another size of the same proportions.
        name: name of the input, for messages.
        remedy: what to do about a mask of other proportions.

    Returns:
        A mask [h,w] in 0..1, float32, in its own size, for each picture; None where there is none, or only
        the 64x64 zeros that Load Image outputs for a picture without transparency.

    Raises:
        ValueError: another shape, scale, number or proportions, or a NaN or infinite number.
    """
    batches = [] if masks is None else _filled(masks, name)
    flat = [mask for batch in batches for mask in _normalized_masks(batch, name)]
    if all(mask is None for mask in flat):
        return [None] * len(sizes)
    if len(flat) not in (1, len(sizes)):
        raise ValueError(
            f"{_input(name)} has {len(flat)} masks for {len(sizes)} pictures. Use one, or one per picture."
        )
    each = flat * len(sizes) if len(flat) == 1 else flat
    for mask, (height, width) in zip(each, sizes, strict=True):
        if mask is not None and abs(mask.shape[0] * width - mask.shape[1] * height) > max(height, width):
            raise ValueError(
                f"{_input(name)} has a mask of {mask.shape[1]}x{mask.shape[0]} pixels for a picture of "
                f"{width}x{height}, which has other proportions. {remedy}"
            )
    return each


def _normalized_masks(batch: Any, name: str) -> Sequence[Tensor | None]:
    """Convert one batch of masks as `masks_of` says."""
    masks = batch.detach() if isinstance(batch, Tensor) else torch.empty(0)
    if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[3]):
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[..., 0]
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or masks.numel() == 0 or masks.is_complex():
        raise ValueError(f"{_input(name)} must be a MASK [batch, height, width], but got {_kind(batch)}.")
    whole, masks = not masks.is_floating_point(), masks.float()
    low, high = float(masks.min()), float(masks.max())
    if not math.isfinite(low + high):
        raise ValueError(f"{_input(name)} contains a NaN or an infinite number. {FAILED}")
    if low == high == 0 and masks.shape[1:] == (64, 64):
        return [None] * len(masks)
    bytes_like = 64 <= high <= 255 * (1 + SLACK) and low >= -255 * SLACK
    if not bytes_like and (low < -SLACK or high > 1 + (0 if whole else SLACK)):
        raise ValueError(
            f"{_input(name)} has values from {low:.3g} to {high:.3g}, but a MASK lies in 0..1 or 0..255. "
            "Make it black (0) and white (1) first."
        )
    return list((masks / 255 if bytes_like else masks).clamp(0, 1))


@torch.inference_mode(False)
def mask_to_core(masks: Any, pictures: Tensor, name: str = "masks") -> Tensor | None:
    """Convert a MASK input to a copy [B,1,H,W] in the size of pictures [B,C,H,W]; None: there is none.

    Raises:
        ValueError: as `masks_of`.
    """
    from ..my3dgen_core.common.image_ops import resize

    size = (pictures.shape[2], pictures.shape[3])
    each = masks_of(masks, [size] * len(pictures), name)
    if all(mask is None for mask in each):
        return None
    found = torch.zeros(len(pictures), 1, *size, device=pictures.device)
    for row, mask in zip(found, each, strict=True):
        if mask is not None:
            row.copy_(resize(mask[None, None], size)[0])
    found[found > 1 - 1e-5] = 1  # what resizing leaves of 1
    return found


def moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Move a tensor to a device, if there is one."""
    return None if tensor is None else tensor.to(device)
