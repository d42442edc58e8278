"""One server for all browser tests, with a generator of random weights that renders at once."""

from __future__ import annotations

from collections.abc import Iterator

import comfy
import page as comfy_page
import pytest
from micro import generator as micro_generator
from widget_page import MODES, Page

from my3dgen_core import save_generator


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[comfy.Server]:
    base = comfy.make_base(tmp_path_factory.mktemp("page"))
    folder = base / "models" / "my3dgen" / "generators"
    folder.mkdir(parents=True)
    save_generator(micro_generator(0), folder / "tiny.safetensors")
    with comfy.Server(base, environment={"OMP_NUM_THREADS": "1"}) as running:
        yield running


@pytest.fixture(scope="module", params=MODES, ids=list(MODES))
def page(request: pytest.FixtureRequest, server: comfy.Server) -> Iterator[Page]:
    server.post("/settings", {"Comfy.VueNodes.Enabled": MODES[request.param]})
    with comfy_page.open_page(server) as opened:
        yield Page(opened, server)
    server.post("/settings", {"Comfy.VueNodes.Enabled": False})


@pytest.fixture
def no_error_of_ours(page: Page) -> Iterator[None]:
    page.clear()
    yield
    assert not [error for error in page.errors if "my3dgen" in error.lower()]
