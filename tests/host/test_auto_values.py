"""Inputs left to the generator: what is chosen, what is said, and that a user's number is used."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy
import pytest
import torch
from micro import generator as micro_generator
from prompts import Prompt, tiny_prompt

from my3dgen_core import Latents, camera_path
from my3dgen_core.fitting.recipe import FFHQ, STARTER

pytestmark = pytest.mark.usefixtures("executor", "folders")


@pytest.fixture
def photos() -> torch.Tensor:
    return torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def faces(sockets: ModuleType) -> Any:
    """A model whose configuration is that of a generator of photographs."""
    with torch.inference_mode(False):
        made = micro_generator(0, white_back=False)
    return sockets.Model(sys.modules["my3dgen_pack.nodes.host"].manage(made), "faces")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of few steps."""
    from my3dgen_core.fitting import recipe

    few = {"inversion_steps": 2, "shared_steps": 1, "single_steps": 3}
    few |= {"training_steps": 2, "pivotal_steps": 2}
    monkeypatch.setattr(recipe, "STARTER", dataclasses.replace(STARTER, **few))
    monkeypatch.setattr(recipe, "FFHQ", dataclasses.replace(FFHQ, **few))


def cameras_of(sockets: ModuleType, source: str | None, count: int = 2) -> Any:
    return sockets.Cameras(camera_path("swing", count), source)


def invert(nodes: dict[str, Any], model: Any, photos: torch.Tensor, cameras: Any, **given: Any) -> Any:
    values = {"steps": 0, "shared_steps": -1, "space": "w", "learning_rate": 0.0, "batch_size": 2, "seed": 0}
    return nodes["Invert"].invert(model, photos, cameras, **values | {"cache": False} | given)


def train(nodes: dict[str, Any], model: Any, photos: torch.Tensor, anchors: Latents, **given: Any) -> Any:
    values = {"steps": 0, "method": "lora", "rank": 1, "learning_rate": 0.0, "batch_size": 1, "seed": 0}
    return nodes["TrainIdentity"].train(model, photos, anchors, **values | given)


def anchors_of(model: Any, source: str | None) -> Latents:
    ws = model.generator.w_avg.expand(2, model.generator.num_ws, -1).clone()
    return Latents(ws, camera_path("swing", 2), None, None, model.generator.base_hash(), source)


@pytest.mark.usefixtures("quick")
def test_invert_photos_says_what_the_generator_chose(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, faces: Any, photos: torch.Tensor
) -> None:
    estimated = cameras_of(sockets, "estimated")
    said = invert(nodes, faces, photos, estimated)["ui"]["text"][0]
    assert "2 latents\nauto (FFHQ, estimated cameras): shared_steps 1, steps 2, learning_rate 0.02" in said
    assert said.endswith("refine_cameras on")
    said = invert(nodes, model, photos, estimated)["ui"]["text"][0]
    assert "auto (unknown small generator, estimated cameras): shared_steps 1, steps 2" in said
    assert said.endswith("learning_rate 0.05, refine_cameras off")


@pytest.mark.usefixtures("quick")
def test_a_single_photo_is_given_its_own_steps(
    nodes: dict[str, Any], sockets: ModuleType, faces: Any, photos: torch.Tensor
) -> None:
    said = invert(nodes, faces, photos[:1], cameras_of(sockets, "exact", 1))["ui"]["text"][0]
    assert "shared_steps 0, steps 3, learning_rate 0.02, refine_cameras off" in said


def test_a_number_of_the_user_is_used_and_nothing_is_said_of_it(
    nodes: dict[str, Any], sockets: ModuleType, faces: Any, photos: torch.Tensor
) -> None:
    given = {"steps": 1, "shared_steps": 0, "learning_rate": 0.1, "refine_cameras": "off"}
    plain = invert(nodes, faces, photos, cameras_of(sockets, "estimated"), **given)
    assert plain["ui"]["text"] == ["2 latents"]
    of_core = invert(nodes, faces, photos, cameras_of(sockets, "exact"), **given)
    assert torch.equal(plain["result"][0].ws, of_core["result"][0].ws)


