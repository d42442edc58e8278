"""Binary glTF: meshes with the colors that were rendered, which no light of a viewer changes.

The colors of a mesh are display values (sRGB). glTF takes the colors of vertices as linear and textures as
sRGB, so the former are converted here. The material is unlit (KHR_materials_unlit); viewers without that
extension fall back to a rough material that is no metal.
"""

from __future__ import annotations

import io
import json
import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formats.atomic_file import atomic_path

if TYPE_CHECKING:
    import trimesh

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963  # targets of buffer views
_LINEAR, _TRILINEAR, _CLAMP = 9729, 9987, 33071
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
_UNLIT = "KHR_materials_unlit"


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Convert sRGB values in 0..1 to linear ones in 0..1, float32 of the same shape."""
    values = np.asarray(values, np.float32)
    curve = ((np.maximum(values, 0.04045) + 0.055) / 1.055) ** 2.4
    return np.where(values <= 0.04045, values / 12.92, curve)


def save_glb(mesh: trimesh.Trimesh, path: str | os.PathLike[str]) -> None:
    """Write a mesh with its normals, and its colors or texture, to a binary glTF file, atomically.

    Every viewer shows the colors as they were rendered: the material is unlit, vertex colors are stored
    linear (16 bits), a texture as an sRGB PNG.

    Args:
        mesh: the mesh of `extract_mesh` or `texture_mesh`.
        path: the .glb file.
    """
    with atomic_path(path) as name:
        name.write_bytes(_to_glb(mesh))


class _Buffer:
    """The binary chunk of a file under construction, with its views and accessors."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, content: bytes, target: int | None = None) -> int:
        """Append bytes, aligned to 4; return the number of their view."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.views.append(view if target is None else view | {"target": target})
        self.data += content + bytes(-len(content) % 4)
        return len(self.views) - 1

    def add_array(self, values: np.ndarray, kind: int, target: int = _VERTICES, **more: Any) -> int:
        """Append an array [N, 1..4]; return the number of its accessor."""
        self.accessors.append(
            {
                "bufferView": self.add(values.tobytes(), target),
                "componentType": kind,
                "count": len(values),
                "type": _KINDS[values.shape[1]],
                **more,
            }
        )
        return len(self.accessors) - 1


def _to_glb(mesh: trimesh.Trimesh) -> bytes:
    visual: Any = mesh.visual
    buffer = _Buffer()
    points = np.asarray(mesh.vertices, "<f4")
    bounds = {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
    attributes = {
        "POSITION": buffer.add_array(points, _FLOAT, **bounds),
        "NORMAL": buffer.add_array(np.asarray(mesh.vertex_normals, "<f4"), _FLOAT),
    }
    pbr: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    material = {"pbrMetallicRoughness": pbr, "extensions": {_UNLIT: {}}}
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "My3DGen"},
        "extensionsUsed": [_UNLIT],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [material],
    }
    if visual.kind == "texture":
        up = np.asarray(visual.uv, np.float32)
        down = np.stack((up[:, 0], 1 - up[:, 1]), axis=1).astype("<f4")  # glTF counts from the upper edge
        attributes["TEXCOORD_0"] = buffer.add_array(down, _FLOAT)
        picture = io.BytesIO()
        visual.material.baseColorTexture.save(picture, "PNG", optimize=True)
        pbr["baseColorTexture"] = {"index": 0}
        document |= {
            "images": [{"bufferView": buffer.add(picture.getvalue()), "mimeType": "image/png"}],
            "samplers": [{"magFilter": _LINEAR, "minFilter": _TRILINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}],
            "textures": [{"sampler": 0, "source": 0}],
        }
    else:
        shown = np.asarray(visual.vertex_colors, np.float32) / 255
        shown[:, :3] = srgb_to_linear(shown[:, :3])
        levels = (shown * 65535).round().astype("<u2")
        attributes["COLOR_0"] = buffer.add_array(levels, _UINT16, normalized=True)
    indices = np.asarray(mesh.faces, "<u4").reshape(-1, 1)
    primitive = {
        "attributes": attributes,
        "indices": buffer.add_array(indices, _UINT32, _INDICES),
        "material": 0,
    }
    document |= {
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": len(buffer.data)}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(buffer.data)
    head = struct.pack("<4sIII4s", b"glTF", 2, size, len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(buffer.data), b"BIN\0") + buffer.data
