"""Plain values, vendored classes and wrappers beside the weights are read as inert data and left out."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import types
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import official_files as files
import pytest
import torch

from my3dgen_core import CheckpointError, load_generator
from my3dgen_core.eg3d.official_pickle import find_generator, module_state
from my3dgen_core.formats.pickle_values import Global, Record, find_global
from my3dgen_core.formats.torch_archive import opened
from my3dgen_core.person.eg3d_dataset import read_latent

STATE = {key: value.float() for key, value in goldens.tensors("tiny_weights").items()}
SETTINGS = goldens.values("tiny_config")
Pair = collections.namedtuple("Pair", "a b")


class Options(dict[str, int]):
    """A dictionary of a project's own class."""


class Values(list[int]):
    """A list of a project's own class."""


class Stated:
    """An object whose state is not a dictionary."""

    def __getstate__(self) -> tuple[int, int]:
        return 1, 2

    def __setstate__(self, state: object) -> None:
        raise AssertionError("the state of a record was applied")


VALUES: dict[str, Any] = {
    "Namespace": argparse.Namespace(lr=1e-3, name="anna", nested=argparse.Namespace(a=[1])),
    "defaultdict": collections.defaultdict(list, {"loss": [0.5]}),
    "Counter": collections.Counter("abca"),
    "deque": collections.deque([1, 2], maxlen=5),
    "Path": pathlib.PurePosixPath("out/anna"),
    "Windows path": pathlib.PureWindowsPath("out/anna"),
    "own path": Path("out"),
    "slice": slice(1, 2),
    "complex": 1 + 2j,
    "date": datetime.datetime(2022, 1, 1),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "type": int,
    "dtype": torch.float32,
    "named tuple": Pair(1, 2),
    "own dictionary": Options(a=1),
    "own list": Values([1]),
    "own state": Stated(),
    "range": range(3),
    "bytearray": bytearray(b"a"),
    "float8": torch.ones(2).to(torch.float8_e4m3fn),
    "uint16": torch.ones(2, dtype=torch.uint16),
    "complex tensor": torch.ones(2, dtype=torch.complex64),
    "sparse": torch.eye(3).to_sparse(),
    "array of text": np.array(["a", "b"]),
    "array of bytes": np.array([b"a"]),
    "array of objects": np.array([{"a": 1}, None], object),
    "array of uint16": np.array([1], np.uint16),
    "array of complex numbers": np.zeros(2, np.complex64),
    "array of dates": np.array(["2022-01-01"], "M8[D]"),
    "array with fields": np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "number of another type": np.uint32(3),
    "complex number": np.complex64(1j),
    "text of numpy": np.str_("a"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_beside_the_weights_are_left_out(name: str, zipped: bool, tmp_path: Path) -> None:
    saved = {"g_ema": {"backbone.mapping.w_avg": torch.ones(3)}, "args": VALUES[name], "step": 7}
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with opened(tmp_path / "a.pt") as root:
        assert torch.equal(find_generator(root)["backbone.mapping.w_avg"].read(), torch.ones(3))
        assert root["step"] == 7


def test_what_is_read_of_an_unknown_class_is_a_record_of_its_attributes(tmp_path: Path) -> None:
    torch.save(argparse.Namespace(lr=0.5), tmp_path / "a.pt")
    with opened(tmp_path / "a.pt") as root:
        assert type(root) is Record
        assert (root.name, root.state) == ("argparse.Namespace", {"lr": 0.5})


@pytest.mark.parametrize("prefix", ["eg3d.", "third_party.eg3d.", "src.models.eg3d."])
@pytest.mark.parametrize("package", ["torch_utils", "dnnlib", "training"])
def test_a_generator_of_a_vendored_copy_of_eg3d_is_read(prefix: str, package: str, tmp_path: Path) -> None:
    class Vendored(files.Writer):
        def save(self, value: Any) -> None:
            if isinstance(value, files.Global) and value.module.startswith(package):
                value = files.Global(prefix + value.module, value.name)
            super().save(value)

    data = Vendored(4).dump({"G_ema": files.official(STATE, SETTINGS)})
    generator = load_generator(files.write(tmp_path / "g.pkl", data))
    assert all(torch.equal(value, STATE[key]) for key, value in generator.state_dict().items())


def test_a_module_in_data_parallel_is_the_module(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4))
    torch.save({"G_ema": torch.nn.DataParallel(network)}, tmp_path / "g.pt")
    with opened(tmp_path / "g.pt") as root:
        assert sorted(module_state(find_generator(root))) == ["0.bias", "0.weight"]


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "generator.", "G.", "G_ema.", "model.net.G."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_and_plain_values_among_the_weights_are_left_out(
    prefix: str, tmp_path: Path
) -> None:
    names = ("backbone.mapping.w_avg", "decoder.net.0.bias")
    state = {**{prefix + name: torch.ones(2) for name in names}, "step": 3}
    torch.save({"state_dict": state}, tmp_path / "g.pt")
    with opened(tmp_path / "g.pt") as root:
        assert sorted(find_generator(root)) == sorted(names)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    "prefixes", [["G.", "G_ema."], ["model.", "ema_model."], ["model.G.", "model.ema.G."]]
)
def test_of_several_generators_in_one_state_dict_the_averaged_one_is_taken(
    prefixes: list[str], wrapped: bool, tmp_path: Path
) -> None:
    names = ("backbone.mapping.w_avg", "decoder.net.0.bias")
    state = {prefix + name: torch.full((2,), float(i)) for i, prefix in enumerate(prefixes) for name in names}
    state |= {"discriminator.b4.fc.weight": torch.zeros(1), "D.mapping.w_avg": torch.zeros(1)}
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "g.pt")
    with opened(tmp_path / "g.pt") as root:
        found = find_generator(root)
        assert sorted(found) == sorted(names)
        assert [value.read().tolist() for value in found.values()] == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("module", "name"),
    [("omegaconf.dictconfig", "DictConfig"), ("torch.nn.parallel.data_parallel", "DataParallel"), ("a", "B")],
)
def test_a_class_outside_python_s_own_library_is_a_name_and_nothing_else(module: str, name: str) -> None:
    found = find_global(module, name)
    assert type(found) is Global
    assert found.name == f"{module}.{name}"


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("__builtin__", "getattr"), ("posix", "popen"), ("shutil", "x")],
)
def test_only_what_would_have_run_something_is_called_dangerous(module: str, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{module}.{name}.*do not open this file with other programs"):
        find_global(module, name)


def test_a_call_of_an_unknown_function_is_refused_and_named(tmp_path: Path) -> None:
    call = files.Call(files.Global("somewhere.tools", "make"), (1,))
    path = files.write(tmp_path / "a.pt", files.zip_file({"g_ema": {"a": torch.ones(2)}, "x": call}))
    message = "calls 'somewhere.tools.make'.*refused before anything ran.*state dict"
    with pytest.raises(CheckpointError, match=message):
        load_generator(path)


@pytest.mark.parametrize(
    "name",
    [
        "IMG_0001 (2).pt",
        "anna+v2.pt",
        "été.pt",
        "张三.pt",
        "a" * 200 + ".pt",
        "smile[1].pt",
        "epoch=3-step=100.ckpt",
        "it's, 50% & more~.pt",
        ".hidden.pt",
        "no suffix",
        "many.dots.in.it.pt",
    ],
)
def test_a_file_of_torch_save_may_have_any_name(name: str, tmp_path: Path) -> None:
    torch.save(torch.ones(1, 14, 8), tmp_path / name)
    assert torch.equal(read_latent(tmp_path / name), torch.ones(1, 14, 8))


def test_the_root_of_an_archive_may_have_any_name_and_its_places_may_not(tmp_path: Path) -> None:
    entries = {"data.pkl": files.Writer(2).dump({"a": 1}), "version": b"3\n", ".format_version": b"1"}
    for root in ("smile[1]", "张三", "..", "C:", "a\\b"):
        made = files.zipped({f"{root}/{place}": data for place, data in entries.items()})
        with opened(files.write(tmp_path / "a.pt", made)) as value:
            assert value == {"a": 1}
    for place in ("../x", "./x", "data/x", "x.py", "data/0/x", ""):
        made = files.zipped({f"a/{name}": data for name, data in {**entries, place: b"x"}.items()})
        with pytest.raises(CheckpointError), opened(files.write(tmp_path / "a.pt", made)):
            pass


def test_the_storage_of_a_tensor_beside_the_weights_is_left_out(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1, 14, 8), "x": torch.ones(2).untyped_storage()}, tmp_path / "a.pt")
    assert torch.equal(read_latent(tmp_path / "a.pt"), torch.ones(1, 14, 8))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_with_attributes_is_the_tensor(zipped: bool, tmp_path: Path) -> None:
    marked = torch.arange(28.0).reshape(1, 14, 2)
    marked.note = "of anna"  # type: ignore[attr-defined]
    torch.save({"w": marked}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_latent(tmp_path / "a.pt"), torch.arange(28.0).reshape(1, 14, 2))


