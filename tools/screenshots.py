"""Take the pictures of every node for the help pages, in ComfyUI's real page: web/docs/pictures/NAME.webp.

    python tools/screenshots.py                     # all of them, in the dark theme
    python tools/screenshots.py [--light] [--vue] [--rtl] [--to FOLDER] [NAME ...]

Their workflows are in tools/scenes.py. A short training runs first; slow results are kept in the system's
folder for temporary files.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy
import face_test_pack
import page as comfy_page
import scenes
from scenes import DATASET, FOLDER, Prompt

TARGET = comfy.ROOT / "web" / "docs" / "pictures"  # where the help pages load them from
BASE = Path(tempfile.gettempdir()) / "screenshots" / "ComfyUI"  # its path may appear in a picture
QUALITY = 80  # of the WebP files, which should be small
MARGIN, GAP, TITLE = 8, 40, 30
# Move nodes side by side, far from all others, at scale 1; returns their area on the page in CSS pixels.
BRING = """async ([ids, sizes, margin, gap, title]) => {
  app.graph._nodes.forEach((node, i) => (node.pos = [(i % 10) * 900, Math.floor(i / 10) * 1300]));
  const nodes = ids.map((id) => app.graph.getNodeById(id));
  let right = 0;
  nodes.forEach((node, i) => {
    const least = node.computeSize();
    const [width, height] = sizes[i] ?? node.size;
    node.setSize([width, Math.max(height, least[1])]);
    node.pos = [right, -9000];
    right += node.size[0] + gap;
  });
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [margin + 60, 9000 + 160];
  app.canvas.deselectAll?.();
  document.activeElement?.blur();
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 700));
  const height = Math.max(...nodes.map((node) => node.flags.collapsed ? 0 : node.size[1]));
  // Badges above the titles stay out.
  return [60, 160 - title - 2, right - gap + 2 * margin, height + title + 2 + margin];
}"""
LAY_OUT = """async (prompt) => {
  await app.loadApiJson(prompt, "pictures");
  const workflow = app.graph.serialize();
  workflow.nodes.forEach((node, i) => (node.pos = [(i % 10) * 700, Math.floor(i / 10) * 900]));
  await app.loadGraphData(workflow);
}"""
PICTURED = """() => [...document.querySelectorAll("[aria-label=Anchors] button")]
  .every((anchor) => anchor.querySelector("canvas"))"""
ELEMENT = "([id, name]) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === name).element"


def numbered(prompt: Prompt) -> tuple[Prompt, dict[str, str]]:
    """Return the prompt with numeric node ids, as the page needs them, and the id of every name."""
    numbers = {name: str(i) for i, name in enumerate(prompt, 1)}

    def wire(value: Any) -> Any:
        return [numbers[value[0]], value[1]] if isinstance(value, list) else value

    return {
        numbers[name]: {**entry, "inputs": {key: wire(value) for key, value in entry["inputs"].items()}}
        for name, entry in prompt.items()
    }, numbers


def make_photos(folder: Path) -> None:
    """Write photos of the demo person: one with two faces, one cut off at the edge, one without a face."""
    from PIL import Image

    demo = sorted((comfy.ROOT / "my3dgen_core" / "starter" / "demo_person" / "photos").glob("*.jpg"))
    photos = [Image.open(file).convert("RGB") for file in demo[:8]]
    width, height = photos[0].size
    pair = Image.new("RGB", (2 * width, height))
    pair.paste(photos[4], (0, 0))
    pair.paste(photos[6].resize((width * 4 // 5, height * 4 // 5)), (width, height // 10))
    folder.mkdir(parents=True, exist_ok=True)
    for i, photo in enumerate(photos[:6]):
        photo.save(folder / f"{i}.jpg")
    pair.save(folder / "two.jpg")
    photos[1].crop((width * 45 // 100, 0, width, height)).save(folder / "cut.jpg")
    Image.new("RGB", (300, 200), (120, 150, 180)).save(folder / "wall.jpg")


def make_dataset(folder: Path) -> None:
    """Write the demo person's photos and cameras as EG3D's preprocessing writes a dataset."""
    demo = comfy.ROOT / "my3dgen_core" / "starter" / "demo_person"
    cameras = json.loads((demo / "cameras.json").read_text(encoding="utf-8"))["train"]
    folder.mkdir(parents=True, exist_ok=True)
    for name in cameras:
        shutil.copyfile(demo / name, folder / Path(name).name)
    labels = [[Path(name).name, camera] for name, camera in cameras.items()]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")


class Stage:
    """A page with one workflow in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.numbers: dict[str, str] = {}
        self.open = 0  # requests under way
        page.on("request", lambda _: self._count(1))
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda _: self._count(-1))

    def _count(self, by: int) -> None:
        self.open += by

    def play(self, prompt: Prompt, run: bool = True) -> None:
        """Lay out a workflow, and run it."""
        by_number, self.numbers = numbered(prompt)
        self.page.evaluate(LAY_OUT, by_number)
        failed = self.page.evaluate(comfy_page.RUN) if run else ""
        if failed:
            raise comfy.ComfyError(failed)

    def bring(self, nodes: dict[str, list[int] | None], sized: bool = True) -> dict[str, float]:
        """Move nodes into view, resized or not; return the area of the page that they fill."""
        ids = [self.numbers[name] for name in nodes]
        sizes = list(nodes.values()) if sized else [None] * len(ids)
        x, y, width, height = self.page.evaluate(BRING, [ids, sizes, MARGIN, GAP, TITLE])
        return {"x": x, "y": y, "width": width, "height": height}

    def widget(self, name: str, widget: str) -> Any:
        return self.page.evaluate_handle(ELEMENT, [self.numbers[name], widget]).as_element()

    def drag(self, target: Any, right: float, down: float, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Drag by this many pixels, from a point of the element given as fractions of its size."""
        box = target.bounding_box()
        x, y = box["x"] + box["width"] * at[0], box["y"] + box["height"] * at[1]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + right, y + down, steps=6)
        self.page.mouse.up()
        self.still()

    def still(self) -> None:
        """Wait until the page is idle: two seconds without a request, at most a minute."""
        quiet = 0
        for _ in range(300):
            self.page.wait_for_timeout(200)
            quiet = 0 if self.open > 0 else quiet + 1
            if quiet == 10:
                return


def camera_pad(stage: Stage) -> None:
    stage.drag(stage.widget("camera", "camera_pad"), 30, 10)


def mixer(stage: Stage) -> None:
    stage.page.wait_for_function(PICTURED, timeout=180_000)
    stage.drag(stage.page.locator('[aria-roledescription="weights of anchors"]').first, 6, -14)


def sliders(stage: Stage) -> None:
    slider = stage.widget("older", "direction_slider").query_selector('input[type="range"]')
    slider.focus()
    for _ in range(5):
        stage.page.keyboard.press("ArrowRight")
    stage.still()


def path(stage: Stage) -> None:
    stage.page.locator('[aria-roledescription="camera path"]').first.focus()
    for _ in range(2):
        stage.page.keyboard.press("PageDown")
    stage.still()


def report(stage: Stage) -> None:
    stage.page.get_by_role("button", name="cut.jpg").click()
    stage.page.get_by_role("button", name="Keep this photo").click()
    stage.page.get_by_role("button", name="two.jpg").click()
    photo = stage.page.locator('[aria-roledescription="photo"]')
    box = photo.bounding_box()
    stage.page.mouse.click(box["x"] + 0.68 * box["width"], box["y"] + 0.55 * box["height"])
    stage.still()


def slowly(stage: Stage) -> None:
    """Wait for the slow 3D viewer."""
    stage.still()
    stage.page.wait_for_timeout(6000)


@dataclass(frozen=True)
class Scene:
    """A picture of a help page."""

    play: str
    """Name of its workflow."""
    nodes: dict[str, list[int] | None]
    """Names of the nodes to show, with their widths and heights, or None to keep a node's size."""
    act: Callable[[Stage], None] = Stage.still
    """Action before the picture is taken."""


STRIP, TALL = [560, 330], [400, 420]
SCENES = {
    "camera_pad": Scene("personal", {"camera": [320, 520]}, camera_pad),
    "alpha_mixer": Scene("personal", {"mix": [480, 480]}, mixer),
    "direction_sliders": Scene("personal", {"older": [340, 760]}, sliders),
    "camera_path": Scene("personal", {"path": [520, 560]}, path),
    "orbit_viewer": Scene("personal", {"orbit": [340, 560]}),
    "photo_report": Scene("personal", {"align": [460, 900]}, report),
    "training_monitor": Scene("personal", {"train": [380, 860]}),
    "save_identity": Scene("personal", {"save": [340, 120], "file": [420, 120]}),
    "load_generator": Scene("known", {"load": [320, 140], "mean shown": [300, 320]}),
    "load_photos": Scene("known", {"photos": [320, 200], "photos shown": STRIP}),
    "load_demo_person": Scene("known", {"crops": [320, 140], "crops shown": STRIP}),
    "load_eg3d_dataset": Scene("known", {"dataset": [320, 260], "dataset shown": STRIP}),
    "invert": Scene("known", {"invert": [320, 420], "inverted": STRIP}),
    "pivotal_tuning": Scene("known", {"tune": [340, 560], "tuned": [300, 320]}),
    "apply_identity": Scene("known", {"apply": [300, 120], "person shown": TALL}),
    "camera_keyframes": Scene("known", {"above": [280, 440], "keys": [300, 260], "keys shown": [360, 380]}),
    "camera_to_load_3d": Scene("known", {"to view": [300, 100], "view shown": [460, 180]}),
    "widen_view": Scene("known", {"wide": [300, 120], "wide shown": [360, 380]}),
    "paste_back": Scene("known", {"paste": [300, 160], "pasted": [360, 380]}),
    "compare": Scene("known", {"compare": [300, 240], "compared": [600, 300]}),
    "comparison_grid": Scene("known", {"grid": [320, 360], "gridded": [620, 300]}),
    "random_latent": Scene("known", {"random": [300, 160], "random shown": STRIP}),
    "save_latents": Scene("known", {"keep": [340, 100], "kept": [420, 120]}),
    "sample_alpha_space": Scene("known", {"sample": [320, 220], "sample shown": STRIP}),
    "project_alpha_space": Scene("known", {"project": [320, 320], "projected": [520, 320]}),
    "interpolate_latents": Scene("known", {"way": [320, 160], "way shown": STRIP}),
    "restore_photos": Scene(
        "known", {"covered shown": [320, 240], "restore": [320, 320], "restored": [320, 240]}
    ),
    "mix_persons": Scene("known", {"blend": [300, 140], "blend shown": TALL}),
    "interpolate_persons": Scene("known", {"between": [320, 260], "between shown": STRIP}),
    "load_direction": Scene("known", {"beard": [320, 120], "beard shown": TALL}),
    "find_direction": Scene("known", {"find": [340, 360], "found shown": TALL}),
    "direction_from_examples": Scene("known", {"examples": [320, 120], "examples shown": TALL}),
    "component_sheet": Scene("known", {"components": [320, 200], "components shown": [520, 360]}),
    "extract_mesh": Scene("known", {"mesh": [320, 300], "mesh shown": [360, 420]}, slowly),
    "identity_card": Scene("kept", {"card": [360, 400]}),
    "load_latents": Scene("kept", {"looks": [320, 90], "looks shown": STRIP}),
    "camera_from_load_3d": Scene("three_d", {"view": [360, 520], "from view": [300, 140]}, slowly),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCENES)}; all of them by default")
    parser.add_argument("--to", type=Path, default=TARGET, help="output folder")
    parser.add_argument("--light", action="store_true", help="the light theme")
    parser.add_argument("--vue", action="store_true", help="Nodes 2.0")
    parser.add_argument("--rtl", action="store_true", help="right-to-left layout")
    parser.add_argument("--steps", type=int, default=80, help="training steps")
    arguments = parser.parse_args()
    if comfy_page.browser_path() is None:
        print(comfy_page.NO_BROWSER, file=sys.stderr)
        return 1
    base = comfy.make_base(BASE)
    models = base / "models" / "insightface"
    if not models.exists():
        models.symlink_to(face_test_pack.make_pack(comfy.ROOT / "build" / "face").parents[1])
    make_photos(base / "input" / FOLDER)
    make_dataset(base / "input" / DATASET)
    arguments.to.mkdir(parents=True, exist_ok=True)
    with comfy.Server(base) as server:
        take(server, arguments)
    return 0


