"""Reader of TensorFlow Lite files without the tflite package: tensors, operations and weights.

A .tflite file is a FlatBuffer: tables whose fields are found through an offset table in front of each. Only
the fields that the networks of `face.mediapipe_networks` use are read; their numbers are those of the public
schema.fbs (Apache-2.0). Every offset is checked against the file, so that a damaged one ends in ValueError.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

import numpy as np

IDENTIFIER = b"TFL3"
_MAX_COUNT = 1 << 16  # of tensors, operations or buffers: the largest file read here has 575
_MAX_TENSOR, _MAX_WEIGHTS = (
    1 << 22,
    1 << 24,
)  # elements of one tensor, of all constants: 1.2 and .7 million there
_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 9: "i1"}
_ACTIVATIONS = {0: "", 1: "RELU", 3: "RELU6"}
_PADDINGS = {0: "SAME", 1: "VALID"}
# Options of each operation, by its number in the schema: its name, then the attributes as name -> (field,
# format of `struct`, default). "padding" and "activation" become texts.
_WINDOW = {"padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0)}
_OPERATIONS: dict[int, tuple[str, dict[str, tuple[int, str, int]]]] = {
    0: ("ADD", {"activation": (0, "b", 0)}),
    2: ("CONCATENATION", {"axis": (0, "i", 0), "activation": (1, "b", 0)}),
    3: (
        "CONV_2D",
        _WINDOW | {"activation": (3, "b", 0), "dilation_w": (4, "i", 1), "dilation_h": (5, "i", 1)},
    ),
    4: (
        "DEPTHWISE_CONV_2D",
        _WINDOW | {"activation": (4, "b", 0), "dilation_w": (5, "i", 1), "dilation_h": (6, "i", 1)},
    ),
    5: ("DEPTH_TO_SPACE", {"block_size": (0, "i", 0)}),
    6: ("DEQUANTIZE", {}),
    17: (
        "MAX_POOL_2D",
        _WINDOW | {"filter_w": (3, "i", 0), "filter_h": (4, "i", 0), "activation": (5, "b", 0)},
    ),
    19: ("RELU", {}),
    22: ("RESHAPE", {}),
    23: ("RESIZE_BILINEAR", {"align_corners": (2, "b", 0), "half_pixel_centers": (3, "b", 0)}),
    34: ("PAD", {}),
    54: ("PRELU", {}),
    124: ("DENSIFY", {}),
}


@dataclass
class Operation:
    """One operation of a graph."""

    op: str
    """Operator type, such as "CONV_2D"."""
    inputs: list[int]
    """Indices of the input tensors, in order; -1 for one that is left out."""
    outputs: list[int]
    """Indices of the output tensors, in order."""
    attributes: dict[str, int | str] = field(default_factory=dict)
    """Options by name."""


@dataclass
class TfliteGraph:
    """A network as data."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    """Shape of each tensor; pictures are [N,H,W,C]."""
    names: list[str] = field(default_factory=list)
    """Name of each tensor."""
    inputs: list[int] = field(default_factory=list)
    """Indices of the input tensors."""
    outputs: list[int] = field(default_factory=list)
    """Indices of the output tensors."""
    operations: list[Operation] = field(default_factory=list)
    """Operations in the order in which they run."""
    weights: dict[int, np.ndarray] = field(default_factory=dict)
    """Constant tensors by index, sparse ones made dense."""


def read_tflite(data: bytes, name: str = "the file") -> TfliteGraph:
    """Read the first graph of a TensorFlow Lite file.

    Args:
        data: content of the file.
        name: name of the file, for messages.

    Raises:
        ValueError: the content is not a TensorFlow Lite model, is damaged, or uses an operation that is not
            known here.
    """
    try:
        if data[4:8] != IDENTIFIER:
            raise ValueError("its identifier is missing")
        return _read_model(_Table(data, _unpack(data, "I", 0)))
    except (struct.error, IndexError, KeyError, OverflowError, MemoryError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be read as a TensorFlow Lite model ({error}). Copy the file again."
        ) from error


def _unpack(data: bytes, form: str, at: int) -> int:
    if at < 0:
        raise ValueError("an offset leads out of the file")
    return int(struct.unpack_from("<" + form, data, at)[0])


class _Table:
    """Table of a FlatBuffer at a position in the file."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - _unpack(data, "i", at)  # where the table of the fields' offsets lies
        self._size = _unpack(data, "H", self._fields)

    def _place(self, number: int) -> int | None:
        """Position of a field, or None if the table has its default."""
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return None
        offset = _unpack(self._data, "H", self._fields + entry)
        return self._at + offset if offset else None

    def number(self, number: int, form: str, default: int = 0) -> int:
        """Value of a field that holds an integer of this format of `struct`."""
        at = self._place(number)
        return default if at is None else _unpack(self._data, form, at)

    def table(self, number: int) -> _Table | None:
        """Table that a field refers to."""
        at = self._place(number)
        return None if at is None else _Table(self._data, at + _unpack(self._data, "I", at))

    def _vector(self, number: int, item: int) -> tuple[int, int]:
        """Position and count of the items of a vector; (0, 0) if it is missing."""
        at = self._place(number)
        if at is None:
            return 0, 0
        start = at + _unpack(self._data, "I", at)
        count = _unpack(self._data, "I", start)
        if start + 4 + count * item > len(self._data):
            raise ValueError("the file is cut short")
        return start + 4, count

    def array(self, number: int, dtype: str) -> np.ndarray:
        """Vector of numbers of a field."""
        kind = np.dtype(dtype)
        start, count = self._vector(number, kind.itemsize)
        return np.frombuffer(self._data, kind, count, start)

    def text(self, number: int) -> str:
        """Text of a field."""
        return self.array(number, "u1").tobytes().decode("utf-8", "replace")

    def tables(self, number: int) -> list[_Table]:
        """Vector of tables of a field."""
        start, count = self._vector(number, 4)
        if count > _MAX_COUNT:
            raise ValueError(f"{count} entries in a list")
        places = [start + 4 * i for i in range(count)]
        return [_Table(self._data, at + _unpack(self._data, "I", at)) for at in places]


