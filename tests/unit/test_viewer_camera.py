"""Cameras of ComfyUI's 3D nodes: what three.js shows from them is what the generator renders."""

from __future__ import annotations

import json
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from my3dgen_core import from_angles, load_generator, look_at, mean_latent
from my3dgen_core.camera import angles, cam2world, intrinsics, pack, to_viewer
from my3dgen_core.mesh import extract_mesh

Info = dict[str, Any]


def _random_cameras(count: int) -> torch.Tensor:
    """Cameras with any yaw, pitch, roll, distance, focal length and look-at point."""
    draw = torch.Generator().manual_seed(0)

    def between(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=draw) * (high - low) + low

    return torch.cat(
        [
            from_angles(*numbers[:4].tolist(), numbers[4:7], float(numbers[7]))
            for numbers in torch.stack(
                [between(-3, 3), between(-1.5, 1.5), between(-3, 3), between(0.8, 12)]
                + [between(-0.3, 0.3) for _ in range(3)]
                + [between(0.4, 12)],
                dim=1,
            )
        ]
    )


def _xyz(values: Any) -> dict[str, float]:
    return dict(zip("xyz", map(float, values), strict=True))


def _matrix(q: dict[str, float]) -> np.ndarray:
    """The rotation of a unit quaternion, by its definition: v -> q v q*."""
    w, v = q["w"], np.array([q["x"], q["y"], q["z"]])
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _seen_by_three_js(info: Info, points: np.ndarray) -> np.ndarray:
    """Places [P,2] in a square picture, 0..1, right and down: three.js' PerspectiveCamera."""
    position = np.array([info["position"][axis] for axis in "xyz"])
    local = (points - position) @ _matrix(info["quaternion"])  # right, up, backward
    half = math.tan(math.radians(info["fov"]) / 2) / info["zoom"]
    ndc = local[:, :2] / -local[:, 2:] / [half * info["aspect"], half]
    return np.stack([(1 + ndc[:, 0]) / 2, (1 - ndc[:, 1]) / 2], 1)


def _seen_by_eg3d(camera: torch.Tensor, points: np.ndarray) -> np.ndarray:
    pose, k = cam2world(camera.double())[0].numpy(), intrinsics(camera.double())[0].numpy()
    places = (points - pose[:3, 3]) @ pose[:3, :3] @ k.T
    return places[:, :2] / places[:, 2:]


def _look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The axes of three.js' lookAt with y up, as columns right, up, backward."""
    z = (position - target) / np.linalg.norm(position - target)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], 1)


