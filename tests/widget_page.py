"""ComfyUI's page, as the widget tests use it."""

from __future__ import annotations

from typing import Any

import comfy
import pytest
from page import READY, RUN, browser_path
from prompts import Prompt, apply_direction, camera, find_direction, node, render, tiny_prompt

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
oldest_and_newest = pytest.mark.parametrize(
    "page", ["classic", f"nodes 2.0, {comfy.FRONTEND}"], indirect=True
)
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


def head() -> Prompt:
    """A head rendered from the first of two cameras."""
    return {
        "1": camera(),
        "2": camera(),
        "3": node("LoadGenerator", file="tiny.safetensors"),
        "4": node("RandomLatent", model=["3", 0], count=1, truncation=1.0, seed=0),
        "5": render("3", 1, latents="4", cameras="1"),
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
    """The page, its errors, and its requests to our routes."""

    def __init__(self, page: Any, server: comfy.Server) -> None:
        self.page, self.server = page, server
        page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("request", lambda request: self.asked.append(request.url))
        self.pending: list[Any] = []
        page.on("request", self._begin)
        for end in ("requestfinished", "requestfailed"):
            page.on(end, self._end)

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
        """Reloads the page and opens a saved workflow."""
        self.page.reload(wait_until="domcontentloaded")
        self.page.wait_for_function(READY, timeout=60_000)
        self.page.wait_for_timeout(1000)  # newer pages first restore the workflow that was open
        self.page.evaluate("async (saved) => app.loadGraphData(JSON.parse(saved))", saved)
        self.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [120, 120]; }")
        self.page.wait_for_timeout(300)

    def run(self) -> str:
        """Queues the prompt and waits for its end; returns the error message, or an empty text."""
        failed = self.page.evaluate(RUN)
        self.settle()
        return failed

    def _begin(self, request: Any) -> None:
        if "/my3dgen/live" in request.url:
            self.pending.append(request)

    def _end(self, request: Any) -> None:
        if request in self.pending:
            self.pending.remove(request)

    def settle(self) -> None:
        """Waits until no live picture is under way at four looks in a row.

        Raises:
            AssertionError: it did not come to that within a hundred looks.
        """
        quiet = 0
        for _ in range(100):
            self.page.wait_for_timeout(100)
            quiet = 0 if self.pending else quiet + 1
            if quiet == 4:
                return
        waiting = [f"{request.url} {request.post_data}" for request in self.pending]
        raise AssertionError(
            f"The page did not settle: {len(waiting)} live pictures are still under way ({waiting}), of "
            f"{self.live()} that were asked for."
        )

    def clear(self) -> None:
        self.settle()
        self.errors.clear()
        self.asked.clear()

    def live(self) -> int:
        return sum("/my3dgen/live" in url for url in self.asked)


def numbered(prompt: Prompt, names: dict[str, str]) -> Prompt:
    """The prompt with numbers for node names, as the page has it."""
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


def person() -> tuple[Prompt, dict[str, str]]:
    """A person of one training step, mixed and edited; and the number of each node."""
    prompt = tiny_prompt(train={"steps": 2})
    prompt["mix"] = node("MixAnchors", identity=["train", 0], weights="0: 1, 1: 1, 2: 1", beta=0.1)
    prompt["find"] = find_direction()
    prompt["edit"] = apply_direction(
        "mix", which="mean", strength=0.5, steps=1, edge="continue", beta=0.1, identity=["train", 0]
    )
    prompt["render"]["inputs"]["latents"] = ["edit", 0]
    names = {name: str(number) for number, name in enumerate(prompt, 1)}
    return numbered(prompt, names), names


def shows(part: str) -> Any:
    """A picture at rest that is made of this part."""

    def is_it(answer: Any) -> bool:
        if "/my3dgen/live" not in answer.url or answer.status != 200:
            return False
        asked = answer.request.post_data_json
        return part in asked and asked["quality"] == "still"

    return is_it
