"""Restoring, mixing, comparing and camera nodes, called as the executor calls them, in inference mode."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import micro
import pytest
import torch

from my3dgen_core import Adapter, Identity, Latents, camera_path, look_at

pytestmark = pytest.mark.usefixtures("executor", "folders")


def person(generator: Any, seed: int) -> Identity:
    with torch.inference_mode(False):
        adapter = Adapter.create(generator, seed=seed)
        for key, tensor in adapter.tensors.items():
            adapter.tensors[key] = tensor + 0.2 * torch.randn(
                tensor.shape, generator=torch.Generator().manual_seed(seed)
            )
        ws = 2 * micro.latents(generator, 4, seed)
        anchors = Latents(ws, camera_path("sweep", 4), base_hash=generator.base_hash())
        return Identity(adapter, anchors, generator.base_hash())


@pytest.fixture(scope="module")
def first(generator: Any) -> Identity:
    return person(generator, 1)


@pytest.fixture(scope="module")
def second(generator: Any) -> Identity:
    return person(generator, 2)


def photos(count: int) -> torch.Tensor:
    return torch.rand(count, 64, 64, 3, generator=torch.Generator().manual_seed(1))


def test_photos_are_filled_in_where_the_mask_says_and_nowhere_else(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, generator: Any, first: Identity
) -> None:
    images, before = photos(2), generator.base_hash()
    masks = torch.zeros(1, 64, 64)
    masks[:, 20:40, 20:40] = 1
    kept = images.clone()
    (personal,) = nodes["ApplyIdentity"].apply(model, first, 1.0)
    cameras = sockets.Cameras(camera_path("swing", 2))
    settings = (2, "p+", 0.03, 0)
    filled, renders, latents = nodes["RestorePhotos"].restore(
        personal, first, images, cameras, "fill in", 32, *settings, masks=masks
    )
    assert filled.shape == images.shape
    known = (1 - masks)[..., None].expand_as(images) > 0
    assert torch.allclose(filled[known], images[known], atol=1e-6)
    assert not torch.allclose(filled[~known], images[~known], atol=0.05)
    assert len(renders) == len(latents) == 2
    assert torch.equal(latents.cameras, cameras.values)
    sharp, _, _ = nodes["RestorePhotos"].restore(personal, first, images, cameras, "sharpen", 16, *settings)
    assert sharp.shape == (2, 128, 128, 3)
    assert torch.equal(images, kept)
    assert generator.base_hash() == before
    with pytest.raises(ValueError, match="Inpaint / Super-Resolve Photos needs masks"):
        nodes["RestorePhotos"].restore(personal, first, images, cameras, "fill in", 32, *settings)


def test_a_mixed_person_renders_as_the_middle_of_the_way_between_the_two(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, first: Identity, second: Identity
) -> None:
    front = sockets.Cameras(look_at(0.0, 0.0))
    (way,) = nodes["InterpolatePersons"].interpolate(
        model, first, second, "mean", 0, 0, 3, False, cameras=front
    )
    mixed, anchors = nodes["MixPersons"].mix(first, second, 0.5)
    (personal,) = nodes["ApplyIdentity"].apply(model, mixed, 1.0)
    alone = nodes["Render"].render(personal, anchors, "mean", 0, 1, front)["result"][0]
    assert torch.allclose(way[1], alone[0], atol=2e-2)
    assert float((way[0] - way[2]).abs().max()) > 0.05
    (loop,) = nodes["InterpolatePersons"].interpolate(model, first, second, "single", 1, 2, 3, True)
    assert len(loop) == 4
    (personal,) = nodes["ApplyIdentity"].apply(model, first, 1.0)
    with pytest.raises(ValueError, match="applies the two identities itself"):
        nodes["InterpolatePersons"].interpolate(personal, first, second, "mean", 0, 0, 3, False)


def grid(nodes: dict[str, Any], model: Any, latents: Latents, rows: str, **more: Any) -> tuple[Any, str]:
    names = ("pretrained, personal", "", "")
    return nodes["ComparisonGrid"].compare(model, latents, rows, *names, 64, **more)["result"]


def test_one_table_shows_models_latents_and_cameras_in_any_arrangement(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, first: Identity
) -> None:
    (personal,) = nodes["ApplyIdentity"].apply(model, first, 1.0)
    both = {"model_2": personal}
    codes, text = grid(nodes, model, first.anchors, "models", **both)
    assert text == "2 models, 4 latents, 1 cameras"
    tall, _ = grid(nodes, model, first.anchors, "latents", **both)
    assert codes.shape[2] > codes.shape[1]  # four columns, two rows
    assert tall.shape[1] > tall.shape[2]
    sides = sockets.Cameras(look_at(torch.tensor([-0.4, 0.0, 0.4]), 0.0))
    few = Latents(first.anchors.ws[:2], base_hash=first.anchors.base_hash)
    views, text = grid(nodes, model, few, "models, latents", cameras=sides, **both)
    assert text == "2 models, 2 latents, 3 cameras"
    assert views.shape[1] > 1.2 * views.shape[2]  # four rows of three
    assert 0 <= float(views.min()) < float(views.max()) <= 1


def test_a_table_with_photos_is_measured_against_them(
    nodes: dict[str, Any], model: Any, generator: Any, first: Identity
) -> None:
    anchors = first.anchors
    own = nodes["Render"].render(model, anchors, "every", 0, 2)["result"][0]
    (personal,) = nodes["ApplyIdentity"].apply(model, first, 1.0)
    _, text = grid(nodes, model, anchors, "latents", model_2=personal, images=own)
    rows = {row.split("|")[1].strip(): float(row.split("|")[2].split()[0]) for row in text.splitlines()[2:]}
    assert rows["pretrained"] > 40 > rows["personal"]
    with pytest.raises(ValueError, match="connect photos of the person"):
        grid(nodes, model, anchors, "latents", face_models="auto")
    with pytest.raises(ValueError, match="make more than"):
        grid(
            nodes,
            model,
            Latents(anchors.ws[:1].expand(401, -1, -1), look_at(torch.zeros(401), 0.0)),
            "models",
        )


def test_several_photos_of_one_look_have_one_latent(
    nodes: dict[str, Any], sockets: ModuleType, model: Any
) -> None:
    cameras = sockets.Cameras(camera_path("swing", 3))
    settings = (2, 2, "w+", 0.05, 4, 0)
    found, shown = nodes["Invert"].invert(
        model, photos(3), cameras, *settings, cache=False, one_look=True, refine_cameras=True
    )["result"]
    assert len(found) == len(shown) == 3
    assert torch.equal(found.ws[0], found.ws[2])
    assert not torch.equal(found.ws[0, 0], found.ws[0, 1])
    assert not torch.equal(found.cameras, cameras.values)


def test_a_path_tells_its_frames_and_shows_where_it_leads(
    nodes: dict[str, Any], sockets: ModuleType, model: Any
) -> None:
    cameras, plot, frames, fps = nodes["CameraPath"].make("spiral", 12, 40.0, 10.0, 0.0, model, 30.0)
    assert (len(cameras), frames, fps) == (12, 12, 30.0)
    assert plot.shape == (1, 320, 320, 3)
    keys = [sockets.Cameras(look_at(yaw, 0.0)) for yaw in (-0.5, 0.2, 0.5)]
    path, _, frames, _ = nodes["CameraKeyframes"].make(*keys[:2], 9, "linear", False, camera_3=keys[2])
    assert frames == 9
    for place, key in ((0, 0), (4, 1), (8, 2)):
        assert torch.allclose(path.values[place], keys[key].values[0], atol=1e-5)


def test_cameras_beyond_what_the_generator_has_seen_are_named(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, first: Identity
) -> None:
    far = sockets.Cameras(look_at(torch.tensor([0.0, 1.2]), 0.0))
    shown = nodes["Render"].render(model, first.anchors, "mean", 0, 2, far)
    (said,) = shown["ui"]["text"]
    assert "1 of 2 cameras look from farther round" in said
    near = sockets.Cameras(look_at(0.3, 0.1))
    assert "text" not in nodes["Render"].render(model, first.anchors, "mean", 0, 2, near)["ui"]


def test_a_direction_out_of_examples_leads_from_the_one_set_to_the_other(
    nodes: dict[str, Any], model: Any, first: Identity, second: Identity
) -> None:
    (found,) = nodes["DirectionFromExamples"].find(first.anchors, second.anchors, "someone else")
    moved = found.apply(first.anchors.mean(), 1.0)
    assert torch.allclose(moved, second.anchors.mean(), atol=1e-5)
    (sheet,) = nodes["ComponentSheet"].show(model, 2, 2.0, 3, 64)
    assert sheet.shape[0] == 1
    assert float(sheet.std()) > 0.05


def test_a_mesh_is_cores_own_where_core_has_a_class_for_it(
    sockets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer:
        def __init__(
            self, vertices: Any, faces: Any, uvs: Any = None, vertex_colors: Any = None, unlit: bool = False
        ) -> None:
            self.vertices, self.faces, self.uvs, self.vertex_colors = vertices, faces, uvs, vertex_colors
            self.unlit = unlit

    parts = [torch.zeros(1, 4, 3) for _ in range(4)]
    plain = sockets.make_mesh(*parts)
    assert plain.vertex_colors is parts[2]
    assert plain.unlit
    monkeypatch.setattr(sockets.host, "mesh_class", lambda: Newer)
    mesh = sockets.make_mesh(*parts)
    assert isinstance(mesh, Newer)
    assert mesh.unlit  # or core's viewer lights it
    assert mesh.uvs is None
    assert mesh.vertex_colors is parts[2]
    assert mesh.normals is parts[3]


def test_a_textured_mesh_has_no_vertex_colors_which_would_darken_it(
    sockets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer:
        def __init__(self, vertices: Any, faces: Any, uvs: Any = None, texture: Any = None) -> None:
            self.uvs, self.texture = uvs, texture

    monkeypatch.setattr(sockets.host, "mesh_class", lambda: Newer)
    places, picture = torch.zeros(1, 4, 2), torch.zeros(1, 8, 8, 3)
    points = torch.zeros(1, 4, 3)
    mesh = sockets.make_mesh(points, points.long(), None, points, places, picture)
    assert mesh.uvs is places
    assert mesh.texture is picture
    assert mesh.vertex_colors is None


def test_classes_of_core_come_from_its_public_types(
    sockets: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class File3D:
        def __init__(self, source: str, file_format: str = "") -> None:
            self.source, self.file_format = source, file_format

    host = sockets.host
    assert host.mesh_class() is None  # no ComfyUI here
    assert host.file_3d(tmp_path / "head.glb") is None
    latest = ModuleType("comfy_api.latest")
    monkeypatch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)
    assert host.mesh_class() is None  # a ComfyUI without Types
    latest.Types = type("Types", (), {"MESH": int})  # type: ignore[attr-defined]
    assert host.mesh_class() is int
    assert host.file_3d(tmp_path / "head.glb") is None  # and one without files
    latest.Types.File3D = File3D  # type: ignore[attr-defined]
    found = host.file_3d(tmp_path / "head.glb")
    assert (found.source, found.file_format) == (str(tmp_path / "head.glb"), "glb")


def test_normal_maps_have_the_colors_of_controlnet(pack: ModuleType) -> None:
    """ "Blue is front, red is left, green is top" (the protocol of its normal models)."""
    rendering = sys.modules["my3dgen_pack.nodes.output.view_rendering"]
    facing = {"left": (-1.0, 0.0, 0.0), "up": (0.0, 1.0, 0.0), "front": (0.0, 0.0, 1.0)}
    for channel, way in enumerate(facing.values()):
        normal = torch.tensor(way).view(1, 3, 1, 1)
        color = rendering.normal_pictures(normal, torch.ones(1, 1, 1, 1)).flatten()
        assert color.tolist() == [1.0 if c == channel else 0.0 for c in range(3)]
    off = rendering.normal_pictures(torch.tensor(facing["left"]).view(1, 3, 1, 1), torch.zeros(1, 1, 1, 1))
    assert off.flatten().tolist() == [-1.0, -1.0, -1.0]


class BallBeforeWall(torch.nn.Module):
    """A decoder whose field is a ball in front of a wall, on planes that hold the places themselves."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y, z = (3 * features[..., axis, None] for axis in range(3))
        ball = (x**2 + y**2 + z**2).sqrt() < 0.2
        density = torch.where(ball | (z < -0.38), 300.0, -300.0)
        return density, (0.5 + features).clamp(0, 1)


