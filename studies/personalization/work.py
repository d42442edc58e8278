"""Cells of the study on disk, and the parallel processes that measure them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from my3dgen_core.fitting.trainer import DivergedError
from studies.personalization.plan import RATES, TUNED_ON, Cell
from studies.personalization.rows import VIEWS, value

CELLS, RATE_CELLS = "cells.jsonl", "rates.jsonl"


def read_cells(file: Path) -> list[dict[str, Any]]:
    """Return the rows of finished cells; an incomplete line is skipped."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def valid(rows: list[dict[str, Any]], stamp: Callable[[Cell], str]) -> list[dict[str, Any]]:
    """Select rows of the present generator and settings; of two rows of one cell, the later."""
    return list({row["name"]: row for row in rows if row["stamp"] == stamp(Cell(**row["cell"]))}.values())


def work(
    measure: Callable[[Cell], dict[str, Any]],
    stamp: Callable[[Cell], str],
    cells: list[Cell],
    file: Path,
    until: float,
) -> None:
    """Measure the cells that have no row, in their order; several workers may do so in parallel.

    Args:
        measure: function that returns a cell's row.
        stamp: hash of all that the row depends on.
        cells: the plan.
        file: file of the rows.
        until: time in seconds since the epoch after which no cell is begun.
    """
    claims = file.parent / "claims"
    claims.mkdir(exist_ok=True)
    done = {row["name"] for row in valid(read_cells(file), stamp)}
    for number, cell in enumerate(cells):
        if cell.name in done or time.time() > until:
            continue
        try:
            (claims / cell.name).touch(exist_ok=False)
        except FileExistsError:
            continue
        start = time.time()
        row: dict[str, Any] = {"name": cell.name, "stamp": stamp(cell), "cell": asdict(cell)}
        try:
            row |= measure(cell)
        except DivergedError as error:
            row["diverged"] = str(error)
        row["wall"] = time.time() - start
        with file.open("a") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)  # one line at a time
            opened.write(f"\n{json.dumps(row)}\n")  # starts a new line, also after an incomplete one
        psnr, took = value(row, VIEWS) or 0.0, row["wall"]
        print(f"{number + 1}/{len(cells)} {cell.name}: {psnr:.2f} dB, {took:.0f} s", flush=True)


def run_workers(count: int, until: float) -> None:
    """Run this program `count` times in parallel, and end it at a time; finished cells are kept."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "studies.personalization", *sys.argv[1:]]
    arguments += ["--worker", "--until", str(until)]
    running = [subprocess.Popen(arguments, env=environment) for _ in range(count)]
    for process in running:
        try:
            process.wait(max(1.0, until - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    bad = sum(process.returncode not in (0, -9) for process in running)
    if bad:
        print(f"{bad} of {count} workers failed; their messages are above.", flush=True)


def best_rates(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return each method's factor with the best held-out views, by the persons that have every factor."""
    best: dict[str, float] = {}
    for method, factors in RATES.items():
        mine = [row for row in rows if row["cell"]["method"] == method]
        scores: dict[float, float] = {}
        by_person = {
            person: {
                row["cell"]["rate"]: value(row, VIEWS) or 0.0
                for row in mine
                if row["cell"]["person"] == person
            }
            for person in TUNED_ON
        }
        whole = [found for found in by_person.values() if set(found) == set(factors)]
        for factor in factors if whole else ():
            scores[factor] = fmean(found[factor] for found in whole)
        if scores:
            best[method] = max(scores, key=lambda factor: scores[factor])
    return best
