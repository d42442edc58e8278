"""The crop equals EG3D's, with a mask of the pixels that are not in the photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_fixtures import first_face, real_batch
from PIL import Image
from real_photos import photo

from my3dgen_core.face.crop import (
    STANDARD_POINTS,
    CropTransform,
    crop_transform,
    roll_of_points,
    warp_crop,
    warp_crops,
)

FRONTAL = np.array([[187.7, 192.3], [324.0, 192.4], [256.7, 266.1], [200.7, 339.7], [310.5, 339.7]])


def _integer_crop(pixels: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The original's steps, each rounded down to whole pixels: fit, resize, crop 1024, crop 700, 512.

    Returns the crop and where the points come to lie in it.
    """
    height, width = pixels.shape[:2]
    flipped = np.stack([points[:, 0], height - 1 - points[:, 1]], 1)
    design = np.zeros((10, 8))
    design[0::2, 0:3], design[0::2, 3] = STANDARD_POINTS, 1
    design[1::2, 4:7], design[1::2, 7] = STANDARD_POINTS, 1
    k = np.linalg.lstsq(design, flipped.reshape(-1), rcond=None)[0]
    scale = (np.linalg.norm(k[0:3]) + np.linalg.norm(k[4:7])) / 2
    tx, ty, factor = k[3], k[7], 300 / scale
    new_width, new_height = int(width * factor), int(height * factor)
    left = int(new_width / 2 - 512 + (tx - width / 2) * factor)
    top = int(new_height / 2 - 512 + (height / 2 - ty) * factor)
    picture = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
    picture = picture.crop((left, top, left + 1024, top + 1024)).crop((162, 162, 862, 862))
    where = (points * [new_width / width, new_height / height] - [left + 162, top + 162]) * 512 / 700
    return np.asarray(picture.resize((512, 512), Image.Resampling.LANCZOS)), where


def _shift_between(one: np.ndarray, other: np.ndarray) -> float:
    """Distance in pixels by which one gray picture is moved against the other (phase correlation)."""
    window = np.outer(np.hanning(512), np.hanning(512))
    spectrum = np.fft.fft2((one - one.mean()) * window) * np.conj(
        np.fft.fft2((other - other.mean()) * window)
    )
    peak = np.unravel_index(np.fft.ifft2(spectrum / (np.abs(spectrum) + 1e-9)).real.argmax(), (512, 512))
    return float(np.hypot(*(p - 512 if p > 256 else p for p in peak)))


@pytest.mark.parametrize("name", ["obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg"])
def test_the_crop_lies_within_two_pixels_of_the_original_formula(name: str) -> None:
    pixels = photo(name)
    points = first_face(pixels).points
    transform = crop_transform(points, pixels.shape[:2], upright=False, detector_offset=False)
    reference, where = _integer_crop(pixels, points)
    assert np.linalg.norm(transform.to_crop(points) - where, axis=1).max() < 2
    image, mask = warp_crop(pixels, transform)
    ours = ((image + 1) * 127.5).mean(0).numpy()
    assert _shift_between(ours, reference.astype(float).mean(2)) < 2
    inside = mask[0].numpy() == 0
    assert np.abs(ours - reference.astype(float).mean(2))[inside].mean() < 12


def test_a_frontal_face_comes_to_lie_at_the_frontal_positions() -> None:
    points = STANDARD_POINTS[:, :2] * [80, -80] + [700, 400]
    transform = crop_transform(points, (900, 1200), detector_offset=False)
    assert np.abs(transform.to_crop(points) - FRONTAL).max() < 0.15


def test_detector_points_zoom_out_and_up_a_little() -> None:
    points = STANDARD_POINTS[:, :2] * [80, -80] + [700, 400]
    expected = (FRONTAL - 256) * 0.977 + 256 + [0, 2.7]
    assert np.abs(crop_transform(points, (900, 1200)).to_crop(points) - expected).max() < 0.15


@pytest.mark.parametrize("degrees", [-170, -90, -20, 35, 120])
def test_upright_takes_the_lean_away_and_otherwise_it_stays(degrees: float) -> None:
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    points = STANDARD_POINTS[:, :2] * [80, -80] @ turn.T + [600, 500]
    assert np.degrees(roll_of_points(points)) == pytest.approx(degrees, abs=0.2)
    upright = crop_transform(points, (1000, 1200)).to_crop(points)
    assert roll_of_points(upright) == pytest.approx(0, abs=1e-6)
    leaning = crop_transform(points, (1000, 1200), upright=False).to_crop(points)
    assert np.degrees(roll_of_points(leaning)) == pytest.approx(degrees, abs=0.2)


