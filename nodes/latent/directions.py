"""Direction nodes: load a semantic direction, find one in a generator, apply one to latents."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import host, socket_types
from ..server import live_preview, ui_results
from ..server.live_handles import Edit
from ..typed_lists import plain_signs, split_list
from .clip_scores import text_labeler

if TYPE_CHECKING:
    from ...my3dgen_core import Direction, Identity, Latents

CATEGORY = "My3DGen/Latents"
MEASURED = ["smile", "mouth open", "eyes open", "face width", "jaw width", "age", "gender"]
WORDS = "words"
COMPONENTS = [f"component {number}" for number in range(1, 13)]
COMPONENT_SAMPLES = 4096
"""Random latents from which the principal components are computed."""
_LONGEST_LAYERS = 300  # characters of a list of layers
_LAYERS = re.compile(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?")

STARTER = "starter: "
_BUNDLED = Path(__file__).resolve().parents[2] / "my3dgen_core" / "starter" / "directions"


def bundled_directions() -> list[str]:
    """Return the names of the starter's own directions, such as "starter: smile"."""
    return [STARTER + file.stem for file in sorted(_BUNDLED.glob("*.safetensors"))]


def find_direction_file(name: str) -> Path:
    """Return the file of a direction that Load Direction lists."""
    if name in bundled_directions():
        return _BUNDLED / f"{name.removeprefix(STARTER)}.safetensors"
    return host.find_model(host.DIRECTIONS, name)


