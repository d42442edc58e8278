"""Packaging: imports, dependencies, sizes, and mappings that ComfyUI's registry can read."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

import comfy
import pytest
import tomllib
from node_mappings import display_names, node_ids

from my3dgen_core.face.detect import INSTALL_HINT
from my3dgen_core.face.mediapipe_models import download_command

HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "nodes", "server"}


def imports(file: Path) -> list[tuple[str, int, int]]:
    """(module, level, column) of every import in a file; column 0 is one that runs at import."""
    found = []
    for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            found += [(alias.name, 0, item.col_offset) for alias in item.names]
        elif isinstance(item, ast.ImportFrom):
            found.append((item.module or "", item.level, item.col_offset))
    return found


def pack_files(root: Path) -> list[Path]:
    return [root / "__init__.py", *(root / "nodes").rglob("*.py"), *(root / "my3dgen_core").rglob("*.py")]


def test_only_one_package_knows_comfyui(root: Path) -> None:
    for file in pack_files(root):
        known = {name.split(".")[0] for name, level, _ in imports(file) if level == 0} & HOST_MODULES
        assert not known or file.parent == root / "nodes" / "host", f"{file} imports {known}"


def test_nodes_reach_the_core_by_relative_imports(root: Path) -> None:
    for file in pack_files(root):
        if file.name != "__main__.py":
            absolute = [n for n, level, _ in imports(file) if level == 0 and n.startswith("my3dgen_core")]
            assert not absolute, f"{file} imports {absolute}"


@pytest.mark.parametrize("heavy", ["insightface", "onnxruntime", "kornia", "scipy", "PIL", "trimesh", "cv2"])
def test_nothing_heavy_is_imported_with_the_nodes(root: Path, heavy: str) -> None:
    for file in [root / "__init__.py", *(root / "nodes").rglob("*.py")]:
        assert not [n for n, _, column in imports(file) if column == 0 and n.split(".")[0] == heavy], file


def test_the_managers_scanner_can_read_the_mappings() -> None:
    assert node_ids() == list(display_names())
    assert len(node_ids()) == len(set(node_ids()))
    assert all(key.startswith("My3DGen") for key in node_ids())


def requirement_names(file: Path) -> set[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return {re.split(r"[<>=!~ ]", line)[0].lower() for line in lines if line and not line.startswith("#")}


def test_what_requirements_leave_out_comes_with_comfyui(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=!~ ]", line)[0].lower() for line in project["dependencies"]}
    listed = requirement_names(root / "requirements.txt")
    host = requirement_names(comfy.find_comfyui() / "requirements.txt")
    assert needed - listed <= host
    assert not listed & host


def test_torch_is_pinned_in_one_place(root: Path) -> None:
    files = [root / "Makefile", root / ".ci" / "run", root / "requirements.txt", root / "pyproject.toml"]
    files += (root / "tools").glob("*.py")
    pins = [file.name for file in files if "torch==" in file.read_text(encoding="utf-8")]
    assert pins == ["pyproject.toml"]


def environment(home: Path, copied: tuple[str, ...], faked: dict[str, str]) -> Path:
    """A virtual environment in which pip sees copies of our own packages, and others by name and version."""
    site = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    for name in copied:
        source = Path(str(distribution(name)._path))  # type: ignore[attr-defined]
        shutil.copytree(source, site / source.name)
    for name, version in faked.items():
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return home / "bin" / "python"


def installed_by(python: Path, arguments: list[str], report: Path) -> set[str]:
    """Names of what pip would install into an environment."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *arguments]
    subprocess.run([*command, "--dry-run", "--quiet", "--report", str(report)], check=True)
    return {item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]}


