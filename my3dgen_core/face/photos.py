"""Reading of photos from files, folders, numpy arrays and tensors as upright RGB arrays.

A *photo* is [H,W,3] RGB, upright (EXIF orientation applied): uint8 in 0..255, or float32 in 0..1 if the
source had floats. A bad file raises `PhotoError`; `read_photos` yields it as a `Photo` with a message
instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.folders import readable
from .photo_files import PhotoError, list_photos, read_picture

_GRAY = 128  # background of transparent pixels


@dataclass(frozen=True)
class Photo:
    """One photo, or the reason why it could not be read."""

    name: str
    """File name, name given, or "image 1", ..."""
    pixels: np.ndarray | None
    """Photo [H,W,3], uint8 or float32 in 0..1, or None on an error."""
    error: str = ""
    """Message that says why there are no pixels."""
    warning: str = ""
    """Message about what is not used: a damaged part, all frames but the first, an alpha of 0 everywhere."""
    is_crop: bool = False
    """True if the source was an image tensor: a crop or render, whose face fills the frame."""


def read_photos(photos: Any) -> Iterator[Photo]:
    """Read photos one by one.

    Args:
        photos: a folder, a path, an array, a tensor [N,3,H,W] or [3,H,W] in [-1,1], or a list of paths,
            arrays, tensors and (name, path | array | tensor) pairs. Arrays are [H,W], [H,W,1], [H,W,3] or
            [H,W,4] (or a batch of these): uint8, uint16, or floats in 0..1. Colors are RGB. Instead of a
            list, an object that can be iterated again and again and has a length: its items are read as they
            are needed.

    Yields:
        Each photo; a bad one with `error` set instead of an exception.

    Raises:
        PhotoError: the folder does not exist or contains no pictures.
        TypeError: `photos` or an item of it is of another type.
    """
    for name, source in _named_sources(photos):
        try:
            if isinstance(source, torch.Tensor):
                yield Photo(name, _from_tensor(source), is_crop=True)
            elif isinstance(source, np.ndarray):
                pixels, warning = _from_array(source, name)
                yield Photo(name, pixels, warning=warning)
            else:
                pixels, warning = _read_file(Path(source), name)
                yield Photo(name, pixels, warning=warning)
        except PhotoError as error:
            yield Photo(name, None, str(error))


def count_photos(photos: Any) -> int:
    """Count the photos that `read_photos` yields, without reading them; of a lazy object, its length."""
    if isinstance(photos, Sized) and not isinstance(photos, (str, Sequence, np.ndarray, torch.Tensor)):
        return len(photos)
    return sum(1 for _ in _named_sources(photos))


def _named_sources(photos: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the path, array or tensor of each photo."""
    if isinstance(photos, (str, Path)):
        path = Path(photos)
        if path.is_dir():
            yield from ((readable(p.name), p) for p in list_photos(path))
        else:
            yield readable(path.name), path
        return
    if isinstance(photos, (np.ndarray, torch.Tensor)):
        photos = list(photos) if photos.ndim == 4 else [photos]
    if not isinstance(photos, Iterable):
        raise TypeError(
            f"photos must be a folder, a list of paths, arrays or tensors, not {type(photos).__name__}."
        )
    index = 0
    for item in photos:
        name, source = item if _is_named(item) else ("", item)
        if isinstance(source, (str, Path)):
            yield name or readable(Path(source).name), source
            index += 1
        elif isinstance(source, (np.ndarray, torch.Tensor)):
            for part in source if source.ndim == 4 else (source,):
                yield name or f"image {index + 1}", part
                index += 1
        else:
            raise TypeError(
                f"Photo {index + 1} is a {type(source).__name__}; give a path, an array or a tensor."
            )


def _is_named(item: Any) -> bool:
    return (
        isinstance(item, Sequence)
        and not isinstance(item, str)
        and len(item) == 2
        and isinstance(item[0], str)
    )


def _from_tensor(image: torch.Tensor) -> np.ndarray:
    """Convert a picture [3,H,W] or [1,H,W] in [-1,1] to a photo [H,W,3] float32 in 0..1."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise PhotoError(f"An image tensor must be [3, H, W] in [-1, 1], this one is {list(image.shape)}.")
    values = image.detach().to("cpu", torch.float32)
    if not torch.isfinite(values).all():
        raise PhotoError("The picture holds NaN or infinite values.")
    pixels = ((values.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)


def _from_array(pixels: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Convert an array, see `read_photos`, to a photo [H,W,3], uint8 or float32 in 0..1, and a warning."""
    warning = ""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise PhotoError(
            f"A photo array must be [H, W], [H, W, 3] or [H, W, 4], this one is {list(pixels.shape)}."
        )
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257.0).astype(np.uint8)
    elif pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise PhotoError("The picture holds NaN or infinite values.")
        if pixels.min() < -0.01 or pixels.max() > 1.01:
            raise PhotoError(
                f"A float photo must lie in 0..1, this one lies in {pixels.min():.3g}..{pixels.max():.3g}."
            )
        pixels = pixels.clip(0, 1)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype != np.uint8:
        raise PhotoError(f"A photo array must be uint8, uint16 or float, this one is {pixels.dtype}.")
    if pixels.shape[2] == 4 and not pixels[:, :, 3].any():  # a mask over all of the picture
        pixels, warning = pixels[:, :, :3], f"{name} is transparent everywhere: its hidden colors are used."
    elif pixels.shape[2] == 4:
        full = 255.0 if pixels.dtype == np.uint8 else 1.0
        alpha = pixels[:, :, 3:].astype(np.float32) / full
        mixed = pixels[:, :, :3] * alpha + (_GRAY / 255 * full) * (1 - alpha)
        pixels = np.round(mixed).astype(np.uint8) if full == 255 else mixed.astype(np.float32)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels), warning


def load_photo(path: str | Path) -> np.ndarray:
    """Read one picture file as an upright sRGB photo.

    EXIF orientation is applied, color profiles are converted; 16-bit gray is scaled by 1/257; transparent
    pixels show mid-gray, or their colors if every pixel is transparent; CMYK, gray and palette files become
    RGB. HEIC is read if pillow-heif is installed.

    Args:
        path: the file; its content decides, not its suffix.

    Returns:
        Photo [H,W,3], uint8, or float32 in 0..1 if the file has floats.

    Raises:
        PhotoError: the file is missing, damaged, too large to be a photo, or of an unsupported format.
    """
    return _read_file(Path(path))[0]


def _read_file(path: Path, name: str = "") -> tuple[np.ndarray, str]:
    """Return a file's photo and its warnings, see `Photo.warning`."""
    pixels, warning = read_picture(path, name)
    photo, of_alpha = _from_array(pixels, name or readable(path.name))
    return photo, " ".join(filter(None, (warning, of_alpha)))