@pytest.mark.parametrize(("saved", "now"), [(True, "on"), (False, "off")])
def test_a_refinement_saved_as_a_switch_means_what_it_meant(
    nodes: dict[str, Any], sockets: ModuleType, faces: Any, photos: torch.Tensor, saved: bool, now: str
) -> None:
    given = {"steps": 2, "shared_steps": 2, "learning_rate": 0.05}
    found = [
        invert(nodes, faces, photos, cameras_of(sockets, "exact"), **given, refine_cameras=value)["result"][0]
        for value in (saved, now)
    ]
    assert torch.equal(found[0].cameras, found[1].cameras)
    assert torch.equal(found[0].cameras, camera_path("swing", 2)) != saved


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("source", "refine", "weight"), [("estimated", "on", 0.1), (None, "on", 0.1), ("exact", "off", 1)]
)
def test_training_refines_and_ignores_backgrounds_unless_the_cameras_are_exact(
    nodes: dict[str, Any], faces: Any, photos: torch.Tensor, source: str | None, refine: str, weight: float
) -> None:
    made = train(nodes, faces, photos, anchors_of(faces, source))
    identity, _, summary = made["result"]
    cameras = f"{source or 'unknown'} cameras"
    assert f"auto (FFHQ, {cameras}): steps 2, learning_rate 0.01, background_weight {weight:g}" in summary
    assert f"refine {refine}" in summary
    assert made["ui"]["text"] == [summary]
    settings = identity.provenance["settings"]
    assert (settings["refine"], settings["background_weight"]) == (refine == "on", weight)


@pytest.mark.usefixtures("quick")
def test_the_source_of_cameras_reaches_training_through_inversion_and_a_wider_view(
    nodes: dict[str, Any], sockets: ModuleType, faces: Any, photos: torch.Tensor
) -> None:
    path = nodes["CameraPath"].make("swing", 2, 20.0, 0.0, 0.0)[0]
    assert path.source == "exact"
    (wide,) = nodes["WidenView"].widen(path, 1.1)
    latents = invert(nodes, faces, photos, wide)["result"][0]
    assert latents.camera_source == "exact"
    assert "refine off" in train(nodes, faces, photos, latents)["result"][2]
    (camera,) = nodes["Camera"].make(0.0, 0.0, 0.0, 2.7, 13.3738)
    assert camera.source == "exact"
    mixed = nodes["CameraKeyframes"].make(camera, cameras_of(sockets, "estimated"), 4, "linear", False)[0]
    assert mixed.source == "estimated"
    unknown = nodes["CameraKeyframes"].make(camera, cameras_of(sockets, None), 4, "linear", False)[0]
    assert unknown.source is None
    assert nodes["LoadDemoPerson"].load("photos", 2)[1].source == "exact"


@pytest.mark.usefixtures("quick")
def test_pivotal_tuning_says_what_the_generator_chose(
    nodes: dict[str, Any], model: Any, photos: torch.Tensor
) -> None:
    anchors = anchors_of(model, "exact")
    said = nodes["PivotalTuning"].tune(model, photos, anchors, 0, "lora", 0.0, 0)["ui"]["text"][0]
    assert said.endswith("auto (unknown small generator): steps 2, learning_rate 0.002")
    said = nodes["PivotalTuning"].tune(model, photos, anchors, 1, "lora", 0.1, 0)["ui"]["text"][0]
    assert "auto" not in said


