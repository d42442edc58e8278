"""Load EG3D Dataset and camera defaults in a real ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import comfy
import numpy as np
import pytest
import torch
from PIL import Image
from prompts import Prompt, node, render, save

from my3dgen_core import load_latents, look_at

CAMERAS = look_at(torch.tensor([0.0, 0.3]), 0.0)


@pytest.fixture(scope="module")
def dataset(base: Path) -> Path:
    """A folder as EG3D's preprocessing leaves it: two crops, a mirrored copy, dataset.json."""
    folder = base / "input" / "preprocessed"
    folder.mkdir(parents=True)
    for shade, name in ((90, "a"), (150, "b"), (150, "b_mirror")):
        Image.new("RGB", (64, 64), (shade, shade, shade)).save(folder / f"{name}.png")
    labels = [["a.png", CAMERAS[0].tolist()], ["b.png", CAMERAS[1].tolist()]]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def prompt() -> Prompt:
    return {
        "load": node("LoadGenerator", file="tiny.safetensors"),
        "dataset": node(
            "LoadEG3DDataset", folder="preprocessed", at_most=50, mirrored=False, model=["load", 0]
        ),
        "crops": save("dataset"),
        "keep": node("SaveLatents", latents=["dataset", 3], filename_prefix="my3dgen/latents/projected"),
    }


def test_crops_are_given_without_latents_and_what_needs_them_says_why(
    server: comfy.Server, dataset: Path
) -> None:
    result = server.run({name: given for name, given in prompt().items() if name != "keep"})
    assert (result.status, result.error) == ("success", "")
    assert [np.asarray(Image.open(file))[0, 0, 0] for file in server.files(result, "crops")] == [90, 150]
    assert "2 crops with cameras from preprocessed\n1 mirrored copies were left out." in result.text(
        "dataset"
    )
    stopped = server.run(prompt())
    assert "There are no latents in 'preprocessed'. Use Invert Photos to make them." in stopped.error
    assert "Traceback" not in stopped.error


def test_latents_of_a_projector_are_rendered_from_their_cameras(
    server: comfy.Server, dataset: Path, base: Path
) -> None:
    for place, name in enumerate(("a", "b")):
        (dataset / f"{name}_w").mkdir()
        values = np.asfortranarray(np.full((1, 1, 32), 0.1 + place, ">f4"))
        np.save(dataset / f"{name}_w" / f"{name}_w.npy", values)
    whole = {**prompt(), "render": {**render("load")}, "pictures": save("render")}
    whole["render"]["inputs"] |= {"latents": ["dataset", 3], "cameras": ["dataset", 1], "which": "every"}
    result = server.run(whole)
    assert (result.status, result.error) == ("success", "")
    assert len(server.files(result, "pictures")) == 2
    (file,) = (base / "output" / "my3dgen" / "latents").glob("projected*.safetensors")
    latents = load_latents(file)
    assert torch.allclose(latents.ws[:, -1, 0], torch.tensor([0.1, 1.1]))
    assert torch.allclose(latents.cameras, CAMERAS)
