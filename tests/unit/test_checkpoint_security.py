"""Hostile files are refused: nothing of them runs, quickly, in little memory, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import goldens
import hostile_files
import official_files
import pytest

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


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", "torch.hub.load"])
def test_an_unknown_name_is_in_the_message(suite, name):
    result = suite["results"][f"call {name} alone"]
    assert f"'{name}'" in result["outcomes"][0]