def test_a_wall_is_cut_where_the_generator_has_one_unless_a_user_says_otherwise(
    nodes: dict[str, Any], model: Any, faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from my3dgen_core.fitting import recipe

    monkeypatch.setattr(recipe, "FFHQ", dataclasses.replace(FFHQ, cut_behind=0.45))

    def masks(of: Any, *cut: float) -> tuple[torch.Tensor, Any]:
        camera = nodes["Camera"].make(0.0, 0.0, 0.0, 2.7, 13.3738)[0]
        made = nodes["Render"].render(of, anchors_of(of, None), "mean", 0, 1, camera, False, *cut)
        return made["result"][1], made["ui"].get("text")

    auto, said = masks(faces)
    assert said == ["auto (FFHQ): cut_behind 0.45"]
    assert torch.equal(auto, masks(faces, 0.45)[0])
    whole, silent = masks(faces, -1.0)
    assert silent is None
    assert not torch.equal(auto, whole)
    assert torch.equal(masks(model)[0], masks(model, -1.0)[0])
    assert masks(model)[1] is None


def test_a_mesh_is_cut_as_the_picture_is(nodes: dict[str, Any], faces: Any) -> None:
    mesh = nodes["ExtractMesh"].extract
    auto = mesh(faces, anchors_of(faces, None), "mean", 0, 32, 0.5, -2.0, "my3dgen/meshes/head")["result"]
    same = mesh(faces, anchors_of(faces, None), "mean", 0, 32, 0.5, -0.25, "my3dgen/meshes/head")["result"]
    whole = mesh(faces, anchors_of(faces, None), "mean", 0, 32, 0.5, -1.0, "my3dgen/meshes/head")["result"]
    assert "auto (FFHQ): cut_behind -0.25" in auto[2]
    assert len(auto[0].vertices[0]) == len(same[0].vertices[0]) != len(whole[0].vertices[0])


def test_resolved_settings_and_the_same_given_ones_have_one_training_state(
    nodes: dict[str, Any], faces: Any, photos: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training interrupted by an explicit workflow goes on in an automatic one."""
    from my3dgen_pack.nodes.person import train as node

    keys: list[str] = []

    class StopError(Exception):
        pass

    def state_folder(config: Any, *given: Any) -> Any:
        from my3dgen_core.fitting.trainer import fingerprint

        keys.append(fingerprint(config, "", []))
        raise StopError

    monkeypatch.setattr(node, "state_folder", state_folder)
    explicit = {"steps": 3000, "learning_rate": 0.01, "background_weight": 0.1, "refine": True}
    for given in ({}, explicit, explicit | {"steps": 2999}):
        with pytest.raises(StopError):
            train(nodes, faces, photos, anchors_of(faces, "estimated"), keep_state=True, **given)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.usefixtures("quick")
def test_resolved_settings_and_the_same_given_ones_have_one_cache(
    nodes: dict[str, Any], sockets: ModuleType, faces: Any, photos: torch.Tensor, folders: Path
) -> None:
    given = {"steps": 2, "shared_steps": 1, "learning_rate": 0.02, "refine_cameras": True}
    estimated = cameras_of(sockets, "estimated")
    explicit = invert(nodes, faces, photos, estimated, **given, cache=True)["result"][0]
    kept = sorted(folders.rglob("*.safetensors"))
    auto = invert(nodes, faces, photos, estimated, cache=True)["result"][0]
    assert kept == sorted(folders.rglob("*.safetensors")) != []
    assert torch.equal(auto.ws, explicit.ws)


def refine_prompt(value: Any) -> Prompt:
    return tiny_prompt(invert={"refine_cameras": value}, train={"refine": value})


@pytest.mark.parametrize("value", [True, False, "auto", "on", "off"])
def test_a_server_takes_a_choice_and_a_former_switch(server: comfy.Server, value: object) -> None:
    result = server.run(refine_prompt(value))
    assert (result.status, result.error) == ("success", "")


def test_a_server_refuses_any_other_choice(server: comfy.Server) -> None:
    with pytest.raises(comfy.ComfyError, match="'sometimes' is none of auto, on and off"):
        server.run(refine_prompt("sometimes"))


def test_a_server_takes_the_wire_of_a_former_switch(server: comfy.Server) -> None:
    prompt = refine_prompt(["switch", 0])
    prompt["switch"] = {"class_type": "PrimitiveBoolean", "inputs": {"value": True}}
    result = server.run(prompt)
    assert (result.status, result.error) == ("success", "")


def test_a_server_chooses_what_a_prompt_leaves_to_it(server: comfy.Server) -> None:
    result = server.run(tiny_prompt(invert={"learning_rate": 0.0}, train={"learning_rate": 0.0}))
    assert (result.status, result.error) == ("success", "")
    assert "auto (unknown small generator, exact cameras): learning_rate 0.05" in result.text("invert")
    assert "learning_rate 0.01, background_weight 1, refine off" in result.text("train")
