"""TensorFlow Lite files: the reader, and the torch modules against the LiteRT runtime."""

from __future__ import annotations

import random
import zipfile
from functools import lru_cache

import numpy as np
import pytest
import torch
from face_fixtures import real_batch
from real_photos import wheel

from my3dgen_core.face.mediapipe_models import _MEMBERS
from my3dgen_core.face.tflite_network import TfliteNetwork
from my3dgen_core.formats.tflite_file import read_tflite

RANGES = {"short": (-1.0, 1.0), "full": (-1.0, 1.0), "mesh": (0.0, 1.0)}


@lru_cache(maxsize=3)
def content(role: str) -> bytes:
    """One of the three .tflite files in MediaPipe's wheel."""
    with zipfile.ZipFile(wheel()) as archive:
        return archive.read(f"mediapipe/{_MEMBERS[role]}")


@lru_cache(maxsize=3)
def network(role: str) -> TfliteNetwork:
    return TfliteNetwork(read_tflite(content(role), role)).eval()


def inputs(role: str) -> torch.Tensor:
    """Two pictures of noise and two real face crops, [4,3,S,S] in the network's range."""
    low, high = RANGES[role]
    size = network(role).input_size
    noise = torch.from_numpy(np.random.default_rng(0).random((2, 3, size, size), np.float32))
    crops = torch.nn.functional.interpolate(real_batch().images[:2], (size, size), mode="area")
    return torch.cat([noise, (crops + 1) / 2]) * (high - low) + low


@pytest.mark.parametrize("role", RANGES)
def test_the_torch_modules_give_what_litert_gives(role: str) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")  # the extra `dev` installs it
    interpreter = litert.Interpreter(model_content=content(role), num_threads=1)
    interpreter.allocate_tensors()
    pictures = inputs(role)
    with torch.inference_mode():
        found = network(role)(pictures)
    for i, picture in enumerate(pictures):
        interpreter.set_tensor(
            interpreter.get_input_details()[0]["index"], picture.permute(1, 2, 0)[None].numpy()
        )
        interpreter.invoke()
        for output, details in zip(found, interpreter.get_output_details(), strict=True):
            expected = interpreter.get_tensor(details["index"])[0]
            # boxes and landmarks are in pixels of the picture, scores before the sigmoid in up to 100
            size = max(1.0, float(np.abs(expected).max()))
            assert np.abs(output[i].numpy() - expected).max() / size < 1e-5


def test_shapes_and_weights_are_those_of_the_file() -> None:
    assert [network(role).input_size for role in RANGES] == [128, 192, 192]
    assert network("short").output_shapes == [(1, 896, 16), (1, 896, 1)]
    assert network("mesh").output_shapes == [(1, 1, 1, 1404), (1, 1, 1, 1)]
    graph = read_tflite(content("full"))
    sparse = [graph.weights[o.inputs[0]] for o in graph.operations if o.op == "DENSIFY"]
    assert len(sparse) == 46
    assert 0.1 < np.mean([np.mean(weight != 0) for weight in sparse]) < 0.5


@pytest.mark.parametrize("role", RANGES)
def test_half_precision_and_the_meta_device_run_too(role: str) -> None:
    pictures = inputs(role)[2:]
    half = TfliteNetwork(read_tflite(content(role))).to(torch.bfloat16)
    with torch.inference_mode():
        exact, rough = network(role)(pictures), half(pictures.bfloat16())
        shapes = half.to("meta")(pictures.to("meta", torch.bfloat16))
    for a, b, shape in zip(exact, rough, shapes, strict=True):
        assert b.dtype == torch.bfloat16
        assert shape.device.type == "meta"
        assert shape.shape == a.shape
        assert (a - b.float()).norm() < 0.1 * a.norm()


def test_damaged_files_raise_value_error_and_nothing_else() -> None:
    whole, rng, refused = content("short"), random.Random(0), 0
    tables = len(whole) - 60_000  # the graph lies behind the weights
    for i in range(300):
        data = bytearray(whole)
        if i % 4 == 0:
            data = data[: rng.randrange(len(data))]
        else:
            for _ in range(rng.randrange(1, 8)):
                at = rng.randrange(tables, len(data)) if i % 4 > 1 else rng.randrange(64)
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        try:
            TfliteNetwork(read_tflite(bytes(data), "damaged.tflite"))
        except ValueError:
            refused += 1
    assert refused > 150


def test_a_message_names_the_file() -> None:
    with pytest.raises(ValueError, match=r"face\.tflite cannot be read as a TensorFlow Lite model"):
        read_tflite(b"PK\3\4 no model", "face.tflite")
    with pytest.raises(ValueError, match="cannot be read"):
        read_tflite(b"", "face.tflite")
