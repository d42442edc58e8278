"""Make the workflow files that users open, in ComfyUI's own page in a headless browser, and check them.

    python tools/page.py                # workflows/NAME.json from workflows/api/NAME.json, for every NAME
    python tools/page.py NAME ...       # only these

The "note" of the first node of an API workflow becomes a note in the workflow, and the "models" of its nodes
are offered for download where they are missing. Other programs that need a
page import `open_page` and `RUN` from here: tools/screenshots.py, benchmarks/live.py, the browser tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import comfy

ATTEMPTS = 5
WORKFLOWS = comfy.ROOT / "workflows"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_BROWSER = "This needs chromium: apt-get install chromium, or set CHROMIUM."
READY = "window.app?.graph && Object.keys(LiteGraph.registered_node_types).length > 100"
# Arrange nodes in columns along the data flow, wide enough for every name.
TO_UI = """
async ([prompt, note]) => {
  await app.loadApiJson(JSON.parse(prompt), "workflow");
  const room = {SaveImage: 340, PreviewImage: 340, SaveVideo: 340, PreviewAny: 180};
  for (const node of app.graph._nodes) {
    const size = node.computeSize();
    node.size = [Math.max(320, size[0]), Math.max(room[node.type] ?? 0, size[1])];
  }
  app.graph.arrange(60);
  if (note) {
    const left = Math.min(...app.graph._nodes.map((node) => node.pos[0]));
    const top = Math.min(...app.graph._nodes.map((node) => node.pos[1]));
    const card = LiteGraph.createNode("MarkdownNote");
    card.title = "About this workflow";
    card.size = [420, 320];
    card.pos = [left - 480, top];
    app.graph.add(card);
    card.widgets[0].value = note;
  }
  return JSON.stringify(app.graph.serialize());
}
"""
TO_API = """
async (workflow) => {
  await app.loadGraphData(JSON.parse(workflow));
  return (await app.graphToPrompt()).output;
}
"""


# Queues the workflow as the button does; returns the error message, or an empty string.
RUN = """() => new Promise((done) => {
  app.api.addEventListener("execution_success", () => done(""), {once: true});
  app.api.addEventListener("execution_error", (event) => done(event.detail.exception_message), {once: true});
  app.queuePrompt(0, 1);
})"""


def browser_path() -> str | None:
    """Return the path of chromium, from CHROMIUM or the PATH; None if there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Open a headless playwright browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(server: comfy.Server, browser: Any = None) -> Iterator[Any]:
    """Open a playwright page with ComfyUI loaded, in the given browser or in a new one."""
    server.post("/settings", {"Comfy.TutorialCompleted": True})  # no templates dialog on the first start
    with nullcontext(browser) if browser else open_browser() as used:
        page = used.new_page(viewport={"width": 1600, "height": 1000})
        try:
            page.goto(f"http://{server.address}", wait_until="domcontentloaded", timeout=120_000)
            page.wait_for_function(READY, timeout=120_000)
            yield page
        finally:
            page.close()


def same_prompt(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a prompt that decide what runs, without titles, notes and the page's own texts."""
    return {
        name: {
            "class_type": node["class_type"],
            "inputs": {key: value for key, value in node["inputs"].items() if key != "preview"},
        }
        for name, node in prompt.items()
    }


def note_of(prompt: dict[str, Any]) -> str:
    """Return the note of a workflow, or an empty string."""
    return next(iter(prompt.values()))["_meta"].get("note", "")


def with_models(workflow: dict[str, Any], prompt: dict[str, Any]) -> dict[str, Any]:
    """Put the "models" of an API prompt's nodes where the page looks for them.

    Each names a file of the node, the folder of models it belongs to and a download: the page offers it if
    the file is missing.
    """
    for node in workflow["nodes"]:
        models = prompt.get(str(node["id"]), {}).get("_meta", {}).get("models")
        if models:
            node["properties"]["models"] = models
    return workflow


def main() -> int:
    sources = {source.stem: source for source in sorted((WORKFLOWS / "api").glob("*.json"))}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(sources)}; all by default")
    wanted = parser.parse_args().names or list(sources)
    if unknown := [name for name in wanted if name not in sources]:
        parser.error(f"There is no workflows/api/{unknown[0]}.json.")
    if browser_path() is None:
        print(NO_BROWSER, file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        comfy.Server(Path(folder)) as server,
        open_page(server) as page,
    ):
        for source in (sources[name] for name in wanted):
            prompt = json.loads(source.read_text(encoding="utf-8"))
            for _ in range(ATTEMPTS):
                workflow = page.evaluate(TO_UI, [json.dumps(prompt), note_of(prompt)])
                back = page.evaluate(TO_API, workflow)
                if same_prompt(back) == same_prompt(prompt):
                    break
                page.wait_for_timeout(2000)  # the page loaded its default workflow meanwhile
            if same_prompt(back) != same_prompt(prompt):
                print(f"{source.name} changed on its way through the page.", file=sys.stderr)
                return 1
            target = WORKFLOWS / source.name
            saved = with_models(json.loads(workflow), prompt)
            target.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
            print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
