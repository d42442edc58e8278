"""The training monitor: what is recorded and sent to the page."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from face_fixtures import models, real_batch

from my3dgen_core.common.image_ops import resize


@pytest.fixture
def monitor(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.server.training_monitor"]


def test_a_curve_stays_small_and_keeps_its_mean_and_its_end(monitor: ModuleType) -> None:
    curve = monitor.Curve()
    for step in range(1, 10_001):
        curve.add(step, float(step))
    steps, losses = zip(*curve.points, strict=True)
    assert 100 < len(steps) <= monitor.MAX_POINTS
    assert list(steps) == sorted(steps)
    assert steps[-1] > 9_900
    apart = {later - earlier for earlier, later in pairwise(steps)}
    assert len(apart) == 1
    each = apart.pop()
    assert losses[5] == pytest.approx(steps[5] - (each - 1) / 2)


def test_a_preview_history_stays_small_and_spreads_over_the_steps(monitor: ModuleType) -> None:
    history = monitor.PreviewHistory()
    for step in range(1, 1001):
        history.add(step, str(step))
        assert len(history.pictures) < monitor.MAX_PREVIEWS
    steps = [step for step, _ in history.pictures]
    assert len({later - earlier for earlier, later in pairwise(steps)}) == 1
    assert steps[0] < 150
    assert steps[-1] > 850


def test_steps_are_passed_on_and_told(monitor: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told, passed = [], []
    monkeypatch.setattr(monitor.host, "publish", lambda event, data: told.append((event, data)))
    watched = monitor.watch("7", lambda *given: passed.append(given[:2]), torch.zeros(2, 3, 32, 32))
    for step in (1, 2, 3):
        watched(step, 3, {"loss": 1 / step}, torch.zeros(1, 3, 16, 16))
    assert passed == [(1, 3), (2, 3), (3, 3)]
    event, last = told[-1]
    assert event == "my3dgen.training"
    assert (last["node"], last["state"], last["step"], last["left"]) == ("7", "done", 3, 0)
    assert last["curve"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert last["now"].startswith("data:image/jpeg;base64,")


def test_what_ends_a_training_goes_through_and_is_told(
    monitor: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(monitor.host, "publish", lambda event, data: told.append(data["state"]))

    def cancel(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        monitor.watch("7", cancel, torch.zeros(1, 3, 32, 32))(1, 3, {"loss": 1.0})
    assert told == ["stopped"]


def told_of(monitor: ModuleType, monkeypatch: pytest.MonkeyPatch, images: Any, load: Any) -> dict[str, Any]:
    """State of the page after three steps, with a picture at the first and at the last."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(monitor.host, "publish", lambda event, data: told.append(data))
    photo, first, last = images
    watched = monitor.watch("7", lambda *_: None, photo, monitor.IdentitySimilarity(photo, load))
    watched(1, 3, {"loss": 1.0}, first)
    watched(2, 3, {"loss": 1.0})
    watched(3, 3, {"loss": 1.0}, last)
    return told[-1]


def test_with_every_picture_it_is_told_how_like_the_photo_it_is(
    monitor: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    man, _, _, other, *_ = real_batch().images.split(1)
    told = told_of(monitor, monkeypatch, (man, other, resize(man, 128)), models)
    (first, like_other), (last, like_himself) = told["similarity"]
    assert (first, last, told["note"]) == (1, 3, "")
    assert like_other < 0.4
    assert like_himself > 0.8
    assert [step for step, _ in told["seen"]] == [1, 3]


def no_models() -> Any:
    raise FileNotFoundError("No face models found.")


def broken() -> Any:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("load", "note"),
    [
        (no_models, "Without face models the identity similarity is not measured."),
        (broken, "The identity similarity could not be measured: the server's log says why."),
        (models, "No face was found in the photo: the identity similarity is not measured."),
    ],
)
def test_without_the_means_a_line_says_so_and_the_training_goes_on(
    monitor: ModuleType, monkeypatch: pytest.MonkeyPatch, load: Any, note: str
) -> None:
    gray = torch.zeros(1, 3, 64, 64)
    told = told_of(monitor, monkeypatch, (gray, gray, gray), load)
    assert (told["state"], told["similarity"], told["note"]) == ("done", [], note)


def test_a_curve_leaves_out_what_is_no_number(monitor: ModuleType) -> None:
    curve = monitor.Curve()
    for step, loss in enumerate([0.5, float("nan"), float("inf"), 0.25]):
        curve.add(step, loss)
    assert curve.points == [(0, 0.5), (3, 0.25)]
