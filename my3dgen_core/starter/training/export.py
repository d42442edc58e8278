"""Export of the trained generator: density scale folded in, mean latent computed, float16 safetensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...eg3d.generator import Generator
from .objectives import DENSITY_SCALE, latents


def export(generator: Generator, path: Path | None, fold: bool = True) -> Generator:
    """Return a finished copy of a generator in training, and write it as float16 if a path is given.

    Args:
        generator: generator whose density is scaled outside by `DENSITY_SCALE`.
        path: .safetensors file, or None.
        fold: fold the density scale into the decoder; False if that is done already.
    """
    finished = copy.deepcopy(generator).requires_grad_(False).eval()
    if fold:
        for parameter in list(finished.decoder.net.children())[-1].parameters():
            parameter[0] *= DENSITY_SCALE  # row 0 of weight and bias is the density
    with torch.no_grad():
        z = torch.randn(10_000, finished.config.z_dim, generator=torch.Generator().manual_seed(0))
        z = z.to(finished.w_avg.device)
        finished.w_avg.copy_(latents(finished, z)[:, 0].mean(dim=0))
    if path is not None:
        state = {
            name: value.to("cpu", torch.float16).contiguous() for name, value in finished.state_dict().items()
        }
        partial = path.with_suffix(".tmp")
        save_file(state, partial, metadata={"config": json.dumps(finished.config.to_dict())})
        partial.chmod(0o644)
        partial.replace(path)
    return finished


def unfolded(finished: Generator) -> Generator:
    """Undo the folding of the density scale in place, to train a finished generator further; return it."""
    with torch.no_grad():
        for parameter in list(finished.decoder.net.children())[-1].parameters():
            parameter[0] /= DENSITY_SCALE
    return finished
