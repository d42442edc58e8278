"""The widgets in ComfyUI's real page: they move plain inputs, store nothing, and go with their nodes."""

from __future__ import annotations

import io
import time
from typing import Any

import comfy
import pytest
from PIL import Image
from prompts import Prompt, node, tiny_prompt
from widget_page import ELEMENT, Page, every_page, head, needs_browser, numbered, only_classic

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]


@every_page
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


def test_the_wheel_changes_the_distance_of_the_chosen_pad_and_zooms_the_page_elsewhere(page: Page) -> None:
    page.open()
    page.pad().hover()
    page.page.mouse.wheel(0, 100)  # nobody has chosen the pad
    page.page.wait_for_timeout(100)
    assert page.values("1")["distance"] == 2.7
    page.open()
    page.pad().focus()
    page.pad().hover()
    page.page.mouse.wheel(0, 100)
    page.page.wait_for_timeout(100)
    assert page.values("1")["distance"] == pytest.approx(2.84)
    assert page.page.evaluate("() => app.canvas.ds.scale") == 1
    page.page.keyboard.down("Alt")
    page.page.mouse.wheel(0, 100)
    page.page.keyboard.up("Alt")
    page.page.wait_for_timeout(100)
    assert page.values("1")["distance"] == pytest.approx(2.84)
    assert page.values("1")["field_of_view"] == pytest.approx(14.0595, abs=1e-3)


@every_page
def test_a_reload_keeps_the_numbers_and_without_our_scripts_they_do_the_same(page: Page) -> None:
    page.open()
    page.drag(40, 15)
    moved, prompt = page.values("1"), page.prompt()
    saved = page.page.evaluate("() => JSON.stringify(app.graph.serialize())")
    assert "camera_pad" not in saved
    assert "orbit_viewer" not in saved
    ours = f"**/extensions/{comfy.PACK}/**"
    page.page.route(ours, lambda route: route.abort())
    page.reload(saved)
    globals_without = set(page.page.evaluate("() => Object.keys(window)"))
    plain = page.values("1")
    assert plain == {name: value for name, value in moved.items() if name != "camera_pad"}
    assert "camera_pad" in moved
    assert page.prompt() == prompt
    assert page.run() == ""
    page.page.unroute(ours)
    page.reload(saved)
    assert set(page.page.evaluate("() => Object.keys(window)")) <= globals_without
    assert page.values("1") == moved
    assert page.prompt() == prompt
    assert f"yaw {moved['yaw']:.0f}°" in page.pad().get_attribute("aria-label")


@every_page
def test_a_copy_has_the_numbers_and_a_pad_of_its_own(page: Page) -> None:
    page.open({"1": head()["1"]})
    page.drag(40, 15)
    moved = page.values("1")
    page.page.evaluate("() => app.canvas.selectNode(app.graph.getNodeById('1'))")
    page.page.evaluate("() => document.activeElement?.blur()")
    page.page.keyboard.press("Control+c")
    page.page.keyboard.press("Control+v")
    page.page.wait_for_function("() => app.graph._nodes.length === 2")
    (copy,) = page.page.evaluate("() => app.graph._nodes.map((n) => String(n.id)).filter((id) => id !== '1')")
    assert page.values(copy) == moved
    page.page.evaluate("id => { app.graph.getNodeById(id).pos = [400, 0]; }", copy)
    page.page.wait_for_timeout(300)
    page.drag(-30, 0, page.pad(copy))
    assert page.values(copy)["yaw"] > moved["yaw"]
    assert page.values("1") == moved


@every_page
def test_undo_takes_a_drag_back(page: Page) -> None:
    page.open()
    page.page.wait_for_timeout(300)
    page.drag(40, 0)
    page.page.wait_for_timeout(300)
    assert page.values("1")["yaw"] != 0
    page.page.mouse.click(1300, 850)
    page.page.keyboard.press("Control+z")
    page.page.wait_for_function("() => app.graph.getNodeById('1')?.widgets[0].value === 0", timeout=30_000)


