"""Make the subgraph blueprints, ready-made parts of a workflow that ComfyUI's page lists beside its nodes.

    python tools/blueprints.py            # every file of subgraphs/
    python tools/blueprints.py NAME ...   # only these
    python tools/blueprints.py --picture  # also docs/blueprints.webp, which shows them side by side

`BLUEPRINTS` has their nodes and what each shows of them outside; ComfyUI's page, in a headless browser,
arranges the nodes and checks the files.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import sys
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy
import page as comfy_page

Prompt = dict[str, Any]
FOLDER = comfy.ROOT / "subgraphs"
PICTURE = comfy.ROOT / "docs" / "blueprints.webp"
CATEGORY = "My3DGen"
INSIDE, OUTSIDE = -10, -20
"""Ids, in the file format, of the node of a subgraph's inputs and of that of its outputs."""
HOST = 1
"""Id of the node that stands for the subgraph."""


@dataclass(frozen=True)
class Blueprint:
    """Nodes that become one node."""

    name: str
    """Title of the node and name of its file."""
    description: str
    words: tuple[str, ...]
    """Other words to search for it."""
    nodes: Prompt
    """API prompt; inputs that come from outside are left out."""
    inputs: dict[str, tuple[str, ...]]
    """Name of each input outside and the inputs inside that it sets, each as "node.input".

    Those with a widget keep the widget, with the value that the first of them has inside.
    """
    outputs: dict[str, str]
    """Name of each output outside and the output inside, as "node.output"."""


def own(kind: str, title: str, **inputs: Any) -> Prompt:
    """Return the entry of one of the pack's nodes."""
    return core(f"My3DGen{kind}", title, **inputs)


def core(kind: str, title: str, **inputs: Any) -> Prompt:
    """Return the entry of a node of ComfyUI."""
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}


GENERATOR = own("LoadGenerator", "Generator", file="starter", convert=False, renderer="auto", memory_limit=0)
PERSON = own("LoadIdentity", "Person", file="starter: demo person")
ALIGN = own(
    "AlignFaces",
    "Align Faces",
    face_models="auto",
    which="largest",
    upright=True,
    same_person=False,
    drop_different=False,
    sequence=False,
    neck=True,
    by_hand="",
    at_most=20,
)


def invert(title: str, model: str, crops: str, refine_cameras: str) -> Prompt:
    """Return the entry of Invert Photos, from the entries of a model and of Align Faces."""
    return own(
        "Invert",
        title,
        model=[model, 0],
        images=[crops, 0],
        cameras=[crops, 1],
        steps=0,
        shared_steps=-1,
        space="w",
        learning_rate=0.0,
        batch_size=4,
        seed=0,
        masks=[crops, 2],
        cache=True,
        one_look=False,
        refine_cameras=refine_cameras,
    )


PHOTOS_TO_PERSON = Blueprint(
    "Photos to Person (My3DGen)",
    "Personalizes a 3D head generator with 10 to 50 photos of one person: aligns the faces, inverts the "
    "photos, trains the identity and saves it for Load Identity. Connect Load Photo Folder. Needs face "
    "models.",
    ("personalize", "train identity", "face lora", "avatar", "3d head", "portrait", "photo to 3d"),
    {
        "1": GENERATOR,
        "2": ALIGN,
        "3": invert("Invert Photos", model="1", crops="2", refine_cameras="auto"),
        "4": own(
            "TrainIdentity",
            "Train Identity",
            model=["1", 0],
            images=["2", 0],
            anchors=["3", 0],
            steps=0,
            method="lora",
            rank=1,
            learning_rate=0.0,
            batch_size=1,
            seed=0,
            masks=["2", 2],
            layout="released",
            background_weight=-1.0,
            refine="auto",
            keep_state=False,
            perceptual="laplacian",
            identity_weight=0.0,
            face_models="auto",
            heads=["2", 6],
        ),
        "5": own(
            "SaveIdentity",
            "Save Identity",
            identity=["4", 0],
            filename_prefix="my3dgen/identities/person",
            precision="float32",
        ),
        "6": own("ApplyIdentity", "Apply Identity", model=["1", 0], identity=["4", 0], strength=1.0),
        "7": own(
            "Compare",
            "Compare with Photos",
            pretrained=["1", 0],
            personalized=["6", 0],
            images=["2", 0],
            anchors=["3", 0],
            rows=5,
            novel_yaw=32.0,
            cell=192,
        ),
    },
    {
        "photos": ("2.photos",),
        "names": ("2.names",),
        "generator": ("1.file",),
        "face_models": ("2.face_models", "4.face_models"),
        "drop_different": ("2.drop_different",),
        "training_steps": ("4.steps",),
        "save_as": ("5.filename_prefix",),
    },
    {
        "model": "6.model",
        "identity": "4.identity",
        "anchors": "3.latents",
        "file": "5.file",
        "photos used": "2.overview",
        "comparison": "7.sheet",
    },
)

