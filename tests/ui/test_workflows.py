"""The workflow files in ComfyUI's page: they open without a warning and equal their API twins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import comfy
import face_test_pack
import page as comfy_page
import pytest

pytestmark = pytest.mark.skipif(
    comfy_page.browser_path() is None, reason="no chromium: apt-get install chromium, or set CHROMIUM"
)
WORKFLOWS = sorted(path.name for path in (comfy.ROOT / "workflows").glob("*.json"))
OPEN_TEMPLATE = """async ([pack, name]) => {
  const listed = await (await app.api.fetchApi("/workflow_templates")).json();
  if (!listed[pack].includes(name)) throw new Error(`${name} is no template`);
  const file = await app.api.fetchApi(`/workflow_templates/${pack}/${name}.json`);
  await app.loadGraphData(await file.json());
}"""
DECLARED = "async (kind) => (await app.api.fetchApi(`/object_info/${kind}`)).json()"
# As few as show that everything runs: the real numbers take minutes.
FEW = """(few) => {
  for (const node of app.graph._nodes)
    for (const widget of node.widgets ?? [])
      if (widget.name in few && typeof widget.value === "number")
        widget.value = widget.value > 0 ? Math.min(widget.value, few[widget.name]) : few[widget.name];
}"""
FINISHED = """() => new Promise((done) => {
  app.api.addEventListener("execution_success", () => done(""), {once: true});
  app.api.addEventListener("execution_error", ({detail}) => done(detail.exception_message), {once: true});
  setTimeout(() => done("nothing ran to its end in two minutes"), 120_000);
})"""
SHOWN = """() => app.graph._nodes
  .filter((node) => ["SaveImage", "PreviewImage", "SaveVideo"].includes(node.type))
  .filter((node) => !(app.nodeOutputs[node.id]?.images?.length))
  .map((node) => node.type)"""
UNKNOWN = "() => app.graph._nodes.map(n => n.type).filter(t => !(t in LiteGraph.registered_node_types))"
# Chosen values that their lists do not have.
NOT_THERE = """() => app.graph._nodes.flatMap((node) => (node.widgets ?? [])
  .filter(({value, options}) => Array.isArray(options?.values) && !options.values.includes(value))
  .map(({name, value}) => `${node.title}: ${name} ${value}`))"""
# What either frontend says of what is missing.
WARNINGS = (
    ".p-dialog:visible, .comfy-missing-nodes:visible, .p-toast-message:visible,"
    " [data-testid^=error-overlay]:visible, [data-testid^=missing-]:visible"
)


def needs_the_users_models(name: str) -> bool:
    """Models of core's nodes, which nobody but the user can bring."""
    return name.startswith("chain_")


@pytest.fixture(scope="module", params=["installed", comfy.FRONTEND])
def page(
    request: pytest.FixtureRequest,
    server: comfy.Server,
    newer: Future[comfy.Server],
    browser: Any,
    faces: None,
) -> Iterator[Any]:
    its = server if request.param == "installed" else newer.result()
    its.post("/settings", {"Comfy.VueNodes.Enabled": False})
    with comfy_page.open_page(its, browser) as opened:
        yield opened


def test_every_api_workflow_has_a_file_for_the_page_and_a_thumbnail(root: Path) -> None:
    twins = sorted(path.name for path in (root / "workflows" / "api").glob("*.json"))
    assert twins == WORKFLOWS
    thumbnails = {path.stem for path in (root / "workflows").glob("*.jpg")}
    assert thumbnails == {name.removesuffix(".json") for name in WORKFLOWS}


@pytest.fixture(scope="module")
def faces(server: comfy.Server, root: Path) -> None:
    """The template of photos needs face models."""
    link = server.base / "models" / "insightface"
    if not link.exists():  # other tests use the same server
        link.symlink_to(face_test_pack.make_pack(root / "build" / "face").parents[1])


def open_template(page: Any, name: str) -> None:
    """As a click on it does; nothing is missing, and nothing warns, once what its note asks for is there."""
    page.evaluate(OPEN_TEMPLATE, [comfy.PACK, name.removesuffix(".json")])
    page.wait_for_timeout(500)
    assert page.evaluate(UNKNOWN) == []
    assert page.locator(WARNINGS).count() == 0
    assert page.evaluate(NOT_THERE) == []


