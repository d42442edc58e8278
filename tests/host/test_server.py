"""The pack in a real ComfyUI: loading, caching, canceling, and error messages."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import comfy
import numpy as np
import pytest
from node_mappings import node_ids
from PIL import Image
from prompts import Prompt, node, path, render, save, tiny_prompt
from trainings import when_training


def pixels(server: comfy.Server, result: comfy.Result, name: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in server.files(result, name)]


def test_the_pack_loads_without_an_error(server: comfy.Server) -> None:
    log = server.log.read_text()
    assert f"custom_nodes/{comfy.PACK}" in log
    assert "IMPORT FAILED: " + str(server.base) not in log
    assert not re.search(rf"Cannot import \S*{comfy.PACK}", log)


def test_every_node_is_there_and_explains_itself(server: comfy.Server) -> None:
    info = {name: entry for name, entry in server.get("/object_info").items() if name.startswith("My3DGen")}
    assert sorted(info) == sorted(node_ids())
    for name, entry in info.items():
        assert entry["display_name"] != name
        assert entry["description"], name
        assert re.fullmatch(r"My3DGen/(Person|Latents|Cameras|Output)", entry["category"]), name
        assert len(entry["output_tooltips"]) == len(entry["output"]) == len(entry["output_name"]), name
        assert all(entry["output_tooltips"]), name
        for group in ("required", "optional"):
            for field, (_, *options) in entry["input"].get(group, {}).items():
                assert options, f"{name}.{field} has no tooltip"
                assert options[0]["tooltip"], f"{name}.{field} has no tooltip"


def test_importing_the_pack_brings_no_package_that_comfyui_has_not_imported(server: comfy.Server) -> None:
    """The audit hook of `watched_imports.py`, which ComfyUI runs first, has written down every import."""
    imported = (server.base / "imported_by_the_pack.txt").read_text(encoding="utf-8").splitlines()
    assert any("nodes.person.load" in name for name in imported)  # it has watched
    assert [name for name in imported if "my3dgen_core" in name] == []
    others = [name for name in imported if comfy.PACK not in name]
    assert [name for name in others if name.split(".")[0] not in sys.stdlib_module_names] == []


def test_workflows_are_offered_as_templates(server: comfy.Server) -> None:
    assert {"personalize", "demo_person"} <= set(server.get("/workflow_templates")[comfy.PACK])


def test_a_second_run_computes_nothing(server: comfy.Server) -> None:
    first = server.run(tiny_prompt())
    assert (first.status, first.error) == ("success", "")
    second = server.run(tiny_prompt())
    assert second.status == "success"
    assert not second.seconds
    assert second.cached == set(tiny_prompt())


def test_a_changed_camera_path_trains_nothing_again(server: comfy.Server) -> None:
    server.run(tiny_prompt())
    again = server.run(tiny_prompt(orbit={"yaw": 25.0}))
    assert set(again.seconds) == {"orbit", "render", "save"}


def test_cancelling_stops_the_training_at_once_and_leaves_the_model_clean(server: comfy.Server) -> None:
    bare = {
        key: value for key, value in tiny_prompt().items() if key not in ("train", "apply", "render", "save")
    }
    bare |= {"plain": render("load"), "keep": save("plain")}
    before = pixels(server, server.run(bare), "keep")

    canceled: list[int] = []

    def cancel() -> None:
        server.interrupt()
        canceled.append(server.get("/my3dgen/training")["trainings"]["train"]["step"])

    result = server.run(tiny_prompt(train={"steps": 100_000}), when_training(server, 10, cancel))
    assert result.status == "interrupted"
    (step,) = canceled
    assert 10 <= step <= server.get("/my3dgen/training")["trainings"]["train"]["step"] <= step + 1

    bare["plain"] = render("load", batch_size=1)  # the same pictures, not from the cache
    after = pixels(server, server.run(bare), "keep")
    assert len(before) == len(after) == 3
    for one, two in zip(before, after, strict=True):
        assert np.abs(one.astype(int) - two.astype(int)).max() <= 1


def test_an_identity_saved_and_loaded_renders_the_same(server: comfy.Server) -> None:
    prompt = tiny_prompt()
    prompt["keep"] = node(
        "SaveIdentity", identity=["train", 0], filename_prefix="my3dgen/identities/test", precision="float32"
    )
    first = server.run(prompt)
    name = Path(re.search(r"\S+\.safetensors", first.text("keep"))[0]).name
    again = {
        "load": prompt["load"],
        "invert": node("LoadIdentity", file=name),
        "apply": node("ApplyIdentity", model=["load", 0], identity=["invert", 0], strength=1.0),
        "orbit": path(3),
        "render": render("apply") | {},
        "save": save("render"),
    }
    again["render"]["inputs"]["latents"] = ["invert", 1]
    second = server.run(again)
    assert (second.status, second.error) == ("success", "")
    card = dict(second.outputs["invert"]["my3dgen_card"])
    assert (card["anchors"], card["steps"], card["update"]) == ("4", "3", "rank 1, released")
    fresh = server.run(tiny_prompt(render={"batch_size": 3}))
    for one, two in zip(pixels(server, fresh, "save"), pixels(server, second, "save"), strict=True):
        assert np.abs(one.astype(int) - two.astype(int)).max() <= 1


# --- Bad input: one clear message --------------------------------------------------------------------------


def refusal(server: comfy.Server, prompt: Prompt) -> str:
    """The message on the page: as the server refuses the prompt, or as a node fails."""
    try:
        result = server.run(prompt)
    except comfy.ComfyError as error:
        return str(error)
    assert result.status == "error"
    assert "Traceback" not in result.error
    return result.error


def photos(folder: str) -> Prompt:
    return node("LoadPhotos", folder=folder, at_most=10, longest_side=512)


def align(source: str, face_models: str = "auto") -> Prompt:
    return node(
        "AlignFaces",
        photos=[source, 0],
        face_models=face_models,
        which="largest",
        upright=True,
        same_person=True,
        drop_different=False,
    )


def shown(source: str) -> Prompt:
    return {"class_type": "PreviewImage", "inputs": {"images": [source, 0]}}


def test_a_missing_generator_is_named(server: comfy.Server) -> None:
    said = refusal(server, tiny_prompt(load={"file": "gone.safetensors"}))
    assert "There is no file 'gone.safetensors'" in said


def test_a_file_that_is_no_generator_is_named(server: comfy.Server) -> None:
    folder = server.base / "models" / "my3dgen" / "generators"
    (folder / "broken.safetensors").write_bytes(b"not a safetensors file at all")
    said = refusal(server, tiny_prompt(load={"file": "broken.safetensors"}))
    assert "broken.safetensors" in said
    assert "is text of 29 bytes that begins with 'not a safetensors file at all'" in said


def test_a_wrong_wire_is_refused(server: comfy.Server) -> None:
    said = refusal(server, tiny_prompt(invert={"images": ["cameras", 0]}))
    assert "Return type mismatch" in said
    assert "EG3D_CAMERA" in said


def test_pictures_that_are_no_crops_are_refused(server: comfy.Server) -> None:
    said = refusal(server, tiny_prompt(photos={"width": 96}))
    assert "must be square face crops, but these are 96x64. Use Align Faces first." in said


def test_a_spoiled_picture_is_traced_to_the_node_before(server: comfy.Server) -> None:
    spoiled = {"spoiled": {"class_type": "SpoiledPicture", "inputs": {"value": "nan"}}}
    said = refusal(server, tiny_prompt(invert={"images": ["spoiled", 0]}) | spoiled)
    assert "The input 'images' (from 'SpoiledPicture', node spoiled): picture 1 contains a NaN" in said


def test_pictures_without_their_cameras_are_refused(server: comfy.Server) -> None:
    said = refusal(server, tiny_prompt(cameras={"frames": 3}))
    assert "got 4 pictures but 3 cameras" in said


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nothing_here", "There is no picture in"),
        ("never_made", "There is no folder 'never_made'"),
        ("../models", "is not a folder inside"),
    ],
)
def test_a_folder_without_photos_is_named(server: comfy.Server, folder: str, message: str) -> None:
    (server.base / "input" / "nothing_here").mkdir(exist_ok=True)
    assert message in refusal(server, {"photos": photos(folder), "see": shown("photos")})


def test_a_folder_of_unreadable_photos_is_named(server: comfy.Server) -> None:
    folder = server.base / "input" / "unreadable"
    folder.mkdir(exist_ok=True)
    (folder / "broken.jpg").write_bytes(b"no picture")
    said = refusal(server, {"photos": photos("unreadable"), "see": shown("photos")})
    assert "No photo in 'unreadable' can be read. broken.jpg cannot be read as a picture" in said


def test_photos_without_a_face_are_named(server: comfy.Server) -> None:
    folder = server.base / "input" / "wall"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (320, 240), (120, 130, 140)).save(folder / "wall.png")
    prompt = {"photos": photos("wall"), "align": align("photos"), "see": shown("align")}
    prompt["align"]["inputs"]["names"] = ["photos", 1]
    said = refusal(server, prompt)
    assert "0 of 1 photos can be used" in said
    assert "wall.png: No face was found." in said


def test_a_missing_face_pack_is_named(server: comfy.Server) -> None:
    said = refusal(
        server,
        {"photos": photos("wall"), "align": align("photos", "buffalo_l"), "see": shown("align")},
    )
    assert "There is no face pack 'buffalo_l'" in said
    assert "testpack" in said


def test_an_identity_of_another_generator_is_refused(server: comfy.Server) -> None:
    prompt = tiny_prompt()
    prompt["second"] = node("LoadGenerator", file="other.safetensors")
    prompt["apply"]["inputs"]["model"] = ["second", 0]
    said = refusal(server, prompt)
    assert re.search(r"trained on generator [0-9a-f]{12}, but the one loaded is [0-9a-f]{12}", said)


def test_training_on_a_person_is_refused(server: comfy.Server) -> None:
    prompt = tiny_prompt()
    prompt["twice"] = {**prompt["train"], "inputs": {**prompt["train"]["inputs"], "model": ["apply", 0]}}
    prompt["see"] = {"class_type": "PreviewImage", "inputs": {"images": ["twice", 1]}}
    assert "starts from a bare generator" in refusal(server, prompt)


def test_without_any_face_pack_the_user_learns_where_one_goes(
    pack: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from my3dgen_pack.nodes.person.align import AlignFaces

    monkeypatch.chdir(tmp_path)
    said = AlignFaces.VALIDATE_INPUTS(face_models=["auto"])
    assert str(Path("models", "insightface", "models", "buffalo_l")) in said
    assert "Load Demo Person" in said


def workflows_run(server: comfy.Server, prompt: Prompt) -> comfy.Result:
    result = server.run(prompt)
    assert (result.status, result.error) == ("success", "")
    return result


def test_the_demo_person_workflow_gives_all_its_files(
    server: comfy.Server, workflow: Callable[[str], Prompt]
) -> None:
    result = workflows_run(server, workflow("demo_person"))
    names = [file.name for file in server.files(result)]
    assert sum(name.startswith("frame_") and name.endswith(".png") for name in names) == 3
    assert sum(name.startswith("orbit_") and name.endswith(".mp4") for name in names) == 1
    assert sum(name.startswith("sheet_") for name in names) == 1
    assert sum(name.startswith("held_out_") for name in names) == 1
    assert list((server.base / "output" / "my3dgen" / "identities").glob("demo_person_*.safetensors"))
    assert all(file.stat().st_size > 0 for file in server.files(result))
    assert "personalized" in result.text("18")


def test_photographs_go_through_the_whole_workflow(
    server: comfy.Server, workflow: Callable[[str], Prompt], root: Path
) -> None:
    import face_test_pack

    source = face_test_pack.fetch_photos(root / "build" / "face")
    folder = server.base / "input" / "real"
    if not folder.exists():
        folder.symlink_to(source)
    prompt = workflow("personalize")
    prompt["2"]["inputs"].update(folder="real", at_most=10)
    prompt["3"]["inputs"]["drop_different"] = True
    result = workflows_run(server, prompt)
    report = result.text("3")
    assert "3 of 6 photos kept." in report
    (shown,) = result.outputs["3"]["images"]  # the overview, on the node itself
    assert (server.base / shown["type"] / shown["subfolder"] / shown["filename"]).stat().st_size > 10_000
    for name in ("obama.jpg", "obama2.jpg", "obama3.jpg"):
        assert re.search(rf"{name}\s+kept", report)
    for name in ("biden.jpg", "astronaut.png", "grace_hopper.jpg"):
        assert re.search(rf"{name}\s+DROPPED.*different person", report)
    assert "with 3 anchors" in result.text("5")
    assert not workflows_run(server, prompt).seconds  # the folder has not changed, so nothing runs again