def test_requirements_change_no_torch_onnxruntime_or_opencv(root: Path, tmp_path: Path) -> None:
    """Asks pip what it would install into an environment that has torch, onnxruntime-gpu and OpenCV."""
    python = environment(tmp_path, ("torch", "onnxruntime", "opencv-python"), {"onnxruntime-gpu": "1.20.1"})
    arguments = ["-r", str(root / "requirements.txt")]
    chosen = installed_by(python, arguments, tmp_path / "report.json")
    assert {"scikit-image", "scikit-learn", "trimesh"} <= chosen
    assert not {name for name in chosen if name.startswith(("torch", "onnxruntime", "opencv"))}


def face_step(root: Path) -> list[list[str]]:
    """The arguments of `pip install` in the first commands of the section on face models."""
    text = (root / "docs" / "install.md").read_text(encoding="utf-8")
    block = text.split("\n## Face models\n")[1].split("```sh\n")[1].split("```")[0]
    lines = [shlex.split(line) for line in block.splitlines()]
    assert all(line[:2] == ["pip", "install"] for line in lines)
    return [line[2:] for line in lines]


def test_the_step_for_face_packs_puts_nothing_over_an_opencv_or_onnxruntime_that_is_there(
    root: Path, tmp_path: Path
) -> None:
    """Asks pip about an environment with other variants of both, which insightface does not know."""
    variants = {"onnxruntime-gpu": "1.20.1", "opencv-contrib-python": "4.10.0.84"}
    python = environment(tmp_path, ("torch", "numpy"), variants)
    chosen: set[str] = set()
    for number, arguments in enumerate(face_step(root)):
        chosen |= installed_by(python, arguments, tmp_path / f"{number}.json")
    assert {"insightface", "onnx", "requests", "tqdm"} <= chosen
    assert not {name for name in chosen if name.startswith(("torch", "numpy", "onnxruntime", "opencv"))}
    plain = installed_by(python, ["insightface>=2"], tmp_path / "plain.json")
    assert {"onnxruntime", "opencv-python"} <= plain  # what the step avoids


def test_the_step_for_face_packs_brings_all_that_insightface_needs(root: Path) -> None:
    names = {re.split(r"[<>=!~ ]", name)[0].lower() for step in face_step(root) for name in step}
    names |= requirement_names(root / "requirements.txt")
    names |= requirement_names(comfy.find_comfyui() / "requirements.txt")
    needed = {
        re.split(r"[<>=!~ ;]", text)[0].lower() for text in requires("insightface") or [] if ";" not in text
    }
    assert needed - names == {"onnxruntime", "opencv-python"}  # named after the step, for who lacks them


def test_pages_and_messages_say_the_same_steps(root: Path) -> None:
    command = download_command("models/my3dgen/faces").replace('"', "")
    for page in ("README.md", "docs/install.md"):
        assert command in (root / page).read_text(encoding="utf-8")
    for arguments in face_step(root):
        text = " ".join(f'"{part}"' if ">" in part else part for part in arguments)
        assert f"pip install {text}".replace('"insightface>=2"', "insightface") in INSTALL_HINT


IMPORTED = """
import sys, importlib.util, json, torch, numpy
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("pack", sys.argv[1], submodule_search_locations=[sys.argv[2]])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_importing_the_pack_imports_nothing_but_its_nodes(root: Path) -> None:
    """Neither the core nor a package, where torch and numpy are imported already, as ComfyUI has."""
    command = [sys.executable, "-c", IMPORTED, str(root / "__init__.py"), str(root)]
    imported = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    ours = [name for name in imported if name.split(".")[0] == "pack"]
    assert "pack" in ours
    assert [name for name in ours if not name.startswith("pack.nodes") and name != "pack"] == []
    assert [name for name in set(imported) - set(ours) if name not in sys.stdlib_module_names] == []
    assert len(imported) - len(ours) <= 10  # of the standard library


def test_nothing_committed_is_huge(root: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [root / name for name in listed.stdout.decode().split("\0") if name]
    assert not [f.name for f in files if f.is_file() and f.stat().st_size > 10_000_000]
