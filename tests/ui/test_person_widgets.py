"""The widgets of a person: training monitor, anchor mixer, direction sliders, identity card."""

from __future__ import annotations

import io
from typing import Any

import comfy
import pytest
from PIL import Image
from prompts import node, tiny_prompt
from widget_page import ELEMENT, Page, needs_browser, numbered, only_classic, person, shows

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]


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