@pytest.fixture
def scene() -> Any:
    """A generator that shows the ball and the wall."""
    with torch.inference_mode(False):
        made = micro.generator(0, plane_resolution=64, depth_resolution=48, depth_resolution_importance=48)
        made.decoder = BallBeforeWall()
        line = (torch.arange(64) + 0.5) / 64 - 0.5
        planes = torch.zeros(1, 3, 32, 64, 64)
        planes[0, 0, 0], planes[0, 0, 1] = line[None, :], line[:, None]  # x along, y down the first plane
        planes[0, 1, 2] = line[:, None]  # z down the second
        made.planes = lambda ws, *_: planes.expand(len(ws), -1, -1, -1, -1)
        return made


def test_the_head_is_cut_from_the_wall_behind_it(pack: ModuleType, scene: Any) -> None:
    rendering = sys.modules["my3dgen_pack.nodes.output.view_rendering"]
    ws, cameras = torch.zeros(1, scene.num_ws, 32), look_at(torch.tensor([0.0, 0.3]), 0.0)
    whole = rendering.render_views(scene, ws, cameras)
    cut = rendering.render_views(scene, ws, cameras, cut_behind=-0.25)
    assert float(whole.mask.mean()) > 0.9  # the wall is everywhere
    size = cut.mask.shape[-1]
    line = (torch.arange(size) + 0.5) / size - 0.5
    apart = (line[:, None] ** 2 + line**2).sqrt() * 2.7 / 4.2647  # from the axis, at the ball's distance
    for view in cut.mask[:, 0]:
        assert float(view[apart < 0.18].min()) > 0.95
        assert float(view[apart > 0.22].max()) < 0.05
    depth = rendering.depth_pictures(cut.depth, cut.mask)
    facing = rendering.normal_pictures(cut.normals, cut.mask)
    beside = (apart > 0.24).expand(2, 1, -1, -1)
    assert float(depth[:, :1][beside].max()) < -0.99
    assert float(facing[:, :1][beside].max()) < -0.99
    assert torch.equal(whole.image, cut.image)


def test_the_mesh_has_the_same_cut(scene: Any) -> None:
    pytest.importorskip("trimesh")
    from my3dgen_core import extract_mesh

    ws = torch.zeros(1, scene.num_ws, 32)
    wall, ball = (extract_mesh(scene, ws, 48, cut_behind=cut) for cut in (None, -0.25))
    assert wall.bounds[0, 2] < -0.4
    assert abs(ball.bounds).max() < 0.23
