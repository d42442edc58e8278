"""The 25-number camera: position, target, mirroring, paths."""

import math

import pytest
import torch

from my3dgen_core import GeneratorConfig, camera_path, interpolate, load_generator, look_at, mirror, orbit
from my3dgen_core.camera import ViewRange, angles, cam2world, check_cameras, intrinsics, widened
from my3dgen_core.camera.paths import PATHS, keyframe_path, keyframes
from my3dgen_core.checkpoint import starter_path
from my3dgen_core.fitting.identity_loss import project


def test_the_frontal_camera_stands_on_the_z_axis_with_opencv_axes():
    camera = look_at(0.0, 0.0)
    pose = cam2world(camera)[0]
    assert torch.allclose(pose[:3, :3], torch.diag(torch.tensor([1.0, -1.0, -1.0])), atol=1e-6)
    assert torch.allclose(pose[:3, 3], torch.tensor([0.0, 0.0, 2.7]))
    expected = torch.tensor([[4.2647, 0, 0.5], [0, 4.2647, 0.5], [0, 0, 1]])
    assert torch.allclose(intrinsics(camera)[0], expected)


def test_positive_yaw_is_at_positive_x_and_positive_pitch_above():
    assert cam2world(look_at(0.4, 0.0))[0, 0, 3] > 1
    assert cam2world(look_at(0.0, 0.4))[0, 1, 3] == pytest.approx(2.7 * math.sin(0.4), abs=1e-5)


@pytest.mark.parametrize("pivot", [None, (0.0, 0.0, 0.2), (0.1, -0.1, 0.0)])
def test_the_camera_stands_at_the_radius_and_looks_at_the_pivot(pivot):
    camera = look_at(torch.tensor([0.5, -1.0]), torch.tensor([0.2, -0.3]), 2.7, pivot)
    pose = cam2world(camera)
    position, forward = pose[:, :3, 3], pose[:, :3, 2]
    assert torch.allclose(position.norm(dim=1), torch.full((2,), 2.7), atol=1e-5)
    to_pivot = torch.tensor(pivot or (0.0, 0.0, 0.0)) - position
    assert torch.allclose(torch.nn.functional.normalize(to_pivot, dim=1), forward, atol=1e-6)
    assert torch.allclose(torch.linalg.det(pose[:, :3, :3]), torch.ones(2), atol=1e-5)


def test_angles_come_back():
    yaw, pitch = torch.tensor([0.0, 0.5, -1.0]), torch.tensor([0.3, -0.2, 0.1])
    back = angles(look_at(yaw, pitch))
    assert torch.allclose(back[0], yaw, atol=1e-5)
    assert torch.allclose(back[1], pitch, atol=1e-5)
    assert torch.allclose(back[2], torch.zeros(3), atol=1e-5)


def test_mirroring_negates_yaw_and_twice_is_nothing():
    camera = look_at(0.5, 0.2)
    assert torch.allclose(mirror(camera), look_at(-0.5, 0.2), atol=1e-6)
    assert torch.equal(mirror(mirror(camera)), camera)


def test_interpolation_ends_are_exact():
    a, b = look_at(-0.5, 0.0), look_at(0.5, 0.2)
    path = interpolate(a, b, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(path[0], a[0])
    assert torch.equal(path[2], b[0])


@pytest.mark.parametrize("kind", PATHS)
def test_paths_have_the_frames_asked_for_and_stay_within_their_amplitude(kind):
    path = camera_path(kind, 24, yaw=0.6, pitch=0.2)
    yaw, pitch, roll = angles(path)
    assert path.shape == (24, 25)
    assert float(yaw.abs().max()) <= 0.6 + 1e-5
    assert float(pitch.abs().max()) <= 0.2 + 1e-5
    assert float(roll.abs().max()) <= 1e-5


def test_an_orbit_closes_without_repeating_its_first_frame():
    path = orbit(36)
    steps = (path.roll(-1, 0) - path)[:, [3, 7, 11]].norm(dim=1)
    assert float(steps.max()) < 2.5 * float(steps.mean())
    assert float(steps.min()) > 0


@pytest.mark.parametrize("frames", [0, -3])
def test_a_path_without_frames_gets_a_message(frames):
    with pytest.raises(ValueError, match="at least one frame"):
        camera_path("ellipse", frames)


def test_an_unknown_path_names_the_known_ones():
    with pytest.raises(ValueError, match="ellipse"):
        camera_path("zigzag", 3)


@pytest.mark.parametrize("bad", [torch.zeros(25), torch.zeros(2, 16), torch.full((1, 25), float("nan"))])
def test_bad_cameras_get_a_message(bad):
    with pytest.raises(ValueError, match=r"(?i)camera"):
        check_cameras(bad)


def test_keyframes_are_reached_in_equal_time_and_a_loop_leads_back():
    keys = look_at(torch.tensor([-0.5, 0.1, 0.5]), torch.tensor([0.0, 0.2, 0.0]))
    path = keyframes(keys, 9)
    assert torch.allclose(path[[0, 4, 8]], keys, atol=1e-5)
    steps = path[:, [3, 7, 11]].diff(dim=0).norm(dim=1)
    assert float(steps[0]) < 0.7 * float(steps[1])  # smooth: it sets off slowly
    even = keyframes(keys, 9, "linear")[:, [3, 7, 11]].diff(dim=0).norm(dim=1)
    assert torch.allclose(even[:4], even[:1].expand(4), rtol=1e-3)
    loop = keyframes(keys, 12, loop=True)
    assert torch.allclose(loop[[0, 4, 8]], keys, atol=1e-5)
    assert float((loop[11] - keys[0]).norm()) > 1e-3  # the frame that would repeat the first is left out
    assert torch.allclose(path[:, [3, 7, 11]].norm(dim=1), torch.full((9,), 2.7), atol=1e-4)
    with pytest.raises(ValueError, match="two keyframes and one frame"):
        keyframes(keys[:1], 9)
    with pytest.raises(ValueError, match="easing must be one of"):
        keyframes(keys, 9, "bouncy")


def test_a_spiral_ends_at_the_front():
    path = camera_path("spiral", 48, yaw=0.6, pitch=0.2)
    yaw, pitch, _ = angles(path)
    assert float(yaw[0]) == pytest.approx(0.6, abs=1e-5)
    assert torch.allclose(path[-1], look_at(0.0, 0.0)[0], atol=1e-6)
    assert int((pitch[:-1].sign().diff() != 0).sum()) >= 3  # it goes round


def test_what_lies_beyond_the_trained_views_gets_a_message():
    seen = ViewRange(yaw=45, pitch=30)
    assert seen.out_of_range_warning(look_at(0.7, 0.3)) == ""
    said = seen.out_of_range_warning(look_at(torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.0, 0.0, 0.6])))
    assert "2 of 3 cameras" in said
    assert "yaw to 57, pitch to 34 degrees; trained to 45 and 30" in said
    assert ViewRange().out_of_range_warning(look_at(3.1, 1.5)) == ""


