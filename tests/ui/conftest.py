"""One server for each frontend, shared by all browser tests, with a small generator of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import comfy
import face_test_pack
import page as comfy_page
import pytest
from micro import generator as micro_generator
from widget_page import PAGES, Page

from my3dgen_core import save_generator

# What the templates for models and photos of one's own say that one needs; the files are empty.
BROUGHT = (
    "models/my3dgen/generators/ffhqrebalanced512-128.pkl",
    "models/my3dgen/identities/my_person_00001_.safetensors",
    "models/my3dgen/identities/my_person_00002_.safetensors",
    "models/checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
    "models/controlnet/control_v11f1p_sd15_depth_fp16.safetensors",
    "models/controlnet/control_v11p_sd15_normalbae_fp16.safetensors",
    "models/upscale_models/RealESRGAN_x4plus.safetensors",
    "input/my photos/1.jpg",
    "input/new photos/1.jpg",
)


def _base(folder: Path) -> Path:
    base = comfy.make_base(folder)
    for name in BROUGHT:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    save_generator(micro_generator(0), base / "models" / "my3dgen" / "generators" / "tiny.safetensors")
    return base


def _server(base: Path, frontend: Path | None = None) -> comfy.Server:
    return comfy.Server(base, environment={"OMP_NUM_THREADS": "1"}, frontend=frontend)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[comfy.Server]:
    """With the installed frontend."""
    with _server(_base(tmp_path_factory.mktemp("page"))) as running:
        yield running


@pytest.fixture(scope="session")
def newer(
    request: pytest.FixtureRequest, server: comfy.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[comfy.Server]]:
    """With the newer frontend; it starts while the first tests run, where one of them will need it."""
    base = _base(tmp_path_factory.mktemp("newer"))
    with ExitStack() as stack, ThreadPoolExecutor(1) as starter:

        def start() -> comfy.Server:
            return stack.enter_context(_server(base, comfy.newer_frontend()))

        if any(comfy.FRONTEND in item.name for item in request.session.items):
            yield starter.submit(start)
        else:
            yield Future()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with comfy_page.open_browser() as opened:
        yield opened


@pytest.fixture(scope="session", params=["classic", "nodes 2.0"])
def page(
    request: pytest.FixtureRequest, server: comfy.Server, newer: Future[comfy.Server], browser: Any
) -> Iterator[Page]:
    """One for all tests of its kind, which pytest runs one after the other."""
    is_newer, nodes_2 = PAGES[request.param]
    its = newer.result() if is_newer else server
    its.post("/settings", {"Comfy.VueNodes.Enabled": nodes_2})
    with comfy_page.open_page(its, browser) as opened:
        yield Page(opened, its)
    its.post("/settings", {"Comfy.VueNodes.Enabled": False})


@pytest.fixture
def face_models(page: Page) -> None:
    """A face pack among the models of the page's server."""
    link = page.server.base / "models" / "insightface"
    if not link.exists():
        link.symlink_to(face_test_pack.make_pack(comfy.ROOT / "build" / "face").parents[1])


@pytest.fixture
def no_error_of_ours(page: Page) -> Iterator[None]:
    page.clear()
    yield
    assert not [error for error in page.errors if "my3dgen" in error.lower()]
