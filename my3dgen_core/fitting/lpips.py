"""LPIPS with weights that the user supplies, and the choice of a perceptual distance by name.

LPIPS (Zhang et al., CVPR 2018, section 3) compares features of a classifier after five of its ReLUs, each
pixel's scaled to length 1 over the channels: squared differences, weighted by channel, averaged over the
picture and summed over the five layers. The weights are not part of this package; files are read as data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ..common.errors import CheckpointError
from ..formats.file_kinds import describe_safetensors, tensor_names
from ..formats.pickle_values import TensorRef
from ..formats.safetensors_file import is_safetensors, read_safetensors
from ..formats.torch_archive import opened
from .losses import laplacian_distance

Distance = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Perceptual distance: (image, target [N, 3, H, W] in [-1, 1], pixel weights [N, 1, H, W] or None) -> [N]."""

LAPLACIAN = "laplacian"
"""Name of the distance that needs no weights (`losses.laplacian_distance`)."""
FOLDER = Path("models") / "my3dgen" / "perceptual"
"""Default folder of weights, relative to the working directory."""
_SUFFIXES = (".pth", ".pt", ".safetensors")
_ADVICE = "Take torchvision's AlexNet or VGG16, and the linear heads of LPIPS 0.1 for it."
_WANTED = re.compile(r"(features|lin\d)\.|(alpha|beta)$")
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's statistics, for [-1, 1]

# Convolutions as (number in torchvision's `features`, channels in and out, kernel, stride, padding); "pool"
# halves the resolution, "tap" marks features that are compared.
_ALEX: tuple[object, ...] = (
    (0, 3, 64, 11, 4, 2), "tap", "pool",
    (3, 64, 192, 5, 1, 2), "tap", "pool",
    (6, 192, 384, 3, 1, 1), "tap",
    (8, 384, 256, 3, 1, 1), "tap",
    (10, 256, 256, 3, 1, 1), "tap",
)  # fmt: skip
VGG: tuple[object, ...] = (
    (0, 3, 64, 3, 1, 1), (2, 64, 64, 3, 1, 1), "tap", "pool",
    (5, 64, 128, 3, 1, 1), (7, 128, 128, 3, 1, 1), "tap", "pool",
    (10, 128, 256, 3, 1, 1), (12, 256, 256, 3, 1, 1), (14, 256, 256, 3, 1, 1), "tap", "pool",
    (17, 256, 512, 3, 1, 1), (19, 512, 512, 3, 1, 1), (21, 512, 512, 3, 1, 1), "tap", "pool",
    (24, 512, 512, 3, 1, 1), (26, 512, 512, 3, 1, 1), (28, 512, 512, 3, 1, 1), "tap",
)  # fmt: skip


class _Backbone:
    """Architecture and file names of one LPIPS variant."""

    def __init__(self, layers: tuple[object, ...], pool: int, smallest: int, files: str, heads: str) -> None:
        """Store the description.

        Args:
            layers: as `VGG`.
            pool: kernel of the max pooling.
            smallest: shortest edge in pixels that its poolings allow.
            files: first letters of the classifier's file name.
            heads: stem of the linear heads' file name.
        """
        self.layers, self.pool, self.smallest, self.files, self.heads = layers, pool, smallest, files, heads


_BACKBONES = {
    "lpips_alex": _Backbone(_ALEX, 3, 31, "alexnet", "alex"),
    "lpips_vgg": _Backbone(VGG, 2, 16, "vgg16", "vgg"),
}
BACKBONES = (LAPLACIAN, *_BACKBONES)
"""Names of the perceptual distances."""


