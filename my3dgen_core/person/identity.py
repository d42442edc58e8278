"""Identity of a person: adapter, anchors, cameras and provenance in one file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.errors import CheckpointError
from ..eg3d import Generator
from ..eg3d.generator_file import open_generator
from ..formats.file_kinds import describe_safetensors
from ..formats.safetensors_file import is_safetensors, read_safetensors, write_safetensors
from .adapter import DIFF, DOWN, UP, Adapter
from .latents import Latents
from .my3dgen_snapshot import read_snapshot

FORMAT = "my3dgen.identity"
WS, CAMERAS, SCALES = "anchors.ws", "anchors.cameras", "scales"
"""Tensor names of the identity file format."""
PRECISIONS = (torch.float32, torch.float16, torch.int8)
MOST_LAYERS = 64
"""Most layers of latents that a file may declare; EG3D's generators have 14."""


@dataclass
class Identity:
    """Result of tuning on photos of one person; all that is needed to render them with the base generator.

    The names `base_hash` and `provenance`, those of the adapter's fields and of its tensors are written to
    identity files, and names of tensors enter `content_hash`: renaming one breaks saved identities.
    """

    adapter: Adapter
    """Update of the generator's weights."""
    anchors: Latents
    """Latents of the training photos with their cameras."""
    base_hash: str
    """`Generator.base_hash()` of the generator that it was trained on."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Training settings and origin, plain values for JSON."""
    history: list[float] = field(default_factory=list)
    """Training loss of each step; not stored in the file."""

    @property
    def nbytes(self) -> int:
        """Size of all tensors in memory in bytes, anchors included; `save` writes as many in float32."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

    def content_hash(self) -> str:
        """Return the SHA-256 of base hash, adapter and anchors as a hexadecimal string.

        It identifies an identity as `Generator.base_hash` identifies a generator.
        """
        digest = hashlib.sha256(f"{self.base_hash} {self.adapter.layout} {self.adapter.scaling}".encode())
        for key, value in sorted(self._tensors().items()):
            digest.update(key.encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def base_identity_hash(self) -> str | None:
        """`content_hash` of the identity that this one was trained on top of and needs, or None."""
        return self.provenance.get("over")

    def check_base(self, base_hash: str) -> None:
        """Raise ValueError unless the identity was trained on the generator with this base hash."""
        if base_hash != self.base_hash:
            raise ValueError(
                f"This identity was trained on generator {self.base_hash[:12]}, but the one loaded is "
                f"{base_hash[:12]}. Load the generator it was trained on."
            )

    def _tensors(self) -> dict[str, Tensor]:
        # Latents in W repeat one vector in all layers: one row restores them bit for bit.
        ws = self.anchors.ws
        shared = bool((ws == ws[:, :1]).all())
        tensors = dict(self.adapter.tensors)
        tensors[WS] = ws[:, :1] if shared else ws
        if self.anchors.cameras is not None:
            tensors[CAMERAS] = self.anchors.cameras
        return tensors

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> None:
        """Write the identity to a .safetensors file, atomically.

        Args:
            path: the .safetensors file.
            dtype: float32 is restored bit for bit; float16 halves the file. int8 halves the low-rank
                factors again: integers of -127 to 127 with a scale for each component (tensor "scales", in
                the order of the factors' names), and float16 for the rest. Cameras are always float32.

        Raises:
            ValueError: another dtype.
        """
        if dtype not in PRECISIONS:
            raise ValueError(f"Identities are saved as float32, float16 or int8, not {dtype}.")
        tensors, scales = {}, []
        for key, value in sorted(self._tensors().items()):
            kept = value.detach().to("cpu", torch.float32)
            if dtype == torch.int8 and key.endswith((UP, DOWN)):
                scale = (kept.abs().amax(_component_axis(key), keepdim=True) / 127).clamp(min=1e-30)
                tensors[key] = (kept / scale).round().to(torch.int8)
                scales.append(scale.flatten())
            elif key == CAMERAS or dtype == torch.float32:
                tensors[key] = kept
            else:
                tensors[key] = kept.to(torch.float16)
        if scales:
            tensors[SCALES] = torch.cat(scales)
        adapter = self.adapter
        settings = {
            "layout": adapter.layout,
            "rank": adapter.rank,
            "scaling": adapter.scaling,
            "gains": adapter.gains,
            "num_ws": self.anchors.ws.shape[1],
            "base_hash": self.base_hash,
            "provenance": self.provenance,
        }
        metadata = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()
        }
        write_safetensors(tensors, path, {"format": FORMAT, **metadata})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Load an identity from a file of `save`, or from a My3DGen snapshot (see `split_snapshot`).

        Raises:
            FileNotFoundError: no such file.
            CheckpointError: not an identity, or a damaged one.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no identity at {file}.")
        if not is_safetensors(file):
            return split_snapshot(file)[1]

        def check(metadata: Mapping[str, str], names: list[str]) -> None:
            if metadata.get("format") != FORMAT:
                what = describe_safetensors(metadata, names, "an identity")
                raise CheckpointError(f"{file.name} {what or 'is not an identity file of this pack.'}")

        try:
            tensors, metadata = read_safetensors(file, check)
            tensors = _dequantized(tensors)
            ws, cameras = tensors.pop(WS), tensors.pop(CAMERAS, None)
            num_ws = int(metadata["num_ws"])
            adapter = Adapter(
                _check_tensors(tensors),
                rank=int(metadata["rank"]),
                layout=metadata["layout"],
                scaling=_finite("scaling", metadata["scaling"]),
                gains={str(k): _finite(f"gain of {k}", v) for k, v in json.loads(metadata["gains"]).items()},
            )
            _check_anchors(ws, cameras, num_ws)
            ws = ws.expand(-1, num_ws, -1).clone() if ws.shape[1] == 1 else ws
            anchors = Latents(ws, cameras, base_hash=metadata["base_hash"])
            return cls(adapter, anchors, metadata["base_hash"], json.loads(metadata["provenance"]))
        except (SafetensorError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{file.name} cannot be read as an identity: {error}.") from error
        except ValueError as error:
            if str(error).startswith(file.name):
                raise
            raise CheckpointError(f"{file.name} cannot be read as an identity: {error}") from error


def split_snapshot(
    path: str | os.PathLike[str], base: Generator | None = None, anchors: Latents | None = None
) -> tuple[Generator, Identity]:
    """Split a My3DGen snapshot into base generator and identity, which together render the same images.

    Args:
        path: the authors' .pkl, or a state dict of such a generator.
        base: the generator that it was fine-tuned from, if available; the identity then holds everything that
            was trained. None: pretrained biases are taken from copies in the file, if there are any.
        anchors: the person's latents with their cameras (`my3dgen_core.labels.read_anchors`); None: no
            anchors.

    Returns:
        The base generator and the identity.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a snapshot, or `base` is not what it was fine-tuned from.
    """
    file = Path(path)
    with open_generator(file) as found:
        snapshot = read_snapshot(file, found, base)
    generator = snapshot.generator
    if anchors is None:
        anchors = Latents(torch.zeros(0, generator.num_ws, generator.config.w_dim))
    return generator, Identity(snapshot.adapter, anchors, generator.base_hash(), snapshot.provenance)


def _component_axis(key: str) -> int:
    """Return the axis within a rank-1 component: a column of up [out, r], a row of down [r, in]."""
    return 0 if key.endswith(UP) else 1


def _dequantized(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert stored tensors to float32; int8 factors are multiplied by their scales."""
    quantized = sorted(key for key, value in tensors.items() if value.dtype == torch.int8)
    for key, value in tensors.items():
        if not value.is_floating_point() and not (key in quantized and key.endswith((UP, DOWN))):
            raise CheckpointError(f"{key} holds numbers of type {value.dtype}: the file is damaged.")
    counts = [tensors[key].shape[1 - _component_axis(key)] for key in quantized]
    scales = tensors.pop(SCALES).split(counts) if quantized else ()
    tensors = {key: value.to(torch.float32) for key, value in tensors.items()}
    for key, scale in zip(quantized, scales, strict=True):
        tensors[key] *= scale.unsqueeze(_component_axis(key))
    return tensors


def _check_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors; raise CheckpointError for unknown, unpaired or non-finite ones."""
    for key, value in tensors.items():
        if not key.endswith((UP, DOWN, DIFF)):
            raise CheckpointError(f"Unknown tensor {key} in an identity file.")
        partner = key.removesuffix(UP) + DOWN if key.endswith(UP) else key.removesuffix(DOWN) + UP
        if not key.endswith(DIFF) and partner not in tensors:
            raise CheckpointError(f"{key} has no partner {partner}: the file is damaged.")
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{key} holds NaN or infinite numbers: the file is damaged.")
    return tensors


def _finite(name: str, value: Any) -> float:
    """Return a number of the metadata as a float; raise CheckpointError for NaN and infinity."""
    number = float(value)
    if not math.isfinite(number):
        raise CheckpointError(f"Its {name} is {number}: the file is damaged.")
    return number


def _check_anchors(ws: Tensor, cameras: Tensor | None, num_ws: int) -> None:
    """Raise CheckpointError unless anchors [N, 1 or num_ws, w_dim] and cameras are finite and well formed."""
    if not 1 <= num_ws <= MOST_LAYERS:
        raise CheckpointError(f"Its latents are said to have {num_ws} layers; at most {MOST_LAYERS} can be.")
    if ws.ndim != 3 or ws.shape[1] not in (1, num_ws):
        raise CheckpointError(f"{WS} has shape {list(ws.shape)}, which does not fit {num_ws} layers.")
    for name, tensor in ((WS, ws), (CAMERAS, cameras)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds NaN or infinite numbers: the file is damaged.")
