"""Fixtures of the tests that need a GPU; without one none is collected, and the report's header says so.

Figures that the tests record are printed as JSON at the end, and written to the file that --figures names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FIGURES: dict[str, Any] = {}
GPU = torch.cuda.is_available()
collect_ignore_glob = [] if GPU else ["test_*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", type=Path, help="write the figures of the GPU tests to this file")


def pytest_report_header() -> str:
    if not GPU:
        return "tests/gpu: PyTorch sees no GPU here, so none of these tests runs"
    card = torch.cuda.get_device_properties(0)
    return f"tests/gpu: {card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not FIGURES:
        return
    FIGURES["card"] = torch.cuda.get_device_name()
    FIGURES["torch"] = torch.__version__
    text = json.dumps(FIGURES, indent=2, sort_keys=True)
    terminalreporter.write_line(text)
    path = config.getoption("--figures", None)
    if path is not None:
        path.write_text(text + "\n")


@pytest.fixture(scope="session")
def figures() -> dict[str, Any]:
    """Figures that tests note: name -> number, with its unit in the name."""
    return FIGURES


@pytest.fixture(autouse=True)
def fresh_memory() -> None:
    """Each test starts with the card's memory free of the one before."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@pytest.fixture(scope="module")
def exact() -> Iterator[None]:
    """Convolutions in float32 proper, where PyTorch's default is TF32: that moves pixels by up to 1e-3."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
