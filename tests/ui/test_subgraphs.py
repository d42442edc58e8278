"""Widgets follow their nodes into subgraphs, where the server names a node by a path such as 12:5."""

from __future__ import annotations

import comfy
import pytest
from prompts import node, tiny_prompt
from widget_page import Page, every_page, needs_browser, numbered, oldest_and_newest, person, shows

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]

SETTINGS = {"which": "largest", "upright": True, "same_person": False, "drop_different": False}
"""Inputs of Align Faces."""
WRAP = """ids => {
  const nodes = ids.map((id) => app.graph.getNodeById(id));
  const { node } = app.graph.convertToSubgraph(new Set(nodes));
  node.pos = [400, 600];
  return String(node.id);
}"""
ALL = "[...app.graph._nodes, ...app.graph._nodes.flatMap((node) => node.subgraph?._nodes ?? [])]"
STATUS = f"""() => {ALL}.find((node) => node.type === "My3DGenTrainIdentity")
  .widgets.find((widget) => widget.name === "training_monitor")
  .element.querySelector("[role=status]").textContent"""
NEIGHBORS = f"""async kind => {{
  const {{ downstream, source }} = await import("/extensions/{comfy.PACK}/js/lib/nodes.mjs");
  const node = {ALL}.find((one) => one.comfyClass === kind);
  const inputs = (node.inputs ?? []).map((input) => [input.name, source(node, input.name)?.comfyClass]);
  return [[...downstream(node)].map((one) => one.comfyClass), Object.fromEntries(inputs)];
}}"""


