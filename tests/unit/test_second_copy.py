"""Two copies of the pack in custom_nodes, such as a clone and an unpacked archive."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from aiohttp import web
from node_mappings import node_ids


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> Iterator[web.RouteTableDef]:
    """The routes of a server like ComfyUI's; modules that are imported meanwhile are forgotten."""
    before = set(sys.modules)
    table = web.RouteTableDef()
    instance = SimpleNamespace(routes=table)
    monkeypatch.setitem(
        sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance))
    )
    yield table
    for name in set(sys.modules) - before:
        if name.startswith("copy_"):
            del sys.modules[name]


def load(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def copies(root: Path, tmp_path: Path) -> tuple[Path, Path]:
    for name in ("My3DGen", "My3DGen-main"):
        (tmp_path / name).mkdir()
        for part in ("__init__.py", "nodes", "my3dgen_core"):
            (tmp_path / name / part).symlink_to(root / part)
    return tmp_path / "My3DGen", tmp_path / "My3DGen-main"


def test_the_second_copy_does_nothing_and_says_which_is_in_use(
    routes: web.RouteTableDef, copies: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    first = load(copies[0], "copy_one")
    assert list(first.NODE_CLASS_MAPPINGS) == node_ids()
    served = [(route.method, route.path, route.handler) for route in routes]
    assert len(served) >= 3
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        second = load(copies[1], "copy_two")
    assert second.NODE_CLASS_MAPPINGS == second.NODE_DISPLAY_NAME_MAPPINGS == {}
    assert second.WEB_DIRECTORY is None
    assert [(route.method, route.path, route.handler) for route in routes] == served
    (message,) = (record.getMessage() for record in caplog.records)
    assert f"{copies[0]} is in use; {copies[1]} does nothing. Delete" in message
    web.Application().add_routes(routes)  # raises for two routes of one path


def test_a_copy_with_more_routes_adds_none_of_them(
    routes: web.RouteTableDef, copies: tuple[Path, Path]
) -> None:
    load(copies[0], "copy_one")
    load(copies[1], "copy_two")
    served = len(routes)
    sys.modules["copy_two.nodes.host"].serve("GET", "/my3dgen/newer", lambda request: None)
    assert len(routes) == served


def test_a_pack_that_is_loaded_again_keeps_its_nodes(
    routes: web.RouteTableDef, copies: tuple[Path, Path]
) -> None:
    load(copies[0], "copy_one")
    served = len(routes)
    again = load(copies[0], "copy_again")
    assert list(again.NODE_CLASS_MAPPINGS) == node_ids()
    assert len(routes) == served


def test_folders_of_other_packs_are_served_beside(
    routes: web.RouteTableDef, copies: tuple[Path, Path], tmp_path: Path
) -> None:
    routes.static("/other", tmp_path)
    load(copies[0], "copy_one")
    assert len(routes) >= 4
