"""Inert values that a pickle may contain, and the few calls that create them.

Nothing here imports, looks up or calls anything that a file names. A "call" in a file is a key of `CALLS`,
whose value is a function of this module: it checks its arguments and returns plain data, a `Record` or a
`TensorRef`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..common.errors import CheckpointError, quote_untrusted
from .untrusted_file import Blob, DataFile

# A fine-tune with eight copies of its base has about 0.3 million opcodes and 0.1 million containers.
MOST_OPCODES, MOST_CONTAINERS, MOST_TEXT = 1_000_000, 300_000, 16 << 20
_LARGEST = 1 << 40
_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
STORAGES = {
    f"{package}.{name}Storage": dtype
    for name, dtype in _DTYPES.items()
    for package in ("torch", "torch.cuda", "torch.storage")
}
# Struct format and torch dtype of numpy's number types. Objects have no entry, so that they are refused.
_NUMPY: dict[str, tuple[str, torch.dtype]] = {
    "f2": ("e", torch.float16),
    "f4": ("f", torch.float32),
    "f8": ("d", torch.float64),
    "i1": ("b", torch.int8),
    "i2": ("h", torch.int16),
    "i4": ("i", torch.int32),
    "i8": ("q", torch.int64),
    "u1": ("B", torch.uint8),
    "b1": ("?", torch.bool),
}
# Classes of modules, which become `Record`s. The packages are those of EG3D and its fine-tunes.
_MODULE_CLASS = re.compile(
    r"(training\w*|torch_utils|dnnlib|torch\.nn\.modules|models|networks|lora\w*)\.[\w.]+", re.ASCII
)
_NAMES = frozenset(
    {*STORAGES, *(str(dtype) for dtype in _DTYPES.values()), "numpy.ndarray", "torch.nn.parameter.Parameter"}
)


@dataclass(eq=False, slots=True)
class Global:
    """Name of an object that the file refers to. It is never looked up."""

    name: str


@dataclass(eq=False, slots=True, repr=False)
class Record:
    """Object as data: the name of its class and its attributes. It is never instantiated."""

    name: str
    state: dict[Any, Any] | None = None


@dataclass(eq=False, slots=True)
class Storage:
    """Sequence of `count` numbers in the file; offset is None until a legacy stream has given it."""

    file: DataFile
    dtype: torch.dtype
    count: int
    offset: int | None = None


@dataclass(eq=False, slots=True)
class TensorRef:
    """Tensor that is still in the file, with bounds already checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Stored dtype."""
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the contiguous tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Read the tensor, contiguous, on the CPU, in its stored dtype."""
        if self.storage.offset is None:
            raise CheckpointError("names a storage that it does not contain. It is damaged.")
        count = 0 if 0 in self.shape else 1 + _reach(self.shape, self.stride)
        start = self.storage.offset + self.offset * self.dtype.itemsize
        flat = self.storage.file.tensor(start, count, self.dtype, math.prod(self.shape))
        return flat.as_strided(self.shape, self.stride).contiguous()


@dataclass(eq=False, slots=True)
class NumpyDtype:
    """Number type of numpy: a key of `_NUMPY`, and the byte order "<" or ">"."""

    code: str
    order: str = "<"


@dataclass(eq=False, slots=True)
class NumpyArray:
    """Array of plain numbers; `tensor` is None until its BUILD opcode."""

    tensor: TensorRef | None = None


def find_global(module: str, name: str) -> Global:
    """Return the `Global` of `module.name` if files of generators may name it.

    Raises:
        CheckpointError: an unknown name.
    """
    full = f"{module}.{name}"
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and (
        full in CALLS or full in _NAMES or _MODULE_CLASS.fullmatch(full)
    ):
        return Global(full)
    raise CheckpointError(
        f"asks for {quote_untrusted(full)}, which no generator needs. It was refused before anything ran; "
        "do not open this file with other programs."
    )


