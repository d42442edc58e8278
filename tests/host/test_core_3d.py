"""Meshes, 3D files and cameras through the nodes that ComfyUI itself has for them, old and new.

What a ComfyUI has differs by its version, so the cases are chosen by its source.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import comfy
import numpy as np
import pytest
import torch
from glb_files import GlbFile
from PIL import Image
from prompts import Prompt, node, save

from my3dgen_core.camera import cam2world, focal_of_fov, from_angles, intrinsics, to_viewer

CORE = comfy.find_comfyui()
VALUES = (CORE / "comfy_api" / "latest" / "_util" / "geometry_types.py").read_text(encoding="utf-8")
NODES = "\n".join(file.read_text(encoding="utf-8") for file in (CORE / "comfy_extras").glob("nodes_*.py"))
FILES = "class File3D" in VALUES
COLORED = "vertex_colors" in VALUES
CAMERA = {"yaw": 20.0, "pitch": -10.0, "roll": 15.0, "distance": 3.1, "field_of_view": 20.0}


def has(kind: str) -> bool:
    """Return whether this ComfyUI has a node."""
    return re.search(rf'"{kind}"', NODES) is not None


def mesh_prompt(prefix: str, texture: str = "none") -> Prompt:
    return {
        "load": node("LoadGenerator", file="tiny.safetensors"),
        "head": node("RandomLatent", model=["load", 0], seed=3, count=1, truncation=0.7),
        "mesh": node(
            "ExtractMesh",
            model=["load", 0],
            latents=["head", 0],
            which="single",
            index=0,
            resolution=32,
            level=0.5,
            cut_behind=-1.0,
            filename_prefix=f"core3d/{prefix}",
            texture=texture,
            faces=500,
        ),
    }


def core(kind: str, **inputs: Any) -> Prompt:
    return {"class_type": kind, "inputs": inputs}


def newest(server: comfy.Server, pattern: str) -> Path:
    return max(server.output.glob(pattern), key=lambda file: file.stat().st_mtime)


def run(server: comfy.Server, prompt: Prompt) -> comfy.Result:
    result = server.run(prompt)
    assert result.status == "success", result.error
    return result


# --- Meshes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texture", ["none", "1024"])
def test_the_file_that_core_writes_of_our_mesh_has_its_colors(server: comfy.Server, texture: str) -> None:
    prompt = mesh_prompt(f"ours_{texture}", texture)
    prompt["core"] = core("SaveGLB", mesh=["mesh", 0], filename_prefix=f"core3d/core_{texture}")
    (file,) = server.files(run(server, prompt), "core")
    ours, cores = GlbFile(newest(server, f"core3d/ours_{texture}_*.glb")), GlbFile(file)
    assert np.array_equal(cores.attribute("POSITION"), ours.attribute("POSITION"))
    assert np.array_equal(cores.faces, ours.faces)
    if not COLORED:
        assert cores.primitive["attributes"].keys() == {"POSITION"}  # this core knows no more
    elif texture == "none":
        assert np.abs(cores.attribute("COLOR_0") - ours.attribute("COLOR_0")[:, :3]).max() < 1e-5
        assert float(ours.attribute("COLOR_0").std()) > 0.01
        assert "KHR_materials_unlit" in cores.material["extensions"]
    else:
        assert "COLOR_0" not in cores.primitive["attributes"]
        assert np.abs(cores.attribute("TEXCOORD_0") - ours.attribute("TEXCOORD_0")).max() < 1e-6
        assert np.array_equal(cores.texture(), ours.texture())
        assert cores.material["pbrMetallicRoughness"]["metallicFactor"] == 0


SIZE = {"viewport_state": {}, "width": 64, "height": 64}
TAKERS = {  # of 3D files, with their inputs
    "SaveGLB": {"mesh": ["mesh", 3], "filename_prefix": "core3d/taken"},
    "Preview3D": {"model_file": ["mesh", 3 if FILES else 1]},
    "Preview3DAdvanced": {"model_3d": ["mesh", 3]} | SIZE,
    "Save3DAdvanced": {"model_3d": ["mesh", 3], "filename_prefix": "core3d/taken"} | SIZE,
}
KNOWN = [kind for kind in TAKERS if has(kind)]


if FILES:

    @pytest.mark.parametrize("kind", KNOWN)
    @pytest.mark.parametrize("texture", ["none", "1024"])
    def test_cores_nodes_of_3d_files_take_ours(server: comfy.Server, kind: str, texture: str) -> None:
        prompt = mesh_prompt(f"file_{texture}", texture)
        prompt["core"] = core(kind, **TAKERS[kind])
        shown = run(server, prompt).outputs["core"]
        (entry,) = shown["3d"] if kind == "SaveGLB" else shown["result"][:1]
        if kind == "SaveGLB":
            entry = f"{entry['subfolder']}/{entry['filename']}"
        folder = server.base / "temp" if kind == "Preview3DAdvanced" else server.output
        ours = newest(server, f"core3d/file_{texture}_*.glb")
        assert (folder / entry).read_bytes() == ours.read_bytes()

else:

    def test_without_3d_files_in_core_the_output_says_what_to_use(server: comfy.Server) -> None:
        prompt = mesh_prompt("blocked")
        prompt["core"] = core("PreviewAny", source=["mesh", 3])
        result = server.run(prompt)
        assert result.status == "error"
        assert "Use the output model_file" in result.error
        assert newest(server, "core3d/blocked_*.glb").is_file()


def test_core_shows_the_file_that_is_named(server: comfy.Server) -> None:
    prompt = mesh_prompt("named")
    prompt["core"] = core("Preview3D", model_file=["mesh", 1])
    name = run(server, prompt).outputs["core"]["result"][0]
    assert server.output / name == newest(server, "core3d/named_*.glb")


# --- Cameras ------------------------------------------------------------------------------------------------


def expected_camera() -> torch.Tensor:
    """The camera of CAMERA, [1, 25]."""
    yaw, pitch, roll = (math.radians(CAMERA[name]) for name in ("yaw", "pitch", "roll"))
    return from_angles(yaw, pitch, roll, CAMERA["distance"], None, focal_of_fov(CAMERA["field_of_view"]))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Two LOAD3D_CAMERA agree to 1e-5, places beyond 10 to a millionth."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, str):
            assert found[name] == value
        else:
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-5), name


def info_prompt() -> Prompt:
    return {
        "camera": node("Camera", **CAMERA),
        "info": node("CameraToLoad3D", cameras=["camera", 0], index=0),
    }


@pytest.mark.parametrize("kind", [kind for kind in KNOWN if kind != "SaveGLB"])
def test_core_shows_a_mesh_from_our_camera(server: comfy.Server, kind: str) -> None:
    prompt = mesh_prompt("seen") | info_prompt()
    prompt["core"] = core(kind, camera_info=["info", 0], **TAKERS[kind])
    shown = run(server, prompt).outputs["core"]["result"][1]
    assert_same(shown, to_viewer(expected_camera()))


def load_3d(server: comfy.Server, model: str, camera_info: dict[str, Any]) -> Prompt:
    """Core's Load 3D, as the page sends it."""
    Image.new("RGB", (64, 64)).save(server.base / "input" / "shot.png")
    shots = dict.fromkeys(("image", "mask", "normal"), "shot.png")
    return core(
        "Load3D",
        model_file=f"3d/{model}",
        image=shots | {"recording": "", "camera_info": camera_info},
        width=64,
        height=64,
    )


