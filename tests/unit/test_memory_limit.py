"""The memory limit of rendering, checked against PyTorch's own record of allocations."""

import copy

import allocations
import goldens
import micro
import pytest
import torch

from my3dgen_core import load_generator, orbit
from my3dgen_core.eg3d.rendering.memory_budget import backbone_bytes, portion, superresolution_bytes

MIB = 2**20
FRONT = orbit(1)  # the same frame again and again: what is decoded depends on the view


@pytest.fixture(scope="module")
def starter():
    return load_generator("starter")


def least(generator, quality):
    """The smallest limit that is not refused, in whole MiB."""
    for mib in range(1, 10000):
        try:
            portion(generator, mib * MIB, 1, generator.config.neural_resolution, quality, True)
        except ValueError:
            continue
        return mib * MIB
    raise AssertionError("everything is refused")


def pictures(count, generator):
    """Bytes of the results of that many pictures."""
    config = generator.config
    return 4 * count * (3 * config.img_resolution**2 + 34 * config.neural_resolution**2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quality"), [("micro", "exact"), ("starter", "exact"), ("starter", "fast")])
def test_the_peak_stays_below_the_limit_and_does_not_grow_with_the_frames(starter, renderer, quality, name):
    generator = copy.copy(starter if name == "starter" else micro.generator())
    generator.renderer = renderer
    ws = generator.w_avg.expand(1, generator.num_ws, -1)
    tight = least(generator, quality) + 2 * MIB  # a few rays more at a time, which spares the test time
    with torch.no_grad():
        free = generator.render(ws, FRONT, quality=quality)
        generator.memory_limit = tight
        peaks = []
        for frames in (4, 8):
            run = lambda f=frames: generator.render(ws, FRONT.expand(f, -1), quality=quality)  # noqa: E731
            peaks.append(allocations.peak(run) - pictures(frames, generator))
        generator.memory_limit = 2 * tight
        looser = allocations.peak(run) - pictures(8, generator)
        bounded = generator.render(ws, FRONT, quality=quality)
    assert max(peaks) <= tight
    assert peaks[1] <= 1.01 * peaks[0]
    assert looser <= 2 * tight
    assert torch.allclose(bounded.image, free.image, atol=1e-2 if quality == "fast" else 1e-4)
    assert torch.allclose(bounded.depth, free.depth, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["micro", "tiny", "starter"])
def test_a_batch_of_latents_keeps_the_limit_too(starter, name):
    generator = copy.copy(
        {"micro": micro.generator, "tiny": goldens.tiny, "starter": lambda: starter}[name]()
    )
    ws = generator.w_avg.expand(4, generator.num_ws, -1).clone()
    generator.memory_limit = least(generator, "exact")
    with torch.no_grad():
        taken = allocations.peak(lambda: generator.render(ws, orbit(4)))
    assert taken - pictures(4, generator) <= generator.memory_limit


@pytest.fixture(params=[1, 2, 8])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["micro", "tiny", "starter"])
def test_what_is_told_from_shapes_is_no_less_and_not_far_more_than_what_is_taken(starter, name):
    generator = {"micro": micro.generator, "tiny": goldens.tiny, "starter": lambda: starter}[name]()
    ws = generator.w_avg.expand(1, generator.num_ws, -1)
    side = generator.superresolution.layout.input_resolution
    with torch.no_grad():
        planes = allocations.peak(lambda: generator.planes(ws))
        image = allocations.peak(lambda: generator.superresolution(torch.rand(1, 32, side, side), ws))
    assert planes <= backbone_bytes(generator) <= 2 * planes + MIB
    assert image <= superresolution_bytes(generator) <= 2 * image + MIB


def test_too_small_a_limit_is_refused_with_a_message(starter):
    generator = copy.copy(starter)
    generator.memory_limit = MIB
    ws = generator.w_avg.expand(1, generator.num_ws, -1)
    with torch.no_grad(), pytest.raises(ValueError, match=r"MiB of working memory at least.*Raise the limit"):
        generator.render(ws, orbit(2))


def test_with_gradients_the_limit_stands_back():
    generator = micro.generator()
    generator.memory_limit = 1
    ws = micro.latents(generator, 1).requires_grad_(True)
    generator.render(ws, orbit(1)).image.sum().backward()
    assert ws.grad is not None
