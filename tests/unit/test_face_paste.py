"""An edited crop is pasted back into its photo, and the rest of the photo stays unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from my3dgen_core.face import CropTransform, paste_back
from my3dgen_core.face.crop import warp_crop


def _photo(height: int = 400, width: int = 300, seed: int = 0) -> np.ndarray:
    """Smooth colors, which a crop smaller than the photo can hold."""
    small = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=True)
    return (large[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()


def _turned_crop(photo: np.ndarray, zoom: float = 2.0, degrees: float = 20.0) -> CropTransform:
    """A crop around the middle of the photo."""
    angle = np.radians(degrees)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([photo.shape[1], photo.shape[0]]) / 2
    return CropTransform(
        np.concatenate([turn, (256 - turn @ middle)[:, None]], 1), (photo.shape[0], photo.shape[1])
    )


@pytest.mark.parametrize(("zoom", "allowed"), [(2.0, 2), (0.9, 3)])
def test_an_unchanged_crop_gives_the_photo_back(zoom: float, allowed: int) -> None:
    photo = _photo(900, 800)
    transform = _turned_crop(photo, zoom)
    pasted = paste_back(photo, transform, warp_crop(photo, transform)[0])
    assert pasted.dtype == np.uint8
    assert pasted is not photo
    assert np.abs(pasted.astype(int) - photo).max() <= allowed


def test_outside_the_crop_no_bit_changes_and_inside_the_feather_all_is_new() -> None:
    photo = _photo().astype(np.float32) / 255
    transform = _turned_crop(photo)
    before = photo.copy()
    pasted = paste_back(photo, transform, torch.ones(3, 128, 128), feather=24)
    ys, xs = np.mgrid[: photo.shape[0], : photo.shape[1]] + 0.5
    in_crop = transform.to_crop(np.stack([xs, ys], -1))
    border = np.minimum(in_crop, 512 - in_crop).min(-1)
    assert np.array_equal(pasted[border <= 0], photo[border <= 0])
    assert np.allclose(pasted[border >= 25], 1)
    between = pasted[(border > 4) & (border < 20)]
    assert ((between < 1).any(-1)).all()
    assert np.array_equal(photo, before)


def test_only_the_masked_part_changes() -> None:
    photo = _photo()
    transform = _turned_crop(photo)
    mask = torch.zeros(1, 256, 256)
    mask[:, 100:156, 100:156] = 1
    pasted = paste_back(photo, transform, torch.ones(3, 512, 512), mask, feather=20)
    ys, xs = np.mgrid[: photo.shape[0], : photo.shape[1]] + 0.5
    in_crop = transform.to_crop(np.stack([xs, ys], -1))
    beyond = np.abs(in_crop - 256).max(-1) - 56  # pixels of 512 outside the square
    assert np.array_equal(pasted[beyond > 13], photo[beyond > 13])
    assert (pasted[beyond < -13] == 255).all()
    edge = np.abs(beyond) < 2
    assert 0.3 < np.mean((pasted[edge].astype(float) - photo[edge]) / (255.5 - photo[edge])) < 0.7


def test_a_hard_edge_is_possible_and_an_empty_mask_is_the_photo() -> None:
    photo = _photo()
    transform = _turned_crop(photo)
    assert np.array_equal(paste_back(photo, transform, torch.ones(3, 64, 64), torch.zeros(1, 64, 64)), photo)
    mask = torch.zeros(1, 512, 512)
    mask[:, :256] = 1
    pasted = paste_back(photo, transform, torch.ones(3, 64, 64), mask, feather=0)
    new = (pasted == 255).all(-1)
    assert 0.45 < new.sum() * transform.scale**2 / 512**2 < 0.55


def test_a_larger_copy_of_the_photo_takes_the_crop_at_the_same_place() -> None:
    photo = _photo()
    transform = _turned_crop(photo)
    large = np.kron(photo, np.ones((3, 3, 1), np.uint8))
    pasted = paste_back(large, transform, -torch.ones(3, 64, 64), feather=0)
    small = paste_back(photo, transform, -torch.ones(3, 64, 64), feather=0)
    differs = (pasted[1::3, 1::3] != small).any(-1)
    assert differs.mean() < 0.002
    assert (pasted == 0).all(-1).sum() > 9 * 60000 * 0.9


def test_a_crop_that_lies_outside_its_photo_changes_nothing() -> None:
    photo = _photo()
    transform = CropTransform(np.array([[2.0, 0, 5000.0], [0, 2.0, 0]]), photo.shape[:2])
    assert np.array_equal(paste_back(photo, transform, torch.ones(3, 64, 64)), photo)


def test_nothing_stays_of_the_old_head_and_the_background_goes_on_where_it_was() -> None:
    photo = np.full((400, 400, 3), 200, np.uint8)
    photo[:, :, 0] = np.arange(400)[:, None] // 2  # a background with a gradient
    plate = photo.copy()
    photo[130:270, 130:270] = (90, 40, 10)
    transform = _turned_crop(photo, 1.6, 0)
    old, new = torch.zeros(1, 128, 128), torch.zeros(1, 128, 128)
    ys, xs = np.mgrid[:128, :128] * 4 + 2
    there = transform.to_photo(np.stack([xs, ys], -1))
    old[0][torch.from_numpy((np.abs(there - 200) < 70).all(-1))] = 1
    new[0][torch.from_numpy((np.abs(there - [230, 200]) < 70).all(-1))] = 1
    pasted = paste_back(photo, transform, torch.ones(3, 128, 128), new, feather=8, old=old)
    assert (pasted[140:260, 175:290] == 255).all()
    uncovered = np.s_[135:265, 132:150]
    assert np.abs(pasted[uncovered].astype(int) - plate[uncovered]).max() < 12
    assert np.array_equal(pasted[:100], photo[:100])
    assert np.array_equal(pasted[:, 320:], photo[:, 320:])


def test_a_wider_picture_lies_around_the_crop_it_widens() -> None:
    photo = _photo(900, 800)
    transform = _turned_crop(photo)
    wide = warp_crop(photo, transform.wider(1.5))[0]
    pasted = paste_back(photo, transform, wide, wider=1.5)
    assert np.abs(pasted.astype(int) - photo).max() <= 2
    pasted = paste_back(photo, transform, torch.ones(3, 64, 64), feather=0, wider=1.5)
    assert (pasted == 255).all(-1).sum() == pytest.approx((1.5 * 512 / transform.scale) ** 2, rel=0.01)


def test_what_does_not_fit_is_one_message() -> None:
    photo = _photo()
    transform = _turned_crop(photo)
    with pytest.raises(ValueError, match="other proportions"):
        paste_back(photo[:, :200], transform, torch.ones(3, 64, 64))
    with pytest.raises(ValueError, match="square crop"):
        paste_back(photo, transform, torch.ones(3, 64, 32))
    with pytest.raises(ValueError, match="The mask must be"):
        paste_back(photo, transform, torch.ones(3, 64, 64), torch.ones(64, 64))
    with pytest.raises(ValueError, match="nothing is left to fill it from"):
        paste_back(photo, transform, torch.ones(3, 64, 64), old=torch.ones(1, 8, 8), wider=4)
    with pytest.raises(ValueError, match="widened by a number above 0"):
        paste_back(photo, transform, torch.ones(3, 64, 64), wider=0)
    with pytest.raises(ValueError, match="NaN"):
        paste_back(photo, transform, torch.full((3, 64, 64), float("nan")))
