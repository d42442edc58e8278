"""Face recognition: ArcFace embeddings for metrics, and the same network in torch for losses.

Faces are aligned by their five points to ArcFace's 112 x 112 template (Deng et al. 2019); the warp is
antialiased and differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..common.image_ops import to_pixels
from ..formats.onnx_file import Node, OnnxGraph, read_onnx
from .crop import CropTransform
from .detect import Face, FaceModels, detection_attempts
from .packs import RECOGNITION, FaceModelError

ARCFACE_SIZE = 112
"""Side of ArcFace's aligned picture in pixels."""
ARCFACE_POINTS = np.array(  # five points of the template, in coordinates of pixel centers
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit the rotation, scale and shift between two point sets by least squares (Umeyama 1991).

    Args:
        source: points [M,2].
        target: corresponding points [M,2].

    Returns:
        Transform [2,3] from source to target.
    """
    mean_s, mean_t = source.mean(0), target.mean(0)
    centered_s, centered_t = source - mean_s, target - mean_t
    u, values, vt = np.linalg.svd(centered_t.T @ centered_s)
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = u * sign @ vt
    scale = (values * sign).sum() / max((centered_s**2).sum(), 1e-12)
    return np.concatenate([scale * rotation, (mean_t - scale * rotation @ mean_s)[:, None]], axis=1)


def align_to_template(images: torch.Tensor, points: np.ndarray, size: int = ARCFACE_SIZE) -> torch.Tensor:
    """Cut faces aligned to ArcFace's template out of pictures; differentiable in the pictures.

    Args:
        images: pictures [N,3,H,W] in [-1,1].
        points: five points [N,5,2] of each face, in edge coordinates.
        size: side of the aligned faces in pixels.

    Returns:
        Aligned faces [N,3,size,size] in [-1,1], black outside the picture.
    """
    height, width = images.shape[2:]
    template = (ARCFACE_POINTS + 0.5) * (size / ARCFACE_SIZE)
    centers = torch.arange(size, dtype=torch.float64) + 0.5
    faces = []
    for image, five in zip(images, np.asarray(points, np.float64), strict=True):
        transform = CropTransform(similarity_transform(five, template), (height, width), size)
        m = torch.from_numpy(transform.inverse)
        x = (m[0, 0] * centers + m[0, 1] * centers[:, None] + m[0, 2]) / width * 2 - 1
        y = (m[1, 0] * centers + m[1, 1] * centers[:, None] + m[1, 2]) / height * 2 - 1
        grid = torch.stack([x, y], -1)[None].to(image.device, image.dtype)
        source = image[None]
        if transform.scale < 1:
            shrunk = [max(1, math.ceil(side * transform.scale)) for side in (height, width)]
            source = F.interpolate(source, shrunk, mode="bilinear", antialias=True, align_corners=False)
        faces.append(F.grid_sample(source + 1, grid, align_corners=False) - 1)
    return torch.cat(faces) if faces else images.new_zeros(0, 3, size, size)


def find_points(
    images: torch.Tensor, face_models: FaceModels, det_size: int = 320
) -> tuple[np.ndarray, np.ndarray]:
    """Detect the five points of the largest face of each picture.

    Args:
        images: crops or renders [N,3,H,W] in [-1,1], in which the face is upright and large.
        face_models: face networks.
        det_size: detector input size to try first.

    Returns:
        Points [N,5,2] in edge coordinates, 0 where no face was found; found [N] (bool).
    """
    points, found = np.zeros((len(images), 5, 2)), np.zeros(len(images), bool)
    for i, image in enumerate(images.detach().float().cpu()):
        pixels = to_pixels(image)
        _, faces = next(detection_attempts(face_models, pixels, det_size), ("", []))
        if faces:
            points[i], found[i] = largest(faces).points, True
    return points, found


def largest(faces: list[Face]) -> Face:
    """Return the face with the largest box."""
    return max(faces, key=lambda face: face.size)


def embed(
    images: torch.Tensor, face_models: FaceModels, points: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute identity embeddings of pictures for metrics, without gradient.

    Args:
        images: pictures [N,3,H,W] in [-1,1] with one face each.
        face_models: face networks with recognition.
        points: known five points [N,5,2] in edge coordinates; None detects them.

    Returns:
        Embeddings [N,512] of length 1, zeros where no face was found; found [N] (bool). The dot product of
            two embeddings is their cosine: about .65 for photos of one person, below .36 for different
            persons.

    Raises:
        FaceModelError: the folder has no identity network.
    """
    if not face_models.has_recognition:
        raise FaceModelError(
            "Identity similarity needs an ArcFace network (112x112 to 512) in the face model folder."
        )
    if points is None:
        points, found = find_points(images, face_models)
    else:
        found = np.ones(len(images), bool)
    result = torch.zeros(len(images), 512)
    index = np.flatnonzero(found)
    if len(index):
        aligned = align_to_template(images[index].detach().float().cpu(), points[index])
        faces = ((aligned + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
        result[index] = F.normalize(torch.from_numpy(face_models.features(faces)).float(), dim=1)
    return result, torch.from_numpy(found)


class IdentityNetwork(nn.Module):
    """ArcFace in torch with the weights of an ONNX file: frozen, differentiable in its input, on any device.

    Example:
        ```python
        network = IdentityNetwork.from_models(face_models)
        loss = 1 - (network(render, points) * target).sum(1)
        ```
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._input, self._output = next(iter(graph.inputs)), next(iter(graph.outputs))
        self._program: list[tuple[Callable[..., torch.Tensor], Node, list[str | None]]] = []
        names: dict[str, str] = {}
        for node in graph.nodes:
            if node.op == "Constant" and isinstance(node.attributes.get("value"), np.ndarray):
                graph.weights[node.outputs[0]] = node.attributes["value"]
                continue
            if node.op not in _OPERATIONS:
                raise FaceModelError(
                    f"The identity network uses {node.op}, which is not known here. Try another pack."
                )
            self._program.append((_OPERATIONS[node.op], node, [name or None for name in node.inputs]))
        for i, (name, values) in enumerate(graph.weights.items()):
            names[name] = f"weight_{i}"
            tensor = torch.from_numpy(values.copy())
            self.register_buffer(
                names[name], tensor.float() if tensor.is_floating_point() else tensor, persistent=False
            )
        self._names = names
        # Networks that normalize inside (a Sub and a Mul at the start) take 0..255.
        first = {node.op for node in graph.nodes[:8]}
        self._wants_bytes = {"Sub", "Mul"} <= first

    @classmethod
    def from_file(cls, path: str | Path) -> IdentityNetwork:
        """Load the weights of an ArcFace ONNX file.

        Raises:
            FaceModelError: the network uses an operator that is not supported.
            ValueError: the file is not a readable ONNX file.
        """
        return cls(read_onnx(path)).train(False)

    @classmethod
    def from_models(cls, face_models: FaceModels) -> IdentityNetwork:
        """Load the identity network of a folder of face networks.

        Raises:
            FaceModelError: the folder has no identity network, or it uses an operator that is not supported.
        """
        if RECOGNITION not in face_models.files:
            raise FaceModelError(
                "An identity loss needs an ArcFace network (112x112 to 512) in the face model folder."
            )
        return cls.from_file(face_models.files[RECOGNITION])

    def features(self, aligned: torch.Tensor) -> torch.Tensor:
        """Map aligned faces [N,3,112,112] RGB in [-1,1] to features [N,512], not normalized."""
        values: dict[str, Any] = {name: getattr(self, attribute) for name, attribute in self._names.items()}
        values[self._input] = (aligned + 1) * 127.5 if self._wants_bytes else aligned
        for operation, node, inputs in self._program:
            arguments = [None if name is None else values[name] for name in inputs]
            values[node.outputs[0]] = operation(node.attributes, *arguments)
        return values[self._output]

    def forward(self, images: torch.Tensor, points: np.ndarray) -> torch.Tensor:
        """Compute embeddings of faces in pictures.

        Args:
            images: pictures [N,3,H,W] in [-1,1].
            points: five points [N,5,2] of each face, in edge coordinates.

        Returns:
            Embeddings [N,512] of length 1.
        """
        return F.normalize(self.features(align_to_template(images, points)), dim=1)


def _conv(a: dict[str, Any], x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        x, pads = F.pad(x, [pads[1], pads[3], pads[0], pads[2]]), [0, 0]
    dilations = a.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, a.get("strides", [1, 1]), pads[:2], dilations, a.get("group", 1))


def _batch_norm(
    a: dict[str, Any],
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
) -> torch.Tensor:
    return F.batch_norm(x, mean, var, scale, shift, eps=a.get("epsilon", 1e-5))


def _gemm(a: dict[str, Any], x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
    x = x.T if a.get("transA") else x
    product = a.get("alpha", 1.0) * (x @ (weight.T if a.get("transB") else weight))
    return product if bias is None else product + a.get("beta", 1.0) * bias


def _reshape(a: dict[str, Any], x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())]
    return x.reshape([x.shape[0], *sizes[1:]])  # files often have a fixed batch size of 1


# Implementations of ONNX operators: attributes and inputs to the output.
_OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Dropout": lambda a, x, *_: x,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "Identity": lambda a, x: x,
    "Mul": lambda a, x, y: x * y,
    "PRelu": lambda a, x, slope: F.prelu(x, slope.reshape(-1)),
    "Relu": lambda a, x: F.relu(x),
    "Reshape": _reshape,
    "Sub": lambda a, x, y: x - y,
}
