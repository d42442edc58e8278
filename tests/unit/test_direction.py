"""Directions: all shared formats are read without executing anything, and edits keep their limits."""

import pickle
import re
import sys

import numpy as np
import pytest
import torch
from meta_device import META, NoCPU
from micro import generator as micro_generator
from safetensors.torch import save_file

from my3dgen_core import AlphaSpace, CheckpointError, Direction, Latents
from my3dgen_core.editing.direction import principal_directions

ROWS, WIDTH = 14, 512


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SMILE = numbers(WIDTH)
LAYERED = numbers(ROWS, WIDTH, seed=1)


def write(path, value):
    """A file as people make them, by its ending."""
    if path.suffix == ".npy":
        np.save(path, value.numpy())
    elif path.suffix == ".npz":
        np.savez_compressed(path, **{k: v.numpy() for k, v in value.items()})
    elif path.suffix == ".safetensors":
        save_file({k: v.clone() for k, v in value.items()}, path)
    else:
        torch.save(value, path)
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (SMILE, SMILE),
        (SMILE[None], SMILE),
        (LAYERED, LAYERED),
        (LAYERED[None], LAYERED),
        (LAYERED.reshape(1, -1), LAYERED),
        (SMILE[None, None].double(), SMILE),
        (SMILE.half(), SMILE.half().float()),
    ],
    ids=lambda tensor: "x".join(map(str, tensor.shape)),
)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".safetensors"])
def test_every_shape_in_every_format_is_read(tmp_path, ending, given, expected):
    keyed = ending in (".npz", ".safetensors")
    path = write(tmp_path / f"smile{ending}", {"direction": given} if keyed else given)
    found = Direction.load(path)
    assert found.name == "smile"
    assert torch.equal(found.vector, expected)
    assert found.vector.dtype == torch.float32


@pytest.mark.parametrize("ending", [".npz", ".pt", ".safetensors"])
def test_one_of_several_is_chosen_by_name(tmp_path, ending):
    path = write(tmp_path / f"many{ending}", {"smile": SMILE, "age": LAYERED})
    assert torch.equal(Direction.load(path, "age").vector, LAYERED)
    with pytest.raises(CheckpointError, match=r"several directions\. Choose one: 'age', 'smile'\.$"):
        Direction.load(path)
    with pytest.raises(CheckpointError, match="no 'beard', but: 'age', 'smile'"):
        Direction.load(path, "beard")


@pytest.mark.parametrize("ending", [".npz", ".pt", ".safetensors"])
def test_a_seed_beside_a_direction_is_left_out_and_named(tmp_path, ending):
    path = write(tmp_path / f"q{ending}", {"smile": SMILE, "seed": torch.tensor([3])})
    assert torch.equal(Direction.load(path, "smile").vector, SMILE)
    assert torch.equal(Direction.load(path).vector, SMILE)
    with pytest.raises(
        CheckpointError, match=r"no 'seed', but: 'smile'; .* 'seed' of type (torch\.)?int64\."
    ):
        Direction.load(path, "seed")
    with pytest.raises(CheckpointError, match=r"type (torch.)?int64"):
        Direction.load(write(tmp_path / f"r{ending}", {"seed": torch.tensor([3])}), "seed")


@pytest.mark.parametrize("beside", [np.array(["smile"]), np.array([{"a": 1}], object), np.array([1 + 2j])])
def test_arrays_of_other_types_in_an_archive_are_not_read(tmp_path, beside, monkeypatch):
    np.savez(tmp_path / "q.npz", meta=beside, smile=SMILE.numpy())
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("an array of objects was unpickled"))
    assert torch.equal(Direction.load(tmp_path / "q.npz", "smile").vector, SMILE)
    with pytest.raises(CheckpointError, match="'meta' of type "):
        Direction.load(tmp_path / "q.npz", "meta")


def test_a_saved_direction_comes_back_bit_for_bit(tmp_path):
    given = Direction("smile", LAYERED, "abc", {"source": "test", "share": 0.5})
    given.save(tmp_path / "any.safetensors")
    found = Direction.load(tmp_path / "any.safetensors")
    assert (found.name, found.base_hash) == ("smile", "abc")
    assert found.meta == {"file": "any.safetensors", "source": "test", "share": 0.5}
    assert torch.equal(found.vector, LAYERED)


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("something in the file was executed",))


