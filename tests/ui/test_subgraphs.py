"""Widgets follow their nodes into subgraphs, where the server names a node by a path such as 12:5."""

from __future__ import annotations

import comfy
import pytest
from prompts import node, tiny_prompt
from widget_page import Page, every_page, needs_browser, numbered, only_classic

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]

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


@only_classic
def test_photos_that_failed_in_a_subgraph_are_shown_on_their_node_and_no_other(page: Page) -> None:
    settings = {"which": "largest", "upright": True, "same_person": False, "drop_different": False}
    page.open({name: node("AlignFaces", **settings) for name in ("1", "2")})
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