@every_page
def test_a_training_in_a_subgraph_is_watched_and_found_again_after_a_reload(page: Page) -> None:
    names = {name: str(number) for number, name in enumerate(tiny_prompt(), 1)}
    page.open(numbered(tiny_prompt(train={"steps": 3, "seed": 5}), names), {names["train"]: [0, 0]})
    outer = page.page.evaluate(WRAP, [names["train"]])
    assert f"{outer}:{names['train']}" in page.prompt()
    assert page.run() == ""
    page.page.wait_for_function(f"() => ({STATUS})().startsWith('step 3 of 3')")
    page.reload(page.page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    page.page.wait_for_function(f"() => ({STATUS})().endsWith('done')")


@every_page
def test_a_pad_shows_the_head_that_is_rendered_in_a_subgraph(page: Page) -> None:
    page.open()
    page.page.evaluate(WRAP, ["4", "5"])
    assert page.run() == ""
    with page.page.expect_response(lambda answer: "/my3dgen/live" in answer.url) as answered:
        page.drag(30, 0)
    assert answered.value.status == 200


@every_page
def test_links_are_followed_into_subgraphs_and_out_of_them(page: Page) -> None:
    def neighbors(kind: str) -> tuple[list[str], dict[str, str]]:
        reached, sources = page.page.evaluate(NEIGHBORS, kind)
        return reached, {name: sources[name] for name in sources if sources[name]}

    page.open()
    latent, render = "My3DGenRandomLatent", "My3DGenRender"
    flat = [neighbors(kind) for kind in ("My3DGenLoadGenerator", latent, render)]
    assert flat[1] == ([render, "PreviewImage"], {"model": "My3DGenLoadGenerator"})
    inner = page.page.evaluate(WRAP, ["4", "5"])
    assert [neighbors(kind) for kind in ("My3DGenLoadGenerator", latent, render)] == flat
    page.page.evaluate(WRAP, [inner, "6"])
    nested = page.page.evaluate(NEIGHBORS, "My3DGenLoadGenerator")
    assert nested[0] == flat[0][0]


@oldest_and_newest
def test_photos_that_failed_in_a_subgraph_are_shown_on_their_node_and_no_other(page: Page) -> None:
    page.open({name: node("AlignFaces", **SETTINGS) for name in ("1", "2")})
    outer = page.page.evaluate(WRAP, ["1"])
    file = {"filename": "none.jpg", "subfolder": "", "type": "temp"}
    photo = {"name": "a.jpg", "kept": False, "reason": "No face was found.", "warnings": [], "by_hand": ""}
    photo |= {"boxes": [], "points": None, "file": file}
    page.page.evaluate(
        "detail => app.api.dispatchEvent(new CustomEvent('my3dgen.photos', { detail }))",
        {"node": f"{outer}:1", "my3dgen_photos": [photo]},
    )
    shown = page.page.evaluate(
        f"""() => Object.fromEntries({ALL}
          .filter((node) => node.comfyClass === "My3DGenAlignFaces")
          .map((node) => [node.id, node.widgets.find((widget) => widget.name === "photo_report")])
          .map(([id, widget]) => [id, widget.element.textContent]))"""
    )
    assert "0 of 1 photos kept" in shown["1"]
    assert "kept" not in shown["2"]


# --- Two levels down, and two copies of one subgraph --------------------------------------------------------

EVERY = """[...new Set([app.graph, ...app.graph._nodes.flatMap(function inner(node) {
  return node.subgraph ? [node.subgraph, ...node.subgraph._nodes.flatMap(inner)] : [];
})])].flatMap((graph) => graph._nodes)"""
TEXTS = f"""() => Object.fromEntries({EVERY}
  .flatMap((node) => (node.widgets ?? []).filter((widget) => widget.element?.textContent !== undefined)
    .map((widget) => [node.type + " " + widget.name, widget.element.textContent])))"""
# Shows the graph that has the nodes of a kind, with the first of them at the top left.
ENTER = f"""(kind) => {{
  const node = {EVERY}.find((one) => one.comfyClass === kind);
  app.canvas.setGraph(node.graph);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [200 - node.pos[0], 150 - node.pos[1]];
  app.canvas.setDirty(true, true);
}}"""
COPY = """(id) => {
  const first = app.graph.getNodeById(id);
  const copy = LiteGraph.createNode(first.type);
  app.graph.add(copy);
  copy.pos = [first.pos[0], first.pos[1] + 900];
  for (const [slot, input] of first.inputs.entries()) {
    const link = app.graph.links.get?.(input.link) ?? app.graph.links[input.link];
    if (link) app.graph.getNodeById(link.origin_id).connect(link.origin_slot, copy, slot);
  }
  return String(copy.id);
}"""


def path_to(page: Page, kind: str) -> list[str]:
    """The ids under which nodes of a kind run."""
    return [key for key, entry in page.prompt().items() if entry["class_type"] == f"My3DGen{kind}"]


@oldest_and_newest
@pytest.mark.usefixtures("face_models")
def test_widgets_two_subgraphs_down_hear_from_their_nodes_and_move_the_head(page: Page) -> None:
    prompt, _ = person()
    prompt["101"] = node("LoadDemoPerson", views="photos", at_most=3)
    prompt["102"] = node("AlignFaces", photos=["101", 0], face_models="auto", **SETTINGS)
    prompt["103"] = {"class_type": "PreviewImage", "inputs": {"images": ["102", 4]}}
    page.open(prompt)
    inside = [key for key, entry in prompt.items() if entry["class_type"].startswith("My3DGen")]
    outer = page.page.evaluate(WRAP, [page.page.evaluate(WRAP, inside)])
    [training], [align] = path_to(page, "TrainIdentity"), path_to(page, "AlignFaces")
    assert training.startswith(f"{outer}:")
    assert training.count(":") == align.count(":") == 2
    assert page.run() == ""
    texts = page.page.evaluate(TEXTS)
    assert texts["My3DGenTrainIdentity training_monitor"].startswith("step 2 of 2")
    assert "3 of 3 photos kept" in texts["My3DGenAlignFaces photo_report"]
    for _ in range(2):
        page.page.evaluate(ENTER, "My3DGenApplyDirection")
        slider = page.page.get_by_label("Strength of the direction").first
        with page.page.expect_response(shows("edits")):
            slider.focus()
            page.page.keyboard.press("ArrowRight")
        page.settle()
        page.page.evaluate("() => app.canvas.setGraph(app.graph)")
        page.reload(page.page.evaluate("() => JSON.stringify(app.graph.serialize())"))
        monitor = f"({TEXTS})()['My3DGenTrainIdentity training_monitor']"
        page.page.wait_for_function(f"() => /^step 2 of 2.*done/.test({monitor})")
        assert page.run() == ""  # from ComfyUI's cache, but for what the slider moved


@every_page
def test_both_copies_of_a_subgraph_run_and_show_their_result_on_the_nodes_that_they_share(page: Page) -> None:
    names = {name: str(number) for number, name in enumerate(tiny_prompt(), 1)}
    prompt = numbered(tiny_prompt(train={"steps": 3, "seed": 6, "keep_state": True}), names)
    save = {"identity": [names["train"], 0], "filename_prefix": "copies/person", "precision": "float32"}
    page.open({**prompt, "90": node("SaveIdentity", **save)})
    first = page.page.evaluate(WRAP, [names["train"], "90"])
    second = page.page.evaluate(COPY, first)
    runs = path_to(page, "TrainIdentity")
    assert [run.split(":")[0] for run in runs] == [first, second]
    folder = page.server.output / "copies"
    before = len(list(folder.glob("person_*")))
    assert page.run() == ""
    page.page.wait_for_function(f"() => ({STATUS})().startsWith('step 3 of 3')")
    assert len(list(folder.glob("person_*"))) == before + 2
    told = page.page.evaluate(
        "async () => (await (await app.api.fetchApi('/my3dgen/training')).json()).trainings"
    )
    assert [told[run]["state"] for run in runs] == ["done", "done"]
    assert not list((page.server.output / "my3dgen" / "training").glob("*"))
    page.reload(page.page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    page.page.wait_for_function(f"() => ({STATUS})().endsWith('done')")
