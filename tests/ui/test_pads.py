"""The camera pad and the orbit viewer: pointer and keys, input values, live pictures."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prompts import node
from widget_page import Page, every_page, head, needs_browser, only_classic

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
