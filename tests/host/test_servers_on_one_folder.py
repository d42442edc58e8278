"""Two ComfyUI servers on one folder of identities, as one per accelerator behind a queue."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import comfy
import numpy as np
import pytest
from micro import generator as micro_generator
from PIL import Image
from prompts import Prompt, camera, node, render

from my3dgen_core import Adapter, Identity, IdentityStore, Latents, save_generator


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    (folder / "identities").mkdir()
    (folder / "generators").mkdir()
    save_generator(micro_generator(0), folder / "generators" / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def servers(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[comfy.Server]]:
    with ExitStack() as stack:
        running = []
        for name in ("first", "second"):
            base = comfy.make_base(tmp_path_factory.mktemp(name))
            (base / "models" / "my3dgen").mkdir(parents=True)
            for kind in ("identities", "generators"):
                (base / "models" / "my3dgen" / kind).symlink_to(shared / kind)
            running.append(stack.enter_context(comfy.Server(base, environment={"OMP_NUM_THREADS": "1"})))
        yield running


def person(seed: int) -> Identity:
    model = micro_generator(0)
    adapter = Adapter.create(model, seed=seed)
    for number, tensor in enumerate(adapter.tensors.values()):
        tensor += 0.05 * (number % 3)
    ws = model.w_avg.expand(1, model.num_ws, -1).clone()
    return Identity(adapter, Latents(ws, base_hash=model.base_hash()), model.base_hash())


def prompt(file: str) -> Prompt:
    return {
        "load": node("LoadGenerator", file="tiny.safetensors"),
        "person": node("LoadIdentity", file=file),
        "apply": node("ApplyIdentity", model=["load", 0], identity=["person", 0], strength=1.0),
        "camera": camera(0.0),
        "render": render("apply", 1, latents="person", cameras="camera"),
        "save": {"class_type": "SaveImage", "inputs": {"images": ["render", 0], "filename_prefix": "x"}},
    }


def picture(server: comfy.Server, file: str) -> np.ndarray:
    request = prompt(file)
    request["render"]["inputs"]["latents"] = ["person", 1]
    result = server.run(request)
    assert (result.status, result.error) == ("success", "")
    (path,) = server.files(result, "save")
    return np.asarray(Image.open(path)).astype(int)


def found(server: comfy.Server, words: str) -> list[str]:
    answer = server.get("/my3dgen/identities?" + urllib.parse.urlencode({"query": words}))
    return [row["name"] for row in answer["identities"]]


def test_a_person_added_while_both_run_is_found_and_rendered_by_both(
    servers: list[comfy.Server], shared: Path
) -> None:
    assert [found(server, "customer") for server in servers] == [[], []]
    with_index = IdentityStore(shared / "identities", index=shared / "index.sqlite")
    with_index.add(person(1), "new/anna", tags=["customer"])
    with_index.add(person(2), "new/bert", tags=["customer"])
    expected = ["new/anna.safetensors", "new/bert.safetensors"]
    assert [found(server, "customer") for server in servers] == [expected, expected]
    for name in expected:
        first, second = (picture(server, name) for server in servers)
        assert np.array_equal(first, second)
    assert not np.array_equal(picture(servers[0], expected[0]), picture(servers[0], expected[1]))
    with_index.add(person(2), "new/anna", overwrite=True)
    for server in servers:
        assert np.array_equal(picture(server, expected[0]), picture(server, expected[1]))
    with_index.remove(expected[0])
    assert [found(server, "anna") for server in servers] == [[], []]
    with pytest.raises(comfy.ComfyError, match="There is no file"):
        servers[1].run(prompt(expected[0]))
