"""Editors on the page: a camera path drawn by hand, and decisions about single photos."""

from __future__ import annotations

import json
from typing import Any

import comfy
import pytest
import torch
from prompts import Prompt, node
from widget_page import Page, needs_browser, only_classic

from my3dgen_core import look_at
from my3dgen_core.camera.paths import PATHS

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]


def path_prompt(**changes: Any) -> Prompt:
    inputs = {"path": "keyframes", "frames": 9, "yaw": 30.0, "pitch": 10.0, "center_pitch": 0.0}
    return {"1": node("CameraPath", **inputs | {"keyframes": "-30 0, 0 15, 40 -5"} | changes)}


def test_keyframes_are_moved_added_and_removed_by_hand(page: Page) -> None:
    page.open(path_prompt())
    figure = page.page.locator('[aria-roledescription="camera path"]')
    figure.focus()
    page.page.keyboard.press("PageDown")  # the first one
    page.page.keyboard.press("ArrowLeft")
    assert page.values("1")["keyframes"] == "-35 0, 0 15, 40 -5"
    page.page.get_by_label("Frame of the path").fill("2")
    page.page.get_by_label("Add a keyframe at this frame").click()
    first, added, *others = page.values("1")["keyframes"].split(", ")
    assert (first, others) == ("-35 0", ["0 15", "40 -5"])
    assert -30 < float(added.split()[0]) < -5
    figure.focus()
    page.page.keyboard.press("Delete")
    assert page.values("1")["keyframes"] == "-35 0, 0 15, 40 -5"
    assert page.prompt()["1"]["inputs"]["keyframes"] == "-35 0, 0 15, 40 -5"
    spot = page.page.evaluate(
        """async (pack) => {
          const { sphere } = await import(`/extensions/${pack}/js/lib/sphere.mjs`);
          const canvas = document.querySelector('[aria-roledescription="camera path"] canvas');
          const box = canvas.getBoundingClientRect();
          const { x, y } = sphere(canvas.clientWidth, canvas.clientHeight, [-20, 18]).spot([0, 15]);
          return [box.left + x, box.top + y];
        }""",
        comfy.PACK,
    )
    page.page.mouse.move(*spot)
    page.page.mouse.down()
    page.page.mouse.move(spot[0] + 20, spot[1] - 10, steps=3)
    page.page.mouse.up()
    yaw, pitch = (float(word) for word in page.values("1")["keyframes"].split(", ")[1].split())
    assert yaw > 5
    assert pitch > 17
    page.page.mouse.dblclick(spot[0] - 10, spot[1] + 60)
    assert len(page.values("1")["keyframes"].split(",")) == 4


@only_classic
def test_a_ready_path_becomes_keyframes_when_one_is_added(page: Page) -> None:
    page.open(path_prompt(path="ellipse"))
    page.page.get_by_label("Add a keyframe at this frame").click()
    values = page.values("1")
    assert values["path"] == "closed keyframes"
    assert len(values["keyframes"].split(",")) == 9


@only_classic
@pytest.mark.parametrize(
    ("path", "keyframes"),
    [(path, "170 0, -160 30, -20 -10") for path in (*PATHS, "keyframes", "closed keyframes")]
    + [("keyframes", "170 0\uff0c\u2212160 30\n\uff0d20 -10")],
)
def test_the_page_draws_the_path_that_the_node_makes(
    page: Page, pack: Any, path: str, keyframes: str
) -> None:
    inputs = path_prompt(path=path, keyframes=keyframes)["1"]["inputs"]
    drawn = page.page.evaluate(
        "async ([pack, inputs]) => (await import(`/extensions/${pack}/js/lib/path.mjs`)).cameras(inputs)",
        [comfy.PACK, inputs],
    )
    made = pack.NODE_CLASS_MAPPINGS["My3DGenCameraPath"]().make(**inputs)[0].values
    yaws, pitches = torch.deg2rad(torch.tensor(drawn)).unbind(1)
    assert torch.allclose(look_at(yaws, pitches), made, atol=1e-4)


def photo(name: str, kept: bool, **more: Any) -> dict[str, Any]:
    found = {"reason": "" if kept else "No face was found.", "warnings": [], "by_hand": "", "points": None}
    file = {"filename": "none.jpg", "subfolder": "", "type": "temp"}
    return {"name": name, "kept": kept, "boxes": [], "file": file} | found | more


def test_photos_are_kept_left_out_and_corrected_by_hand(page: Page) -> None:
    page.open(
        {"1": node("AlignFaces", which="largest", upright=True, same_person=False, drop_different=False)}
    )
    five = [[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]]
    boxes = [[0.0, 0.0, 0.4, 1.0], [0.6, 0.0, 1.0, 1.0]]
    photos = [photo("a.jpg", True, points=five), photo("b.jpg", False), photo("c.jpg", True, boxes=boxes)]
    page.page.evaluate("photos => app.graph.getNodeById('1').onExecuted({my3dgen_photos: photos})", photos)

    def decided() -> dict[str, Any]:
        return json.loads(page.values("1")["by_hand"] or "{}")

    def press(name: str) -> None:
        page.page.get_by_role("button", name=name).click()

    assert page.page.get_by_role("status").filter(has_text="2 of 3 photos kept").count() == 1
    press("b.jpg: dropped. No face was found.")
    press("Keep this photo whatever")
    assert decided() == {"b.jpg": {"keep": True}}
    press("c.jpg")
    canvas = page.page.locator('[aria-roledescription="photo"] canvas')
    box = canvas.bounding_box()
    side = min(box["width"], box["height"])  # a picture that is not there counts as a square
    page.page.mouse.click(box["x"] + box["width"] / 2 + 0.3 * side, box["y"] + box["height"] / 2)
    assert decided()["c.jpg"] == {"face": [0.8, 0.5]}
    press("a.jpg")
    press("Set the eyes, nose and mouth")
    assert decided()["a.jpg"] == {"points": five}
    page.page.locator('[aria-roledescription="photo"]').focus()
    page.page.keyboard.press("ArrowRight")
    assert decided()["a.jpg"]["points"][0] == [0.405, 0.4]
    press("Forget what was decided")
    press("c.jpg")
    press("Leave this photo out")
    assert decided() == {"b.jpg": {"keep": True}, "c.jpg": {"face": [0.8, 0.5], "keep": False}}
    assert page.prompt()["1"]["inputs"]["by_hand"] == page.values("1")["by_hand"]
