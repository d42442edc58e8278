"""Two ComfyUIs on one output folder, the second with model folders elsewhere and for several users."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import comfy
import torch
import trimesh
from prompts import Prompt, node, tiny_prompt

from my3dgen_core import Identity, load_latents

STEPS, SAVES = 3, 6
BLACK = {"color": 0}
"""Photos that are the same in float32 and float16."""


def working() -> Prompt:
    """Trains with a state of its own; then saves identities, latents and meshes, each under one name."""
    prompt = tiny_prompt(photos=BLACK, train={"steps": STEPS, "keep_state": True})
    mesh = node(
        "ExtractMesh",
        model=["apply", 0],
        latents=["invert", 0],
        which="single",
        index=0,
        resolution=32,
        level=0.5,
        cut_behind=-1.0,
        filename_prefix="two/head",
    )
    for number in range(SAVES):
        keep = node("SaveIdentity", identity=["train", 0], filename_prefix="two/head", precision="float32")
        prompt |= {
            f"identity {number}": keep,
            f"latents {number}": node("SaveLatents", latents=["invert", 0], filename_prefix="two/head"),
            f"mesh {number}": mesh,
        }
    return prompt


def saved_by(result: comfy.Result, kind: str) -> list[Path]:
    """The files that the nodes of one kind of `working` say they have written."""
    names = [name for name in result.outputs if name.split(" ")[0] == kind]
    return [Path(re.search(r"/.*_\d{5}_\.\w+", result.text(name))[0]) for name in names]


def run_both(
    server: comfy.Server, second: comfy.Server, prompt: Prompt, on_event: Any = None
) -> list[comfy.Result]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda one: one.run(prompt, on_event, timeout=300), (server, second)))


def choices(server: comfy.Server, kind: str, field: str) -> list[str]:
    declared = server.get(f"/object_info/My3DGen{kind}")[f"My3DGen{kind}"]["input"]
    value: Any = {**declared.get("required", {}), **declared.get("optional", {})}[field]
    return value[0] if isinstance(value[0], list) else value[1]["options"]


def test_the_same_training_in_both_keeps_its_state_apart(server: comfy.Server, second: comfy.Server) -> None:
    """Both are canceled as soon as both have begun."""
    states = server.output / "my3dgen" / "training"
    shutil.rmtree(states, ignore_errors=True)  # states of trainings that other tests left
    prompt = tiny_prompt(photos=BLACK, train={"steps": 100_000, "keep_state": True})

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "train" and len(list(states.glob(".*.lock"))) == 2:
            server.interrupt()
            second.interrupt()

    results = run_both(server, second, prompt, cancel)
    assert [result.status for result in results] == ["interrupted"] * 2
    key, *_ = sorted(folder.name for folder in states.iterdir())
    assert sorted(file.relative_to(states).as_posix() for file in states.rglob("*")) == [
        *(key, f"{key}-2", f"{key}-2/training.safetensors", f"{key}/training.safetensors")
    ]
    shutil.rmtree(states)


def test_both_train_and_save_at_once_and_every_file_is_whole(
    server: comfy.Server, second: comfy.Server
) -> None:
    results = run_both(server, second, working())
    assert [(result.status, result.error) for result in results] == [("success", "")] * 2
    saved = {kind: [saved_by(result, kind) for result in results] for kind in ("identity", "latents", "mesh")}
    every = [path for both in saved.values() for paths in both for path in paths]
    assert len(every) == 2 * 3 * SAVES
    assert sorted(every) == sorted((server.output / "two").iterdir())
    assert len({re.search(r"_(\d{5})_\.", path.name)[1] for path in every}) == len(every)

    first, *others = [Identity.load(path) for paths in saved["identity"] for path in paths]
    assert first.provenance["steps_done"] == STEPS
    for other in others:
        assert other.adapter.tensors.keys() == first.adapter.tensors.keys()
        assert all(torch.equal(value, first.adapter.tensors[k]) for k, value in other.adapter.tensors.items())
    assert [len(load_latents(path)) for paths in saved["latents"] for path in paths] == [4] * 2 * SAVES
    assert {len(trimesh.load(path).geometry) for paths in saved["mesh"] for path in paths} == {1}


def test_model_folders_of_extra_model_paths_are_searched(
    second: comfy.Server, shared: Path, workflow: Any
) -> None:
    assert {"shared.safetensors", "tiny.safetensors"} <= set(choices(second, "LoadGenerator", "file"))
    assert {"anna.safetensors", "ben.safetensors"} <= set(choices(second, "LoadIdentity", "file"))
    assert "smile.safetensors" in choices(second, "LoadDirection", "file")
    assert choices(second, "AlignFaces", "face_models") == ["auto", "one", "two", "MediaPipe"]
    prompt = tiny_prompt(load={"file": "shared.safetensors"}, train={"perceptual": "lpips_alex", "steps": 1})
    result = second.run(prompt)
    assert (result.status, result.error) == ("success", "")
    other = second.run(tiny_prompt(train={"perceptual": "lpips_vgg", "steps": 1}))
    assert f"into {second.base / 'models' / 'my3dgen' / 'perceptual'}, or choose" in other.error


def test_the_pack_serves_every_user_from_a_folder_of_any_name(second: comfy.Server) -> None:
    assert second.post("/users", {"username": "anna"}).startswith("anna_")
    names = second.get("/workflow_templates")
    assert "demo_person" in names["Heads_3D.of-ours"]
    request = urllib.request.Request(f"http://{second.address}/extensions", headers={"Comfy-User": "anna"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        modules = [path for path in json.load(answer) if "Heads_3D" in path]
    assert any(path.endswith(".js") for path in modules)
    for path in modules:
        with urllib.request.urlopen(f"http://{second.address}{path}", timeout=60) as answer:
            assert answer.status == 200, path
    assert second.get("/my3dgen/nodes")
