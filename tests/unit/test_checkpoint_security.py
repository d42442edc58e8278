"""Hostile files are refused fast and in little memory; nothing in them runs, and nothing is written."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import goldens
import hostile_files
import hostile_modules
import official_files
import pytest
import torch

from my3dgen_core import CheckpointError
from my3dgen_core.eg3d.official_pickle import find_generator, is_module, module_config, module_state
from my3dgen_core.formats.torch_archive import opened

pytestmark = pytest.mark.slow
RUNNER = Path(official_files.__file__).with_name("run_hostile_files.py")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    files = hostile_files.hostile_files()
    for index, (_, data) in enumerate(files):
        (folder / f"{index:05d}").write_bytes(data)
    state = {key: value.float() for key, value in goldens.tensors("tiny_weights").items()}
    good = official_files.official(state, goldens.values("tiny_config"))
    (folder / "good.pkl").write_bytes(official_files.Writer(4).dump({"G_ema": good}))
    (folder / "good.json").write_text("{}")
    listing = sorted(os.listdir(folder))
    canary = folder / "canary"
    paths = os.pathsep.join([str(RUNNER.parent), str(RUNNER.parent.parent)])
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(folder)],
        env={**os.environ, "CANARY": str(canary), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = [name for name, _ in files]
    results = dict(zip(names, json.loads(done.stdout), strict=True))
    return {"results": results, "before": listing, "after": sorted(os.listdir(folder)), "canary": canary}


def test_there_are_at_least_200_different_files(suite):
    assert len(suite["results"]) >= 200


def test_every_file_is_refused_with_a_checkpoint_error_by_every_reader(suite):
    wrong = {
        name: outcome
        for name, result in suite["results"].items()
        for outcome in result["outcomes"]
        if not outcome.startswith("CheckpointError: ")
    }
    assert wrong == {}


def test_nothing_in_them_is_executed_imported_or_opened_for_writing(suite):
    assert not suite["canary"].exists()
    assert {name: r["events"] for name, r in suite["results"].items() if r["events"]} == {}


def test_nothing_is_written(suite):
    assert suite["after"] == suite["before"]


def test_each_is_refused_within_two_seconds_by_every_reader(suite):
    # of processor time: the machine may be busy with something else
    assert {n: r["seconds"] for n, r in suite["results"].items() if r["seconds"] > 2} == {}


def test_all_of_them_together_need_less_than_200_mb_above_the_imports(suite):
    assert max(result["megabytes"] for result in suite["results"].values()) < 200


def test_messages_are_one_short_line(suite):
    long = {
        name: outcome
        for name, result in suite["results"].items()
        for outcome in result["outcomes"]
        if len(outcome) > 500 or "\n" in outcome
    }
    assert long == {}


def test_random_damage_is_read_or_refused_and_nothing_else(tmp_path):
    tensors = {"a.weight": torch.ones(2, 3), "a.b.noise_const": torch.ones(4)}
    made = official_files.official(tensors, {"z_dim": 64, "rendering_kwargs": hostile_modules.RENDERING})
    whole = [official_files.Writer(4).dump({"G_ema": made}), official_files.zip_file(made)]
    whole.append(official_files.legacy_file(made))
    draw = random.Random(0)
    for _ in range(1500):
        data = bytearray(draw.choice(whole))
        for _ in range(draw.choice((1, 1, 2, 4))):
            place = draw.randrange(len(data))
            if draw.random() < 0.7:
                data[place] = draw.randrange(256)
            elif draw.random() < 0.5:
                del data[place : place + draw.randrange(1, 20)]
            else:
                other = draw.randrange(len(data))
                data[place:place] = data[other : other + draw.randrange(1, 60)]
        path = official_files.write(tmp_path / "damaged", bytes(data))
        with contextlib.suppress(CheckpointError), opened(path) as root:
            generator = find_generator(root)
            if is_module(generator):
                for value in module_state(generator).values():
                    value.read()
                module_config(generator)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", "torch.hub.load"])
def test_an_unknown_name_is_in_the_message(suite, name):
    result = suite["results"][f"call {name} alone"]
    assert f"'{name}'" in result["outcomes"][0]
