"""A face-parsing network of one convolution, for tests: each class is the nearest of 19 known colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from real_photos import pack_folder

CLASSES = 19


def write_parser(path: Path, colors: np.ndarray, size: int | str = 512) -> Path:
    """An ONNX file as exports of BiSeNet are: logits at full size, after a smaller output that is not meant.

    Args:
        colors: [19,3] RGB, 0..255: the network's answer to a pixel is the class of the nearest one, measured
            after the normalization with which BiSeNet is trained (ImageNet's mean and deviation).
        size: of the pictures; a text leaves it free.
    """
    from onnx import TensorProto, checker, helper, save

    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    wanted = (colors / 255 - mean) / deviation
    weights = {
        "kernel": 2 * wanted[:, :, None, None],
        "bias": -(wanted**2).sum(1),
        "wrong": -2 * wanted[:, :, None, None],
    }
    nodes = [
        helper.make_node("Conv", ["picture", "wrong"], ["aside"], strides=[8, 8]),
        helper.make_node("Conv", ["picture", "kernel", "bias"], ["logits"]),
    ]
    small = size // 8 if isinstance(size, int) else 64

    def value(name: str, channels: int, side: int | str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, side, side])

    graph = helper.make_graph(
        nodes,
        "parser",
        [value("picture", 3, size)],
        [value("aside", CLASSES, small), value("logits", CLASSES, size)],
        [
            helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.astype(np.float32).ravel())
            for name, array in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, str(path))
    return path


def pack_with_parser(folder: Path, colors: np.ndarray | None) -> Path:
    """The test pack, with a parser in its sub-folder where there are colors for one."""
    folder.mkdir(parents=True)
    for file in pack_folder().glob("*.onnx"):
        (folder / file.name).symlink_to(file)
    if colors is not None:
        write_parser(folder / "parsing" / "faces.onnx", colors)
    return folder


def dark_is_background() -> np.ndarray:
    """Colors [19,3] for which dark pixels are background, light ones skin, and nothing is anything else."""
    colors = np.full((CLASSES, 3), 1e5)
    colors[0], colors[1] = 0, 255
    return colors


def is_light(image: np.ndarray) -> np.ndarray:
    """Mask of the pixels [...,3], 0..255, nearer to white than to black, as the network measures it."""
    deviation = np.array([0.229, 0.224, 0.225])
    away = lambda color: (((image - color) / deviation) ** 2).sum(-1)  # noqa: E731
    return np.asarray(away(255) < away(0))