def through_ours(server: comfy.Server, source: Prompt, output: int) -> dict[str, Any]:
    """Return what Preview 3D gets of a core node's camera that went through our nodes, in and out."""
    prompt = {
        "source": source,
        "ours": node("CameraFromLoad3D", camera_info=["source", output], distance=2.7, field_of_view=13.3738),
        "info": node("CameraToLoad3D", cameras=["ours", 0], index=-1),
        "shown": core("Preview3D", model_file="", camera_info=["info", 0]),
    }
    return run(server, prompt).outputs["shown"]["result"][1]


def test_the_camera_of_load_3d_is_ours(server: comfy.Server) -> None:
    info = to_viewer(expected_camera())
    (server.base / "input" / "3d").mkdir(exist_ok=True)
    (server.base / "input" / "3d" / "head.glb").touch()
    found = through_ours(server, load_3d(server, "head.glb", info), 4)
    assert_same(found, info)


if has("CreateCameraInfo"):

    def test_the_camera_of_create_camera_info_is_ours(server: comfy.Server) -> None:
        source = core(
            "CreateCameraInfo",
            **{"mode": "orbit", "mode.yaw": 20.0, "mode.pitch": -10.0, "mode.distance": 3.1},
            **dict.fromkeys(("target_x", "target_y", "target_z"), 0.0),
            roll=-CAMERA["roll"],  # the other way round than ours
            fov=CAMERA["field_of_view"],
            zoom=1.0,
            camera_type="perspective",
        )
        found = through_ours(server, source, 0)
        assert_same(found, to_viewer(expected_camera()))


