"""Pictures of every widget at work, in ComfyUI's real page: web/docs/pictures/NAME.png.

    python tools/page.py screenshots            # with the page's dark colours
    python tools/page.py screenshots --light --to FOLDER [--vue] [NAME ...]

The demo person is trained first, briefly; inverting her photos is done once and kept in build/screenshots.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy
import face_test_pack

Prompt = dict[str, Any]
TARGET = comfy.ROOT / "web" / "docs" / "pictures"  # where the page finds them for its help
FOLDER, PERSON = "screenshots", "demo"
COLOURS = 200  # of a picture's palette: pictures for a page of help should be small
# The node alone in the middle of the page, at scale 1, as it lies on the page in CSS pixels.
BRING = """async ([id, size]) => {
  const node = app.graph.getNodeById(id);
  if (size) node.setSize(size);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [60 - node.pos[0], 200 - node.pos[1]];
  app.canvas.deselectAll?.();
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 700));
  return [54, 200 - 36, node.size[0] + 12, node.size[1] + 42];
}"""
LAY_OUT = """async (prompt) => {
  await app.loadApiJson(prompt, "widgets");
  const workflow = app.graph.serialize();
  workflow.nodes.forEach((node, i) => (node.pos = [(i % 6) * 700, Math.floor(i / 6) * 900]));
  await app.loadGraphData(workflow);
}"""
ELEMENT = "([id, name]) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === name).element"


def node(kind: str, **inputs: Any) -> Prompt:
    return {"class_type": f"My3DGen{kind}", "inputs": inputs}


def person(steps: int) -> Prompt:
    """Every node that has a widget, on the demo person. Her photos, then one of somebody else."""
    seen = {"which": "mean", "index": 0, "batch_size": 4}
    edit = {"which": "mean", "index": 0, "steps": 1, "sweep_from": 0.0, "layers": "", "beta": 0.2}
    return {
        "1": node("LoadGenerator", file="starter"),
        "2": node("LoadDemoPerson", views="photos", at_most=12),
        "3": node(
            "Invert",
            model=["1", 0],
            images=["2", 0],
            cameras=["2", 1],
            steps=25,
            shared_steps=60,
            space="w",
            learning_rate=0.05,
            batch_size=4,
            seed=0,
        ),
        "4": node(
            "TrainIdentity",
            model=["1", 0],
            images=["2", 0],
            anchors=["3", 0],
            steps=steps,
            method="lora",
            rank=1,
            learning_rate=0.01,
            batch_size=1,
            seed=0,
        ),
        "5": node("ApplyIdentity", model=["1", 0], identity=["4", 0], strength=1.0),
        "6": node("MixAnchors", identity=["4", 0], weights="0: 0.5, 4: 0.3, 7: 0.2, 9: 0", beta=0.1),
        "7": node("LoadDirection", model=["1", 0], file="starter: smile", attribute=""),
        "8": node(
            "ApplyDirection",
            latents=["6", 0],
            direction=["7", 0],
            strength=1.0,
            edge="continue",
            identity=["4", 0],
            **edit,
        ),
        "9": node("LoadDirection", model=["1", 0], file="starter: age", attribute=""),
        "10": node(
            "ApplyDirection",
            latents=["8", 0],
            direction=["9", 0],
            strength=0.5,
            edge="continue",
            identity=["4", 0],
            **edit,
        ),
        "11": node(
            "Camera", yaw=-25.0, pitch=8.0, roll=0.0, distance=2.7, field_of_view=13.3738, model=["1", 0]
        ),
        "12": node("Render", model=["5", 0], latents=["10", 0], cameras=["11", 0], **seen),
        "13": node(
            "CameraPath",
            path="closed keyframes",
            frames=24,
            yaw=34.0,
            pitch=14.0,
            center_pitch=0.0,
            keyframes="-45 -8, -20 22, 15 12, 50 18, 30 -20",
            model=["1", 0],
        ),
        "14": node("Render", model=["5", 0], latents=["3", 0], cameras=["13", 0], **seen),
        "15": node(
            "SaveIdentity",
            identity=["4", 0],
            filename_prefix=f"my3dgen/identities/{PERSON}",
            precision="float32",
        ),
        "18": node("LoadPhotos", folder=FOLDER, at_most=50, longest_side=1024, subfolders=False),
        "19": node(
            "AlignFaces",
            photos=["18", 0],
            names=["18", 1],
            face_models="auto",
            which="largest",
            upright=True,
            same_person=False,
            drop_different=False,
            by_hand="",
        ),
        "20": {"class_type": "PreviewImage", "inputs": {"images": ["19", 4]}},
        "16": {"class_type": "PreviewImage", "inputs": {"images": ["12", 0]}},
        "17": {"class_type": "PreviewImage", "inputs": {"images": ["14", 0]}},
    }


def make_photos(folder: Path) -> None:
    """Photos of the demo person as photos come: one with two faces, one cut by its edge, an empty one."""
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


class Stage:
    """The page with the person on it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def bring(self, number: str, size: list[int] | None) -> dict[str, float]:
        x, y, width, height = self.page.evaluate(BRING, [number, size])
        return {"x": x, "y": y, "width": width, "height": height}

    def widget(self, number: str, name: str) -> Any:
        return self.page.evaluate_handle(ELEMENT, [number, name]).as_element()

    def drag(self, target: Any, right: float, down: float, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """From a place of the element, as parts of its size, by so many pixels."""
        box = target.bounding_box()
        x, y = box["x"] + box["width"] * at[0], box["y"] + box["height"] * at[1]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + right, y + down, steps=6)
        self.page.mouse.up()
        self.page.wait_for_timeout(2500)

    def still(self) -> None:
        self.page.wait_for_timeout(2500)


