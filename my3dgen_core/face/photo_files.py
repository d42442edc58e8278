"""Picture files: which files of a folder are pictures, judged by their content, and the pixels of one."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.folders import readable, walk

PHOTO_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".heic",
    ".heif",
    ".avif",
)
"""Suffixes of files that are taken for pictures without a look into them."""
_HEIC_SUFFIXES = (".heic", ".heif")
_RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
_RAW = "a camera raw file: export it as JPEG"
_HEAD = 64  # bytes that tell the kind of a file
# Formats of Pillow that start another program or hand the file to the system (EPS, WMF), or read no pixels.
_REFUSED_FORMATS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FPX", "MIC"}
_KINDS = (
    (rb"\s*<(!doctype|html|\?xml)", "a web page or XML, not a picture: download it again"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the picture itself: fetch it with git lfs pull"),
    (rb"\x93NUMPY", "an array of numbers, not a picture"),
    (rb"PK\x03\x04", "an archive: unpack it"),
    (rb"%!PS|\xc5\xd0\xd3\xc6|\xd7\xcd\xc6\x9a", "a vector drawing: export it as PNG"),
    (rb"%PDF", "a PDF: export its pages as PNG"),
    (rb"\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]", "a video"),
    (rb"II\*\0....CR|IIRO|IIRS|MMOR|IIU\0|FUJIFILM|....ftypcrx ", _RAW),
)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HIGHLIGHTS = 0.25  # fraction of the values of a float picture in 0..1 that may be above 1
_DNG_VERSION, _SUBFILE_TYPE, _ORIENTATION = 50706, 254, 0x0112  # TIFF tags


class PhotoError(ValueError):
    """Error for a picture that cannot be used, with a message for the user."""


@dataclass(frozen=True)
class PhotoFolder:
    """Files of a folder, as pictures and others."""

    photos: list[Path] = field(default_factory=list)
    """Pictures in natural order (photo2 before photo10)."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Name, relative to the folder, and kind of every other visible file."""
    has_subfolders: bool = False
    """True if there are subfolders, whether or not they were read."""


