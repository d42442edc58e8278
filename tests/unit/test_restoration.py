"""Restored photos: known pixels stay, and missing ones come from the person."""

import micro
import pytest
import torch
from meta_device import META, NoCPU, on_meta
from meta_device import cameras as meta_cameras

from my3dgen_core import AlphaSpace, InversionConfig, Latents, invert, look_at
from my3dgen_core.common.image_ops import pull_push_fill, resize
from my3dgen_core.editing.restoration import back_project, blend, inpaint, sharpen
from my3dgen_core.fitting.alpha_projection import Projection, ProjectionConfig

CONFIG = ProjectionConfig(steps=25, lr=0.08, preview_every=0)


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def space(generator):
    cameras = look_at(torch.linspace(-0.3, 0.3, 4), 0.0)
    ws = 2 * micro.latents(generator, 4)
    return AlphaSpace(Latents(ws, cameras, base_hash=generator.base_hash()))


@pytest.fixture(scope="module")
def shown(generator, space):
    """One look of the person, and its picture."""
    look = space.combine(torch.tensor([[0.7, 0.3, 0.0, 0.0]]))
    with torch.no_grad():
        return look, generator.render(look.ws, look.cameras).image.clamp(-1, 1)


@pytest.mark.slow
def test_what_a_mask_hides_comes_from_the_person_and_the_rest_stays_to_the_last_bit(generator, space, shown):
    look, photo = shown
    masks = torch.zeros(1, 1, 128, 128)
    masks[:, :, 40:90, 30:100] = 1
    spoilt = torch.where(masks > 0, torch.ones_like(photo), photo)
    found = inpaint(generator, space, spoilt, look.cameras, masks, CONFIG)
    assert torch.equal(found.images * (1 - masks), photo * (1 - masks))
    hole = masks.expand_as(photo) > 0
    off, before = ((picture - photo)[hole].abs().mean() for picture in (found.images, spoilt))
    assert off < before / 4
    assert float((found.latents.alphas - look.alphas).abs().max()) < 0.25
    assert torch.equal(found.latents.cameras, look.cameras)


@pytest.mark.slow
def test_a_small_photo_comes_back_in_full_size_and_shrinks_to_itself(generator, space, shown):
    look, photo = shown
    small = resize(photo, 16)
    found = sharpen(generator, space, small, look.cameras, CONFIG)
    assert found.images.shape == photo.shape
    assert float((resize(found.images, 16) - small).abs().mean()) < 0.01
    plain = torch.nn.functional.interpolate(small, (128, 128), mode="bicubic").clamp(-1, 1)
    error, plain_error = ((picture - photo).square().mean() for picture in (found.images, plain))
    assert error < plain_error


@pytest.mark.slow
def test_small_photos_are_compared_at_their_own_size(generator, space, shown):
    """Enlarged, they would be a blurred target, and the weights found in them others."""
    look, photo = shown
    small, truth = resize(photo, 16), look.alphas
    enlarged = torch.nn.functional.interpolate(small, (128, 128), mode="bilinear")
    near, far = (
        float((space.project(generator, picture, look.cameras, CONFIG).alphas - truth).norm())
        for picture in (small, enlarged)
    )
    assert near < far
    config = InversionConfig(steps=2, shared_steps=0)
    assert bool(torch.isfinite(invert(generator, small, look.cameras, config).ws).all())


def test_a_photo_in_other_light_is_filled_in_without_a_seam():
    renders = torch.zeros(1, 3, 64, 64)
    renders[:, :, 28:36, 28:36] = 0.5  # what the hole should show
    photos = renders * 0 + torch.linspace(0.1, 0.4, 64)
    masks = torch.zeros(1, 1, 64, 64)
    masks[:, :, 20:44, 20:44] = 1
    filled = blend(photos, renders, masks)
    rim = (filled - photos)[0, 0, 20:44, 20].abs().max()
    assert rim < 0.05
    assert float(filled[0, 0, 32, 32] - filled[0, 0, 24, 24]) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_known_values_spread_and_stay(size):
    values = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    known = torch.zeros(2, 1, size, size)
    assert torch.equal(pull_push_fill(values, known), torch.zeros_like(values))
    known[:, :, 0, 0] = 1
    everywhere = pull_push_fill(values, known)
    assert torch.allclose(everywhere, values[:, :, :1, :1].expand_as(values), atol=1e-5)
    assert torch.allclose(pull_push_fill(values, known * 0 + 1), values)


def test_an_enlarged_photo_keeps_its_colors():
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5
    big = back_project(small, torch.zeros(1, 3, 32, 32))
    assert float((resize(big, 8) - small).abs().mean()) < 0.05


def test_what_cannot_be_restored_is_refused_with_a_message(generator, space, shown):
    look, photo = shown
    with pytest.raises(ValueError, match="A mask hides the whole photo"):
        inpaint(generator, space, photo, look.cameras, torch.ones(1, 1, 128, 128))
    with pytest.raises(ValueError, match="nothing can be gained"):
        sharpen(generator, space, photo, look.cameras)


def test_a_step_on_small_photos_and_the_blending_run_where_the_generator_is():
    generator = on_meta()
    with NoCPU():
        anchors = torch.empty(4, generator.num_ws, 32, device=META)
        photos = torch.empty(2, 3, 32, 32, device=META)
        run = Projection(generator, anchors, photos, meta_cameras(2), ProjectionConfig(steps=2))
        ws, _, _ = run.descend([0, 1])
        renders, masks = torch.empty(2, 3, 128, 128, device=META), torch.empty(2, 1, 64, 64, device=META)
        filled = blend(torch.empty(2, 3, 64, 64, device=META), renders, masks)
        big = back_project(photos, renders)
    assert ws.device == filled.device == big.device == META