PERSON_TO_VIDEO = Blueprint(
    "Person to Orbit Video (My3DGen)",
    "Renders a saved identity from a camera path around the head, as a video and as frames with head masks. "
    "Connect Save Video. Begins with the bundled demo person and needs nothing else.",
    ("turntable", "camera orbit", "head rotation", "3d portrait video", "novel view", "avatar"),
    {
        "1": GENERATOR,
        "2": PERSON,
        "3": own("ApplyIdentity", "Apply Identity", model=["1", 0], identity=["2", 0], strength=1.0),
        "4": own(
            "CameraPath",
            "Camera Path",
            path="ellipse",
            frames=48,
            yaw=34.0,
            pitch=12.0,
            center_pitch=0.0,
            model=["1", 0],
            fps=24.0,
            keyframes="-30 0, 0 12, 30 0",
        ),
        "5": own(
            "Render",
            "Render the Orbit",
            model=["3", 0],
            latents=["2", 1],
            which="mean",
            index=0,
            batch_size=4,
            cameras=["4", 0],
            grid=False,
            cut_behind=-2.0,
        ),
        "6": core("CreateVideo", "Create Video", images=["5", 0], fps=["4", 3]),
    },
    {
        "generator": ("1.file",),
        "person": ("2.file",),
        "path": ("4.path",),
        "frames": ("4.frames",),
        "yaw": ("4.yaw",),
        "pitch": ("4.pitch",),
        "fps": ("4.fps",),
    },
    {"video": "6.VIDEO", "images": "5.images", "head": "5.head", "cameras": "4.cameras"},
)

EDIT_PHOTO = Blueprint(
    "Edit a Photo of the Person (My3DGen)",
    "Changes a smile, age or another attribute in a photo of a person whose identity was saved: inverts and "
    "tunes the photo, moves it along a direction and pastes the head back. Connect Load Image. Needs face "
    "models.",
    ("smile", "age", "expression", "face edit", "semantic edit", "attribute slider", "photo retouch"),
    {
        "1": GENERATOR,
        "2": PERSON,
        "3": own("ApplyIdentity", "Apply Identity", model=["1", 0], identity=["2", 0], strength=1.0),
        "4": ALIGN,
        "5": invert("Invert with the Identity", model="3", crops="4", refine_cameras="on"),
        "6": own(
            "PivotalTuning",
            "Pivotal Tuning",
            model=["3", 0],
            images=["4", 0],
            latents=["5", 0],
            steps=0,
            method="lora",
            learning_rate=0.01,
            seed=0,
            masks=["4", 2],
        ),
        "7": own(
            "LoadDirection", "Direction", model=["1", 0], file="starter: demo_person_smile", attribute=""
        ),
        "8": own(
            "ApplyDirection",
            "Apply Direction",
            latents=["5", 0],
            direction=["7", 0],
            which="every",
            index=0,
            strength=6.0,
            steps=1,
            sweep_from=0.0,
            layers="",
            edge="continue",
            beta=0.02,
        ),
        "9": own(
            "Render",
            "Render the Edited Head",
            model=["6", 2],
            latents=["8", 0],
            which="every",
            index=0,
            batch_size=2,
            grid=False,
            cut_behind=-2.0,
        ),
        "10": own(
            "PasteBack",
            "Paste Back",
            crops=["4", 5],
            images=["9", 0],
            feather=10.0,
            masks=["9", 1],
            wider=1.0,
            even_sides=False,
        ),
    },
    {
        "photo": ("4.photos", "10.photos"),
        "generator": ("1.file",),
        "person": ("2.file",),
        "face_models": ("4.face_models",),
        "direction": ("7.file",),
        "strength": ("8.strength",),
    },
    {"photo": "10.photos", "face": "9.images", "before": "6.image", "report": "10.report"},
)

