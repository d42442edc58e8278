"""Meshes of the bundled starter: closed, in one piece, oriented, colored."""

import sys

import micro
import numpy as np
import pytest
import torch
from meta_device import META, NoCPU, on_meta

from my3dgen_core import Identity, extract_mesh, load_generator, look_at, mean_latent, personalized, save_glb
from my3dgen_core.camera import ViewRange, in_picture
from my3dgen_core.checkpoint import starter_path
from my3dgen_core.mesh import MeshError, above_views, density_grid

trimesh = pytest.importorskip("trimesh")


@pytest.fixture(scope="module")
def starter():
    return load_generator()


@pytest.fixture(scope="module")
def head(starter):
    steps = []
    made = extract_mesh(starter, mean_latent(starter).ws, 80, on_step=lambda *step: steps.append(step))
    assert steps[-1] == (80, 80, {}, None)
    assert [step[0] for step in steps] == sorted({step[0] for step in steps})
    return made


def test_a_head_is_closed_and_in_one_piece(head):
    assert head.is_watertight
    assert head.is_winding_consistent
    assert head.body_count == 1
    assert 0.05 < head.volume < 0.5  # of the box, whose volume is 1; negative were inside out
    assert np.abs(head.bounds).max() < 0.52


def test_what_is_left_out_of_the_grid_changes_no_vertex(starter, monkeypatch):
    """Points that no surface can be beside are not looked at, and the surface is the same to the last bit."""
    from skimage.measure import marching_cubes

    ws, sample, looked_at = mean_latent(starter).ws, starter.sample, []

    def counted(w, points, **more):
        looked_at.append(points.shape[1])
        return sample(w, points, **more)

    monkeypatch.setattr(starter, "sample", counted)
    with torch.no_grad():
        whole, part = (density_grid(starter, ws, 72, level=level).numpy() for level in (None, 20.0))
    assert np.array_equal(whole > 20, part > 20)
    assert sum(looked_at) - 72**3 < 0.6 * 72**3
    for one, other in zip(marching_cubes(whole, 20.0)[:2], marching_cubes(part, 20.0)[:2], strict=True):
        assert np.array_equal(one, other)


def test_vertices_that_nearly_coincide_do_not_tear_the_surface(monkeypatch):
    """A ball that passes through points of the grid as nearly as numbers allow."""
    generator = micro.generator()
    line = torch.linspace(-0.5, 0.5, 33)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    ball = 20.0 + 1e3 * (0.25**2 - (x**2 + y**2 + z**2))
    ball = torch.where((ball - 20).abs() < 1e-3, 20.0 + 1e-5, ball)
    monkeypatch.setattr("my3dgen_core.mesh.surface.density_grid", lambda *args, **kwargs: ball)
    made = extract_mesh(generator, micro.latents(generator, 1), 33)
    assert made.is_watertight
    assert made.volume == pytest.approx(4 / 3 * np.pi * 0.25**3, rel=0.05)


def test_the_nose_points_forward_and_the_shoulders_down(head):
    vertices = np.asarray(head.vertices)
    x, y, z = vertices[vertices[:, 2].argmax()]
    assert z > 0.2
    assert abs(x) < 0.05
    assert -0.15 < y < 0.15
    width = [np.ptp(vertices[np.abs(vertices[:, 1] - height) < 0.03, 0]) for height in (-0.45, 0.3)]
    assert width[0] > width[1]


def test_colors_vary_as_the_rendering_does(head, starter):
    colors = np.asarray(head.visual.vertex_colors)
    assert colors.shape == (len(head.vertices), 4)
    assert bool((colors[:, 3] == 255).all())
    assert colors[:, :3].std(0).min() > 10
    latent = mean_latent(starter)
    with torch.no_grad():
        picture = (starter.render(latent.ws, latent.cameras).image_raw[0] + 1) * 127.5
    size = picture.shape[-1]
    tip = np.asarray(head.vertices)[:, 2].argmax()
    x, y, z = np.asarray(head.vertices)[tip]
    column, row = (0.5 + 4.2647 * place / (2.7 - z) for place in (x, -y))
    seen = picture[:, round(float(row) * size - 0.5), round(float(column) * size - 0.5)]
    assert np.abs(seen.numpy() - colors[tip, :3]).max() < 40