def camera_pad(stage: Stage) -> None:
    stage.drag(stage.widget("11", "camera_pad"), 30, 10)


def mixer(stage: Stage) -> None:
    stage.page.wait_for_timeout(6000)  # its thumbnails
    stage.drag(stage.page.locator('[aria-roledescription="weights of anchors"]').first, 6, -14)


def sliders(stage: Stage) -> None:
    slider = stage.widget("10", "direction_slider").query_selector('input[type="range"]')
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


def card(folder: Path) -> Prompt:
    """The person that was saved last, loaded."""
    newest = max(folder.glob(f"{PERSON}_*.safetensors"), key=lambda file: file.stat().st_mtime)
    loaded = node("LoadIdentity", file=newest.name)
    return {
        "21": loaded,
        "22": node("SaveLatents", latents=["21", 1], filename_prefix="my3dgen/latents/demo"),
    }


def nothing(stage: Stage) -> None:
    stage.still()


# name: the node's number, its size or None, what is done with it
SCENES: dict[str, tuple[str, list[int] | None, Callable[[Stage], None]]] = {
    "camera_pad": ("11", [320, 520], camera_pad),
    "alpha_mixer": ("6", [480, 480], mixer),
    "direction_sliders": ("10", [340, 760], sliders),
    "camera_path": ("13", [520, 560], path),
    "orbit_viewer": ("14", [340, 560], nothing),
    "photo_report": ("19", [460, 900], report),
    "training_monitor": ("4", [380, 820], nothing),
    "identity_card": ("21", [340, 330], nothing),  # the last: it is a workflow of its own
}


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCENES)}; all of them by default")
    parser.add_argument("--to", type=Path, default=TARGET)
    parser.add_argument("--light", action="store_true", help="the page's light colours")
    parser.add_argument("--vue", action="store_true", help="Nodes 2.0")
    parser.add_argument("--steps", type=int, default=80, help="of the training")
    arguments = parser.parse_args(given)
    base = comfy.make_base(comfy.ROOT / "build" / "screenshots")
    models = base / "models" / "insightface"
    if not models.exists():
        models.symlink_to(face_test_pack.make_pack(comfy.ROOT / "build" / "face").parents[1])
    make_photos(base / "input" / FOLDER)
    arguments.to.mkdir(parents=True, exist_ok=True)
    with comfy.Server(base) as server:
        take(server, arguments)
    return 0


def take(server: comfy.Server, arguments: argparse.Namespace) -> None:
    from page import RUN, open_page

    server.post("/settings", {"Comfy.ColorPalette": "light" if arguments.light else "dark"})
    server.post("/settings", {"Comfy.VueNodes.Enabled": arguments.vue})
    with open_page(server) as page:
        page.set_viewport_size({"width": 1600, "height": 1500})
        stage = Stage(page)
        page.evaluate(LAY_OUT, person(arguments.steps))
        failed = page.evaluate(RUN)
        if failed:
            raise comfy.ComfyError(failed)
        for name in arguments.names or SCENES:
            number, size, act = SCENES[name]
            if name == "identity_card":
                page.evaluate(LAY_OUT, card(server.output / "my3dgen" / "identities"))
                page.evaluate(RUN)
            stage.bring(number, size)
            act(stage)
            clip = stage.bring(number, None)
            file = arguments.to / f"{name}.png"
            file.write_bytes(small(page.screenshot(clip=clip)))
            print(file, file.stat().st_size)


def small(png: bytes) -> bytes:
    """The same picture with a palette."""
    from PIL import Image

    made = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        made, "PNG", optimize=True
    )
    return made.getvalue()
