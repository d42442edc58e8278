"""ComfyUI's page as the tests of the widgets use it."""

from __future__ import annotations

from typing import Any

import comfy
import pytest
from page import READY, RUN, browser_path
from prompts import Prompt, node

needs_browser = pytest.mark.skipif(
    browser_path() is None, reason="no chromium: apt-get install chromium, or set CHROMIUM"
)
# Which frontend, and which way of drawing nodes: whether it is the newer one, and whether it is Nodes 2.0.
PAGES = {
    "classic": (False, False),
    "nodes 2.0": (False, True),
    f"classic, {comfy.FRONTEND}": (True, False),
    f"nodes 2.0, {comfy.FRONTEND}": (True, True),
}
only_classic = pytest.mark.parametrize("page", ["classic"], indirect=True)
every_page = pytest.mark.parametrize("page", list(PAGES), indirect=True)
ELEMENT = "([id, name]) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === name).element"
# Ours at places of their own, at scale 1 in the middle of the page.
OPEN = """async ([prompt, places]) => {
  await app.loadApiJson(prompt, "test");
  const workflow = app.graph.serialize();
  for (const node of workflow.nodes) node.pos = places[node.id] ?? [node.pos[0], 2000];
  workflow.extra = {...workflow.extra, ds: {scale: 1, offset: [120, 120]}};
  await app.loadGraphData(workflow);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [120, 120];
  app.canvas.setDirty(true, true);
}"""
VALUES = """id => Object.fromEntries(app.graph.getNodeById(id).widgets.map(w => [w.name, w.value]))"""


def camera(yaw: float = 0.0) -> Prompt:
    return node("Camera", yaw=yaw, pitch=0.0, roll=0.0, distance=2.7, field_of_view=13.3738)


def head() -> Prompt:
    """Two cameras of which the first is rendered from."""
    return {
        "1": camera(),
        "2": camera(),
        "3": node("LoadGenerator", file="tiny.safetensors"),
        "4": node("RandomLatent", model=["3", 0], count=1, truncation=1.0, seed=0),
        "5": node(
            "Render",
            model=["3", 0],
            latents=["4", 0],
            which="mean",
            index=0,
            batch_size=1,
            cameras=["1", 0],
        ),
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }


PLACES = {
    "1": [0, 0],
    "2": [340, 0],
    "5": [680, 0],
    "6": [1040, 0],
    "3": [0, 600],
    "4": [340, 600],
}


class Page:
    """The page, what goes wrong on it, and what it asks of our routes."""

    def __init__(self, page: Any, server: comfy.Server) -> None:
        self.page, self.server = page, server
        page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("request", lambda request: self.asked.append(request.url))
        self.answered = 0
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: self._end(request.url))

    def open(self, prompt: Prompt = {}, places: dict[str, list[int]] = PLACES) -> None:  # noqa: B006
        prompt = prompt or head()
        self.page.evaluate(OPEN, [prompt, {key: places[key] for key in places if key in prompt}])
        self.page.wait_for_timeout(300)

    def values(self, name: str) -> dict[str, Any]:
        return self.page.evaluate(VALUES, name)

    def prompt(self) -> Prompt:
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def pad(self, name: str = "1") -> Any:
        """The pad of this camera."""
        return self.page.evaluate_handle(ELEMENT, [name, "camera_pad"]).as_element()

    def drag(self, right: int, down: int, pad: Any = None) -> None:
        box = (pad or self.pad()).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse = self.page.mouse
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + right, y + down, steps=5)
        mouse.up()

    def reload(self, saved: str) -> None:
        """The page anew, with a workflow as it was saved."""
        self.page.reload(wait_until="domcontentloaded")
        self.page.wait_for_function(READY, timeout=60_000)
        self.page.evaluate("async (saved) => app.loadGraphData(JSON.parse(saved))", saved)
        self.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [120, 120]; }")
        self.page.wait_for_timeout(300)

    def run(self) -> str:
        """Queues as the button does, until the prompt is done; what went wrong, or nothing."""
        failed = self.page.evaluate(RUN)
        self.settle()
        return failed

    def _end(self, url: str) -> None:
        self.answered += "/my3dgen/live" in url

    def settle(self) -> None:
        """Until no live picture is under way; ten seconds at most."""
        quiet = 0
        for _ in range(100):
            self.page.wait_for_timeout(100)
            quiet = quiet + 1 if self.live() <= self.answered else 0
            if quiet == 4:
                return

    def clear(self) -> None:
        self.settle()
        self.errors.clear()
        self.asked.clear()
        self.answered = 0

    def live(self) -> int:
        return sum("/my3dgen/live" in url for url in self.asked)


def numbered(prompt: Prompt, names: dict[str, str]) -> Prompt:
    """The page knows nodes by numbers."""
    return {
        names[name]: {
            **entry,
            "inputs": {
                key: [names[value[0]], value[1]] if isinstance(value, list) else value
                for key, value in entry["inputs"].items()
            },
        }
        for name, entry in prompt.items()
    }
