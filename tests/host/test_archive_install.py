"""The published archive in a bare ComfyUI, installed as its page says: unpacked, with its requirements."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import archive
import comfy
import pytest
from node_mappings import node_ids
from prompts import Prompt

from my3dgen_core import Identity


@pytest.fixture
def pack(root: Path, tmp_path: Path) -> Path:
    """The archive, unpacked into the custom nodes of a fresh base folder."""
    if subprocess.run(["git", "rev-parse"], cwd=root, capture_output=True, check=False).returncode:
        pytest.skip("not a git checkout")
    archive.pack(tmp_path / "node.zip", root)
    target = tmp_path / "base" / "custom_nodes" / comfy.PACK
    with zipfile.ZipFile(tmp_path / "node.zip") as packed:
        packed.extractall(target)
    return target


def test_the_archive_installs_into_a_bare_comfyui_and_runs_the_demo_person(
    root: Path, pack: Path, workflow: Callable[[str], Prompt]
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "-r", str(pack / "requirements.txt")], check=True)
    with comfy.Server(pack.parents[1], environment={"OMP_NUM_THREADS": "1"}) as server:
        assert not pack.is_symlink()
        known = server.get("/object_info")
        assert {known[name]["python_module"] for name in node_ids()} == {f"custom_nodes.{comfy.PACK}"}
        templates = server.get("/workflow_templates")[comfy.PACK]
        assert sorted(templates) == sorted(file.stem for file in (root / "workflows").glob("*.json"))
        result = server.run(workflow("demo_person"))
        assert result.status == "success", f"{result.error}\n{server.log_tail()}"
        (person,) = (server.output / "my3dgen" / "identities").glob("demo_person_*.safetensors")
        assert len(Identity.load(person).anchors) > 0
        files = server.files(result)
        assert all(file.stat().st_size > 0 for file in files)
        kinds = ("frame_", "orbit_", "sheet_", "held_out_")
        assert {kind for kind in kinds for file in files if file.name.startswith(kind)} == set(kinds)
        log = server.log.read_text(encoding="utf-8", errors="replace")
    assert "IMPORT FAILED" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("command", ["", "evaluate", "build-kernels"])
def test_the_archive_has_what_its_command_line_offers(pack: Path, command: str) -> None:
    python = [sys.executable, "-m", "my3dgen_core", *command.split(), "--help"]
    told = subprocess.run(python, cwd=pack, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert f"my3dgen_core {command}".rstrip() in told.stdout
