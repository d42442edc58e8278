"""Selection of the rendering backend: PyTorch or the compiled renderer."""

from __future__ import annotations

from typing import Protocol

import torch

from .compiled.builder import available, build, load


class HasRenderer(Protocol):
    """A generator, as far as it is needed here."""

    renderer: str


def devices() -> tuple[str, ...]:
    """Types of device that this machine computes on: "cpu", and "cuda" where there is a GPU."""
    return ("cpu", "cuda") if torch.cuda.is_available() and torch.version.cuda else ("cpu",)


def select_backend(generator: HasRenderer, renderer: str) -> None:
    """Set `generator.renderer`.

    Args:
        renderer: "torch"; "compiled", which is built now for every device of this machine unless it was before;
            or "auto", the compiled one where it has been built for every device.

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
