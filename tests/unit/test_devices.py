"""No tensor is made on the wrong device: every step runs on `meta`, where a CPU tensor is an error.

This stands in for a GPU where there is none.
"""

import pytest
import torch
from meta_device import META, NoCPU, cameras, on_meta

from my3dgen_core import InversionConfig
from my3dgen_core.common.rng import RngStreams
from my3dgen_core.fitting.inversion import _Run
from my3dgen_core.fitting.photo_objective import PhotoObjective
from my3dgen_core.person.adapter import Adapter
from my3dgen_core.person.apply import personalized


def test_the_watch_notices_a_stray_tensor():
    with pytest.raises(AssertionError, match="CPU tensor"), NoCPU():
        torch.ones(3) + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rays", [(2.25, 3.3), ("auto", "auto")])
def test_from_noise_to_picture(dtype, rays):
    generator = on_meta(ray_start=rays[0], ray_end=rays[1]).to(dtype)
    jitter = torch.Generator()
    with NoCPU(), torch.no_grad():
        z = torch.empty(2, 16, device=META)
        ws = generator.mapping(z, cameras(2), truncation_psi=0.7)
        planes = generator.planes(ws, noise_mode="random", generator=jitter)
        for randomness in (None, 0.5, jitter):
            out = generator.render(ws, cameras(2), planes=planes, jitter=randomness)
        generator.sample(ws, torch.empty(2, 10, 3, device=META))
    assert out.image.device == META
    assert out.image.shape == (2, 3, 128, 128)


def test_super_resolution_runs_in_half_precision_off_the_cpu_and_returns_float32():
    generator = on_meta()
    seen = []
    for name, module in generator.superresolution.named_modules():
        if name.endswith(("conv0", "conv1")):
            module.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with torch.no_grad():
        out = generator.render(torch.empty(1, generator.num_ws, 32, device=META), cameras(1))
    assert seen == [torch.float16] * 4
    assert out.image.dtype == torch.float32


def test_a_training_step():
    generator = on_meta()
    with NoCPU():
        objective = PhotoObjective(generator, torch.empty(3, 3, 256, 256, device=META), None)
        adapter = Adapter.create(generator, trainable="paper")
        for tensor in adapter.tensors.values():
            tensor.requires_grad_(True)
        ws, draw = torch.empty(2, generator.num_ws, 32, device=META), RngStreams(0, META)
        for size in (16, 64):
            with personalized(generator, adapter):
                planes = generator.planes(ws)
                loss = objective.patch(ws, planes, cameras(2), [0, 2], size, draw).mean()
            loss.backward()
    idle = {key for key, tensor in adapter.tensors.items() if tensor.grad is None}
    assert idle == {key for key in adapter.tensors if "superres" in key and "noise_strength" in key}


@pytest.mark.parametrize("rays", [0, 256])
def test_an_inversion_step(rays):
    generator = on_meta()
    with NoCPU():
        objective = PhotoObjective(generator, torch.empty(3, 3, 256, 256, device=META), None)
        config = InversionConfig(steps=2, rays_per_image=rays)
        run = _Run(generator, objective, cameras(3), config, None)
        ws, _ = run.descend(run.w_avg.expand(3, -1, -1).clone(), [0, 1, 2], 2)
    assert ws.device == META
