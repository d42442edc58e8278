"""A My3DGen snapshot is split into base generator and identity; the authors' side files are read."""

from __future__ import annotations

import json
import os

import goldens
import numpy as np
import official_files as files
import pytest
import torch
from goldens import largest_difference

from my3dgen_core import CheckpointError, Identity, load_generator, look_at, personalized
from my3dgen_core.__main__ import main
from my3dgen_core.person.adapter import DIFF
from my3dgen_core.person.apply import merged_state_dict
from my3dgen_core.person.eg3d_dataset import read_anchors, read_labels, read_latent
from my3dgen_core.person.identity import split_snapshot
from my3dgen_core.person.my3dgen_snapshot import base_name

SETTINGS = goldens.values("tiny_config")
STATE = {key: value.float() for key, value in goldens.tensors("tiny_weights").items()}
LORA = {key: value.float() for key, value in goldens.tensors("tiny_lora_r2").items()}
OUT = goldens.tensors("tiny_lora_r2_io")
IO = goldens.tensors("tiny_io")
RECORDED = {"r": 2, "lora_alpha": 1, "scaling": 0.5, "merged": False}
TRAINED = ("backbone.synthesis.b8.conv0.bias", "backbone.synthesis.b16.conv1.noise_strength")
TRAINED += ("backbone.synthesis.b4.const", "superresolution.block1.torgb.affine.bias")


def trained_state():
    """The base with biases, noise and the constant input trained in place, as the authors do."""
    return {key: value + 0.125 if key in TRAINED else value for key, value in STATE.items()}


def write(path, state=STATE, before=None, scaling=RECORDED, lora=LORA, form="pickle"):
    made = files.snapshot(state, lora, SETTINGS, before, scaling)
    data = files.zip_file({"G_ema": made}) if form == "zip" else files.Writer(4).dump({"G_ema": made})
    return files.write(path, data)


def same(generator, state):
    return all(torch.equal(value, state[key]) for key, value in generator.state_dict().items())


def test_official_names_map_to_wrapped_ones_and_back():
    assert all(base_name(files.wrapped_name(key)) == key for key in STATE)
    assert all(base_name(key) == key for key in STATE)
    assert {base_name(key).rpartition(".")[0] for key in LORA} <= {key.rpartition(".")[0] for key in STATE}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_the_split_identity_renders_what_the_reference_rendered(tmp_path, form):
    base, identity = split_snapshot(write(tmp_path / "person.pkl", form=form))
    assert same(base, STATE)
    assert (identity.adapter.rank, identity.adapter.scaling) == (2, 0.5)
    assert identity.base_hash == base.base_hash()
    with personalized(base, identity):
        planes = base.planes(IO["ws"], "const").flatten(1, 2)
        out = base.render(IO["ws"], IO["c"], neural_resolution=32)
    expected = OUT["lora.planes_stride15"]
    assert largest_difference(planes[:, :, ::15, ::15], expected) <= 1e-4 * float(expected.std())
    assert largest_difference(out.image_raw, OUT["lora.syn32.image_raw"]) <= 2e-4
    assert largest_difference(out.image[:, :, ::3, ::3], OUT["lora.syn32.image.stride3"]) <= 2e-4
    assert largest_difference(out.depth, OUT["lora.syn32.image_depth"]) <= 2e-4


def test_load_generator_gives_the_base_and_identity_load_the_person(tmp_path):
    path = write(tmp_path / "person.pkl")
    base, identity = split_snapshot(path)
    assert same(load_generator(path), base.state_dict())
    tensors = Identity.load(path).adapter.tensors
    assert set(tensors) == set(identity.adapter.tensors)
    assert all(torch.equal(tensors[key], identity.adapter.tensors[key]) for key in tensors)
    assert os.listdir(tmp_path) == ["person.pkl"]


@pytest.mark.slow
def test_trained_biases_are_found_by_the_copies_in_the_init_arguments(tmp_path):
    path = write(tmp_path / "person.pkl", trained_state(), before=STATE)
    assert path.stat().st_size > 3 * 7_000_000  # many copies of the base in one file
    base, identity = split_snapshot(path)
    assert same(base, STATE)
    assert {key.removesuffix(DIFF) for key in identity.adapter.tensors if key.endswith(DIFF)} == set(TRAINED)
    state = merged_state_dict(base, identity.adapter)
    for key, value in trained_state().items():
        if key in TRAINED:
            assert torch.equal(state[key], value)


@pytest.mark.slow
def test_copies_with_other_weights_are_not_taken_for_the_base(tmp_path):
    fresh = {key: torch.randn_like(value) for key, value in STATE.items()}
    base, identity = split_snapshot(write(tmp_path / "person.pkl", trained_state(), before=fresh))
    assert same(base, trained_state())
    assert not any(key.endswith(DIFF) for key in identity.adapter.tensors)
    assert "unknown" in identity.provenance["pretrained_biases"]


def test_a_base_at_hand_tells_what_was_trained(tmp_path):
    path = write(tmp_path / "person.pkl", trained_state())
    base, identity = split_snapshot(path, base=goldens.tiny())
    assert same(base, STATE)
    assert {key.removesuffix(DIFF) for key in identity.adapter.tensors if key.endswith(DIFF)} == set(TRAINED)
    other = goldens.tiny()
    other.backbone.synthesis.b8.conv0.weight.mul_(2)
    with pytest.raises(CheckpointError, match="was not fine-tuned from the base"):
        split_snapshot(path, base=other)


