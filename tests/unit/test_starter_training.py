"""Parts of the starter's training program that can be checked without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from my3dgen_core.camera import look_at
from my3dgen_core.checkpoint import load_generator
from my3dgen_core.eg3d.generator import Generator
from my3dgen_core.eg3d.layers import upsample
from my3dgen_core.eg3d.rendering.compositing import composite
from my3dgen_core.fitting.muon import Muon, orthogonalize
from my3dgen_core.starter.training.export import export, unfolded
from my3dgen_core.starter.training.objectives import (
    DENSITY_SCALE,
    latents,
    picture_loss,
    point_loss,
    ray_loss,
)
from my3dgen_core.starter.training.picture_shards import Pictures, PictureShards
from my3dgen_core.starter.training.ray_shards import Rays
from my3dgen_core.starter.training.stages import CONFIG, STAGES, grow, rate

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
    expected = upsample(before.flatten(1, 2)).unflatten(1, (3, 32))
    assert torch.allclose(after, expected, atol=1e-5)


def test_widening_changes_nothing_yet_and_lets_new_channels_learn() -> None:
    torch.manual_seed(0)
    narrow = Generator(SMALL)
    wide = grow(narrow, dataclasses.replace(SMALL, channel_base=256, channel_max=24))
    z = torch.randn(2, 64)
    before, after = narrow.planes(latents(narrow, z)), wide.planes(latents(wide, z))
    assert torch.allclose(after, before, atol=1e-5)
    after.square().mean().backward()
    new = wide.backbone.synthesis.b8.conv1.weight.grad
    assert new is not None
    assert float(new[:16, 16:].abs().sum()) > 0


def test_where_nothing_is_hit_the_depth_is_unknown_but_gradients_are_numbers() -> None:
    density = torch.full((1, 2, 6, 1), -500.0)
    density[:, 1] = 20.0
    density.requires_grad_(True)
    depths = torch.linspace(2.3, 3.0, 6).view(1, 1, 6, 1).expand(1, 2, 6, 1)
    _, depth, _ = composite(torch.zeros(1, 2, 6, 3), density, depths)
    assert bool(depth[0, 0].isnan())
    assert 2.3 < float(depth[0, 1].detach()) < 3.0
    depth[0, 1].sum().backward()
    assert density.grad is not None
    assert bool(density.grad.isfinite().all())


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    chance = torch.Generator().manual_seed(0)
    shapes = ((3, 8, 20), (2, 20, 8), (2, 8, 8), (1, 5, 7))
    stacks = orthogonalize([torch.randn(shape, generator=chance) for shape in shapes])
    for shape, stack in zip(shapes, stacks, strict=True):
        assert stack.shape == shape
        values = torch.linalg.svdvals(stack)
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.5


@pytest.mark.slow
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


@pytest.mark.slow
def test_pictures_teach_every_part_of_the_generator() -> None:
    torch.manual_seed(0)
    generator = Generator(SMALL)
    batch = Pictures(
        torch.randn(1, 64),
        torch.cat([look_at(0.3, 0.0), look_at(-0.4, 0.1)]),
        torch.rand(2, 3, 128, 128) * 2 - 1,
        torch.ones(2, 1, 128, 128),
        torch.full((2, 1, 64, 64), 2.5),
    )
    losses = picture_loss(generator, batch)
    sum(losses.values(), torch.zeros(())).backward()
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    for part in (generator.backbone.mapping, generator.backbone.synthesis, generator.superresolution):
        moved = [p.grad for p in part.parameters() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in moved) > 0


@pytest.mark.slow
def test_an_album_keeps_pictures_cameras_and_certain_depths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("anny", reason="the truth needs the starter extra (anny and warp-lang)")
    pytest.importorskip("warp", reason="the truth needs the starter extra (anny and warp-lang)")
    from my3dgen_core.starter import truth

    monkeypatch.setattr(PictureShards, "heads_per_shard", 2)
    PictureShards.write(PictureShards.path(tmp_path, 0), 0)
    album = PictureShards(tmp_path)
    batch = album.batch(1, 2, np.random.default_rng(0))
    image, depth, mask = truth(batch.z.repeat_interleave(2, 0), batch.cameras, 128)
    # A batch of another size moves a vertex in its last digit, and a ray here and there off an edge.
    assert float((batch.images - image).abs().mean()) < 0.005
    assert float((batch.masks - mask).abs().mean()) < 0.005
    known = batch.depths > 0
    middle = torch.nn.functional.avg_pool2d(depth, 2)
    assert float((batch.depths - middle)[known].abs().mean()) < 0.001
    assert float(known.float().mean()) > 0.3
    assert float((known & (torch.nn.functional.avg_pool2d(mask, 2) < 0.99)).sum()) == 0


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
        assert torch.allclose(unfolded(finished).sample(ws, points)[0], raw, rtol=1e-4, atol=1e-4)