def test_points_survive_the_way_there_and_back() -> None:
    row = real_batch().report[1]
    assert row.transform is not None
    there = row.transform.to_crop(np.array([[300.0, 500.0], [1.5, 2.5]]))
    assert np.allclose(row.transform.to_photo(there), [[300, 500], [1.5, 2.5]])


def test_a_pixel_of_the_photo_lands_where_the_transform_says() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[100, 150] = [255, 255, 255]  # its center is (150.5, 100.5)
    transform = CropTransform(np.array([[3.0, 0.0, -200.0], [0.0, 3.0, -50.0]]), (300, 400))
    image, _ = warp_crop(pixels, transform)
    weight = (image[0] + 1).clamp(min=0.05) - 0.05
    grid = torch.arange(512) + 0.5
    center = [(weight.sum(0) * grid).sum() / weight.sum(), (weight.sum(1) * grid).sum() / weight.sum()]
    assert np.allclose(center, [251.5, 251.5], atol=0.05)


def test_shrinking_does_not_alias() -> None:
    y, x = np.mgrid[:1600, :1600]
    checkers = np.repeat((((x // 2 + y // 2) % 2) * 255).astype(np.uint8)[..., None], 3, 2)
    transform = CropTransform(np.array([[0.3, 0.02, 5.0], [-0.02, 0.3, 20.0]]), (1600, 1600))
    image, mask = warp_crop(checkers, transform)
    assert float(image[:, mask[0] == 0].std()) < 0.06  # of a checkerboard whose deviation is 1


def test_invented_pixels_are_reflected_and_marked() -> None:
    pixels = photo("astronaut.png")
    transform = CropTransform(np.array([[2.0, 0, 200.0], [0, 2.0, 0.0]]), (512, 512))
    image, mask = warp_crop(pixels, transform)
    assert mask[0, :, :200].min() == 1
    assert mask[0, :, 200:].max() == 0
    assert torch.allclose(image[:, :, 100:200], image[:, :, 200:300].flip(2), atol=1e-4)


def test_float_and_byte_photos_give_the_same_crop() -> None:
    pixels = photo("astronaut.png")
    transform = crop_transform(first_face(pixels).points, (512, 512))
    bytes_crop, _ = warp_crop(pixels, transform)
    float_crop, _ = warp_crop((pixels / 255).astype(np.float32), transform)
    assert float((bytes_crop - float_crop).abs().max()) < 0.02


def _batch() -> tuple[torch.Tensor, list[CropTransform]]:
    """Two pictures, one crop that shrinks and leaves the picture, one that enlarges and turns."""
    images = (
        torch.rand(2, 3, 90, 120, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    )
    matrices = ([[0.4, 0.0, -6.0], [0.0, 0.4, 8.0]], [[1.3, -0.4, 3.0], [0.4, 1.3, -30.0]])
    return images, [CropTransform(np.array(matrix), (90, 120), 48) for matrix in matrices]


def test_a_batch_of_tensors_gives_the_crops_of_the_single_photos() -> None:
    images, transforms = _batch()
    crops, masks = warp_crops(images, transforms)
    assert crops.shape == (2, 3, 48, 48)
    assert masks.shape == (2, 1, 48, 48)
    for image, transform, crop, mask in zip(images, transforms, crops, masks, strict=True):
        pixels = ((image + 1) / 2).permute(1, 2, 0).numpy().astype(np.float32)
        alone, invented = warp_crop(pixels, transform)
        assert float((crop - alone).abs().max()) < 1e-4
        assert torch.equal(mask.float(), invented)


def test_the_batched_crop_has_the_gradient_of_what_it_does() -> None:
    images, transforms = _batch()
    images = (images * 0.5).requires_grad_()
    weights = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    (warp_crops(images, transforms)[0] * weights).sum().backward()
    assert images.grad is not None
    move = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.01
    with torch.no_grad():
        ahead, behind = ((warp_crops(images + s * move, transforms)[0] * weights).sum() for s in (1, -1))
    assert float((images.grad * move).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-3, abs=1e-3)
    assert float(images.grad[1, :, :, -1].abs().max()) == 0  # the second crop does not reach there


def test_crops_of_another_picture_are_refused() -> None:
    images, transforms = _batch()
    with pytest.raises(ValueError, match="do not go with 1 crops"):
        warp_crops(images, transforms[:1])
    with pytest.raises(ValueError, match=r"\[90, 120\]"):
        warp_crops(images[:, :, :80], transforms)
