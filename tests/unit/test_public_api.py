"""The interface that others build on: public names, signatures, config fields, inputs and outputs of nodes.

A change here breaks scripts, saved identities or saved workflows. Where one is meant, write the contract of
the nodes from the code again:

    PYTHONPATH=. python tests/unit/test_public_api.py
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import my3dgen_core

CONTRACT = Path(__file__).resolve().parents[1] / "data" / "node_contract.json"
FREE_TEXT = ("tooltip", "display_name", "placeholder", "label_on", "label_off")
DATACLASSES = ("GeneratorConfig", "TuningConfig", "InversionConfig", "Latents", "Rendering")
SIGNATURES = {
    "Adapter": "(tensors, rank=1, layout='released', scaling=1.0, gains=<factory>)",
    "AlignedFaces": "(images, cameras, masks, kept, report, embeddings=None, heads=None)",
    "AlphaSpace": "(anchors, beta=0.02)",
    "CheckpointError": "raised as ValueError Exception",
    "Direction": "(name, vector, base_hash=None, meta=<factory>)",
    "FaceModels": "(networks, files)",
    "Generator": "(config)",
    "GeneratorConfig": (
        "(z_dim=512, c_dim=25, w_dim=512, mapping_layers=2, img_resolution=512, "
        "plane_resolution=256, channel_base=32768, channel_max=512, conv_clamp=None, "
        "superresolution='8XDC', sr_antialias=True, sr_num_fp16_res=4, sr_noise_mode='none', "
        "neural_resolution=128, depth_resolution=48, depth_resolution_importance=48, ray_start=2.25, "
        "ray_end=3.3, box_warp=1.0, disparity_space_sampling=False, white_back=False, "
        "decoder_lr_mul=1.0, c_scale=1.0, c_gen_conditioning_zero=False, avg_camera_radius=2.7, "
        "avg_camera_pivot=(0.0, 0.0, 0.2), focal=4.2647)"
    ),
    "Identity": "(adapter, anchors, base_hash, provenance=<factory>, history=<factory>)",
    "IdentityStore": "(folder, index=None, cache_bytes=268435456, extensions=('.safetensors',))",
    "InversionConfig": (
        "(steps=25, shared_steps=60, one_look=False, space='w', lr=0.05, seed=0, batch_size=4, "
        "rays_per_image=1024, perceptual=0.5, perceptual_backbone='laplacian', perceptual_dir=None, "
        "w_noise=0.05, refine_cameras=False, preview_every=25, cache_dir=None)"
    ),
    "Latents": "(ws, cameras=None, losses=None, alphas=None, base_hash=None, camera_source=None)",
    "Recipe": (
        "(name, inversion_steps, shared_steps, inversion_lr, single_steps, single_lr, training_steps, "
        "training_lr, pivotal_steps, pivotal_lr, refine, background_weight, cut_behind)"
    ),
    "Rendering": "(image, image_raw, depth, mask, features)",
    "TuningConfig": (
        "(steps=400, method='lora', rank=1, layout='released', trainable='paper', batch_size=1, "
        "patch=0, random_samples=False, optimizer='muon', lr=0.01, affine_lr=0.004, diff_lr=0.004, "
        "full_lr=0.002, schedule='cosine', beta2=0.99, perceptual=0.5, "
        "perceptual_backbone='laplacian', perceptual_dir=None, background_weight=1.0, mirrored=0.0, "
        "identity_weight=0.0, identity_every=4, refine=False, anchor_lr=0.002, seed=0, "
        "preview_every=25, checkpoint_dir=None, checkpoint_every=100, "
        "anchors='own', anchor_steps=25)"
    ),
    "align_faces": (
        "(photos, face_models, *, which='largest', reference=None, upright=True, min_photos=1, "
        "max_yaw=60.0, same_person=False, drop_different=False, det_size=None, neck=True, "
        "by_hand=None, on_step=None)"
    ),
    "camera_path": (
        "(kind, frames, yaw=0.6, pitch=0.25, radius=2.7, pivot=None, focal=4.2647, center_pitch=0.0)"
    ),
    "evaluate": "(generator, identity, views, cameras, *, photos=None, face_models=None)",
    "extract_mesh": (
        "(generator, ws, resolution=256, level=None, on_step=None, *, cut_behind=None, largest=True, "
        "faces=None)"
    ),
    "from_angles": "(yaw, pitch, roll=0.0, radius=2.7, pivot=None, focal=4.2647)",
    "inpaint": "(generator, space, images, cameras, masks, config=None, on_step=None, **settings)",
    "interpolate": "(start, end, t)",
    "interpolate_orbit": "(start, end, t, pivot=None)",
    "invert": "(generator, images, cameras, config=InversionConfig(), masks=None, on_step=None)",
    "load_generator": "(path='starter', device='cpu')",
    "load_latents": "(path, device='cpu')",
    "look_at": "(yaw, pitch, radius=2.7, pivot=None, focal=4.2647, device=None)",
    "mean_latent": "(generator)",
    "mirror": "(cameras)",
    "mix_persons": "(identities, weights)",
    "orbit": "(frames, yaw=0.6, pitch=0.25, radius=2.7, pivot=None, focal=4.2647, center_pitch=0.0)",
    "personalize": (
        "(generator, images, anchors, config=TuningConfig(), masks=None, on_step=None, *, "
        "heads=None, start=None, face_models=None)"
    ),
    "personalized": "(generator, identity, strength=1.0)",
    "pivotal_tune": (
        "(generator, images, pivot, config=TuningConfig(), masks=None, on_step=None, *, heads=None, "
        "over=None, strength=1.0, face_models=None)"
    ),
    "random_latents": "(generator, seed, n=1, truncation_psi=0.7, batch_size=1024)",
    "recipe_of": "(generator)",
    "render_between": "(generator, first, second, latents, t, cameras=None, on_step=None)",
    "save_generator": "(generator, path, dtype=torch.float32, *, adapter=None, provenance=None)",
    "save_glb": "(mesh, path)",
    "save_latents": "(latents, path)",
    "sharpen": "(generator, space, images, cameras, config=None, on_step=None, **settings)",
    "DivergedError": "raised as FloatingPointError ArithmeticError Exception",
    "StopAndKeep": "raised as Exception",
    "align_sequence": (
        "(frames, face_models, *, which='largest', reference=None, upright=True, smoothing=2.5, "
        "max_gap=8, max_yaw=60.0, neck=True, on_step=None)"
    ),
    "find_directions": "(generator, labeler, names=None, config=FinderConfig(), cache=None, on_step=None)",
    "paste_back": "(pixels, transform, crop, mask=None, feather=24.0, old=None, wider=1.0)",
    "principal_directions": "(ws, k)",
    "split_snapshot": "(path, base=None, anchors=None)",
    "texture_mesh": "(generator, ws, mesh, size=1024, on_step=None)",
}


def shown(value: object) -> str:
    """A default, as a short text; a configuration whose fields are all defaults is `Name()`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and value == type(value)():
        return f"{type(value).__name__}()"
    return repr(value)