@pytest.mark.parametrize(
    ("recorded", "scaling"), [({}, 0.5), ({"r": 2, "lora_alpha": 4}, 2.0), ({"scaling": 0.25}, 0.25)]
)
def test_the_scaling_is_what_the_wrappers_recorded(tmp_path, recorded, scaling):
    _, identity = split_snapshot(write(tmp_path / "person.pkl", scaling=recorded))
    assert identity.adapter.scaling == scaling


def test_a_plain_state_dict_of_a_snapshot_splits_too(tmp_path):
    torch.save(
        {files.wrapped_name(key): value for key, value in STATE.items()} | LORA, tmp_path / "person.pt"
    )
    (tmp_path / "person.json").write_text(json.dumps(SETTINGS))
    base, identity = split_snapshot(tmp_path / "person.pt")
    assert same(base, STATE)
    assert identity.adapter.scaling == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merged": True}, "merged already"),
        ({"missing": ".torgb.lora_B"}, "one half"),
        ({"shape": ".torgb.lora_A"}, "does not fit"),
        ({"extra": "backbone.mapping.fc0"}, "which the generator does not have"),
    ],
)
def test_damaged_updates_are_refused(tmp_path, change, message):
    lora, recorded = dict(LORA), {**RECORDED, "merged": "merged" in change}
    if "missing" in change:
        lora = {key: value for key, value in lora.items() if not key.endswith(change["missing"])}
    if "shape" in change:
        lora = {k: v[:, :-1].clone() if k.endswith(change["shape"]) else v for k, v in lora.items()}
    if "extra" in change:
        lora |= {change["extra"] + half: torch.ones(2, 2) for half in (".lora_A", ".lora_B")}
    with pytest.raises(CheckpointError, match=message):
        split_snapshot(write(tmp_path / "person.pkl", scaling=recorded, lora=lora))


def test_a_plain_generator_is_no_snapshot(tmp_path):
    path = files.write(tmp_path / "g.pkl", files.Writer(4).dump({"G_ema": files.official(STATE, SETTINGS)}))
    with pytest.raises(CheckpointError, match="not a My3DGen snapshot"):
        split_snapshot(path)


@pytest.mark.slow
def test_the_command_line_writes_base_person_and_both_merged(tmp_path, capsys):
    path = write(tmp_path / "person.pkl", trained_state(), before=STATE)
    base, person, both = (str(tmp_path / f"{name}.safetensors") for name in ("base", "person", "both"))
    assert main(["convert", str(path), base, "--identity", person]) == 0
    assert main(["convert", str(path), both, "--merged"]) == 0
    generator, identity = load_generator(base), Identity.load(person)
    assert same(generator, STATE)
    identity.check_base(generator.base_hash())
    assert same(load_generator(both), merged_state_dict(generator, identity.adapter))
    assert main(["convert", str(path), base]) == 2
    assert "exists already" in capsys.readouterr().err


def test_labels_and_latents_become_anchors(tmp_path):
    cameras = look_at(torch.tensor([0.1, -0.2]), 0.0)
    labels = [["0/a.png", cameras[0].tolist()], ["b.jpg", cameras[1].tolist()]]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    ws = torch.randn(2, 14, 512)
    np.save(tmp_path / "a.npy", ws[:1].numpy())
    torch.save(ws[1:].half(), tmp_path / "b.pt")
    anchors = read_anchors(tmp_path)
    assert torch.equal(anchors.ws[0], ws[0])
    assert torch.equal(anchors.ws[1], ws[1].half().float())
    assert torch.allclose(anchors.cameras, cameras)
    assert list(read_labels(tmp_path / "dataset.json")) == ["0/a.png", "b.jpg"]


@pytest.mark.parametrize("shape", [(512,), (1, 512), (1, 14, 512), (14, 512)])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2"])
def test_latents_of_numpy_are_read_without_numpy(tmp_path, shape, dtype):
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    np.save(tmp_path / "w.npy", values)
    latent = read_latent(tmp_path / "w.npy")
    assert latent.ndim == 3
    assert torch.equal(latent.flatten(), torch.from_numpy(values.astype("<f4")).flatten())


def test_a_single_w_can_serve_all_layers(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((1, 1, 512), np.float32))
    assert read_anchors(tmp_path, num_ws=14).ws.shape == (1, 14, 512)


def test_a_latent_in_the_folder_of_its_photo_has_its_camera(tmp_path):
    (tmp_path / "photo7").mkdir()
    np.save(tmp_path / "photo7" / "latent.npy", np.ones((1, 14, 512), np.float32))
    camera = look_at(0.3, 0.0)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["photo7.png", camera[0].tolist()]]}))
    assert torch.allclose(read_anchors(tmp_path).cameras, camera)


def test_an_array_in_fortran_order_is_read_by_its_values(tmp_path):
    values = np.arange(12, dtype=np.float64).reshape(4, 3).T
    np.save(tmp_path / "w.npy", values)
    assert torch.equal(read_latent(tmp_path / "w.npy")[0], torch.from_numpy(values.astype(np.float32)))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], dtype=object),
        np.ones((2, 3, 4, 5)),
        np.ones(3, int),
        np.full(3, np.nan),
    ],
)
def test_arrays_that_are_no_latents_are_refused(tmp_path, array):
    np.save(tmp_path / "w.npy", array, allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"w\.npy"):
        read_latent(tmp_path / "w.npy")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"labels": null}', '{"labels": [["a", [1, 2]]]}', '{"labels": [["a"]]}', "[" * 100_000],
)
def test_files_that_are_no_labels_are_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"dataset\.json"):
        read_labels(tmp_path / "dataset.json")


def test_a_latent_without_its_camera_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((1, 14, 512), np.float32))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["b.png", look_at(0, 0)[0].tolist()]]}))
    with pytest.raises(CheckpointError, match=r"no camera for a\.npy"):
        read_anchors(tmp_path)
