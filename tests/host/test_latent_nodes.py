"""The nodes that make, keep, edit and mesh latents, called as the executor calls them, in inference mode."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import micro
import numpy as np
import pytest
import torch

from my3dgen_core import Adapter, Direction, Identity, Latents, camera_path, look_at

pytestmark = pytest.mark.usefixtures("executor", "folders")

HALF_A_GRAY_LEVEL = 0.5 / 255  # several cameras are rendered fast, one alone exactly


@pytest.fixture(scope="module")
def anchors(generator: Any) -> Latents:
    with torch.inference_mode(False):
        ws = 2 * micro.latents(generator, 4)
        return Latents(ws, camera_path("sweep", 4), base_hash=generator.base_hash())


@pytest.fixture(scope="module")
def identity(generator: Any, anchors: Latents) -> Identity:
    with torch.inference_mode(False):
        return Identity(Adapter.create(generator), anchors, generator.base_hash())


@pytest.fixture
def smile(generator: Any) -> Direction:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(3))
    return Direction("smile", vector, generator.base_hash())


def edit(nodes: dict[str, Any], latents: Latents, direction: Direction, **settings: Any) -> Latents:
    values = {
        "which": "every",
        "index": 0,
        "strength": 1.0,
        "steps": 1,
        "sweep_from": 0.0,
        "layers": "",
        "edge": "stop",
        "beta": 0.02,
    } | settings
    (edited,) = nodes["ApplyDirection"].apply(latents, direction, **values)["result"]
    return edited


def test_random_heads_can_be_kept_and_taken_up_again(nodes: dict[str, Any], model: Any) -> None:
    (heads,) = nodes["RandomLatent"].make(model, 3, 0.7, 5)
    (file,) = nodes["SaveLatents"].save(heads, "my3dgen/latents/heads")["result"]
    assert Path(file).is_relative_to(Path.cwd() / "output")
    assert "heads_00001_.safetensors" in sys.modules["my3dgen_pack.nodes.latent.latents"].list_latents()
    assert nodes["LoadLatents"].VALIDATE_INPUTS("heads_00001_.safetensors") is True
    (again,) = nodes["LoadLatents"].load("heads_00001_.safetensors")
    assert torch.equal(again.ws, heads.ws)
    assert torch.equal(again.cameras, heads.cameras)
    assert again.base_hash == heads.base_hash
    assert len(nodes["Render"].render(model, again, "every", 0, 2)["result"][0]) == 3


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "missing.safetensors"])
def test_a_workflow_reads_no_file_elsewhere(nodes: dict[str, Any], folders: Path, name: str) -> None:
    (folders / "secret.safetensors").write_bytes(b"")
    assert "There are no latents" in nodes["LoadLatents"].VALIDATE_INPUTS(name)
    with pytest.raises(FileNotFoundError, match="There are no latents"):
        nodes["LoadLatents"].load(name)


def test_samples_of_a_person_render_from_their_own_cameras(
    nodes: dict[str, Any], model: Any, identity: Identity
) -> None:
    (looks,) = nodes["SampleAlphaSpace"].sample(identity, 5, 3, 1.0, 0.02, 1)
    assert looks.alphas.shape == (5, 4)
    assert torch.allclose(looks.alphas.sum(1), torch.ones(5), atol=1e-5)
    (personal,) = nodes["ApplyIdentity"].apply(model, identity, 1.0)
    assert len(nodes["Render"].render(personal, looks, "every", 0, 2)["result"][0]) == 5
    (few,) = nodes["SampleAlphaSpace"].sample(identity, 2, 1000, 1.0, 0.02, 1)
    assert len(few) == 2


def test_a_photo_is_projected_into_the_person_and_nothing_is_changed(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, generator: Any, identity: Identity
) -> None:
    photos = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    kept, before = photos.clone(), generator.base_hash()
    cameras = sockets.Cameras(camera_path("swing", 2))
    (personal,) = nodes["ApplyIdentity"].apply(model, identity, 1.0)
    found, pictures = nodes["ProjectAlphaSpace"].project(
        personal, identity, photos, cameras, 2, "p+", 0.03, 0.01, 2, 0, masks=torch.zeros(1, 64, 64)
    )
    assert len(found) == len(pictures) == 2
    assert float(found.alphas.min()) >= -0.03
    assert torch.equal(found.cameras, cameras.values)
    assert torch.equal(photos, kept)
    assert generator.base_hash() == before


def test_an_interpolation_starts_and_ends_at_the_two_latents(nodes: dict[str, Any], anchors: Latents) -> None:
    (path,) = nodes["InterpolateLatents"].interpolate(anchors, 1, 3, 5, False)
    assert torch.equal(path.ws[0], anchors.ws[1])
    assert torch.equal(path.ws[-1], anchors.ws[3])
    assert torch.equal(path.cameras[-1], anchors.cameras[3])
    (loop,) = nodes["InterpolateLatents"].interpolate(anchors, 1, 3, 5, True)
    assert len(loop) == 8
    assert torch.equal(loop.ws[5], path.ws[3])


def test_a_direction_is_loaded_for_the_generator_it_fits(
    nodes: dict[str, Any], model: Any, smile: Direction, folders: Path
) -> None:
    folder = folders / "models" / "my3dgen" / "directions"
    smile.save(folder / "smile.safetensors")
    (found,) = nodes["LoadDirection"].load(model, "smile.safetensors", "")["result"]
    assert torch.equal(found.vector, smile.vector)
    np.save(folder / "age.npy", np.ones(512, np.float32))
    with pytest.raises(ValueError, match="6 layers of 32 numbers"):
        nodes["LoadDirection"].load(model, "age.npy", "")
    Direction("smile", smile.vector, "0123456789abcdef").save(folder / "other.safetensors")
    with pytest.raises(ValueError, match="'smile' belongs to generator 0123456789ab"):
        nodes["LoadDirection"].load(model, "other.safetensors", "")


def test_components_are_found_without_face_models(
    nodes: dict[str, Any], model: Any, generator: Any, anchors: Latents
) -> None:
    shown = nodes["FindDirection"].find(model, "component 2", 50, "auto", 0)
    direction, text = shown["result"]
    assert direction.base_hash == generator.base_hash()
    assert direction.vector.shape == (32,)
    assert "of the variance" in text
    assert not torch.equal(edit(nodes, anchors, direction).ws, anchors.ws)


def test_without_face_models_a_smile_costs_a_message(nodes: dict[str, Any], model: Any) -> None:
    with pytest.raises(FileNotFoundError, match="No face models found"):
        nodes["FindDirection"].find(model, "smile", 50, "auto", 0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colors in place of a face pack: the micro generator shows no faces."""

    def redness(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"smile": images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))}

    def brightness(images: torch.Tensor, models: Any) -> tuple[torch.Tensor, torch.Tensor]:
        cells = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 4).flatten(1)
        return torch.nn.functional.normalize(cells, dim=1), torch.ones(len(images), dtype=torch.bool)

    edit_nodes = sys.modules["my3dgen_pack.nodes.latent.directions"]
    core = edit_nodes.__name__.replace("nodes.latent.directions", "my3dgen_core")
    monkeypatch.setattr(edit_nodes, "_face_models", lambda name: None)
    scores = importlib.import_module(f"{core}.editing.face_scores")
    monkeypatch.setattr(scores, "FaceGeometry", lambda models: redness)
    monkeypatch.setattr(sys.modules[f"{core}.face"], "embed", brightness)


