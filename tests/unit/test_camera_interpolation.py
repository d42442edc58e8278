"""Cameras from angles and back, and interpolation on the sphere."""

from __future__ import annotations

import math

import pytest
import torch

from my3dgen_core.camera import (
    FOCAL,
    angles,
    cam2world,
    focal_of_fov,
    from_angles,
    interpolate,
    interpolate_orbit,
    intrinsics,
    look_at,
    mirror,
)

T = torch.linspace(0, 1, 9)


def _distance(cameras: torch.Tensor, pivot: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    return (cam2world(cameras)[:, :3, 3] - torch.tensor(pivot)).norm(dim=1)


def _is_rotation(cameras: torch.Tensor) -> bool:
    r = cam2world(cameras)[:, :3, :3]
    return torch.allclose(r @ r.transpose(1, 2), torch.eye(3).expand_as(r), atol=1e-5) and bool(
        (torch.linalg.det(r) > 0.99).all()
    )


def test_three_numbers_make_a_camera_and_come_back() -> None:
    yaw, pitch, roll = (
        torch.tensor([0.0, 0.6, -1.0]),
        torch.tensor([0.2, -0.3, 0.1]),
        torch.tensor([0.5, -0.7, 0.0]),
    )
    cameras = from_angles(yaw, pitch, roll)
    assert _is_rotation(cameras)
    for found, given in zip(angles(cameras), (yaw, pitch, roll), strict=True):
        assert torch.allclose(found, given, atol=1e-5)
    assert torch.equal(from_angles(yaw, pitch)[:, :], look_at(yaw, pitch))
    many = from_angles(0.3, 0.1, torch.tensor([0.0, 0.2, 0.4]))
    assert many.shape == (3, 25)


def test_a_roll_leaves_the_place_and_the_direction() -> None:
    plain, rolled = look_at(0.5, 0.2, 3.0, (0, 0, 0.2)), from_angles(0.5, 0.2, 0.3, 3.0, (0, 0, 0.2))
    assert torch.allclose(cam2world(plain)[:, :3, 2:], cam2world(rolled)[:, :3, 2:], atol=1e-6)


def test_a_field_of_view_gives_its_focal_length() -> None:
    degrees = math.degrees(2 * math.atan(0.5 / FOCAL))
    assert degrees == pytest.approx(13.373, abs=0.01)
    assert float(focal_of_fov(degrees)) == pytest.approx(FOCAL, rel=1e-9)
    assert float(focal_of_fov(90.0)) == pytest.approx(0.5)


@pytest.mark.parametrize("pivot", [(0.0, 0.0, 0.0), (0.0, 0.006, 0.161)])
def test_on_the_orbit_the_distance_stays_and_every_camera_is_one(pivot: tuple[float, float, float]) -> None:
    def at(yaw: float, pitch: float) -> torch.Tensor:
        camera = look_at(yaw, pitch)
        camera[:, [3, 7, 11]] += torch.tensor(pivot)
        return camera

    path = interpolate_orbit(at(-0.8, -0.2), at(0.9, 0.3), T, pivot)
    assert torch.allclose(_distance(path, pivot), torch.full((9,), 2.7), atol=1e-5)
    assert _is_rotation(path)
    forward, to_pivot = cam2world(path)[:, :3, 2], torch.tensor(pivot) - cam2world(path)[:, :3, 3]
    assert torch.allclose(forward, torch.nn.functional.normalize(to_pivot, dim=1), atol=1e-5)
    linear = interpolate(at(-0.8, -0.2), at(0.9, 0.3), T)
    assert float(_distance(linear, pivot)[4]) < 1.9  # what the sphere is for


def test_the_orbit_begins_and_ends_at_its_cameras_and_moves_evenly() -> None:
    start, end = from_angles(-0.5, 0.1, 0.2), from_angles(0.7, -0.3, -0.1, radius=3.5, focal=3.0)
    path = interpolate_orbit(start, end, T)
    assert torch.allclose(path[0], start[0], atol=1e-6)
    assert torch.allclose(path[-1], end[0], atol=1e-6)
    radii = _distance(path)
    assert torch.allclose(radii.diff(), torch.full((8,), 0.1), atol=1e-2)
    assert torch.allclose(intrinsics(path)[:, 0, 0].diff(), torch.full((8,), (3.0 - FOCAL) / 8), atol=1e-5)
    r = cam2world(path)[:, :3, :3]
    turns = (((r[1:] @ r[:-1].transpose(1, 2)).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).acos()
    assert float(turns.std()) < 1e-3 * float(turns.mean()) + 1e-4


def test_between_mirrored_cameras_lies_the_frontal_one() -> None:
    side = look_at(0.6, 0.0)
    middle = interpolate_orbit(side, mirror(side), torch.tensor([0.5]))
    assert torch.allclose(middle, look_at(0.0, 0.0), atol=1e-5)


def test_a_camera_interpolated_with_itself_stays() -> None:
    camera = from_angles(0.4, 0.2, 0.1)
    assert torch.allclose(interpolate_orbit(camera, camera, T), camera.expand(9, 25), atol=1e-6)


def test_cameras_that_face_each_other_get_a_message() -> None:
    with pytest.raises(ValueError, match="opposite directions"):
        interpolate_orbit(look_at(0.0, 0.0), look_at(math.pi, 0.0), T)