def test_nothing_in_a_file_is_executed(tmp_path):
    objects = tmp_path / "smile.npy"
    np.save(objects, np.array([{"smile": 1}, Exploit()], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="Python objects instead of numbers"):
        Direction.load(objects)
    for ending in (".pt", ".npy"):
        pickled = tmp_path / f"exploit{ending}"
        pickled.write_bytes(pickle.dumps({"smile": Exploit()}))
        with pytest.raises(CheckpointError):
            Direction.load(pickled)


def test_a_header_that_promises_more_than_there_is_is_refused_before_memory_is_taken(tmp_path):
    path = write(tmp_path / "smile.npy", SMILE)
    path.write_bytes(path.read_bytes().replace(b"(512,), ", b"(9999999999,), ")[:-7])
    with pytest.raises(CheckpointError, match="damaged"):
        Direction.load(path)
    path.write_bytes(write(tmp_path / "whole.npy", SMILE).read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        Direction.load(path)
    archive = tmp_path / "bomb.npz"
    np.savez_compressed(archive, smile=np.zeros(8 << 20, dtype=np.float32))
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        Direction.load(archive)


@pytest.mark.parametrize("size", [0, 3, 200])
def test_a_broken_archive_is_refused_with_a_message(tmp_path, size):
    path = write(tmp_path / "smile.npz", {"smile": SMILE})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"smile\.npz "):
        Direction.load(path)


@pytest.mark.parametrize("shape", [(18, 512), (1, 18, 512), (1, 18 * 512), (16, 512)])
def test_directions_of_2d_stylegans_are_refused_by_their_shape(tmp_path, shape):
    path = write(tmp_path / "smile.npy", numbers(*shape))
    with pytest.raises(CheckpointError, match="2D StyleGAN"):
        Direction.load(path)


@pytest.mark.parametrize("name", ["stylegan2_smile", "pose", "head_yaw", "Rotation-1"])
def test_directions_without_meaning_in_eg3d_are_refused_by_their_name(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"2D StyleGAN|the camera does that"):
        Direction.load(write(tmp_path / f"{name}.npy", SMILE))
    with pytest.raises(CheckpointError, match=r"2D StyleGAN|the camera does that"):
        Direction.load(write(tmp_path / "all.npz", {name: SMILE, "age": SMILE}), name)


def test_names_that_only_sound_alike_are_kept(tmp_path):
    for name in ("composed", "eg3d_stylegan_smile", "troll"):
        Direction.load(write(tmp_path / f"{name}.npy", SMILE))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((256,), "14 layers of 512 numbers"), ((10, 512), "10 layers"), ((2, 14, 512), "shape")],
)
def test_a_direction_of_another_size_is_refused(tmp_path, shape, message):
    path = write(tmp_path / "smile.npy", numbers(*shape))
    with pytest.raises(CheckpointError, match=message):
        Direction.load(path, num_ws=ROWS, w_dim=WIDTH)


def test_a_small_generator_reads_its_own_width(tmp_path):
    path = write(tmp_path / "smile.npy", numbers(1, 12 * 128))
    assert Direction.load(path, num_ws=12, w_dim=128).vector.shape == (12, 128)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_direction_that_leads_nowhere_is_refused(tmp_path, value):
    with pytest.raises(CheckpointError, match="zero, NaN or infinite"):
        Direction.load(write(tmp_path / "smile.npy", torch.full((WIDTH,), value)))
    with pytest.raises(ValueError, match="leads nowhere"):
        Direction("smile", torch.full((WIDTH,), value))


# --- Finding ----------------------------------------------------------------------------------------------


def in_w(count, width=16, seed=3):
    return numbers(count, 1, width, seed=seed).expand(-1, 4, -1).clone()


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scores", "booleans", "gaps"])
def test_the_direction_behind_the_labels_is_found(kind):
    truth = torch.nn.functional.normalize(numbers(16, seed=9), dim=0)
    ws = in_w(600)
    scores = ws[:, 0] @ truth + 0.1 * numbers(600, seed=4)
    if kind == "booleans":
        scores = scores > 0
    if kind == "gaps":
        scores[::3] = float("nan")
    found = Direction.from_labels(Latents(ws, base_hash="abc"), scores, "smile", fraction=0.1)
    assert cosine(found.vector, truth) > 0.9
    assert found.vector.shape == (16,)
    assert float(found.vector.norm()) == pytest.approx(1, abs=0.15)  # one deviation of these samples
    assert found.base_hash == "abc"
    if kind != "booleans":
        assert found.meta["correlation"] > 0.9