@pytest.mark.usefixtures("measured")
def test_a_smile_is_found_about_the_person_whose_identity_is_connected(
    nodes: dict[str, Any], model: Any, generator: Any, identity: Identity
) -> None:
    direction, text = nodes["FindDirection"].find(model, "smile", 60, "auto", 0, identity=identity)["result"]
    half = generator.num_ws // 2
    assert float(direction.vector[:half].abs().max()) == 0
    assert float(direction.vector[half:].abs().max()) > 0
    assert text.startswith("smile, for this identity: from 60 heads;")
    assert len(list((Path.cwd() / "output" / "my3dgen" / "directions").iterdir())) == 1
    (personal,) = nodes["ApplyIdentity"].apply(model, identity, 1.0)
    again, _ = nodes["FindDirection"].find(personal, "smile", 60, "auto", 0, identity=identity)["result"]
    assert torch.equal(again.vector, direction.vector)
    prior, _ = nodes["FindDirection"].find(model, "smile", 60, "auto", 0)["result"]
    assert prior.vector.shape == (32,)
    stranger = Identity(identity.adapter, identity.anchors, "0123456789abcdef")
    with pytest.raises(ValueError, match="0123456789ab"):
        nodes["FindDirection"].find(model, "smile", 60, "auto", 0, identity=stranger)


