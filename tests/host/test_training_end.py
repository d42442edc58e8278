"""Ends of trainings: finished, canceled or diverged; what is kept of them, where, and what is said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy
import micro
import pytest
import torch
from prompts import node, tiny_prompt
from trainings import when_training

from my3dgen_core import Identity, Latents, camera_path


@pytest.fixture
def host(pack: Any) -> Any:
    return sys.modules["my3dgen_pack.nodes.host"]


@pytest.fixture
def monitor(pack: Any) -> Any:
    return sys.modules["my3dgen_pack.nodes.server.training_monitor"]


@pytest.fixture
def train(nodes: dict[str, Any], model: Any, generator: Any, folders: Path, executor: None) -> Any:
    """Train Identity on three gray photos; keyword arguments replace its settings."""
    with torch.inference_mode(False):
        cameras = camera_path("swing", 3)
        anchors = Latents(micro.latents(generator, 3), cameras, base_hash=generator.base_hash())

    def run(brightness: float = 0.5, **settings: Any) -> dict[str, Any]:
        values: dict[str, Any] = {"steps": 3, "method": "lora", "rank": 1, "learning_rate": 0.01}
        values |= {"batch_size": 1, "seed": 0} | settings
        photos = torch.full((3, 64, 64, 3), brightness)
        return nodes["TrainIdentity"].train(model, photos, anchors, **values)

    return run


class CanceledError(Exception):
    pass


@pytest.fixture
def cancel_at(host: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the user cancel at a step; 0: not."""
    wanted = [0]

    def on_step(step: int, *_: Any) -> None:
        if step == wanted[0]:
            raise CanceledError

    monkeypatch.setattr(host, "progress", lambda node_id, what="": on_step)
    monkeypatch.setattr(host, "interruptions", lambda: (CanceledError,))
    return lambda step: wanted.__setitem__(0, step)


def files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "name", ["125", "12_5", "12-5", "12.5", "12", "12%3A5", "12:5:", ".", "..", "../12:5", "A"]
)
def test_different_ids_have_different_state_folders_below_the_output(host: Any, name: str) -> None:
    folder = host.state_folder("training", name)
    assert folder != host.state_folder("training", "12:5")
    assert folder.resolve().parent == host.output_root().resolve() / "my3dgen" / "training"
    assert not set(folder.name) & set('<>:"/\\|?*')


def test_a_finished_training_leaves_no_state_and_refuses_no_other(train: Any, folders: Path) -> None:
    first = train(steps=1, keep_state=True, node_id="5")["result"][0]
    assert files(folders) == []
    for settings in ({"steps": 2}, {"steps": 1, "brightness": 0.4}, {"steps": 1}):
        again = train(keep_state=True, node_id="5", **settings)["result"][0]
        assert len(again.history) == settings["steps"]
    assert again.history == first.history
    assert files(folders) == []


def test_a_canceled_training_with_state_goes_on_where_it_was_though_another_ran_in_between(
    train: Any, folders: Path, cancel_at: Any, monitor: Any
) -> None:
    whole = train(steps=3)["result"][0]
    cancel_at(2)
    with pytest.raises(CanceledError):
        train(steps=3, keep_state=True, node_id="5")
    (kept,) = files(folders)
    assert kept.startswith("output/my3dgen/training/")
    note = monitor._STATES["5"]["note"]
    assert note.startswith("Canceled after step 2 of 3.")
    assert str(Path(kept).parent) in note
    assert monitor._STATES["5"]["state"] == "stopped"

    cancel_at(0)
    train(steps=1, keep_state=True, node_id="5")
    assert files(folders) == [kept]
    resumed = train(steps=3, keep_state=True, node_id="7")["result"][0]  # also from another node
    assert resumed.history == whole.history
    assert all(torch.equal(t, whole.adapter.tensors[k]) for k, t in resumed.adapter.tensors.items())
    assert files(folders) == []