def take(server: comfy.Server, arguments: argparse.Namespace) -> None:
    """Take the wanted pictures, workflow by workflow."""
    server.post("/settings", {"Comfy.ColorPalette": "light" if arguments.light else "dark"})
    server.post("/settings", {"Comfy.VueNodes.Enabled": arguments.vue})
    made = server.output / "my3dgen"
    plays: dict[str, Callable[[], Prompt]] = {
        "personal": lambda: scenes.personal(arguments.steps),
        "known": lambda: scenes.KNOWN,
        "kept": lambda: scenes.kept(made),
        "three_d": lambda: scenes.three_d(server.base / "input", made),
    }
    wanted = arguments.names or list(SCENES)
    needed = {SCENES[name].play for name in wanted}
    if needed & {"kept", "three_d"} and not (made / "meshes").is_dir():
        needed |= {"personal", "known"}  # they write what the others load
    with comfy_page.open_page(server) as page:
        page.set_viewport_size({"width": 1600, "height": 1500})
        if arguments.rtl:
            page.evaluate("() => { document.documentElement.dir = 'rtl'; }")
        stage = Stage(page)
        for play, prompt in plays.items():
            if play not in needed:
                continue
            chosen = [name for name in wanted if SCENES[name].play == play]
            whole = prompt()
            if play == "known" and chosen:  # the other workflows are small, and their widgets need all nodes
                needed_nodes = comfy.upstream(whole, (node for name in chosen for node in SCENES[name].nodes))
                whole = {name: entry for name, entry in whole.items() if name in needed_nodes}
            # ComfyUI's 3D viewer does not finish without a screen.
            stage.play(whole, run=play != "three_d")
            for name in chosen:
                file = arguments.to / f"{name}.webp"
                file.write_bytes(picture(stage, SCENES[name]))
                print(file, file.stat().st_size, flush=True)


def picture(stage: Stage, scene: Scene) -> bytes:
    """Return the scene as a small WebP file."""
    from PIL import Image

    stage.bring(scene.nodes)
    scene.act(stage)
    clip = stage.bring(scene.nodes, sized=False)
    made = io.BytesIO()
    taken = Image.open(io.BytesIO(stage.page.screenshot(clip=clip))).convert("RGB")
    taken.save(made, "WEBP", quality=QUALITY, method=6)
    return made.getvalue()


if __name__ == "__main__":
    sys.exit(main())
