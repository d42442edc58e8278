"""The order of the packages: none imports one that imports it. `make lint` holds the order itself."""

from __future__ import annotations

from pathlib import Path

import import_graph
import pytest


@pytest.mark.parametrize("package", import_graph.PACKAGES)
def test_no_module_and_no_package_imports_one_that_imports_it(root: Path, package: str) -> None:
    modules = import_graph.imports(root, package)
    assert len(modules) > 30
    assert import_graph.cycle(modules) == []
    assert import_graph.cycle(import_graph.packages(modules)) == []


def test_the_lowest_packages_know_nothing_of_heads(root: Path) -> None:
    packages = import_graph.packages(import_graph.imports(root, "my3dgen_core"))
    assert packages["common"] == packages["camera"] == set()
    assert packages["formats"] == {"common"}
    assert packages["face"] <= {"camera", "common", "formats"}
