"""Workflows for the pictures of the help pages, in API format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

Prompt = dict[str, Any]
FOLDER, DATASET, PERSON = "screenshots", "eg3d_crops", "demo"
FAR = 40.0
"""Yaw of the side views, in degrees."""


def node(kind: str, **inputs: Any) -> Prompt:
    """Return the entry of one of the pack's nodes."""
    return {"class_type": f"My3DGen{kind}", "inputs": inputs}


def core(kind: str, **inputs: Any) -> Prompt:
    """Return the entry of a node of ComfyUI."""
    return {"class_type": kind, "inputs": inputs}


def shown(name: str, output: int = 0) -> Prompt:
    return core("PreviewImage", images=[name, output])


def camera(yaw: float, pitch: float = 0.0) -> Prompt:
    return node(
        "Camera", yaw=yaw, pitch=pitch, roll=0.0, distance=2.7, field_of_view=13.3738, model=["load", 0]
    )


def render(model: str, latents: str, cameras: str = "", which: str = "mean", output: int = 0) -> Prompt:
    seen = {"cameras": [cameras, 0]} if cameras else {}
    return node(
        "Render", model=[model, 0], latents=[latents, output], which=which, index=0, batch_size=4, **seen
    )


def direction(latents: str, direction: str, strength: float, steps: int = 1) -> Prompt:
    sweep = {"steps": steps, "sweep_from": -strength if steps > 1 else 0.0}
    place = {"which": "mean", "index": 0, "layers": "", "edge": "continue", "beta": 0.2}
    return node(
        "ApplyDirection", latents=[latents, 0], direction=[direction, 0], strength=strength, **sweep, **place
    )


def invert(images: str, cameras: list[Any], **more: Any) -> Prompt:
    steps = {"steps": 25, "shared_steps": 60, "space": "w", "learning_rate": 0.05, "batch_size": 4, "seed": 0}
    return node("Invert", model=["load", 0], images=[images, 0], cameras=cameras, **steps | more)


def train(images: str, anchors: list[Any], steps: int) -> Prompt:
    settings = {
        "steps": steps,
        "method": "lora",
        "rank": 1,
        "learning_rate": 0.01,
        "batch_size": 1,
        "seed": 0,
    }
    return node("TrainIdentity", model=["load", 0], images=[images, 0], anchors=anchors, **settings)


def personal(steps: int) -> Prompt:
    """Return a workflow with every node that has a widget, with the demo person."""
    keys = "-45 -8, -20 22, 15 12, 50 18, 30 -20"
    path = {"path": "closed keyframes", "frames": 24, "yaw": 34.0, "pitch": 14.0, "center_pitch": 0.0}
    prefix = f"my3dgen/identities/{PERSON}"
    prompt = {
        "load": node("LoadGenerator", file="starter"),
        "crops": node("LoadDemoPerson", views="photos", at_most=50),
        "who": node("LoadIdentity", file="starter: demo person"),
        "train": train("crops", ["who", 1], steps),
        "apply": node("ApplyIdentity", model=["load", 0], identity=["who", 0], strength=1.0),
        "mix": node("MixAnchors", identity=["who", 0], weights="0: 0.5, 4: 0.3, 7: 0.2, 9: 0", beta=0.1),
        "smile": node("LoadDirection", model=["load", 0], file="starter: smile", attribute=""),
        "edit": direction("mix", "smile", 1.0),
        "age": node("LoadDirection", model=["load", 0], file="starter: age", attribute=""),
        "older": direction("edit", "age", 0.5),
        "camera": camera(-25.0, 8.0),
        "render": render("apply", "older", "camera"),
        "path": node("CameraPath", **path, keyframes=keys, model=["load", 0]),
        "orbit": render("apply", "who", "path", output=1),
        "save": node("SaveIdentity", identity=["train", 0], filename_prefix=prefix, precision="float32"),
        "file": core("PreviewAny", source=["save", 0]),
        "folder": node("LoadPhotos", folder=FOLDER, at_most=50, longest_side=1024, subfolders=False),
        "align": node(
            "AlignFaces",
            photos=["folder", 0],
            names=["folder", 1],
            face_models="auto",
            which="largest",
            upright=True,
            same_person=False,
            drop_different=False,
            by_hand="",
        ),
        "overview": shown("align", 4),
        "shown": shown("render"),
        "orbit shown": shown("orbit"),
    }
    for name in ("edit", "older"):
        prompt[name]["inputs"]["identity"] = ["who", 0]
    return prompt