def test_labels_that_have_nothing_to_do_with_the_latents_are_seen_through():
    found = Direction.from_labels(in_w(600), numbers(600, seed=7), fraction=0.1)
    assert abs(found.meta["correlation"]) < 0.2


def test_labels_that_tell_nothing_are_refused():
    ws = in_w(40)
    with pytest.raises(ValueError, match="40 latents but 39 labels"):
        Direction.from_labels(ws, torch.zeros(39))
    with pytest.raises(ValueError, match="all the same"):
        Direction.from_labels(ws, torch.ones(40))
    with pytest.raises(ValueError, match="too few"):
        Direction.from_labels(ws[:12], torch.arange(12.0))


def test_pairs_give_their_mean_difference_layer_by_layer():
    before = in_w(30)
    shift = numbers(16, seed=11)
    assert torch.allclose(Direction.from_pairs(before, before[:30] + shift).vector, shift, atol=1e-5)
    upper = shift * torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None]
    layered = Direction.from_pairs(before, before + upper).vector
    assert torch.allclose(layered, upper, atol=1e-5)
    with pytest.raises(ValueError, match="different generators"):
        Direction.from_pairs(Latents(before, base_hash="a"), Latents(before, base_hash="b"))


def test_principal_directions_are_the_axes_of_the_cloud_longest_first():
    ws = in_w(2000) * torch.tensor([5.0, 3.0] + [0.1] * 14)
    first, second = principal_directions(ws, 2)
    assert abs(float(first.vector[0])) == pytest.approx(5, rel=0.05)
    assert abs(float(second.vector[1])) == pytest.approx(3, rel=0.05)
    assert first.meta["share"] == pytest.approx(25 / 34, abs=0.03)
    assert first.vector.shape == (16,)


# --- Applying ---------------------------------------------------------------------------------------------


def test_the_whole_direction_or_some_layers_of_it():
    ws, smile = in_w(3), Direction("smile", numbers(16))
    assert torch.equal(smile.apply(ws, 0.0), ws)
    assert torch.allclose(smile.apply(ws, 2.0) - ws, (2 * smile.vector).expand(3, 4, 16), atol=1e-5)
    some = smile.apply(ws, 2.0, layers=[1, 3]) - ws
    assert bool((some[:, [0, 2]] == 0).all())
    assert torch.allclose(some[:, [1, 3]], (2 * smile.vector).expand(3, 2, 16), atol=1e-5)
    sweep = smile.apply(ws[:1], torch.linspace(-1, 1, 5))
    assert torch.equal(sweep[2], ws[0])
    assert torch.allclose(sweep[4] - sweep[0], 2 * smile.vector.expand(4, 16), atol=1e-5)
    with pytest.raises(ValueError, match="no layer 4"):
        smile.apply(ws, 1.0, layers=[4])
    with pytest.raises(ValueError, match="2 strengths and 3 latents"):
        smile.apply(ws, torch.zeros(2))
    with pytest.raises(ValueError, match="16 numbers a layer"):
        smile.apply(torch.zeros(1, 4, 8), 1.0)


@pytest.fixture
def space():
    return AlphaSpace(Latents(in_w(5, seed=20)), beta=0.05)


@pytest.mark.parametrize("edge", ["stop", "continue", "project"])
def test_an_edit_within_the_person_stays_a_combination_of_the_anchors(space, edge):
    direction = Direction("smile", numbers(16, seed=21))
    start = space.sample(4, 0, anchors_per_sample=5)
    edited = direction.apply(start.ws, 4.0, within=space, edge=edge)
    weights = space.weights_of(edited)
    assert torch.allclose(weights.sum(1), torch.ones(4), atol=1e-4)
    again = torch.einsum("na,alw->nlw", weights, space.anchors.ws)
    assert torch.allclose(again, edited, atol=1e-3)
    outside = float(weights.min()) < -0.05 - 1e-4
    assert outside == (edge == "continue")
    assert not torch.allclose(edited, start.ws, atol=1e-2)
    assert float(((edited - start.ws)[:, 0] @ direction.vector).min()) > -1e-4