def _reach(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    return sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _sizes(value: object, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > 8:
        raise CheckpointError(
            f"describes a tensor whose {what} is {quote_untrusted(value)}, not a short tuple."
        )
    for number in value:
        if type(number) is not int or not 0 <= number <= _LARGEST:
            raise CheckpointError(f"describes a tensor with an impossible {what}.")
    return value


def make_tensor(storage: object, offset: object, shape: object, stride: object) -> TensorRef:
    """Create a view of a storage, checked: all elements lie inside, and there are no more than it holds."""
    if type(storage) is not Storage:
        raise CheckpointError(f"builds a tensor on {quote_untrusted(storage)} instead of a storage.")
    if type(offset) is not int or not 0 <= offset <= _LARGEST:
        raise CheckpointError("describes a tensor with an impossible offset.")
    sizes, steps = _sizes(shape, "shape"), _sizes(stride, "stride")
    if len(sizes) != len(steps):
        raise CheckpointError("describes a tensor with more sizes than strides, or fewer.")
    count = math.prod(sizes)
    if count > storage.count or (count and offset + _reach(sizes, steps) >= storage.count):
        raise CheckpointError(
            f"describes a tensor of {count} numbers that reaches beyond its storage of {storage.count}."
        )
    # The stride of a dimension of size 1 has no meaning.
    steps = tuple(1 if size == 1 else step for size, step in zip(sizes, steps, strict=True))
    return TensorRef(storage, offset, sizes, steps)


def make_storage(file: DataFile, kind: object, count: object) -> Storage:
    """Create a storage by the name of its class, its offset still unknown."""
    dtype = STORAGES.get(kind.name) if type(kind) is Global else None
    if dtype is None:
        raise CheckpointError(
            "uses a storage of an unknown kind: "
            f"{quote_untrusted(kind.name if type(kind) is Global else kind)}."
        )
    if type(count) is not int or not 0 <= count * dtype.itemsize <= file.size:
        raise CheckpointError("describes a storage larger than the whole file. It is damaged or hostile.")
    return Storage(file, dtype, count)


def _expect(arguments: tuple[object, ...], low: int, high: int, name: str) -> None:
    if not low <= len(arguments) <= high:
        raise CheckpointError(f"calls {name} with {len(arguments)} arguments. It is damaged or hostile.")


class Budget:
    """Remaining opcodes, containers and characters of one file, nested streams included."""

    def __init__(self) -> None:
        self.opcodes, self.containers, self.text = MOST_OPCODES, MOST_CONTAINERS, MOST_TEXT

    def take(self, containers: int) -> None:
        """Count containers; raise CheckpointError when none are left."""
        self.containers -= containers
        if self.containers < 0:
            raise CheckpointError(
                f"has more than {MOST_CONTAINERS} containers. It was made to fill the memory."
            )

    def take_text(self, length: int) -> None:
        """Count characters; raise CheckpointError when none are left."""
        self.text -= length
        if self.text < 0:
            raise CheckpointError(
                f"has more than {MOST_TEXT >> 20} MiB of text. It was made to fill the memory."
            )


class Reader(Protocol):
    """Part of a pickle reader (`pickle_interpreter.PickleReader`) that calls need."""

    budget: Budget

    def key(self, value: object) -> object:
        """Return the value if it may be a dictionary key."""

    def nested_storage(self, blob: Blob) -> Storage:
        """Read the storage in a nested stream."""


def _dictionary(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 0, 1, "OrderedDict")
    made: dict[Any, Any] = {}
    pairs = arguments[0] if arguments else []
    if type(pairs) is dict:
        pairs = list(pairs.items())
    if type(pairs) is not list:
        raise CheckpointError(f"makes a dictionary of {quote_untrusted(pairs)}.")
    reader.budget.take(len(pairs))
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2:
            raise CheckpointError("makes a dictionary of something that is not pairs.")
        made[reader.key(pair[0])] = pair[1]
    return made


def _sequence(reader: Reader, arguments: tuple[object, ...]) -> object:
    """Return the items of a set, frozenset or torch.Size as a list or tuple, so that nothing is hashed."""
    _expect(arguments, 0, 1, "a sequence")
    if arguments and type(arguments[0]) not in (list, tuple):
        raise CheckpointError(f"makes a sequence of {quote_untrusted(arguments[0])}.")
    return arguments[0] if arguments else []


def _tensor(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 4, 7, "_rebuild_tensor")
    return make_tensor(*arguments[:4])


def _parameter(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 3, 4, "_rebuild_parameter")
    if type(arguments[0]) is not TensorRef:
        raise CheckpointError(f"makes a parameter of {quote_untrusted(arguments[0])}.")
    return arguments[0]


def _from_bytes(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 1, 1, "_load_from_bytes")
    if type(arguments[0]) is not Blob:
        raise CheckpointError(f"reads a storage from {quote_untrusted(arguments[0])}.")
    return reader.nested_storage(arguments[0])


def _persistent(reader: Reader, arguments: tuple[object, ...]) -> object:
    """Return the class name and attributes of EG3D's persistence record; `module_src` is not read."""
    _expect(arguments, 1, 1, "_reconstruct_persistent_obj")
    meta = arguments[0]
    if type(meta) is not dict or meta.get("type") != "class":
        raise CheckpointError("holds a persistence record of an unknown kind.")
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or (state is not None and type(state) is not dict):
        raise CheckpointError("holds a persistence record without a class name or with an odd state.")
    return Record(name, {} if state is None else state)


def _encode(reader: Reader, arguments: tuple[object, ...]) -> object:
    """Return bytes as protocol 2 writes them: text encoded in latin-1."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        raise CheckpointError("writes bytes in an unknown encoding.")
    reader.budget.take_text(len(arguments[0]))
    return arguments[0].encode("latin1")


def _numpy_dtype(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 1, 3, "numpy.dtype")
    code = arguments[0]
    if type(code) is not str or code not in _NUMPY:
        raise CheckpointError(
            f"holds numpy values of type {quote_untrusted(code)}; only plain numbers are read."
        )
    return NumpyDtype(code)


def _numpy_scalar(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 2, 2, "numpy's scalar")
    dtype, data = arguments
    data = data.read(8) if type(data) is Blob else data
    if type(dtype) is not NumpyDtype or type(data) is not bytes:
        raise CheckpointError("holds a numpy scalar that is not a plain number.")
    return struct.unpack(dtype.order + _NUMPY[dtype.code][0], data)[0]


def _numpy_array(reader: Reader, arguments: tuple[object, ...]) -> object:
    if len(arguments) != 3 or type(arguments[0]) is not Global or arguments[0].name != "numpy.ndarray":
        raise CheckpointError("builds a numpy array of another class than ndarray.")
    return NumpyArray()


CALLS: dict[str, Callable[[Reader, tuple[object, ...]], object]] = {
    "collections.OrderedDict": _dictionary,
    "dnnlib.util.EasyDict": _dictionary,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "__builtin__.set": _sequence,
    "__builtin__.frozenset": _sequence,
    "torch.Size": _sequence,
    "torch.device": lambda reader, arguments: Record("torch.device", {}),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.storage._load_from_bytes": _from_bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
}
DICTIONARIES = ("collections.OrderedDict", "dnnlib.util.EasyDict")


def make_record(kind: object, arguments: object) -> object:
    """Create the value of a NEWOBJ opcode: an empty dictionary, or a record without attributes."""
    if type(kind) is not Global:
        raise CheckpointError(f"instantiates {quote_untrusted(kind)}. It is hostile.")
    if type(arguments) is not tuple or arguments:
        raise CheckpointError(
            f"instantiates {quote_untrusted(kind.name)} with arguments, which no generator needs."
        )
    if kind.name in DICTIONARIES:
        return {}
    if kind.name in CALLS or kind.name in _NAMES:
        raise CheckpointError(f"instantiates {quote_untrusted(kind.name)}, which no generator needs.")
    return Record(kind.name)


def set_state(target: object, state: object) -> None:
    """Apply a BUILD opcode: set the attributes of a record once. Nothing is called or updated.

    Raises:
        CheckpointError: another target, or a state that is not a dictionary.
    """
    if type(target) is Record and target.state is None and type(state) is dict:
        target.state = state
    elif type(target) is dict and type(state) is dict:
        pass  # the attributes of an OrderedDict, as `_metadata` of a state dict: not needed
    elif type(target) is NumpyDtype and type(state) is tuple and len(state) >= 8:
        if state[1] not in ("<", ">", "|", "=") or any(value is not None for value in state[2:5]):
            raise CheckpointError("holds numpy values that are not plain numbers.")
        target.order = ">" if state[1] == ">" else "<"
    elif type(target) is NumpyArray and target.tensor is None and type(state) is tuple and len(state) == 5:
        _, shape, dtype, fortran, data = state
        plain = type(dtype) is NumpyDtype and dtype.order == "<" and fortran is False
        if not plain or type(data) is not Blob:
            raise CheckpointError("holds a numpy array that is not plain numbers in C order.")
        target.tensor = array_tensor(data, dtype.code, shape)
    else:
        raise CheckpointError(
            f"sets the attributes of {quote_untrusted(target)} from {quote_untrusted(state)}. It is hostile."
        )


def array_tensor(data: Blob, code: str, shape: object) -> TensorRef:
    """Create a tensor from the bytes of a C-ordered little-endian array."""
    sizes = _sizes(shape, "shape")
    kind = _NUMPY[code][1]
    if math.prod(sizes) * kind.itemsize != data.length:
        raise CheckpointError("holds an array whose bytes do not fit its shape.")
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    storage = Storage(data.file, kind, data.length // kind.itemsize, data.offset)
    return make_tensor(storage, 0, sizes, tuple(reversed(strides)))
