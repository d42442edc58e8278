"""Build and load the compiled renderer."""

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
"""Source files by type of device; their contents are hashed into the name of the library."""
_FLAGS = {
    "cpu": ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
    "cuda": ("-O3",),
}
"""Compiler flags by type of device: no -ffast-math, because NaN and infinity must keep their meaning."""


class KernelError(ValueError):
    """Error of a compiled renderer that cannot be built or used; the message gives reason and remedy."""


def _compiler() -> str:
    """Return the path of the C++ compiler."""
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    if path is None:
        raise KernelError(
            f"There is no C++ compiler ({name}): install g++ or clang to use the compiled renderer. "
            "Without it everything works, at the speed of plain PyTorch."
        )
    return path


def _processor() -> str:
    """Return the processor's instruction sets: machines that share a home folder may differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}"


def _cuda_compiler() -> str:
    """Return the path of nvcc, if this PyTorch supports CUDA."""
    if torch.version.cuda is None:
        raise KernelError("This PyTorch is made without CUDA: there is nothing to build for a GPU.")
    from torch.utils import cpp_extension  # imports setuptools (0.4 s); only builds need it

    home = cpp_extension.CUDA_HOME
    path = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    if path is None:
        raise KernelError(
            f"There is no CUDA compiler (nvcc): install the CUDA toolkit {torch.version.cuda} to use the "
            "compiled renderer on the GPU. Without it everything works, at the speed of plain PyTorch."
        )
    return path


def _cuda_architectures() -> str:
    """Return the CUDA version and the GPU architectures that the library is compiled for."""
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return f"{torch.version.cuda} {sorted(found)} {os.environ.get('TORCH_CUDA_ARCH_LIST', '')}"


def library_path(device: str = "cpu") -> Path:
    """Return the path of the library for these sources, this PyTorch, compiler and processor, built or not.

    Args:
        device: "cpu" or "cuda".

    Raises:
        KernelError: there is no compiler.
    """
    compilers = [_compiler()]
    machine = _processor()
    if device == "cuda":
        compilers.append(_cuda_compiler())
        machine = f"{platform.machine()} {_cuda_architectures()}"
    versions = [subprocess.run([c, "--version"], capture_output=True, text=True).stdout for c in compilers]
    digest = hashlib.sha256("\n".join((torch.__version__, *versions, machine, *_FLAGS[device])).encode())
    for name in _SOURCES[device]:
        digest.update((_FOLDER / name).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "render" if device == "cpu" else f"render-{device}"
    return root / "my3dgen" / "kernels" / f"{name}-{digest.hexdigest()[:16]}.so"


@contextmanager
def _ninja() -> Iterator[None]:
    """Put ninja on the path inside the `with` block, also from an environment that is not activated."""
    before = os.environ.get("PATH", "")
    if shutil.which("ninja") is None:
        if importlib.util.find_spec("ninja") is None:
            raise KernelError("Ninja is missing: `pip install ninja`, then build the renderer again.")
        import ninja  # optional: only where the command is not on the path

        os.environ["PATH"] = os.pathsep.join((ninja.BIN_DIR, before))
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextmanager
def _quoted_library_path() -> Iterator[None]:
    """Quote PyTorch's library folder for the linker inside the `with` block.

    PyTorch passes it unquoted; a space in it would break the build.
    """
    from torch.utils import cpp_extension  # see _cuda_compiler

    before = cpp_extension.TORCH_LIB_PATH
    if os.name == "posix":
        cpp_extension.TORCH_LIB_PATH = shlex.quote(before)
    try:
        yield
    finally:
        cpp_extension.TORCH_LIB_PATH = before


def build(verbose: bool = False, device: str = "cpu") -> Path:
    """Compile the renderer, which takes about a minute, unless it has been compiled before.

    Args:
        verbose: show the compiler's output.
        device: "cpu" or "cuda".

    Returns:
        path of the library.

    Raises:
        KernelError: no compiler or no ninja, or the compiler fails.
    """
    target = library_path(device)
    if target.exists():
        return target
    from torch.utils import cpp_extension  # see _cuda_compiler

    target.parent.mkdir(parents=True, exist_ok=True)
    name = f"my3dgen_render_{device}"
    needs = "g++ or clang with OpenMP" if device == "cpu" else f"the CUDA toolkit {torch.version.cuda}"
    # Built in a temporary folder and moved at the end: an interrupted build leaves no partial library.
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
    """Register the operators `torch.ops.my3dgen` for a type of device, once per process.

    Args:
        device: "cpu" or "cuda".

    Raises:
        KernelError: the library has not been built, or cannot be loaded.
    """
    _loaded(device)


@cache
def _loaded(device: str) -> None:
    """Load the library of a type of device; cached."""
    if device != "cpu":
        load("cpu")  # it defines the operators' schemas
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
    """Return True if the compiled renderer is built for a type of device and can be loaded."""
    try:
        load(device)
    except KernelError:
        return False
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m my3dgen_core build-kernels`."""
    parser.add_argument("--verbose", action="store_true", help="show what the compiler says")


def main(args: argparse.Namespace) -> str:
    """Build and load the libraries for the CPU and, where PyTorch has CUDA, for the GPU.

    Returns:
        paths of the libraries, or the reason why there is none for the GPU.
    """
    lines = [str(build(args.verbose))]
    load()
    try:
        lines.append(str(build(args.verbose, "cuda")))
        if torch.cuda.is_available():
            load("cuda")
    except KernelError as error:
        lines.append(str(error))
    return "\n".join((*lines, "The compiled renderer is ready: set `generator.renderer = 'compiled'`."))