PROJECTION = {"steps": 40, "space": "p", "beta": 0.03, "learning_rate": 0.01, "batch_size": 4, "seed": 0}
"""Settings of Project into Alpha Space."""
PERSONAL = {"model": ["apply", 0], "identity": ["who", 0]}
"""Model and identity, for nodes that take both."""

# The parts of KNOWN. They refer to each other's nodes.
GENERATOR = {
    "load": node("LoadGenerator", file="starter"),
    "mean": node("RandomLatent", model=["load", 0], count=1, truncation=0.0, seed=0),
    "front": camera(0.0),
    "mean seen": render("load", "mean", "front"),
    "mean shown": shown("mean seen"),
    "who": node("LoadIdentity", file="starter: demo person"),
    "apply": node("ApplyIdentity", model=["load", 0], identity=["who", 0], strength=1.0),
    "sides": node(
        "CameraPath", path="sweep", frames=4, yaw=FAR, pitch=0.0, center_pitch=0.0, model=["load", 0]
    ),
    "person": render("apply", "who", "sides", output=1),
    "person shown": shown("person"),
}
"""The generator, the demo identity, and renders of both."""

PHOTOS = {
    "photos": node(
        "LoadPhotos", folder="demo person (bundled)", at_most=6, longest_side=2048, subfolders=False
    ),
    "photos shown": shown("photos"),
    "dataset": node("LoadEG3DDataset", folder=DATASET, at_most=6, mirrored=False),
    "dataset shown": shown("dataset"),
    "crops": node("LoadDemoPerson", views="photos", at_most=6),
    "crops shown": shown("crops"),
    "all crops": node("LoadDemoPerson", views="photos", at_most=50),
    "views": node("LoadDemoPerson", views="held-out views", at_most=2),
}
"""Photos of the demo person, from a folder and with true cameras."""

INVERSION = {
    "invert": invert("crops", ["crops", 1]),
    "inverted": shown("invert", 1),
    "one": node("LoadDemoPerson", views="held-out views", at_most=1),
    "its latent": invert("one", ["one", 1], steps=30, shared_steps=0),
    "tune": node(
        "PivotalTuning",
        model=["apply", 0],
        images=["one", 0],
        latents=["its latent", 0],
        steps=50,
        method="lora",
        learning_rate=0.01,
        seed=0,
    ),
    "tuned": shown("tune", 1),
}
"""Inversion, and pivotal tuning of one held-out view."""

CAMERAS = {
    "left": camera(-FAR),
    "above": camera(0.0, 25.0),
    "right": camera(FAR),
    "keys": node(
        "CameraKeyframes",
        camera_1=["left", 0],
        camera_2=["above", 0],
        camera_3=["right", 0],
        frames=24,
        easing="smooth",
        loop=True,
    ),
    "keys shown": shown("keys", 1),
    "to view": node("CameraToLoad3D", cameras=["above", 0], index=0),
    "view shown": core("PreviewAny", source=["to view", 0]),
}
"""Keyframes from three cameras, and one of these for the 3D viewer."""

