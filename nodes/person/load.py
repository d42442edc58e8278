"""Loading nodes, with which workflows start: a generator, a folder of photos, the demo person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import host, socket_types

if TYPE_CHECKING:
    from ...my3dgen_core.face.photo_files import PhotoFolder

CATEGORY = "My3DGen/Person"
STARTER = "starter"
DEMO_PERSON = "demo person (bundled)"
PHOTOS, HELD_OUT = "photos", "held-out views"
RENDERERS = ("auto", "torch", "compiled")
MUCH_MEMORY = 4 << 30
"""Bytes of photos from which Load Photo Folder warns."""


class LoadGenerator:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "pretrained model",
        "3d gan",
        "generator checkpoint",
        "load model",
        "ffhq",
        "tri-plane",
        "3d head",
    ]
    DESCRIPTION = (
        "Loads an EG3D generator: 'starter', the small one that comes with this pack, or a file from "
        "models/my3dgen/generators."
    )
    RETURN_TYPES = (socket_types.MODEL,)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The generator, for Invert Photos, Train Identity and Render Head.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        files = [STARTER, *host.list_models(host.GENERATORS)]
        return {
            "required": {
                "file": (
                    files,
                    {"tooltip": "The generator: 'starter', or a file in models/my3dgen/generators."},
                )
            },
            "optional": {
                "convert": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Also write a .safetensors file next to a .pkl or .pt: it loads faster "
                        "and is not a pickle. An existing file is kept.",
                    },
                ),
                "renderer": (
                    list(RENDERERS),
                    {
                        "default": RENDERERS[0],
                        "tooltip": "'compiled' is several times faster on a CPU. It is built once, by the "
                        "command python -m my3dgen_core build-kernels; no node builds it. 'auto' uses it if "
                        "it has been built. 'torch' needs no build. The images are the same.",
                    },
                ),
                "memory_limit": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 1 << 20,
                        "step": 16,
                        "tooltip": "Most working memory for rendering, in MiB, not counting the model: fewer "
                        "rays and frames are processed at a time. If it is too small, the error names the "
                        "minimum. 0: no limit.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        return file == STARTER or host.validate(file, lambda name: host.find_model(host.GENERATORS, name))

    @classmethod
    def IS_CHANGED(
        cls, file: str | None, convert: bool = False, renderer: str = RENDERERS[0], memory_limit: int = 0
    ) -> str:
        return host.changed(file, lambda name: [_generator_file(name)])

    def load(
        self, file: str, convert: bool = False, renderer: str = RENDERERS[0], memory_limit: int = 0
    ) -> tuple[socket_types.Model]:
        from safetensors import SafetensorError

        from ...my3dgen_core import load_generator
        from ...my3dgen_core.checkpoint import convert as convert_generator
        from ...my3dgen_core.eg3d.rendering.backend import select_backend

        path = _generator_file(file)
        target = path.with_suffix(".safetensors")
        with torch.inference_mode(False):
            generator = None
            if convert and not target.exists():
                try:
                    generator = convert_generator(path, target)
                    host.log.info("%s: converted to %s", file, target)
                except (OSError, SafetensorError) as error:
                    host.log.warning("%s is loaded, but its copy cannot be written: %s", file, error)
            generator = generator or load_generator(path)
            reason = select_backend(generator, renderer)
            if reason:
                host.log.info("renderer 'auto': PyTorch renders. %s", reason)
            generator.memory_limit = memory_limit * 2**20 or None
            return (socket_types.Model(host.manage(generator), name=file),)


class LoadPhotos:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "load images from folder",
        "image directory",
        "batch load",
        "my photos",
        "dataset",
        "heic",
    ]
    DESCRIPTION = (
        "Loads all images of a folder under input/, of any size, turned upright and sorted by name. Put 10 "
        "to 50 photos of one person there. HEIC photos need the package pillow-heif."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("photos", "names")
    OUTPUT_TOOLTIPS = (
        "The photos as a list, each in its own size, for Align Faces.",
        "The file names in the same order, for the report of Align Faces.",
    )
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "folder": (
                    [DEMO_PERSON, *host.list_input_folders()],
                    {"tooltip": "A folder inside ComfyUI's input folder, or the bundled demo person."},
                ),
                "at_most": (
                    "INT",
                    {"default": 50, "min": 1, "max": 1000, "tooltip": "Load at most this many photos."},
                ),
                "longest_side": (
                    "INT",
                    {
                        "default": 2048,
                        "min": 256,
                        "max": 8192,
                        "step": 64,
                        "tooltip": "Larger photos are scaled down to this many pixels, to save memory.",
                    },
                ),
            },
            "optional": {
                "subfolders": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Also load the folders inside this one, after its own files.",
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None) -> bool | str:
        return folder == DEMO_PERSON or host.validate(folder, host.find_input_folder)

    @classmethod
    def IS_CHANGED(
        cls,
        folder: str | None,
        at_most: int,
        longest_side: int,
        subfolders: bool = False,
        node_id: str | None = None,
    ) -> str:
        return host.changed(folder, lambda name: _survey(name, subfolders).photos[:at_most])

    def load(
        self,
        folder: str,
        at_most: int,
        longest_side: int,
        subfolders: bool = False,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core.common.folders import readable
        from ...my3dgen_core.face.photo_files import describe_left_out
        from ...my3dgen_core.face.photos import read_photos

        root, found = _photo_root(folder), _survey(folder, subfolders)
        files = found.photos[:at_most]
        lines = _check_memory(files, longest_side)
        for line in lines:  # before the photos are read: the machine may not survive it
            host.log.warning(line)
            host.send_text(node_id, line)
        on_step = host.progress(node_id, "photo")
        photos, names, bad, shrunk = [], [], [], 0
        named = [(readable(path.relative_to(root).as_posix()), path) for path in files]
        for index, photo in enumerate(read_photos(named)):
            on_step(index, len(files))
            if photo.pixels is None:
                bad.append(photo.error if photo.name in photo.error else f"{photo.name}: {photo.error}")
                continue
            photos.append(_shrunk(photo.pixels, longest_side))
            names.append(photo.name)
            shrunk += max(photo.pixels.shape[:2]) > longest_side
            lines += [photo.warning] if photo.warning else []
        if not photos:
            raise ValueError(f"No photo in {folder!r} can be read. {bad[0]}")
        used = sum(photo.nbytes for photo in photos)
        lines.insert(0, f"{len(photos)} photos from {folder}, {_in_words(used)} of memory")
        if shrunk:
            lines.append(f"{shrunk} scaled down to longest_side {longest_side}")
        lines += [f"left out: {error}" for error in bad]
        lines += describe_left_out(found.left_out)
        if len(found.photos) > len(files):
            lines.append(f"{len(found.photos) - len(files)} more were left out: at_most is {at_most}")
        return {"ui": host.report(node_id, "\n".join(lines)), "result": (photos, names)}


class LoadDemoPerson:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["example person", "sample data", "test photos", "synthetic head", "quick start"]
    DESCRIPTION = (
        "Loads the bundled demo person: face crops with exact cameras, so that everything works without face "
        "models. The head is synthetic, with marks that the starter generator has never seen."
    )
    RETURN_TYPES = ("IMAGE", socket_types.CAMERA)
    RETURN_NAMES = ("images", "cameras")
    OUTPUT_TOOLTIPS = ("The face crops, as a batch.", "Their cameras, in the same order.")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "views": (
                    [PHOTOS, HELD_OUT],
                    {
                        "tooltip": "'photos' for training; 'held-out views' show the person from other "
                        "angles, to evaluate the result."
                    },
                ),
                "at_most": (
                    "INT",
                    {"default": 50, "min": 1, "max": 1000, "tooltip": "Load at most this many views."},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, views: str, at_most: int) -> str:
        return host.fingerprint([_demo_folder() / "cameras.json"])

    def load(self, views: str, at_most: int) -> tuple[torch.Tensor, socket_types.Cameras]:
        from ...my3dgen_core.evaluation import read_demo_person

        photos, cameras, held_out, held_out_cameras = read_demo_person()
        if views == HELD_OUT:
            photos, cameras = held_out, held_out_cameras
        seen_from = socket_types.Cameras(cameras[:at_most], socket_types.EXACT)
        return socket_types.pictures_to_host(photos[:at_most]), seen_from


def _generator_file(name: str) -> Path:
    from ...my3dgen_core.checkpoint import starter_path

    return starter_path() if name == STARTER else host.find_model(host.GENERATORS, name)


def _photo_root(folder: str) -> Path:
    return _demo_folder() / "photos" if folder == DEMO_PERSON else host.find_input_folder(folder)


def _survey(folder: str, subfolders: bool) -> PhotoFolder:
    """Return the pictures of a folder and the names of other files.

    Raises:
        PhotoError: there is no picture.
    """
    from ...my3dgen_core.face.photo_files import list_photos, survey_photos

    found = survey_photos(_photo_root(folder), subfolders)
    if not found.photos:
        list_photos(_photo_root(folder), subfolders)  # raises, with what is there instead
    return found


def _check_memory(files: list[Path], longest_side: int) -> list[str]:
    """Return a warning if the photos need much memory: a wire carries all of them at once.

    Raises:
        ValueError: they need more than the computer has.
    """
    from ...my3dgen_core.face.photo_files import picture_size

    needed = 0
    for height, width in filter(None, map(picture_size, files)):
        scale = min(1.0, longest_side / max(height, width, 1))
        needed += round(height * scale) * round(width * scale) * 3 * 4  # float32 RGB
    if needed < MUCH_MEMORY:
        return []
    total, free = host.memory()
    side = max(256, int(longest_side * (MUCH_MEMORY / needed) ** 0.5) // 64 * 64)
    text = (
        f"{len(files)} photos with longest_side {longest_side} need {_in_words(needed)} of memory. "
        f"Lower at_most, or longest_side: {side} needs about {_in_words(MUCH_MEMORY)}."
    )
    if total is not None and needed > total:
        raise ValueError(f"{text} This computer has {_in_words(total)}.")
    return [text if free is None else f"{text} {_in_words(free)} are free."]


def _in_words(size: float) -> str:
    """Return a number of bytes in GB or MB."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def _shrunk(pixels: Any, longest_side: int) -> torch.Tensor:
    """Convert a photo [H,W,3], uint8 or float in 0..1, to IMAGE [1,H,W,3] no larger than `longest_side`.

    A photo that is scaled down gets even sides, as video encoders need them; others keep every pixel.
    """
    image = torch.from_numpy(pixels)[None]
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    height, width = image.shape[1:3]
    scale = longest_side / max(height, width)
    if scale < 1:
        most = max(2, longest_side // 2 * 2)
        size = tuple(min(most, max(2, 2 * round(side * scale / 2))) for side in (height, width))
        image = torch.nn.functional.interpolate(
            image.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True
        ).permute(0, 2, 3, 1)
    return host.to_host(image.contiguous())


def _demo_folder() -> Path:
    from ...my3dgen_core import evaluation

    return evaluation.DEMO_PERSON
