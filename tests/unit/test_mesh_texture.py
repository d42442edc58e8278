"""Rasterization and textures: on balls of known color, and on the bundled persons."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from my3dgen_core import Identity, extract_mesh, load_generator, look_at, personalized, texture_mesh
from my3dgen_core.camera import ViewRange, cam2world, intrinsics
from my3dgen_core.checkpoint import starter_path
from my3dgen_core.mesh import MeshError, project, rasterize, render_mesh
from my3dgen_core.mesh.texture import baking_cameras

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("xatlas")

FRONT = look_at(0.0, 0.0)


def stripes(points):
    """Colors in [-1, 1] of places on a surface [..., 3]."""
    return 0.3 + 0.5 * torch.sin(points * torch.tensor([25.0, 18.0, 30.0]))


class Balls:
    """A stand-in for a generator whose pictures are of balls: each with a center, a radius and its colors."""

    config = SimpleNamespace(avg_camera_radius=2.7, avg_camera_pivot=(0.0, 0.0, 0.0), focal=4.2647)
    trained_views = ViewRange(64.0, 28.0)
    size = 256

    def __init__(self, *balls):
        self.balls = [(torch.tensor(center), radius, color) for center, radius, color in balls]

    def planes(self, ws):
        return ws

    def sample(self, ws, points, planes=None):
        inside = torch.stack([(points - c).norm(dim=-1, keepdim=True) < r for c, r, _ in self.balls]).any(0)
        return torch.where(inside, 500.0, -50.0), None

    def render(self, ws, cameras, planes=None, quality="exact"):
        pose, k = cam2world(cameras)[0], intrinsics(cameras)[0]
        line = (torch.arange(self.size) + 0.5) / self.size
        y, x = torch.meshgrid(line, line, indexing="ij")
        rays = torch.stack(((x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], torch.ones_like(x)), dim=-1)
        rays = F.normalize(rays @ pose[:3, :3].T, dim=-1)
        nearest, picture = torch.full((self.size, self.size), torch.inf), torch.ones(self.size, self.size, 3)
        for center, radius, color in self.balls:
            to = pose[:3, 3] - center
            half = (rays * to).sum(-1)
            under = half**2 - (to @ to - radius**2)
            distance = -half - under.clamp(min=0).sqrt()
            hit = (under > 0) & (distance < nearest)
            nearest[hit] = distance[hit]
            picture[hit] = color(pose[:3, 3] + rays * distance[..., None])[hit]
        return SimpleNamespace(image=picture.permute(2, 0, 1)[None])

    def mesh(self):
        """The balls as one mesh, gray."""
        parts = [trimesh.creation.icosphere(subdivisions=4, radius=r) for _, r, _ in self.balls]
        for part, (center, _, _) in zip(parts, self.balls, strict=True):
            part.apply_translation(center.numpy())
        made = trimesh.util.concatenate(parts)
        made.visual = trimesh.visual.ColorVisuals(
            made, vertex_colors=np.tile(np.uint8((128, 128, 128, 255)), (len(made.vertices), 1))
        )
        return made


def texels(mesh, size):
    """Places in space and colors of the texels that a textured mesh shows: [P, 3] each."""
    uv = torch.tensor(np.asarray(mesh.visual.uv), dtype=torch.float32)
    flat = torch.stack((uv[:, 0] * size, (1 - uv[:, 1]) * size, torch.ones(len(uv))), dim=1)
    faces = torch.tensor(np.asarray(mesh.faces))
    drawn = rasterize(flat, faces, size, size)
    places = drawn.interpolate(torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32), faces)
    picture = torch.tensor(np.array(mesh.visual.material.baseColorTexture)).float() / 127.5 - 1
    return places, picture[drawn.covered], drawn.covered, picture


@pytest.fixture(scope="module")
def striped():
    ball = Balls(((0.0, 0.0, 0.0), 0.25, stripes))
    steps = []
    made = texture_mesh(ball, torch.zeros(1, 1, 1), ball.mesh(), 512, lambda *step: steps.append(step))
    return made, steps, ball


def test_the_nearest_face_of_each_pixel_is_found_with_its_place_on_it():
    points = torch.tensor([[0.0, 0, 2], [8, 0, 2], [0, 8, 2], [0, 0, 1], [4, 0, 1], [0, 4, 1], [2, 2, -1]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [3, 4, 6]])
    found = rasterize(points, faces, 8, 8)
    row, column = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    expected = torch.where(row + column <= 4, 1, torch.where(row + column <= 8, 0, -1))
    assert torch.equal(found.faces, expected)  # what lies behind the camera is left out
    assert torch.equal(found.covered, expected >= 0)
    assert torch.isinf(found.depth[~found.covered]).all()
    assert found.depth[0, 0] == 1
    assert found.depth[3, 3] == 2
    places = found.interpolate(points[:, :2], faces)
    assert torch.allclose(places, torch.stack((column, row), dim=2)[found.covered], atol=1e-5)


def test_values_between_corners_are_right_in_perspective():
    points = torch.tensor([[-0.3, -0.3, 0.4], [0.3, -0.3, -0.9], [0.0, 0.4, 0.1]])
    found = rasterize(project(FRONT[0], points, 64), torch.tensor([[0, 1, 2]]), 64, 64)
    places = found.interpolate(points, torch.tensor([[0, 1, 2]]))
    back = project(FRONT[0], places, 64)
    row, column = found.covered.nonzero().T
    assert len(row) > 500
    assert torch.allclose(back[:, 0], column + 0.5, atol=1e-3)
    assert torch.allclose(back[:, 1], row + 0.5, atol=1e-3)
    assert torch.allclose(back[:, 2], found.depth[found.covered], atol=1e-4)


def test_vertex_colors_are_interpolated_in_linear_light_as_viewers_do():
    mesh = trimesh.Trimesh([[-9, -9, 0], [9, -9, 0], [0, 27, 0]], [[0, 1, 2]], process=False)
    black, white = (0, 0, 0, 255), (255, 255, 255, 255)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.uint8((black, white, black)))
    picture, covered = render_mesh(mesh, FRONT, 8)
    assert covered.all()
    middle = float((picture[0, 3:5, 3:5].mean() + 1) / 2)
    weight = 0.375  # of the white corner at the origin
    assert middle == pytest.approx(1.055 * weight ** (1 / 2.4) - 0.055, abs=0.01)


def test_a_texture_has_the_colors_of_the_surface_where_views_look(striped):
    made, steps, ball = striped
    places, colors, _, _ = texels(made, 512)
    front = places[:, 2] > 0.05
    assert front.sum() > 40_000
    error = (colors[front] - stripes(places[front])).abs()
    assert float(error.mean()) < 2 / 127.5
    assert float(error.max()) < 24 / 127.5
    cameras = baking_cameras(ball)
    assert [step[:2] for step in steps] == [(n, len(cameras) + 2) for n in range(1, len(cameras) + 3)]
    assert steps[1][3].shape == (1, 3, 256, 256)


def test_a_texture_has_no_seam_and_its_gutter_is_no_gap(striped):
    made, _, _ = striped
    uv, points = np.asarray(made.visual.uv), np.asarray(made.vertices)
    _, group = np.unique(points.round(6), axis=0, return_inverse=True)
    picture = texels(made, 512)[3].permute(2, 0, 1)[None]
    at = torch.tensor(uv * (2, -2) + (-1, 1), dtype=torch.float32).view(1, -1, 1, 2)
    shown = F.grid_sample(picture, at, align_corners=False)[0, :, :, 0].T.numpy()
    doubled = np.bincount(group.ravel())[group.ravel()] > 1
    assert doubled.sum() > 200
    order = np.argsort(group.ravel(), kind="stable")
    pairs = order[:-1][np.diff(group.ravel()[order]) == 0], order[1:][np.diff(group.ravel()[order]) == 0]
    steps = np.abs(shown[pairs[0]] - shown[pairs[1]])
    assert steps.mean() < 2 / 127.5
    for yaw in (0.0, 1.2, np.pi):
        seen, covered = render_mesh(made, look_at(yaw, 0.0), 256)
        assert float(seen[:, covered].min()) > -0.5  # the darkest stripe is -.2: no black shows through
    assert made.visual.material.baseColorTexture.size == (512, 512)


def test_where_no_view_looks_the_vertex_colors_remain_tinted_to_meet_the_texture():
    red = torch.tensor([0.8, -0.6, -0.6])
    ball = Balls(((0.0, 0.0, 0.0), 0.25, lambda points: red.expand(points.shape)))
    made = texture_mesh(ball, torch.zeros(1, 1, 1), ball.mesh(), 256)
    places, colors, covered, picture = texels(made, 256)
    back = places[:, 2] < -0.2
    assert back.sum() > 500
    assert float((colors - red).abs().max()) < 0.05  # the front's, and the gray back follows it
    known = {tuple(color) for color in colors.mul(127.5).round().int().tolist()}
    gutter = picture[~covered].mul(127.5).round().int().tolist()
    assert {tuple(color) for color in gutter} <= known  # the nearest texel's, nothing of its own


def test_what_is_hidden_behind_something_is_not_painted_with_it():
    red, blue = torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, -1, 1])
    balls = Balls(
        ((0.0, 0.0, -0.1), 0.25, lambda points: blue.expand(points.shape)),
        ((0.0, 0.0, 0.3), 0.06, lambda points: red.expand(points.shape)),
    )
    made = texture_mesh(balls, torch.zeros(1, 1, 1), balls.mesh(), 512)
    places, colors, _, _ = texels(made, 512)
    large = places[:, 2] < 0.2
    seen = large & (places[:, 2] > 0)
    assert float((colors[seen] - blue).abs().max()) < 0.1
    small = places[:, 2] > 0.27  # what faces the cameras
    assert float((colors[small] - red).abs().max()) < 0.1


def test_baking_cameras_cover_the_trained_views_evenly():
    ball = Balls(((0.0, 0.0, 0.0), 0.25, stripes))
    cameras = baking_cameras(ball)
    assert any(torch.allclose(camera, FRONT[0], atol=1e-6) for camera in cameras)
    ball.trained_views = ViewRange()
    around = baking_cameras(ball)
    positions = around[:, [3, 7, 11]]
    assert len(torch.unique(positions.round(decimals=4), dim=0)) == len(around) > len(cameras)
    assert float(positions[:, 2].min()) < -2  # the back as well


def test_what_gives_no_texture_is_refused_with_a_message(monkeypatch):
    ball = Balls(((0.0, 0.0, 0.0), 0.25, stripes))
    mesh, ws = ball.mesh(), torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match="256, 512, 1024, 2048, 4096, not 1000"):
        texture_mesh(ball, ws, mesh, 1000)
    with pytest.raises(ValueError, match="one latent, but 2"):
        texture_mesh(ball, torch.zeros(2, 1, 1), mesh)
    bare = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    with pytest.raises(ValueError, match="no vertex colors"):
        texture_mesh(ball, ws, bare)
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(MeshError, match="pip install xatlas fast-simplification"):
        texture_mesh(ball, ws, mesh)


def test_cancelling_leaves_the_mesh_as_it_was():
    ball = Balls(((0.0, 0.0, 0.0), 0.25, stripes))
    mesh = ball.mesh()
    before = np.asarray(mesh.vertices).copy()

    def cancel(step, *_):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        texture_mesh(ball, torch.zeros(1, 1, 1), mesh, 256, cancel)
    assert mesh.visual.kind == "vertex"
    assert np.array_equal(np.asarray(mesh.vertices), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo_identity", "second_identity"])
def test_a_texture_is_nearer_to_the_pictures_than_vertex_colors_are(name):
    """By 3 dB and more, at the same number of faces, from the front and from 30 degrees to either side."""
    pytest.importorskip("fast_simplification")
    starter = load_generator()
    person = Identity.load(starter_path().parent / f"{name}.safetensors")
    with torch.no_grad(), personalized(starter, person):
        ws = person.anchors.mean()
        plain = extract_mesh(starter, ws, 128, faces=10_000)
        textured = texture_mesh(starter, ws, plain, 512)
        assert len(textured.faces) == len(plain.faces) <= 10_000
        for yaw in (-30, 0, 30):
            camera = look_at(np.radians(yaw), 0.0)
            picture = starter.render(ws, camera).image[0]
            errors = []
            for mesh in (plain, textured):
                drawn = F.avg_pool2d(render_mesh(mesh, camera, 4 * picture.shape[-1])[0], 4)
                errors.append(float((drawn - picture).square().mean()))
            assert 10 * np.log10(errors[0] / errors[1]) >= 3, (yaw, errors)
