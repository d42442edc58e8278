"""API workflows, of today and of before, match the nodes: input names, choices, and types of links."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

PERSONS = {"my_person_00001_.safetensors", "my_person_00002_.safetensors"}
OF_THE_USER = {"ffhqrebalanced512-128.pkl", *PERSONS, "my photos", "new photos"}
"""Files and folders of the user that workflows of before named your_* expect."""
ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows" / "api").glob("*.json"))
BEFORE = sorted((ROOT / "tests" / "data" / "compatibility" / "workflows" / "api").glob("*.json"))
SWITCHES = {"refine", "refine_cameras"}
"""Choices that were switches, so that they take True and False."""


@pytest.mark.parametrize("path", [*WORKFLOWS, *BEFORE], ids=lambda path: f"{path.parts[-4]}-{path.stem}")
def test_a_workflow_gives_every_node_what_it_takes(pack: ModuleType, path: Path) -> None:
    prompt = json.loads(path.read_text(encoding="utf-8"))
    for number, node in prompt.items():
        kind = pack.NODE_CLASS_MAPPINGS.get(node["class_type"])
        if kind is None:
            assert not node["class_type"].startswith("My3DGen"), node
            continue
        groups = kind.INPUT_TYPES()
        fields = groups.get("required", {}) | groups.get("optional", {})
        given = node["inputs"]
        where = f"{path.name}, node {number} ({node['class_type']})"
        assert groups.get("required", {}).keys() <= given.keys() <= fields.keys(), where
        for name, value in given.items():
            wanted = fields[name][0]
            if isinstance(value, list):
                source = prompt[value[0]]
                made = pack.NODE_CLASS_MAPPINGS.get(source["class_type"])
                assert made is None or made.RETURN_TYPES[value[1]] == wanted, f"{where}: {name}"
            elif isinstance(wanted, list):
                theirs = OF_THE_USER if path.stem.startswith("your_") else set()
                before = {True, False} if path in BEFORE and name in SWITCHES else set()
                assert value in {*wanted, *theirs, *before}, f"{where}: {name}"
            else:
                types = {"INT": int, "FLOAT": (int, float), "BOOLEAN": bool, "STRING": str}
                assert isinstance(value, types[wanted]), f"{where}: {name}"
                limits = fields[name][1]
                if wanted in ("INT", "FLOAT"):
                    assert limits["min"] <= value <= limits["max"], f"{where}: {name}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_user_must_bring_is_named_in_the_note(path: Path) -> None:
    prompt = json.loads(path.read_text(encoding="utf-8"))
    note = next(iter(prompt.values()))["_meta"].get("note", "")
    texts = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)]
    for text in texts:
        if text.endswith((".pkl", ".pth", ".safetensors")):
            assert text in note
    if {node["class_type"] for node in prompt.values()} & {"My3DGenAlignFaces", "My3DGenFindDirection"}:
        assert "face models" in note


def test_templates_leave_to_the_generator_what_depends_on_it() -> None:
    """So that one template serves the starter and NVIDIA's generators."""
    auto = {"steps": 0, "shared_steps": -1, "learning_rate": 0, "background_weight": -1, "cut_behind": -2}
    auto |= dict.fromkeys(SWITCHES, "auto")
    of_generators = {"Invert", "TrainIdentity", "PivotalTuning", "Render", "ExtractMesh"}
    own = {}
    for path in WORKFLOWS:
        for node in json.loads(path.read_text(encoding="utf-8")).values():
            kind = node["class_type"].removeprefix("My3DGen")
            for name, value in node["inputs"].items() if kind in of_generators else ():
                if name in auto and value != auto[name]:
                    own[path.stem, kind, name] = value
    assert own == {
        ("figures", "Invert", "shared_steps"): 0,  # each photo for itself
        ("repose", "Invert", "refine_cameras"): "on",  # the head is pasted onto the photo
        ("repose", "PivotalTuning", "learning_rate"): 0.01,  # and seen from near the photo's own view only
    }
