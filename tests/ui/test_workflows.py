"""The workflow files in ComfyUI's real page: they open, miss nothing, and mean what their API twins say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy
import page as comfy_page
import pytest

pytestmark = pytest.mark.skipif(
    comfy_page.browser_path() is None, reason="no chromium: apt-get install chromium, or set CHROMIUM"
)
WORKFLOWS = sorted(path.name for path in (comfy.ROOT / "workflows").glob("*.json"))
UNKNOWN = "() => app.graph._nodes.map(n => n.type).filter(t => !(t in LiteGraph.registered_node_types))"


@pytest.fixture(scope="module")
def page(server: comfy.Server) -> Iterator[Any]:
    with comfy_page.open_page(server) as opened:
        yield opened


def test_every_api_workflow_has_a_file_for_the_page(root: Path) -> None:
    twins = sorted(path.name for path in (root / "workflows" / "api").glob("*.json"))
    assert twins == WORKFLOWS


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_page_gives_the_api_twin_back(page: Any, root: Path, name: str) -> None:
    workflow = (root / "workflows" / name).read_text(encoding="utf-8")
    twin = json.loads((root / "workflows" / "api" / name).read_text(encoding="utf-8"))
    prompt = page.evaluate(comfy_page.TO_API, workflow)
    assert comfy_page.same_prompt(prompt) == comfy_page.same_prompt(twin)
    assert page.evaluate(UNKNOWN) == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_lies_on_top_of_something_else(root: Path, name: str) -> None:
    nodes = json.loads((root / "workflows" / name).read_text(encoding="utf-8"))["nodes"]
    boxes = [(n["pos"][0], n["pos"][1] - 30, n["size"][0], n["size"][1] + 30) for n in nodes]
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, s, t in boxes[i + 1 :]:
            assert x + w <= u or u + s <= x or y + h <= v or v + t <= y