@pytest.mark.parametrize(
    "name",
    ["torch._tensor._rebuild_from_type_v2", "collections.OrderedDict", "numpy.dtype", "somewhere.make"],
)
def test_a_tensor_is_restored_by_the_functions_of_tensors_only(name: str, tmp_path: Path) -> None:
    package, _, function = name.rpartition(".")
    arguments = (files.Global(package, function), files.Global("torch", "Tensor"), (), {})
    call = files.Call(files.Global("torch._tensor", "_rebuild_from_type_v2"), arguments)
    path = files.write(tmp_path / "a.pt", files.zip_file({"g_ema": {"a": torch.ones(2)}, "x": call}))
    with pytest.raises(CheckpointError, match="restores a tensor by"):
        load_generator(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", "<f2"])
@pytest.mark.parametrize("written", ["zip", "legacy", *range(2, 6)])
def test_an_array_of_numpy_is_read_by_its_values(
    order: Any, dtype: str, written: Any, tmp_path: Path
) -> None:
    values = np.arange(28, dtype=np.float32).reshape(1, 14, 2)
    saved = {"w": np.array(values, dtype=dtype, order=order)}
    if type(written) is int:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(saved, written))
    else:
        torch.save(saved, tmp_path / "w.pt", _use_new_zipfile_serialization=written == "zip")
    assert np.array_equal(read_latent(tmp_path / "w.pt").numpy(), values)


def test_arrays_made_of_the_same_bytes_again_and_again_cannot_fill_the_memory(tmp_path: Path) -> None:
    data = files.Call(files.Global("_codecs", "encode"), ("a" * 800, "latin1"))
    array = files.Call(
        files.Global("numpy._core.multiarray", "_reconstruct"), (files.Global("numpy", "ndarray"), (0,), b"b")
    )
    double = files.Call(files.Global("numpy", "dtype"), ("f8", False, True))

    def opcodes(value: Any) -> bytes:
        return files.Writer(2).dump(value)[2:-1]

    kept = opcodes(data) + b"q\x00"
    state = b"(" + opcodes(1) + opcodes((100,)) + opcodes(double) + b"\x89h\x00tb"
    code = b"\x80\x02(" + kept + (opcodes(array) + state) * 5 + b"t."
    path = files.write(tmp_path / "a.pt", files.zipped({"a/data.pkl": code, "a/version": b"3\n"}))
    with opened(path) as root:
        arrays = [value.tensor for value in root[1:]]
        assert [value.read().numel() for value in arrays[:3]] == [100] * 3
        with pytest.raises(CheckpointError, match="uses the same bytes for too many tensors"):
            arrays[3].read()
