"""The course of a training, as the page is told it."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType

import pytest
import torch


@pytest.fixture
def monitor(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.monitor"]


def test_a_curve_stays_small_and_keeps_its_mean_and_its_end(monitor: ModuleType) -> None:
    curve = monitor.Curve()
    for step in range(1, 10_001):
        curve.add(step, float(step))
    steps, losses = zip(*curve.points, strict=True)
    assert 100 < len(steps) <= monitor.POINTS
    assert list(steps) == sorted(steps)
    assert steps[-1] > 9_900
    apart = {later - earlier for earlier, later in pairwise(steps)}
    assert len(apart) == 1
    each = apart.pop()
    assert losses[5] == pytest.approx(steps[5] - (each - 1) / 2)


def test_steps_are_passed_on_and_told(monitor: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told, passed = [], []
    monkeypatch.setattr(monitor.host, "publish", lambda event, data: told.append((event, data)))
    watched = monitor.watch("7", lambda *given: passed.append(given[:2]), torch.zeros(2, 32, 32, 3))
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
        monitor.watch("7", cancel, torch.zeros(1, 32, 32, 3))(1, 3, {"loss": 1.0})
    assert told == ["stopped"]
