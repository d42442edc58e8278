"""Reader of ONNX graphs without the onnx package: inputs, outputs, nodes and weights.

Only the protobuf fields that face networks use are parsed, and weights are skipped unless requested: telling
which network a 170 MB file holds takes a millisecond, where `onnx.load` parses and copies all of it
(`benchmarks/libraries.py`). Field numbers are those of the public onnx.proto
(Apache-2.0).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}


@dataclass
class Node:
    """One operation of a graph."""

    op: str = ""
    """Operator type, such as "Conv"."""
    name: str = ""
    """Name of the node; may be empty."""
    inputs: list[str] = field(default_factory=list)
    """Names of the input tensors, in order."""
    outputs: list[str] = field(default_factory=list)
    """Names of the output tensors, in order."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Attributes by name: int, float, str, list of int or array."""


@dataclass
class OnnxGraph:
    """A network as data."""

    inputs: dict[str, list[int | None]] = field(default_factory=dict)
    """Shapes of the inputs by name, weights excluded; None for a dynamic dimension."""
    outputs: dict[str, list[int | None]] = field(default_factory=dict)
    """Shapes of the outputs by name; None for a dynamic dimension."""
    nodes: list[Node] = field(default_factory=list)
    """Operations in topological order."""
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    """Initializers by name."""


def read_onnx(path: str | Path, weights: bool = True) -> OnnxGraph:
    """Read the graph of an ONNX file.

    Args:
        path: the file.
        weights: False reads only shapes and nodes and leaves `OnnxGraph.weights` empty.

    Raises:
        ValueError: the file is not an ONNX model, is truncated, or stores its weights in a second file.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            # arrays are copied, so that none refers to the map after it is closed
            graph = _first(mapped, 0, len(mapped), 7)
            if graph is None:
                raise ValueError("no graph in it")
            return _read_graph(mapped, *graph, weights)
    except (ValueError, IndexError, struct.error, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path.name} cannot be read as an ONNX model ({error}). Copy the file again."
        ) from error


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("broken number")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, value or start, end) of every field of the message data[at:end].

    Only a field of wire type _BYTES may be read as a text or a message: of any other, the numbers are no part
    of this message, and a file that points back at itself would be read for hours.
    """
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value, at
        elif wire in (_BYTES, _FIXED32, _FIXED64):
            if wire == _BYTES:
                size, at = _varint(data, at)
            else:
                size = 4 if wire == _FIXED32 else 8
            if at + size > end:
                raise ValueError("the file is cut short")
            yield number, wire, at, at + size
            at += size
        else:
            raise ValueError("not a protobuf message")


def _first(data: mmap.mmap, at: int, end: int, number: int) -> tuple[int, int] | None:
    return next(((a, b) for n, wire, a, b in _fields(data, at, end) if n == number and wire == _BYTES), None)


def _text(data: mmap.mmap, a: int, b: int) -> str:
    return data[a:b].decode("utf-8")


def _integers(data: mmap.mmap, wire: int, a: int, b: int) -> list[int]:
    """Return the values of a repeated integer field, packed or not."""
    if wire == _VARINT:
        return [_signed(a)]
    values = []
    while a < b:
        value, a = _varint(data, a)
        values.append(_signed(value))
    return values


def _read_graph(data: mmap.mmap, at: int, end: int, weights: bool) -> OnnxGraph:
    graph = OnnxGraph()
    initialized = set()
    for number, wire, a, b in _fields(data, at, end):
        if wire != _BYTES:
            continue
        if number == 1:
            graph.nodes.append(_read_node(data, a, b))
        elif number == 5:
            name, values = _read_tensor(data, a, b, weights)
            initialized.add(name)
            if values is not None:
                graph.weights[name] = values
        elif number in (11, 12):
            name, shape = _read_value(data, a, b)
            (graph.inputs if number == 11 else graph.outputs)[name] = shape
    # older exporters list the weights among the inputs
    graph.inputs = {name: shape for name, shape in graph.inputs.items() if name not in initialized}
    return graph


def _read_value(data: mmap.mmap, at: int, end: int) -> tuple[str, list[int | None]]:
    name, shape = "", []
    for number, wire, a, b in _fields(data, at, end):
        if wire != _BYTES:
            continue
        if number == 1:
            name = _text(data, a, b)
        elif number == 2 and (tensor := _first(data, a, b, 1)) and (dims := _first(data, *tensor, 2)):
            for n, kind, c, d in _fields(data, *dims):
                if n == 1 and kind == _BYTES:
                    sizes = [value for m, size, value, _ in _fields(data, c, d) if m == 1 and size == _VARINT]
                    shape.append(sizes[0] if sizes else None)
    return name, shape


def _read_node(data: mmap.mmap, at: int, end: int) -> Node:
    node = Node()
    for number, wire, a, b in _fields(data, at, end):
        if wire != _BYTES:
            continue
        if number == 1:
            node.inputs.append(_text(data, a, b))
        elif number == 2:
            node.outputs.append(_text(data, a, b))
        elif number == 3:
            node.name = _text(data, a, b)
        elif number == 4:
            node.op = _text(data, a, b)
        elif number == 5:
            name, value = _read_attribute(data, a, b)
            node.attributes[name] = value
    return node


def _read_attribute(data: mmap.mmap, at: int, end: int) -> tuple[str, Any]:
    name, value = "", None
    integers: list[int] = []
    for number, wire, a, b in _fields(data, at, end):
        if number == 2 and wire == _FIXED32:
            value = struct.unpack("<f", data[a:b])[0]
        elif number == 3 and wire == _VARINT:
            value = _signed(a)
        elif number == 8:
            integers += _integers(data, wire, a, b)
        elif wire != _BYTES:
            continue
        elif number == 1:
            name = _text(data, a, b)
        elif number == 4:
            value = data[a:b].decode("utf-8", "replace")
        elif number == 5:
            value = _read_tensor(data, a, b, True)[1]
    return name, integers if integers else value


def _read_tensor(data: mmap.mmap, at: int, end: int, load: bool) -> tuple[str, np.ndarray | None]:
    name, kind, shape = "", 1, []
    raw: tuple[int, int] | None = None
    typed: list[np.ndarray] = []
    for number, wire, a, b in _fields(data, at, end):
        if number == 1:
            shape += _integers(data, wire, a, b)
        elif number == 2:
            kind = a
        elif number == 8 and wire == _BYTES:
            name = _text(data, a, b)
        elif number == 9 and wire == _BYTES:
            raw = (a, b)
        elif load and number == 14 and a == 1:
            raise ValueError("its weights are kept in another file")
        elif load and number in (4, 10) and wire != _VARINT:
            typed.append(np.frombuffer(data[a:b], "<f4" if number == 4 else "<f8"))
        elif load and number in (5, 7):
            typed.append(np.array(_integers(data, wire, a, b), np.int64))
    if not load:
        return name, None
    dtype = np.dtype(_DTYPES[kind])
    flat = (
        np.frombuffer(data[raw[0] : raw[1]], dtype) if raw else np.concatenate([*typed, np.zeros(0, dtype)])
    )
    return name, flat.astype(dtype).reshape(shape)