def test_reach_ends_where_an_edit_stops(space):
    direction = Direction("smile", numbers(16, seed=21))
    start = space.sample(1, 0, anchors_per_sample=5).ws
    low, high = direction.reach(start, space)
    assert low < 0 < high
    for end in (low, high):
        inside, at, beyond = (direction.apply(start, f * end, within=space) for f in (0.9, 1.0, 2.0))
        assert not torch.allclose(inside, at, atol=1e-3)
        assert torch.allclose(at, beyond, atol=1e-3)


def test_project_goes_further_than_stop(space):
    direction = Direction("smile", numbers(16, seed=21))
    start = space.sample(6, 0, anchors_per_sample=5).ws

    def gain(edge):
        moved = direction.apply(start, 4.0, within=space, edge=edge) - start
        return moved[:, 0] @ direction.vector

    assert bool((gain("project") >= gain("stop") - 1e-3).all())
    assert bool((gain("project") > gain("stop") + 0.1).any())


def test_what_lies_outside_the_span_survives_an_edit_within_the_person(space):
    own = space.sample(2, 0, anchors_per_sample=5).ws
    odd = numbers(16, seed=30)
    anchors = space.anchors.ws[:, 0]
    axes = (anchors - anchors.mean(0)).T
    odd = odd - axes @ torch.linalg.lstsq(axes, odd[:, None]).solution[:, 0]
    direction = Direction("smile", numbers(16, seed=21))
    plain = direction.apply(own, 0.5, within=space)
    assert torch.allclose(direction.apply(own + odd, 0.5, within=space), plain + odd, atol=1e-3)
    assert torch.allclose(direction.apply(own, 0.0, within=space), own, atol=1e-6)


def test_an_unknown_edge_is_refused(space):
    with pytest.raises(ValueError, match="stop, continue, project"):
        Direction("smile", numbers(16)).apply(space.anchors.ws, 1.0, within=space, edge="bounce")


def test_no_tensor_is_made_on_the_wrong_device():
    with NoCPU():
        ws = torch.empty(3, 4, 16, device=META)
        space = AlphaSpace(Latents(ws))
        smile = Direction("smile", torch.empty(16, device=META))
        for edge in ("stop", "continue"):
            moved = smile.apply(ws, 1.0, layers=[0, 2], within=space, edge=edge)
    assert moved.device == META


@pytest.mark.parametrize("shape", [(512,), (1, 512), (1, 1, 512)])
def test_one_row_without_provenance_is_loaded_and_its_doubt_is_named(shape, tmp_path):
    torch.save(torch.randn(*shape), tmp_path / "smile.pt")
    found = Direction.load(tmp_path / "smile.pt", num_ws=14, w_dim=512)
    assert found.vector.shape == (512,)
    assert re.search(
        r"smile\.pt does not say .* one row of 512 .*2D StyleGANs.*Find Direction", found.doubt()
    )


def test_a_row_for_each_layer_or_a_known_generator_leaves_no_doubt(tmp_path):
    torch.save(torch.randn(14, 512), tmp_path / "smile.pt")
    assert Direction.load(tmp_path / "smile.pt", num_ws=14, w_dim=512).doubt() == ""
    Direction("smile", torch.randn(512), base_hash="0" * 64).save(tmp_path / "known.safetensors")
    assert Direction.load(tmp_path / "known.safetensors").doubt() == ""


def test_the_node_shows_the_doubt_and_says_nothing_where_there_is_none(pack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models/my3dgen/directions"
    folder.mkdir(parents=True)
    torch.save(torch.randn(1, 32), folder / "smile.pt")
    torch.save(torch.randn(6, 32), folder / "layers.pt")
    parts = {name: sys.modules[f"my3dgen_pack.nodes.{name}"] for name in ("host", "socket_types")}
    model = parts["socket_types"].Model(parts["host"].manage(micro_generator(0)), "tiny")
    load = pack.NODE_CLASS_MAPPINGS["My3DGenLoadDirection"]().load
    shown = load(model, "smile.pt", "")
    assert shown["result"][0].vector.shape == (32,)
    (text,) = shown["ui"]["text"]
    assert text.startswith("Warning: smile.pt does not say which generator")
    assert load(model, "layers.pt", "")["ui"] == {}
