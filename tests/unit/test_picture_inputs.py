"""Pictures and masks from the wires: the right values of what is taken, and the words of what is refused."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from my3dgen_core.face import CropTransform, warp_mask
from my3dgen_core.face.crop import warp_crop


@pytest.fixture
def inputs(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.picture_inputs"]


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_a_picture_a_hair_outside_is_clamped(inputs: ModuleType) -> None:
    picture = noise(1, 4, 4, 3) * 1.5 - 0.25
    (taken,) = inputs.checked_pictures(picture, "images")
    assert torch.equal(taken, picture.clamp(0, 1))
    picture[0, 0, 0, 0] = 1.26
    with pytest.raises(ValueError, match=r"'images': picture 1 has values from -0\.2.* to 1\.26"):
        inputs.checked_pictures(picture, "images")


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (0, 65535)])
def test_another_scale_is_named(inputs: ModuleType, low: int, high: int) -> None:
    pictures = torch.stack([noise(4, 4, 3), torch.linspace(low, high, 48).view(4, 4, 3)])
    with pytest.raises(ValueError, match=rf"picture 3 has values .* look like {low}\.\.{high}: "):
        inputs.checked_pictures([noise(1, 8, 8, 3), pictures], "images")


def test_an_empty_batch_alone_is_a_message_and_beside_others_left_out_by_name(
    inputs: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    none, picture = torch.zeros(0, 8, 8, 3), noise(1, 8, 8, 3)
    for value in (none, [none, [none]]):
        with pytest.raises(ValueError, match=r"'photos' is empty: it got float32 \[0, 8, 8, 3\]"):
            inputs.checked_pictures(value, "photos")
    (taken,) = inputs.checked_pictures([none, picture, none], "photos")
    assert torch.equal(taken, picture)
    assert caplog.messages == ["The input 'photos': left out as empty: 1, 3 of 3 in the list."]
    (mask,) = inputs.masks_of([torch.zeros(0, 8, 8), torch.ones(1, 8, 8)], [(8, 8)])
    assert torch.equal(mask, torch.ones(8, 8))
    with pytest.raises(ValueError, match="must be an IMAGE"):
        inputs.checked_pictures(torch.zeros(1, 0, 8, 3), "photos")


def test_transparent_pixels_are_white(inputs: ModuleType) -> None:
    picture = torch.tensor([0.2, 0.4, 0.6, 0.0]).expand(1, 2, 2, 4).clone()
    picture[0, 0, 0, 3], picture[0, 1, 1, 3] = 1, 0.5
    crops = (inputs.crops_to_core(picture) + 1) / 2
    assert torch.allclose(crops[0, :, 0, 0], torch.tensor([0.2, 0.4, 0.6]))
    assert torch.allclose(crops[0, :, 1, 1], torch.tensor([0.6, 0.7, 0.8]))
    assert torch.equal(crops[0, :, 0, 1], torch.ones(3))


def test_a_mask_also_leaves_out_transparent_pixels(inputs: ModuleType) -> None:
    picture = torch.cat([noise(1, 4, 4, 3), torch.ones(1, 4, 4, 1)], 3)
    picture[0, 1, 2, 3] = 0
    mask = torch.zeros(1, 4, 4)
    mask[0, 3, 3] = 1
    _, hidden = inputs.crops_and_masks(picture, mask)
    assert hidden[0, 0].nonzero().tolist() == [[1, 2], [3, 3]]
    assert inputs.crops_and_masks(picture, None)[1] is None


def test_crops_of_several_sizes_get_the_largest(inputs: ModuleType) -> None:
    flat = torch.full((1, 2, 2, 3), 0.25)
    crops = inputs.crops_to_core([flat, noise(2, 6, 6, 3)])
    assert crops.shape == (3, 3, 6, 6)
    assert torch.allclose(crops[0], torch.tensor(-0.5))


def test_what_comes_out_of_the_executors_mode_can_be_trained_on(inputs: ModuleType) -> None:
    with torch.inference_mode():
        crops, hidden = inputs.crops_and_masks(noise(1, 8, 8, 3), noise(1, 4, 4).round())
    weight = torch.ones(1, requires_grad=True)
    (crops * hidden * weight).sum().backward()
    assert not crops.is_inference()
    assert not hidden.is_inference()


def test_a_mask_of_another_size_is_resized(inputs: ModuleType) -> None:
    mask = torch.zeros(64, 64)
    mask[16:32, 32:] = 1
    found = inputs.mask_to_core(mask * 255, torch.zeros(2, 3, 256, 256))
    expected = torch.zeros(256, 256)
    expected[64:128, 128:] = 1
    assert found.shape == (2, 1, 256, 256)
    assert torch.equal(found[0], found[1])
    assert float((found[0, 0] - expected).abs().mean()) < 0.01
    assert bool((inputs.mask_to_core(torch.ones(7, 7), torch.zeros(1, 3, 20, 20)) == 1).all())


def test_a_pixel_of_rounding_is_no_other_proportion(inputs: ModuleType) -> None:
    photo = [(667, 1000)]
    for shape in ((42, 64), (43, 64), (334, 500), (1334, 2000)):
        assert inputs.masks_of(torch.ones(shape), photo)[0] is not None
    for shape in ((40, 64), (64, 64), (1000, 667)):
        with pytest.raises(ValueError, match=r"mask of \d+x\d+ pixels for a picture of 1000x667"):
            inputs.masks_of(torch.ones(shape), photo)


def test_a_mask_of_the_photo_is_sent_through_align_faces(inputs: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"masks of Align Faces.*photo_masks"):
        inputs.mask_to_core(torch.ones(1, 568, 455), torch.zeros(1, 3, 512, 512))


def test_load_images_empty_mask_is_none_and_a_black_one_is_not(inputs: ModuleType) -> None:
    crops = torch.zeros(2, 3, 32, 32)
    assert inputs.mask_to_core(torch.zeros(1, 64, 64), crops) is None
    drawn = torch.zeros(1, 32, 32)
    drawn[0, 3, 4] = 1
    found = inputs.mask_to_core([torch.zeros(1, 64, 64), drawn], crops)
    assert found.nonzero().tolist() == [[1, 0, 3, 4]]
    assert torch.equal(inputs.mask_to_core(torch.zeros(1, 32, 32), crops), torch.zeros(2, 1, 32, 32))


def test_a_mask_that_hides_everything_is_named(inputs: ModuleType) -> None:
    masks = torch.zeros(2, 8, 8)
    masks[1] = 1
    with pytest.raises(ValueError, match="'masks' hides the whole of picture 2"):
        inputs.crops_and_masks(noise(2, 8, 8, 3), masks)


def test_a_photos_mask_is_cut_like_its_crop() -> None:
    angle, photo_size = 0.3, (300, 200)
    cos, sin = 2 * np.cos(angle), 2 * np.sin(angle)
    transform = CropTransform(np.array([[cos, -sin, 150.0], [sin, cos, -140.0]]), photo_size)
    mask = torch.zeros(photo_size)
    mask[120:180, 60:130] = 1
    as_photo = (warp_crop(mask[..., None].expand(-1, -1, 3).numpy(), transform)[0][:1] + 1) / 2
    cut = warp_mask(mask, transform)
    assert 0.05 < float(cut.mean()) < 0.9
    assert torch.allclose(cut, as_photo, atol=1e-6)
    half = torch.nn.functional.avg_pool2d(mask[None, None], 2)[0, 0]
    assert float((warp_mask(half, transform) - cut).abs().mean()) < 0.02


def test_a_message_names_the_node_before(inputs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = {
        "5:12": {"class_type": "VAEDecode", "inputs": {}, "_meta": {"title": "My decoder"}},
        "7": {"class_type": "ImageScale", "inputs": {}},
        "9": {"class_type": "My3DGenInvert", "inputs": {"images": ["5:12", 0], "masks": ["7", 1]}},
    }
    queue = SimpleNamespace(currently_running={0: (1, "id", prompt, {}, [])})
    server = SimpleNamespace(last_node_id="9", prompt_queue=queue)
    monkeypatch.setattr(inputs.host.comfyui, "server", lambda: server)
    spoiled = torch.full((1, 4, 4, 3), torch.nan)
    with pytest.raises(ValueError, match=r"\(from 'My decoder', node 5:12\): picture 1 contains a NaN"):
        inputs.checked_pictures(spoiled, "images")
    with pytest.raises(ValueError, match=r"'masks' \(from 'ImageScale', node 7\) contains a NaN"):
        inputs.masks_of(spoiled[..., 0], [(4, 4)])
    assert inputs.host.source_of("cameras") == ""
    server.last_node_id = "a node that is not in the prompt"
    assert inputs.host.source_of("images") == ""
