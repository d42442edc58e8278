"""Models in ComfyUI's memory management, devices, and gradients on and off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import comfyui

RENDER_MEMORY, TRAINING_MEMORY = 2 << 30, 8 << 30
"""Bytes requested from ComfyUI's memory management beside the weights, for NVIDIA's 512 px generator."""


class _Resident:
    """Substitute for ModelPatcher outside ComfyUI."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def manage(model: nn.Module) -> Any:
    """Return a ModelPatcher, which hands a model to ComfyUI's memory management."""
    if comfyui.folder_paths is None:
        return _Resident(model)
    from comfy import model_management
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(model, model_management.get_torch_device(), model_management.unet_offload_device())


def resident(patcher: Any, memory: int = 0) -> Any:
    """Return the model on its compute device, with about `memory` bytes free beside it."""
    if comfyui.folder_paths is not None:
        from comfy import model_management

        # Weights moved under the executor's inference mode would stay inference tensors.
        with torch.inference_mode(False):
            model_management.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    return patcher.model


def memory() -> tuple[int | None, int | None]:
    """Return the computer's memory and what is free of it, in bytes; None if it cannot be told."""
    try:
        import psutil  # ComfyUI requires it; this pack does not
    except ImportError:
        return None, None
    known = psutil.virtual_memory()
    return known.total, known.available


def to_host(tensor: Tensor) -> Tensor:
    """Move a tensor to the device on which ComfyUI passes values between nodes."""
    if comfyui.folder_paths is None:
        return tensor.cpu()
    from comfy import model_management

    return tensor.to(model_management.intermediate_device())


@contextmanager
def training() -> Iterator[None]:
    """Enable gradients inside the `with` block; ComfyUI runs nodes under inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def rendering() -> Iterator[None]:
    """Disable gradients without inference mode, whose tensors autograd could not use later."""
    with torch.inference_mode(False), torch.no_grad():
        yield