def _created(yaw: float, pitch: float, distance: float, roll: float, fov: float) -> Info:
    """Return what core's Create Camera Info gives for an orbit about the origin, in degrees."""
    a, b = math.radians(yaw), math.radians(pitch)
    position = distance * np.array([math.sin(a) * math.cos(b), math.sin(b), math.cos(a) * math.cos(b)])
    c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    axes = _look_at(position, np.zeros(3)) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    w = math.sqrt(max(0.0, 1 + np.trace(axes))) / 2
    x, y, z = (axes[i, j] - axes[j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    quaternion = {"w": w, "x": x / 4 / w, "y": y / 4 / w, "z": z / 4 / w}
    return {
        "position": _xyz(position),
        "target": _xyz(np.zeros(3)),
        "quaternion": quaternion,
        "fov": fov,
        "cameraType": "perspective",
        "zoom": 1.0,
    }


@pytest.fixture
def nodes(pack: ModuleType) -> dict[str, Any]:
    return {name.removeprefix("My3DGen"): kind() for name, kind in pack.NODE_CLASS_MAPPINGS.items()}


def _read(nodes: dict[str, Any], info: Any, distance: float = 2.7, **more: Any) -> torch.Tensor:
    with torch.inference_mode():
        return nodes["CameraFromLoad3D"].make(info, distance, 13.3738, **more)[0].values


def test_three_js_shows_every_point_where_the_generator_renders_it() -> None:
    points = np.random.default_rng(0).uniform(-0.25, 0.25, (50, 3))
    for camera in _random_cameras(100).split(1):
        info = to_viewer(camera)
        assert np.abs(_seen_by_three_js(info, points) - _seen_by_eg3d(camera, points)).max() < 1e-5


def test_a_level_camera_has_the_rotation_of_three_js_look_at_and_its_target_before_it() -> None:
    for yaw, pitch in ((0.0, 0.0), (0.7, 0.3), (-2.5, -1.2)):
        info = to_viewer(look_at(yaw, pitch, 2.7, (0.0, 0.0, 0.2)))
        position, target = (np.array([info[key][axis] for axis in "xyz"]) for key in ("position", "target"))
        assert np.abs(_matrix(info["quaternion"]) - _look_at(position, target)).max() < 1e-6
        assert np.linalg.norm(target) < 0.2
    assert info["near"] < 2.2 < 3.3 < info["far"]


def test_cameras_come_back_to_five_digits_through_json(nodes: dict[str, Any], pack: ModuleType) -> None:
    cameras = _random_cameras(200)
    sockets = pack.nodes.socket_types
    (infos,) = nodes["CameraToLoad3D"].make(sockets.Cameras(cameras), -1)
    assert len(infos) == 200
    back = torch.cat([_read(nodes, json.loads(json.dumps(info))) for info in infos])
    assert float((back - cameras).abs().max()) < 1e-5
    assert float((torch.stack(angles(back)) - torch.stack(angles(cameras))).abs().max()) < 1e-4


def test_one_camera_of_several_is_chosen_by_its_index(nodes: dict[str, Any], pack: ModuleType) -> None:
    cameras = pack.nodes.socket_types.Cameras(_random_cameras(3))
    make = nodes["CameraToLoad3D"].make
    (every,) = make(cameras, -1)
    assert make(cameras, 1) == ([every[1]],)
    with pytest.raises(ValueError, match="no camera number 3: these are 0 to 2"):
        make(cameras, 3)
    with pytest.raises(ValueError, match=r"-2"):
        make(cameras, -2)


def test_a_camera_without_one_focal_length_is_refused() -> None:
    wide = look_at(0.0, 0.0)
    wide[0, 16] *= 1.5
    shifted = look_at(0.0, 0.0)
    shifted[0, 18] = 0.6
    for camera in (wide, shifted):
        with pytest.raises(ValueError, match="one focal length"):
            to_viewer(camera)
    with pytest.raises(ValueError, match="One camera is needed, not 2"):
        to_viewer(_random_cameras(2))


@pytest.mark.parametrize("roll", [0.0, 20.0, -75.0])
def test_a_camera_of_create_camera_info_is_taken_as_it_is(nodes: dict[str, Any], roll: float) -> None:
    found = _read(nodes, _created(35.0, 30.0, 4.0, roll, 35.0))
    # core turns counterclockwise, `from_angles` clockwise
    expected = from_angles(*map(math.radians, (35, 30, -roll)), 4.0, focal=0.5 / math.tan(math.radians(17.5)))
    assert torch.allclose(found, expected, atol=1e-5)


def test_zoom_and_field_of_view_multiply_and_a_missing_quaternion_is_level(nodes: dict[str, Any]) -> None:
    info = _created(20.0, 10.0, 3.0, 0.0, 90.0) | {"zoom": 2.0}
    found = _read(nodes, info)
    assert float(intrinsics(found)[0, 0, 0]) == pytest.approx(1.0, abs=1e-6)
    del info["quaternion"]
    assert torch.allclose(_read(nodes, info), found, atol=1e-6)


FRUSTUM = {"left": -5.0, "right": 5.0, "top": 5.0, "bottom": -5.0}


def test_a_viewport_s_camera_moves_to_the_distance_and_the_head_keeps_its_size(nodes: dict[str, Any]) -> None:
    info = _created(30.0, 10.0, 1.6, 12.0, 35.0) | {"aspect": 1.0}
    found = _read(nodes, info | {"frustum": FRUSTUM})
    assert float(cam2world(found)[0, :3, 3].norm()) == pytest.approx(2.7, abs=1e-5)
    across = _matrix(info["quaternion"])[:, :2].T * 0.2  # points of the plane through the middle of the head
    assert np.abs(_seen_by_eg3d(found, across) - _seen_by_three_js(info, across)).max() < 1e-6
    near = _read(nodes, info | {"frustum": FRUSTUM}, 2.0)
    assert float(cam2world(near)[0, :3, 3].norm()) == pytest.approx(2.0, abs=1e-5)
    own = _read(nodes, info | {"frustum": FRUSTUM}, 1.6)
    assert torch.allclose(own, _read(nodes, info), atol=1e-5)


def test_an_orthographic_viewport_shows_the_head_as_large(nodes: dict[str, Any]) -> None:
    info = _created(0.0, 0.0, 8.0, 0.0, 35.0) | {"cameraType": "orthographic", "zoom": 10.0}
    found = _read(nodes, info | {"frustum": FRUSTUM})
    side = float(2.7 / intrinsics(found)[0, 0, 0])  # of what is seen at the middle of the head
    assert side == pytest.approx(1.0, abs=1e-5)


def test_a_model_that_the_viewer_has_moved_turned_and_scaled_is_seen_the_same(nodes: dict[str, Any]) -> None:
    info = _created(30.0, 10.0, 3.0, 12.0, 20.0) | {"aspect": 1.0, "target": _xyz([0.1, 0.2, 0.0])}
    points = np.random.default_rng(0).uniform(-0.25, 0.25, (20, 3))
    half = math.sqrt(0.5)
    moved = {
        "position": _xyz([0.3, -0.2, 0.1]),
        "quaternion": {"x": 0.0, "y": half, "z": 0.0, "w": half},
        "scale": _xyz([1.5] * 3),
    }
    turned = 1.5 * points @ _matrix(moved["quaternion"]).T + [0.3, -0.2, 0.1]
    found = _read(nodes, info, model_3d_info=[moved])
    assert np.abs(_seen_by_eg3d(found, points) - _seen_by_three_js(info, turned)).max() < 1e-5
    assert torch.equal(_read(nodes, info, model_3d_info=[]), _read(nodes, info))
    with pytest.raises(ValueError, match="stretched the model"):
        _read(nodes, info, model_3d_info=[moved | {"scale": _xyz([1, 2, 1])}])
    with pytest.raises(ValueError, match="not model_3d_info"):
        _read(nodes, info, model_3d_info=[{"position": 3}])


@pytest.mark.parametrize(
    "wrong",
    [
        {"fov": 180.0},
        {"fov": "wide"},
        {"quaternion": dict.fromkeys("xyzw", 0.0)},
        {"quaternion": {"x": 1.0}},
        {"zoom": -1.0},
        {"position": {"x": math.nan, "y": 0.0, "z": 1.0}},
        {"cameraType": "orthographic", "frustum": {"top": 0.0, "bottom": 0.0}},
        {"cameraType": "orthographic", "frustum": FRUSTUM, "position": _xyz([0, 0, 0])},
    ],
)
def test_a_camera_with_impossible_numbers_is_one_message(nodes: dict[str, Any], wrong: Info) -> None:
    with pytest.raises(ValueError, match="3D viewer"):
        _read(nodes, _created(0.0, 0.0, 2.7, 0.0, 35.0) | wrong)


@pytest.mark.slow
def test_the_extracted_mesh_covers_the_same_pixels_as_the_rendered_head() -> None:
    """The mesh's frame is the world of the cameras: three.js' picture of it is the generator's mask."""
    generator = load_generator("starter")
    with torch.no_grad():
        ws = mean_latent(generator).ws
        mesh = extract_mesh(generator, ws, 96)
        for camera in (from_angles(0.4, 0.15, 0.3), from_angles(-0.5, -0.2, 0.0, 2.9, (0.0, 0.0, 0.2), 5.0)):
            mask = generator.render(ws, camera, neural_resolution=64).mask[0, 0] > 0.5
            corners = _seen_by_three_js(to_viewer(camera), np.asarray(mesh.vertices))[mesh.faces]
            drawn = _rasterized(corners * 64, 64)
            both, either = (drawn & mask.numpy()).sum(), (drawn | mask.numpy()).sum()
            assert 0.1 < drawn.mean() < 0.9
            assert both / either > 0.97
            assert (drawn[::-1] & mask.numpy()).sum() / (drawn[::-1] | mask.numpy()).sum() < 0.95


def _rasterized(triangles: np.ndarray, side: int) -> np.ndarray:
    """Pixels whose center lies in one of the triangles [T,3,2], in pixels; bool [side,side]."""
    covered = np.zeros((side, side), bool)
    for a, b, c in triangles:
        low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
        left, top = np.floor(low).astype(int).clip(0, side)
        right, bottom = np.ceil(high).astype(int).clip(0, side)
        x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        inside = np.all([s >= 0 for s in sides], 0) | np.all([s <= 0 for s in sides], 0)
        covered[top:bottom, left:right] |= inside
    return covered


def test_the_parts_of_the_test_agree_with_core_s_definition() -> None:
    """A camera on the z axis turned by 90 degrees: three.js sees +x down, as core's roll does."""
    info = _created(0.0, 0.0, 2.0, 90.0, 90.0) | {"aspect": 1.0}
    assert np.allclose(_seen_by_three_js(info, np.array([[1.0, 0, 0]])), [[0.5, 0.75]])
    plain = pack(torch.diag(torch.tensor([1.0, -1, -1]))[None], torch.tensor([[0.0, 0, 2]]), torch.ones(1))
    assert np.allclose(_seen_by_eg3d(plain, np.array([[1.0, 0, 0]])), [[1.0, 0.5]])
