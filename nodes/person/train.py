"""Training nodes: an identity from many photos, and pivotal tuning on one look."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import auto_inputs, host, picture_inputs, plots, socket_types
from ..output.view_rendering import render_views
from ..server import training_monitor
from ..server.identity_similarity import similarity_to_first
from .training_run import run_training, state_folder

if TYPE_CHECKING:
    from ...my3dgen_core import Identity, Latents


RATE = auto_inputs.learning_rate("Initial rate of the convolutions; the other rates scale with it.")
"""Input `learning_rate` of both nodes."""
MASKS = ("MASK", {"tooltip": "Pixels to ignore (1), from Align Faces."})
"""Input `masks` of both nodes."""


class TrainIdentity:
    CATEGORY = "My3DGen/Person"
    SEARCH_ALIASES = [
        "lora",
        "dreambooth",
        "personalize",
        "fine-tune",
        "finetune",
        "avatar",
        "3d head",
        "my3dgen",
    ]
    DESCRIPTION = (
        "Trains an identity: a small update of the generator (LoRA) with which it reproduces every photo "
        "from its anchor and camera."
    )
    RETURN_TYPES = (socket_types.IDENTITY, "IMAGE", "STRING")
    RETURN_NAMES = ("identity", "loss plot", "summary")
    OUTPUT_TOOLTIPS = (
        "The update with its anchors. Connect to Apply Identity and Save Identity.",
        "The training loss of every step.",
        "Number of trained parameters, the size in bytes, and the settings that were chosen by 'auto'.",
    )
    FUNCTION = "train"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (
                    socket_types.MODEL,
                    {"tooltip": "The generator used for inversion. It is not changed."},
                ),
                "images": ("IMAGE", {"tooltip": "The face crops that were inverted."}),
                "anchors": (socket_types.LATENT, {"tooltip": "Their latents, from Invert Photos."}),
                "steps": auto_inputs.steps(
                    200000, "Optimizer steps. 400 for the starter, 2,000 to 5,000 for a large one."
                ),
                "method": (
                    ["lora", "full"],
                    {
                        "tooltip": "'lora': a small update. 'full': all weights, for comparison: 43 times as "
                        "many numbers with the starter, 124 with NVIDIA's, hardly better from novel views."
                    },
                ),
                "rank": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 64,
                        "tooltip": "LoRA rank. The paper uses 1.",
                    },
                ),
                "learning_rate": RATE,
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": 64, "tooltip": "Photos per step."},
                ),
                "seed": auto_inputs.seed("Same seed, same identity."),
            },
            "optional": {
                "masks": MASKS,
                "start": (
                    socket_types.IDENTITY,
                    {"tooltip": "An identity to continue training, with the same method, rank and layout."},
                ),
                "layout": (
                    ["released", "lycoris"],
                    {
                        "tooltip": "LoRA layout: 'released' is the paper authors', 'lycoris' has less than "
                        "half as many parameters."
                    },
                ),
                "background_weight": auto_inputs.background_weight(
                    "Loss weight of the background: 1 for plain backgrounds, near 0 if they change from "
                    "photo to photo."
                ),
                "refine": auto_inputs.refinement(
                    "Refine the anchors and their cameras during training: helps if the cameras are not "
                    "exact, as with photos."
                ),
                "keep_state": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Save checkpoints of the training to output/my3dgen/training. The same "
                        "workflow, queued again after a crash or a cancel, resumes from there. A finished "
                        "training's checkpoint is deleted.",
                    },
                ),
                "perceptual": (
                    ["laplacian", "lpips_alex", "lpips_vgg"],
                    {
                        "tooltip": "Perceptual loss. 'laplacian' needs no weights; LPIPS, which the paper "
                        "uses, needs your own weights in models/my3dgen/perceptual."
                    },
                ),
                "identity_weight": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 10.0,
                        "step": 0.01,
                        "tooltip": "Weight of an identity loss on novel views. Needs face models, and takes "
                        "time. 0: off.",
                    },
                ),
                "face_models": (
                    ["auto", *host.list_face_packs()],
                    {"tooltip": "The face pack for identity_weight. 'auto' uses the first one found."},
                ),
                "heads": (
                    "MASK",
                    {
                        "tooltip": "Head masks (1 on the head) from Align Faces, for background_weight. "
                        "Without, or if all white, the generator's own head mask is used."
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, refine: Any = None, input_types: dict[str, str] | None = None) -> bool | str:
        return auto_inputs.check(cls, "refine", refine, input_types)

    def train(
        self,
        model: socket_types.Model,
        images: Tensor,
        anchors: Latents,
        steps: int,
        method: str,
        rank: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
        masks: Tensor | None = None,
        start: Identity | None = None,
        layout: str = "released",
        background_weight: float = -1.0,
        refine: str | bool = auto_inputs.AUTO,
        keep_state: bool = False,
        perceptual: str = "laplacian",
        identity_weight: float = 0.0,
        face_models: str = "auto",
        heads: Tensor | None = None,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import FaceModels, personalize

        if model.identities:
            raise ValueError(
                "Train Identity starts from a bare generator, but this model has an identity applied. "
                "Connect the model from Load EG3D Generator."
            )
        photos, hidden = picture_inputs.crops_and_masks(images, masks)
        head_masks = _unless_white(picture_inputs.mask_to_core(heads, photos, "heads"))
        own = _anchors(anchors, len(photos), model, "Train Identity")
        auto = auto_inputs.AutoValues(model.generator, own.camera_source)
        config = replace(
            auto.tuning(auto.recipe.training(auto.exact), steps, learning_rate),
            method=method,
            rank=rank,
            layout=layout,
            batch_size=batch_size,
            background_weight=auto.background(background_weight),
            refine=auto.switch("refine", refine),
            seed=seed,
            perceptual_backbone=perceptual,
            perceptual_dir=str(host.perceptual_folder(perceptual)),
            identity_weight=identity_weight,
        )
        pack = host.find_face_pack(face_models) if identity_weight > 0 else None
        faces = None if pack is None else FaceModels.from_folder(pack)
        with host.training(), model.ready(memory=host.TRAINING_MEMORY) as generator, ExitStack() as held:
            device = socket_types.device_of(generator)
            shown = photos.to(device)
            ignored = picture_inputs.moved(hidden, device)
            on_head = picture_inputs.moved(head_masks, device)
            state = None
            if keep_state:
                started = () if start is None else start.adapter.tensors.values()
                given = (shown, ignored, on_head, own.ws, own.cameras, *started)
                state = held.enter_context(
                    host.claimed(state_folder(config, generator, str(pack or ""), given))
                )
                config = replace(config, checkpoint_dir=str(state))
            identity, warning = run_training(
                lambda on_step: personalize(
                    generator,
                    shown,
                    own.to(device),
                    config,
                    masks=ignored,
                    on_step=on_step,
                    start=start,
                    face_models=faces,
                    heads=on_head,
                ),
                training_monitor.watch(
                    node_id,
                    host.progress(node_id, "training"),
                    photos,
                    similarity_to_first(photos, face_models, faces),
                    steps,
                ),
                node_id,
                state,
            )
        text = _report(warning, socket_types.checked_identity(identity), model.generator, auto)
        plot = plots.loss_plot(identity.history)
        return {"ui": host.report(node_id, text), "result": (identity, host.to_host(plot), text)}


class PivotalTuning:
    CATEGORY = "My3DGen/Person"
    SEARCH_ALIASES = ["pti", "pivotal tuning inversion", "fine-tune", "finetune", "single photo", "lora"]
    DESCRIPTION = (
        "Pivotal tuning inversion (PTI): tunes the model until the latent of one photo, or of a few photos "
        "of one look, renders it exactly. On a personalized model it comes on top: apply both identities, "
        "in that order."
    )
    RETURN_TYPES = (socket_types.IDENTITY, "IMAGE", socket_types.MODEL)
    RETURN_NAMES = ("identity", "image", "model")
    OUTPUT_TOOLTIPS = (
        "The update for this look, with its latent, for Save Identity.",
        "The photo as the tuned model renders it.",
        "The model with the look applied, for Render Head.",
    )
    FUNCTION = "tune"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (socket_types.MODEL, {"tooltip": "A generator, bare or with one identity applied."}),
                "images": ("IMAGE", {"tooltip": "One face crop, or a few of the same look."}),
                "latents": (
                    socket_types.LATENT,
                    {"tooltip": "Their latents, from Invert Photos on this model."},
                ),
                "steps": auto_inputs.steps(20000, "Optimizer steps."),
                "method": (
                    ["lora", "full"],
                    {"tooltip": "'lora': a small update. 'full': all weights, as in PTI."},
                ),
                "learning_rate": RATE,
                "seed": auto_inputs.seed("Same seed, same result."),
            },
            "optional": {
                "masks": MASKS,
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def tune(
        self,
        model: socket_types.Model,
        images: Tensor,
        latents: Latents,
        steps: int,
        method: str,
        learning_rate: float,
        seed: int,
        masks: Tensor | None = None,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ...my3dgen_core import pivotal_tune

        if len(model.identities) > 1:
            raise ValueError(
                "Pivotal Tuning starts from at most one identity, but this model has several applied."
            )
        photos, hidden = picture_inputs.crops_and_masks(images, masks)
        pivot = _anchors(latents, len(photos), model, "Pivotal Tuning")
        auto = auto_inputs.AutoValues(model.generator)
        base = auto.tuning(auto.recipe.pivotal_tuning(), steps, learning_rate)
        config = replace(base, method=method, seed=seed)
        below = model.identities[0] if model.identities else None
        with host.training(), model.without_identities().ready(memory=host.TRAINING_MEMORY) as generator:
            device = socket_types.device_of(generator)
            identity, warning = run_training(
                lambda on_step: pivotal_tune(
                    generator,
                    photos.to(device),
                    pivot.to(device),
                    config,
                    masks=picture_inputs.moved(hidden, device),
                    on_step=on_step,
                    over=None if below is None else below.identity,
                    strength=1.0 if below is None else below.strength,
                ),
                training_monitor.watch(
                    node_id,
                    host.progress(node_id, "pivotal tuning"),
                    photos,
                    similarity_to_first(photos, "auto"),
                    steps,
                ),
                node_id,
            )
        tuned = model.with_identity(socket_types.checked_identity(identity), 1.0)
        assert pivot.cameras is not None
        with host.rendering(), tuned.ready(memory=host.RENDER_MEMORY) as generator:
            views = render_views(generator, pivot.ws, pivot.cameras)
        text = _report(warning, identity, model.generator, auto)
        result = (identity, socket_types.pictures_to_host(views.image), tuned)
        return {"ui": host.report(node_id, text), "result": result}


def _anchors(anchors: Latents, count: int, model: socket_types.Model, node: str) -> Latents:
    """Return a copy of the anchors, for training.

    Raises:
        ValueError: they have no cameras, belong to another generator, or are not `count` in number.
    """
    socket_types.check_latents(anchors, model)
    if anchors.cameras is None:
        raise ValueError(f"{node}: the latents have no cameras. Take them from Invert Photos.")
    socket_types.check_same_count(count, len(anchors), node, "latents")
    return replace(anchors, ws=anchors.ws.clone(), cameras=anchors.cameras.clone(), losses=None, alphas=None)


def _unless_white(heads: Tensor | None) -> Tensor | None:
    """Return the head masks, or None if all are white, which is how Align Faces outputs unknown masks."""
    return None if heads is None or bool((heads == 1).all()) else heads


def _report(warning: str, identity: Identity, generator: Any, auto: auto_inputs.AutoValues) -> str:
    """Return a training's warning, if there is one, the summary of its identity, and what was chosen."""
    return "\n".join(filter(None, [warning, summary(identity, generator), str(auto)]))


def summary(identity: Identity, generator: Any) -> str:
    """Describe the size of an identity, compared with the generator's."""
    count = identity.adapter.parameter_count
    whole = sum(parameter.numel() for parameter in generator.parameters())
    return (
        f"{count:,} parameters ({whole / count:.0f} times fewer than the generator's {whole:,}), "
        f"{identity.nbytes:,} bytes with {len(identity.anchors)} anchors"
    )
