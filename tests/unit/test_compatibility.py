"""Files of an earlier version load, mean the same, and are written the same again.

`tests/data/compatibility` holds one of each, written before the packages of the core were divided by subject.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from my3dgen_core import (
    Direction,
    Generator,
    Identity,
    load_generator,
    load_latents,
    look_at,
    personalized,
    save_latents,
)

FOLDER = Path(__file__).resolve().parent.parent / "data" / "compatibility"
ROUNDING = 1e-4
"""Largest difference of pixels between machines; on one machine pictures are equal bit for bit."""
FAST = 2e-2
"""The same for quality "fast", which may leave out other samples on another machine."""


@pytest.fixture(scope="module")
def starter() -> Generator:
    return load_generator("starter")


def files_are_equal(one: Path, other: Path) -> bool:
    """Return whether two safetensors files hold the same tensors, bit for bit, and the same metadata."""
    first, second = load_file(one), load_file(other)
    with safe_open(one, "pt") as a, safe_open(other, "pt") as b:
        before, after = a.metadata(), b.metadata()
    before.pop("meta", None), after.pop("meta", None)  # of a direction: where it was loaded from is added
    return (
        before == after
        and first.keys() == second.keys()
        and all(torch.equal(first[key], second[key]) for key in first)
    )


@torch.no_grad()
def draw(generator: Generator, ws: torch.Tensor, **options: str) -> tuple[torch.Tensor, torch.Tensor]:
    out = generator.render(ws, look_at(0.3, 0.1), neural_resolution=32, **options)
    return out.image[0, :, ::2, ::2], out.depth[0]


def assert_pictured(name: str, found: tuple[torch.Tensor, torch.Tensor], tolerance: float = ROUNDING) -> None:
    stored = load_file(FOLDER / "pictures.safetensors")
    for expected, value in zip((stored[name], stored[f"{name}_depth"]), found, strict=True):
        assert float((expected - value).abs().max()) <= tolerance


@pytest.mark.parametrize("name", ["identity", "identity_int8"])
def test_an_identity_gives_the_picture_that_it_gave(starter: Generator, name: str) -> None:
    identity = Identity.load(FOLDER / f"{name}.safetensors")
    with personalized(starter, identity):
        assert_pictured(name, draw(starter, identity.anchors.ws[:1]))


@pytest.mark.parametrize(("quality", "tolerance"), [("exact", ROUNDING), ("fast", FAST)])
def test_latents_give_the_picture_that_they_gave(starter: Generator, quality: str, tolerance: float) -> None:
    ws = load_latents(FOLDER / "latents.safetensors").ws[:1]
    name = "generator" if quality == "exact" else "generator_fast"
    assert_pictured(name, draw(starter, ws, quality=quality), tolerance)


def test_a_direction_leads_where_it_led(starter: Generator) -> None:
    direction = Direction.load(FOLDER / "direction.safetensors")
    ws = load_latents(FOLDER / "latents.safetensors").ws[:1]
    assert_pictured("direction", draw(starter, direction.apply(ws, 1.5)))


def test_two_pictures_of_one_batch_have_their_own_identities(starter: Generator) -> None:
    identity = Identity.load(FOLDER / "identity.safetensors")
    ws = load_latents(FOLDER / "latents.safetensors").ws
    with torch.no_grad(), personalized(starter, [[identity], []]):
        out = starter.render(ws, look_at(0.3, 0.1), neural_resolution=32)
    expected = load_file(FOLDER / "pictures.safetensors")["two"]
    assert float((out.image[:, :, ::4, ::4] - expected).abs().max()) <= ROUNDING


def test_files_are_written_as_they_were(tmp_path: Path) -> None:
    Identity.load(FOLDER / "identity.safetensors").save(tmp_path / "identity.safetensors")
    save_latents(load_latents(FOLDER / "latents.safetensors"), tmp_path / "latents.safetensors")
    Direction.load(FOLDER / "direction.safetensors").save(tmp_path / "direction.safetensors")
    for name in ("identity", "latents", "direction"):
        assert files_are_equal(FOLDER / f"{name}.safetensors", tmp_path / f"{name}.safetensors"), name


SAVED = [
    (FOLDER / "personalize.json", FOLDER / "personalize_api.json"),
    *((page, page.parents[1] / "api" / page.name) for page in (FOLDER / "workflows" / "page").glob("*.json")),
]
"""Workflows as the page saves them, each with its API twin."""


@pytest.mark.parametrize(("saved", "twin"), SAVED, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_workflow_of_the_page_fills_the_inputs_that_it_filled(
    pack: ModuleType, saved: Path, twin: Path
) -> None:
    """Saved widget values are positional: read in today's order they are the values of the API twin."""
    page = json.loads(saved.read_text(encoding="utf-8"))
    prompt = json.loads(twin.read_text(encoding="utf-8"))
    checked = 0
    for node in page["nodes"]:
        kind = pack.NODE_CLASS_MAPPINGS.get(node["type"])
        if kind is None:
            assert not node["type"].startswith("My3DGen"), f"{node['type']} is no node any more"
            continue
        inputs = prompt[str(node["id"])]["inputs"]
        groups = kind.INPUT_TYPES()
        fields = groups.get("required", {}) | groups.get("optional", {})
        widgets = [
            name
            for name, (wanted, *options) in fields.items()
            if (isinstance(wanted, list) or wanted in ("INT", "FLOAT", "BOOLEAN", "STRING"))
            and not options[0].get("forceInput")
        ]
        values = [value for value in node["widgets_values"] if value not in ("fixed", "randomize")]
        assert len(values) <= len(widgets), node["type"]
        for name, value in zip(widgets, values, strict=False):
            if not isinstance(inputs.get(name), list):
                assert inputs[name] == value, f"{node['type']}.{name}"
                checked += 1
    assert checked > 10
