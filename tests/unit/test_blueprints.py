"""The subgraph blueprints: valid files whose inner nodes are the pack's as they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import blueprints
import pytest
from blueprints import BLUEPRINTS, INSIDE, OUTSIDE

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = json.loads((ROOT / "tests" / "data" / "node_contract.json").read_text(encoding="utf-8"))
WIDGETS = {"COMBO", "INT", "FLOAT", "STRING", "BOOLEAN"}
every_blueprint = pytest.mark.parametrize("name", sorted(BLUEPRINTS))


def subgraph(name: str) -> dict[str, Any]:
    return file(name)["definitions"]["subgraphs"][0]


def file(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))


def own_nodes(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each of the pack's nodes in a blueprint, with its entry in the contract."""
    return [(node, CONTRACT[node["type"]]) for node in subgraph(name)["nodes"] if node["type"] in CONTRACT]


def declared(entry: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The sockets and the widgets of a node, in order."""
    inputs = entry.get("required", {}) | entry.get("optional", {})
    is_widget = {
        name: kind in WIDGETS and not options.get("forceInput") for name, (kind, options) in inputs.items()
    }
    return [n for n in inputs if not is_widget[n]], [n for n in inputs if is_widget[n]]


def test_every_blueprint_has_its_file_and_there_is_no_other() -> None:
    assert sorted(path.stem for path in (ROOT / "subgraphs").iterdir()) == sorted(BLUEPRINTS)


@every_blueprint
def test_inner_nodes_have_the_inputs_and_outputs_of_the_contract(name: str) -> None:
    for node, entry in own_nodes(name):
        sockets, widgets = declared(entry)
        assert [one["name"] for one in node["inputs"] if "widget" not in one] == sockets, node["title"]
        assert [one["name"] for one in node["inputs"] if "widget" in one] == widgets, node["title"]
        outputs = [(one["name"], one["type"]) for one in node["outputs"]]
        assert outputs == list(zip(entry["output_names"], entry["outputs"], strict=True)), node["title"]


@every_blueprint
def test_inner_nodes_have_the_values_of_the_source(name: str) -> None:
    source = BLUEPRINTS[name].nodes
    assert sorted(str(node["id"]) for node in subgraph(name)["nodes"]) == sorted(source)
    for node, entry in own_nodes(name):
        values = dict(zip(declared(entry)[1], node["widgets_values"], strict=True))
        given = source[str(node["id"])]["inputs"]
        assert values == {key: value for key, value in given.items() if not isinstance(value, list)}


@every_blueprint
def test_both_ends_of_every_link_agree(name: str) -> None:
    graph = subgraph(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = {link["id"]: link for link in graph["links"]}
    assert len(links) == len(graph["links"])
    seen = []
    for link in links.values():
        begins, ends = (
            graph["inputs"][link["origin_slot"]]
            if link["origin_id"] == INSIDE
            else nodes[link["origin_id"]]["outputs"][link["origin_slot"]],
            graph["outputs"][link["target_slot"]]
            if link["target_id"] == OUTSIDE
            else nodes[link["target_id"]]["inputs"][link["target_slot"]],
        )
        assert link["id"] in (begins.get("links") or begins["linkIds"])
        assert link["id"] == ends.get("link", ends.get("linkIds", [None])[0])
        assert {begins["type"], ends["type"]} == {link["type"]}
        seen.append(link["id"])
    held = [one["link"] for node in nodes.values() for one in node["inputs"] if one.get("link") is not None]
    held += [number for one in graph["outputs"] for number in one["linkIds"]]
    assert sorted(held) == sorted(seen)


@every_blueprint
def test_links_are_those_of_the_source(name: str) -> None:
    graph = subgraph(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    found = {
        (link["target_id"], nodes[link["target_id"]]["inputs"][link["target_slot"]]["name"]): [
            str(link["origin_id"]),
            link["origin_slot"],
        ]
        for link in graph["links"]
        if link["origin_id"] != INSIDE and link["target_id"] != OUTSIDE
    }
    assert found == {
        (int(key), wanted): value
        for key, node in BLUEPRINTS[name].nodes.items()
        for wanted, value in node["inputs"].items()
        if isinstance(value, list)
    }


@every_blueprint
def test_the_node_outside_shows_the_inputs_and_outputs_of_the_subgraph(name: str) -> None:
    graph, [host] = subgraph(name), file(name)["nodes"]
    assert host["type"] == graph["id"]
    for side in ("inputs", "outputs"):
        outside = [(one["name"], one["type"]) for one in host[side]]
        assert outside == [(one["name"], one["type"]) for one in graph[side]]
        assert list(getattr(BLUEPRINTS[name], side)) == [shown for shown, _ in outside]
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    for shown, (outside, places) in zip(host["inputs"], BLUEPRINTS[name].inputs.items(), strict=True):
        ends = []
        for place in places:
            key, wanted = place.split(".")
            ends += [one for one in nodes[key]["inputs"] if one["name"] == wanted]
        assert len(ends) == len(places)
        assert all(("widget" in shown) == ("widget" in one) for one in ends), outside
        assert {one["type"] for one in ends} == {shown["type"]}, outside


@every_blueprint
def test_values_that_one_input_sets_are_the_same_inside(name: str) -> None:
    """The page shows one widget, with the value of one of them, and runs all of them with it."""
    for outside, places in BLUEPRINTS[name].inputs.items():
        found = [place.split(".") for place in places]
        values = [BLUEPRINTS[name].nodes[key]["inputs"].get(wanted) for key, wanted in found]
        assert all(value == values[0] for value in values), outside


@every_blueprint
def test_a_required_input_is_linked_set_or_shown_outside(name: str) -> None:
    shown = {place for places in BLUEPRINTS[name].inputs.values() for place in places}
    for key, node in BLUEPRINTS[name].nodes.items():
        required = CONTRACT.get(node["class_type"], {}).get("required", {})
        missing = [one for one in required if one not in node["inputs"] and f"{key}.{one}" not in shown]
        assert not missing, (key, missing)


@every_blueprint
def test_a_blueprint_says_what_it_does_and_what_it_needs(name: str) -> None:
    saved, graph = file(name), subgraph(name)
    assert graph["name"] == saved["nodes"][0]["title"] == name
    assert graph["category"] == blueprints.CATEGORY
    assert graph["description"] == saved["extra"]["BlueprintDescription"]
    assert graph["description"].endswith(".")
    assert "eeds" in graph["description"]
    assert len(saved["extra"]["BlueprintSearchAliases"]) >= 5


def test_blueprints_are_published() -> None:
    """Core lists `subgraphs/*.json` of a pack, so they must be in its archive."""
    command = ["git", "-c", "core.excludesFile=.comfyignore", "check-ignore", "--no-index"]
    paths = ["subgraphs/any.json", "tools/blueprints.py"]
    ignored = subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == ["tools/blueprints.py"]
