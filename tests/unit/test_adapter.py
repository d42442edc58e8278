"""The low-rank adapter: the authors' numbers, exact restoration, and the identity file."""

import dataclasses

import goldens
import pytest
import torch
from goldens import largest_difference, relative_error
from safetensors import safe_open

from my3dgen_core import CheckpointError, Generator, GeneratorConfig
from my3dgen_core.person.adapter import DOWN, TRAINABLE, UP, Adapter, affine_gains
from my3dgen_core.person.apply import merged_state_dict, personalized, with_trainable_adapter
from my3dgen_core.person.identity import Identity
from my3dgen_core.person.latents import Latents

IO = goldens.tensors("tiny_io")
LORA = goldens.tensors("tiny_lora_r2_io")


@pytest.fixture(scope="module")
def generator():
    return goldens.tiny()


def official_adapter(generator):
    tensors = {goldens.our_lora_key(k): v.float() for k, v in goldens.tensors("tiny_lora_r2").items()}
    return Adapter(tensors, 2, "released", 0.5, affine_gains(generator))


def random_adapter(generator, trainable="paper", **settings):
    adapter = Adapter.create(generator, trainable=trainable, seed=1, **settings)
    draw = torch.Generator().manual_seed(2)
    for key, tensor in adapter.tensors.items():
        if not key.endswith(".lora_down.weight"):
            tensor += 0.1 * torch.randn(tensor.shape, generator=draw)
    return adapter


def identity(generator, adapter, rows=1):
    ws = torch.randn(3, rows, 512).expand(-1, generator.num_ws, -1).clone()
    anchors = Latents(ws, IO["c"][:1].repeat(3, 1))
    return Identity(adapter, anchors, generator.base_hash(), {"settings": {"rank": adapter.rank}})


@pytest.mark.slow
def test_the_authors_lora_renders_as_theirs(generator):
    with personalized(generator, official_adapter(generator)):
        planes = generator.planes(IO["ws"])
        out = generator.render(IO["ws"], IO["c"], planes=planes, neural_resolution=32)
        large = generator.render(IO["ws"], IO["c"], planes=planes)
    expected = LORA["lora.planes_stride15"]
    assert largest_difference(planes.flatten(1, 2)[:, :, ::15, ::15], expected) <= 1e-4 * expected.std()
    assert largest_difference(out.image[:, :, ::3, ::3], LORA["lora.syn32.image.stride3"]) <= 2e-4
    assert largest_difference(out.image_raw, LORA["lora.syn32.image_raw"]) <= 2e-4
    assert largest_difference(out.depth, LORA["lora.syn32.image_depth"]) <= 2e-4
    assert largest_difference(large.image[:, :, ::3, ::3], LORA["lora.syn64.image.stride3"]) <= 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True], ids=["composed", "beside the weights"])
def test_the_authors_lora_has_their_gradients(generator, beside):
    adapter = official_adapter(generator)
    for tensor in adapter.tensors.values():
        tensor.requires_grad_(True)
    ws = IO["ws"].clone().requires_grad_(True)
    parameters = dict(generator.named_parameters())
    with (
        with_trainable_adapter(generator, adapter, parameters) if beside else personalized(generator, adapter)
    ):
        out = generator.render(ws, IO["c"], neural_resolution=32)
    loss = (out.image_raw * goldens.normal(9001, out.image_raw.shape)).sum()
    loss = loss + (out.image * goldens.normal(9002, out.image.shape)).sum()
    loss.backward()
    assert relative_error(loss.detach(), LORA["grad.loss"][0]) <= 1e-4
    assert relative_error(ws.grad, LORA["grad.ws"]) <= 1e-3
    keys = [k for k in LORA if k.startswith("grad.") and "lora" in k]
    assert len(keys) == 20
    for key in keys:
        actual = adapter.tensors[goldens.our_lora_key(key.removeprefix("grad."))].grad
        assert relative_error(actual, LORA[key]) <= 1e-3, key
    for key, norms in goldens.values("tiny_lora_r2_gradnorms").items():
        if norms is not None and "lora" in key:
            actual = float(adapter.tensors[goldens.our_lora_key(key)].grad.norm())
            assert abs(actual - norms[0]) <= 1e-3 * norms[0], key


