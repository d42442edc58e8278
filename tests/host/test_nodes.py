"""Nodes called in inference mode, as the executor calls them: results, and inputs that stay unchanged."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from micro import generator as micro_generator
from real_photos import pack_folder

from my3dgen_core import Latents, camera_path

pytestmark = pytest.mark.usefixtures("executor")

# Paths are rendered fast, and with half precision the way that a convolution takes shows in the last bits.
HALF_A_GRAY_LEVEL = 0.5 / 255


@pytest.fixture
def photos() -> torch.Tensor:
    return torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(1))


def latents_of(generator: Any, cameras: torch.Tensor | None = None) -> Latents:
    ws = generator.w_avg.expand(3, generator.num_ws, -1).clone()
    return Latents(ws, cameras, base_hash=generator.base_hash())


def train(nodes: dict[str, Any], model: Any, photos: torch.Tensor, anchors: Latents, **settings: Any) -> Any:
    values = {
        "steps": 2,
        "method": "lora",
        "rank": 1,
        "learning_rate": 0.01,
        "batch_size": 1,
        "seed": 0,
    } | settings
    return nodes["TrainIdentity"].train(model, photos, anchors, **values)["result"]


@pytest.mark.parametrize("method", ["FUNCTION", "IS_CHANGED"])
def test_what_comfyui_passes_is_accepted(nodes: dict[str, Any], method: str) -> None:
    """ComfyUI passes all inputs by name, to IS_CHANGED too, where a TypeError means "always changed"."""
    for name, node in nodes.items():
        function = getattr(node, node.FUNCTION) if method == "FUNCTION" else getattr(node, method, None)
        if function is not None:
            inputs = [field for group in node.INPUT_TYPES().values() for field in group]
            assert set(inputs) == set(inspect.signature(function).parameters), name


def test_watching_a_training_changes_nothing_of_it(
    nodes: dict[str, Any], model: Any, generator: Any, folders: Path, face_pack: Path
) -> None:
    (folders / "models").mkdir()
    (folders / "models" / "insightface").symlink_to(face_pack.parents[1])
    crops, cameras = nodes["LoadDemoPerson"].load("photos", 3)
    anchors = latents_of(generator, cameras.values)
    alone, watched = (train(nodes, model, crops, anchors, node_id=name)[0] for name in (None, "9"))
    assert alone.history == watched.history
    tensors = watched.adapter.tensors
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in alone.adapter.tensors.items())
    seen = sys.modules["my3dgen_pack.nodes.server.training_monitor"]._STATES["9"]
    assert (len(seen["similarity"]), seen["note"]) == (1, "")


def test_training_and_applying_leave_the_generator_bit_for_bit(
    nodes: dict[str, Any], model: Any, generator: Any, photos: torch.Tensor
) -> None:
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    cameras = camera_path("swing", 3)
    identity, plot, summary = train(nodes, model, photos, latents_of(generator, cameras))
    (personal,) = nodes["ApplyIdentity"].apply(model, identity, 1.0)
    pictures, heads, depths, *_ = nodes["Render"].render(personal, identity.anchors, "every", 0, 2)["result"]
    plain = nodes["Render"].render(model, identity.anchors, "every", 0, 2)["result"][0]
    after = generator.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not torch.equal(pictures, plain)
    assert pictures.shape == depths.shape == (3, 128, 128, 3)
    assert heads.shape == (3, 128, 128)
    assert all(float(t.min()) >= 0 and float(t.max()) <= 1 for t in (pictures, heads, depths, plot))
    assert f"{identity.adapter.parameter_count:,} parameters" in summary


def test_a_training_that_is_canceled_leaves_the_generator_bit_for_bit(
    nodes: dict[str, Any],
    model: Any,
    generator: Any,
    photos: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class CanceledError(Exception):
        pass

    def cancel(step: int, total: int, losses: object = None, image: object = None) -> None:
        if step == 2:
            raise CanceledError

    before = generator.base_hash()
    host = sys.modules["my3dgen_pack.nodes.host"]
    monkeypatch.setattr(host, "progress", lambda node_id, what="": cancel)
    with pytest.raises(CanceledError):
        train(nodes, model, photos, latents_of(generator, camera_path("swing", 3)), steps=50)
    assert generator.base_hash() == before


def test_training_with_weights_of_ones_own_says_where_they_belong(
    nodes: dict[str, Any],
    model: Any,
    generator: Any,
    photos: torch.Tensor,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    anchors = latents_of(generator, camera_path("swing", 3))
    with pytest.raises(FileNotFoundError, match="models/my3dgen/perceptual"):
        train(nodes, model, photos, anchors, perceptual="lpips_alex")
    with pytest.raises(FileNotFoundError, match="No face models found"):
        train(nodes, model, photos, anchors, identity_weight=0.5)
    host = sys.modules["my3dgen_pack.nodes.host"]
    monkeypatch.setattr(host, "find_face_pack", lambda name: pack_folder())
    with pytest.raises(ValueError, match="No face was found in any of the photos"):
        train(nodes, model, photos, anchors, identity_weight=0.5)


def test_head_masks_weigh_the_background_unless_they_say_nothing(
    nodes: dict[str, Any], model: Any, generator: Any, photos: torch.Tensor
) -> None:
    anchors = latents_of(generator, camera_path("swing", 3))
    half = torch.zeros(3, 32, 32)
    half[:, :, :16] = 1

    def trained(heads: torch.Tensor | None, weight: float) -> list[torch.Tensor]:
        identity, *_ = train(nodes, model, photos, anchors, heads=heads, background_weight=weight)
        return [tensor for _, tensor in sorted(identity.adapter.tensors.items())]

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert not same(trained(half, 0.0), trained(1 - half, 0.0))
    assert same(trained(torch.ones(3, 32, 32), 0.0), trained(None, 0.0))
    assert same(trained(half, 1.0), trained(None, 1.0))


def test_applying_an_identity_makes_a_new_model_and_keeps_the_old_one(
    nodes: dict[str, Any], model: Any, generator: Any, photos: torch.Tensor
) -> None:
    identity, _, _ = train(nodes, model, photos, latents_of(generator, camera_path("swing", 3)))
    (personal,) = nodes["ApplyIdentity"].apply(model, identity, 0.5)
    (twice,) = nodes["ApplyIdentity"].apply(personal, identity, 0.5)
    assert (len(model.identities), len(personal.identities), len(twice.identities)) == (0, 1, 2)
    whole = nodes["ApplyIdentity"].apply(model, identity, 0.0)[0]
    plain = nodes["Render"].render(model, identity.anchors, "mean", 0, 1, cameras_of(nodes))["result"][0]
    nothing = nodes["Render"].render(whole, identity.anchors, "mean", 0, 1, cameras_of(nodes))["result"][0]
    assert torch.equal(plain, nothing)


def cameras_of(nodes: dict[str, Any], frames: int = 2) -> Any:
    return nodes["CameraPath"].make("swing", frames, 20.0, 0.0, 0.0)[0]


def test_a_model_can_be_trained_after_it_was_rendered(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, generator: Any, photos: torch.Tensor
) -> None:
    """Rendering in inference mode does not change a later training, nor training a later rendering."""
    with torch.inference_mode(False):
        never_rendered = sockets.Model(
            sys.modules["my3dgen_pack.nodes.host"].manage(micro_generator(0)), "tiny"
        )
    anchors = latents_of(generator, camera_path("swing", 3))
    settings = {"steps": 3, "batch_size": 3}
    alone = train(nodes, never_rendered, photos, anchors, **settings)[0]
    before = nodes["Render"].render(model, anchors, "every", 0, 2)["result"][0]
    after_rendering = train(nodes, model, photos, anchors, **settings)[0]
    assert after_rendering.history[-1] < after_rendering.history[0]
    assert after_rendering.history == alone.history
    assert torch.equal(nodes["Render"].render(model, anchors, "every", 0, 2)["result"][0], before)


def test_sockets_are_not_changed_by_inverting(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, photos: torch.Tensor
) -> None:
    cameras = sockets.Cameras(camera_path("swing", 3))
    kept = photos.clone(), cameras.values.clone()
    latents, pictures = nodes["Invert"].invert(
        model,
        photos,
        cameras,
        steps=1,
        shared_steps=1,
        space="w",
        learning_rate=0.1,
        batch_size=2,
        seed=0,
        masks=torch.zeros(1, 64, 64),
        cache=False,
    )["result"]
    assert torch.equal(kept[0], photos)
    assert torch.equal(kept[1], cameras.values)
    assert len(latents) == len(pictures) == 3


def test_inverting_again_is_answered_from_the_users_folder_unless_switched_off(
    nodes: dict[str, Any],
    sockets: ModuleType,
    model: Any,
    photos: torch.Tensor,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    host = sys.modules["my3dgen_pack.nodes.host"]
    told: list[dict[str, float]] = []

    def progress(node_id: str | None, what: str = "") -> Any:
        return lambda step, total, losses=None, image=None: told.append(losses or {})

    monkeypatch.setattr(host, "progress", progress)
    settings = {"steps": 2, "shared_steps": 1, "space": "w", "learning_rate": 0.1, "batch_size": 2, "seed": 0}

    def invert(cache: bool) -> torch.Tensor:
        told.clear()
        cameras = sockets.Cameras(camera_path("swing", 3))
        return nodes["Invert"].invert(model, photos, cameras, **settings, cache=cache)["result"][0].ws

    plain = invert(cache=False)
    assert not (tmp_path / "user").exists()
    first = invert(cache=True)
    assert not any("cached" in losses for losses in told)
    again = invert(cache=True)
    assert [losses["cached"] for losses in told if "cached" in losses] == [0, 2, 3]
    assert torch.equal(first, plain)
    assert torch.equal(again, plain)
    assert list((tmp_path / "user" / "my3dgen" / "inversions").glob("*.safetensors"))


def test_one_latent_is_seen_from_all_cameras_and_one_camera_sees_all_latents(
    nodes: dict[str, Any], model: Any, generator: Any
) -> None:
    latents = latents_of(generator)
    render = nodes["Render"].render
    assert len(render(model, latents, "mean", 0, 2, cameras_of(nodes, 5))["result"][0]) == 5
    assert len(render(model, latents, "every", 0, 2, cameras_of(nodes, 1))["result"][0]) == 3
    assert len(render(model, latents, "single", 2, 2, cameras_of(nodes, 2))["result"][0]) == 2
    with pytest.raises(ValueError, match="3 latents and 2 cameras do not fit"):
        render(model, latents, "every", 0, 2, cameras_of(nodes, 2))
    with pytest.raises(ValueError, match="no latent number 7: these are 0 to 2"):
        render(model, latents, "single", 7, 2, cameras_of(nodes, 2))
    with pytest.raises(ValueError, match="connect a Camera Path"):
        render(model, latents, "mean", 0, 2)


def test_the_batch_size_does_not_change_the_pictures(
    nodes: dict[str, Any], model: Any, generator: Any
) -> None:
    latents, cameras = latents_of(generator), cameras_of(nodes, 3)
    one = nodes["Render"].render(model, latents, "mean", 0, 1, cameras)["result"][0]
    all_at_once = nodes["Render"].render(model, latents, "mean", 0, 8, cameras)["result"][0]
    assert torch.allclose(one, all_at_once, atol=HALF_A_GRAY_LEVEL)


def test_latents_of_another_generator_are_refused(nodes: dict[str, Any], model: Any, generator: Any) -> None:
    strange = Latents(latents_of(generator).ws, base_hash="0123456789abcdef")
    with pytest.raises(ValueError, match="belong to generator 0123456789ab"):
        nodes["Render"].render(model, strange, "mean", 0, 2, cameras_of(nodes))


def test_the_demo_person_comes_with_a_camera_for_every_view(nodes: dict[str, Any]) -> None:
    photos, cameras = nodes["LoadDemoPerson"].load("photos", 50)
    assert len(photos) == len(cameras) >= 20
    views, their_cameras = nodes["LoadDemoPerson"].load("held-out views", 3)
    assert len(views) == len(their_cameras) == 3
    assert 0 <= float(photos.min()) < 0.2
    assert float(photos.max()) == pytest.approx(1, abs=0.02)


def test_photos_of_any_size_are_read_in_the_order_of_their_names(
    nodes: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "input" / "me"
    folder.mkdir(parents=True)
    for number, size in ((10, (300, 200)), (2, (80, 120))):
        Image.new("RGB", size, (200, 10, 10)).save(folder / f"photo{number}.png")
    (folder / "notes.txt").write_text("no photo")
    (folder / "photo3.jpg").write_bytes(b"broken")
    shown = nodes["LoadPhotos"].load("me", 50, 256)
    photos, names = shown["result"]
    assert names == ["photo2.png", "photo10.png"]
    assert [tuple(photo.shape) for photo in photos] == [(1, 120, 80, 3), (1, 170, 256, 3)]
    assert photos[0][0, 0, 0].tolist() == pytest.approx([200 / 255, 10 / 255, 10 / 255])
    assert "left out: photo3.jpg cannot be read" in shown["ui"]["text"][0]
    assert "left out, not a picture: notes.txt" in shown["ui"]["text"][0]


def test_a_sheet_has_a_row_for_each_photo(
    nodes: dict[str, Any], model: Any, generator: Any, photos: torch.Tensor
) -> None:
    anchors = latents_of(generator, camera_path("swing", 3))
    compare = nodes["Compare"].compare
    sheet, text = compare(model, model, photos, anchors, 2, 30.0, 64)["result"]
    taller, _ = compare(model, model, photos, anchors, 3, 30.0, 64)["result"]
    assert sheet.shape[2] == taller.shape[2] > 5 * 64
    assert taller.shape[1] - sheet.shape[1] > 64
    assert "(+0.00 dB)" in text
