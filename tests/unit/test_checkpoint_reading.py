"""Generators of every known origin load bit for bit, whatever their files are called."""

from __future__ import annotations

import json
import lzma
import os
import pickle
from pathlib import Path

import goldens
import micro
import official_files as files
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from my3dgen_core import CheckpointError, GeneratorConfig, load_generator, save_generator
from my3dgen_core.__main__ import main
from my3dgen_core.checkpoint import convert
from my3dgen_core.formats.safetensors_file import is_safetensors, sha256

SETTINGS = goldens.values("tiny_config")
STATE = {key: value.float() for key, value in goldens.tensors("tiny_weights").items()}
CONFIG = GeneratorConfig.from_official(SETTINGS, neural_resolution=64)
SIDECAR = {
    "ray_start": 2.25,
    "ray_end": 3.3,
    "box_warp": 1.0,
    "white_back": False,
    "neural_resolution": 64,
    "depth_resolution": 24,
    "depth_resolution_importance": 20,
}


def same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(state) == set(expected) and all(torch.equal(state[key], expected[key]) for key in expected)


def test_the_reference_writes_a_pickle_that_loads_bit_for_bit(tmp_path):
    path = tmp_path / "official.pkl"
    path.write_bytes(lzma.decompress((goldens.FOLDER / "official_format.pkl.xz").read_bytes()))
    generator = load_generator(path)
    assert same(generator.state_dict(), STATE)
    assert generator.config == GeneratorConfig.from_official(SETTINGS, neural_resolution=128)
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert os.listdir(tmp_path) == ["official.pkl"]


@pytest.mark.parametrize("name", ["G_ema.pkl", "model.pt", "no_suffix", "wrong.safetensors"])
@pytest.mark.parametrize("form", ["pickle", "pickle of torch 2", "zip", "legacy", "zip of the module itself"])
def test_content_decides_not_the_name(tmp_path, form, name):
    made = files.official(STATE, SETTINGS, style=2 if "torch 2" in form else 1)
    data = {
        "pickle": lambda: files.Writer(4).dump({"G_ema": made}),
        "pickle of torch 2": lambda: files.Writer(4).dump({"G_ema": made}),
        "zip": lambda: files.zip_file({"G_ema": made}),
        "zip of the module itself": lambda: files.zip_file(made),
        "legacy": lambda: files.legacy_file({"G_ema": made}),
    }[form]()
    generator = load_generator(files.write(tmp_path / name, data))
    assert same(generator.state_dict(), STATE)
    assert generator.config == CONFIG


