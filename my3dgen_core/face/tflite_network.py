"""A TensorFlow Lite network as a torch module, with the operations of MediaPipe's face networks.

Pictures and feature maps are [N,C,H,W] inside, whatever the file says ([N,H,W,C]); tensors of other ranks
keep their order. Results equal those of the LiteRT runtime within 1e-4 (`tests/unit/test_tflite.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..formats.tflite_file import Operation, TfliteGraph

_LARGEST_GROWTH = 64  # of a tensor by one operation; 4 in the networks meant


class TfliteNetwork(nn.Module):
    """Network of a .tflite file: frozen, on any device, in any floating-point type.

    Weights are converted once: half precision to float32, sparse to dense, filters to torch's order. `.to()`
    moves and casts them.
    """

    def __init__(self, graph: TfliteGraph) -> None:
        """Convert a graph, and check that every tensor has the shape that the file says.

        Raises:
            ValueError: operations do not fit their inputs.
        """
        super().__init__()
        self._shapes = graph.shapes
        self._inputs, self._outputs = list(graph.inputs), list(graph.outputs)
        constants: dict[int, np.ndarray] = dict(graph.weights)
        self._steps: list[tuple[Callable[..., Tensor], list[int | str], int]] = []
        for operation in graph.operations:
            if not operation.inputs or len(operation.outputs) != 1:
                raise ValueError(f"{operation.op} has {len(operation.outputs)} outputs.")
            if operation.op in ("DEQUANTIZE", "DENSIFY"):
                if operation.inputs[0] not in constants:
                    raise ValueError(f"{operation.op} of a tensor that is not constant is not known.")
                values = constants[operation.inputs[0]]
                constants[operation.outputs[0]] = (
                    values.astype(np.float32) if operation.op == "DEQUANTIZE" else values
                )
                continue
            self._steps.append(self._step(operation, constants))
        last = {key: step for step, (_, inputs, _) in enumerate(self._steps) for key in inputs}
        self._done: list[list[int]] = [[] for _ in self._steps]  # tensors that no later step uses
        for key, step in last.items():
            if isinstance(key, int) and key not in self._outputs:
                self._done[step].append(key)
        self._check()

    @torch.inference_mode()
    def _check(self) -> None:
        """Run once and compare every shape with that in the file, which the reader has limited."""
        if len(self._inputs) != 1 or len(self._shapes[self._inputs[0]]) != 4:
            raise ValueError("The network has other inputs than one picture.")
        height, width, channels = self._shapes[self._inputs[0]][1:]
        try:
            self._run(torch.zeros(1, channels, height, width), check=True)
        except (RuntimeError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"its operations do not fit each other ({error})") from error

    @property
    def input_size(self) -> int:
        """Side in pixels of the square picture that the network takes."""
        return self._shapes[self._inputs[0]][1]

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs for one picture."""
        return [self._shapes[index] for index in self._outputs]

    def _step(
        self, operation: Operation, constants: dict[int, np.ndarray]
    ) -> tuple[Callable[..., Tensor], list[int | str], int]:
        """Prepare one operation: its function, its inputs (an index, or the name of a buffer), its output."""
        options, data = operation.attributes, operation.inputs
        fixed = [constants.get(index) for index in data]
        shape, result = self._shapes[data[0]], self._shapes[operation.outputs[0]]
        if min(data) < -1 or math.prod(result) > _LARGEST_GROWTH * math.prod(shape):
            raise ValueError(f"{operation.op} makes {list(result)} of {list(shape)}.")
        if operation.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight = _constant(fixed, 1, operation.op, 4)
            depthwise = operation.op == "DEPTHWISE_CONV_2D"
            # filters are [out,h,w,in], those of each channel [1,h,w,out]
            weight = weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
            if result[-1:] != weight.shape[:1] or len(shape) != 4:
                raise ValueError(f"{operation.op} has filters for other channels.")
            names = [self._keep(weight)]
            if len(data) > 2 and data[2] >= 0:
                names.append(self._keep(_constant(fixed, 2, operation.op, 1)))
            window = _window(options, weight.shape[2], weight.shape[3])
            function = partial(
                _convolve, window=window, depthwise=depthwise, activation=str(options["activation"])
            )
            return function, [data[0], *names], operation.outputs[0]
        if operation.op == "MAX_POOL_2D":
            window = _window(options, int(options["filter_h"]), int(options["filter_w"]))
            return partial(_max_pool, window=window), [data[0]], operation.outputs[0]
        if operation.op == "PRELU":
            slope = _constant(fixed, 1, operation.op, 3)
            if slope.shape[:2] != (1, 1):
                raise ValueError("A PRELU with a slope for each pixel is not known.")
            return F.prelu, [data[0], self._keep(slope.reshape(-1))], operation.outputs[0]
        if operation.op == "PAD":
            amounts = _constant(fixed, 1, operation.op, 2)
            if amounts.shape != (4, 2) or (amounts < 0).any() or amounts.max() > 4096 or amounts[0].any():
                raise ValueError("PAD has amounts that are not known.")
            if tuple(np.array(shape) + amounts.sum(1)) != result:
                raise ValueError("PAD makes another size than its amounts say.")
            sides = [int(n) for dimension in (2, 1, 3) for n in amounts[dimension]]
            return partial(_pad, sides=sides), [data[0]], operation.outputs[0]
        if operation.op == "RESHAPE":
            return partial(_reshape, shape=result), [data[0]], operation.outputs[0]
        if operation.op == "RESIZE_BILINEAR":
            size = _constant(fixed, 1, operation.op, 1)
            if options["align_corners"] or not options["half_pixel_centers"]:
                raise ValueError("RESIZE_BILINEAR with aligned corners is not known.")
            if tuple(size.tolist()) != result[1:3]:
                raise ValueError("RESIZE_BILINEAR makes another size than it says.")
            return partial(_resize, size=(result[1], result[2])), [data[0]], operation.outputs[0]
        if operation.op == "DEPTH_TO_SPACE":
            return partial(_depth_to_space, block=int(options["block_size"])), [data[0]], operation.outputs[0]
        if operation.op == "CONCATENATION":
            return partial(_concatenate, axis=int(options["axis"])), list(data), operation.outputs[0]
        if operation.op == "ADD":
            if self._shapes[data[-1]] != shape:
                raise ValueError("ADD of tensors of different shapes is not known.")
            return partial(_add, activation=str(options["activation"])), list(data), operation.outputs[0]
        if operation.op == "RELU":
            return F.relu, list(data), operation.outputs[0]
        raise ValueError(f"{operation.op} is not known.")

    def _keep(self, values: np.ndarray) -> str:
        """Register a constant as a buffer; return its name."""
        name, tensor = f"weight_{len(self._buffers)}", torch.from_numpy(np.ascontiguousarray(values)).float()
        if tensor.ndim == 4:  # the order in which convolutions of few channels are fastest
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        self.register_buffer(name, tensor, persistent=False)
        return name

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Run the network.

        Args:
            pictures: [N,3,S,S] of `input_size`, in the range that the network expects.

        Returns:
            The outputs in the order of the file; those of rank 4 as [N,H,W,C].
        """
        return self._run(pictures)

    def _run(self, pictures: Tensor, check: bool = False) -> list[Tensor]:
        """Run the operations; `check` compares each result's shape with that in the file."""
        values: dict[int, Any] = {self._inputs[0]: pictures}
        for (function, inputs, output), done in zip(self._steps, self._done, strict=True):
            found = function(*(getattr(self, key) if isinstance(key, str) else values[key] for key in inputs))
            if check:
                shape = tuple(found.permute(0, 2, 3, 1).shape if found.ndim == 4 else found.shape)
                if shape != self._shapes[output]:
                    raise ValueError(f"a tensor of {list(shape)} should have {list(self._shapes[output])}")
            values[output] = found
            for key in done:  # memory that is used again at once costs no time
                del values[key]
        results = [values[index] for index in self._outputs]
        return [result.permute(0, 2, 3, 1) if result.ndim == 4 else result for result in results]


