"""Live pictures: accepted requests, answers, and what is kept in memory."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import math
import sys
import weakref
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from live_bodies import hostile_bodies
from micro import generator as micro_generator
from micro import latents
from PIL import Image

from my3dgen_core import Adapter, Direction, Identity, Latents, look_at


@pytest.fixture
def live(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.server.live_preview"]


@pytest.fixture
def sockets(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.socket_types"]


@pytest.fixture(scope="module")
def generator() -> Any:
    return micro_generator(0)


@pytest.fixture
def model(pack: ModuleType, sockets: ModuleType, generator: Any) -> Any:
    return sockets.Model(sys.modules["my3dgen_pack.nodes.host"].manage(generator), "tiny")


@pytest.fixture
def previews(live: ModuleType) -> Any:
    return live.LivePreviewServer(live.Handles())


def head_of(live: ModuleType, model: Any, ws: torch.Tensor) -> Any:
    return live.Head(weakref.ref(model), ws)


def ask(previews: Any, **fields: Any) -> Any:
    return asyncio.run(previews.answer(json.dumps(fields).encode()))


def said(answer: Any) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


def pixels(answer: Any) -> np.ndarray:
    assert (answer.status, answer.kind) == (200, "image/jpeg"), answer.body[:200]
    return np.asarray(Image.open(io.BytesIO(answer.body))).astype(int)


def test_a_picture_is_what_the_generator_renders_from_that_camera(
    pack: ModuleType, live: ModuleType, previews: Any, model: Any, generator: Any
) -> None:
    ws = latents(generator, 1)
    handle = previews.handles.give(head_of(live, model, ws), model)
    shown = pixels(ask(previews, head=handle, yaw=30, pitch=-10))
    (camera,) = pack.NODE_CLASS_MAPPINGS["My3DGenCamera"]().make(30.0, -10.0, 0.0, 2.7, 13.3738, model)
    with torch.no_grad():
        image = generator.render(ws, camera.values).image[0].clamp(-1, 1)
    expected = ((image + 1) * 127.5).permute(1, 2, 0).numpy()
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 4  # what JPEG takes away
    small = pixels(ask(previews, head=handle, yaw=30, pitch=-10, quality="drag"))
    assert small.shape == (64, 64, 3)
    reduced = np.asarray(Image.fromarray(expected.astype(np.uint8)).resize((64, 64), Image.Resampling.BOX))
    assert np.abs(small - reduced.astype(int)).mean() < 40


def test_a_picture_is_the_persons_and_the_generator_stays_as_it_is(
    live: ModuleType, previews: Any, model: Any, generator: Any
) -> None:
    adapter = Adapter.create(generator, 1, "released", "lora", seed=0)
    for key, tensor in adapter.tensors.items():
        if "lora_up" in key:
            tensor.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.5)
    ws = latents(generator, 1)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    person = Identity(adapter, Latents(ws, base_hash=generator.base_hash()), generator.base_hash(), {})
    personal = model.with_identity(person, 1.0)
    plain = pixels(ask(previews, head=previews.handles.give(head_of(live, model, ws), model)))
    theirs = pixels(ask(previews, head=previews.handles.give(head_of(live, personal, ws), personal)))
    again = pixels(ask(previews, head=previews.handles.give(head_of(live, model, ws), model)))
    assert np.abs(plain - theirs).mean() > 1
    assert np.array_equal(plain, again)
    after = generator.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_weights_and_edits_make_the_latent(
    live: ModuleType, previews: Any, model: Any, generator: Any
) -> None:
    anchors = Latents(latents(generator, 3), base_hash=generator.base_hash())
    direction = Direction("test", torch.randn(generator.config.w_dim), base_hash=generator.base_hash())
    give = previews.handles.give
    head = give(head_of(live, model, anchors.ws[:1]), model)
    mixture = give(live.Mixture(anchors), anchors)
    edit = give(live.Edit(anchors.ws[1:2], direction, None, None, "stop"), anchors)
    second = pixels(ask(previews, head=give(head_of(live, model, anchors.ws[1:2]), model)))
    mixed = pixels(ask(previews, head=head, weights={"handle": mixture, "values": [0, 1, 0]}))
    unmoved = pixels(ask(previews, head=head, edits=[{"handle": edit, "strength": 0}]))
    moved = pixels(ask(previews, head=head, edits=[{"handle": edit, "strength": 5}]))
    assert np.array_equal(mixed, second)
    assert np.array_equal(unmoved, second)
    assert np.abs(moved - second).mean() > 0.5
    assert said(ask(previews, head=head, weights={"handle": mixture, "values": [0.5, 0.5]}))[0] == 400
    assert said(ask(previews, head=head, weights={"handle": edit, "values": [0, 1, 0]}))[0] == 404


def test_latent_and_pose_are_mixed_together(
    live: ModuleType, previews: Any, model: Any, generator: Any
) -> None:
    seen = look_at(torch.tensor([-0.5, 0.5]), torch.tensor([0.1, 0.1]))
    anchors = Latents(latents(generator, 2), seen, base_hash=generator.base_hash())
    head = previews.handles.give(head_of(live, model, anchors.ws[:1]), model)
    values = {"handle": previews.handles.give(live.Mixture(anchors), anchors), "values": [0, 1]}
    there = pixels(ask(previews, head=head, weights=values, aim="anchors"))
    turned = pixels(ask(previews, head=head, weights=values, aim="origin", yaw=math.degrees(0.5), pitch=5.73))
    front = pixels(ask(previews, head=head, weights=values, aim="origin"))
    assert np.abs(there - turned).mean() < 0.5
    assert np.abs(there - front).mean() > 1
    assert said(ask(previews, head=head, aim="anchors"))[0] == 400


def test_while_a_prompt_runs_the_page_is_told_so(
    live: ModuleType, previews: Any, sockets: ModuleType, model: Any, generator: Any, monkeypatch: Any
) -> None:
    handle = previews.handles.give(head_of(live, model, latents(generator, 1)), model)
    with model.ready():
        assert said(ask(previews, head=handle)) == (503, live.BUSY)
    monkeypatch.setattr(live.host, "busy", lambda: True)
    assert said(ask(previews, head=handle)) == (503, live.BUSY)


def test_of_many_requests_for_one_head_the_newest_wins(
    live: ModuleType, previews: Any, model: Any, generator: Any
) -> None:
    handle = previews.handles.give(head_of(live, model, latents(generator, 1)), model)

    async def drag() -> list[Any]:
        bodies = [json.dumps({"head": handle, "yaw": yaw, "quality": "drag"}).encode() for yaw in range(12)]
        return await asyncio.gather(*(previews.answer(body) for body in bodies))

    answers = asyncio.run(drag())
    assert answers[-1].status == 200
    assert {answer.status for answer in answers[1:-1]} == {409}
    assert np.array_equal(pixels(answers[-1]), pixels(ask(previews, head=handle, yaw=11, quality="drag")))


def test_handles_vanish_with_their_model(live: ModuleType, previews: Any, model: Any, generator: Any) -> None:
    gone = model.without_identities()
    kept = previews.handles.give(head_of(live, model, latents(generator, 1)), model)
    handle = previews.handles.give(head_of(live, gone, latents(generator, 1)), gone)
    assert ask(previews, head=handle).status == 200
    del gone
    gc.collect()
    assert said(ask(previews, head=handle))[0] == 404
    assert previews._copy is None  # nothing of its weights is held either
    assert ask(previews, head=kept).status == 200


def test_handles_are_bounded_and_the_least_recently_used_goes(live: ModuleType, model: Any) -> None:
    handles = live.Handles(count=3, nbytes=1 << 20)
    first, second, _ = (handles.give(live.Mixture(Latents(torch.zeros(1, 2, 4))), model) for _ in range(3))
    handles.find(first, live.Mixture)
    handles.give(live.Mixture(Latents(torch.zeros(1, 2, 4))), model)
    assert len(handles) == 3
    handles.find(first, live.Mixture)
    with pytest.raises(live.RequestError, match="not known here"):
        handles.find(second, live.Mixture)
    handles.give(live.Mixture(Latents(torch.zeros(200, 10, 100))), model)  # 800 kB: the others still fit
    handles.give(live.Mixture(Latents(torch.zeros(200, 10, 100))), model)
    assert len(handles) == 1


# --- Hostile requests ---------------------------------------------------------------------------------------


def test_two_hundred_hostile_requests_get_a_message_each(
    live: ModuleType, previews: Any, model: Any, generator: Any
) -> None:
    handle = previews.handles.give(head_of(live, model, latents(generator, 1)), model)
    for body in hostile_bodies(handle):
        answer = asyncio.run(previews.answer(body))
        assert 400 <= answer.status < 500, body[:200]
        _, message = said(answer)
        assert message.endswith(".")
        assert "Traceback" not in message
        assert "passwd" not in message
    assert ask(previews, head=handle).status == 200