def test_the_averaged_generator_of_a_full_snapshot_is_preferred(tmp_path):
    other = {k: v if k.endswith("resample_filter") else torch.zeros_like(v) for k, v in STATE.items()}
    snapshot = {
        "training_set_kwargs": files.easy_dict({"class_name": "training.dataset.ImageFolderDataset"}),
        "G": files.official(other, SETTINGS),
        "D": files.module({"b4.conv.weight": torch.ones(3, 3)}),
        "G_ema": files.official(STATE, SETTINGS),
        "augment_pipe": None,
    }
    path = files.write(tmp_path / "full.pkl", files.Writer(4).dump(snapshot))
    assert same(load_generator(path).state_dict(), STATE)
    del snapshot["G_ema"]
    path = files.write(tmp_path / "g.pkl", files.Writer(4).dump(snapshot))
    assert same(load_generator(path).state_dict(), other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    stored = {key: value.to(dtype) for key, value in STATE.items()}
    path = files.write(tmp_path / "g.pkl", files.Writer(4).dump(files.official(stored, SETTINGS)))
    state = load_generator(path).state_dict()
    assert same(state, {key: value.float() for key, value in stored.items()})


def test_tensors_that_share_and_transpose_storages_are_read_as_they_are(tmp_path):
    flat = torch.arange(24.0)
    tensors = {
        "a": flat.view(4, 6).t(),
        "b": flat[3:9],
        "c": flat.view(2, 3, 4)[:, 1],
        "d": torch.tensor(3.0),
    }
    from my3dgen_core.formats.torch_archive import opened

    for name, zipped in (("zip.pt", True), ("legacy.pt", False)):
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with opened(tmp_path / name) as root:
            assert same({key: value.read() for key, value in root.items()}, tensors)
    with (tmp_path / "plain.pkl").open("wb") as stream:
        pickle.dump(tensors, stream, protocol=4)
    with opened(tmp_path / "plain.pkl") as root:
        assert same({key: value.read() for key, value in root.items()}, tensors)


def test_what_torch_itself_saves_of_modules_is_read(tmp_path):
    from my3dgen_core.eg3d.official_pickle import module_state
    from my3dgen_core.formats.torch_archive import opened

    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softplus(), torch.nn.BatchNorm1d(4))
    for name, zipped in (("zip.pt", True), ("legacy.pt", False)):
        torch.save(network, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with opened(tmp_path / name) as root:
            state = {key: value.read() for key, value in module_state(root).items()}
        assert same(state, network.state_dict())


@pytest.mark.parametrize("form", ["zip", "legacy", "with a prefix", "inside G_ema", "safetensors"])
def test_a_bare_state_dict_loads_with_a_configuration_beside_it(tmp_path, form):
    path = tmp_path / "tuned.pt"
    state = {f"module.{key}": value for key, value in STATE.items()} if form == "with a prefix" else STATE
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        root = {"G_ema": state} if form == "inside G_ema" else state
        torch.save(root, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(CheckpointError, match=r"tuned\.pt .*(tuned\.json|has no configuration)"):
        load_generator(path)
    path.with_suffix(".json").write_text(json.dumps(SIDECAR))
    generator = load_generator(path)
    assert same(generator.state_dict(), STATE)
    assert generator.config.to_dict() == CONFIG.to_dict()


def test_a_sidecar_in_the_official_words_works_too(tmp_path):
    torch.save(STATE, tmp_path / "tuned.pt")
    (tmp_path / "tuned.json").write_text(json.dumps({**SETTINGS, "neural_rendering_resolution": 64}))
    assert load_generator(tmp_path / "tuned.pt").config == CONFIG


def test_a_sidecar_that_leaves_something_open_is_refused(tmp_path):
    torch.save(STATE, tmp_path / "tuned.pt")
    (tmp_path / "tuned.json").write_text(json.dumps({k: v for k, v in SIDECAR.items() if k != "white_back"}))
    with pytest.raises(CheckpointError, match="does not say white_back"):
        load_generator(tmp_path / "tuned.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.net.0.weight": None}, "missing"),
        ({"decoder.net.3.weight": torch.ones(3)}, "unknown"),
        ({"decoder.net.0.bias": torch.ones(65)}, "shape"),
        ({"decoder.net.0.bias": torch.full((64,), float("nan"))}, "NaN"),
        ({"decoder.net.0.bias": torch.ones(64, dtype=torch.int64)}, "int64"),
    ],
)
def test_tensors_are_checked_against_the_configuration(tmp_path, change, message):
    state = {key: value for key, value in {**STATE, **change}.items() if value is not None}
    path = files.write(tmp_path / "g.pkl", files.Writer(4).dump(files.official(state, SETTINGS)))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path)
    assert str(caught.value).startswith("g.pkl ")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_generator("/nowhere/at/all.pkl")


def test_safetensors_are_mapped_not_copied(tmp_path):
    generator = micro.generator()
    save_generator(generator, tmp_path / "g.safetensors")
    loaded = load_generator(tmp_path / "g.safetensors")
    assert same(loaded.state_dict(), generator.state_dict())
    assert loaded.base_hash() == generator.base_hash()
    storages = {value.untyped_storage().data_ptr() for value in loaded.state_dict().values()}
    maps = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
    assert len(storages) == 1 or not maps or "g.safetensors" in maps


