"""The search field of Load Identity."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompts import node
from widget_page import ELEMENT, Page, needs_browser, oldest_and_newest

from my3dgen_core import starter

pytestmark = [needs_browser, pytest.mark.usefixtures("no_error_of_ours")]
DEMO = Path(starter.__file__).parent / "demo_identity.safetensors"
CROWD = 230
"""Files that are newer than those that are searched for, more than the node's own list has."""


@pytest.fixture
def crowd(page: Page) -> Iterator[Path]:
    folder = page.server.base / "models" / "my3dgen" / "identities" / "crowd"
    folder.mkdir(parents=True)
    for name in ("old anna", "old <b>bert"):
        shutil.copy2(DEMO, folder / f"{name}.safetensors")
    for number in range(CROWD):
        (folder / f"{number:03}.safetensors").touch()
    yield folder
    shutil.rmtree(folder)


def field(page: Page) -> Any:
    page.open({"1": node("LoadIdentity", file="starter: demo person")})
    widget = page.page.evaluate_handle(ELEMENT, ["1", "identity_search"]).as_element()
    return widget.query_selector("input")


def options(page: Page) -> Any:
    return page.page.get_by_role("listbox", name="Identities found").get_by_role("option")


@oldest_and_newest
def test_an_identity_beyond_the_list_is_found_by_name_chosen_by_keys_and_saved(
    page: Page, crowd: Path
) -> None:
    listed = page.server.get("/object_info/My3DGenLoadIdentity")["My3DGenLoadIdentity"]["input"]["required"]
    assert len(listed["file"][0]) == 202
    assert "crowd/old anna.safetensors" not in listed["file"][0]
    search = field(page)
    search.fill("CROWD old")
    options(page).nth(1).wait_for()
    page.page.wait_for_function(
        "() => document.querySelectorAll('[role=listbox] [role=option]').length === 2"
    )
    shown = options(page).all_inner_texts()
    assert [text.strip() for text in shown] == [
        "crowd/old <b>bert.safetensors",
        "crowd/old anna.safetensors",
    ]
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Enter")
    assert page.values("1")["file"] == "crowd/old anna.safetensors"
    assert options(page).count() == 0 or not options(page).first.is_visible()
    assert page.prompt()["1"]["inputs"] == {"file": "crowd/old anna.safetensors"}
    saved = page.page.evaluate("() => JSON.stringify(app.graph.serialize())")
    page.page.evaluate("async (saved) => app.loadGraphData(JSON.parse(saved))", saved)
    page.page.wait_for_timeout(300)
    assert page.values("1")["file"] == "crowd/old anna.safetensors"
    assert page.prompt()["1"]["inputs"] == {"file": "crowd/old anna.safetensors"}


@oldest_and_newest
def test_a_result_is_chosen_by_mouse_and_escape_chooses_nothing(page: Page, crowd: Path) -> None:
    search = field(page)
    search.click()
    options(page).nth(49).wait_for()
    listbox = page.page.get_by_role("listbox", name="Identities found")
    assert options(page).count() == 50
    assert listbox.get_by_role("note").inner_text() == "and {} more: type another word".format(
        page.server.get("/my3dgen/identities?limit=50")["total"] - 50
    )
    page.page.keyboard.press("Escape")
    listbox.wait_for(state="hidden")
    assert page.values("1")["file"] == "starter: demo person"
    search.fill("second")
    options(page).filter(has_text="second person").wait_for()
    options(page).filter(has_text="second person").click()
    assert page.values("1")["file"] == "starter: second person"
    search.fill("nobody of this name")
    listbox.get_by_role("note").filter(has_text="No identity").wait_for()
    page.page.evaluate("() => app.graph.clear()")
    page.page.wait_for_function("() => !document.querySelector('[role=listbox][id^=my3dgen]')")
