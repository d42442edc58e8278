"""Identity nodes: save, load and apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import host, socket_types
from ..server import live_preview, ui_results
from ..server.identity_files import find_identity, listed, load_identity
from ..server.live_handles import Mixture

if TYPE_CHECKING:
    from ...my3dgen_core import Identity


class SaveIdentity:
    CATEGORY = "My3DGen/Person"
    SEARCH_ALIASES = ["save lora", "export person", "avatar file", "safetensors", "write identity"]
    DESCRIPTION = "Writes an identity, with its anchors and cameras, to a .safetensors file under output/."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Path of the file.",)
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "identity": (socket_types.IDENTITY, {"tooltip": "From Train Identity or Pivotal Tuning."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "my3dgen/identities/person",
                        "tooltip": "Folder and name under output/. Load Identity lists the files in "
                        "my3dgen/identities.",
                    },
                ),
                "precision": (
                    ["float32", "float16", "int8"],
                    {"tooltip": "float32 loads back exactly; float16 halves the size, int8 nearly again."},
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def save(
        self, identity: Identity, filename_prefix: str, precision: str, node_id: str | None = None
    ) -> dict[str, Any]:
        import torch

        with host.save_path(filename_prefix, ".safetensors") as path:
            identity.save(path, dtype=getattr(torch, precision))
        text = f"{identity.adapter.parameter_count:,} parameters, {path.stat().st_size:,} bytes: {path}"
        return {"ui": host.report(node_id, text), "result": (str(path),)}


class LoadIdentity:
    CATEGORY = "My3DGen/Person"
    SEARCH_ALIASES = ["load lora", "person file", "avatar", "safetensors", "bundled identity"]
    DESCRIPTION = (
        "Loads an identity from models/my3dgen/identities, one written by Save Identity, or a bundled one. "
        "It works only with the generator it was trained on."
    )
    RETURN_TYPES = (socket_types.IDENTITY, socket_types.LATENT)
    RETURN_NAMES = ("identity", "anchors")
    OUTPUT_TOOLTIPS = ("Connect to Apply Identity.", "The latents of its training photos, for Render Head.")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "file": (
                    listed(),
                    {
                        "tooltip": "A bundled identity, or a file in models/my3dgen/identities or "
                        "output/my3dgen/identities. The list has the 200 newest; the search field finds all."
                    },
                )
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        return host.validate(file, find_identity)

    @classmethod
    def IS_CHANGED(cls, file: str | None, node_id: str | None = None) -> str:
        return host.changed(file, lambda name: [find_identity(name)])

    def load(self, file: str, node_id: str | None = None) -> dict[str, Any]:
        import torch

        with torch.inference_mode(False):
            identity = socket_types.checked_identity(load_identity(file))
        face = live_preview.publish(Mixture(identity.anchors), identity, count=len(identity.anchors))
        ui = ui_results.remember(node_id, {"my3dgen_card": card(identity)} | face)
        return {"ui": ui, "result": (identity, identity.anchors)}


def card(identity: Identity) -> list[list[str]]:
    """Return the rows (name, value) of the card on the node."""
    adapter, made = identity.adapter, identity.provenance
    settings = made.get("settings", {})
    rows = {
        "anchors": f"{len(identity.anchors)}",
        "parameters": f"{adapter.parameter_count:,}",
        "size": f"{identity.nbytes / 1e6:.2f} MB",
        "update": adapter.layout if adapter.layout == "full" else f"rank {adapter.rank}, {adapter.layout}",
        "photos": made.get("photos"),
        "steps": made.get("steps_done"),
        "learning rate": settings.get("lr"),
        "batch size": settings.get("batch_size"),
        "perceptual": settings.get("perceptual_backbone"),
        "seed": settings.get("seed"),
        "final loss": None if made.get("final_loss") is None else f"{made['final_loss']:.4g}",
        "generator": identity.base_hash[:12],
        "on top of": None if identity.base_identity_hash is None else identity.base_identity_hash[:12],
    }
    return [[name, str(value)] for name, value in rows.items() if value is not None]


class ApplyIdentity:
    CATEGORY = "My3DGen/Person"
    SEARCH_ALIASES = ["lora loader", "apply lora", "personalized model", "avatar", "lora strength"]
    DESCRIPTION = (
        "Applies an identity to the model, like a LoRA loader. The generator itself is not changed; several "
        "identities can be applied in a row."
    )
    RETURN_TYPES = (socket_types.MODEL,)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The personalized model, for Render Head.",)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (socket_types.MODEL, {"tooltip": "The generator the identity was trained on."}),
                "identity": (socket_types.IDENTITY, {"tooltip": "From Train Identity or Load Identity."}),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -2.0,
                        "max": 3.0,
                        "step": 0.05,
                        "tooltip": "0 is the bare generator, 1 the identity as trained.",
                    },
                ),
            }
        }

    def apply(
        self, model: socket_types.Model, identity: Identity, strength: float
    ) -> tuple[socket_types.Model]:
        return (model.with_identity(identity, strength),)
