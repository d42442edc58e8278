"""Every API workflow fits the nodes as they are: names, choices, and what is linked to what."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

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
                assert value in wanted, f"{where}: {name}"
            else:
                types = {"INT": int, "FLOAT": (int, float), "BOOLEAN": bool, "STRING": str}
                assert isinstance(value, types[wanted]), f"{where}: {name}"
                limits = fields[name][1]
                if wanted in ("INT", "FLOAT"):
                    assert limits["min"] <= value <= limits["max"], f"{where}: {name}"
