"""Sampling, editing and meshing a person's latents in a real ComfyUI, with core's own nodes."""

from __future__ import annotations

import comfy
import pytest
import torch
from prompts import Prompt, apply_direction, find_direction, node, render, save, tiny_prompt

from my3dgen_core import load_latents


def living() -> Prompt:
    prompt = tiny_prompt()
    for name in ("orbit", "render", "save"):
        del prompt[name]
    looks = node(
        "SampleAlphaSpace",
        identity=["train", 0],
        count=2,
        anchors_per_sample=3,
        temperature=1.0,
        beta=0.02,
        seed=0,
    )
    edit = apply_direction(
        "looks",
        which="every",
        strength=1.0,
        steps=2,
        sweep_from=-1.0,
        edge="project",
        beta=0.02,
        identity=["train", 0],
    )
    shown = render("apply", latents="edit", which="every", cameras=None)
    mesh = node(
        "ExtractMesh",
        model=["apply", 0],
        latents=["edit", 0],
        which="single",
        index=3,
        resolution=32,
        level=0.5,
        cut_behind=-1.0,
        filename_prefix="my3dgen/meshes/head",
    )
    glb = {"class_type": "SaveGLB", "inputs": {"mesh": ["mesh", 0], "filename_prefix": "mesh/core"}}
    keep = node("SaveLatents", latents=["edit", 0], filename_prefix="my3dgen/latents/edited")
    return prompt | {
        "looks": looks,
        "find": find_direction(),
        "edit": edit,
        "render": shown,
        "save": save("render"),
        "mesh": mesh,
        "glb": glb,
        "keep": keep,
    }


def test_samples_are_edited_rendered_kept_and_meshed(server: comfy.Server) -> None:
    trimesh = pytest.importorskip("trimesh")
    result = server.run(living())
    assert len(server.files(result, "save")) == 4
    output = server.base / "output"
    ours = trimesh.load(next((output / "my3dgen" / "meshes").glob("head_*.glb")), force="mesh")
    cores = trimesh.load(next((output / "mesh").glob("core_*.glb")), force="mesh")
    assert len(ours.faces) == len(cores.faces) > 100
    assert next((output / "my3dgen" / "latents").glob("edited_*.safetensors")).is_file()
    info = server.get("/object_info/My3DGenLoadLatents")["My3DGenLoadLatents"]
    assert any("edited" in name for name in info["input"]["required"]["file"][0])


def by_words(projection: float = 1.0, width: int = 16) -> Prompt:
    """A head moved along a direction of words, by core's own CLIP."""
    find = find_direction(
        attribute="words",
        clip=["clip", 0],
        clip_vision=["clip", 1],
        words="a smiling face",
        opposite="a serious face",
    )
    edit = apply_direction("head", which="single", strength=1.0, steps=2, edge="stop", beta=0.02)
    return {
        "load": node("LoadGenerator", file="tiny.safetensors"),
        "clip": {"class_type": "TestsSmallCLIP", "inputs": {"projection": projection, "width": width}},
        "find": find,
        "head": node("RandomLatent", model=["load", 0], seed=3, count=1, truncation=0.7),
        "edit": edit,
        "keep": node("SaveLatents", latents=["edit", 0], filename_prefix="my3dgen/latents/words"),
    }


def test_words_lead_where_cores_own_clip_says(server: comfy.Server) -> None:
    """The same CLIP with its texts turned round by their projection says the opposite, and goes there."""
    moves = []
    for projection in (1.0, -1.0):
        result = server.run(by_words(projection))
        assert result.status == "success", result.error
        assert "correlation" in result.text("find")
        folder = server.base / "output" / "my3dgen" / "latents"
        ws = load_latents(max(folder.glob("words_*.safetensors"))).ws
        moves.append((ws[1] - ws[0]).flatten())
    assert float(moves[0].norm()) > 0
    assert float(torch.cosine_similarity(*moves, dim=0)) < -0.5


@pytest.mark.parametrize(
    ("odd", "message"), [((0.0, 16), "has no projection"), ((1.0, 8), "not of one CLIP")]
)
def test_a_clip_that_cannot_compare_words_and_pictures_costs_a_message(
    server: comfy.Server, odd: tuple[float, int], message: str
) -> None:
    result = server.run(by_words(*odd))
    assert result.status == "error"
    assert message in result.error
