"""Latent nodes: random latents, and latents in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host, socket_types

if TYPE_CHECKING:
    from ...my3dgen_core import Latents

CATEGORY = "My3DGen/Latents"
FOLDER = "my3dgen/latents"
"""Folder of latents under output/ and input/."""


class RandomLatent:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["random head", "sample generator", "random face", "truncation", "noise", "seed"]
    DESCRIPTION = (
        "Samples random heads: people who do not exist. With an identity applied to the model they take on "
        "that person's features."
    )
    RETURN_TYPES = (socket_types.LATENT,)
    RETURN_NAMES = ("latents",)
    OUTPUT_TOOLTIPS = ("One latent per head, each with the frontal camera.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (socket_types.MODEL, {"tooltip": "The generator to sample from."}),
                "count": ("INT", {"default": 4, "min": 1, "max": 4096, "tooltip": "Number of heads."}),
                "truncation": (
                    "FLOAT",
                    {
                        "default": 0.7,
                        "min": 0.0,
                        "max": 2.0,
                        "step": 0.05,
                        "tooltip": "0 gives the generator's mean head, 1 its full variety; 0.7 avoids broken "
                        "heads.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**53,
                        "control_after_generate": False,
                        "tooltip": "Same seed, same heads.",
                    },
                ),
            }
        }

    def make(self, model: socket_types.Model, count: int, truncation: float, seed: int) -> tuple[Latents]:
        from ...my3dgen_core import random_latents

        with host.rendering(), model.ready(memory=host.RENDER_MEMORY) as generator:
            made = random_latents(generator, seed, count, truncation).to("cpu")
        return (socket_types.checked_latents(made),)


class SaveLatents:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["export latents", "write latents", "keep anchors", "safetensors", "save w"]
    DESCRIPTION = "Writes latents, with their cameras and weights, to a .safetensors file under output/."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Path of the file.",)
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "latents": (
                    socket_types.LATENT,
                    {"tooltip": "The latents to save: anchors, samples, edits."},
                ),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": f"{FOLDER}/latents",
                        "tooltip": f"Folder and name under output/. Load Latents lists {FOLDER}.",
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def save(self, latents: Latents, filename_prefix: str, node_id: str | None = None) -> dict[str, Any]:
        from ...my3dgen_core import save_latents

        with host.save_path(filename_prefix, ".safetensors") as path:
            save_latents(latents, path)
        text = f"{len(latents)} latents, {path.stat().st_size:,} bytes: {path}"
        return {"ui": host.report(node_id, text), "result": (str(path),)}


class LoadLatents:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["import latents", "read latents", "saved anchors", "safetensors", "load w"]
    DESCRIPTION = (
        "Loads latents written by Save Latents. They work only with the generator they were made with."
    )
    RETURN_TYPES = (socket_types.LATENT,)
    RETURN_NAMES = ("latents",)
    OUTPUT_TOOLTIPS = ("The latents, with their cameras if they have any.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "file": (list_latents(), {"tooltip": f"A file in {FOLDER} under output/ or input/."}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        return host.validate(file, find_latents)

    @classmethod
    def IS_CHANGED(cls, file: str | None) -> str:
        return host.changed(file, lambda name: [find_latents(name)])

    def load(self, file: str) -> tuple[Latents]:
        from ...my3dgen_core import load_latents

        with host.rendering():
            return (load_latents(find_latents(file)),)


def _folders() -> list[Path]:
    return [root / FOLDER for root in (host.output_root(), host.input_root())]


def list_latents() -> list[str]:
    """Return the names of the files that Load Latents lists."""
    return host.list_files(_folders(), {".safetensors"})


def find_latents(name: str) -> Path:
    """Return a listed file by its name; a workflow from a stranger must not read any other file.

    Raises:
        FileNotFoundError: no such file is listed.
    """
    from ...my3dgen_core.common.folders import find_below, readable

    listed = list_latents()
    for folder in _folders():
        path = find_below(folder, name)
        if path is not None and readable(path.relative_to(os.path.abspath(folder)).as_posix()) in listed:
            return path
    raise FileNotFoundError(f"There are no latents {name!r} in {_folders()[0]}. Save some, or choose others.")
