"""What an inversion has found, on disk, by everything that it depends on.

Photos are worked on in stages: first, where asked for, one latent of all photos, then one of their own for
each batch. A stage draws its chance anew from the seed, so its result depends on these alone: the weights in
effect (an identity applied around the call included), what renders, the settings, the latent it starts from,
and its photos with their masks and cameras, in their order. All of them are in its key, and what is found by
it is, bit for bit on one machine, what the same call would compute.

Two things follow. The shared latent is of all photos, and every later stage starts from it: with
`shared_steps`, a set that gained or lost one photo is inverted anew. And the photos of a batch are found
together or not at all: a tensor of another batch size rounds otherwise, which sixty steps of Adam make
visible. With `shared_steps=0` and `batch_size=1` every photo is on its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..eg3d import Generator
from ..formats.safetensors_file import read_safetensors, write_safetensors

FORMAT = "my3dgen.inversion.1"


def digest(*values: Tensor | str | None) -> str:
    """SHA-256 of tensors (shape and float32 values) and texts."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            found.update(str(list(value.shape)).encode())
            found.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


class InversionCache:
    """Results of stages in a folder, one .safetensors file each."""

    def __init__(
        self,
        folder: str | Path,
        generator: Generator,
        settings: dict[str, object],
        images: Tensor,
        masks: Tensor | None,
        cameras: Tensor,
    ) -> None:
        """settings: plain values that decide the result; images, masks and cameras as `invert` takes
        them."""
        self.folder = Path(folder)
        weights = [part for item in sorted(generator.state_dict().items()) for part in item]
        self._common = digest(
            FORMAT,
            torch.__version__,
            generator.w_avg.device.type,
            generator.renderer,
            json.dumps(generator.config.to_dict(), sort_keys=True),
            json.dumps(settings, sort_keys=True),
            *weights,
        )
        self._photos = [
            digest(image, None if masks is None else masks[i], cameras[i]) for i, image in enumerate(images)
        ]

    def key(self, start: Tensor, index: Sequence[int] | None, steps: int) -> str:
        """Of a stage of so many steps from latents `start`, on photos `index`; None: one latent of all."""
        photos = self._photos if index is None else [self._photos[i] for i in index]
        return digest(self._common, "shared" if index is None else "own", str(steps), start, *photos)

    def find(self, key: str, shapes: dict[str, torch.Size]) -> dict[str, Tensor] | None:
        """Tensors of these names and shapes, or None where there is no such file or it is not sound."""
        try:
            tensors, metadata = read_safetensors(self._file(key))
        except (OSError, SafetensorError):
            return None
        if metadata.get("format") != FORMAT or metadata.get("key") != key:
            return None
        sound = {name: tensor.shape for name, tensor in tensors.items()} == shapes and all(
            tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all())
            for tensor in tensors.values()
        )
        return tensors if sound else None

    def keep(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Writes a result, atomically. A folder that takes no file must not cost the result itself."""
        with contextlib.suppress(OSError, SafetensorError):
            on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            write_safetensors(on_cpu, self._file(key), {"format": FORMAT, "key": key})

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
