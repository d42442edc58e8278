"""Build of the package my3dgen-kernels: one C++ library for each instruction set."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "my3dgen_core" / "eg3d" / "rendering" / "compiled" / "cpu"
if SOURCES.is_dir():  # else this is an unpacked source archive, which has a copy
    shutil.rmtree(HERE / "cpu", ignore_errors=True)
    shutil.copytree(SOURCES, HERE / "cpu")
FLAGS: dict[str, Any] = json.loads((HERE / "cpu" / "flags.json").read_text(encoding="utf-8"))
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")


def library(variant: str) -> Extension:
    """Return the library for an instruction set."""
    return Extension(
        f"my3dgen_kernels.{variant}",
        ["cpu/render.cpp", "cpu/fast.cpp"],
        extra_compile_args=["-std=c++17", "-g0", *FLAGS["compile"], *FLAGS["variants"][variant]],
        extra_link_args=FLAGS["link"],
        language="c++",
    )


class BuildLibraries(build_ext):
    """Build of plain shared libraries, which no version of Python marks as its own."""

    build_temp: str

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path of a library in the package."""
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        """Compile one variant in a folder of its own: all have the same sources."""
        before = self.build_temp
        self.build_temp = str(Path(before) / ext.name)
        super().build_extension(ext)
        self.build_temp = before


class AnyPythonWheel(bdist_wheel):
    """Wheel for one platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, its binary interface and the platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[library(variant) for variant in FLAGS["variants"] if ON_X86 or variant == "baseline"],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": AnyPythonWheel},
)
