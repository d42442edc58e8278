"""The compiled renderer, where this machine has what it takes to build it."""

from __future__ import annotations

import os
import shutil

import build_renderer
import pytest

from my3dgen_core.eg3d.rendering import compiled
from my3dgen_core.eg3d.rendering.compiled import libraries


@pytest.fixture(scope="session")
def compiler() -> str:
    """The path of the C++ compiler. Tests that use it, also through other fixtures, are marked `compiled`."""
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no C++ compiler ({name}): install g++ or clang, or set CXX")
    return path


@pytest.fixture(scope="session")
def compiled_renderer(compiler: str) -> None:
    """Builds the compiled renderer by its command, unless that was done before, and loads it."""
    if libraries.find() is None:
        ran = build_renderer.build()
        if "Ninja is missing" in ran.stderr:
            pytest.skip("no ninja: pip install ninja")
        assert ran.returncode == 0, ran.stderr
    compiled.load()


@pytest.fixture(params=["torch", pytest.param("compiled", marks=pytest.mark.compiled)])
def renderer(request: pytest.FixtureRequest) -> str:
    """Both implementations of the renderer, one after the other."""
    if request.param == "compiled":
        request.getfixturevalue("compiled_renderer")
    return request.param
