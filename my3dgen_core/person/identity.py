"""One person in one file: adapter, anchors, cameras and where they came from."""

from __future__ import annotations

import hashlib
import json
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
from ..formats.safetensors_file import is_safetensors, read_safetensors, write_safetensors
from .adapter import DIFF, DOWN, UP, Adapter
from .latents import Latents
from .my3dgen_snapshot import read_snapshot

FORMAT = "my3dgen.identity"
WS, CAMERAS, SCALES = "anchors.ws", "anchors.cameras", "scales"
PRECISIONS = (torch.float32, torch.float16, torch.int8)


@dataclass
class Identity:
    """What one keeps of a person.

    adapter: the low-rank update. anchors: the training photos' latents with their cameras.
    base_hash: the generator it was trained on. provenance: settings and origin, plain values for JSON.
    history: training loss of every step; it is not stored in the file.
    """

    adapter: Adapter
    anchors: Latents
    base_hash: str
    provenance: dict[str, Any] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, anchors included, as they are in memory (float32: as `save` writes them)."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

    def content_hash(self) -> str:
        """SHA-256 over the adapter and the anchors: names this very person, as `base_hash` does a
        generator."""
        digest = hashlib.sha256(f"{self.base_hash} {self.adapter.layout} {self.adapter.scaling}".encode())
        for key, value in sorted(self._tensors().items()):
            digest.update(key.encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def base_identity_hash(self) -> str | None:
        """`content_hash` of the identity that this one was trained on top of and must be applied with; or None."""
        return self.provenance.get("over")

    def check_base(self, base_hash: str) -> None:
        """Raises ValueError unless the identity was trained on the generator of this hash."""
        if base_hash != self.base_hash:
            raise ValueError(
                f"This identity was trained on generator {self.base_hash[:12]}, but the one loaded is "
                f"{base_hash[:12]}. Load the generator it was trained on."
            )

    def _tensors(self) -> dict[str, Tensor]:
        # In W all layers share one vector: one row is enough to come back bit for bit.
        ws = self.anchors.ws
        shared = bool((ws == ws[:, :1]).all())
        tensors = dict(self.adapter.tensors)
        tensors[WS] = ws[:, :1] if shared else ws
        if self.anchors.cameras is not None:
            tensors[CAMERAS] = self.anchors.cameras
        return tensors

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> None:
        """Writes a .safetensors file, atomically. float32 loads back bit for bit, float16 halves the file.

        int8 halves the low-rank factors once more: whole numbers of -127 to 127, and a scale for each
        component ("scales", in the order of the factors' names); the rest is float16. Cameras stay float32.
        """
        if dtype not in PRECISIONS:
            raise ValueError(f"Identities are saved as float32, float16 or int8, not {dtype}.")
        tensors, scales = {}, []
        for key, value in sorted(self._tensors().items()):
            kept = value.detach().to("cpu", torch.float32)
            if dtype == torch.int8 and key.endswith((UP, DOWN)):
                scale = (kept.abs().amax(_along(key), keepdim=True) / 127).clamp(min=1e-30)
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
        """Reads a file of `save`, or the person out of a My3DGen snapshot (`snapshot.split_snapshot`).

        Raises:
            FileNotFoundError: no such file.
            CheckpointError: not an identity, or a damaged one.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no identity at {file}.")
        if not is_safetensors(file):
            return split_snapshot(file)[1]

        def check(metadata: Mapping[str, str], _: list[str]) -> None:
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{file.name} is not an identity file of this pack.")

        try:
            tensors, metadata = read_safetensors(file, check)
            tensors = _scaled(tensors)
            ws, cameras = tensors.pop(WS), tensors.pop(CAMERAS, None)
            num_ws = int(metadata["num_ws"])
            adapter = Adapter(
                _checked(tensors),
                rank=int(metadata["rank"]),
                layout=metadata["layout"],
                scaling=float(metadata["scaling"]),
                gains={str(k): float(v) for k, v in json.loads(metadata["gains"]).items()},
            )
            ws = ws.expand(-1, num_ws, -1).clone() if ws.shape[1] == 1 else ws
            anchors = Latents(ws, cameras, base_hash=metadata["base_hash"])
            return cls(adapter, anchors, metadata["base_hash"], json.loads(metadata["provenance"]))
        except (SafetensorError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{file.name} cannot be read as an identity: {error}.") from error
        except ValueError as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{file.name} cannot be read as an identity: {error}") from error


def split_snapshot(
    path: str | os.PathLike[str], base: Generator | None = None, anchors: Latents | None = None
) -> tuple[Generator, Identity]:
    """Base generator and identity of a My3DGen snapshot: together they render what the snapshot renders.

    Args:
        path: the authors' .pkl, or a state dict of such a generator.
        base: the generator it was fine-tuned from, if at hand; then the identity holds everything that was
            trained.
        anchors: the person's latents with their cameras (`eg3d_dataset.read_anchors`); None: no anchors.

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


def _along(key: str) -> int:
    """The dimension of a factor that runs along a component: each component has a scale of its own."""
    return 0 if key.endswith(UP) else 1


def _scaled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors in float32; factors kept as whole numbers are multiplied by their scales."""
    whole = sorted(key for key, value in tensors.items() if value.dtype == torch.int8)
    counts = [tensors[key].shape[1 - _along(key)] for key in whole]
    scales = tensors.pop(SCALES).split(counts) if whole else ()
    tensors = {key: value.to(torch.float32) for key, value in tensors.items()}
    for key, scale in zip(whole, scales, strict=True):
        tensors[key] *= scale.unsqueeze(_along(key))
    return tensors


def _checked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for key, value in tensors.items():
        if not key.endswith((UP, DOWN, DIFF)):
            raise CheckpointError(f"Unknown tensor {key} in an identity file.")
        partner = key.removesuffix(UP) + DOWN if key.endswith(UP) else key.removesuffix(DOWN) + UP
        if not key.endswith(DIFF) and partner not in tensors:
            raise CheckpointError(f"{key} has no partner {partner}: the file is damaged.")
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{key} holds NaN or infinite numbers: the file is damaged.")
    return tensors