class Lpips(nn.Module):
    """LPIPS distance, differentiable in both pictures; the weights are frozen.

    Pictures below the network's smallest size (31 pixels for AlexNet, 16 for VGG16) are enlarged to it first.
    `fingerprint` is the SHA-256 of the weights.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str, state: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """Copy the weights; other keys are ignored.

        Args:
            name: "lpips_alex" or "lpips_vgg".
            state: torchvision's classifier (`features.N.weight`, `.bias`).
            heads: LPIPS' linear layers (`linI.model.1.weight` [1, C, 1, 1]).

        Raises:
            CheckpointError: a tensor is missing, not finite, or has another shape.
        """
        super().__init__()
        self.backbone = _BACKBONES[name]
        self._keys: list[str] = []
        channels, tap = 0, 0
        for layer in self.backbone.layers:
            if isinstance(layer, tuple):
                number, into, channels, kernel = layer[:4]
                self._take(state, f"features.{number}.weight", (channels, into, kernel, kernel))
                self._take(state, f"features.{number}.bias", (channels,))
            elif layer == "tap":
                self._take(heads, f"lin{tap}.model.1.weight", (1, channels, 1, 1))
                tap += 1
        found = hashlib.sha256()
        for key in self._keys:
            found.update(key.encode() + getattr(self, key).numpy().tobytes())
        self.fingerprint = found.hexdigest()
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)

    def _take(self, source: Mapping[str, Tensor], key: str, shape: tuple[int, ...]) -> None:
        """Register a tensor of `source` as a buffer; dots in its name become underscores."""
        self._keys.append(key.replace(".", "_"))
        self.register_buffer(self._keys[-1], checked_weights(source, key, shape, "LPIPS", _ADVICE))

    def forward(self, image: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the distances [N].

        Where `valid` is 0 the image is replaced by the target, so no feature sees a difference there; the
        result is divided by the mean weight.

        Args:
            image, target: [N, 3, H, W] in [-1, 1].
            valid: weight of each pixel [N, 1, H, W] in 0..1; None: all 1.
        """
        if valid is not None:
            image = target + valid * (image - target)
        total: Tensor = image.new_zeros(len(image))
        features = zip(self._features(image), self._features(target), strict=True)
        for tap, (mine, theirs) in enumerate(features):
            squared = (_unit(mine) - _unit(theirs)).square()
            weighted = F.conv2d(squared, getattr(self, f"lin{tap}_model_1_weight"))
            total = total + weighted.mean((1, 2, 3))
        return total if valid is None else total / valid.mean((1, 2, 3)).clamp(min=1e-3)

    def _features(self, x: Tensor) -> list[Tensor]:
        """Return the five feature maps [N, C, h, w] of pictures [N, 3, H, W]."""
        side, smallest = min(x.shape[-2:]), self.backbone.smallest
        if side < smallest:
            size = [max(smallest, round(length * smallest / side)) for length in x.shape[-2:]]
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        x = (x - self.shift) / self.scale
        taps = []
        for layer in self.backbone.layers:
            if isinstance(layer, tuple):
                name, stride, padding = f"features_{layer[0]}", layer[4], layer[5]
                weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
                x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            elif layer == "tap":
                taps.append(x)
            else:
                x = F.max_pool2d(x, self.backbone.pool, 2)
        return taps


def _unit(features: Tensor) -> Tensor:
    """Scale each pixel's feature vector to length 1: [N, C, h, w] -> the same shape."""
    # the small number under the root keeps the gradient finite where all features are 0
    return features / (features.square().sum(1, keepdim=True) + 1e-20).sqrt().add(1e-10)


def distance(name: str, folder: str | Path | None, device: torch.device) -> Distance:
    """Return the perceptual distance of a name in `BACKBONES`; `folder` as in `lpips`."""
    return laplacian_distance if name == LAPLACIAN else lpips(name, folder, device)


def lpips(name: str, folder: str | Path | None, device: torch.device) -> Lpips:
    """Load LPIPS with the weights of a folder.

    Args:
        name: "lpips_alex" or "lpips_vgg".
        folder: folder of two files, .pth, .pt or .safetensors, under their authors' names: for "lpips_alex"
            one whose name begins with "alexnet" and one named "alex", for "lpips_vgg" "vgg16" and "vgg".
            None: `models/my3dgen/perceptual` in the working directory.
        device: where the weights go.

    Raises:
        FileNotFoundError: a file is missing; the message says where it belongs.
        CheckpointError: a file cannot be read as such weights.
    """
    check_backbone(name)
    place, backbone = FOLDER if folder is None else Path(folder), _BACKBONES[name]
    classifier = _find(place, f"{backbone.files}*", name)
    heads = _find(place, f"{backbone.heads}.*", name)
    return Lpips(name, read_weights(classifier), read_weights(heads)).to(device)


