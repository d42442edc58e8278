"""The node that reads what EG3D's preprocessing and projectors write: crops, cameras and latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import host, socket_types

if TYPE_CHECKING:
    from ...my3dgen_core import GeneratorConfig
    from ...my3dgen_core.person.eg3d_dataset import Dataset

CATEGORY = "My3DGen/Person"


class LoadEG3DDataset:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "dataset.json",
        "camera labels",
        "preprocessed crops",
        "projector output",
        "projected_w",
        "ffhq dataset",
        "import cameras",
    ]
    DESCRIPTION = (
        "Loads a folder under input/ that EG3D's preprocessing or a projector has written: face crops, "
        "their cameras from dataset.json or .npy files, and latents if there are any. Replaces Align Faces."
    )
    RETURN_TYPES = ("IMAGE", socket_types.CAMERA, "STRING", socket_types.LATENT)
    RETURN_NAMES = ("images", "cameras", "names", "latents")
    OUTPUT_TOOLTIPS = (
        "The face crops, as a batch.",
        "Their cameras, in the same order.",
        "The file names, in the same order.",
        "Their latents with the cameras, in the same order. Nodes after it do not run if a crop has none.",
    )
    OUTPUT_IS_LIST = (False, False, True, False)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "folder": (
                    host.list_input_folders(),
                    {
                        "tooltip": "A folder inside ComfyUI's input folder, with pictures and a "
                        "dataset.json, or one .npy of 25 numbers for each picture."
                    },
                ),
                "at_most": (
                    "INT",
                    {"default": 50, "min": 1, "max": 1000, "tooltip": "Load at most this many crops."},
                ),
                "mirrored": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Also load the mirrored copies (NAME_mirror) that EG3D's preprocessing "
                        "makes. They show another person than the photos do.",
                    },
                ),
            },
            "optional": {
                "model": (
                    socket_types.MODEL,
                    {
                        "tooltip": "The generator that the latents belong to: a single w is repeated for all "
                        "its layers, and latents of another shape are rejected."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None) -> bool | str:
        return host.validate(folder, host.find_input_folder)

    @classmethod
    def IS_CHANGED(
        cls,
        folder: str | None,
        at_most: int,
        mirrored: bool = False,
        model: socket_types.Model | None = None,
        node_id: str | None = None,
    ) -> str:
        from ...my3dgen_core.common.folders import files_below

        return host.changed(folder, lambda name: sorted(files_below(host.find_input_folder(name))))

    def load(
        self,
        folder: str,
        at_most: int,
        mirrored: bool = False,
        model: socket_types.Model | None = None,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import Latents
        from ...my3dgen_core.face.photo_files import list_photos
        from ...my3dgen_core.face.photos import read_photos
        from ...my3dgen_core.person.eg3d_dataset import read_dataset

        root = host.find_input_folder(folder)
        config = None if model is None else model.generator.config
        num_ws = None if config is None else config.num_ws
        found = read_dataset(root, list_photos(root, subfolders=True), at_most, mirrored, num_ws)
        on_step = host.progress(node_id, "crop")
        crops, kept, notes = [], [], list(found.notes)
        for index, photo in enumerate(read_photos(list(zip(found.names, found.pictures, strict=True)))):
            on_step(index, len(found.names))
            if photo.pixels is None:
                notes.append(f"skipped: {photo.error}")
            else:
                crops.append(_crop(photo.pixels, photo.name))
                kept.append(index)
                notes += [photo.warning] if photo.warning else []
        if not crops:
            raise ValueError(f"No picture in {folder!r} can be read. {notes[-1]}")
        names, cameras = [found.names[index] for index in kept], found.cameras[kept]
        latents: Any
        if problem := _latents_problem(found, folder, config):
            latents = host.blocked(problem)
        else:
            assert found.latents is not None
            latents = Latents(found.latents.ws[kept], cameras, camera_source=socket_types.ESTIMATED)
        notes.append(problem or f"{len(latents)} latents of {latents.ws.shape[1]} layers")
        text = "\n".join([f"{len(crops)} crops with cameras from {folder}", *notes])
        seen_from = socket_types.Cameras(cameras, socket_types.ESTIMATED)
        result = (host.to_host(_batch(crops)), seen_from, names, latents)
        return {"ui": host.report(node_id, text), "result": result}


def _crop(pixels: Any, name: str) -> torch.Tensor:
    """Convert a crop [H,W,3], uint8 or float in 0..1, to IMAGE [1,H,W,3]."""
    height, width = pixels.shape[:2]
    if height != width:
        raise ValueError(
            f"{name} is {width}x{height}: EG3D's crops are square. Load photos with Load Photo Folder and "
            "Align Faces."
        )
    image = torch.from_numpy(pixels)[None]
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _batch(crops: list[torch.Tensor]) -> torch.Tensor:
    """Join crops to one IMAGE; larger ones are scaled down to the smallest."""
    size = min(crop.shape[1] for crop in crops)
    return torch.cat(
        [
            crop
            if crop.shape[1] == size
            else torch.nn.functional.interpolate(
                crop.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True
            ).permute(0, 2, 3, 1)
            for crop in crops
        ]
    )


def _latents_problem(found: Dataset, folder: str, config: GeneratorConfig | None) -> str:
    """Return why the latents of a dataset cannot be given, or "" if they can."""
    if found.latents is None:
        missing = next((note for note in found.notes if note.startswith("There are no latents for")), None)
        return f"{missing or f'There are no latents in {folder!r}.'} Use Invert Photos to make them."
    layers, width = found.latents.ws.shape[1:]
    if config is None and layers == 1:
        return "The latents are one w for each crop: connect the model, which repeats it for all layers."
    if config is not None and (layers, width) != (config.num_ws, config.w_dim):
        return (
            f"The latents have {layers} layers of {width} numbers, but the model's have {config.num_ws} of "
            f"{config.w_dim}. Load the generator that they were made with."
        )
    return ""