PASTE_BACK = {
    "align": node(
        "AlignFaces",
        photos=["one photo", 0],
        face_models="auto",
        which="largest",
        upright=True,
        same_person=False,
        drop_different=False,
    ),
    "one photo": node(
        "LoadPhotos", folder="demo person (bundled)", at_most=1, longest_side=2048, subfolders=False
    ),
    "again": node("ProjectAlphaSpace", **PERSONAL, images=["align", 0], cameras=["align", 1], **PROJECTION),
    "wide": node("WidenView", cameras=["right", 0], wider=1.25),
    "wide seen": render("apply", "again", "wide"),
    "wide shown": shown("wide seen"),
    "own wide": node("WidenView", cameras=["align", 1], wider=1.25),
    "old": render("apply", "again", "own wide"),
    "paste": node(
        "PasteBack",
        photos=["one photo", 0],
        crops=["align", 5],
        images=["wide seen", 0],
        feather=24.0,
        masks=["wide seen", 1],
        old_heads=["old", 1],
        wider=1.25,
    ),
    "pasted": shown("paste"),
}
"""A photo aligned, projected, rendered from the side in a wider view, and pasted back."""

COMPARISON = {
    "compare": node(
        "Compare",
        pretrained=["load", 0],
        personalized=["apply", 0],
        images=["all crops", 0],
        anchors=["who", 1],
        rows=2,
        novel_yaw=32.0,
        cell=128,
    ),
    "compared": shown("compare"),
    "grid": node(
        "ComparisonGrid",
        model=["load", 0],
        model_2=["apply", 0],
        latents=["sample", 0],
        rows="models",
        model_names="pretrained, personal",
        latent_names="",
        camera_names="",
        cell=96,
    ),
    "gridded": shown("grid"),
}
"""Sheets of the pretrained and the personal generator."""

LATENTS = {
    "random": node("RandomLatent", model=["load", 0], count=6, truncation=0.7, seed=3),
    "random seen": render("load", "random", "front", which="every"),
    "random shown": shown("random seen"),
    "sample": node(
        "SampleAlphaSpace",
        identity=["who", 0],
        count=6,
        anchors_per_sample=3,
        temperature=1.0,
        beta=0.02,
        seed=0,
    ),
    "sample seen": render("apply", "sample", which="every"),
    "sample shown": shown("sample seen"),
    "keep": node("SaveLatents", latents=["sample", 0], filename_prefix="my3dgen/latents/looks"),
    "kept": core("PreviewAny", source=["keep", 0]),
    "project": node("ProjectAlphaSpace", **PERSONAL, images=["views", 0], cameras=["views", 1], **PROJECTION),
    "projected": shown("project", 1),
    "way": node("InterpolateLatents", latents=["who", 1], start=0, end=5, frames=6, and_back=False),
    "way seen": render("apply", "way", which="every"),
    "way shown": shown("way seen"),
}
"""Random latents, alpha samples, projection and interpolation."""

RESTORATION = {
    "black": core("SolidMask", value=0.0, width=256, height=256),
    "white": core("SolidMask", value=1.0, width=144, height=144),
    "hidden": core(
        "MaskComposite", destination=["black", 0], source=["white", 0], x=56, y=88, operation="add"
    ),
    "cover": core("EmptyImage", width=256, height=256, batch_size=1, color=8421504),
    "covered": core(
        "ImageCompositeMasked",
        destination=["views", 0],
        source=["cover", 0],
        mask=["hidden", 0],
        x=0,
        y=0,
        resize_source=False,
    ),
    "covered shown": shown("covered"),
    "restore": node(
        "RestorePhotos",
        **PERSONAL,
        images=["covered", 0],
        cameras=["views", 1],
        masks=["hidden", 0],
        task="fill in",
        detail=32,
        steps=40,
        space="p+",
        beta=0.03,
        seed=0,
    ),
    "restored": shown("restore"),
}
"""A held-out view with a hidden part, filled in."""

BLENDING = {
    "stranger": node("RandomLatent", model=["load", 0], count=1, truncation=0.8, seed=11),
    "stranger seen": render("load", "stranger", "sides"),
    "stranger's": invert("stranger seen", ["sides", 0], steps=10, shared_steps=40),
    "other": train("stranger seen", ["stranger's", 0], 20),
    "blend": node("MixPersons", first=["who", 0], second=["other", 0], share=0.5),
    "blended": node("ApplyIdentity", model=["load", 0], identity=["blend", 0], strength=1.0),
    "blend seen": render("blended", "blend", "sides", output=1),
    "blend shown": shown("blend seen"),
    "between": node(
        "InterpolatePersons",
        model=["load", 0],
        first=["who", 0],
        second=["other", 0],
        which="mean",
        first_index=0,
        second_index=0,
        frames=6,
        and_back=False,
    ),
    "between shown": shown("between"),
}
"""A second identity, trained on four views of a random head, blended with the first."""