def test_every_generator_knows_its_views():
    assert GeneratorConfig().trained_views.yaw == 45
    assert GeneratorConfig(avg_camera_radius=1.7).trained_views == ViewRange()  # NVIDIA's cars
    assert load_generator("starter").trained_views.yaw > 60
    assert load_generator(starter_path()).trained_views.yaw > 60


def test_a_path_passes_its_keyframes_and_a_closed_one_comes_back():
    keys = torch.deg2rad(torch.tensor([[-30.0, 0.0], [0.0, 15.0], [40.0, -5.0]]))
    once, loop = keyframe_path(keys, 9), keyframe_path(keys, 12, closed=True)
    for frame, key in ((0, 0), (4, 1), (8, 2)):
        assert torch.allclose(once[frame], look_at(*keys[key])[0], atol=1e-6)
    for frame, key in ((0, 0), (4, 1), (8, 2)):
        assert torch.allclose(loop[frame], look_at(*keys[key])[0], atol=1e-6)
    stands = cam2world(keyframe_path(keys, 240, closed=True))[:, :3, 3]
    steps = (stands - stands.roll(1, 0)).norm(dim=1)
    assert steps.min() > 0
    assert (steps - steps.roll(1, 0)).abs().max() < 0.1 * steps.max()  # no jump, no corner where it closes


def test_keyframes_go_the_shorter_way_round_and_all_the_way_round():
    keys = torch.deg2rad(torch.tensor([[170.0, 0.0], [-170.0, 0.0]]))
    back = cam2world(keyframe_path(keys, 5))[:, 2, 3]
    assert (back < -2.6).all()
    thirds = torch.deg2rad(torch.tensor([[0.0, 0.0], [120.0, 0.0], [-120.0, 0.0]]))
    around = torch.rad2deg(angles(keyframe_path(thirds, 6, closed=True))[0]) % 360
    assert around.tolist() == pytest.approx([0, 60, 120, 180, 240, 300], abs=0.1)


@pytest.mark.parametrize("count", [1, 2])
def test_few_keyframes_are_a_path_too(count):
    keys = torch.tensor([[0.3, 0.1], [-0.3, 1.6]])[:count]
    for closed in (False, True):
        path = keyframe_path(keys, 7, closed)
        assert check_cameras(path).shape == (7, 25)
        assert torch.allclose(path[0], look_at(0.3, 0.1)[0], atol=1e-6)


def test_a_path_without_keyframes_or_frames_is_refused():
    with pytest.raises(ValueError, match="at least one keyframe"):
        keyframe_path(torch.zeros(0, 2), 5)
    with pytest.raises(ValueError, match="at least one keyframe"):
        keyframe_path(torch.zeros(2, 2), 0)


def test_a_widened_view_shows_the_same_middle_smaller():
    camera, points = look_at(0.4, -0.2), torch.rand(5, 3) - 0.5
    plain, wide = project(points, camera), project(points, widened(camera, 1.5))
    assert torch.allclose(wide - 0.5, (plain - 0.5) / 1.5, atol=1e-5)
    with pytest.raises(ValueError, match="a number above 0"):
        widened(camera, 0.0)
