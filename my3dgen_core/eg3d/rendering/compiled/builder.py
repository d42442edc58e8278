"""Building of the compiled renderer: the command `python -m my3dgen_core build-kernels`.

PyTorch's extension builder runs the compiler, by means of ninja. Nothing but this command builds, and no node
imports this module.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import libraries
from .libraries import COMMAND, SOURCES, KernelError

_UNITS = {"cpu": ("render.cpp", "fast.cpp"), "cuda": ("glue.cpp", "render.cu")}
"""Translation units by type of device."""


def build(
    verbose: bool = False,
    device: str = "cpu",
    folder: Path | None = None,
    compiler: str | None = None,
    architectures: tuple[str, ...] = (),
) -> Path:
    """Compile the renderer, unless there is a library already: seconds for the CPU, half a minute for a GPU.

    Args:
        verbose: show the compiler's output.
        device: "cpu" or "cuda".
        folder: where the library is written; None: `libraries.default_folder`.
        compiler: C++ compiler, a name or a path; None: PyTorch's choice, "c++" unless CXX is set.
        architectures: GPU architectures to compile for, such as "9.0"; none: those of this machine's GPUs.

    Returns:
        path of the library.

    Raises:
        KernelError: no compiler or no ninja, or the compiler fails.
    """
    folder = folder or libraries.default_folder()
    if device == "cuda" and torch.version.cuda is None:
        raise KernelError("This PyTorch is made without CUDA: there is nothing to build for a GPU.")
    if device == "cuda" and not (architectures := architectures or libraries.gpu_architectures()):
        raise KernelError("PyTorch sees no GPU here: name its architecture, such as --cuda-arch 9.0.")
    target = folder / libraries.file_name(device, architectures)
    found = libraries.find(device, folder) if device == "cpu" else target
    if found is not None and found.is_file():
        return found
    from torch.utils import cpp_extension  # imports setuptools (0.4 s), and looks for compilers

    compiler = compiler or cpp_extension.get_cxx_compiler()
    _check_programs(compiler, device)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"my3dgen_render_{device}"
    # Built in a temporary folder and moved at the end: an interrupted build leaves no partial library.
    with _pytorch_builds_with(compiler), tempfile.TemporaryDirectory(dir=folder) as temporary:
        try:
            cpp_extension.load(
                name,
                [str(SOURCES / device / file) for file in _UNITS[device]],
                **_options(device, architectures),
                build_directory=temporary,
                verbose=verbose,
                with_cuda=device == "cuda",
                is_python_module=False,
            )
        except Exception as error:  # each of the programs that PyTorch runs fails with a type of its own
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            toolkit = f"the CUDA toolkit {torch.version.cuda}"
            needs = toolkit if device == "cuda" else "g++ or clang with OpenMP"
            raise KernelError(
                f"The compiled renderer could not be built ({last}). It needs {needs}; "
                "build-kernels --verbose shows what the compiler says."
            ) from error
        os.replace(Path(temporary) / f"{name}.so", target)
    return target


def _options(device: str, architectures: tuple[str, ...]) -> dict[str, Any]:
    """Return the flags for compiler and linker, as PyTorch's extension builder takes them."""
    if device == "cpu":
        flags = libraries.flags()
        # The library uses nothing of PyTorch's: the linker leaves those libraries out.
        unused = ["-lstdc++", "-Wl,--as-needed"] if sys.platform == "linux" else []
        return {
            "extra_cflags": [*flags["compile"], *flags["variants"][libraries.variant()]],
            "extra_ldflags": [*flags["link"], *unused],
        }
    numbers = [one.replace(".", "") for one in sorted(architectures, key=libraries.numbers)]
    generated = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in numbers]
    newest = f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"
    return {"extra_cflags": ["-O3"], "extra_cuda_cflags": ["-O3", *generated, newest]}


def _check_programs(compiler: str, device: str) -> None:
    """Raise KernelError, with the remedy, unless the programs that build are there."""
    if shutil.which(compiler) is None:
        raise KernelError(
            f"There is no C++ compiler ({compiler}): install g++ or clang to use the compiled renderer. "
            "Without it everything works, at the speed of plain PyTorch."
        )
    if device == "cuda":
        from torch.utils.cpp_extension import CUDA_HOME  # see build

        if CUDA_HOME is None or shutil.which("nvcc", path=str(Path(CUDA_HOME) / "bin")) is None:
            raise KernelError(
                f"There is no CUDA compiler (nvcc): install the CUDA toolkit {torch.version.cuda} to use the "
                "compiled renderer on the GPU. Without it everything works, at the speed of plain PyTorch."
            )
    if shutil.which("ninja") is None:
        if importlib.util.find_spec("ninja") is None:
            raise KernelError("Ninja is missing: `pip install ninja`, then build the renderer again.")
        import ninja  # optional: only to say where it lies

        raise KernelError(
            f"Ninja is installed in {ninja.BIN_DIR}, which is not on the PATH: activate this Python's "
            f'environment, or run `PATH="{ninja.BIN_DIR}:$PATH" {COMMAND}`.'
        )


@contextmanager
def _pytorch_builds_with(compiler: str) -> Iterator[None]:
    """Name the compiler to PyTorch's extension builder inside the `with` block.

    The builder has no argument for it. Its library folder is quoted, too: it passes that to the linker as it
    is, and a space would break the build.
    """
    from torch.utils import cpp_extension  # see build

    before = cpp_extension.get_cxx_compiler, cpp_extension.TORCH_LIB_PATH
    cpp_extension.get_cxx_compiler = lambda: compiler
    if os.name == "posix":
        cpp_extension.TORCH_LIB_PATH = shlex.quote(before[1])
    try:
        yield
    finally:
        cpp_extension.get_cxx_compiler, cpp_extension.TORCH_LIB_PATH = before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m my3dgen_core build-kernels`."""
    parser.add_argument("--verbose", action="store_true", help="show what the compiler says")
    parser.add_argument(
        "--folder",
        type=Path,
        help=f"where the libraries are written; ComfyUI looks in {libraries.default_folder()}, the default",
    )
    parser.add_argument("--compiler", metavar="NAME", help="the C++ compiler, such as clang++")
    parser.add_argument(
        "--cuda-arch",
        nargs="+",
        default=[],
        metavar="X.Y",
        help="GPU architectures, such as 8.6 9.0; default: those of the GPUs in this machine",
    )


def main(args: argparse.Namespace) -> str:
    """Build and load the libraries for the CPU and, where PyTorch has CUDA, for the GPU.

    Returns:
        paths of the libraries, or the reason why there is none for the GPU.
    """
    lines = [str(build(args.verbose, "cpu", args.folder, args.compiler))]
    libraries.load("cpu", args.folder)
    try:
        lines.append(str(build(args.verbose, "cuda", args.folder, args.compiler, tuple(args.cuda_arch))))
        if torch.cuda.is_available():
            libraries.load("cuda", args.folder)
    except KernelError as error:
        lines.append(str(error))
    if args.folder is None:
        lines.append("The compiled renderer is ready: set `generator.renderer = 'compiled'`.")
    else:
        lines.append(
            f"Nothing looks in {args.folder} by itself: move the libraries to {libraries.default_folder()}."
        )
    return "\n".join(lines)