def test_normals_point_outwards(head):
    front = np.asarray(head.vertices)[:, 2].argmax()
    assert head.vertex_normals[front, 2] > 0.8


def test_a_cut_leaves_a_closed_surface_in_front_of_it(starter):
    cut = extract_mesh(starter, mean_latent(starter).ws, 40, cut_behind=-0.1)
    assert cut.is_watertight
    assert float(cut.bounds[0, 2]) > -0.15
    assert float(cut.bounds[1, 2]) > 0.2


def test_a_glb_file_holds_the_same_head(head, tmp_path):
    path = tmp_path / "head.glb"
    save_glb(head, path)
    assert path.read_bytes()[:4] == b"glTF"
    (found,) = trimesh.load(path).geometry.values()
    assert len(found.faces) == len(head.faces)
    assert np.allclose(found.bounds, head.bounds, atol=1e-5)
    assert [child.name for child in tmp_path.iterdir()] == ["head.glb"]


def test_fewer_faces_are_a_closed_head_with_colors_of_nearly_the_same_shape(starter, head):
    pytest.importorskip("fast_simplification")
    made = extract_mesh(starter, mean_latent(starter).ws, 80, faces=6000)
    assert 5900 <= len(made.faces) <= 6000 < len(head.faces)
    assert made.is_watertight
    assert made.body_count == 1
    assert made.volume == pytest.approx(head.volume, rel=0.01)
    assert np.asarray(made.visual.vertex_colors).shape == (len(made.vertices), 4)
    assert np.asarray(made.visual.vertex_colors)[:, :3].std(0).min() > 10


