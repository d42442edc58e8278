"""DISTS (Ding et al., TPAMI 2022) with weights that the user supplies: structure and texture similarity.

Features are the picture itself and five stages of VGG16 with L2 pooling. For every channel two similarities
over the whole picture, of the means (texture) and of the covariance (structure), are averaged with learned
weights. The distance is 0 for equal pictures. Used for evaluation only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fitting.lpips import FOLDER, VGG, checked_weights, find_weights, read_weights

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's statistics, for [0, 1]
_CHANNELS = (3, 64, 128, 256, 512, 512)  # of the picture and the five stages
_SMALL = 1e-6  # stabilizes the quotients, as in the paper
_ADVICE = "Take torchvision's VGG16, and alpha and beta of DISTS."


class Dists(nn.Module):
    """DISTS distance; the weights are frozen."""

    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Copy the weights.

        Args:
            state: torchvision's VGG16 (`features.N.weight`, `.bias`).
            weights: `alpha` and `beta` [1, 1475, 1, 1].

        Raises:
            CheckpointError: a tensor is missing, not finite, or has another shape.
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
        """Register a tensor of `source` as a buffer; dots in its name become underscores."""
        self.register_buffer(key.replace(".", "_"), checked_weights(source, key, shape, "DISTS", _ADVICE))

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the distances [N] of pictures [N, 3, H, W] in [-1, 1], H and W 16 or more."""
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
        """Return the pictures in [0, 1] and the five feature maps [N, C, h, w]."""
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
    """Pool [N, C, H, W] by two with the L2 norm: the root of the weighted mean square."""
    from kornia.filters import blur_pool2d  # here: 0.3 s that programs without DISTS need not wait for

    return (blur_pool2d(x.square(), 3, stride=2) + 1e-12).sqrt()


def dists(folder: str | Path | None, device: torch.device) -> Dists:
    """Load DISTS with the weights of a folder.

    Args:
        folder: folder of two files, .pth, .pt or .safetensors: one whose name begins with "vgg16"
            (torchvision's), and one named "dists" with alpha and beta, the `weights.pt` of its authors. None:
            `models/my3dgen/perceptual` in the working directory.
        device: where the weights go.

    Raises:
        FileNotFoundError: a file is missing; the message says where it belongs.
        CheckpointError: a file cannot be read as such weights.
    """
    place = FOLDER if folder is None else Path(folder)
    files = [find_weights(place, pattern) for pattern in ("vgg16*", "dists.*")]
    if files[0] is None or files[1] is None:
        raise FileNotFoundError(
            "DISTS needs weights that do not come with this pack. Put torchvision's vgg16-*.pth and the "
            f"weights.pt of DISTS, renamed to dists.pt, into {place.absolute()}."
        )
    return Dists(read_weights(files[0]), read_weights(files[1])).to(device)
