"""Tensors in a temporary file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from my3dgen_core.common.tensor_file import TensorFile


def test_rows_come_back_and_what_is_written_into_them_stays_in_memory(tmp_path: Path) -> None:
    rows = torch.rand(5, 3, 4, dtype=torch.float64)
    file = TensorFile(tmp_path)
    for row in rows:
        file.append(row.t().contiguous().t())
    assert len(file) == 5
    tensor = file.tensor()
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, rows.float())
    tensor += 1
    assert torch.equal(tensor, rows.float() + 1)
    assert list(tmp_path.iterdir()) == []


def test_another_shape_and_no_row_are_refused() -> None:
    file = TensorFile()
    with pytest.raises(ValueError, match="no row"):
        file.tensor()
    file.append(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"shape \[2, 3\], not \[3, 2\]"):
        file.append(torch.zeros(3, 2))