BLUEPRINTS = {one.name: one for one in (PHOTOS_TO_PERSON, PERSON_TO_VIDEO, EDIT_PHOTO)}


def wrap(blueprint: Blueprint, workflow: dict[str, Any]) -> dict[str, Any]:
    """Return a blueprint's file.

    Args:
        blueprint: what it shows outside.
        workflow: its nodes, arranged, as the page saves them.
    """
    nodes = {str(node["id"]): copy.deepcopy(node) for node in workflow["nodes"]}
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
        for link in workflow["links"]
    ]
    inputs = [_input(blueprint, nodes, links, slot) for slot in range(len(blueprint.inputs))]
    outputs = [_output(blueprint, nodes, links, slot) for slot in range(len(blueprint.outputs))]
    widgets = sum(has_widget for _, has_widget in inputs)
    left = min(node["pos"][0] for node in nodes.values())
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    top = min(node["pos"][1] for node in nodes.values())
    subgraph = {
        "id": _id(blueprint, "subgraph"),
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": max(map(int, nodes)),
            "lastLinkId": max(link["id"] for link in links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "category": CATEGORY,
        "description": blueprint.description,
        "inputNode": {"id": INSIDE, "bounding": [left - 240, top, 160, 40 + 20 * len(inputs)]},
        "outputNode": {"id": OUTSIDE, "bounding": [right + 80, top, 160, 40 + 20 * len(outputs)]},
        "inputs": [slot for slot, _ in inputs],
        "outputs": outputs,
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {},
    }
    host = {
        "id": HOST,
        "type": subgraph["id"],
        "pos": [0, 0],
        "size": [380, 50 + 20 * max(len(inputs) - widgets, len(outputs)) + 26 * widgets],
        "flags": {},
        "order": 0,
        "mode": 0,
        "title": blueprint.name,
        "inputs": [
            {"name": slot["name"], "type": slot["type"], "link": None}
            | ({"widget": {"name": slot["name"]}} if has_widget else {})
            for slot, has_widget in inputs
        ],
        "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in outputs],
        "properties": {"proxyWidgets": []},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": HOST,
        "last_link_id": 0,
        "nodes": [host],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {
            "BlueprintDescription": blueprint.description,
            "BlueprintSearchAliases": list(blueprint.words),
        },
    }


def _id(blueprint: Blueprint, what: str) -> str:
    """Return an id that is the same each time the file is made."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"my3dgen/{blueprint.name}/{what}"))


def _link(links: list[dict[str, Any]], **link: Any) -> int:
    number = 1 + max((one["id"] for one in links), default=0)
    links.append({"id": number, **link})
    return number


def _named(slots: list[dict[str, Any]], name: str) -> int:
    return next(number for number, slot in enumerate(slots) if slot["name"] == name)


def _input(
    blueprint: Blueprint, nodes: dict[str, Any], links: list[dict[str, Any]], slot: int
) -> tuple[dict[str, Any], bool]:
    """Connect an input with those inside; return it, and whether it has a widget."""
    name, inside = list(blueprint.inputs.items())[slot]
    ids: list[int] = []
    found: dict[str, Any] = {}
    for place in reversed(inside):
        key, wanted = place.split(".")
        number = _named(nodes[key]["inputs"], wanted)
        found = nodes[key]["inputs"][number]
        target = {"target_id": int(key), "target_slot": number}
        found["link"] = _link(links, origin_id=INSIDE, origin_slot=slot, **target, type=found["type"])
        ids.insert(0, found["link"])
    described = {"id": _id(blueprint, f"input {name}"), "name": name, "type": found["type"], "linkIds": ids}
    return described, "widget" in found


def _output(
    blueprint: Blueprint, nodes: dict[str, Any], links: list[dict[str, Any]], slot: int
) -> dict[str, Any]:
    """Connect an output with the one inside, and return it."""
    name, inside = list(blueprint.outputs.items())[slot]
    key, wanted = inside.split(".")
    number = _named(nodes[key]["outputs"], wanted)
    found = nodes[key]["outputs"][number]
    origin = {"origin_id": int(key), "origin_slot": number}
    link = _link(links, **origin, target_id=OUTSIDE, target_slot=slot, type=found["type"])
    found["links"] = [*(found["links"] or []), link]
    return {"id": _id(blueprint, f"output {name}"), "name": name, "type": found["type"], "linkIds": [link]}


def inside(prompt: Prompt) -> Prompt:
    """Return the nodes of a prompt as they run inside the blueprint's node, without titles."""

    def moved(value: Any) -> Any:
        return [f"{HOST}:{value[0]}", value[1]] if isinstance(value, list) else value

    return {
        f"{HOST}:{key}": {
            "class_type": node["class_type"],
            "inputs": {name: moved(value) for name, value in node["inputs"].items()},
        }
        for key, node in prompt.items()
    }


def make(page: Any, blueprint: Blueprint) -> Path:
    """Write a blueprint's file.

    Raises:
        ValueError: in the page, the file is another prompt than its nodes.
    """
    given = None
    for _ in range(comfy_page.ATTEMPTS):
        arranged = page.evaluate(comfy_page.TO_UI, [json.dumps(blueprint.nodes), ""])
        file = wrap(blueprint, json.loads(arranged))
        given = comfy_page.same_prompt(page.evaluate(comfy_page.TO_API, json.dumps(file)))
        if given == inside(blueprint.nodes):
            break
        page.wait_for_timeout(2000)  # the page loaded its default workflow meanwhile
    else:
        raise ValueError(f"{blueprint.name} changed on its way through the page: {json.dumps(given)}")
    target = FOLDER / f"{blueprint.name}.json"
    target.write_text(json.dumps(file, indent=1) + "\n", encoding="utf-8")
    return target


def picture(page: Any) -> None:
    """Take the picture of the documentation: all blueprints as they are placed."""
    from PIL import Image
    from screenshots import BRING, GAP, MARGIN, QUALITY, TITLE

    files = [json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in BLUEPRINTS]
    together = copy.deepcopy(files[0])
    together["nodes"] = [file["nodes"][0] | {"id": number} for number, file in enumerate(files, HOST)]
    together["definitions"] = {"subgraphs": [file["definitions"]["subgraphs"][0] for file in files]}
    ids = [node["id"] for node in together["nodes"]]
    page.evaluate("async (workflow) => app.loadGraphData(workflow)", together)
    clip = page.evaluate(BRING, [ids, [None] * len(ids), MARGIN, GAP, TITLE])
    taken = page.screenshot(clip=dict(zip(("x", "y", "width", "height"), clip, strict=True)))
    shown = Image.open(io.BytesIO(taken)).convert("RGB")
    shown.save(PICTURE, "WEBP", quality=QUALITY, method=6)


def main(given: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BLUEPRINTS)}; all by default"
    )
    parser.add_argument("--picture", action="store_true", help=f"also take {PICTURE.name}")
    arguments = parser.parse_args(given)
    wanted = arguments.names or list(BLUEPRINTS)
    if unknown := [name for name in wanted if name not in BLUEPRINTS]:
        parser.error(f"There is no blueprint {unknown[0]!r}.")
    if comfy_page.browser_path() is None:
        print(comfy_page.NO_BROWSER, file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        comfy.Server(Path(folder)) as server,
        comfy_page.open_page(server) as page,
    ):
        for name in wanted:
            print(make(page, BLUEPRINTS[name]))
        if arguments.picture:
            picture(page)
            print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
