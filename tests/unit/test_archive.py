"""The archive that the registry publishes: what is in it, what its scanners may flag, and its size."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import archive
import pytest
import tomllib
from PIL import Image

CORE_BRINGS = {"numpy", "safetensors", "pillow", "scipy", "kornia"}
"""Dependencies of ours that ComfyUI's own requirements.txt lists: of 0.3.75 and of 0.29.0."""
MODULE_OF = {"pillow": "PIL", "scikit-image": "skimage", "scikit-learn": "sklearn"}
OF_COMFYUI = {"torch", "numpy", "safetensors", "PIL", "scipy", "kornia", "aiohttp", "psutil", "av"}
"""Modules that ComfyUI brings, by its requirements.txt."""
OF_TORCH = {"filelock"}
"""Modules that PyTorch requires."""
OPTIONAL = {
    "insightface": "photos: docs/install.md, and the message of FaceModels",
    "onnxruntime": "photos",
    "cv2": "photos",
    "pillow_heif": "photos of iPhones",
    "ninja": "the command build-kernels",
    "torchmetrics": "the command evaluate",
    "anny": "synthetic heads",
    "warp": "synthetic heads",
    "xatlas": "textured meshes",
    "fast_simplification": "meshes of fewer faces",
}
"""Modules that are imported where they are used, and whose absence is told in a sentence."""
HOST = {"comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "nodes", "server"}


def git_root(root: Path) -> Path:
    if subprocess.run(["git", "rev-parse"], cwd=root, capture_output=True, check=False).returncode:
        pytest.skip("not a git checkout")
    return root


@pytest.fixture(scope="module")
def files(root: Path) -> list[str]:
    return archive.published(git_root(root))


@pytest.fixture(scope="module")
def judged(root: Path) -> tuple[list[archive.Finding], Counter[str]]:
    return archive.findings(git_root(root))


def test_nothing_in_the_archive_would_be_flagged(
    files: list[str], judged: tuple[list[archive.Finding], Counter[str]]
) -> None:
    found, _ = judged
    assert not found, "The registry may flag:\n" + "\n".join(map(str, found))
    assert len([path for path in files if path.endswith(".py")]) > 150  # they were read


def test_every_reason_is_needed(judged: tuple[list[archive.Finding], Counter[str]]) -> None:
    """A reason for words that are gone would let new ones pass unseen."""
    _, reasons = judged
    assert set(reasons) == set(archive.REASONS.values())


def test_the_archive_is_small(root: Path) -> None:
    assert sum(archive.sizes(git_root(root)).values()) <= archive.LIMIT, archive.largest(root)


def test_the_starter_and_the_demo_person_are_published_and_development_is_not(files: list[str]) -> None:
    core = "my3dgen_core/starter"
    assert {f"{core}/starter.safetensors", f"{core}/demo_identity.safetensors"} <= set(files)
    assert len([path for path in files if path.startswith(f"{core}/demo_person/photos/")]) == 24
    assert {"__init__.py", "requirements.txt", "pyproject.toml", "README.md", "LICENSE"} <= set(files)
    folders = {path.split("/")[0] for path in files if "/" in path}
    assert folders - {"subgraphs"} == {"locales", "my3dgen_core", "nodes", "web", "workflows"}
    assert not [path for path in files if path.startswith(f"{core}/training/")]


def test_the_zip_holds_these_files(root: Path, files: list[str], tmp_path: Path) -> None:
    archive.pack(tmp_path / "node.zip", root)
    with zipfile.ZipFile(tmp_path / "node.zip") as packed:
        assert packed.namelist() == files
        assert packed.read("__init__.py") == (root / "__init__.py").read_bytes()


def test_nothing_published_imports_what_is_left_out(root: Path, files: list[str]) -> None:
    modules = {path.removesuffix(".py").removesuffix("/__init__") for path in files if path.endswith(".py")}
    for path in (path for path in files if path.endswith(".py")):
        package = Path(path).parent
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                start = package
                for _ in range(node.level - 1):
                    start = start.parent
                target = start.joinpath(*(node.module or "").split(".")).as_posix()
                names = {target, *(f"{target}/{alias.name}" for alias in node.names)}
                assert target == "." or names & modules, f"{path}:{node.lineno} imports {target}"


def test_requirements_are_the_dependencies_that_comfyui_does_not_bring(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=!~ ]", line)[0]: line for line in project["dependencies"]}
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert set(needed) >= CORE_BRINGS
    assert sorted(listed) == sorted(line for name, line in needed.items() if name not in CORE_BRINGS)
    assert not [line for line in listed if line.startswith(("torch", "onnxruntime", "opencv", "insightface"))]


def test_every_package_that_is_imported_comes_from_somewhere(root: Path, files: list[str]) -> None:
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {re.split(r"[<>=!~ ]", line)[0] for line in lines if line and not line.startswith("#")}
    known = OF_COMFYUI | OF_TORCH | set(OPTIONAL) | {MODULE_OF.get(name, name) for name in listed}
    used = set()
    for path in (path for path in files if path.endswith(".py")):
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used.add(str(node.module).split(".")[0])
    assert used - sys.stdlib_module_names - HOST - {"my3dgen_core"} <= known


@pytest.mark.parametrize(
    ("source", "flagged"),
    [
        ("import subprocess", "subprocess"),
        ("from subprocess import run", "subprocess"),
        ("def f():\n    import socket as s", "socket"),
        ("from urllib import request", "urllib.request"),
        ("import urllib.request as u", "urllib.request"),
        ("from http.client import HTTPSConnection", "http.client"),
        ("import os\nos.environ.get('HOME')", "os.environ"),
        ("import os as o\nx = o.getenv('HOME')", "os.getenv"),
        ("from os import environ as e\ne['A'] = ''", "os.environ"),
        ("from os import *\nimport os\nos.execvp('a', [])", "os.execvp"),
        ("import os\ngetattr(os, 'environ')", "os.environ"),
        ("eval('1')", "eval"),
        ("run = exec", "exec"),
        ("import builtins\nbuiltins.compile('', '', 'exec')", "builtins.compile"),
        ("__import__('os')", "__import__"),
        ("import importlib\nimportlib.import_module('os')", "importlib.import_module"),
        ("from importlib import import_module", "import_module"),
        ("import pickle", "pickle"),
        ("import torch\ntorch.load('a.pt')", "torch.load"),
        ("import torch\ntorch.load('a.pt', weights_only=False)", "torch.load"),
        ("import numpy as np\nnp.load('a.npy', allow_pickle=True)", "allow_pickle"),
        ("import torch\ntorch.hub.load('a', 'b')", "torch.hub"),
        ("import asyncio\nasyncio.create_subprocess_exec('a')", "asyncio.create_subprocess_exec"),
        ("from aiohttp import ClientSession", "aiohttp.ClientSession"),
    ],
)
def test_the_syntax_tree_shows(source: str, flagged: str) -> None:
    found = archive.syntax_findings("file.py", source)
    assert [finding for finding in found if flagged in finding.what], found


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('a')",
        "import os\nos.path.join('a', 'b'), os.replace('a', 'b')",
        "import torch\ntorch.load('a.pt', weights_only=True)",
        "import numpy as np\nnp.load('a.npy', allow_pickle=False)",
        "from .formats.pickle_values import Record",
        "from urllib.parse import quote",
        "from aiohttp import web",
        "model.eval()",
        "code = 1\nselect = code",
    ],
)
def test_the_syntax_tree_lets_pass(source: str) -> None:
    assert archive.syntax_findings("file.py", source) == []