def _constant(values: list[np.ndarray | None], index: int, op: str, rank: int) -> np.ndarray:
    """Constant input of an operation, which must have this rank."""
    found = values[index] if index < len(values) else None
    if found is None or found.ndim != rank:
        raise ValueError(f"{op} needs a constant input of {rank} dimensions.")
    return found


def _window(options: dict[str, int | str], height: int, width: int) -> dict[str, Any]:
    """Sizes of a sliding window, as torch names them; padding "SAME" depends on the picture."""
    stride = (int(options["stride_h"]), int(options["stride_w"]))
    dilation = (int(options.get("dilation_h", 1)), int(options.get("dilation_w", 1)))
    if min(*stride, *dilation, height, width) < 1 or max(*stride, *dilation, height, width) > 256:
        raise ValueError("A window has a size that is not known.")
    return {
        "size": (height, width),
        "stride": stride,
        "dilation": dilation,
        "same": options["padding"] == "SAME",
    }


def _same_padding(x: Tensor, window: dict[str, Any]) -> list[int]:
    """Border that "SAME" adds: left, right, top, bottom; the right and bottom get the odd pixel."""
    if not window["same"]:
        return [0, 0, 0, 0]
    sides = []
    for length, size, stride, dilation in zip(
        reversed(x.shape[2:]),
        reversed(window["size"]),
        reversed(window["stride"]),
        reversed(window["dilation"]),
        strict=True,
    ):
        missing = max(0, (-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length)
        sides += [missing // 2, missing - missing // 2]
    return sides


def _activate(x: Tensor, name: Any) -> Tensor:
    """Activate a new tensor in place."""
    return F.relu_(x) if name == "RELU" else F.relu6(x, inplace=True) if name == "RELU6" else x


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    window: dict[str, Any],
    depthwise: bool,
    activation: str,
) -> Tensor:
    left, right, top, bottom = _same_padding(x, window)
    if (left, top) == (right, bottom):
        padding = (top, left)
    else:
        x, padding = F.pad(x, [left, right, top, bottom]), (0, 0)
    groups = x.shape[1] if depthwise else 1
    return _activate(
        F.conv2d(x, weight, bias, window["stride"], padding, window["dilation"], groups), activation
    )


def _max_pool(x: Tensor, *, window: dict[str, Any]) -> Tensor:
    sides = _same_padding(x, window)
    if any(sides):
        x = F.pad(x, sides, value=-torch.inf)
    return F.max_pool2d(x, window["size"], window["stride"])


def _pad(x: Tensor, *, sides: list[int]) -> Tensor:
    return F.pad(x, sides)


def _reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    flat = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    flat = flat.reshape(x.shape[0], *shape[1:])  # files have a fixed batch size of 1
    return flat.permute(0, 3, 1, 2) if flat.ndim == 4 else flat


def _resize(x: Tensor, *, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _depth_to_space(x: Tensor, *, block: int) -> Tensor:
    """Move blocks of channels into the picture; the position in the block is the slow part of the channel."""
    count, channels, height, width = x.shape
    parts = x.reshape(count, block, block, channels // block**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(count, channels // block**2, height * block, width * block)


def _concatenate(*parts: Tensor, axis: int) -> Tensor:
    if parts[0].ndim == 4:
        axis = (0, 2, 3, 1)[axis]
    return torch.cat(parts, dim=axis)


def _add(x: Tensor, y: Tensor, *, activation: str) -> Tensor:
    return _activate(x + y, activation)
