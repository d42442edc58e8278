"""Packages, layers and cycles of the imports: `python tools/import_graph.py [ROOT]`.

A module imports another if an import statement says so anywhere in it, also inside functions and under
TYPE_CHECKING. A package here is a package or a module directly below the core or the nodes; its layer is one
above the highest package that it imports.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("my3dgen_core", "nodes")


def imports(root: Path, package: str) -> dict[str, set[str]]:
    """Modules of a package by dotted name, and the modules of that package that each imports."""
    files: dict[str, tuple[Path, bool]] = {}
    for file in sorted((root / package).rglob("*.py")):
        parts = list(file.relative_to(root).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        files[".".join(parts[:-1] if is_package else parts)] = (file, is_package)
    found: dict[str, set[str]] = {name: set() for name in files}
    for name, (file, is_package) in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            anchor = name.split(".") if is_package else name.split(".")[:-1]
            anchor = anchor[: len(anchor) - node.level + 1]
            source = ".".join(anchor + (node.module.split(".") if node.module else []))
            for alias in node.names:
                target = f"{source}.{alias.name}"
                found[name].add(target if target in files else source)
        found[name] = {target for target in found[name] if target in files and target != name}
    return found


def packages(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """The packages of the modules from `imports`, and the packages that each imports."""

    def top(name: str) -> str:
        parts = name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"

    found: dict[str, set[str]] = {top(name): set() for name in modules}
    for name, targets in modules.items():
        found[top(name)] |= {top(target) for target in targets} - {top(name), "__init__"}
    return found


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one cycle, or an empty list if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def layers(graph: dict[str, set[str]]) -> dict[str, int]:
    """The layer of each node of a graph without cycles; 1 is the lowest."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[target] for target in graph[name]), default=0)
    return found


def main() -> None:
    root = Path(sys.argv[1]) if sys.argv[1:] else ROOT
    for package in PACKAGES:
        modules = imports(root, package)
        above = packages(modules)
        print(
            f"{package}: {len(modules)} modules, {sum(map(len, modules.values()))} imports, cycle: ", end=""
        )
        print(" -> ".join(cycle(modules)) or "none")
        print(f"  {len(above)} packages, {sum(map(len, above.values()))} imports, cycle: ", end="")
        print(" -> ".join(cycle(above)) or "none")
        if not cycle(above):
            for name, layer in sorted(layers(above).items(), key=lambda item: (item[1], item[0])):
                print(f"  layer {layer}  {name}: {', '.join(sorted(above[name])) or 'nothing'}")


if __name__ == "__main__":
    main()