def test_a_training_whose_state_another_comfyui_uses_has_a_state_of_its_own(
    train: Any, folders: Path, cancel_at: Any, host: Any
) -> None:
    whole = train(steps=3)["result"][0]
    cancel_at(2)
    with pytest.raises(CanceledError):
        train(steps=3, keep_state=True)
    (first,) = files(folders)
    with host.claimed(Path(first).parent.absolute()) as state:
        assert state == folders / Path(first).parent
        cancel_at(1)
        with pytest.raises(CanceledError):
            train(steps=3, keep_state=True)
        locked = state.with_name(f".{state.name}.lock").relative_to(folders).as_posix()
        second = first.replace(state.name, f"{state.name}-2")
        assert files(folders) == sorted([locked, first, second])
        cancel_at(0)
        assert train(steps=3, keep_state=True)["result"][0].history == whole.history  # from the second
        assert files(folders) == sorted([locked, first])
    assert files(folders) == [first]
    assert train(steps=3, keep_state=True)["result"][0].history == whole.history
    assert files(folders) == []


def test_a_canceled_training_without_state_writes_the_identity_so_far(
    train: Any, folders: Path, cancel_at: Any, monitor: Any, host: Any
) -> None:
    whole = train(steps=3)["result"][0]
    cancel_at(2)
    with pytest.raises(CanceledError):
        train(steps=3, node_id="12:5")
    (kept,) = files(folders)
    assert kept == "output/my3dgen/identities/canceled_00001_.safetensors"
    assert kept in monitor._STATES["12:5"]["note"]
    assert Path(kept).name in host.list_models(host.IDENTITIES)
    with torch.inference_mode(False):
        identity = Identity.load(folders / kept)
    assert identity.provenance["steps_done"] == 2
    assert identity.provenance["final_loss"] == whole.history[1]


def test_a_full_disk_does_not_hide_that_the_training_was_canceled(
    train: Any, cancel_at: Any, monitor: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(prefix: str, suffix: str) -> Iterator[Path]:
        raise OSError(28, "No space left on device")
        yield Path()

    monkeypatch.setattr(host, "save_path", full)
    cancel_at(1)
    with pytest.raises(CanceledError):
        train(steps=2, node_id="5")
    assert "could not be written: [Errno 28] No space left" in monitor._STATES["5"]["note"]


def test_a_diverged_training_returns_its_last_good_identity_with_a_warning(
    train: Any, folders: Path, monitor: Any
) -> None:
    ended = train(steps=30, learning_rate=1.0, node_id="5", keep_state=True)
    identity, plot, summary = ended["result"]
    warning, size, chosen = summary.split("\n")
    assert chosen.startswith("auto (")
    assert warning.startswith("Warning: The training diverged: its loss was ")
    assert "Lower the learning rates. " in warning
    done = identity.provenance["steps_done"]
    assert f"after {done} steps" in warning or (done == 0 and "this identity is untrained" in warning)
    assert identity.history[-1] <= identity.history[0]
    assert bool(torch.isfinite(plot).all())
    assert "parameters" in size
    assert ended["ui"]["text"] == [summary]
    assert (monitor._STATES["5"]["state"], monitor._STATES["5"]["note"]) == ("stopped", warning)
    assert files(folders) == []


def test_a_training_that_fails_is_not_shown_as_running(
    train: Any, host: Any, monitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = sys.modules["my3dgen_core.fitting.tuning"]

    def fail(self: Any, *arguments: Any) -> float:
        raise RuntimeError("the sizes do not fit")

    monkeypatch.setattr(tuning.Training, "advance", fail)
    with pytest.raises(RuntimeError, match="sizes do not fit"):
        train(node_id="5")
    assert monitor._STATES["5"]["state"] == "stopped"


@pytest.mark.parametrize("keep_state", [False, True])
def test_cancel_in_comfyui_leaves_a_file_and_says_where(
    server: comfy.Server, base: Path, keep_state: bool
) -> None:
    before = set(files(base / "output"))
    settings = {"steps": 100_000 + keep_state, "keep_state": keep_state}
    canceled = server.run(tiny_prompt(train=settings), when_training(server, 5, server.interrupt))
    assert canceled.status == "interrupted"
    (kept,) = set(files(base / "output")) - before
    note = server.get("/my3dgen/training")["trainings"]["train"]["note"]
    assert note.startswith("Canceled after step ")
    if keep_state:
        assert str(Path(kept).parent) in note
        return
    assert kept in note
    again = {"load": node("LoadIdentity", file=Path(kept).name)}
    again["keep"] = node(
        "SaveIdentity", identity=["load", 0], filename_prefix="my3dgen/identities/x", precision="float32"
    )
    assert server.run(again).status == "success"