@every_page
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
    slider.wait_for(timeout=30_000)
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
    status.wait_for(timeout=30_000)
    assert "loss" in status.inner_text()
    page.reload(page.page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    status.wait_for(timeout=30_000)
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


def shows(part: str) -> Any:
    """A picture at rest that is made of this part."""

    def is_it(answer: Any) -> bool:
        if "/my3dgen/live" not in answer.url or answer.status != 200:
            return False
        asked = answer.request.post_data_json
        return part in asked and asked["quality"] == "still"

    return is_it


def test_sliders_and_the_polygon_move_their_inputs_and_show_the_head(page: Page) -> None:
    prompt, names = person()
    page.open(prompt, {names[name]: place for name, place in PERSON_PLACES.items()})
    page.run()
    slider = page.page.get_by_label("Strength of the direction").first
    with page.page.expect_response(shows("edits")) as answered:
        slider.focus()
        page.page.keyboard.press("ArrowRight")
    assert [edit["strength"] for edit in answered.value.request.post_data_json["edits"]] == [0.6]
    assert page.values(names["edit"])["strength"] == pytest.approx(0.6)
    assert "the person:" in slider.get_attribute("aria-valuetext")  # where it ends
    page.settle()

    figure = page.page.locator('[aria-roledescription="weights of anchors"]')
    with page.page.expect_response(shows("weights")) as answered:
        figure.focus()
        page.page.keyboard.press("ArrowUp")  # towards the corner at the top, the first anchor
    weights = page.values(names["mix"])["weights"]
    first, second, third = (float(part.split(":")[1]) for part in weights.split(","))
    assert first > second == pytest.approx(third, abs=1e-3)
    assert answered.value.request.post_data_json["aim"] == "anchors"
    third = page.page.get_by_label("Anchor 2 in the mixture or not")
    third.locator("canvas").wait_for()  # its picture
    third.click()
    assert page.values(names["mix"])["weights"] == "0: 0.5, 1: 0.5"
    page.settle()
    figure.focus()
    with page.page.expect_response(shows("weights")) as answered:
        page.page.keyboard.press("ArrowRight")  # the paper's slider: latent and pose together
    asked = answered.value.request.post_data_json
    assert asked["weights"]["values"][:2] == pytest.approx([0.475, 0.525])
    assert asked["aim"] == "anchors"
    assert page.values(names["mix"])["weights"] == "0: 0.475, 1: 0.525"
    assert page.prompt()[names["mix"]]["inputs"]["weights"] == "0: 0.475, 1: 0.525"


@only_classic
def test_two_directions_in_a_row_have_two_sliders_on_either_node(page: Page) -> None:
    empty = {
        "which": "mean",
        "index": 0,
        "steps": 1,
        "sweep_from": 0.0,
        "layers": "",
        "edge": "stop",
        "beta": 0.0,
    }
    page.open(
        {
            "1": node("ApplyDirection", strength=1.0, **empty),
            "2": node("ApplyDirection", latents=["1", 0], strength=2.0, **empty),
        },
        {"1": [0, 0], "2": [400, 0]},
    )
    widget = page.page.evaluate_handle(ELEMENT, ["1", "direction_slider"]).as_element()
    sliders = widget.query_selector_all('input[type="range"]')
    assert [slider.input_value() for slider in sliders] == ["1", "2"]
    sliders[1].focus()
    page.page.keyboard.press("ArrowRight")
    assert (page.values("1")["strength"], page.values("2")["strength"]) == (1.0, pytest.approx(2.1))
    other = page.page.evaluate_handle(ELEMENT, ["2", "direction_slider"]).as_element()
    assert [one.input_value() for one in other.query_selector_all('input[type="range"]')] == ["1", "2.1"]
    page.page.evaluate("() => app.graph.getNodeById('2').disconnectInput(0)")
    page.page.wait_for_timeout(100)
    assert len(widget.query_selector_all('input[type="range"]')) == 1


@only_classic
def test_where_pictures_are_slow_lines_follow_the_hand_and_a_picture_comes_on_release(page: Page) -> None:
    page.open()
    assert page.run() == ""
    live = "**/my3dgen/live"

    pictures: list[bytes] = []
    asked: list[str] = []

    def late(route: Any) -> None:
        time.sleep(0.8)
        asked.append(route.request.post_data_json["quality"])
        answer = route.fetch()
        pictures.append(answer.body())
        route.fulfill(response=answer)

    def at_once(route: Any) -> None:
        asked.append(route.request.post_data_json["quality"])
        route.fulfill(body=pictures[0], content_type="image/jpeg")

    page.page.route(live, late)
    page.drag(30, 0)
    page.settle()
    asked.clear()
    page.drag(-50, 10)
    page.settle()
    assert asked == ["still"]
    page.page.unroute(live)
    page.page.route(live, at_once)
    asked.clear()
    for _ in range(5):  # a picture of full quality comes at once, so it is fast again
        page.drag(10, 0)
        page.settle()
        if "drag" in asked:
            break
    assert "drag" in asked
    page.page.unroute(live)


LISTENERS = """kinds => {
  const { addEventListener: add, removeEventListener: remove } = app.api;
  const open = new Set();
  app.api.addEventListener = function (name, then, ...more) {
    open.add(then);
    return add.call(this, name, then, ...more);
  };
  app.api.removeEventListener = function (name, then, ...more) {
    open.delete(then);
    return remove.call(this, name, then, ...more);
  };
  const nodes = kinds.map((kind) => LiteGraph.createNode("My3DGen" + kind));
  for (const node of nodes) app.graph.add(node);
  const during = open.size;
  for (const node of nodes) app.graph.remove(node);
  Object.assign(app.api, { addEventListener: add, removeEventListener: remove });
  return [during, open.size];
}"""
KINDS = ["Camera", "CameraPath", "MixAnchors", "ApplyDirection", "TrainIdentity", "PivotalTuning"]
KINDS += ["Render", "LoadIdentity", "AlignFaces"]


@only_classic
def test_a_removed_node_listens_no_more(page: Page) -> None:
    page.open()
    during, after = page.page.evaluate(LISTENERS, KINDS)
    assert during > len(KINDS)
    assert after == 0


NAMELESS = """() => [..."[aria-roledescription], button, input[type=range], [role=group]".split(", ")]
  .flatMap((kind) => [...document.querySelectorAll(kind)])
  .filter((one) => app.graph._nodes.some((node) => node.widgets?.some((w) => w.element?.contains(one))))
  .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim()))
  .map((one) => one.outerHTML.slice(0, 120))"""
UNREACHABLE = """() => app.graph._nodes.flatMap((node) => (node.widgets ?? [])
  .filter((w) => w.element?.querySelector && w.type === "my3dgen")
  .filter((w) => w.name !== "identity_card")
  .filter((w) => ![w.element, ...w.element.querySelectorAll("*")].some((one) => one.tabIndex >= 0))
  .map((w) => w.name))"""


@only_classic
def test_every_control_has_a_name_and_can_be_reached_without_a_mouse(page: Page) -> None:
    page.open({str(i): node(kind) for i, kind in enumerate(KINDS, 1)}, {})
    ours = "() => app.graph._nodes.flatMap((n) => n.widgets ?? []).filter((w) => w.type === 'my3dgen').length"
    assert page.page.evaluate(ours) == len(KINDS)
    assert page.page.evaluate(NAMELESS) == []
    assert page.page.evaluate(UNREACHABLE) == []


@pytest.mark.parametrize("page", ["classic", "nodes 2.0"], indirect=True)
def test_light_colours_and_a_page_from_right_to_left_change_nothing_but_looks(page: Page) -> None:
    page.open()
    page.drag(40, 15)
    moved = page.values("1")
    dark = page.page.evaluate("pad => getComputedStyle(pad).color", page.pad())
    palette = "name => app.extensionManager.setting.set('Comfy.ColorPalette', name)"
    try:
        page.page.evaluate(palette, "light")
        page.page.evaluate("() => { document.documentElement.dir = 'rtl'; }")
        page.open()
        page.drag(40, 15)
        assert page.values("1") == moved
        assert page.page.evaluate("pad => getComputedStyle(pad).color", page.pad()) != dark
    finally:
        page.page.evaluate("() => { document.documentElement.dir = ''; }")
        page.page.evaluate(palette, "dark")


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
def test_the_identity_card_shows_what_the_node_reports_and_the_face(page: Page) -> None:
    page.open(
        {
            "1": node("LoadIdentity", file="anyone.safetensors"),
            "2": node("ApplyIdentity", identity=["1", 0], strength=1.0),
            "3": node("Render", model=["2", 0], latents=["1", 1], which="mean", index=0, batch_size=1),
        }
    )
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "JPEG")
    asked: list[Any] = []

    def face(route: Any) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(body=file.getvalue(), content_type="image/jpeg")

    page.page.route("**/my3dgen/live", face)
    page.page.evaluate(
        """() => {
          app.graph.getNodeById("3").onExecuted({my3dgen_live: [{handle: "head"}]});
          app.graph.getNodeById("1").onExecuted({
            my3dgen_card: [["anchors", "4"], ["size", "<b>1 MB</b>"]],
            my3dgen_live: [{handle: "anchors", count: 4}],
          });
        }"""
    )
    card = page.page.get_by_label("Identity card")
    assert card.locator("dd").all_inner_texts() == ["4", "<b>1 MB</b>"]
    card.get_by_role("img").locator("canvas").wait_for()
    page.page.unroute("**/my3dgen/live")
    (mean,) = [request for request in asked if request.get("weights", {}).get("handle") == "anchors"]
    assert (mean["head"], mean["weights"]["values"]) == ("head", [0.25] * 4)