def _read_model(model: _Table) -> TfliteGraph:
    codes = [max(code.number(0, "b"), code.number(3, "i")) for code in model.tables(1)]
    graphs, buffers = model.tables(2), model.tables(4)
    if not graphs:
        raise ValueError("no graph in it")
    body, graph = graphs[0], TfliteGraph()
    tensors, total = body.tables(0), 0
    for index, tensor in enumerate(tensors):
        shape = tuple(int(size) for size in tensor.array(0, "<i4"))
        if any(size < 0 for size in shape) or len(shape) > 6 or math.prod(shape) > _MAX_TENSOR:
            raise ValueError(f"tensor {index} has the shape {list(shape)}")
        graph.shapes.append(shape)
        graph.names.append(tensor.text(3))
        data = buffers[tensor.number(2, "I")]
        if len(data.array(0, "u1")):
            total += math.prod(shape)
            if total > _MAX_WEIGHTS:
                raise ValueError("too many weights")
            graph.weights[index] = _weights(tensor, data, shape)
    count = len(tensors)
    graph.inputs, graph.outputs = _indices(body, 1, count), _indices(body, 2, count)
    for entry in body.tables(3):
        code = codes[entry.number(0, "I")]
        if code not in _OPERATIONS:
            raise ValueError(f"operation {code} is not known")
        op, options = _OPERATIONS[code]
        graph.operations.append(
            Operation(
                op, _indices(entry, 1, count), _indices(entry, 2, count), _attributes(entry.table(4), options)
            )
        )
    return graph


def _indices(table: _Table, number: int, count: int) -> list[int]:
    """Indices of tensors in a field, each below `count`."""
    indices = [int(index) for index in table.array(number, "<i4")]
    if any(not -1 <= index < count for index in indices):
        raise ValueError("an operation uses a tensor that is not there")
    return indices