def test_a_sweep_has_every_step_of_every_latent(
    nodes: dict[str, Any], anchors: Latents, smile: Direction
) -> None:
    sweep = edit(nodes, anchors, smile, steps=3, sweep_from=-1.0)
    assert len(sweep) == 12
    assert torch.allclose(sweep.ws[4], anchors.ws[1], atol=1e-6)
    assert torch.allclose(sweep.ws[5] - sweep.ws[3], (2 * smile.vector).expand_as(sweep.ws[0]), atol=1e-5)
    assert torch.equal(sweep.cameras[3:6], anchors.cameras[1:2].expand(3, -1))


def test_an_edit_with_an_identity_stays_in_the_person(
    nodes: dict[str, Any], anchors: Latents, smile: Direction, identity: Identity
) -> None:
    from my3dgen_core import AlphaSpace

    space = AlphaSpace(identity.anchors, 0.02)
    inside = edit(nodes, anchors, smile, which="mean", strength=20.0, identity=identity)
    outside = edit(nodes, anchors, smile, which="mean", strength=20.0)
    assert float(space.weights_of(inside.ws).min()) > -0.03
    again = torch.einsum("na,alw->nlw", space.weights_of(inside.ws), anchors.ws)
    assert torch.allclose(again, inside.ws, atol=1e-2)
    assert not torch.allclose(outside.ws, inside.ws, atol=1)


