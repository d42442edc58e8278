"""Long trainings resume bit for bit, stop early with a result, and report errors."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import micro
import pytest
import torch

from my3dgen_core import Identity, Latents, TuningConfig, look_at, personalize, personalized, pivotal_tune
from my3dgen_core.camera import rotate_cameras
from my3dgen_core.evaluation import psnr
from my3dgen_core.fitting.trainer import STATE_FILE, Training
from my3dgen_core.fitting.tuning import DivergedError, StopAndKeep

TUNING = TuningConfig(steps=12, patch=16, preview_every=0)
CAMERAS = look_at(torch.tensor([-0.3, 0.0, 0.3]), torch.tensor([0.1, 0.0, -0.1]))


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def anchors(generator):
    return Latents(micro.latents(generator, 3), CAMERAS)


@pytest.fixture(scope="module")
def photos(generator, anchors):
    with torch.no_grad():
        images = generator.render(anchors.ws, CAMERAS).image.clamp(-1, 1)
    images[:, :, 40:80, 40:80] *= -1
    return images


def equal(a: Identity, b: Identity) -> bool:
    return all(torch.equal(b.adapter.tensors[key], value) for key, value in a.adapter.tensors.items())


class CutError(Exception):
    pass


def cut_at(wanted: int):
    def on_step(step, *_):
        if step == wanted:
            raise CutError

    return on_step


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"method": "full"}, {"refine": True, "mirrored": 0.1}])
def test_a_training_cut_off_goes_on_as_if_nothing_had_happened(generator, photos, anchors, tmp_path, changes):
    config = dataclasses.replace(TUNING, checkpoint_every=4, **changes)
    whole = personalize(generator, photos, anchors, config)
    kept = dataclasses.replace(config, checkpoint_dir=str(tmp_path))
    with pytest.raises(CutError):
        personalize(generator, photos, anchors, kept, on_step=cut_at(7))
    seen = []
    resumed = personalize(generator, photos, anchors, kept, on_step=lambda step, *_: seen.append(step))
    assert seen == list(range(5, 13))  # from the state of step 4
    assert resumed.history == whole.history
    assert equal(resumed, whole)
    assert torch.equal(resumed.anchors.ws, whole.anchors.ws)
    assert torch.equal(resumed.anchors.cameras, whole.anchors.cameras)


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_written(tmp_path):
    here = Path(__file__).resolve().parent.parent
    program = f"""
import sys, torch
sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]
torch.set_num_threads(1)
import micro, dataclasses
from my3dgen_core import Latents, TuningConfig, look_at, personalize
g = micro.generator()
cameras = look_at(torch.tensor([-.3, .3]), 0.0)
anchors = Latents(micro.latents(g, 2), cameras)
with torch.no_grad():
    photos = -g.render(anchors.ws, cameras).image.clamp(-1, 1)
config = TuningConfig(steps=10, patch=16, preview_every=0, checkpoint_every=1, checkpoint_dir=sys.argv[1])
def told(step, *_):
    print(step, flush=True)
person = personalize(g, photos, anchors, config, on_step=told)
print("sum", sum(float(t.double().sum()) for t in person.adapter.tensors.values()), person.history)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder):
        command = [sys.executable, "-c", program, str(folder)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    killed = start(tmp_path / "killed")
    for line in killed.stdout:
        if line.strip() == "4":
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait()
    again = start(tmp_path / "killed").communicate()[0].splitlines()
    whole = start(tmp_path / "whole").communicate()[0].splitlines()
    assert int(again[0]) > 4
    assert again[-1] == whole[-1]
    assert whole[-1].startswith("sum")


def test_the_state_of_another_training_is_refused(generator, photos, anchors, tmp_path):
    config = dataclasses.replace(TUNING, steps=2, checkpoint_dir=str(tmp_path))
    personalize(generator, photos, anchors, config)
    with pytest.raises(ValueError, match="other photos or settings"):
        personalize(generator, photos.flip(3), anchors, config)
    with pytest.raises(ValueError, match="other photos or settings"):
        personalize(generator, photos, anchors, dataclasses.replace(config, rank=2))
    (tmp_path / STATE_FILE).write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="cannot be read"):
        personalize(generator, photos, anchors, config)


def test_stopping_early_keeps_what_is_trained(generator, photos, anchors):
    def on_step(step, *_):
        if step == 5:
            raise StopAndKeep

    identity = personalize(generator, photos, anchors, TUNING, on_step=on_step)
    assert len(identity.history) == identity.provenance["steps_done"] == 5
    assert any(bool((tensor != 0).any()) for key, tensor in identity.adapter.tensors.items() if "up" in key)


@pytest.mark.slow
def test_an_identity_can_be_trained_further(generator, photos, anchors):
    whole = dataclasses.replace(TUNING, patch=0)
    first = personalize(generator, photos, anchors, whole)
    more = personalize(generator, photos, anchors, whole, start=first)
    assert sum(more.history[:3]) < sum(first.history[:3])
    assert more.provenance["continued_from"] == first.content_hash()
    with pytest.raises(ValueError, match="Make them equal"):
        personalize(generator, photos, anchors, dataclasses.replace(TUNING, rank=2), start=first)


def test_a_training_that_diverges_hands_over_its_last_good_state(generator, photos, anchors):
    calm, wild = {"lr": 1e-3, "affine_lr": 1e-3}, {"lr": 1e12, "affine_lr": 1e12, "diff_lr": 1e12}
    with pytest.raises(DivergedError, match="Lower the learning rates") as caught:
        personalize(generator, photos, anchors, dataclasses.replace(TUNING, **calm | wild))
    identity = caught.value.identity
    assert identity is not None
    assert all(bool(torch.isfinite(tensor).all()) for tensor in identity.adapter.tensors.values())


