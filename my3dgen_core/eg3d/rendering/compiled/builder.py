"""Compiling the renderer, where asked, and finding what was compiled."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from . import culled_registration, registration

_FOLDER = Path(__file__).parent
_SOURCES = {
    "cpu": (
        "render.cpp",
        "fast.cpp",
        "forward.h",
        "backward.h",
        "fast.h",
        "tensors.h",
        "field.h",
        "ray.h",
        "simd.h",
    ),
    "cuda": ("cuda/glue.cpp", "cuda/render.cu", "cuda/render.h", "cuda/ray.cuh", "cuda/field.cuh"),
}
# NaN and infinity keep their meaning: nothing of -ffast-math that says otherwise.
_FLAGS = {
    "cpu": ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
    "cuda": ("-O3",),
}


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


def _cuda_compiler() -> str:
    """The path of nvcc, where this PyTorch can use what it makes."""
    if torch.version.cuda is None:
        raise KernelError("This PyTorch is made without CUDA: there is nothing to build for a GPU.")
    from torch.utils import cpp_extension

    home = cpp_extension.CUDA_HOME
    path = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    if path is None:
        raise KernelError(
            f"There is no CUDA compiler (nvcc): install the CUDA toolkit {torch.version.cuda} to use the "
            "compiled renderer on the GPU. Without it everything works, at the speed of plain PyTorch."
        )
    return path


def _cards() -> str:
    """What the CUDA library is compiled for."""
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return f"{torch.version.cuda} {sorted(found)} {os.environ.get('TORCH_CUDA_ARCH_LIST', '')}"


def library_path(device: str = "cpu") -> Path:
    """Where the library of these sources, this PyTorch, compiler and processor lies or would lie.

    Args:
        device: "cpu" or "cuda", what it renders on.

    Raises:
        KernelError: there is no compiler.
    """
    compilers = [_compiler()]
    machine = _processor()
    if device == "cuda":
        compilers.append(_cuda_compiler())
        machine = f"{platform.machine()} {_cards()}"
    versions = [subprocess.run([c, "--version"], capture_output=True, text=True).stdout for c in compilers]
    digest = hashlib.sha256("\n".join((torch.__version__, *versions, machine, *_FLAGS[device])).encode())
    for name in _SOURCES[device]:
        digest.update((_FOLDER / name).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "render" if device == "cpu" else f"render-{device}"
    return root / "my3dgen" / "kernels" / f"{name}-{digest.hexdigest()[:16]}.so"


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


@contextmanager
def _quoted_library_path() -> Iterator[None]:
    """PyTorch gives the linker the folder of its libraries without quotes; a space in it ends the build."""
    from torch.utils import cpp_extension

    before = cpp_extension.TORCH_LIB_PATH
    if os.name == "posix":
        cpp_extension.TORCH_LIB_PATH = shlex.quote(before)
    try:
        yield
    finally:
        cpp_extension.TORCH_LIB_PATH = before


def build(verbose: bool = False, device: str = "cpu") -> Path:
    """Compiles the renderer (under a minute) unless that was done before, and gives the library's path.

    Raises:
        KernelError: no compiler or no ninja, or the compiler fails.
    """
    target = library_path(device)
    if target.exists():
        return target
    from torch.utils import cpp_extension

    target.parent.mkdir(parents=True, exist_ok=True)
    name = f"my3dgen_render_{device}"
    needs = "g++ or clang with OpenMP" if device == "cpu" else f"the CUDA toolkit {torch.version.cuda}"
    # In a folder of its own and moved when done: an interrupted build leaves nothing half-made behind.
    with _ninja(), _quoted_library_path(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            cpp_extension.load(
                name,
                [str(_FOLDER / file) for file in _SOURCES[device] if file.endswith((".cpp", ".cu"))],
                extra_cflags=list(_FLAGS[device]),
                extra_cuda_cflags=["-O3"],
                extra_ldflags=["-fopenmp"] if device == "cpu" else [],
                build_directory=folder,
                verbose=verbose,
                with_cuda=device == "cuda",
                is_python_module=False,
            )
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            last = str(error).strip().splitlines()[-1]
            raise KernelError(
                f"The compiled renderer could not be built ({last}). It needs {needs}; "
                "build-kernels --verbose shows what the compiler says."
            ) from error
        os.replace(Path(folder) / f"{name}.so", target)
    return target


def load(device: str = "cpu") -> None:
    """Registers the operators `torch.ops.my3dgen` for a type of device; once in a process.

    Raises:
        KernelError: they were not built, or cannot be loaded.
    """
    _loaded(device)


@cache
def _loaded(device: str) -> None:
    if device != "cpu":
        load("cpu")  # it says what the operators are
    path = library_path(device)
    if not path.exists():
        where = "this machine" if device == "cpu" else "this GPU"
        raise KernelError(
            f"The compiled renderer is not built for {where} and PyTorch: "
            "run `python -m my3dgen_core build-kernels` once."
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise KernelError(f"{path} cannot be loaded ({error}). Delete it and build it again.") from error
    if device == "cpu":
        registration.register()
        culled_registration.register()


def available(device: str = "cpu") -> bool:
    """Whether the compiled renderer is built for a type of device and can be loaded."""
    try:
        load(device)
    except KernelError:
        return False
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="show what the compiler says")


def main(args: argparse.Namespace) -> str:
    """Builds for the CPU and, where PyTorch has CUDA, for the GPU; tries them, and says where they lie."""
    lines = [str(build(args.verbose))]
    load()
    try:
        lines.append(str(build(args.verbose, "cuda")))
        if torch.cuda.is_available():
            load("cuda")
    except KernelError as error:
        lines.append(str(error))
    return "\n".join((*lines, "The compiled renderer is ready: set `generator.renderer = 'compiled'`."))
