"""Compiling the renderer, where asked, and finding what was compiled."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..eg3d import Generator

_FOLDER = Path(__file__).parent
_COMPILED = ("render.cpp", "fast.cpp")
_SOURCES = (*_COMPILED, "forward.h", "backward.h", "fast.h", "tensors.h", "field.h", "ray.h", "simd.h")
# NaN and infinity keep their meaning: nothing of -ffast-math that says otherwise.
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")


class KernelError(ValueError):
    """The compiled renderer cannot be built or used; the message says why and what to do."""


def _compiler() -> str:
    """The path of the C++ compiler."""
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    if path is None:
        raise KernelError(
            f"There is no C++ compiler ({name}): install g++ or clang to use the compiled renderer. "
            "Without it everything works, at the speed of plain PyTorch."
        )
    return path


def _processor() -> str:
    """What this machine can execute: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}"


def library_path() -> Path:
    """Where the library of these sources, this PyTorch, compiler and processor lies or would lie.

    Raises:
        KernelError: there is no compiler.
    """
    version = subprocess.run([_compiler(), "--version"], capture_output=True, text=True).stdout
    digest = hashlib.sha256("\n".join((torch.__version__, version, _processor(), *_FLAGS)).encode())
    for name in _SOURCES:
        digest.update((_FOLDER / name).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "my3dgen" / "kernels" / f"render-{digest.hexdigest()[:16]}.so"


@contextmanager
def _ninja() -> Iterator[None]:
    """Puts ninja on the path: it may lie in an environment that is not activated."""
    before = os.environ.get("PATH", "")
    if shutil.which("ninja") is None:
        if importlib.util.find_spec("ninja") is None:
            raise KernelError("Ninja is missing: `pip install ninja`, then build the renderer again.")
        import ninja

        os.environ["PATH"] = os.pathsep.join((ninja.BIN_DIR, before))
    try:
        yield
    finally:
        os.environ["PATH"] = before


def build(verbose: bool = False) -> Path:
    """Compiles the renderer (under a minute) unless that was done before, and gives the library's path.

    Raises:
        KernelError: no compiler or no ninja, or the compiler fails.
    """
    target = library_path()
    if target.exists():
        return target
    from torch.utils import cpp_extension

    target.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own and moved when done: an interrupted build leaves nothing half-made behind.
    with _ninja(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            cpp_extension.load(
                "my3dgen_render",
                [str(_FOLDER / name) for name in _COMPILED],
                extra_cflags=list(_FLAGS),
                extra_ldflags=["-fopenmp"],
                build_directory=folder,
                verbose=verbose,
                is_python_module=False,
            )
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            last = str(error).strip().splitlines()[-1]
            raise KernelError(
                f"The compiled renderer could not be built ({last}). It needs g++ or clang with OpenMP; "
                "build-kernels --verbose shows what the compiler says."
            ) from error
        os.replace(Path(folder) / "my3dgen_render.so", target)
    return target


@cache
def load() -> None:
    """Registers the operators `torch.ops.my3dgen`; once in a process.

    Raises:
        KernelError: they were not built, or cannot be loaded.
    """
    path = library_path()
    if not path.exists():
        raise KernelError(
            "The compiled renderer is not built for this machine and PyTorch: "
            "run `python -m my3dgen_core build-kernels` once."
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise KernelError(f"{path} cannot be loaded ({error}). Delete it and build it again.") from error
    from . import fast, operator

    operator.register()
    fast.register()


def available() -> bool:
    """Whether the compiled renderer is built and can be loaded."""
    try:
        load()
    except KernelError:
        return False
    return True


def choose(generator: Generator, renderer: str) -> None:
    """Sets `generator.renderer`.

    Args:
        renderer: "torch"; "compiled", which is built now unless it was before; or "auto", the compiled one
            where it has been built.

    Raises:
        KernelError: "compiled" was asked for and cannot be had.
    """
    if renderer == "compiled":
        build()
        load()
    elif renderer == "auto":
        renderer = "compiled" if available() else "torch"
    generator.renderer = renderer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="show what the compiler says")


def main(args: argparse.Namespace) -> str:
    """Builds, tries, and says where the library lies."""
    path = build(args.verbose)
    load()
    return f"{path}\nThe compiled renderer is ready: set `generator.renderer = 'compiled'`."
