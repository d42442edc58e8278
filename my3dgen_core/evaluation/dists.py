"""DISTS (Ding et al., TPAMI 2022), with weights that the user brings: structure and texture of two pictures.

Features are the picture itself and five stages of VGG16 whose poolings are L2 poolings. Of every channel two
similarities are taken over the whole picture, of the means (texture) and of the covariance (structure), and
averaged with learned weights. 0 for equal pictures. A measure, never trained on here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import CheckpointError
from ..fitting.lpips import FOLDER, VGG, read_weights

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for [0, 1]
_CHANNELS = (3, 64, 128, 256, 512, 512)
_SMALL = 1e-6


class Dists(nn.Module):
    """DISTS of pictures; frozen."""

    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """state: torchvision's VGG16 (`features.N.weight`, `.bias`); weights: `alpha` and `beta`
        [1, 1475, 1, 1].

        Raises:
            CheckpointError: a tensor is missing, or has another shape.
        """
        super().__init__()
        for layer in VGG:
            if isinstance(layer, tuple):
                number, into, out, kernel = layer[:4]
                self._take(state, f"features.{number}.weight", (out, into, kernel, kernel))
                self._take(state, f"features.{number}.bias", (out,))
        for name in ("alpha", "beta"):
            self._take(weights, name, (1, sum(_CHANNELS), 1, 1))
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def _take(self, source: Mapping[str, Tensor], key: str, shape: tuple[int, ...]) -> None:
        tensor = source.get(key)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            what = "nothing" if not isinstance(tensor, Tensor) else str(list(tensor.shape))
            raise CheckpointError(
                f"The weights for DISTS should hold {key} of shape {list(shape)}, but hold {what}. Take "
                "torchvision's VGG16, and alpha and beta of DISTS."
            )
        values = tensor.detach().to("cpu", torch.float32).clone()
        if not bool(torch.isfinite(values).all()):
            raise CheckpointError(f"{key} holds NaN or infinite numbers: the file is damaged.")
        self.register_buffer(key.replace(".", "_"), values)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance [N] of pictures [N, 3, H, W] in [-1, 1], H and W 16 or more."""
        similar = image.new_zeros(len(image))
        total = self.get_buffer("alpha").sum() + self.get_buffer("beta").sum()
        weights = zip(
            self.get_buffer("alpha").flatten().split(_CHANNELS),
            self.get_buffer("beta").flatten().split(_CHANNELS),
            strict=True,
        )
        features = zip(self._features(image), self._features(target), strict=True)
        for (a, b), (alpha, beta) in zip(features, weights, strict=True):
            mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
            var_a, var_b = a.var((2, 3), correction=0), b.var((2, 3), correction=0)
            together = (a * b).mean((2, 3)) - mean_a * mean_b
            texture = (2 * mean_a * mean_b + _SMALL) / (mean_a.square() + mean_b.square() + _SMALL)
            structure = (2 * together + _SMALL) / (var_a + var_b + _SMALL)
            similar = similar + (alpha * texture + beta * structure).sum(1) / total
        return 1 - similar

    def _features(self, images: Tensor) -> list[Tensor]:
        picture = (images.clamp(-1, 1) + 1) / 2
        stages, x = [picture], (picture - self.mean) / self.std
        for layer in VGG:
            if isinstance(layer, tuple):
                name = f"features_{layer[0]}"
                weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            elif layer == "tap":
                stages.append(x)
            else:
                x = _pooled(x)
        return stages


def _pooled(x: Tensor) -> Tensor:
    """L2 pooling by two: the root of the weighted mean square."""
    from kornia.filters import blur_pool2d  # here: 0.3 s that programs without DISTS need not wait for

    return (blur_pool2d(x.square(), 3, stride=2) + 1e-12).sqrt()


def dists(folder: str | Path | None, device: torch.device) -> Dists:
    """DISTS with the weights of a folder; None: `models/my3dgen/perceptual` where the program runs.

    Two files, .pth, .pt or .safetensors: one whose name begins with "vgg16" (torchvision's), and one named
    "dists" with alpha and beta, `weights.pt` of its authors.

    Raises:
        FileNotFoundError: a file is missing; says where it belongs.
        CheckpointError: a file that cannot be read as such weights.
    """
    place = FOLDER if folder is None else Path(folder)
    files = [_file(place, pattern) for pattern in ("vgg16*", "dists.*")]
    if files[0] is None or files[1] is None:
        raise FileNotFoundError(
            "DISTS needs weights that do not come with this pack. Put torchvision's vgg16-*.pth and the "
            f"weights.pt of DISTS, renamed to dists.pt, into {place.absolute()}."
        )
    return Dists(read_weights(files[0]), read_weights(files[1])).to(device)


def _file(folder: Path, pattern: str) -> Path | None:
    suffixes = (".pth", ".pt", ".safetensors")
    return next((file for file in sorted(folder.glob(pattern)) if file.suffix in suffixes), None)
