"""Training an identity, keeping it in a file, and applying it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import figures, host, sockets

if TYPE_CHECKING:
    from ..my3dgen_core import Identity, Latents

CATEGORY = "My3DGen"


class TrainIdentity:
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Trains a small update of the generator (LoRA) so that it reproduces every photo from its anchor and "
        "camera. The result is the person: small enough to keep, sharp from every side."
    )
    RETURN_TYPES = (sockets.IDENTITY, "IMAGE", "STRING")
    RETURN_NAMES = ("identity", "loss plot", "summary")
    OUTPUT_TOOLTIPS = (
        "The personal update with its anchors. Connect to Apply Identity and Save Identity.",
        "The training loss of every step.",
        "How many numbers were trained, and their size in bytes.",
    )
    FUNCTION = "train"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (
                    sockets.MODEL,
                    {"tooltip": "The generator the anchors were found in. It is not changed."},
                ),
                "images": ("IMAGE", {"tooltip": "The face crops that were inverted."}),
                "anchors": (sockets.LATENT, {"tooltip": "Their latents, from Invert Photos."}),
                "steps": (
                    "INT",
                    {
                        "default": 400,
                        "min": 1,
                        "max": 200000,
                        "tooltip": "Optimiser steps. 400 suit the starter; 2,000 to 5,000 a large generator.",
                    },
                ),
                "method": (
                    ["lora", "full"],
                    {
                        "tooltip": "'lora': the small update. 'full': every weight, for comparison: a "
                        "hundred times larger, and no better from new sides."
                    },
                ),
                "rank": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 64,
                        "tooltip": "Rank of the update. 1 is what the paper uses.",
                    },
                ),
                "learning_rate": (
                    "FLOAT",
                    {
                        "default": 0.02,
                        "min": 0.00001,
                        "max": 1.0,
                        "step": 0.001,
                        "round": False,
                        "tooltip": "Rate of the convolutions at the start; the others follow in proportion.",
                    },
                ),
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": 64, "tooltip": "Photos looked at in every step."},
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**53,
                        "control_after_generate": False,
                        "tooltip": "Same seed, same identity.",
                    },
                ),
            },
            "optional": {
                "masks": ("MASK", {"tooltip": "Pixels to leave out (1), from Align Faces."}),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def train(
        self,
        model: sockets.Model,
        images: Tensor,
        anchors: Latents,
        steps: int,
        method: str,
        rank: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
        masks: Tensor | None = None,
        node_id: str | None = None,
    ) -> dict[str, Any]:
        from ..my3dgen_core import Latents, TuningConfig, personalize

        if model.identities:
            raise ValueError(
                "Train Identity starts from a bare generator, but this model has an identity applied. "
                "Connect the model from Load EG3D Generator."
            )
        sockets.check_latents(anchors, model)
        if anchors.cameras is None:
            raise ValueError("The anchors have no cameras. Take them from Invert Photos.")
        sockets.check_same_count(len(images), len(anchors), "Train Identity", "anchors")
        defaults = TuningConfig()
        scale = learning_rate / defaults.lr
        config = TuningConfig(
            steps=steps,
            method=method,
            rank=rank,
            lr=learning_rate,
            affine_lr=defaults.affine_lr * scale,
            diff_lr=defaults.diff_lr * scale,
            batch_size=batch_size,
            seed=seed,
        )
        with host.training(), model.ready(memory=host.TRAINING_MEMORY) as generator:
            device = sockets.device_of(generator)
            own = Latents(
                anchors.ws.clone().to(device), anchors.cameras.clone().to(device), base_hash=anchors.base_hash
            )
            identity = personalize(
                generator,
                sockets.crops_to_core(images).to(device),
                own,
                config,
                masks=sockets.mask_to_core(masks, len(images), device),
                on_step=host.progress(node_id, "training"),
            )
        text = summary(identity, model.generator)
        plot = figures.loss_plot(identity.history)
        return {"ui": host.report(node_id, text), "result": (identity, host.to_host(plot), text)}


class SaveIdentity:
    CATEGORY = CATEGORY
    DESCRIPTION = "Writes an identity, with its anchors and cameras, as one .safetensors file under output/."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Where the file is.",)
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "identity": (sockets.IDENTITY, {"tooltip": "From Train Identity."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "my3dgen/identities/person",
                        "tooltip": "Folder and name under output/. Load Identity lists what lies in "
                        "my3dgen/identities.",
                    },
                ),
                "precision": (
                    ["float32", "float16"],
                    {"tooltip": "float32 loads back bit by bit; float16 halves the file."},
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def save(
        self, identity: Identity, filename_prefix: str, precision: str, node_id: str | None = None
    ) -> dict[str, Any]:
        import torch

        path = host.save_path(filename_prefix, ".safetensors")
        identity.save(path, dtype=getattr(torch, precision))
        text = f"{identity.adapter.parameter_count:,} parameters, {path.stat().st_size:,} bytes: {path}"
        return {"ui": host.report(node_id, text), "result": (str(path),)}


class LoadIdentity:
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads an identity from models/my3dgen/identities, or one that Save Identity has written. "
        "It belongs to the generator it was trained on."
    )
    RETURN_TYPES = (sockets.IDENTITY, sockets.LATENT)
    RETURN_NAMES = ("identity", "anchors")
    OUTPUT_TOOLTIPS = ("Connect to Apply Identity.", "The latents of its training photos, to render from.")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "file": (
                    host.list_models(host.IDENTITIES),
                    {"tooltip": "A file in models/my3dgen/identities or output/my3dgen/identities."},
                )
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        return host.validate(file, lambda name: host.find_model(host.IDENTITIES, name))

    @classmethod
    def IS_CHANGED(cls, file: str) -> str:
        return host.fingerprint([host.find_model(host.IDENTITIES, file)])

    def load(self, file: str) -> tuple[Identity, Latents]:
        import torch

        from ..my3dgen_core import Identity

        with torch.inference_mode(False):
            identity = Identity.load(host.find_model(host.IDENTITIES, file))
        return identity, identity.anchors


class ApplyIdentity:
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes the generator this person's wherever the new model is used. The generator itself stays as "
        "it is; several identities can follow one another."
    )
    RETURN_TYPES = (sockets.MODEL,)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The personalised model, for Render Head.",)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (sockets.MODEL, {"tooltip": "The generator the identity was trained on."}),
                "identity": (sockets.IDENTITY, {"tooltip": "From Train Identity or Load Identity."}),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -2.0,
                        "max": 3.0,
                        "step": 0.05,
                        "tooltip": "0 is the bare generator, 1 the person as trained.",
                    },
                ),
            }
        }

    def apply(self, model: sockets.Model, identity: Identity, strength: float) -> tuple[sockets.Model]:
        identity.check_base(model.generator.base_hash())
        return (model.with_identity(identity, strength),)


def summary(identity: Identity, generator: Any) -> str:
    """How small the person is beside the generator."""
    count = identity.adapter.parameter_count
    whole = sum(parameter.numel() for parameter in generator.parameters())
    return (
        f"{count:,} parameters ({whole / count:.0f} times fewer than the generator's {whole:,}), "
        f"{identity.nbytes:,} bytes with {len(identity.anchors)} anchors"
    )
