"""The pieces of the starter's training program that can be checked without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from my3dgen_core.camera import look_at
from my3dgen_core.checkpoint import load_generator
from my3dgen_core.eg3d.generator import Generator
from my3dgen_core.eg3d.layers import fir_kernel, upsample
from my3dgen_core.starter.bank import Rays
from my3dgen_core.starter.export import export
from my3dgen_core.starter.objectives import DENSITY_SCALE, latents, point_loss, ray_loss
from my3dgen_core.starter.optimizer import Muon, orthogonalize
from my3dgen_core.starter.stages import CONFIG, STAGES, grow, rate

SMALL = dataclasses.replace(CONFIG, plane_resolution=8, channel_base=128, channel_max=16, w_dim=16)


def some_rays(hit: float) -> Rays:
    directions = torch.tensor([0.0, 0.0, -1.0]).expand(2, 5, 3)
    origins = torch.tensor([0.0, 0.0, 2.7]).expand(2, 5, 3)
    covers = torch.full((2, 5, 1), hit)
    return Rays(
        torch.randn(2, 64), origins, directions, torch.rand(2, 5, 3), covers, torch.full((2, 5, 1), 2.5)
    )


def test_growing_the_planes_starts_as_the_small_planes_upsampled() -> None:
    torch.manual_seed(0)
    small = Generator(SMALL)
    large = grow(small, dataclasses.replace(SMALL, plane_resolution=16))
    z = torch.randn(1, 64)
    with torch.no_grad():
        before, after = small.planes(latents(small, z)), large.planes(latents(large, z))
    expected = upsample(before.flatten(1, 2), fir_kernel()).unflatten(1, (3, 32))
    assert torch.allclose(after, expected, atol=1e-5)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((3, 8, 20), (2, 20, 8)):
        values = torch.linalg.svdvals(
            orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        )
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.5


def test_muon_moves_every_weight_matrix_by_its_learning_rate() -> None:
    weight = torch.nn.Parameter(torch.zeros(6, 4, 3, 3))
    (weight * torch.randn(6, 4, 3, 3)).sum().backward()
    Muon([weight], lr=0.01).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.01, rel=0.3)


def test_the_learning_rate_warms_up_and_falls_to_two_percent() -> None:
    assert rate(0.0, 0) == pytest.approx(0.02)
    assert rate(0.0, 100) == pytest.approx(1.0)
    assert rate(1.0, 100) == rate(1.5, 100) == pytest.approx(0.02)


def test_the_stages_share_out_the_whole_time() -> None:
    assert sum(stage.share for stage in STAGES) == pytest.approx(1.0)


@pytest.mark.parametrize("hit", [1.0, 0.0])
def test_both_objectives_are_finite_and_reach_the_volume(hit: float) -> None:
    torch.manual_seed(0)
    for objective in (point_loss, ray_loss):
        generator = Generator(SMALL)
        losses = objective(generator, some_rays(hit), torch.Generator().manual_seed(0))
        sum(losses.values(), torch.zeros(())).backward()
        gradient = next(iter(generator.decoder.parameters())).grad
        assert all(torch.isfinite(value) for value in losses.values())
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0


def test_an_export_folds_the_density_scale_and_loads_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(SMALL)
    path = tmp_path / "small.safetensors"
    finished = export(generator, path)
    loaded = load_generator(path)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-0.4, 0.4, (1, 9, 3))).float()
    with torch.no_grad():
        ws = latents(generator, torch.randn(1, 64))
        raw = generator.sample(ws, points)[0]
        assert torch.allclose(finished.sample(ws, points)[0], DENSITY_SCALE * raw, rtol=1e-4, atol=1e-4)
        assert torch.allclose(loaded.w_avg, finished.w_avg, atol=2e-3)
        assert loaded.render(ws, look_at(0, 0)).image.shape == (1, 3, 128, 128)
