"""Reads .glb files as they are written, without a library that changes colors or vertices."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_TYPES = {5126: "<f4", 5123: "<u2", 5125: "<u4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


class GlbFile:
    """The document and the binary chunk of a .glb."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, size, length, kind = struct.unpack_from("<4sIII4s", data)
        assert (magic, version, size, kind) == (b"glTF", 2, len(data), b"JSON")
        self.document: dict[str, Any] = json.loads(data[20 : 20 + length])
        self._blob = data[28 + length :]
        assert struct.unpack_from("<I4s", data, 20 + length) == (len(self._blob), b"BIN\0")

    @property
    def primitive(self) -> dict[str, Any]:
        """The only primitive of the only mesh."""
        (mesh,) = self.document["meshes"]
        (primitive,) = mesh["primitives"]
        return primitive

    @property
    def material(self) -> dict[str, Any]:
        """Material of the primitive."""
        return self.document["materials"][self.primitive["material"]]

    def view(self, number: int) -> bytes:
        """Bytes of a buffer view."""
        found = self.document["bufferViews"][number]
        return self._blob[found["byteOffset"] : found["byteOffset"] + found["byteLength"]]

    def accessor(self, number: int) -> np.ndarray:
        """Values [N, 1..4] of an accessor, as stored."""
        found = self.document["accessors"][number]
        values = np.frombuffer(self.view(found["bufferView"]), _TYPES[found["componentType"]])
        values = values.reshape(-1, _WIDTHS[found["type"]])
        assert len(values) == found["count"]
        return values

    def attribute(self, name: str) -> np.ndarray:
        """Values of an attribute of the vertices; normalized integers as 0..1."""
        number = self.primitive["attributes"][name]
        values = self.accessor(number)
        if self.document["accessors"][number].get("normalized"):
            return values / np.iinfo(values.dtype).max
        return values

    def texture(self) -> np.ndarray:
        """The only picture [H, W, 3], uint8."""
        (image,) = self.document["images"]
        return np.asarray(Image.open(io.BytesIO(self.view(image["bufferView"]))))

    @property
    def faces(self) -> np.ndarray:
        """Triangles [F, 3]."""
        return self.accessor(self.primitive["indices"]).reshape(-1, 3)
