"""The order of the packages: none imports one that imports it. `make lint` holds the order itself."""

from __future__ import annotations

from pathlib import Path

import import_graph
import pytest


@pytest.mark.parametrize("package", import_graph.PACKAGES)
def test_no_module_and_no_package_imports_one_that_imports_it(root: Path, package: str) -> None:
    modules = import_graph.imports(root, package)
    assert len(modules) > 30
    assert import_graph.circle(modules) == []
    assert import_graph.circle(import_graph.rooms(modules)) == []


def test_the_lowest_packages_know_nothing_of_heads(root: Path) -> None:
    rooms = import_graph.rooms(import_graph.imports(root, "my3dgen_core"))
    assert rooms["common"] == rooms["camera"] == set()
    assert rooms["formats"] == {"common"}
    assert rooms["face"] <= {"camera", "common", "formats"}
