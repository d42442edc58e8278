"""Templates of today with every kind of generator, and every bundled workflow of before, in a real ComfyUI.

`tests/data/compatibility/workflows` holds the workflows of before settings could be left to the generator:
one set for the starter and one, named your_*, for a checkpoint and photos of the user.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy
import goldens
import official_files
import pytest
from prompts import Prompt

from my3dgen_core import Adapter, Generator, Identity, Latents, camera_path, load_generator, random_latents

BEFORE = goldens.FOLDER.parent / "compatibility" / "workflows" / "api"
FEW = {"steps": 1, "shared_steps": 1, "frames": 2, "rows": 2, "at_most": 2, "count": 2, "resolution": 32}
PERSON = "my_person_0000{}_.safetensors"
RENDERING: dict[str, dict[str, Any]] = {
    "faces": {},
    "cats": {"avg_camera_pivot": [0, 0, -0.06]},
    "cars": {"avg_camera_pivot": [0, 0, 0], "avg_camera_radius": 1.7, "white_back": True},
}
"""Kinds of NVIDIA's generators, by what their official files say of rendering beside what faces have."""


def official_file(kind: str) -> bytes:
    """A file in the official format with small random weights that says it is of this kind."""
    settings = copy.deepcopy(goldens.values("tiny_config"))
    quick = {"depth_resolution": 8, "depth_resolution_importance": 8}
    settings["rendering_kwargs"] |= RENDERING[kind] | quick
    settings["neural_rendering_resolution"] = 64
    state = {name: value.float() for name, value in goldens.tensors("tiny_weights").items()}
    return official_files.Writer(4).dump({"G_ema": official_files.official(state, settings)})


def person_of(generator: Generator, seed: int) -> Identity:
    """An identity as it is before training, with six anchors."""
    ws = random_latents(generator, seed, 6).ws
    anchors = Latents(ws, camera_path("swing", 6), base_hash=generator.base_hash())
    return Identity(Adapter.create(generator), anchors, generator.base_hash())


@pytest.fixture(scope="module")
def stocked(server: comfy.Server, root: Path) -> comfy.Server:
    """A server whose folders hold what the workflows named your_* ask for, and a generator of each kind."""
    models = server.base / "models" / "my3dgen"
    for kind in RENDERING:
        (models / "generators" / f"{kind}.pkl").write_bytes(official_file(kind))
    users = models / "generators" / "ffhqrebalanced512-128.pkl"
    users.write_bytes(official_file("faces"))
    (models / "identities").mkdir(exist_ok=True)
    for number in (1, 2):
        identity = person_of(load_generator(users), number)
        identity.save(models / "identities" / PERSON.format(number))
    for name in ("my photos", "new photos"):
        folder = server.base / "input" / name
        if not folder.exists():
            folder.symlink_to(root / "my3dgen_core" / "starter" / "demo_person" / "photos")
    return server


def without_core_models(prompt: Prompt) -> Prompt:
    """The prompt without nodes that need models of core's own, such as an upscaler, and all after them."""
    kept = {
        name: node
        for name, node in prompt.items()
        if "Loader" not in node["class_type"] and not node["class_type"].startswith("CLIP")
    }
    while True:
        broken = {
            name
            for name, node in kept.items()
            for value in node["inputs"].values()
            if isinstance(value, list) and value[0] not in kept
        }
        if not broken:
            return kept
        kept = {name: node for name, node in kept.items() if name not in broken}


def for_random_weights(prompt: Prompt) -> Prompt:
    """The prompt without a search for smiles, and with a low level of meshes: there are no faces."""
    for node in prompt.values():
        if node["class_type"] == "My3DGenFindDirection":
            node["inputs"]["attribute"] = "component 1"
        if node["class_type"] == "My3DGenExtractMesh":
            node["inputs"]["level"] = 0.1
    return prompt


def run(server: comfy.Server, prompt: Prompt) -> comfy.Result:
    result = server.run(prompt)
    assert (result.status, result.error) == ("success", "")
    return result


def test_the_workflows_of_before_are_all_here() -> None:
    names = {path.stem for path in BEFORE.glob("*.json")}
    assert len(names) == 23
    assert {path.stem for path in (BEFORE.parent / "page").glob("*.json")} == names


@pytest.mark.parametrize("path", sorted(BEFORE.glob("*.json")), ids=lambda path: path.stem)
def test_a_bundled_workflow_of_before_runs(stocked: comfy.Server, path: Path) -> None:
    prompt = json.loads(path.read_text(encoding="utf-8"))
    prompt = for_random_weights(without_core_models(comfy.shorten(prompt, **FEW)))
    for name in [name for name, node in prompt.items() if node["class_type"] == "My3DGenRender"]:
        prompt[f"{name} shown"] = {"class_type": "PreviewImage", "inputs": {"images": [name, 0]}}
    result = run(stocked, prompt)
    texts = [result.text(name) for name, node in prompt.items() if node["class_type"].startswith("My3DGen")]
    assert not [text for text in texts if "auto (" in text]  # numbers of a user are used


@pytest.mark.parametrize("kind", ["starter", *RENDERING])
def test_one_template_serves_every_kind_of_generator(
    stocked: comfy.Server, workflow: Callable[[str], Prompt], kind: str
) -> None:
    prompt = comfy.shorten(workflow("personalize"), **FEW)
    by_class = {node["class_type"].removeprefix("My3DGen"): name for name, node in prompt.items()}
    if kind != "starter":
        prompt[by_class["LoadGenerator"]]["inputs"]["file"] = f"{kind}.pkl"
    prompt[by_class["TrainIdentity"]]["inputs"]["keep_state"] = False
    result = run(stocked, prompt)
    name, cut = {
        "starter": ("starter", False),
        "faces": ("FFHQ", True),
        "cats": ("AFHQ cats", True),
        "cars": ("ShapeNet cars", False),
    }[kind]
    photographs = f"auto ({name}, estimated cameras): learning_rate "
    rate, refine = 0.05 if kind == "starter" else 0.02, "on" if cut else "off"
    assert f"{photographs}{rate}, refine_cameras {refine}" in result.text(by_class["Invert"])
    weight = 0.1 if cut else 1
    chosen = f"{photographs}0.01, background_weight {weight:g}, refine {refine}"
    assert chosen in result.text(by_class["TrainIdentity"])
    assert (f"auto ({name}): cut_behind -0.25" in result.text(by_class["Render"])) == cut
