"""Selection of the rendering backend: PyTorch or the compiled renderer."""

from __future__ import annotations

from typing import Protocol

import torch

from .compiled.builder import available, build, load


class HasRenderer(Protocol):
    """Generator, reduced to the attribute that `select_backend` sets."""

    renderer: str


def devices() -> tuple[str, ...]:
    """Return the types of device of this machine: "cpu", and "cuda" where PyTorch has a GPU."""
    return ("cpu", "cuda") if torch.cuda.is_available() and torch.version.cuda else ("cpu",)


def select_backend(generator: HasRenderer, renderer: str) -> None:
    """Set the rendering backend of a generator.

    Args:
        generator: its attribute `renderer` is set.
        renderer: "torch"; "compiled", which is built for every device of this machine if it is not yet; or
            "auto": "compiled" if that is built for every device, else "torch".

    Raises:
        KernelError: "compiled" was asked for and cannot be built.
    """
    if renderer == "compiled":
        for device in devices():
            build(device=device)
            load(device)
    elif renderer == "auto":
        renderer = "compiled" if all(available(device) for device in devices()) else "torch"
    generator.renderer = renderer
