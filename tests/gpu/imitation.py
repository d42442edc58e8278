"""A part of ComfyUI's memory management, for a GPU without ComfyUI: models that share a budget."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn


class ModelPatcher:
    """A model with the device it computes on and the one it waits on."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.model.parameters(), *self.model.buffers()))


class Memory:
    """Loads models, and moves others away until what is asked for is free, as ComfyUI does."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.loaded: list[ModelPatcher] = []

    def get_torch_device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    def unet_offload_device(self) -> torch.device:
        return torch.device("cpu")

    intermediate_device = unet_offload_device

    def throw_exception_if_processing_interrupted(self) -> None:
        pass

    def load_models_gpu(
        self, models: list[ModelPatcher], memory_required: int = 0, force_full_load: bool = False
    ) -> None:
        wanted = memory_required + sum(m.nbytes for m in models if m not in self.loaded)
        for other in list(self.loaded):
            if self.budget - torch.cuda.memory_allocated() >= wanted:
                break
            if other not in models:
                other.model.to(other.offload_device)
                self.loaded.remove(other)
        for model in models:
            model.model.to(model.load_device)
            if model in self.loaded:
                self.loaded.remove(model)
            self.loaded.append(model)


@contextlib.contextmanager
def comfyui(host: Any, folder: Path, budget: int) -> Iterator[Memory]:
    """Within the block `host` finds this in place of ComfyUI."""
    memory = Memory(budget)
    paths = SimpleNamespace(
        models_dir=str(folder / "models"),
        folder_names_and_paths={},
        get_input_directory=lambda: str(folder / "input"),
        get_output_directory=lambda: str(folder / "output"),
        get_temp_directory=lambda: str(folder / "temp"),
        get_user_directory=lambda: str(folder / "user"),
        get_save_image_path=lambda prefix, root, *_: (root, prefix, 1, "", prefix),
        get_folder_paths=lambda kind: [str(folder / "models" / kind)],
    )
    for part in ("input", "output", "temp", "user"):
        (folder / part).mkdir(exist_ok=True)
    modules = {
        "comfy": ModuleType("comfy"),
        "comfy.model_management": memory,
        "comfy.model_patcher": SimpleNamespace(ModelPatcher=ModelPatcher),
        "comfy.utils": SimpleNamespace(
            ProgressBar=lambda *_, **__: SimpleNamespace(update_absolute=lambda *_: None)
        ),
    }
    modules["comfy"].model_management = memory  # type: ignore[attr-defined]
    before, saved = host.comfyui.folder_paths, {name: sys.modules.get(name) for name in modules}
    host.comfyui.folder_paths = paths
    sys.modules.update(modules)  # type: ignore[arg-type]
    try:
        yield memory
    finally:
        host.comfyui.folder_paths = before
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
