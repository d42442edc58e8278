"""Libraries of the compiled renderer: which one fits this machine, where it lies, and loading it.

Nothing here starts a process: what a prompt asks for is loaded or refused, never built. That is what
`builder` does, on the command line.

The library for the CPU has a plain C interface (`cpu_kernels`) and fits any PyTorch. It comes in one file for
each instruction set, from the package `my3dgen-kernels` where that is installed, else from the folder of what
was built here. The library for CUDA belongs to one version of PyTorch and is always built here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import sysconfig
import threading
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import culled_registration, registration
from .cpu_kernels import CpuKernels, InterfaceError

SOURCES = Path(__file__).parent
PACKAGE = "my3dgen_kernels"
"""Package with the libraries for the CPU, one file for each variant; optional."""
COMMAND = "python -m my3dgen_core build-kernels"


class KernelError(ValueError):
    """Error of a compiled renderer that cannot be built or used; the message gives reason and remedy."""


def default_folder() -> Path:
    """Return the folder of the libraries built on this machine, which need not exist."""
    return Path.home() / ".cache" / "my3dgen" / "kernels"


def variant() -> str:
    """Return the instruction set that the library for this processor uses: a key of "variants" in flags.json.

    PyTorch's own choice is followed, with its variable ATEN_CPU_CAPABILITY.
    """
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "baseline")


@cache
def flags() -> dict[str, Any]:
    """Return the compiler's flags for the CPU: "compile", "link", and "variants" by instruction set.

    There is no -ffast-math among them, because NaN and infinity must keep their meaning.
    """
    return json.loads((SOURCES / "cpu" / "flags.json").read_text(encoding="utf-8"))


def file_name(device: str, architectures: tuple[str, ...] = ()) -> str:
    """Return the name of the library for these sources and this machine.

    Args:
        device: "cpu" or "cuda".
        architectures: for "cuda", the GPU architectures it is compiled for, such as "9.0".
    """
    parts = [sysconfig.get_platform()]
    if device == "cuda":
        parts += [torch.__version__, str(torch.version.cuda), str(sys.implementation.cache_tag)]
    digest = hashlib.sha256("\n".join(parts).encode())
    for file in sorted((SOURCES / device).glob("*.[chj]*")):  # C++, CUDA, and the flags
        digest.update(file.name.encode() + file.read_bytes())
    kind = variant() if device == "cpu" else "-".join((device, *architectures))
    return f"{digest.hexdigest()[:16]}-{kind}.so"


def find(device: str = "cpu", folder: Path | None = None) -> Path | None:
    """Return the library for a type of device, or None where there is none.

    Args:
        device: "cpu" or "cuda".
        folder: folder of the libraries built here; None: `default_folder`.
    """
    folder = folder or default_folder()
    if device == "cpu":
        built = folder / file_name("cpu")
        return next((path for path in (_packaged(), built) if path is not None and path.is_file()), None)
    pattern = file_name("cuda", ("*",))
    cards = gpu_architectures()
    for path in sorted(folder.glob(pattern)):
        if all(covers(tuple(path.stem.split("-")[2:]), card) for card in cards):
            return path
    return None


def _packaged() -> Path | None:
    """Return the place of the library for this processor in the installed package."""
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent / f"{variant()}.so" if spec and spec.origin else None


def gpu_architectures() -> tuple[str, ...]:
    """Return the architectures of the GPUs that PyTorch sees, such as "9.0"."""
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return tuple(f"{major}.{minor}" for major, minor in sorted(found))


def covers(architectures: tuple[str, ...], card: str) -> bool:
    """Return True if a library that is compiled for some architectures runs on a GPU.

    Machine code runs on later GPUs of the same generation; the code for the latest architecture is also kept
    in a form that later generations translate (PTX).
    """
    built, wanted = [numbers(one) for one in architectures], numbers(card)
    return max(built) <= wanted or any(one[0] == wanted[0] and one <= wanted for one in built)


def numbers(architecture: str) -> tuple[int, int]:
    """Return major and minor number of an architecture such as "9.0"; raise KernelError if it is none."""
    found = re.fullmatch(r"(\d+)\.(\d)", architecture)
    if not found:
        raise KernelError(f"{architecture!r} is no GPU architecture: write it like 9.0.")
    return int(found[1]), int(found[2])


def load(device: str = "cpu", folder: Path | None = None) -> None:
    """Register the operators `torch.ops.my3dgen` for a type of device, once per process.

    Args:
        device: "cpu" or "cuda".
        folder: folder of the libraries built here; None: `default_folder`.

    Raises:
        KernelError: there is no library, or it cannot be loaded.
    """
    with _lock:
        if device not in _loaded:
            path = find(device, folder)
            if path is None:
                where = "this machine" if device == "cpu" else "this GPU and PyTorch"
                raise KernelError(
                    f"The compiled renderer is not built for {where}: run `{COMMAND}` once, in the folder of "
                    "this pack and with this Python."
                )
            _register(device, path)
            _loaded.add(device)


_loaded: set[str] = set()
"""Types of device whose operators are registered in this process."""
_lock = threading.Lock()


@cache
def _operators() -> torch.library.Library:
    """Define the operators, with the shapes of their results and their gradients, for any device."""
    library = torch.library.Library("my3dgen", "FRAGMENT")
    registration.register(library)
    culled_registration.register(library)
    return library  # the registration lasts as long as this object


def _register(device: str, path: Path) -> None:
    """Load a library and register its functions as operators."""
    try:
        if device == "cpu":
            CpuKernels(path).register(_operators())
        else:
            _operators()
            torch.ops.load_library(str(path))
    except (OSError, InterfaceError) as error:
        remedy = "Delete it and build it again."
        if path.parent.name == PACKAGE:
            remedy = f"Update or uninstall the package {PACKAGE.replace('_', '-')}."
        raise KernelError(f"{path} cannot be loaded ({error}). {remedy}") from error


def available(device: str = "cpu") -> bool:
    """Return True if the compiled renderer is there for a type of device and can be loaded."""
    try:
        load(device)
    except KernelError:
        return False
    return True
