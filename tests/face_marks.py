"""Marks for tests that need the downloaded face test pack: they reach a function of `real_photos`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest

TESTS = Path(__file__).resolve().parent
DOWNLOADS = {"real_photos", "face_test_pack"}


def needs_face_pack(item: pytest.Item) -> bool:
    """Return whether a test, its fixtures, parameters or helpers ask for a downloaded file."""
    info = getattr(item, "_fixtureinfo", None)
    fixtures = [] if info is None else [d.func for found in info.name2fixturedefs.values() for d in found]
    given = getattr(getattr(item, "callspec", None), "params", {}).values()
    seen: set[FunctionType] = set()
    return any(_reaches(value, seen) for value in (getattr(item, "function", None), *fixtures, *given))


def _reaches(value: object, seen: set[FunctionType]) -> bool:
    if isinstance(value, type):
        return _ours(value.__module__) and any(_reaches(part, seen) for part in vars(value).values())
    function = inspect.unwrap(value) if callable(value) else None
    if not isinstance(function, FunctionType) or function in seen or not _ours(function.__module__):
        return False
    seen.add(function)
    if function.__module__ in DOWNLOADS:
        return True
    names = set(_names(function.__code__))
    modules = [found for name in names if isinstance(found := function.__globals__.get(name), ModuleType)]
    modules += [sys.modules[name] for name in names if name in sys.modules and _ours(name)]
    used = [function.__globals__.get(name) for name in names]
    used += [getattr(module, name, None) for module in modules if _ours(module.__name__) for name in names]
    return any(module.__name__ in DOWNLOADS for module in modules) or any(_reaches(u, seen) for u in used)


def _ours(name: str) -> bool:
    """Return whether a module lies in the folder of the tests, or is the program that downloads."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return name in DOWNLOADS or (file is not None and Path(file).is_relative_to(TESTS))


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function and those within it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