DIRECTIONS = {
    "beard": node("LoadDirection", model=["load", 0], file="starter: smile", attribute=""),
    "beard edit": direction("mean", "beard", 3.0, 4),
    "beard seen": render("load", "beard edit", "front", which="every"),
    "beard shown": shown("beard seen"),
    "find": node(
        "FindDirection",
        model=["load", 0],
        attribute="component 1",
        samples=100,
        face_models="auto",
        seed=0,
    ),
    "found edit": direction("mean", "find", 3.0, 4),
    "found seen": render("load", "found edit", "front", which="every"),
    "found shown": shown("found seen"),
    "examples": node(
        "DirectionFromExamples", before=["mean", 0], after=["stranger", 0], name="to the stranger"
    ),
    "examples edit": direction("mean", "examples", 1.0, 4),
    "examples seen": render("load", "examples edit", "front", which="every"),
    "examples shown": shown("examples seen"),
    "components": node("ComponentSheet", model=["load", 0], components=3, reach=2.0, columns=5, cell=96),
    "components shown": shown("components"),
}
"""Directions from a file, found, and from examples; principal components."""

MESH = {
    "mesh": node(
        "ExtractMesh",
        model=["apply", 0],
        latents=["who", 1],
        which="mean",
        index=0,
        resolution=96,
        level=20.0,
        cut_behind=-1.0,
        filename_prefix="my3dgen/meshes/head",
    ),
    "mesh shown": core("Preview3D", model_file=["mesh", 1]),
}
"""A mesh, and ComfyUI's viewer of it."""

KNOWN: Prompt = {
    **GENERATOR,
    **PHOTOS,
    **INVERSION,
    **CAMERAS,
    **PASTE_BACK,
    **COMPARISON,
    **LATENTS,
    **RESTORATION,
    **BLENDING,
    **DIRECTIONS,
    **MESH,
}
"""One workflow of everything that uses the bundled identity."""


def kept(made: Path) -> Prompt:
    """Return a workflow that loads and renders files written by the other workflows."""
    return {
        "load": node("LoadGenerator", file="starter"),
        "card": node("LoadIdentity", file=newest(made / "identities", f"{PERSON}_*.safetensors")),
        "apply": node("ApplyIdentity", model=["load", 0], identity=["card", 0], strength=1.0),
        "who": node("LoadIdentity", file="starter: demo person"),
        "bundled": node("ApplyIdentity", model=["load", 0], identity=["who", 0], strength=1.0),
        "looks": node("LoadLatents", file=newest(made / "latents", "looks_*.safetensors")),
        "front": camera(0.0),
        "looks seen": render("bundled", "looks", "front", which="every"),
        "looks shown": shown("looks seen"),
        "person": render("apply", "card", "front", output=1),
        "person shown": shown("person"),
    }


def newest(folder: Path, pattern: str) -> str:
    """Return the name of the newest file."""
    return max(folder.glob(pattern), key=lambda file: file.stat().st_mtime).name


def three_d(inputs: Path, made: Path) -> Prompt:
    """Return a workflow with a head in ComfyUI's 3D viewer."""
    (inputs / "3d").mkdir(exist_ok=True)
    shutil.copy(made / "meshes" / newest(made / "meshes", "head_*.glb"), inputs / "3d" / "head.glb")
    numbers = {"distance": 2.7, "field_of_view": 13.3738}
    return {
        "load": node("LoadGenerator", file="starter"),
        "view": core("Load3D", model_file="3d/head.glb", width=512, height=512),
        "from view": node("CameraFromLoad3D", camera_info=["view", 4], **numbers, model=["load", 0]),
    }
