"""comfy-cli and nodesafe, which judge packs for ComfyUI's registry, find nothing new in the archive."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import archive
import pytest
import registry_checks


@pytest.fixture(scope="module")
def published(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, unpacked."""
    if subprocess.run(["git", "rev-parse"], cwd=root, capture_output=True, check=False).returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("published")
    archive.pack(folder / "node.zip", root)
    with zipfile.ZipFile(folder / "node.zip") as packed:
        packed.extractall(folder / "node")
    return folder / "node"


def test_comfy_cli_reads_the_project_without_a_warning(published: Path) -> None:
    status, text = registry_checks.comfy("validate", published)
    assert status == 0, text
    assert "Running security checks" in text  # it came to its end
    assert "arning" not in text, text


def test_comfy_cli_tells_of_a_bad_project(published: Path, tmp_path: Path) -> None:
    project = (published / "pyproject.toml").read_text(encoding="utf-8")
    broken = project.replace("Environment :: GPU :: NVIDIA CUDA", "Environment :: GPU :: Any")
    (tmp_path / "pyproject.toml").write_text(broken, encoding="utf-8")
    (tmp_path / "code.py").write_text("exec('1')\n", encoding="utf-8")
    _, text = registry_checks.comfy("validate", tmp_path)
    assert "Invalid Environment classifier" in text
    assert "S102" in text


def test_comfy_cli_packs_the_same_files(root: Path, published: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", str(root), str(tmp_path / "clone")], check=True)
    status, text = registry_checks.comfy("pack", tmp_path / "clone")
    assert status == 0, text
    with zipfile.ZipFile(tmp_path / "clone" / "node.zip") as packed:
        assert sorted(packed.namelist()) == archive.published(tmp_path / "clone")


def test_nodesafe_finds_nothing_without_a_reason(published: Path) -> None:
    found, reasons = registry_checks.nodesafe(published)
    assert not found, "\n".join(f"{f['file']}:{f['line']}: {f['title']}: {f['snippet']}" for f in found)
    assert reasons["a regular expression"] > 0  # it read the files


def test_nodesafe_finds_a_process(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("import subprocess\nsubprocess.run(['a'])\n", encoding="utf-8")
    found, _ = registry_checks.nodesafe(tmp_path)
    assert {finding["category"] for finding in found} == {"shell_execution"}