@pytest.mark.slow
def test_parameter_counts_of_the_full_configuration_are_the_papers():
    with torch.device("meta"):
        full = Generator(GeneratorConfig())
    counts = {
        (layout, trainable): [
            Adapter.create(full, rank, layout, trainable).parameter_count for rank in (1, 2, 4, 8)
        ]
        for layout in ("released", "lycoris")
        for trainable in TRAINABLE
    }
    assert counts["released", "lora"] == [219_174, 438_348, 876_696, 1_753_392]
    assert counts["released", "released"] == [243_965, 463_139, 901_487, 1_778_183]
    assert counts["released", "paper"] == [240_030, 459_204, 897_552, 1_774_248]
    assert counts["lycoris", "lora"] == [91_110, 182_220, 364_440, 728_880]


def test_the_trained_names_are_those_of_the_released_code():
    with torch.device("meta"):
        full = Generator(GeneratorConfig())
    adapter = Adapter.create(full, 1, "released", "released")
    theirs = goldens.values("full_lora_r1_trainable_keys")
    names = {goldens.our_lora_key(key) for keys in theirs.values() for key in keys}
    names = {n if "lora" in n else f"{n}.diff" for n in names}
    assert set(adapter.tensors) == names


def test_a_fresh_adapter_changes_nothing(generator):
    with torch.no_grad():
        before = generator.render(IO["ws"], IO["c"], neural_resolution=16).image
        with personalized(generator, Adapter.create(generator)):
            during = generator.render(IO["ws"], IO["c"], neural_resolution=16).image
    assert torch.equal(before, during)


def test_the_generator_is_bit_identical_after_the_block_and_after_an_error_in_it(generator):
    parameters = dict(generator.named_parameters())
    before = {k: v.clone() for k, v in generator.state_dict().items()}

    def interrupted():
        with personalized(generator, random_adapter(generator)):
            assert any(not torch.equal(v, before[k]) for k, v in generator.state_dict().items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = generator.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert all(parameter is parameters[name] for name, parameter in generator.named_parameters())


def test_merging_equals_applying(generator):
    adapter = random_adapter(generator)
    with torch.no_grad(), personalized(generator, adapter, strength=0.7):
        applied = generator.render(IO["ws"], IO["c"], neural_resolution=16).image
    other = goldens.build(generator.config, merged_state_dict(generator, adapter, 0.7))
    with torch.no_grad():
        assert torch.equal(other.render(IO["ws"], IO["c"], neural_resolution=16).image, applied)


def test_several_identities_add_up_and_strength_zero_is_the_pretrained_generator(generator):
    first, second = random_adapter(generator), random_adapter(generator, "lora", rank=2, layout="lycoris")
    name = "backbone.synthesis.b8.conv0.weight"
    base = generator.get_parameter(name).clone()
    with personalized(generator, [first, second], [1.0, 0.5]):
        both = dict(generator.named_parameters())[name] - base
    parameters = dict(generator.named_parameters())
    expected = (
        first.merged_weights(parameters)[name] - base + 0.5 * (second.merged_weights(parameters)[name] - base)
    )
    assert largest_difference(both, expected) <= 1e-6
    with personalized(generator, first, strength=0):
        assert torch.equal(dict(generator.named_parameters())[name], base)


def test_an_adapter_of_another_generator_is_refused_and_nothing_changes(generator):
    other = goldens.tiny_sr(256)
    adapter = random_adapter(other)
    tensors = {k: v.repeat(2, *[1] * (v.ndim - 1)) if v.ndim else v for k, v in adapter.tensors.items()}
    bigger = dataclasses.replace(adapter, tensors=tensors)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    with pytest.raises(ValueError, match="another generator"), personalized(generator, bigger):
        raise AssertionError("the block must not be entered")
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())


