"""The CUDA renderer compiled for the CPU: the same kernels, run thread by thread where there is no GPU."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
SOURCES = FOLDER.parents[1] / "my3dgen_core" / "eg3d" / "rendering" / "compiled" / "cuda"


def translated(text: str) -> str:
    """CUDA's two pieces of syntax that no macro can stand for."""
    text = re.sub(
        r"extern __shared__ (\w+) (\w+)\[\];",
        r"\1* \2 = reinterpret_cast<\1*>(emulated::dynamic_memory);",
        text,
    )
    return re.sub(r"(\w+)<<<(.*?)>>>\(", r"emulated::run(\1, \2, ", text)


class Emulated:
    """The compiled library; arrays go in and out as CPU tensors."""

    def __init__(self, compiler: str, folder: Path) -> None:
        (folder / "render.translated.h").write_text(translated((SOURCES / "render.cu").read_text()))
        library = folder / "emulated.so"
        command = [
            compiler,
            "-std=c++17",
            "-O1",
            "-shared",
            "-fPIC",
            "-I",
            folder,
            "-I",
            FOLDER,
            "-I",
            SOURCES,
        ]
        subprocess.run([*map(str, command), "-o", str(library), str(FOLDER / "emulated.cpp")], check=True)
        self.library = ctypes.CDLL(str(library))

    def forward(
        self,
        planes: Tensor,
        weights: tuple[Tensor, ...],
        origins: Tensor,
        directions: Tensor,
        depths: Tensor,
        u: Tensor,
        box_warp: float,
        white_back: bool,
    ) -> dict[str, Tensor]:
        """The operator's outputs by name."""
        self.scene = self._scene(planes, weights, origins, directions, box_warp)
        b, m, n = depths.shape
        k = u.shape[2]
        out = {
            "depths": torch.full((b, m, n + k), torch.nan),
            "raw": torch.full((b, m, n + k), torch.nan),
            "features": torch.full((b, m, 32), torch.nan),
            "depth": torch.full((b, m), torch.nan),
            "weight": torch.full((b, m), torch.nan),
        }
        self.sorted = out["depths"], out["raw"]
        self.white_back = white_back
        depths, u = depths.contiguous(), u.contiguous()
        self._call("forward", *self.scene, depths, n, u, k, int(white_back), *out.values())
        return out

    def backward(
        self, features: Tensor, depth: Tensor, weight: Tensor, floor: float
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradients of planes [B, 3, 32, P, P] and of the weights, of the last `forward`."""
        b, (height, width) = len(features), self.scene[2:4]
        planes = torch.zeros(b, 3, height, width, 32)
        parts = torch.zeros(64 * 32 + 64 + 33 * 64 + 33)
        grads = [g.contiguous() for g in (features, depth, weight)]
        samples = self.sorted[0].shape[2]
        self._call(
            "gradient", *self.scene, *self.sorted, samples, *grads, int(self.white_back), floor, planes, parts
        )
        pieces = parts.split([64 * 32, 64, 33 * 64, 33])
        shapes = ((64, 32), (64,), (33, 64), (33,))
        return planes.permute(0, 1, 4, 2, 3), [p.view(s) for p, s in zip(pieces, shapes, strict=True)]

    @staticmethod
    def _scene(
        planes: Tensor, weights: tuple[Tensor, ...], origins: Tensor, directions: Tensor, box_warp: float
    ) -> tuple:
        one = planes.stride(0) == 0
        laid = (planes[:1] if one else planes).permute(0, 1, 3, 4, 2).contiguous()
        height, width = planes.shape[3:]
        b, m, _ = directions.shape
        kept = tuple(w.detach().contiguous() for w in weights)
        return (
            laid,
            int(one),
            height,
            width,
            box_warp,
            kept,
            origins.contiguous(),
            directions.contiguous(),
            b * m,
            m,
        )

    def _call(self, name: str, *arguments: object) -> None:
        def native(value: object) -> object:
            if isinstance(value, Tensor):
                return ctypes.c_void_p(value.data_ptr())
            if isinstance(value, tuple):
                return (ctypes.c_void_p * len(value))(*(v.data_ptr() for v in value))
            return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)

        error = getattr(self.library, name)(*map(native, arguments))
        assert error == 0, f"{name} failed with {error}"
