"""The meta device as a stand-in for a GPU: an operation on a CPU tensor is an error."""

from __future__ import annotations

import dataclasses
from typing import Any

import micro
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from my3dgen_core import Generator

META = torch.device("meta")


class NoCPU(TorchDispatchMode):
    """Fails when an operation takes or makes a tensor on the CPU; zero-dimensional ones go along."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.ndim > 0:
                raise AssertionError(f"{func} worked on a CPU tensor of shape {list(value.shape)}")
        return out


def on_meta(**changes: Any) -> Generator:
    with META:
        made = Generator(dataclasses.replace(micro.CONFIG, **changes))
    return made.eval().requires_grad_(False)


def cameras(count: int) -> torch.Tensor:
    return torch.empty(count, 25, device=META)
