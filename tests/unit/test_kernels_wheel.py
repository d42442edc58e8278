"""The package my3dgen-kernels: built, installed beside PyTorch, found by the pack, with the same results."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from my3dgen_core.eg3d.rendering.compiled import KernelError, libraries
from my3dgen_core.eg3d.rendering.compiled.cpu_kernels import CpuKernels

ORDER = ("avx512", "avx2", "baseline")
BUILT = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(compiler: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by `python -m build` from the source archive, in a copy of the project."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("no build: pip install build")
    place = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("cpu", "build", "dist", "*.egg-info")
    shutil.copytree(root / "tools" / "kernels_wheel", place / "tools" / "kernels_wheel", ignore=ignored)
    shutil.copytree(libraries.SOURCES / "cpu", place / (libraries.SOURCES / "cpu").relative_to(root))
    ran = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "tools/kernels_wheel", "--outdir", "dist"],
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(list((place / "dist").glob("my3dgen_kernels-*.tar.gz"))) == 1
    (wheel,) = (place / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the wheel in it."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@BUILT
def test_the_wheel_is_of_any_python_and_has_each_instruction_set(wheel: Path, site: Path) -> None:
    assert "-py3-none-" in wheel.name
    names = {file.stem for file in (site / libraries.PACKAGE).glob("*.so")}
    assert names == (set(ORDER) if libraries.variant() != "baseline" else names | {"baseline"})
    assert wheel.stat().st_size < 1 << 20


@BUILT
def test_what_was_built_here_and_the_wheel_give_the_same_bits(compiled_renderer: None, site: Path) -> None:
    inputs = operands()
    packaged = CpuKernels(site / libraries.PACKAGE / f"{libraries.variant()}.so")
    ours = torch.ops.my3dgen.render_rays(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, packaged.render_rays(*inputs), strict=True))


@BUILT
def test_every_instruction_set_that_the_processor_has_agrees(compiled_renderer: None, site: Path) -> None:
    here = ORDER[ORDER.index(libraries.variant()) :]
    inputs = operands()
    for variant in here:
        found = CpuKernels(site / libraries.PACKAGE / f"{variant}.so").render_rays(*inputs)
        for a, b in zip(torch.ops.my3dgen.render_rays(*inputs), found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@BUILT
def test_an_installed_wheel_is_used_where_nothing_is_built(root: Path, site: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "tests/run_without_processes.py", "compiled"],
        cwd=root,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(site), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"renderer": "compiled", "operators": True, "log": [], "started": []}


def test_the_package_comes_before_what_was_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / libraries.file_name("cpu")).touch()
    assert libraries.find(folder=tmp_path) == tmp_path / libraries.file_name("cpu")
    package = tmp_path / libraries.PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert libraries.find(folder=tmp_path) == tmp_path / libraries.file_name("cpu")  # the package is empty
    (package / f"{libraries.variant()}.so").write_bytes(b"broken")
    assert libraries.find(folder=tmp_path) == package / f"{libraries.variant()}.so"
    monkeypatch.setattr(libraries, "_loaded", set())
    with pytest.raises(KernelError, match="Update or uninstall the package my3dgen-kernels"):
        libraries.load(folder=tmp_path)


def operands() -> tuple:
    """Inputs of `render_rays`: two scenes, 40 rays each, 24 + 24 samples."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = [0.3 * normal(*shape) for shape in ((64, 32), (64,), (33, 64), (33,))]
    directions = torch.nn.functional.normalize(normal(2, 40, 3), dim=-1)
    depths = torch.linspace(0.1, 0.9, 24).expand(2, 40, 24)
    u = torch.rand(2, 40, 24, generator=generator)
    planes = normal(2, 3, 32, 16, 16)
    return planes, *weights, -0.5 * directions, directions, depths, u, 1.0, True, 0.0, True
