"""Weights that move between two devices, imitated by two data types: each builds every weight again."""

import sys
from types import ModuleType, SimpleNamespace

import micro
import pytest
import torch

from my3dgen_core import Latents, TuningConfig, look_at, personalize

THERE, HERE = torch.float64, torch.float32


class Patcher:
    """A model that computes in one place and waits in another, as ComfyUI's ModelPatcher."""

    def __init__(self, model):
        self.model = model


@pytest.fixture
def host(pack, monkeypatch):
    """The pack's host, with a memory management that loads models by moving them."""
    host = sys.modules["my3dgen_pack.nodes.host"]
    comfy = ModuleType("comfy")
    comfy.model_management = SimpleNamespace(
        load_models_gpu=lambda models, memory_required, force_full_load: [m.model.to(HERE) for m in models],
        throw_exception_if_processing_interrupted=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", comfy.model_management)
    monkeypatch.setattr(host.comfyui, "folder_paths", SimpleNamespace())
    return host


def stuck(generator):
    return any(t.is_inference() for t in (*generator.parameters(), *generator.buffers()))


@torch.inference_mode()
def test_moved_without_care_weights_would_be_lost_to_training():
    with torch.inference_mode(False):
        generator = micro.generator()
    assert stuck(generator.to(THERE))


@pytest.mark.slow
@torch.inference_mode()
def test_render_train_and_render_again_between_moves(host):
    with torch.inference_mode(False):
        generator = micro.generator()
        ws, camera = micro.latents(generator, 1), look_at(0.2, 0.0)
        patcher = Patcher(generator)
    pictures = []
    for turn in range(3):
        with torch.inference_mode(False):
            generator.to(THERE)  # another model took the place: this one waits elsewhere
        model = host.resident(patcher, 1 << 30)
        assert model is generator
        assert model.w_avg.dtype == HERE
        assert not stuck(model)
        if turn == 1:
            with host.training():
                photo = torch.rand(1, 3, 128, 128) * 2 - 1
                identity = personalize(
                    model, photo, Latents(ws, camera), TuningConfig(steps=2, preview_every=0)
                )
            assert identity.adapter.tensors["backbone.synthesis.b4.conv1.lora_up.weight"].any()
        with host.rendering():
            pictures.append(model.render(ws, camera).image)
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])
