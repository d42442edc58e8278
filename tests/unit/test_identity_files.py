"""Identity files from strangers are checked before anything is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from my3dgen_core import CheckpointError, Identity, starter
from my3dgen_core.formats.safetensors_file import LARGEST_HEADER, write_safetensors

DEMO = Path(starter.__file__).parent / "demo_identity.safetensors"


def contents() -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(DEMO, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def changed(tmp_path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Path:
    old_tensors, old_metadata = contents()
    file = tmp_path / "stranger.safetensors"
    write_safetensors(old_tensors | tensors, file, old_metadata | metadata)
    return file


def test_the_unchanged_file_loads(tmp_path: Path) -> None:
    assert Identity.load(changed(tmp_path, {}, {})).content_hash() == Identity.load(DEMO).content_hash()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"num_ws": "10000000"}, "10000000 layers; at most 64"),
        ({"num_ws": "0"}, "0 layers"),
        ({"num_ws": "3"}, "anchors.ws has shape .* does not fit 3 layers"),
        ({"scaling": "nan"}, "scaling is nan"),
        ({"scaling": "inf"}, "scaling is inf"),
        ({"gains": json.dumps({"backbone": float("nan")})}, "gain of backbone is nan"),
    ],
)
def test_metadata_out_of_bounds_is_refused_by_name(
    tmp_path: Path, metadata: dict[str, str], words: str
) -> None:
    two_layers = {"anchors.ws": contents()[0]["anchors.ws"][:1].expand(-1, 2, -1)}
    file = changed(tmp_path, metadata, two_layers if metadata.get("num_ws") == "3" else {})
    with pytest.raises(CheckpointError, match=f"(?s)stranger.safetensors.*{words}"):
        Identity.load(file)


def nan(tensor: Tensor) -> Tensor:
    return tensor * float("nan")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("anchors.ws", nan, "NaN or infinite"),
        ("anchors.cameras", nan, "NaN or infinite|finite"),
        ("anchors.ws", Tensor.bool, "type torch.bool"),
        ("anchors.ws", lambda ws: ws.to(torch.int8), "type torch.int8"),
        ("anchors.ws", lambda ws: ws[0], "has shape"),
    ],
)
def test_anchors_that_are_no_latents_are_refused_by_name(
    tmp_path: Path, name: str, change: Any, words: str
) -> None:
    with pytest.raises(CheckpointError, match=f"(?s)stranger.safetensors.*{name}.*({words})"):
        Identity.load(changed(tmp_path, {}, {name: change(contents()[0][name])}))


def test_a_header_said_to_be_huge_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "stranger.safetensors"
    file.write_bytes((LARGEST_HEADER + 1).to_bytes(8, "little") + b"{" + bytes(1000))
    with pytest.raises(CheckpointError, match=r"stranger\.safetensors"):
        Identity.load(file)
