"""Cameras of the generator's own class: heads at 2.7 with focal length 4.2647, objects at 1.7."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import goldens
import official_files as files
import pytest
import torch
from micro import generator as micro_generator
from micro import latents

from my3dgen_core import GeneratorConfig, load_generator
from my3dgen_core.camera import cam2world, intrinsics

CARS = {
    "avg_camera_radius": 1.7,
    "avg_camera_pivot": [0, 0, 0],
    "ray_start": 0.1,
    "ray_end": 2.6,
    "box_warp": 1.6,
    "white_back": True,
}
FRONT = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "distance": 2.7, "field_of_view": 13.3738}


def settings_with(rendering: dict[str, Any]) -> dict[str, Any]:
    settings = copy.deepcopy(goldens.values("tiny_config"))
    settings["rendering_kwargs"].update(rendering)
    return settings


def view_of(cameras: Any) -> tuple[float, float]:
    """Distance and focal length of the first camera."""
    return float(cam2world(cameras.values)[0, :3, 3].norm()), float(intrinsics(cameras.values)[0, 0, 0])


@pytest.fixture(scope="module")
def cars() -> Any:
    return micro_generator(0, avg_camera_radius=1.7, avg_camera_pivot=(0.0, 0.0, 0.0), focal=1.7074)


def model_of(pack: ModuleType, generator: Any) -> Any:
    host, sockets = (sys.modules[f"{pack.__name__}.nodes.{name}"] for name in ("host", "socket_types"))
    return sockets.Model(host.manage(generator), "generator")


def test_a_generator_of_cars_has_the_focal_length_of_cars() -> None:
    config = GeneratorConfig.from_official(settings_with(CARS))
    assert (config.focal, config.avg_camera_radius, config.avg_camera_pivot) == (1.7074, 1.7, (0, 0, 0))
    assert (config.trained_views.yaw, config.trained_views.pitch) == (180, 90)


@pytest.mark.parametrize("pivot", [[0, 0, 0.2], [0, 0, -0.06]])
def test_generators_of_heads_keep_their_focal_length_and_their_range(pivot: list[float]) -> None:
    config = GeneratorConfig.from_official(
        settings_with({"avg_camera_radius": 2.7, "avg_camera_pivot": pivot})
    )
    assert (config.focal, config.trained_views.yaw) == (4.2647, 45)
    older = settings_with({})
    del older["rendering_kwargs"]["avg_camera_radius"]
    assert GeneratorConfig.from_official(older).focal == 4.2647


def test_a_configuration_beside_a_state_dict_follows_its_camera_distance(tmp_path: Path) -> None:
    state = {key: value.float() for key, value in goldens.tensors("tiny_weights").items()}
    files.write(tmp_path / "cars.pt", files.zip_file(state))
    wanted = GeneratorConfig.from_official(goldens.values("tiny_config")).to_dict()
    del wanted["focal"]
    for given, focal in (({"avg_camera_radius": 1.7}, 1.7074), ({}, 4.2647), ({"focal": 2.0}, 2.0)):
        (tmp_path / "cars.json").write_text(json.dumps({**wanted, "avg_camera_radius": 2.7, **given}))
        assert load_generator(tmp_path / "cars.pt").config.focal == focal


def test_camera_nodes_with_a_model_follow_the_generator_where_their_defaults_are_kept(
    pack: ModuleType, cars: Any
) -> None:
    nodes = {name.removeprefix("My3DGen"): kind() for name, kind in pack.NODE_CLASS_MAPPINGS.items()}
    model, info = (
        model_of(pack, cars),
        {"position": {"x": 0, "y": 0, "z": 5}, "target": dict.fromkeys("xyz", 0)},
    )
    own = pytest.approx((1.7, 1.7074), abs=1e-5)
    assert view_of(nodes["Camera"].make(**FRONT, model=model)[0]) == own
    assert view_of(nodes["CameraPath"].make("swing", 3, 34.0, 14.0, 0.0, model)[0]) == own
    assert view_of(nodes["CameraFromLoad3D"].make(info, 2.7, 13.3738, model)[0]) == own
    heads = pytest.approx((2.7, 4.2647), abs=1e-5)
    assert view_of(nodes["Camera"].make(**FRONT)[0]) == heads
    assert view_of(nodes["CameraFromLoad3D"].make(info, 2.7, 13.3738)[0]) == heads
    set_by_hand = {**FRONT, "distance": 2.0, "field_of_view": 30.0}
    assert view_of(nodes["Camera"].make(**set_by_hand, model=model)[0]) == pytest.approx(
        (2.0, 1.86603), abs=1e-4
    )


def test_a_model_of_heads_changes_no_bit_of_the_default_camera_but_where_it_looks(pack: ModuleType) -> None:
    camera = pack.NODE_CLASS_MAPPINGS["My3DGenCamera"]()
    heads = model_of(pack, micro_generator(0, avg_camera_pivot=(0.0, 0.0, 0.0)))
    assert torch.equal(camera.make(**FRONT, model=heads)[0].values, camera.make(**FRONT)[0].values)


def test_the_live_picture_is_seen_from_the_camera_that_the_node_gives(
    pack: ModuleType, cars: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = sys.modules[f"{pack.__name__}.nodes.server.live_preview"]
    previews, model = live.LivePreviewServer(live.Handles()), model_of(pack, cars)
    seen: list[torch.Tensor] = []
    picture = live._PersonalizedCopy.picture

    def watched(self: Any, key: Any, ws: torch.Tensor, camera: torch.Tensor, drag: bool) -> torch.Tensor:
        seen.append(camera)
        return picture(self, key, ws, camera, drag)

    monkeypatch.setattr(live._PersonalizedCopy, "picture", watched)
    handle = previews.handles.give(live.Head(weakref.ref(model), latents(cars, 1)), model)
    answer = asyncio.run(previews.answer(json.dumps({"head": handle, **FRONT}).encode()))
    assert answer.status == 200
    expected = pack.NODE_CLASS_MAPPINGS["My3DGenCamera"]().make(**FRONT, model=model)[0]
    assert torch.equal(seen[0], expected.values)