@pytest.mark.parametrize("start", [b"PK", b"\x80\x02", b"\x80\x04"])
def test_a_header_whose_length_begins_like_an_archive_or_a_pickle_is_read(tmp_path, start):
    file, length = tmp_path / "file.safetensors", int.from_bytes(start, "little")
    for filled in range(length - 200, length):
        save_file({"x": torch.ones(1)}, file, {"note": "." * filled})
        if file.read_bytes()[:8] == length.to_bytes(8, "little"):
            break
    assert file.read_bytes().startswith(start)
    assert is_safetensors(file)


def test_an_archive_or_a_pickle_is_no_safetensors_file(tmp_path):
    for form in (True, False):
        torch.save({"x": torch.ones(1)}, tmp_path / "file", _use_new_zipfile_serialization=form)
        assert not is_safetensors(tmp_path / "file")
    (tmp_path / "file").write_bytes(pickle.dumps({}, 4))
    assert not is_safetensors(tmp_path / "file")


def test_changing_a_mapped_generator_leaves_the_file_alone(tmp_path):
    save_generator(micro.generator(), tmp_path / "g.safetensors")
    before = sha256(tmp_path / "g.safetensors")
    loaded = load_generator(tmp_path / "g.safetensors")
    with torch.no_grad():
        for value in loaded.state_dict().values():
            value += 1
    del loaded
    assert sha256(tmp_path / "g.safetensors") == before


def test_conversion_keeps_every_bit_and_names_its_source(tmp_path):
    source = files.write(tmp_path / "g.pkl", files.Writer(4).dump({"G_ema": files.official(STATE, SETTINGS)}))
    generator = convert(source, tmp_path / "out" / "g.safetensors")
    loaded = load_generator(tmp_path / "out" / "g.safetensors")
    assert same(loaded.state_dict(), STATE)
    assert loaded.config == generator.config == CONFIG
    with safe_open(tmp_path / "out" / "g.safetensors", "pt") as opened:
        provenance = json.loads(opened.metadata()["provenance"])
    expected = {"source": "g.pkl", "source_sha256": sha256(source), "base_hash": generator.base_hash()}
    assert provenance == expected
    assert os.listdir(tmp_path / "out") == ["g.safetensors"]


def test_a_failed_conversion_leaves_nothing(tmp_path):
    bad = files.write(tmp_path / "bad.pkl", files.Writer(4).dump({"G_ema": files.official({}, SETTINGS)}))
    with pytest.raises(CheckpointError):
        convert(bad, tmp_path / "g.safetensors")
    assert os.listdir(tmp_path) == ["bad.pkl"]


def test_conversion_does_not_overwrite_unasked(tmp_path):
    save_generator(micro.generator(), tmp_path / "a.safetensors")
    save_generator(micro.generator(1), tmp_path / "b.safetensors")
    with pytest.raises(FileExistsError, match="exists already"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", overwrite=True)
    assert same(
        load_generator(tmp_path / "a.safetensors").state_dict(),
        load_generator(tmp_path / "b.safetensors").state_dict(),
    )


def test_the_command_line_converts_and_explains_mistakes(tmp_path, capsys):
    source = files.write(tmp_path / "g.pkl", files.Writer(4).dump({"G_ema": files.official(STATE, SETTINGS)}))
    assert main(["convert", str(source), str(tmp_path / "g.safetensors"), "--half"]) == 0
    assert "128 px" in capsys.readouterr().out
    assert load_generator(tmp_path / "g.safetensors").config == CONFIG
    evil = files.write(tmp_path / "evil.pkl", b"\x80\x04cos\nsystem\n.")
    assert main(["convert", str(evil), str(tmp_path / "e.safetensors")]) == 2
    assert "'os.system'" in capsys.readouterr().err
    assert not (tmp_path / "e.safetensors").exists()


def test_a_generator_with_another_low_pass_filter_is_refused(tmp_path):
    generator = micro.generator()
    generator.backbone.synthesis.b8.resample_filter.mul_(1.5)
    save_generator(generator, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="another filter"):
        load_generator(tmp_path / "odd.safetensors")