if has("RenderSplat"):
    POINTS = np.array([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.0, 0.25, 0.1], [-0.1, -0.2, 0.2]])
    COLORS = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    SIDE = 192

    def splat_file(path: Path) -> None:
        """Small opaque balls at POINTS; files of splats have y down and z away."""
        names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
        names += ["rot_0", "rot_1", "rot_2", "rot_3"]
        ones = np.ones((len(POINTS), 1))
        values = np.hstack(
            [
                POINTS * [1, -1, -1],
                (COLORS - 0.5) / 0.28209479177387814,
                9 * ones,
                np.log(0.012) * np.ones((len(POINTS), 3)),
                ones * [1, 0, 0, 0],
            ]
        )
        header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(POINTS)}"]
        header += [f"property float {name}" for name in names] + ["end_header", ""]
        path.write_bytes("\n".join(header).encode() + values.astype("<f4").tobytes())

    def test_core_renders_a_splat_from_our_camera_where_the_generator_would(server: comfy.Server) -> None:
        (server.base / "input" / "3d").mkdir(exist_ok=True)
        splat_file(server.base / "input" / "3d" / "balls.ply")
        expected = expected_camera()
        prompt = info_prompt() | {
            "file": load_3d(server, "balls.ply", to_viewer(expected)),
            "splat": core("File3DToSplat", model_3d=["file", 6]),
            "render": core(
                "RenderSplat",
                splat=["splat", 0],
                camera_info=["info", 0],
                width=SIDE,
                height=SIDE,
                frames=1,
                splat_scale=1.0,
                sharpen=1.0,
                headlight_shading=0.0,
                opacity_threshold=0.0,
                render_style="color",
                background="#000000",
            ),
            "save": save("render"),
        }
        (file,) = server.files(run(server, prompt), "save")
        shown = np.asarray(Image.open(file).convert("RGB"), float) / 255
        pose, k = cam2world(expected)[0].numpy(), intrinsics(expected)[0].numpy()
        places = (POINTS - pose[:3, 3]) @ pose[:3, :3] @ k.T
        places = places[:, :2] / places[:, 2:] * SIDE
        y, x = np.mgrid[:SIDE, :SIDE] + 0.5
        for place, color in zip(places, COLORS, strict=True):
            lit = np.where(color[None, None] > 0, shown, 1 - shown).min(2)  # near 1: this color alone
            weight = np.where(lit > 0.5, lit, 0)
            assert weight.sum() > 3
            found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
            assert np.abs(found - place).max() < 0.6