def without_inputs_of_newer_cores(page: Any, prompt: dict[str, Any], twin: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what core's own nodes have beyond the twin's inputs: optional ones at their defaults."""
    kept = {}
    for name, node in prompt.items():
        inputs, kind = dict(node["inputs"]), node["class_type"]
        added = inputs.keys() - twin.get(name, node)["inputs"].keys()
        if added and not kind.startswith("My3DGen"):
            declared = page.evaluate(DECLARED, kind)[kind]["input"].get("optional", {})
            for field in added & declared.keys():
                if declared[field][1].get("default") == inputs[field]:
                    del inputs[field]
        kept[name] = node | {"inputs": inputs}
    return kept


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_template_opens_without_a_warning_and_gives_its_api_twin_back(
    page: Any, root: Path, name: str
) -> None:
    open_template(page, name)
    twin = json.loads((root / "workflows" / "api" / name).read_text(encoding="utf-8"))
    prompt = comfy_page.same_prompt(page.evaluate("async () => (await app.graphToPrompt()).output"))
    assert without_inputs_of_newer_cores(page, prompt, twin) == comfy_page.same_prompt(twin)


FILES_OF_THE_USER = (".safetensors", ".pth", ".pkl", " my photos", " new photos")


def as_saved_now(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt of before, with the choices that stand for True and False today."""
    for node in prompt.values():
        for name in {"refine", "refine_cameras"} & node["inputs"].keys():
            node["inputs"][name] = "on" if node["inputs"][name] else "off"
    return prompt


def test_every_workflow_of_before_opens_and_means_what_it_meant(page: Any, root: Path) -> None:
    before = root / "tests" / "data" / "compatibility" / "workflows"
    opened = 0
    for file in sorted((before / "page").glob("*.json")):
        twin = as_saved_now(json.loads((before / "api" / file.name).read_text(encoding="utf-8")))
        page.evaluate(
            "async (saved) => app.loadGraphData(JSON.parse(saved))", file.read_text(encoding="utf-8")
        )
        assert page.evaluate(UNKNOWN) == []
        chosen = [text for text in page.evaluate(NOT_THERE) if not text.endswith(FILES_OF_THE_USER)]
        assert chosen == []
        prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
        for name, node in twin.items():  # inputs that are newer than the workflow have their defaults
            inputs = prompt[name]["inputs"]
            prompt[name]["inputs"] = {key: inputs[key] for key in inputs if key in node["inputs"]}
        assert comfy_page.same_prompt(prompt) == comfy_page.same_prompt(twin), file.name
        opened += 1
    assert opened == 23


def test_an_api_prompt_of_before_opens_with_choices_for_its_switches(page: Any, root: Path) -> None:
    file = root / "tests" / "data" / "compatibility" / "workflows" / "api" / "repose.json"
    saved = file.read_text(encoding="utf-8")
    page.evaluate("async (saved) => app.loadApiJson(JSON.parse(saved), 'before')", saved)
    assert page.evaluate(NOT_THERE) == []
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt["6"]["inputs"]["refine_cameras"] == "on"


def test_a_workflow_that_lacks_something_does_warn(page: Any, root: Path) -> None:
    workflow = (root / "workflows" / "demo_person.json").read_text(encoding="utf-8")
    page.evaluate(
        "async (workflow) => app.loadGraphData(JSON.parse(workflow))",
        workflow.replace("My3DGenRender", "Nobodys"),
    )
    page.locator(WARNINGS).first.wait_for(timeout=10_000)
    assert page.evaluate(UNKNOWN)
    page.keyboard.press("Escape")


def models_of(workflow: str) -> list[dict[str, str]]:
    """The model files that a workflow names with their download."""
    return [one for node in json.loads(workflow)["nodes"] for one in node["properties"].get("models", [])]


@pytest.mark.parametrize(("name", "count"), [("chain_controlnet", 3), ("chain_upscale", 1)])
def test_model_files_that_are_missing_are_offered_for_download(
    page: Any, root: Path, name: str, count: int
) -> None:
    workflow = (root / "workflows" / f"{name}.json").read_text(encoding="utf-8")
    models = models_of(workflow)
    assert len(models) == count
    for model in models:
        assert model["url"].endswith(f"/{model['name']}")
        workflow = workflow.replace(f'"{model["name"]}"', f'"nobodys_{model["name"]}"')
    page.evaluate("async (workflow) => app.loadGraphData(JSON.parse(workflow))", workflow)
    page.locator(WARNINGS).first.wait_for(timeout=10_000)
    details = page.get_by_test_id("error-overlay-see-errors")  # of the newer page
    if details.count():
        details.first.click()
    offered = page.locator("[data-testid=missing-model-download], .comfy-missing-models button").filter(
        has_text="Download"
    )
    offered.first.wait_for(timeout=10_000)
    assert [button.is_enabled() for button in offered.all()] == [True] * count
    page.keyboard.press("Escape")
    page.evaluate("() => app.graph.clear()")
    offered.first.wait_for(state="hidden", timeout=10_000)  # a dialog that is closing is not opened again


def runs(page: Any, name: str) -> None:
    """From its button to what it shows."""
    few = {"steps": 2, "shared_steps": 2, "frames": 2, "rows": 2, "at_most": 4, "count": 2, "resolution": 32}
    few |= {"samples": 50}
    page.evaluate(FEW, few)
    page.evaluate(f"() => {{ window.finished = ({FINISHED})(); }}")
    page.get_by_test_id("queue-button").first.click()
    assert page.evaluate("() => window.finished") == ""
    page.wait_for_timeout(300)
    assert page.evaluate(SHOWN) == []


@pytest.mark.parametrize("page", ["installed"], indirect=True)
@pytest.mark.parametrize("name", [name for name in WORKFLOWS if not needs_the_users_models(name)])
def test_a_template_runs_by_its_button_and_shows_the_result(page: Any, name: str) -> None:
    open_template(page, name)
    runs(page, name)


@pytest.mark.parametrize("page", [comfy.FRONTEND], indirect=True)
def test_a_template_runs_on_the_newer_frontend_too(page: Any) -> None:
    open_template(page, "alpha_space.json")
    runs(page, "alpha_space.json")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_lies_on_top_of_something_else(root: Path, name: str) -> None:
    nodes = json.loads((root / "workflows" / name).read_text(encoding="utf-8"))["nodes"]
    boxes = [(n["pos"][0], n["pos"][1] - 30, n["size"][0], n["size"][1] + 30) for n in nodes]
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, s, t in boxes[i + 1 :]:
            assert x + w <= u or u + s <= x or y + h <= v or v + t <= y