@pytest.mark.parametrize(
    "text",
    [
        "# never subprocess here",
        "os.environ",
        "node.connect(0, other, 1);",
        "const f = g.bind(this);",
        "mx.eval(x)",
        "eval(x)",
        "importlib.import_module",
        "Path(file).read_bytes()",
        "https://raw.githubusercontent.com/a/b",
        "fetch('https://example.com')",
        "with ffmpeg -i",
        "base64.b64decode(x)",
        "import ctypes",
    ],
)
def test_words_show(text: str) -> None:
    assert archive.word_findings("file.py", text)[0]


def test_a_word_with_a_reason_stays_and_is_counted() -> None:
    found, reasons = archive.word_findings("file.py", "import re\nA = re.compile('a'); B = re.compile('b')\n")
    assert found == []
    assert reasons == {"a regular expression": 2}
    found, _ = archive.word_findings("file.py", "A = re.compile('a'); compile('b')")
    assert len(found) == 1  # a reason covers its own word, not the line


def test_the_registry_finds_icon_and_banner(root: Path) -> None:
    comfy = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["comfy"]
    start = "https://github.com/my3dgen/comfyui-my3dgen/raw/main/"
    sides = {}
    for name in ("Icon", "Banner"):
        assert comfy[name].startswith(start)
        with Image.open(root / comfy[name].removeprefix(start)) as picture:
            sides[name] = picture.size
    assert max(sides["Icon"]) <= 400
    assert sides["Icon"][0] == sides["Icon"][1]
    assert sides["Banner"][0] * 9 == sides["Banner"][1] * 21


def test_the_publish_workflow_runs_pinned_actions_and_names_its_secret(root: Path) -> None:
    text = (root / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    uses = re.findall(r"uses: (\S+)", text)
    assert len(uses) == 3
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in uses)
    assert re.findall(r"personal_access_token: (.+)", text) == ["${{ secrets.REGISTRY_ACCESS_TOKEN }}"]
