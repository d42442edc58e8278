"""No prompt starts a process: the compiled renderer is used where it is built, and never built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from my3dgen_core.eg3d.rendering.compiled import libraries

COMMAND = "run `python -m my3dgen_core build-kernels` once"


def prompt(root: Path, renderer: str, home: Path) -> dict[str, Any]:
    """Return what tests/run_without_processes.py prints, with an empty or a filled home folder."""
    ran = subprocess.run(
        [sys.executable, "tests/run_without_processes.py", renderer],
        cwd=root,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def built_home(compiled_renderer: None, tmp_path: Path) -> Path:
    """A home folder with the library that the command built."""
    library = libraries.find()
    assert library is not None
    place = tmp_path / ".cache" / "my3dgen" / "kernels"
    place.mkdir(parents=True)
    shutil.copy(library, place)
    return tmp_path


def test_a_start_would_be_seen(root: Path, tmp_path: Path) -> None:
    started = prompt(root, "control", tmp_path)["started"]
    assert any(line.startswith("subprocess.Popen") for line in started)
    assert any(line.startswith("os.system") for line in started)


@pytest.mark.slow
@pytest.mark.parametrize("renderer", ["compiled", "auto"])
def test_built_the_renderer_is_used_and_no_process_starts(
    root: Path, built_home: Path, renderer: str
) -> None:
    told = prompt(root, renderer, built_home)
    assert told == {"renderer": "compiled", "operators": True, "log": [], "started": []}


@pytest.mark.slow
def test_unbuilt_a_message_names_the_command_and_no_process_starts(root: Path, tmp_path: Path) -> None:
    told = prompt(root, "compiled", tmp_path)
    assert COMMAND in told["error"]
    assert told["started"] == told["log"] == []
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_unbuilt_auto_renders_by_pytorch_says_so_and_no_process_starts(root: Path, tmp_path: Path) -> None:
    told = prompt(root, "auto", tmp_path)
    assert (told["renderer"], told["operators"], told["started"]) == ("torch", False, [])
    (line,) = told["log"]
    assert "PyTorch renders" in line
    assert COMMAND in line


def test_the_builder_is_imported_by_the_command_alone(root: Path) -> None:
    for file in (*(root / "nodes").rglob("*.py"), *(root / "my3dgen_core").rglob("*.py")):
        if file.name not in ("builder.py", "__main__.py"):
            lines = file.read_text(encoding="utf-8").splitlines()
            imports = [line for line in lines if "import" in line and "builder" in line]
            assert imports == [], file
