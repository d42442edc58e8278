"""Properties of all our widgets: they move plain inputs, store nothing, and disappear with their node."""

from __future__ import annotations

import re

import comfy
import pytest
from prompts import node
from widget_page import Page, every_page, head, needs_browser, only_classic

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]


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


@pytest.mark.parametrize("page", ["classic", f"classic, {comfy.FRONTEND}"], indirect=True)
def test_dates_and_inputs_of_other_nodes_in_file_names_are_replaced_as_for_save_image(page: Page) -> None:
    prefix = "%date:yyyy-MM%/%My3DGenRandomLatent.seed%_%width%"
    prompt = head() | {
        "7": node("SaveLatents", latents=["4", 0], filename_prefix=prefix),
        "8": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": prefix}},
    }
    prompt["4"]["inputs"]["seed"] = 71
    page.open(prompt)
    ours, core = (page.prompt()[name]["inputs"]["filename_prefix"] for name in ("7", "8"))
    assert ours == core
    assert re.fullmatch(r"20\d\d-\d\d/71_%width%", ours)
    assert page.values("7")["filename_prefix"] == prefix


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
    assert page.page.evaluate(ours) == len(KINDS) + 1  # Load Identity has a card and a search field
    assert page.page.evaluate(NAMELESS) == []
    assert page.page.evaluate(UNREACHABLE) == []


@only_classic
def test_light_colors_and_a_page_from_right_to_left_change_nothing_but_looks(page: Page) -> None:
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