def test_layers_are_numbers_and_ranges(nodes: dict[str, Any], anchors: Latents, smile: Direction) -> None:
    some = edit(nodes, anchors, smile, layers="0-1, 4").ws - anchors.ws
    moved = some.abs().amax((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [0, 1, 4]
    for wrong in ("shape", "1-", "0-99999"):
        with pytest.raises(ValueError, match="is not a list of layers"):
            edit(nodes, anchors, smile, layers=wrong)


def test_what_belongs_to_different_generators_is_not_mixed(
    nodes: dict[str, Any], anchors: Latents, smile: Direction
) -> None:
    with pytest.raises(ValueError, match="different generators"):
        edit(nodes, anchors, Direction("smile", smile.vector, "0123456789abcdef"))


def test_a_mesh_goes_to_cores_nodes_and_to_a_file(
    nodes: dict[str, Any], model: Any, anchors: Latents
) -> None:
    trimesh = pytest.importorskip("trimesh")
    shown = nodes["ExtractMesh"].extract(model, anchors, "mean", 0, 32, 0.5, -1.0, "my3dgen/meshes/head")
    mesh, name, text, file = shown["result"]
    assert mesh.vertices.shape == mesh.vertex_colors.shape == (1, mesh.vertices.shape[1], 3)
    assert mesh.faces.shape[::2] == (1, 3)
    assert 0 <= int(mesh.faces.min()) < int(mesh.faces.max()) < mesh.vertices.shape[1]
    assert name == "my3dgen/meshes/head_00001_.glb"
    assert len(trimesh.load(Path("output") / name, force="mesh").faces) == mesh.faces.shape[1]
    assert "closed" in text
    assert mesh.unlit
    assert file is None  # outside ComfyUI there are no values of its types


def test_a_textured_mesh_of_fewer_faces_goes_the_same_ways(
    nodes: dict[str, Any], model: Any, anchors: Latents
) -> None:
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("xatlas")
    settings = (model, anchors, "mean", 0, 32, 0.5, -1.0, "my3dgen/meshes/head")
    mesh, name, text, _ = nodes["ExtractMesh"].extract(*settings, texture="1024", faces=1000)["result"]
    assert mesh.vertex_colors is None
    assert mesh.faces.shape[1] <= 1000
    assert mesh.uvs.shape == (1, mesh.vertices.shape[1], 2)
    assert mesh.texture.shape == (1, 1024, 1024, 3)
    assert "texture of 1024 x 1024" in text
    stored = trimesh.load(Path("output") / name, force="mesh")
    assert np.allclose(stored.visual.uv[:, 1], 1 - mesh.uvs[0, :, 1], atol=1e-6)
    picture = np.asarray(stored.visual.material.baseColorTexture.convert("RGB"))
    assert np.array_equal(picture, (mesh.texture[0] * 255).round().numpy().astype(np.uint8))


def test_a_texture_without_its_package_is_a_message_before_any_work(
    nodes: dict[str, Any], model: Any, anchors: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xatlas", None)
    monkeypatch.setattr("my3dgen_core.extract_mesh", None)
    with pytest.raises(RuntimeError, match="pip install xatlas"):
        nodes["ExtractMesh"].extract(model, anchors, "mean", 0, 32, 0.5, -1.0, "head", texture="1024")
    assert not list(Path("output").rglob("*.glb"))


def test_a_grid_shows_every_latent_from_every_camera(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, anchors: Latents
) -> None:
    cameras = sockets.Cameras(look_at(torch.tensor([-0.4, 0.4]), 0.0))
    render = nodes["Render"].render
    shown = render(model, anchors, "every", 0, 2, cameras, grid=True)
    pictures, heads, depths, normals, distances = shown["result"]
    assert len(pictures) == len(heads) == len(depths) == len(normals) == len(distances) == 8
    assert 2.0 < float(distances.min()) < float(distances.max()) < 3.5
    for place, (latent, camera) in {1: (0, 1), 4: (2, 0)}.items():
        one = sockets.Cameras(cameras.values[camera : camera + 1])
        alone = render(model, anchors, "single", latent, 2, one)["result"][0]
        assert torch.allclose(pictures[place], alone[0], atol=HALF_A_GRAY_LEVEL)


def test_normals_of_a_ball_face_where_the_ball_does(pack: ModuleType) -> None:
    from my3dgen_core.eg3d.rendering.rays import rays

    rendering = sys.modules["my3dgen_pack.nodes.output.view_rendering"]
    size, radius = 64, 0.25
    cameras = look_at(torch.tensor([0.0, 0.8]), torch.tensor([0.0, 0.3]))
    origins, directions = rays(cameras, size)
    along = -(origins * directions).sum(-1)
    inside = along.square() - (origins.square().sum(-1) - radius**2)
    depth = along - inside.clamp(min=0).sqrt()
    surface = torch.nn.functional.normalize(origins + depth[..., None] * directions, dim=-1)
    pose = cameras[:, :16].view(-1, 4, 4)[:, :3, :3]
    local = torch.einsum("bmi,bij->bjm", surface, pose) * torch.tensor([1.0, -1.0, -1.0])[:, None]
    found = rendering.normals(depth.view(2, 1, size, size), cameras).flatten(2)
    well_inside = inside > 0.03
    likeness = (found * local).sum(1)[well_inside]
    assert len(likeness) > 500
    assert float(likeness.min()) > 0.99


def test_anchors_are_mixed_by_weights_of_ones_own(nodes: dict[str, Any], identity: Any) -> None:
    anchors = identity.anchors
    (mixed,) = nodes["MixAnchors"].mix(identity, "0: 3, 2: 1", 0.02)["result"]
    assert torch.allclose(mixed.ws[0], 0.75 * anchors.ws[0] + 0.25 * anchors.ws[2], atol=1e-5)
    assert mixed.cameras is not None
    for weights, message in {
        "": "sum above 0",
        "0: 1, 9: 1": "There is no anchor 9",
        "zero": "'zero' is not a weight",
        "0: nan": "sum above 0",
        "0: 1.5, 1: -0.5": "leaves the person",
    }.items():
        with pytest.raises(ValueError, match=message):
            nodes["MixAnchors"].mix(identity, weights, 0.02)
