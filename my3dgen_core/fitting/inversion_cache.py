"""On-disk cache of inversion results, keyed by a hash of all their inputs.

An inversion runs in stages: an optional one for a latent shared by all photos, then one for each batch. Every
stage restarts the RNG from the seed, so its result depends only on the weights in effect (including an
applied identity), the renderer, the settings, the initial latents, and its photos with masks and cameras, in
order. All of these enter the key, so a cached result is bit-identical to recomputing it on the same machine.

Two consequences: with `shared_steps` every stage depends on all photos, so adding or removing one recomputes
everything. And a batch is cached as a whole, because another batch size rounds differently. With
`shared_steps=0` and `batch_size=1` every photo is cached on its own.
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
"""Format name in the metadata of cache files, also hashed into every key."""


def digest(*values: Tensor | str | None) -> str:
    """Return the SHA-256 hex digest of tensors (shape and float32 values), texts and None."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            found.update(str(list(value.shape)).encode())
            found.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


class InversionCache:
    """Folder of stage results, one .safetensors file each."""

    def __init__(
        self,
        folder: str | Path,
        generator: Generator,
        settings: dict[str, object],
        images: Tensor,
        masks: Tensor | None,
        cameras: Tensor,
    ) -> None:
        """Hash what all stages of an inversion have in common, and each photo.

        Args:
            folder: created on first use.
            generator: with the identity in effect, if any.
            settings: `InversionConfig.fingerprint_settings` and other plain values that decide the result.
            images: [N, 3, H, H] in [-1, 1].
            masks: [N, 1, H, H], or None.
            cameras: [N, 25].
        """
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
        """Return the cache key of one stage.

        Args:
            start: initial latents [B or 1, rows, w_dim].
            index: rows of the photos; None: one latent shared by all of them.
            steps: optimizer steps of the stage.
        """
        photos = self._photos if index is None else [self._photos[i] for i in index]
        return digest(self._common, "shared" if index is None else "own", str(steps), start, *photos)

    def find(self, key: str, shapes: dict[str, torch.Size]) -> dict[str, Tensor] | None:
        """Read a cached result.

        Args:
            key: from `key`.
            shapes: expected shape of each tensor by name.

        Returns:
            float32 tensors by name, or None if the file is missing, damaged or does not match.
        """
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
        """Write a result atomically. Errors are ignored: a folder that cannot be written costs no result."""
        with contextlib.suppress(OSError, SafetensorError):
            on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            write_safetensors(on_cpu, self._file(key), {"format": FORMAT, "key": key})

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
