"""API workflows match the nodes: input names, choices, and types of links."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

PERSONS = {"my_person_00001_.safetensors", "my_person_00002_.safetensors"}
OF_THE_USER = {"ffhqrebalanced512-128.pkl", *PERSONS, "my photos", "new photos"}
"""Files and folders that workflows named your_* expect, and their notes name."""
WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows" / "api").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_gives_every_node_what_it_takes(pack: ModuleType, path: Path) -> None:
    prompt = json.loads(path.read_text(encoding="utf-8"))
    for number, node in prompt.items():
        kind = pack.NODE_CLASS_MAPPINGS.get(node["class_type"])
        if kind is None:
            assert not node["class_type"].startswith("My3DGen"), node
            continue
        groups = kind.INPUT_TYPES()
        fields = groups["required"] | groups.get("optional", {})
        given = node["inputs"]
        where = f"{path.name}, node {number} ({node['class_type']})"
        assert groups["required"].keys() <= given.keys() <= fields.keys(), where
        for name, value in given.items():
            wanted = fields[name][0]
            if isinstance(value, list):
                source = prompt[value[0]]
                made = pack.NODE_CLASS_MAPPINGS.get(source["class_type"])
                assert made is None or made.RETURN_TYPES[value[1]] == wanted, f"{where}: {name}"
            elif isinstance(wanted, list):
                theirs = OF_THE_USER if path.stem.startswith("your_") else set()
                assert value in {*wanted, *theirs}, f"{where}: {name}"
            else:
                types = {"INT": int, "FLOAT": (int, float), "BOOLEAN": bool, "STRING": str}
                assert isinstance(value, types[wanted]), f"{where}: {name}"
                limits = fields[name][1]
                if wanted in ("INT", "FLOAT"):
                    assert limits["min"] <= value <= limits["max"], f"{where}: {name}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_user_must_bring_is_named_in_the_note_and_nothing_else_is_the_starters(path: Path) -> None:
    prompt = json.loads(path.read_text(encoding="utf-8"))
    note = next(iter(prompt.values()))["_meta"].get("note", "")
    texts = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)]
    models = [text for text in texts if text.endswith((".pkl", ".pth", ".safetensors"))]
    for text in {*models, *(OF_THE_USER & set(texts))} - PERSONS:
        assert text in note
    if path.stem.startswith("your_"):
        assert not [text for text in texts if "starter" in text or "bundled" in text]
        assert not [node for node in prompt.values() if node["class_type"] == "My3DGenLoadDemoPerson"]
