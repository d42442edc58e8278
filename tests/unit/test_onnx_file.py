"""The ONNX reader: what the onnx package writes is read as it is, and damaged files end in ValueError."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from my3dgen_core.formats.onnx_file import read_onnx

WEIGHT = np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2)


def network() -> bytes:
    """A model with weights as raw bytes and as numbers, a free dimension and every kind of attribute read."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, -1])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="first", pads=[0, 0, 0, 0], auto_pad="NOTSET"),
        helper.make_node("Constant", [], ["c"], value=shape),
        helper.make_node("Gemm", ["y", "c"], ["z"], alpha=2.0, transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 512])],
        [numpy_helper.from_array(WEIGHT, "w"), helper.make_tensor("f", TensorProto.FLOAT, [2], [1.5, 2.0])],
    )
    return helper.make_model(graph).SerializeToString()


def varint(value: int) -> bytes:
    written = b""
    while value > 0x7F:
        written, value = written + bytes([value & 0x7F | 0x80]), value >> 7
    return written + bytes([value])


def field(number: int, content: bytes) -> bytes:
    """A field of bytes: a text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def test_a_file_of_the_onnx_package_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(network())
    graph = read_onnx(file)
    assert graph.inputs == {"x": [None, 3, 8, 8]}
    assert graph.outputs == {"z": [1, 512]}
    assert set(graph.weights) == {"w", "f"}
    assert np.array_equal(graph.weights["w"], WEIGHT)
    assert graph.weights["f"].tolist() == [1.5, 2.0]
    conv, constant, gemm = graph.nodes
    assert (conv.op, conv.name, conv.inputs, conv.outputs) == ("Conv", "first", ["x", "w"], ["y"])
    assert conv.attributes == {"pads": [0, 0, 0, 0], "auto_pad": "NOTSET"}
    assert constant.attributes["value"].tolist() == [1, -1]
    assert gemm.attributes == {"alpha": 2.0, "transB": 1}
    assert read_onnx(file, weights=False).weights == {}


def test_damaged_files_raise_value_error_and_nothing_else(tmp_path: Path) -> None:
    whole, rng, refusals = network(), random.Random(0), []
    file = tmp_path / "damaged.onnx"
    for i in range(600):
        data = bytearray(whole)
        if i % 4 == 0:
            data = data[: rng.randrange(len(data))]
        elif i % 4 == 1:
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(12)] = rng.choice([b"\xff", b"\x80", b"\x7f"]) * rng.randrange(1, 12)
        else:
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        file.write_bytes(data)
        try:
            read_onnx(file)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 300
    assert all("damaged.onnx cannot be read as an ONNX model" in text for text in refusals)


def test_a_number_of_seventy_bits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "long.onnx"
    tensor = number(2, 7) + field(8, b"a") + field(1, b"\1") + field(7, b"\xff" * 9 + b"\x7f")
    file.write_bytes(field(7, field(5, tensor)))
    with pytest.raises(ValueError, match=r"long\.onnx cannot be read"):
        read_onnx(file)


def test_a_number_in_place_of_a_message_is_no_place_in_the_file(tmp_path: Path) -> None:
    """Followed, such numbers lead back to the start of the node: each field would read all before it twice
    over, and 6 kB would take hours."""
    file = tmp_path / "circle.onnx"
    start = 4
    node = field(1, b"\0") + number(9, 1000) + number(5, start)
    file.write_bytes(field(7, field(1, node)))
    assert file.read_bytes()[start:] == node
    (found,) = read_onnx(file).nodes
    assert found.attributes == {}