def has_weights(name: str, folder: Path) -> bool:
    """Return True if a folder holds both files of "lpips_alex" or "lpips_vgg"; other names need none."""
    backbone = _BACKBONES.get(name)
    patterns = () if backbone is None else (f"{backbone.files}*", f"{backbone.heads}.*")
    return all(find_weights(folder, pattern) is not None for pattern in patterns)


def check_backbone(name: str) -> None:
    """Raise ValueError unless there is a perceptual distance of that name."""
    if name not in BACKBONES:
        raise ValueError(f"perceptual_backbone must be one of {', '.join(BACKBONES)}, not {name!r}.")


def weights_hash(measure: Distance) -> str | None:
    """Return the SHA-256 of a distance's weights; None for one without weights."""
    return measure.fingerprint if isinstance(measure, Lpips) else None


def checked_weights(
    source: Mapping[str, Tensor], key: str, shape: tuple[int, ...], measure: str, advice: str
) -> Tensor:
    """Return a float32 copy of one tensor of a weights file, on the CPU.

    Args:
        source: tensors by name.
        key: name of the tensor.
        shape: its expected shape.
        measure: name of what the weights are for, in the message.
        advice: last sentence of the message.

    Raises:
        CheckpointError: the tensor is missing, not finite, or has another shape.
    """
    tensor = source.get(key)
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
        what = "nothing" if not isinstance(tensor, Tensor) else str(list(tensor.shape))
        raise CheckpointError(
            f"The weights for {measure} should hold {key} of shape {list(shape)}, but hold {what}. {advice}"
        )
    values = tensor.detach().to("cpu", torch.float32).clone()
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(f"{key} holds NaN or infinite numbers: the file is damaged.")
    return values


def find_weights(folder: Path, pattern: str) -> Path | None:
    """Return the first weights file, by name, that matches a glob pattern; None if there is none."""
    return next((file for file in sorted(folder.glob(pattern)) if file.suffix in _SUFFIXES), None)


def _find(folder: Path, pattern: str, name: str) -> Path:
    """Return the weights file of a backbone; FileNotFoundError says what belongs where."""
    file = find_weights(folder, pattern)
    if file is None:
        backbone = _BACKBONES[name]
        raise FileNotFoundError(
            f"The perceptual loss {name} needs weights that do not come with this pack. Put torchvision's "
            f"{backbone.files}-*.pth and the linear heads of LPIPS 0.1, {backbone.heads}.pth, into "
            f"{folder.absolute()}, or choose the loss {LAPLACIAN}, which needs none."
        )
    return file


def _check_names(metadata: Mapping[str, str], names: list[str]) -> None:
    """Raise CheckpointError if a file is known to be of another kind and holds nothing that is wanted."""
    if not any(_WANTED.match(name) for name in names):
        what = describe_safetensors(metadata, names, "the weights of a perceptual loss")
        if what:
            raise CheckpointError(what)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the convolutions, linear heads or channel weights of a file; other entries are not loaded.

    Raises:
        CheckpointError: the file is not a state dict that can be read as data.
    """
    try:
        if is_safetensors(file):
            return read_safetensors(file, _check_names, lambda name: _WANTED.match(name) is not None)[0]
        with opened(file) as root:
            _check_names({}, tensor_names(root))
            if not isinstance(root, dict):
                raise CheckpointError("is no state dict of weights.")
            wanted = {
                key: value for key, value in root.items() if isinstance(key, str) and _WANTED.match(key)
            }
            return {key: value.read() for key, value in wanted.items() if isinstance(value, TensorRef)}
    except SafetensorError as error:
        raise CheckpointError(f"{file.name} cannot be read as weights: {error}.") from error
    except CheckpointError as error:
        raise CheckpointError(f"{file.name} {error}") from error
