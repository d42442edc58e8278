"""A real ComfyUI with two small generators of random weights, and nodes called as its executor calls them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import classifiers
import comfy
import face_test_pack
import pytest
import torch
from micro import generator as micro_generator
from prompts import Prompt

from my3dgen_core import save_generator


@pytest.fixture(scope="session")
def face_pack(root: Path) -> Path:
    """The folder of the small face pack that tests may download."""
    return face_test_pack.make_pack(root / "build" / "face")


@pytest.fixture(scope="session")
def base(root: Path, face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ComfyUI's folders: generators tiny and other, the face pack, and three node packs beside ours."""
    base = comfy.make_base(tmp_path_factory.mktemp("comfy"))
    for seed, name in enumerate(("tiny", "other")):
        save_generator(
            micro_generator(seed), base / "models" / "my3dgen" / "generators" / f"{name}.safetensors"
        )
    (base / "models" / "insightface").symlink_to(face_pack.parents[1])
    for name, file in (
        ("small_clip/__init__.py", "small_clip.py"),
        ("spoiled_picture/__init__.py", "spoiled_picture.py"),
        ("watched_imports/prestartup_script.py", "watched_imports.py"),
    ):
        target = base / "custom_nodes" / name
        target.parent.mkdir()
        target.write_text(Path(__file__).with_name(file).read_text(encoding="utf-8"), encoding="utf-8")
    (base / "custom_nodes" / "watched_imports" / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    return base


@pytest.fixture(scope="session")
def server(base: Path) -> Iterator[comfy.Server]:
    # One thread: tiny tensors gain nothing by more, and lose much on a busy machine.
    with comfy.Server(base, environment={"OMP_NUM_THREADS": "1"}) as running:
        yield running


EXTRA_PATHS = """
shared:
  base_path: {shared}
  my3dgen_generators: heads
  my3dgen_identities: |
    people
    friends
  my3dgen_directions: directions
  my3dgen_perceptual: perceptual
  insightface: faces
more:
  insightface_models: {shared}/packs/models
"""


@pytest.fixture(scope="session")
def shared(base: Path, face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders outside of ComfyUI, with one file of each kind that `EXTRA_PATHS` names."""
    shared = tmp_path_factory.mktemp("shared models")
    for name in ("heads", "people", "friends", "directions", "perceptual", "faces/models", "packs/models"):
        (shared / name).mkdir(parents=True)
    shutil.copy(base / "models/my3dgen/generators/tiny.safetensors", shared / "heads" / "shared.safetensors")
    for name in ("people/anna", "friends/ben", "directions/smile"):
        (shared / f"{name}.safetensors").touch()
    for name in ("faces/models/one", "packs/models/two"):
        (shared / name).symlink_to(face_pack)
    features = {f"features.{key}": value for key, value in classifiers.alexnet().state_dict().items()}
    torch.save(features, shared / "perceptual" / "alexnet-random.pth")
    torch.save(classifiers.random_heads(64, 192, 384, 256, 256), shared / "perceptual" / "alex.pth")
    return shared


@pytest.fixture(scope="session")
def second(
    server: comfy.Server, base: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[comfy.Server]:
    """Another ComfyUI on the same output folder, for several users, with model folders elsewhere.

    Its custom nodes lie behind a link, and the pack's folder has another name. Where core can, its own nodes
    give float16 pictures.
    """
    home = tmp_path_factory.mktemp("second")
    (home / "custom_nodes").symlink_to(tmp_path_factory.mktemp("linked nodes"))
    (home / "models" / "my3dgen").mkdir(parents=True)
    (home / "models" / "my3dgen" / "generators").symlink_to(base / "models" / "my3dgen" / "generators")
    paths = home / "paths.yaml"
    paths.write_text(EXTRA_PATHS.format(shared=shared), encoding="utf-8")
    half = [flag for flag in ("--fp16-intermediates",) if flag in comfy.known_arguments()]
    with comfy.Server(
        home,
        output=server.output,
        environment={"OMP_NUM_THREADS": "1"},
        arguments=["--multi-user", "--extra-model-paths-config", str(paths), *half],
        name="Heads_3D.of-ours",
    ) as running:
        yield running


@pytest.fixture
def workflow(root: Path) -> Callable[[str], Prompt]:
    """An API workflow as it ships, with few steps: enough to see that everything runs."""

    def load(name: str) -> Prompt:
        prompt = json.loads((root / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
        return comfy.shorten(prompt, steps=2, shared_steps=2, frames=3, rows=2, at_most=4)

    return load


@pytest.fixture
def executor() -> Iterator[None]:
    """Nodes run in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outside ComfyUI the folders lie under the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nodes(pack: ModuleType) -> dict[str, Any]:
    return {name.removeprefix("My3DGen"): kind() for name, kind in pack.NODE_CLASS_MAPPINGS.items()}


@pytest.fixture
def sockets(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.socket_types"]


@pytest.fixture(scope="module")
def generator() -> Any:
    with torch.inference_mode(False):
        return micro_generator(0)


@pytest.fixture
def model(sockets: ModuleType, generator: Any) -> Any:
    return sockets.Model(sys.modules["my3dgen_pack.nodes.host"].manage(generator), "tiny")
