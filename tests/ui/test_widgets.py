"""The widgets in ComfyUI's real page: they move plain inputs, store nothing, and go with their nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy
import page as comfy_page
import pytest
from prompts import Prompt, node, tiny_prompt

pytestmark = pytest.mark.skipif(
    comfy_page.browser_path() is None, reason="no chromium: apt-get install chromium, or set CHROMIUM"
)
MODES = {"classic": False, "nodes 2.0": True}
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
        page.set_default_timeout(15_000)
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

    def run(self) -> None:
        """Queues as the button does, until the prompt is done."""
        self.page.evaluate(
            """() => new Promise((done) => {
              app.api.addEventListener("execution_success", done, {once: true});
              app.api.addEventListener("execution_error", done, {once: true});
              app.queuePrompt(0, 1);
            })"""
        )
        self.settle()

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


@pytest.fixture(scope="module", params=MODES, ids=list(MODES))
def page(request: pytest.FixtureRequest, server: comfy.Server) -> Iterator[Page]:
    server.post("/settings", {"Comfy.VueNodes.Enabled": MODES[request.param]})
    with comfy_page.open_page(server) as opened:
        yield Page(opened, server)
    server.post("/settings", {"Comfy.VueNodes.Enabled": False})


only_classic = pytest.mark.parametrize("page", ["classic"], indirect=True)


@pytest.fixture(autouse=True)
def no_error_of_ours(page: Page) -> Iterator[None]:
    page.clear()
    yield
    assert not [error for error in page.errors if "my3dgen" in error.lower()]


def test_dragging_moves_this_cameras_numbers_and_the_prompt_carries_them(page: Page) -> None:
    page.open()
    before = page.prompt()
    page.drag(40, 15)
    values = page.values("1")
    assert -90 < values["yaw"] < -5  # the head follows the hand to the right: the camera goes left
    assert 2 < values["pitch"] < 45
    assert page.values("2")["yaw"] == 0
    prompt = page.prompt()
    assert prompt["1"]["inputs"] == {**before["1"]["inputs"], "yaw": values["yaw"], "pitch": values["pitch"]}
    assert {**prompt, "1": before["1"]} == before
    page.drag(-20, 0, page.pad("2"))
    assert page.values("2")["yaw"] > 0
    assert page.values("1") == values


def test_keys_and_a_double_click_work_too(page: Page) -> None:
    page.open()
    page.pad().focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.page.keyboard.press(key)
    assert (page.values("1")["yaw"], page.values("1")["pitch"]) == (10, -5)
    assert "yaw 10°" in page.pad().get_attribute("aria-label")
    page.pad().dblclick()
    assert (page.values("1")["yaw"], page.values("1")["pitch"]) == (0, 0)


@only_classic  # Nodes 2.0 of frontend 1.32.9 keeps the wheel for its canvas
def test_the_wheel_changes_the_distance(page: Page) -> None:
    page.open()
    page.pad().focus()
    page.pad().hover()
    page.page.mouse.wheel(0, 100)
    page.page.wait_for_timeout(100)
    assert page.values("1")["distance"] == pytest.approx(2.84)


def test_a_workflow_keeps_the_numbers_and_nothing_else_of_the_pad(page: Page) -> None:
    page.open()
    page.drag(40, 15)
    moved = page.values("1")
    saved = page.page.evaluate("() => JSON.stringify(app.graph.serialize())")
    assert "camera_pad" not in saved
    assert "orbit_viewer" not in saved
    page.page.evaluate("async (saved) => app.loadGraphData(JSON.parse(saved))", saved)
    page.page.wait_for_timeout(300)
    assert page.values("1") == moved
    assert f"yaw {moved['yaw']:.0f}°" in page.pad().get_attribute("aria-label")


@only_classic
def test_undo_takes_a_drag_back(page: Page) -> None:
    page.open()
    page.page.wait_for_timeout(300)
    page.drag(40, 0)
    page.page.wait_for_timeout(300)
    assert page.values("1")["yaw"] != 0
    page.page.mouse.click(1500, 900)
    page.page.keyboard.press("Control+z")
    page.page.wait_for_function("() => app.graph.getNodeById('1')?.widgets[0].value === 0", timeout=5000)


def test_dragging_shows_the_head_live_and_a_removed_node_asks_no_more(page: Page) -> None:
    page.open()
    page.drag(30, 0)
    assert page.live() == 0  # nothing has run, so there is only the head of lines
    page.run()
    with page.page.expect_response(lambda answer: "/my3dgen/live" in answer.url) as answered:
        page.drag(30, 0)
    assert answered.value.status == 200
    assert answered.value.headers["content-type"] == "image/jpeg"
    page.drag(30, 0, page.pad("2"))  # not connected
    element = page.pad()
    page.page.evaluate("() => app.graph.remove(app.graph.getNodeById('1'))")
    page.clear()
    page.page.evaluate(
        """pad => { for (const key of ["ArrowLeft", "ArrowUp"])
          pad.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true})); }""",
        element,
    )
    page.settle()
    assert page.live() == 0


@only_classic
def test_a_page_that_missed_the_run_learns_of_it_from_the_cache(page: Page) -> None:
    page.open()
    page.run()
    page.open()  # new nodes, which have heard nothing
    page.run()  # and all comes from the cache
    with page.page.expect_response(lambda answer: "/my3dgen/live" in answer.url) as answered:
        page.drag(30, 0)
    assert answered.value.status == 200


def test_the_orbit_viewer_turns_through_the_rendered_frames(page: Page) -> None:
    prompt = head() | {"1": node("CameraPath", path="swing", frames=5, yaw=30.0, pitch=0.0, center_pitch=0.0)}
    page.open(prompt)
    page.run()
    slider = page.page.locator('input[aria-label="Frame"]')
    slider.wait_for(timeout=5000)
    page.page.wait_for_function("() => document.querySelector('input[aria-label=Frame]').max === '4'")
    box = page.page.locator('[aria-label="Rendered frames"] canvas').bounding_box()
    page.page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 38, box["y"] + 20, steps=3)
    page.page.mouse.up()
    assert slider.input_value() == "3"
    with page.page.expect_response(lambda answer: "/my3dgen/live" in answer.url) as answered:
        page.page.get_by_role("button", name="Look around the head live").click()
    assert answered.value.status == 200
    with page.page.expect_response(lambda answer: "/my3dgen/live" in answer.url) as answered:
        page.drag(30, 0, page.page.locator('[aria-label^="Look around the head:"]'))
    assert answered.value.request.post_data_json["yaw"] < 0


@only_classic
def test_a_training_is_watched_and_found_again_after_a_reload(page: Page) -> None:
    names = {name: str(number) for number, name in enumerate(tiny_prompt(), 1)}
    prompt = numbered(tiny_prompt(train={"steps": 12}), names)
    page.open(prompt, {names["train"]: [0, 0]})
    page.run()
    status = page.page.get_by_role("status").filter(has_text="step 12 of 12")
    status.wait_for(timeout=5000)
    assert "loss" in status.inner_text()
    workflow = page.page.evaluate("() => JSON.stringify(app.graph.serialize())")
    page.page.reload(wait_until="domcontentloaded")
    page.page.wait_for_function(comfy_page.READY, timeout=60_000)
    page.page.evaluate("async (saved) => app.loadGraphData(JSON.parse(saved))", workflow)
    page.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [120, 120]; }")
    status.wait_for(timeout=5000)
    assert "done" in status.inner_text()


# --- Mixing and editing a person ----------------------------------------------------------------------------

PERSON_PLACES = {"mix": [0, 0], "edit": [400, 0], "train": [800, 0]}


def person() -> tuple[Prompt, dict[str, str]]:
    """A person of one training step, mixed and edited; and the number of each node."""
    prompt = tiny_prompt(train={"steps": 2})
    prompt["mix"] = node("MixAnchors", identity=["train", 0], weights="0: 1, 1: 1, 2: 1", beta=0.1)
    prompt["find"] = node(
        "FindDirection", model=["load", 0], attribute="component 1", samples=50, face_models="auto", seed=0
    )
    prompt["edit"] = node(
        "ApplyDirection",
        latents=["mix", 0],
        direction=["find", 0],
        which="mean",
        index=0,
        strength=0.5,
        steps=1,
        sweep_from=0.0,
        layers="",
        edge="continue",
        beta=0.1,
        identity=["train", 0],
    )
    prompt["render"]["inputs"]["latents"] = ["edit", 0]
    names = {name: str(number) for number, name in enumerate(prompt, 1)}
    return numbered(prompt, names), names


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


def test_sliders_and_the_polygon_move_their_inputs_and_show_the_head(page: Page) -> None:
    prompt, names = person()
    page.open(prompt, {names[name]: place for name, place in PERSON_PLACES.items()})
    page.run()
    slider = page.page.get_by_label("Strength of the direction")
    with page.page.expect_response(lambda answer: "/my3dgen/live" in answer.url) as answered:
        slider.focus()
        page.page.keyboard.press("ArrowRight")
    assert answered.value.status == 200
    assert [edit["strength"] for edit in answered.value.request.post_data_json["edits"]] == [0.6]
    assert page.values(names["edit"])["strength"] == pytest.approx(0.6)
    page.settle()

    figure = page.page.locator('[aria-roledescription="weights of anchors"]')
    with page.page.expect_response(lambda answer: "/my3dgen/live" in answer.url) as answered:
        figure.focus()
        page.page.keyboard.press("ArrowUp")  # towards the corner at the top, the first anchor
    assert answered.value.status == 200
    weights = page.values(names["mix"])["weights"]
    first, second, third = (float(part.split(":")[1]) for part in weights.split(","))
    assert first > second == pytest.approx(third, abs=1e-3)
    page.page.get_by_label("Anchor 2 in the mixture or not").click()
    assert page.values(names["mix"])["weights"] == "0: 0.5, 1: 0.5"
    assert page.prompt()[names["mix"]]["inputs"]["weights"] == "0: 0.5, 1: 0.5"


@only_classic
def test_weights_of_a_point_give_the_point_back(page: Page) -> None:
    wrong = page.page.evaluate(
        """async (pack) => {
          const file = `/extensions/${pack}/js/lib/polygon.mjs`;
          const { allowed, corners, weightsAt, pointOf } = await import(file);
          const wrong = [];
          for (const count of [2, 3, 4, 7])
            for (const [x, y] of [[0, 0], [0.3, 0], [-0.2, 0.4], [0.9, 0.6], corners(count)[0]]) {
              const shape = corners(count);
              const weights = weightsAt(shape, [x, y]);
              const back = pointOf(shape, weights);
              const sum = weights.reduce((a, b) => a + b, 0);
              const off = Math.hypot(back[0] - x, count === 2 ? 0 : back[1] - y) + Math.abs(sum - 1);
              const kept = allowed(weights, 0.05);
              const low = Math.min(...kept) + 0.05;
              const total = kept.reduce((a, b) => a + b, 0);
              const right = off < 1e-6 && low > -1e-9 && Math.abs(total - 1) < 1e-9;
              if (!right) wrong.push([count, x, y, off, kept]);
            }
          return wrong;
        }""",
        comfy.PACK,
    )
    assert wrong == []


@only_classic
def test_the_identity_card_shows_what_the_node_reports(page: Page) -> None:
    page.open({"1": node("LoadIdentity", file="anyone.safetensors")})
    page.page.evaluate(
        """() => app.graph.getNodeById("1").onExecuted(
          {my3dgen_card: [["anchors", "4"], ["size", "<b>1 MB</b>"]]})"""
    )
    card = page.page.get_by_label("Identity card")
    assert card.locator("dd").all_inner_texts() == ["4", "<b>1 MB</b>"]
