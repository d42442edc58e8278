"""The subgraph blueprints in ComfyUI's page: listed in the node library, placed from there, and run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from blueprints import BLUEPRINTS, EDIT_PHOTO, PERSON_TO_VIDEO, PHOTOS_TO_PERSON
from widget_page import Page, every_page, needs_browser, oldest_and_newest

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]
# Fewer steps than anyone would take: the real numbers take minutes.
FEW = """() => {
  const few = {steps: 2, shared_steps: 2, rows: 2};
  const graphs = [app.graph, ...app.graph._nodes.map((node) => node.subgraph).filter(Boolean)];
  for (const node of graphs.flatMap((graph) => graph._nodes))
    for (const widget of node.widgets ?? [])
      if (widget.name in few)
        widget.value = widget.value > 0 ? Math.min(widget.value, few[widget.name]) : few[widget.name];
}"""
SET = """([named, values]) => {
  const node = app.graph._nodes.find((one) => one.title === named || one.type === named);
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find((one) => one.name === name);
    widget.value = value;
    widget.callback?.(value);
  }
}"""
SHOWN = """(title) => {
  const node = app.graph._nodes.find((one) => one.title === title);
  return {
    widgets: Object.fromEntries((node.widgets ?? []).map(({name, value}) => [name, value])),
    labels: (node.widgets ?? []).map(({name, label}) => label ?? name),
    inputs: node.inputs.map(({name}) => name),
    outputs: node.outputs.map(({name}) => name),
    height: node.size[1] - node.computeSize()[1],
  };
}"""
# Connects an output of one node with an input of another, each made first if there is none of this type.
WIRE = """([from, output, to, input]) => {
  const node = (kind) => app.graph._nodes.find((one) => one.title === kind || one.type === kind) ?? (() => {
    const made = LiteGraph.createNode(kind);
    app.graph.add(made);
    return made;
  })();
  const begin = node(from), end = node(to);
  const at = (slots, name) => slots.findIndex((slot) => slot.name === name);
  begin.connect(at(begin.outputs, output), end, at(end.inputs, input));
}"""
CLEAR = "() => app.graph.clear()"
SEARCH = re.compile(r"^Search( Nodes)?\.\.\.$")  # without "Nodes" in frontend 1.47
PLACED = "(title) => app.graph._nodes.filter((node) => node.title === title).length"


def place(page: Page, name: str) -> None:
    """Place a blueprint by the node library, as a user does, on an empty canvas."""
    ui = page.page
    ui.evaluate(CLEAR)
    ui.keyboard.press("n")
    search = ui.get_by_placeholder(SEARCH).locator("visible=true").first
    search.fill(name)
    ui.get_by_text(name).first.click()
    ui.wait_for_timeout(500)
    if not ui.evaluate(PLACED, name):  # a newer page places the node where one clicks next
        ui.mouse.move(900, 500)
        ui.mouse.click(900, 500)
    ui.wait_for_function(f"(title) => ({PLACED})(title) === 1", arg=name)
    search.fill("")
    ui.locator("canvas").first.focus()
    ui.evaluate("() => document.activeElement?.blur()")
    ui.keyboard.press("n")


def ran(page: Page) -> dict[str, Any]:
    """Run what is on the canvas, and return its prompt."""
    page.page.evaluate(FEW)
    assert page.run() == ""
    return page.prompt()


def inputs(prompt: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The inputs of each of the pack's nodes of one kind."""
    return [node["inputs"] for node in prompt.values() if node["class_type"] == f"My3DGen{kind}"]


@every_page
@pytest.mark.parametrize("name", sorted(BLUEPRINTS))
def test_a_blueprint_is_placed_from_the_node_library_with_its_values(page: Page, name: str) -> None:
    place(page, name)
    blueprint, shown = BLUEPRINTS[name], page.page.evaluate(SHOWN, name)
    assert shown["inputs"] == list(blueprint.inputs)
    assert shown["outputs"] == list(blueprint.outputs)
    expected = {}
    for outside, places in blueprint.inputs.items():
        key, inside = places[0].split(".")
        if inside in blueprint.nodes[key]["inputs"]:
            expected[outside] = blueprint.nodes[key]["inputs"][inside]
    assert shown["widgets"] == expected
    assert shown["labels"] == list(expected)
    assert shown["height"] >= -1  # nothing is cut off


@oldest_and_newest
def test_the_orbit_of_a_person_is_a_video(page: Page) -> None:
    name = PERSON_TO_VIDEO.name
    place(page, name)
    page.page.evaluate(SET, [name, {"frames": 3, "yaw": 20, "person": "starter: second person"}])
    page.page.evaluate(WIRE, [name, "video", "SaveVideo", "video"])
    prompt = ran(page)
    [path], [person] = inputs(prompt, "CameraPath"), inputs(prompt, "LoadIdentity")
    assert (path["frames"], path["yaw"], person["file"]) == (3, 20, "starter: second person")
    assert list((page.server.output / "video").glob("*.mp4"))


@oldest_and_newest
@pytest.mark.usefixtures("face_models")
def test_photos_become_a_saved_person(page: Page) -> None:
    name = PHOTOS_TO_PERSON.name
    place(page, name)
    for output in ("photos", "names"):
        page.page.evaluate(WIRE, ["My3DGenLoadPhotos", output, name, output])
    page.page.evaluate(WIRE, [name, "comparison", "PreviewImage", "images"])
    prefix = "my3dgen/identities/by_blueprint"
    page.page.evaluate(SET, ["My3DGenLoadPhotos", {"at_most": 4}])
    page.page.evaluate(SET, [name, {"training_steps": 2, "save_as": prefix}])
    prompt = ran(page)
    [training] = inputs(prompt, "TrainIdentity")
    assert training["steps"] == 2
    assert list((page.server.output / "my3dgen" / "identities").glob("by_blueprint_*"))


@oldest_and_newest
@pytest.mark.usefixtures("face_models")
def test_a_photo_of_the_person_is_edited(page: Page) -> None:
    name = EDIT_PHOTO.name
    place(page, name)
    page.page.evaluate(WIRE, ["My3DGenLoadPhotos", "photos", name, "photo"])
    page.page.evaluate(SET, ["My3DGenLoadPhotos", {"at_most": 1}])
    page.page.evaluate(WIRE, [name, "photo", "PreviewImage", "images"])
    page.page.evaluate(SET, [name, {"strength": 4, "direction": "starter: smile"}])
    prompt = ran(page)
    [direction], [edit] = inputs(prompt, "LoadDirection"), inputs(prompt, "ApplyDirection")
    assert (direction["file"], edit["strength"]) == ("starter: smile", 4)
    preview = "app.graph._nodes.find((node) => node.type === 'PreviewImage')"
    assert page.page.evaluate(f"() => app.nodeOutputs[{preview}.id].images.length") == 1
