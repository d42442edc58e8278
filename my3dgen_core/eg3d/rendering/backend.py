"""Selection of the rendering backend: PyTorch or the compiled renderer."""

from __future__ import annotations

from typing import Protocol

import torch

from .compiled import KernelError, load


class HasRenderer(Protocol):
    """Generator, reduced to the attribute that `select_backend` sets."""

    renderer: str


def devices() -> tuple[str, ...]:
    """Return the types of device of this machine: "cpu", and "cuda" where PyTorch has a GPU."""
    return ("cpu", "cuda") if torch.cuda.is_available() and torch.version.cuda else ("cpu",)


def select_backend(generator: HasRenderer, renderer: str) -> str | None:
    """Set the rendering backend of a generator. Nothing is built.

    Args:
        generator: its attribute `renderer` is set.
        renderer: "torch", "compiled", or "auto": "compiled" if it is there for every device of this machine,
            else "torch".

    Returns:
        reason why "auto" is PyTorch, or None.

    Raises:
        KernelError: "compiled" was asked for and is not there. The message says how to build it.
    """
    reason = None
    if renderer != "torch":
        try:
            for device in devices():
                load(device)
        except KernelError as error:
            if renderer == "compiled":
                raise
            reason = str(error)
    generator.renderer = "torch" if reason or renderer == "torch" else "compiled"
    return reason
