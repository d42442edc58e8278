"""Loads the pack by path and under its own name, as ComfyUI does, with one copy of the core in the process.

Marks tests by what they need.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from face_marks import needs_face_pack

ROOT = Path(__file__).resolve().parent.parent
PACK = "my3dgen_pack"
CORE = "my3dgen_core"
FOLDER_MARKS = {"host": "host", "ui": "browser", "gpu": "gpu"}

if importlib.util.find_spec(CORE) is None:  # without the development install
    sys.path.insert(0, str(ROOT))


class _OneCore(MetaPathFinder, Loader):
    """The pack's relative imports of its core give the module that tests import as `my3dgen_core`."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == f"{PACK}.{CORE}" or name.startswith(f"{PACK}.{CORE}."):
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.removeprefix(f"{PACK}."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # the import system has put the alias there


def load_pack() -> ModuleType:
    if PACK not in sys.modules:
        sys.meta_path.insert(0, _OneCore())
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK])
    return sys.modules[PACK]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests by what they need; the browser's come last: its event loop and servers stay to the end."""
    for item in items:
        if item.path.parent.name in FOLDER_MARKS:
            item.add_marker(FOLDER_MARKS[item.path.parent.name])
        if "compiler" in getattr(item, "fixturenames", ()):
            item.add_marker("compiled")
        if needs_face_pack(item):
            item.add_marker("faces")
    if "table" not in config.option.markexpr:
        items[:] = [item for item in items if item.get_closest_marker("table") is None]
    items.sort(key=lambda item: item.path.parent.name == "ui")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The node pack; its parts are `sys.modules["my3dgen_pack.nodes.person.load"]` and so on."""
    return load_pack()