def survey_photos(folder: str | Path, subfolders: bool = False) -> PhotoFolder:
    """List the pictures of a folder and what else is in it.

    A usual suffix is believed; any other file is opened to see whether it is a picture.

    Args:
        folder: folder to search; hidden and system files are skipped.
        subfolders: also search its subfolders, hidden ones excepted; their files follow the folder's own.

    Raises:
        PhotoError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PhotoError(f"The folder {folder} does not exist.")
    listed = list(walk(folder, depth=None if subfolders else 0))
    files = [Path(each.path, name) for each in listed for name in each.files]
    found = PhotoFolder(has_subfolders=bool(listed[0].subfolders or listed[0].links))
    for path in sorted(files, key=lambda path: _natural_key(path.relative_to(folder))):
        kind = "" if path.suffix.lower() in PHOTO_SUFFIXES else _kind_unless_picture(path)
        if kind:
            found.left_out.append((readable(path.relative_to(folder).as_posix()), kind))
        else:
            found.photos.append(path)
    return found


def list_photos(folder: str | Path, subfolders: bool = False) -> list[Path]:
    """List the picture files of a folder in natural order (photo2 before photo10), see `survey_photos`.

    Args:
        folder: folder to search; hidden and system files are skipped.
        subfolders: also search its subfolders, hidden ones excepted; their files follow the folder's own.

    Raises:
        PhotoError: the folder does not exist or contains no pictures.
    """
    found = survey_photos(folder, subfolders)
    if not found.photos:
        others = "; ".join(describe_left_out(found.left_out))
        raise PhotoError(
            f"There is no picture in {folder}{f' ({others})' if others else ''}. "
            f"Put photos there ({', '.join(PHOTO_SUFFIXES[:6])})"
            + ("." if subfolders or not found.has_subfolders else ", or read its subfolders as well.")
        )
    return found.photos


def describe_left_out(left_out: list[tuple[str, str]], most: int = 100) -> list[str]:
    """Describe files that are no pictures, one line for each kind, with at most so many names."""
    kinds: dict[str, list[str]] = {}
    for name, kind in left_out:
        kinds.setdefault(kind, []).append(name)
    return [
        f"left out, {kind}: {', '.join(names[:most])}"
        + (f" and {len(names) - most} more" if len(names) > most else "")
        for kind, names in kinds.items()
    ]


def _natural_key(path: Path) -> tuple[Any, ...]:
    """Sort key with numbers as numbers, and a folder's own files before those of its subfolders."""

    def of(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", name.lower())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    *folders, name = path.parts
    return [(1, of(folder)) for folder in folders] + [(0, of(name))], str(path)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return height and width from the header of a picture file, or None if it cannot be read."""
    try:
        with _opened(path, path.name) as image:
            return image.height, image.width
    except Exception:  # as in read_picture, which gives the reason
        return None


def read_picture(path: Path, name: str = "") -> tuple[np.ndarray, str]:
    """Read a picture file, of a damaged one what can be read, as ComfyUI's own nodes do.

    Args:
        path: the file; its content decides, not its suffix.
        name: name for messages; "": that of the file.

    Returns:
        Upright sRGB picture [H,W], [H,W,3] or [H,W,4], uint8 or float; and a warning if pixels or frames are
        left out.

    Raises:
        PhotoError: the file is missing, damaged, too large to be a photo, or of an unsupported format.
    """
    from PIL import Image, ImageFile  # deferred: takes about as long as importing the whole core

    name = name or readable(path.name)
    try:
        is_file = path.is_file()
    except OSError as error:
        raise PhotoError(f"{name} cannot be read ({error.strerror}).") from error
    if not is_file:
        raise PhotoError(f"{name} {'leads to a file that ' if path.is_symlink() else ''}does not exist.")
    try:
        try:
            return _decode(path, name)
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, PhotoError):
                raise
            strict, tolerant = error, ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            pixels, warning = _decode(path, name)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
        why = " ".join(str(strict).split())
        # Only metadata were at fault if the file could not even be opened before.
        whole = isinstance(strict, Image.UnidentifiedImageError) or "TEXT_CHUNK" in why
        return pixels, warning if whole else f"{name} is damaged ({why}): the part that can be read is used."
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise PhotoError(f"{name} has more than {limit} million pixels. Save a smaller copy.") from error
    except Image.UnidentifiedImageError as error:
        kind = _kind_of(path)
        raise PhotoError(
            f"{name} cannot be read as a picture" + (f": it is {kind}." if kind else " (unknown format).")
        ) from error
    except Exception as error:  # Pillow's readers raise anything for damaged files, struct.error for one
        why = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(f"{name} cannot be read as a picture ({why}).") from error


def _decode(path: Path, name: str) -> tuple[np.ndarray, str]:
    """Return the pixels of a file and a warning if it has more frames than the first."""
    with _opened(path, name) as image:
        image.load()
        pixels, frames = _to_array(_upright(image)), _count_frames(image)
        return pixels, f"{name} has {frames} frames or pages: the first is taken." if frames > 1 else ""


def _count_frames(image: Any) -> int:
    """Count the frames or pages of an opened file; previews and layers are none."""
    if image.format in ("MPO", "PSD"):  # a photo with its previews or gain map; layers of one picture
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # damaged behind the first frame
        return 1


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    """Open a file with Pillow, by its content; the pixels are not read yet.

    Raises:
        PhotoError: a camera raw file, of which Pillow would read the thumbnail, or a HEIC photo without
            pillow-heif.
        Exception: whatever Pillow raises.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # Pillow warns of a decompression bomb at half the limit and raises above it.
        warnings.simplefilter("ignore")
        if _brands(_head_of(path)) & _HEIF_BRANDS:
            _register_heif(name)
        try:
            image = Image.open(path, formats=_formats())
        except UnidentifiedImageError:
            if path.suffix.lower() not in _HEIC_SUFFIXES:
                raise
            _register_heif(name)
            image = Image.open(path, formats=_formats())
        with image:
            tags = getattr(image, "tag_v2", None)
            if tags is not None and (_DNG_VERSION in tags or tags.get(_SUBFILE_TYPE) == 1):
                raise PhotoError(f"{name} is {_RAW}.")
            yield image


def _formats() -> list[str]:
    """Return the formats of Pillow that only decode pixels."""
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


def _head_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _brands(head: bytes) -> set[bytes]:
    """Return the brands of an ISO media file (HEIC, AVIF, MP4), or none for any other file."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    found = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    return found & _AVIF_BRANDS or found  # AVIF is of HEIF's family, but Pillow reads it itself


def _known_kind(head: bytes) -> str:
    """Return what a file is if its first bytes are those of something that is no picture, "" otherwise."""
    for pattern, kind in _KINDS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return kind
    brands = _brands(head)
    return "a video" if brands and not brands & (_HEIF_BRANDS | _AVIF_BRANDS) else ""


def _kind_of(path: Path) -> str:
    """Return what a file is that Pillow does not open, "" if it is not known."""
    head = _head_of(path)
    if known := _known_kind(head):
        return known
    if path.suffix.lower() in _RAW_SUFFIXES:
        return _RAW
    if _brands(head) & _AVIF_BRANDS:
        return "an AVIF picture, which needs Pillow 11.3 or newer: save it as JPEG"
    return "" if head or not os.path.isfile(path) else "empty"


def _kind_unless_picture(path: Path) -> str:
    """Return what a file is, or "" if it is a picture."""
    head = _head_of(path)
    if known := _known_kind(head):
        return known
    if _brands(head) & _HEIF_BRANDS:
        return ""
    try:
        with _opened(path, path.name):
            return ""
    except Exception:  # as in read_picture
        return _kind_of(path) or "not a picture"


def _register_heif(name: str) -> None:
    """Register the HEIC reader with Pillow; `name` is the file for the message if it is not installed."""
    try:  # an optional dependency
        import pillow_heif
    except ImportError as error:
        raise PhotoError(
            f"{name} is a HEIC photo, which needs one more package: pip install pillow-heif. "
            "Or save it as JPEG."
        ) from error
    pillow_heif.register_heif_opener()


def _upright(image: Any) -> Any:
    """Apply the EXIF orientation of a PIL image.

    `ImageOps.exif_transpose` also writes the other tags again, and fails at odd ones.
    """
    from PIL import Image

    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged tags raise anything; the picture itself is still good
        orientation = None
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if method is None else image.transpose(method)


def _to_array(image: Any) -> np.ndarray:
    """Convert a loaded PIL image of any mode to an array of gray, RGB or RGBA."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        values = np.asarray(image).astype(np.int64)
        full = 255 if image.mode == "I" and values.max() <= 255 else 65535
        return np.round(values.clip(0, full) / (full / 255)).astype(np.uint8)
    if image.mode == "F":
        values = np.asarray(image)
        # Some highlights above 1 do not make it a picture in 0..255; black is in both ranges.
        above, lit = np.count_nonzero(values > 1), np.count_nonzero(values > 0)
        return values / 255.0 if above > _HIGHLIGHTS * lit else np.minimum(values, 1)
    gray = image.mode in ("L", "LA", "La")
    if image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":  # a profile is of the colors alone
        colors = _to_srgb(image.convert("L" if gray else "RGB"))
        return np.dstack((np.array(colors), np.array(image.getchannel("A"))))
    return np.array(_to_srgb(image))


def _to_srgb(image: Any) -> Any:
    """Convert a PIL image to sRGB by its color profile (phones write Display P3), if it has a usable one."""
    from PIL import ImageCms  # deferred like the rest of Pillow

    profile = image.info.get("icc_profile")
    if image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" not in (ImageCms.getProfileDescription(source) or "").lower():
                target = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
                return converted if converted is not None else image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # the profile is damaged, the picture itself is not
    return image.convert("RGB")