def test_reducing_faces_without_the_package_names_the_command(starter, monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    with pytest.raises(MeshError, match="pip install fast-simplification"):
        extract_mesh(starter, mean_latent(starter).ws, 16, faces=1000)
    with pytest.raises(ValueError, match="at least 100 faces, not 99"):
        extract_mesh(starter, mean_latent(starter).ws, 16, faces=99)


def test_smaller_pieces_are_dropped_unless_asked_for(monkeypatch):
    """Two balls in place of a head."""
    generator = micro.generator()
    line = torch.linspace(-0.5, 0.5, 32)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    balls = [(((x - at) ** 2 + y**2 + z**2).sqrt() < size) * 50.0 for at, size in ((-0.2, 0.2), (0.3, 0.1))]
    monkeypatch.setattr("my3dgen_core.mesh.surface.density_grid", lambda *args, **kwargs: balls[0] + balls[1])
    ws = micro.latents(generator, 1)
    assert extract_mesh(generator, ws, 32, largest=False).body_count == 2
    one = extract_mesh(generator, ws, 32)
    assert one.body_count == 1
    assert float(one.bounds[1, 0]) < 0.1
    assert one.volume == pytest.approx(4 / 3 * np.pi * 0.2**3, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo_identity", "second_identity"])
def test_the_bundled_persons_wear_nothing_above_the_crown(starter, name):
    identity = Identity.load(starter_path().parent / f"{name}.safetensors")
    with torch.no_grad(), personalized(starter, identity):
        ws = identity.anchors.mean()
        grown = density_grid(starter, ws, 64, level=20.0)
        made = extract_mesh(starter, ws, 64)
    assert bool((grown[:, -1] > 20).any())  # what would be worn reaches the box's ceiling
    assert made.is_watertight
    assert made.body_count == 1
    assert 0.36 < float(made.bounds[1, 1]) < 0.42
    assert float(made.bounds[0, 1]) < -0.49  # below nothing is missing


def solids(*parts):
    """A function for `density_grid`'s place: density 50 within the given shapes of x, y, z, smooth enough."""
    line = torch.linspace(-0.5, 0.5, 64)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    inside = torch.stack([part(x, y, z) for part in parts]).any(0)
    return lambda *args, **kwargs: inside * 50.0


def ball(height, size):
    return lambda x, y, z: (x**2 + (y - height) ** 2 + z**2).sqrt() < size


def cone(bottom, top, low, high):
    """Upright and round, of radius `bottom` at `low` and `top` at `high`."""
    return lambda x, y, z: (
        (y >= low) & (y <= high) & ((x**2 + z**2).sqrt() < bottom + (top - bottom) * (y - low) / (high - low))
    )


@pytest.mark.parametrize(
    ("shapes", "pieces", "highest"),
    [
        ([ball(0, 0.2), ball(0.44, 0.05)], 1, 0.2),  # floats where no view looks
        ([ball(0, 0.2), ball(0.3, 0.05)], 2, 0.35),  # floats where views look
        ([ball(0.2, 0.2), cone(0.05, 0.2, 0.38, 0.5)], 1, 0.38),  # a lid on a head
        ([ball(0.23, 0.2)], 1, 0.43),  # a head that is high, and ends
        ([cone(0.3, 0.1, 0.0, 0.5)], 1, 0.51),  # a head that goes on
        ([ball(0, 0.2), ball(-0.44, 0.05)], 2, 0.2),  # below, matter stays
    ],
)
def test_what_no_trained_view_shows_above_the_head_is_air(starter, monkeypatch, shapes, pieces, highest):
    monkeypatch.setattr("my3dgen_core.mesh.surface.density_grid", solids(*shapes))
    made = extract_mesh(starter, mean_latent(starter).ws, 64, largest=False)
    assert made.is_watertight
    assert made.body_count == pieces
    assert float(made.bounds[1, 1]) == pytest.approx(highest, abs=0.02)


def test_a_generator_that_saw_every_side_keeps_everything(starter, monkeypatch):
    monkeypatch.setattr("my3dgen_core.mesh.surface.density_grid", solids(ball(0, 0.2), ball(0.44, 0.05)))
    monkeypatch.setattr(starter, "trained_views", ViewRange())
    assert extract_mesh(starter, mean_latent(starter).ws, 64, largest=False).body_count == 2


def test_heights_above_every_view_are_those_that_no_picture_holds(starter):
    heights = torch.linspace(-0.5, 0.5, 201)
    above = above_views(starter, heights)
    views = starter.trained_views
    lowest = look_at(0.0, -np.radians(views.pitch))  # sees highest
    axis = torch.stack((0 * heights, heights, 0 * heights), dim=1)
    assert torch.equal(above, ~in_picture(lowest, axis)[0] & (heights > 0))
    assert 0.37 < float(heights[above].min()) < 0.39
    tip = in_picture(look_at(0.0, 0.0), torch.tensor([[0.0, 0.31, 0.0], [0.0, 0.32, 0.0], [0.0, 0.0, 9.0]]))
    assert tip.tolist() == [[True, False, False]]  # 2.7 * .5 / 4.2647 = .317 is the border; 9 is behind


def test_what_gives_no_surface_is_refused_with_a_message():
    generator = micro.generator()
    ws = micro.latents(generator, 2)
    with pytest.raises(ValueError, match="one latent, but 2"):
        extract_mesh(generator, ws)
    with pytest.raises(ValueError, match="at least 16 points"):
        extract_mesh(generator, ws[:1], 8)
    with pytest.raises(ValueError, match="level must be a density above 0"):
        extract_mesh(generator, ws[:1], 16, level=-1)
    with pytest.raises(MeshError, match="Lower the level"):
        extract_mesh(generator, ws[:1], 16, level=1e6)


@pytest.mark.slow
def test_the_grid_is_made_where_the_generator_is():
    generator = on_meta()
    with NoCPU(), torch.no_grad():
        density = density_grid(generator, torch.empty(1, generator.num_ws, 32, device=META), 16)
        above = above_views(generator, torch.empty(16, device=META))
    assert density.device == above.device == META