@pytest.mark.parametrize("rows", [1, 14])
def test_an_identity_file_loads_back_bit_for_bit(generator, tmp_path, rows):
    saved = identity(generator, random_adapter(generator), rows)
    saved.save(tmp_path / "person.safetensors")
    loaded = Identity.load(tmp_path / "person.safetensors")
    assert loaded.adapter.tensors.keys() == saved.adapter.tensors.keys()
    for key, value in saved.adapter.tensors.items():
        assert torch.equal(loaded.adapter.tensors[key], value), key
    assert torch.equal(loaded.anchors.ws, saved.anchors.ws)
    assert torch.equal(loaded.anchors.cameras, saved.anchors.cameras)
    assert (loaded.adapter.rank, loaded.adapter.layout) == (saved.adapter.rank, saved.adapter.layout)
    assert loaded.base_hash == saved.base_hash
    assert loaded.provenance == saved.provenance
    with torch.no_grad(), personalized(generator, saved):
        expected = generator.planes(IO["ws"])
    with torch.no_grad(), personalized(generator, loaded):
        assert torch.equal(generator.planes(IO["ws"]), expected)


def test_half_precision_halves_the_file(generator, tmp_path):
    person = identity(generator, random_adapter(generator))
    person.save(tmp_path / "full.safetensors")
    person.save(tmp_path / "half.safetensors", torch.float16)
    full, half = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("full", "half"))
    assert half < 0.75 * full  # the header with its names does not shrink
    loaded = Identity.load(tmp_path / "half.safetensors")
    assert torch.equal(loaded.anchors.cameras, person.anchors.cameras)


def test_whole_numbers_keep_the_low_rank_factors_to_a_percent(generator, tmp_path):
    person = identity(generator, random_adapter(generator))
    for name, dtype in (("half", torch.float16), ("whole", torch.int8)):
        person.save(tmp_path / f"{name}.safetensors", dtype)
    half, loaded = (Identity.load(tmp_path / f"{name}.safetensors") for name in ("half", "whole"))
    factors = [key for key in person.adapter.tensors if key.endswith((UP, DOWN))]
    for key, value in half.adapter.tensors.items():
        found = loaded.adapter.tensors[key]
        if key not in factors:
            assert torch.equal(found, value), key
        elif float(value.norm()) > 0:
            assert float((found - value).norm() / value.norm()) < 0.01, key
    assert torch.equal(loaded.anchors.ws, half.anchors.ws)
    assert torch.equal(loaded.anchors.cameras, person.anchors.cameras)
    numbers = sum(person.adapter.tensors[key].numel() for key in factors)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] - sizes[1] > 0.9 * numbers  # a byte each, but for the scales


@pytest.mark.parametrize("wrong", ["missing", "length"])
def test_scales_that_do_not_fit_are_refused(generator, tmp_path, wrong):
    from safetensors.torch import save_file

    path = tmp_path / "person.safetensors"
    identity(generator, random_adapter(generator)).save(path, torch.int8)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    scales = tensors.pop("scales")
    if wrong == "length":
        tensors["scales"] = scales[1:]
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"person\.safetensors"):
        Identity.load(path)


def test_the_file_holds_the_documented_keys(generator, tmp_path):
    identity(generator, random_adapter(generator)).save(tmp_path / "person.safetensors")
    with safe_open(tmp_path / "person.safetensors", framework="pt") as opened:
        keys, metadata = set(opened.keys()), opened.metadata()
    assert {"anchors.ws", "anchors.cameras"} <= keys
    endings = (".lora_up.weight", ".lora_down.weight", ".diff")
    assert all(k.endswith(endings) for k in keys - {"anchors.ws", "anchors.cameras"})
    assert metadata["base_hash"] == generator.base_hash()
    assert metadata["layout"] == "released"


@pytest.mark.parametrize("content", [b"", b"not a file", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_identity_gets_a_message(tmp_path, content):
    (tmp_path / "broken.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        Identity.load(tmp_path / "broken.safetensors")


def test_an_identity_of_another_base_is_named(generator):
    person = identity(generator, random_adapter(generator))
    with pytest.raises(ValueError, match=person.base_hash[:12]):
        person.check_base("0" * 64)