class _Shown:
    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return shown(self.value)


def signature(value: Any) -> str:
    """Names, kinds, order and defaults of all parameters, without annotations; of an error, what it is."""
    if isinstance(value, type) and issubclass(value, Exception):
        return f"raised as {' '.join(base.__name__ for base in value.__mro__[1:-2])}"
    empty = inspect.Parameter.empty
    found = inspect.signature(value)
    parameters = [
        p.replace(annotation=empty, default=p.default if p.default is empty else _Shown(p.default))
        for p in found.parameters.values()
    ]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def fields(kind: Any) -> str:
    """Fields of a dataclass in their order with their defaults, as `signature` writes parameters."""
    texts = [
        field.name if field.default is dataclasses.MISSING else f"{field.name}={shown(field.default)}"
        for field in dataclasses.fields(kind)
    ]
    return f"({', '.join(texts)})"


def node_contract(mappings: dict[str, Any]) -> dict[str, Any]:
    """The contract of workflows: id -> inputs by group with their types and limits, and the outputs.

    Tooltips and the entries of drop-down lists are left out.
    """
    return {name: _contract(node) for name, node in mappings.items()}


def _contract(node: Any) -> dict[str, Any]:
    return {
        **{
            group: {name: _input(value) for name, value in given.items()}
            for group, given in node.INPUT_TYPES().items()
        },
        "outputs": list(node.RETURN_TYPES),
        "output_names": list(node.RETURN_NAMES),
        "output_is_list": list(getattr(node, "OUTPUT_IS_LIST", ())),
        "input_is_list": getattr(node, "INPUT_IS_LIST", False),
        "output_node": getattr(node, "OUTPUT_NODE", False),
    }


def _input(value: Any) -> list[Any]:
    kind, *options = value if isinstance(value, tuple) else (value,)
    kept = {key: each for key, each in (options[0] if options else {}).items() if key not in FREE_TEXT}
    return ["COMBO" if isinstance(kind, list) else kind, kept]


def test_the_public_names_are_these() -> None:
    assert sorted(SIGNATURES) == sorted(my3dgen_core.__all__)
    assert len(SIGNATURES) == 49


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_stay(name: str) -> None:
    assert signature(getattr(my3dgen_core, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", DATACLASSES)
def test_fields_and_their_defaults_stay(name: str) -> None:
    assert fields(getattr(my3dgen_core, name)) == SIGNATURES[name]


def test_the_contract_of_every_node_stays(pack: ModuleType) -> None:
    """Exact, with the order of nodes, inputs and outputs."""
    found = node_contract(pack.NODE_CLASS_MAPPINGS)
    expected = json.loads(CONTRACT.read_text(encoding="utf-8"))
    assert list(found) == list(expected)
    for name, contract in found.items():
        assert contract == expected[name], name
        assert json.dumps(contract) == json.dumps(expected[name]), f"{name}: the order has changed"


def as_text(value: Any, depth: int = 3) -> str:
    """JSON with a line for each input and each list of outputs."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    margin = "\n" + " " * (4 - depth)
    lines = [f"{margin}{json.dumps(name)}: {as_text(part, depth - 1)}" for name, part in value.items()]
    return f"{{{','.join(lines)}{margin[:-1]}}}"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from conftest import load_pack

    CONTRACT.write_text(as_text(node_contract(load_pack().NODE_CLASS_MAPPINGS)) + "\n", encoding="utf-8")