class LoadDirection:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = ["latent direction", "attribute vector", "semantic edit", "smile", "age", "slider"]
    DESCRIPTION = (
        "Loads a semantic direction from models/my3dgen/directions: .safetensors, .npz, .npy or .pt. Nothing "
        "in the file is executed. Directions of 2D StyleGANs do not fit EG3D: they are rejected where their "
        "shape shows it, and loaded with a warning where it does not."
    )
    RETURN_TYPES = (socket_types.DIRECTION,)
    RETURN_NAMES = ("direction",)
    OUTPUT_TOOLTIPS = ("Connect to Apply Direction.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (socket_types.MODEL, {"tooltip": "The generator the direction was made for."}),
                "file": (
                    [*bundled_directions(), *host.list_models(host.DIRECTIONS)],
                    {
                        "tooltip": "One of the starter's directions, or a file in models/my3dgen/directions "
                        "or output/my3dgen/directions."
                    },
                ),
                "attribute": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Which direction, if the file has several; leave empty if it has one. An "
                        "unknown name lists them.",
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        return host.validate(file, find_direction_file)

    @classmethod
    def IS_CHANGED(
        cls, file: str | None, attribute: str = "", model: Any = None, node_id: str | None = None
    ) -> str:
        return host.changed(file, lambda name: [find_direction_file(name)])

    def load(
        self, model: socket_types.Model, file: str, attribute: str, node_id: str | None = None
    ) -> dict[str, Any]:
        from ...my3dgen_core import Direction

        config = model.generator.config
        path = find_direction_file(file)
        with host.rendering():
            found = Direction.load(path, attribute.strip() or None, config.num_ws, config.w_dim)
        socket_types.check_base(found.base_hash, model, f"The direction {found.name!r} belongs")
        doubt = found.doubt()
        return {"ui": host.report(node_id, f"Warning: {doubt}") if doubt else {}, "result": (found,)}


class FindDirection:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "interfacegan",
        "ganspace",
        "pca",
        "attribute vector",
        "semantic edit",
        "clip",
        "smile",
        "age",
    ]
    DESCRIPTION = (
        "Finds a direction for any generator. 'smile' and other attributes: samples heads, measures each "
        "face and fits the direction; needs face models. 'words': the same with CLIP scores. 'component': "
        "the principal components of the latents; needs no model. With an identity, the direction preserves "
        "that identity. Results are cached in output/my3dgen/directions."
    )
    RETURN_TYPES = (socket_types.DIRECTION, "STRING")
    RETURN_NAMES = ("direction", "summary")
    OUTPUT_TOOLTIPS = ("Connect to Apply Direction. Strength 1 is one standard deviation.", "How sure it is.")
    FUNCTION = "find"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (socket_types.MODEL, {"tooltip": "The generator to search."}),
                "attribute": (
                    [*MEASURED, *COMPONENTS, WORDS],
                    {
                        "tooltip": "What to find. 'age' and 'gender' need a face pack with that network. "
                        "'component 1' has the largest variance. 'words': the texts below."
                    },
                ),
                "samples": (
                    "INT",
                    {
                        "default": 400,
                        "min": 50,
                        "max": 100000,
                        "tooltip": "Heads to sample for a measured attribute. More: more reliable, slower.",
                    },
                ),
                "face_models": (
                    ["auto", *host.list_face_packs()],
                    {"tooltip": "Folder under models/insightface/models, for measured attributes."},
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**53,
                        "control_after_generate": False,
                        "tooltip": "Same seed, same direction.",
                    },
                ),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "With 'words': CLIP's text encoder, from Load CLIP."}),
                "clip_vision": (
                    "CLIP_VISION",
                    {"tooltip": "With 'words': the image encoder of the same CLIP, from Load CLIP Vision."},
                ),
                "words": (
                    "STRING",
                    {"default": "a smiling face", "tooltip": "With 'words': the text to move toward."},
                ),
                "opposite": (
                    "STRING",
                    {"default": "a serious face", "tooltip": "With 'words': the text to move away from."},
                ),
                "identity": (
                    socket_types.IDENTITY,
                    {
                        "tooltip": "Searches around this identity for the direction that changes the "
                        "attribute most and the identity least. Needs face models, even with 'words'; not "
                        "used for components."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def find(
        self,
        model: socket_types.Model,
        attribute: str,
        samples: int,
        face_models: str,
        seed: int,
        clip: Any = None,
        clip_vision: Any = None,
        words: str = "",
        opposite: str = "",
        identity: Identity | None = None,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import random_latents
        from ...my3dgen_core.editing.direction import principal_directions
        from ...my3dgen_core.editing.direction_finder import FinderConfig, find_directions
        from ...my3dgen_core.editing.face_scores import FaceGeometry
        from ...my3dgen_core.editing.identity_preserving import LocalFinderConfig, find_local_directions
        from ...my3dgen_core.face import embed

        searched = model.without_identities()
        if identity is not None and attribute not in COMPONENTS:
            searched = _personalized(model, identity)
        with host.rendering(), searched.ready(memory=host.RENDER_MEMORY) as generator:
            if attribute in COMPONENTS:
                number = COMPONENTS.index(attribute)
                latents = random_latents(generator, seed, COMPONENT_SAMPLES, 1.0)
                found = principal_directions(latents, number + 1)[number]
                text = f"{attribute}: {found.meta['share']:.0%} of the variance of {COMPONENT_SAMPLES} heads"
            else:
                labeler: Any
                cache: Path | None = host.output_root() / "my3dgen" / "directions"
                if attribute == WORDS:
                    attribute = words.strip() or WORDS
                    labeler, cache = text_labeler(attribute, opposite, clip, clip_vision), None
                else:
                    labeler = FaceGeometry(_face_models(face_models))
                on_step = host.progress(node_id, "head")
                if identity is None:
                    config = FinderConfig(samples=samples, seed=seed)
                    found = find_directions(generator, labeler, [attribute], config, cache, on_step)[
                        attribute
                    ]
                else:
                    models = _face_models(face_models)
                    applied = " ".join(
                        f"{one.identity.content_hash()} {one.strength}" for one in searched.identities
                    )
                    found = find_local_directions(
                        generator,
                        identity.anchors.mean().to(generator.w_avg.device),
                        labeler,
                        lambda images: embed(images, models),
                        [attribute],
                        LocalFinderConfig(samples=samples, seed=seed),
                        None if cache is None else (cache, applied),
                        on_step,
                    )[attribute]
                about = "" if identity is None else ", for this identity"
                text = f"{attribute}{about}: from {samples} heads; {_quality(found.meta.get('correlation'))}"
        return {"ui": host.report(node_id, text), "result": (found, text)}


class ApplyDirection:
    CATEGORY = CATEGORY
    SEARCH_ALIASES = [
        "edit face",
        "semantic edit",
        "attribute slider",
        "expression",
        "smile",
        "age",
        "latent edit",
    ]
    DESCRIPTION = (
        "Moves latents along a direction, such as a smile. With an identity the edit stays inside its alpha "
        "space. More than one step makes a sweep."
    )
    RETURN_TYPES = (socket_types.LATENT,)
    RETURN_NAMES = ("latents",)
    OUTPUT_TOOLTIPS = ("The edited latents, for Render Head: all steps of the first, then of the second ...",)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        amount = {"min": -50.0, "max": 50.0, "step": 0.1}
        return {
            "required": {
                "latents": (socket_types.LATENT, {"tooltip": "The latents to edit."}),
                "direction": (socket_types.DIRECTION, {"tooltip": "From Load Direction or Find Direction."}),
                "which": (
                    [socket_types.MEAN, socket_types.EVERY, socket_types.SINGLE],
                    {
                        "tooltip": "'mean': the average of all latents, without any single photo's "
                        "expression. 'every': all latents. 'single': the one with the index below."
                    },
                ),
                "index": (
                    "INT",
                    {"default": 0, "min": 0, "max": 100000, "tooltip": "Which latent, with 'single'."},
                ),
                "strength": (
                    "FLOAT",
                    {**amount, "default": 2.0, "tooltip": "How far to move; negative is the opposite."},
                ),
                "steps": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 2000,
                        "tooltip": "1: only this strength. More: a sweep from 'sweep_from' to 'strength'.",
                    },
                ),
                "sweep_from": (
                    "FLOAT",
                    {**amount, "default": 0.0, "tooltip": "Start of the sweep; not used with one step."},
                ),
                "layers": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Layers to edit, such as 0-5, 8. Early layers are shape, late ones color. "
                        "Empty: all.",
                    },
                ),
                "edge": (
                    ["stop", "continue", "project"],
                    {
                        "tooltip": "With an identity, when the edit would leave its alpha space: stop there, "
                        "continue, or project to the nearest point inside."
                    },
                ),
                "beta": (
                    "FLOAT",
                    {
                        "default": 0.02,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "With an identity: how far weights may fall below 0 before the edit "
                        "counts as outside.",
                    },
                ),
            },
            "optional": {
                "identity": (socket_types.IDENTITY, {"tooltip": "Keeps the edit inside its alpha space."}),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def apply(
        self,
        latents: Latents,
        direction: Direction,
        which: str,
        index: int,
        strength: float,
        steps: int,
        sweep_from: float,
        layers: str,
        edge: str,
        beta: float,
        identity: Identity | None = None,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import AlphaSpace, Latents

        hashes = {latents.base_hash, direction.base_hash, identity.base_hash if identity else None} - {None}
        if len(hashes) > 1:
            raise ValueError(
                "The latents, the direction and the identity belong to different generators: "
                f"{', '.join(sorted(str(value)[:12] for value in hashes))}. Make them with the same one."
            )
        chosen = socket_types.chosen(latents, which, index)
        with host.rendering():
            ws = chosen.ws.repeat_interleave(steps, dim=0)
            amounts = torch.linspace(sweep_from, strength, steps) if steps > 1 else torch.tensor([strength])
            space = None if identity is None else AlphaSpace(identity.anchors.to(ws.device), beta)
            rows = parse_layers(layers)
            moved = direction.apply(ws, amounts.repeat(len(chosen)), rows, within=space, edge=edge)
            cameras = None if chosen.cameras is None else chosen.cameras.repeat_interleave(steps, dim=0)
            start = chosen.ws[:1].detach().clone()
            low, high = (-math.inf, math.inf) if space is None else direction.reach(start, space)
        edited = Latents(moved, cameras, base_hash=latents.base_hash or direction.base_hash)
        socket_types.checked_latents(edited)
        ends = {name: at for name, at in (("low", low), ("high", high)) if math.isfinite(at)}
        ui = live_preview.publish(Edit(start, direction, rows, space, edge), edited, **ends)
        return {"ui": ui_results.remember(node_id, ui), "result": (edited,)}


def parse_layers(text: str) -> list[int] | None:
    """Parse layers, such as "0-5, 8" into [0, 1, 2, 3, 4, 5, 8]; an empty text into None, all layers.

    Raises:
        ValueError: the text is no such list.
    """
    if len(text) > _LONGEST_LAYERS:
        raise ValueError(
            f"The text of layers has {len(text)} characters; write at most {_LONGEST_LAYERS}, such as 0-5, 8."
        )
    layers: list[int] = []
    for part in split_list(text):
        found = _LAYERS.fullmatch(plain_signs(part))
        if found is None:
            raise ValueError(f"{part!r} is not a list of layers. Write numbers and ranges, such as 0-5, 8.")
        layers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return layers or None


def _personalized(model: socket_types.Model, identity: Identity) -> socket_types.Model:
    """Return the model itself if the identity is applied already, else the bare model with the identity."""
    applied = [one.identity.content_hash() for one in model.identities]
    if identity.content_hash() in applied:
        return model
    return model.without_identities().with_identity(identity, 1.0)


def _face_models(name: str) -> Any:
    from ...my3dgen_core import FaceModels

    return FaceModels.from_folder(host.find_face_pack(name))


def _quality(correlation: float | None) -> str:
    """Describe how well a direction predicts the attribute on heads that were not used to find it."""
    if correlation is None:
        return "too few heads to say how sure"
    return f"correlation with the measure on unseen heads: {correlation:.2f}"
