"""The contact sheet of a report, of any number of photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from my3dgen_core.face.report import FaceReport, contact_sheet


@pytest.mark.parametrize("count", [64, 65, 1000])
def test_the_sheet_of_a_long_clip_shows_64_tiles_from_its_first_to_its_last_frame(count: int) -> None:
    report = [FaceReport(index, str(index), kept=index % 2 == 0) for index in range(count)]
    kept = torch.arange(0, count, 2).view(-1, 1, 1, 1) / count * 2 - 1
    sheet = contact_sheet(report, kept.expand(-1, 3, 16, 16), size=32, columns=8)
    assert sheet.shape == (8 * 32, 8 * 32, 3)
    tiles = sheet.reshape(8, 32, 8, 32, 3).swapaxes(1, 2).reshape(64, 32, 32, 3)
    gray = [int(tile[30, 30, 0]) for tile in tiles]  # below the name
    shown = list(range(64)) if count == 64 else np.linspace(0, count - 1, 63).round().astype(int).tolist()
    for value, index in zip(gray, shown, strict=False):
        assert value == (72 if index % 2 else pytest.approx(255 * index / count, abs=1.5))
    if count > 64:
        assert gray[-1] == 0
        assert tiles[-1].max() > 200  # the note