@pytest.mark.slow
def test_refining_takes_back_errors_of_the_cameras(generator, anchors):
    with torch.no_grad():  # random super-resolution paints something else over the raw picture
        images = generator.render(anchors.ws, CAMERAS).image_raw.clamp(-1, 1)
    images = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    error = torch.zeros(3, 5)
    error[:, 1] = torch.tensor([0.05, -0.06, 0.05])
    labeled = dataclasses.replace(anchors, cameras=rotate_cameras(CAMERAS, error))
    still = {"lr": 0.0, "affine_lr": 0.0, "diff_lr": 0.0, "anchor_lr": 0.0}
    config = TuningConfig(steps=60, patch=32, batch_size=3, refine=True, preview_every=0)
    found = personalize(generator, images, labeled, dataclasses.replace(config, **still)).anchors.cameras

    def off(cameras):
        return float((cameras[:, :16] - CAMERAS[:, :16]).norm(dim=1).mean())

    assert off(found) < 0.5 * off(labeled.cameras)
    radius = found.view(-1, 25)[:, [3, 7, 11]].norm(dim=1)
    assert torch.allclose(radius, CAMERAS[:, [3, 7, 11]].norm(dim=1), atol=1e-4)


@pytest.mark.slow
def test_refined_anchors_in_w_stay_in_w(generator, photos, anchors):
    config = dataclasses.replace(TUNING, refine=True)
    identity = personalize(generator, photos, anchors, config)
    assert not torch.equal(identity.anchors.ws, anchors.ws)
    assert bool((identity.anchors.ws == identity.anchors.ws[:, :1]).all())


@pytest.mark.slow
def test_without_background_weight_what_lies_off_the_head_is_not_looked_at(generator, photos, anchors):
    heads = torch.zeros(3, 1, 128, 128)
    heads[:, :, :, :64] = 1
    cluttered = photos.clone()
    cluttered[..., 72:] = torch.rand(3, 3, 128, 56, generator=torch.Generator().manual_seed(0))
    config = dataclasses.replace(TUNING, steps=3, patch=0, background_weight=0.0)
    plain, clutter = (personalize(generator, p, anchors, config, heads=heads) for p in (photos, cluttered))
    assert plain.history == pytest.approx(clutter.history, rel=1e-3)
    half = dataclasses.replace(config, background_weight=0.5)
    assert personalize(generator, cluttered, anchors, half, heads=heads).history != clutter.history


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_running_out_of_memory_once_goes_on_with_less(generator, photos, anchors, monkeypatch, error):
    config = dataclasses.replace(TUNING, batch_size=2, steps=3)
    whole = personalize(generator, photos, anchors, config)
    real, calls = Training._backward, []

    def backward(self, parts, flipped):
        calls.append(len(parts))
        if len(calls) == 2:
            raise error
        return real(self, parts, flipped)

    monkeypatch.setattr(Training, "_backward", backward)
    identity = personalize(generator, photos, anchors, config)
    assert calls == [1, 1, 2, 2]
    assert "memory ran out" in identity.provenance["frugal"]
    assert len(identity.history) == 3
    assert identity.history[0] == whole.history[0]


def test_another_failure_is_not_taken_for_a_full_memory(generator, photos, anchors, monkeypatch):
    def backward(self, parts, flipped):
        raise RuntimeError("the sizes do not fit")

    monkeypatch.setattr(Training, "_backward", backward)
    with pytest.raises(RuntimeError, match="do not fit"):
        personalize(generator, photos, anchors, TUNING)


@pytest.mark.slow
def test_pivotal_tuning_stacks_on_a_person_and_names_what_lies_below(generator, photos, anchors, tmp_path):
    person = personalize(generator, photos, anchors, TUNING)
    one = Latents(anchors.ws[:1], CAMERAS[:1])
    changed = photos[:1].clone()
    changed[:, :, 90:110, 30:100] = 1
    config = dataclasses.replace(TUNING, steps=30)
    look = pivotal_tune(generator, changed, one, config, over=person)
    assert look.base_identity_hash == person.content_hash()
    assert look.base_hash == generator.base_hash()
    with torch.no_grad():
        with personalized(generator, person):
            before = psnr(generator.render(one.ws, one.cameras).image, changed)
        with personalized(generator, [person, look]):
            after = psnr(generator.render(one.ws, one.cameras).image, changed)
    assert float(after) > float(before) + 0.2
    look.save(tmp_path / "look.safetensors")
    assert Identity.load(tmp_path / "look.safetensors").base_identity_hash == person.content_hash()


def test_presets_are_plain_settings_that_a_file_can_hold():
    from my3dgen_core.fitting.tuning import PRESETS

    assert PRESETS["default"] == TuningConfig()
    paper = json.loads(json.dumps(dataclasses.asdict(PRESETS["paper"])))
    assert (paper["steps"], paper["batch_size"], paper["lr"], paper["patch"]) == (125_000, 4, 2e-3, 0)


def test_a_state_that_cannot_be_written_does_not_end_the_training(
    generator, photos, anchors, tmp_path, monkeypatch, caplog
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Training, "save", full)
    kept = dataclasses.replace(TUNING, checkpoint_dir=str(tmp_path), checkpoint_every=2)
    identity = personalize(generator, photos, anchors, kept)
    assert identity.provenance["steps_done"] == 12
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert str(tmp_path) in warnings[0]
    assert "No space left on device" in warnings[0]
