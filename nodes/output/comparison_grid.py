"""Comparison grid node: a sheet of models, latents and cameras in rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import host, picture_inputs, plots, socket_types
from ..typed_lists import split_list
from .view_rendering import render_views

if TYPE_CHECKING:
    from ...my3dgen_core import Latents

MAX_PICTURES = 400
ROWS = ["models", "latents", "cameras", "models, latents", "models, cameras", "latents, cameras"]
NO_FACES = "none"


class ComparisonGrid:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = ["xy plot", "image grid", "contact sheet", "side by side", "metrics", "compare models"]
    DESCRIPTION = (
        "A labeled grid of images with metrics: the same latents and cameras in up to four models. Rows "
        "'latents' with several models is the paper's reconstruction figure; rows 'models' its figures of "
        "alpha samples, interpolation and edits."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("sheet", "figures")
    OUTPUT_TOOLTIPS = ("The grid.", "The mean of every metric per model.")
    FUNCTION = "compare"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        another = {"tooltip": "Another model to compare, such as the personalized or the fully tuned one."}
        names = {"default": "", "tooltip": "Names, separated by commas. Empty: numbers."}
        return {
            "required": {
                "model": (socket_types.MODEL, {"tooltip": "The first model, such as the pretrained one."}),
                "latents": (
                    socket_types.LATENT,
                    {"tooltip": "Anchors, samples, edits or an interpolation; the same in every model."},
                ),
                "rows": (
                    ROWS,
                    {"tooltip": "What the rows are; everything else is in columns."},
                ),
                "model_names": (
                    "STRING",
                    {**names, "default": "pretrained, personal", "tooltip": "A name for each model."},
                ),
                "latent_names": ("STRING", names),
                "camera_names": ("STRING", names),
                "cell": (
                    "INT",
                    {"default": 160, "min": 64, "max": 1024, "step": 16, "tooltip": "Image size in pixels."},
                ),
            },
            "optional": {
                "model_2": (socket_types.MODEL, another),
                "model_3": (socket_types.MODEL, another),
                "model_4": (socket_types.MODEL, another),
                "cameras": (
                    socket_types.CAMERA,
                    {
                        "tooltip": "Every latent is rendered from every camera; with 'pair' on and equal "
                        "counts, one by one. Without: each latent's own camera."
                    },
                ),
                "images": (
                    "IMAGE",
                    {
                        "tooltip": "Photos to show and to measure against: one per latent, or one per "
                        "camera. Any other number is used only for identity similarity."
                    },
                ),
                "pair": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "With as many cameras as latents, pair them one by one."},
                ),
                "face_models": (
                    [NO_FACES, "auto", *host.list_face_packs()],
                    {
                        "tooltip": "Folder under models/insightface/models: also measures the identity "
                        "similarity of each face to the images."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def compare(
        self,
        model: socket_types.Model,
        latents: Latents,
        rows: str,
        model_names: str,
        latent_names: str,
        camera_names: str,
        cell: int,
        model_2: socket_types.Model | None = None,
        model_3: socket_types.Model | None = None,
        model_4: socket_types.Model | None = None,
        cameras: socket_types.Cameras | None = None,
        images: Tensor | None = None,
        pair: bool = True,
        face_models: str = NO_FACES,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import FaceModels
        from ...my3dgen_core.common.image_ops import resize
        from ...my3dgen_core.evaluation import Comparison

        photos = None if images is None else picture_inputs.crops_to_core(images)
        models = [one for one in (model, model_2, model_3, model_4) if one is not None]
        for one in models:
            socket_types.check_latents(latents, one)
        seen_from, paired = _cameras(latents, cameras, pair)
        views = 1 if paired else len(seen_from)
        if len(models) * len(latents) * views > MAX_PICTURES:
            raise ValueError(
                f"{len(models)} models, {len(latents)} latents and {views} cameras make more than "
                f"{MAX_PICTURES} images. Choose fewer."
            )
        rendered, on_step = [], host.progress(node_id, "picture")
        for one in models:
            with host.rendering(), one.ready(memory=host.RENDER_MEMORY) as generator:
                views_of_model = render_views(
                    generator, latents.ws, seen_from, on_step=on_step, grid=not paired
                )
            rendered.append(views_of_model.image)
        size = max(part.shape[-1] for part in rendered)
        pictures = torch.stack([resize(part, size) for part in rendered]).unflatten(1, (len(latents), views))
        labels = {
            "models": names(model_names, len(models), "model"),
            "latents": names(latent_names, len(latents), ""),
            "cameras": names(camera_names, views, "camera"),
        }
        of = "cameras" if photos is not None and len(photos) == views != len(latents) else "latents"
        belong = photos is not None and len(photos) == (views if of == "cameras" else len(latents))
        faces = None
        if face_models != NO_FACES:
            if photos is None:
                raise ValueError("To measure identity similarity, connect photos of the person to images.")
            faces = FaceModels.from_folder(host.find_face_pack(face_models))
        table = Comparison(pictures, labels, photos if belong else None, of).measured(photos, faces)
        picture = plots.to_image(table.draw(rows.split(", "), cell))
        text = table.table() or f"{pictures.shape[0]} models, {len(latents)} latents, {views} cameras"
        return {"ui": host.report(node_id, text), "result": (host.to_host(picture), text)}


def _cameras(latents: Latents, cameras: socket_types.Cameras | None, pair: bool) -> tuple[Tensor, bool]:
    """Return the cameras [N, 25], and whether they pair up with the latents one by one."""
    if cameras is None:
        if latents.cameras is None:
            raise ValueError("These latents have no cameras of their own: connect a Camera Path.")
        return latents.cameras.cpu(), True
    return cameras.values, pair and len(cameras) == len(latents)


def names(text: str, count: int, what: str) -> list[str]:
    """Split names, such as "a, b", into exactly `count`; missing ones are `what` with a number."""
    given = split_list(text, empty=True)
    return [*given, *(f"{what} {number + 1}".strip() for number in range(len(given), count))][:count]
