"""The generator node converts a pickle to safetensors only when asked, and only once."""

import lzma
import sys
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "official_format.pkl.xz"


@pytest.fixture
def place(pack, tmp_path, monkeypatch):
    """A models folder with an official-format pickle in it."""
    host = sys.modules["my3dgen_pack.nodes.host"]
    file = tmp_path / "official.pkl"
    file.write_bytes(lzma.decompress(GOLDEN.read_bytes()))
    monkeypatch.setattr(host, "find_model", lambda kind, name: tmp_path / name)
    return file


@torch.inference_mode()
def load(pack, **options):
    return pack.NODE_CLASS_MAPPINGS["My3DGenLoadGenerator"]().load("official.pkl", **options)[0]


def test_nothing_is_written_unless_asked(pack, place):
    load(pack)
    assert list(place.parent.iterdir()) == [place]


def test_the_converted_file_is_the_same_generator_and_is_written_once(pack, place):
    first = load(pack, convert=True)
    written = place.with_suffix(".safetensors")
    stamp = written.stat().st_mtime_ns
    load(pack, convert=True)
    assert written.stat().st_mtime_ns == stamp
    from my3dgen_core import load_generator

    assert load_generator(written).base_hash() == first.generator.base_hash()
