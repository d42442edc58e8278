"""API prompts for the tests that run in a real ComfyUI, on generators of random weights."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, Any]


def tiny_prompt(**changes: dict[str, Any]) -> Prompt:
    """Invert, train, apply and render on gray pictures; `changes` are node name -> inputs to set."""
    prompt: Prompt = {
        "load": node("LoadGenerator", file="tiny.safetensors"),
        "photos": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 4, "color": 8421504},
        },
        "cameras": path(4),
        "invert": node(
            "Invert",
            model=["load", 0],
            images=["photos", 0],
            cameras=["cameras", 0],
            steps=2,
            shared_steps=2,
            space="w",
            learning_rate=0.05,
            batch_size=4,
            seed=0,
        ),
        "train": node(
            "TrainIdentity",
            model=["load", 0],
            images=["photos", 0],
            anchors=["invert", 0],
            steps=3,
            method="lora",
            rank=1,
            learning_rate=0.01,
            batch_size=2,
            seed=0,
        ),
        "apply": node("ApplyIdentity", model=["load", 0], identity=["train", 0], strength=1.0),
        "orbit": path(3),
        "render": render("apply"),
        "save": save("render"),
    }
    for name, inputs in changes.items():
        prompt[name]["inputs"].update(inputs)
    return prompt


def node(kind: str, **inputs: Any) -> Prompt:
    return {"class_type": f"My3DGen{kind}", "inputs": inputs}


def path(frames: int) -> Prompt:
    return node("CameraPath", path="swing", frames=frames, yaw=20.0, pitch=10.0, center_pitch=0.0)


def render(
    model: str,
    batch_size: int = 2,
    *,
    latents: str = "invert",
    which: str = "mean",
    cameras: str | None = "orbit",
) -> Prompt:
    given = {} if cameras is None else {"cameras": [cameras, 0]}
    return node(
        "Render",
        model=[model, 0],
        latents=[latents, 0],
        which=which,
        index=0,
        batch_size=batch_size,
        **given,
    )


def camera(yaw: float = 0.0) -> Prompt:
    return node("Camera", yaw=yaw, pitch=0.0, roll=0.0, distance=2.7, field_of_view=13.3738)


def find_direction(**changes: Any) -> Prompt:
    """The first principal component, unless `changes` name another attribute."""
    inputs = {"attribute": "component 1", "samples": 50, "face_models": "auto", "seed": 0} | changes
    return node("FindDirection", model=["load", 0], **inputs)


def apply_direction(latents: str, **changes: Any) -> Prompt:
    """A node that applies the direction of node "find"."""
    inputs = {"index": 0, "sweep_from": 0.0, "layers": ""} | changes
    return node("ApplyDirection", latents=[latents, 0], direction=["find", 0], **inputs)


def save(images: str) -> Prompt:
    return {
        "class_type": "SaveImage",
        "inputs": {"images": [images, 0], "filename_prefix": f"tests/{images}"},
    }