def _attributes(table: _Table | None, options: dict[str, tuple[int, str, int]]) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for name, (number, form, default) in options.items():
        value = default if table is None else table.number(number, form, default)
        if name == "activation":
            found[name] = _ACTIVATIONS[value]
        elif name == "padding":
            found[name] = _PADDINGS[value]
        else:
            found[name] = value
    return found


def _weights(tensor: _Table, buffer: _Table, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a constant tensor."""
    kind = tensor.number(1, "b")
    if kind not in _DTYPES:
        raise ValueError(f"numbers of type {kind} are not known")
    values, sparsity = buffer.array(0, "u1"), tensor.table(6)
    if len(values) % np.dtype(_DTYPES[kind]).itemsize:
        raise ValueError("weights are cut short")
    values = values.view(_DTYPES[kind])
    if sparsity is not None:
        return _dense(sparsity, values, shape)
    if len(values) != math.prod(shape):
        raise ValueError("weights do not fill their shape")
    return values.reshape(shape).copy()


def _dense(sparsity: _Table, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Unpack a sparse tensor: a tree with one level for each dimension, dense or compressed rows.

    Dimensions beyond those of the shape are positions within a block, which `block_map` assigns to
    dimensions.
    """
    order = [int(d) for d in sparsity.array(0, "<i4")]
    blocks = [int(d) for d in sparsity.array(1, "<i4")]
    levels = sparsity.tables(2)
    rank, total = len(shape), len(shape) + len(blocks)
    if sorted(order) != list(range(total)) or len(levels) != total or any(not 0 <= b < rank for b in blocks):
        raise ValueError("a sparse tensor has a wrong order")
    block_sizes = dict.fromkeys(range(rank), 1)
    for level, dimension in zip(levels, order, strict=True):
        if dimension >= rank:
            block_sizes[blocks[dimension - rank]] = level.number(1, "i")
    # `nodes` are the paths to the current level: one row of coordinates [total] for each
    nodes = np.zeros((1, total), np.int64)
    for level, dimension in zip(levels, order, strict=True):
        if level.number(0, "b") == 0:
            size = level.number(1, "i")
            if not 0 < size * len(nodes) <= _MAX_TENSOR:
                raise ValueError("a sparse tensor is too large")
            at = np.tile(np.arange(size), len(nodes))
            nodes = np.repeat(nodes, size, axis=0)
        else:
            segments, indices = _numbers(level, 2), _numbers(level, 4)
            if len(segments) != len(nodes) + 1 or segments[0] != 0 or segments[-1] != len(indices):
                raise ValueError("a sparse tensor has wrong rows")
            counts = np.diff(segments)
            if (counts < 0).any():
                raise ValueError("a sparse tensor has wrong rows")
            at = indices
            nodes = np.repeat(nodes, counts, axis=0)
        nodes[:, dimension] = at
    if len(nodes) != len(values):
        raise ValueError("weights do not fill their shape")
    places = nodes[:, :rank].copy()
    for extra, dimension in enumerate(blocks):
        places[:, dimension] = places[:, dimension] * block_sizes[dimension] + nodes[:, rank + extra]
    if len(places) and ((places < 0) | (places >= np.array(shape))).any():
        raise ValueError("a sparse tensor leads out of its shape")
    dense = np.zeros(shape, values.dtype)
    dense[tuple(places.T)] = values
    return dense


def _numbers(level: _Table, number: int) -> np.ndarray:
    """Vector of indices of a compressed dimension, whose type is in one field and place in the next."""
    kind, vector = level.number(number, "b"), level.table(number + 1)
    if vector is None or kind not in (1, 2, 3):
        raise ValueError("a sparse tensor has no indices")
    return vector.array(0, {1: "<i4", 2: "<u2", 3: "u1"}[kind]).astype(np.int64)
