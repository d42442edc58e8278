"""Inert values that a pickle may contain, and the few calls that create them.

Nothing here imports, looks up or calls anything that a file names. A "call" in a file is a key of `CALLS`,
whose value is a function of this module: it checks its arguments and returns plain data, a `Record` or a
`TensorRef`.
"""

from __future__ import annotations

import io
import math
import re
import struct
import sys
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
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,  # the bytes of a tensor of a newer kind, whose type the call names
}
STORAGES = {
    f"{package}.{name}Storage": dtype
    for name, dtype in _DTYPES.items()
    for package in ("torch", "torch.cuda", "torch.storage")
}
# Struct format and torch dtype of numpy's number types. Arrays of other types are inert: never read.
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
_OTHER_NUMPY = re.compile(r"[|<>=]?[a-zA-Z]\d{0,9}", re.ASCII)
"""Other types of numpy by the name that a pickle gives them: text, objects, dates, complex numbers."""
_NAMES = frozenset(
    {*STORAGES, *(str(dtype) for dtype in _DTYPES.values()), "numpy.ndarray", "torch.nn.parameter.Parameter"}
)
# Classes, which become `Record`s: those of any package but Python's own, in which nearly every name that a
# hostile file calls lies, and these few of Python's.
_CLASS = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)
_PYTHON = frozenset(
    {*sys.stdlib_module_names, "__builtin__", "copy_reg", "commands", "cPickle", "exceptions"}
)
_TYPES = (
    *("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
    *("long", "object", "set", "slice", "str", "tuple", "unicode"),
)
_PYTHON_CLASSES = frozenset(
    {
        *(
            f"{package}.{name}"
            for package in ("builtins", "__builtin__")
            for name in (*_TYPES, "str", "tuple")
        ),
        *(f"typing.{name}" for name in ("Any", "Optional", "Union", "List", "Dict", "Tuple")),
        "argparse.Namespace",
        "uuid.UUID",
    }
)
_REBUILT = re.compile(r"torch\._(utils|tensor)\._rebuild_\w+", re.ASCII)
"""Functions by which torch restores tensors. What others than those in `CALLS` make is not read."""
# Calls of EG3D's own packages, wherever a project has put its copy of them.
_VENDORED = re.compile(
    r"(?:[A-Za-z_]\w*\.)+(torch_utils\.persistence\._reconstruct_persistent_obj|dnnlib\.util\.EasyDict)",
    re.ASCII,
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
    swapped: bool = False
    """True for numbers whose most significant byte is first."""


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
        if self.storage.swapped and count:
            flat = flat.view(torch.uint8).view(-1, self.dtype.itemsize).flip(1).view(self.dtype).view(-1)
        return flat.as_strided(self.shape, self.stride).contiguous()


@dataclass(eq=False, slots=True)
class NumpyDtype:
    """Number type of numpy."""

    code: str
    """Key of `_NUMPY`; "" for a type that is not read."""
    order: str = "<"
    """Byte order, "<" or ">"."""


@dataclass(eq=False, slots=True)
class NumpyArray:
    """Array; `tensor` is None until its BUILD opcode, and stays so for what is not plain numbers."""

    tensor: TensorRef | None = None


def find_global(module: str, name: str) -> Global:
    """Return the `Global` of `module.name`: what may be called, and classes, whose objects become records.

    Raises:
        CheckpointError: no name, or one of Python's own library that is not among the few harmless ones.
    """
    full = f"{module}.{name}"
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and _CLASS.fullmatch(full):
        if vendored := _VENDORED.fullmatch(full):
            return Global(vendored[1])
        if full in CALLS or full in _PYTHON_CLASSES or module.partition(".")[0] not in _PYTHON:
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
        raise CheckpointError("describes a storage larger than the whole file. It is damaged.")
    return Storage(file, dtype, count)


def _expect(arguments: tuple[object, ...], low: int, high: int, name: str) -> None:
    if not low <= len(arguments) <= high:
        raise CheckpointError(f"calls {name} with {len(arguments)} arguments. It is damaged.")


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
    """Return bytes as protocol 2 writes them, which is text encoded in latin-1, as a file in memory.

    Whatever is built of them counts against the same limit of tensors (`DataFile.tensor`).
    """
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        raise CheckpointError("writes bytes in an unknown encoding.")
    reader.budget.take_text(len(arguments[0]))
    data = arguments[0].encode("latin1")
    return Blob(DataFile(io.BytesIO(data), len(data)), 0, len(data))


def _numpy_dtype(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 1, 3, "numpy.dtype")
    code = arguments[0]
    if type(code) is str and code in _NUMPY:
        return NumpyDtype(code)
    if type(code) is str and _OTHER_NUMPY.fullmatch(code):
        return NumpyDtype("")
    raise CheckpointError(f"holds numpy values of type {quote_untrusted(code)}; only plain numbers are read.")


def _numpy_scalar(reader: Reader, arguments: tuple[object, ...]) -> object:
    _expect(arguments, 2, 2, "numpy's scalar")
    dtype, data = arguments
    if type(dtype) is NumpyDtype and not dtype.code:
        return Record("numpy.generic")
    if type(dtype) is not NumpyDtype or type(data) is not Blob:
        raise CheckpointError("holds a numpy scalar that is not a plain number.")
    return struct.unpack(dtype.order + _NUMPY[dtype.code][0], data.read(8))[0]


def _numpy_array(reader: Reader, arguments: tuple[object, ...]) -> object:
    if len(arguments) != 3 or type(arguments[0]) is not Global or arguments[0].name != "numpy.ndarray":
        raise CheckpointError("builds a numpy array of another class than ndarray.")
    return NumpyArray()


def _numpy_buffer(reader: Reader, arguments: tuple[object, ...]) -> object:
    """Return the array that protocol 5 writes as its bytes, its type, its shape and "C" or "F"."""
    _expect(arguments, 4, 4, "numpy's _frombuffer")
    data, dtype, shape, order = arguments
    array = NumpyArray()
    set_state(array, (1, shape, dtype, order == "F", data))
    return array


def _empty_dictionary(reader: Reader, arguments: tuple[object, ...]) -> object:
    """Return the dictionary that a defaultdict begins as; the factory of its values is left out."""
    _expect(arguments, 0, 1, "defaultdict")
    return {}


def _deque(reader: Reader, arguments: tuple[object, ...]) -> object:
    """Return the items of a deque as a new list; its greatest length is left out."""
    _expect(arguments, 0, 2, "deque")
    items = _sequence(reader, arguments[:1])
    assert isinstance(items, (list, tuple))
    reader.budget.take(len(items))
    return list(items)


def _inert(name: str) -> Callable[[Reader, tuple[object, ...]], object]:
    """Return a call that gives a record without attributes: a plain value of Python that nobody needs."""
    return lambda reader, arguments: Record(name)


def _from_type(reader: Reader, arguments: tuple[object, ...]) -> object:
    """Return the tensor that torch restores before it sets attributes on it; these are left out."""
    _expect(arguments, 4, 4, "_rebuild_from_type_v2")
    function, _, inner, _ = arguments
    call = (
        find_call(function.name) if type(function) is Global and _REBUILT.fullmatch(function.name) else None
    )
    if type(function) is not Global or function.name.endswith("_from_type_v2") or call is None:
        raise CheckpointError(f"restores a tensor by {quote_untrusted(function)}. It is damaged.")
    if type(inner) is not tuple:
        raise CheckpointError(f"restores a tensor from {quote_untrusted(inner)}. It is damaged.")
    return call(reader, inner)


_INERT = (
    *(
        f"{package}.{name}"
        for package in ("builtins", "__builtin__")
        for name in ("slice", "complex", "range", "xrange", "bytearray")
    ),
    "torch.serialization._get_layout",
    *(
        f"{package}.{kind}{name}"
        for package in ("pathlib", "pathlib._local")
        for kind, name in (
            ("", "PosixPath"),
            ("", "WindowsPath"),
            ("Pure", "PosixPath"),
            ("Pure", "WindowsPath"),
        )
    ),
    "pathlib.Path",
    "pathlib.PurePath",
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    "decimal.Decimal",
    "fractions.Fraction",
    "types.SimpleNamespace",
)
"""Plain values that pickle makes by a call. They are read as records, whatever their arguments are."""

CALLS: dict[str, Callable[[Reader, tuple[object, ...]], object]] = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": _empty_dictionary,
    "collections.deque": _deque,
    "dnnlib.util.EasyDict": _dictionary,
    **{name: _inert(name) for name in _INERT},
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
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.storage._load_from_bytes": _from_bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.numeric._frombuffer": _numpy_buffer,
    "numpy._core.numeric._frombuffer": _numpy_buffer,
}


def find_call(name: str) -> Callable[[Reader, tuple[object, ...]], object] | None:
    """Return the function of this module for a call in a file; None for a call that is refused.

    Tensors of newer kinds (float8, uint16, sparse, quantized) become records without attributes.
    """
    if name not in CALLS and _REBUILT.fullmatch(name):
        return _inert("torch.Tensor")
    return CALLS.get(name)


DICTIONARIES = (
    "collections.OrderedDict",
    "collections.Counter",
    "dnnlib.util.EasyDict",
    "easydict.EasyDict",
    "munch.Munch",
    "addict.addict.Dict",
)


def make_record(kind: object, arguments: object) -> object:
    """Create the value of a NEWOBJ opcode: an empty dictionary, or a record without attributes.

    Arguments, such as those of a named tuple, are left out.
    """
    if type(kind) is not Global or type(arguments) is not tuple:
        raise CheckpointError(f"instantiates {quote_untrusted(kind)}. It is damaged.")
    if kind.name in DICTIONARIES:
        return {}
    if kind.name in CALLS or kind.name in _NAMES:
        raise CheckpointError(f"instantiates {quote_untrusted(kind.name)}, which no generator needs.")
    return Record(kind.name)


def set_state(target: object, state: object) -> None:
    """Apply a BUILD opcode: set the attributes of a record once. Nothing is called or updated.

    A state of another form than a dictionary, which a class would read itself, leaves a record without
    attributes.

    Raises:
        CheckpointError: another target, or a state that does not belong to it.
    """
    if type(target) is Record and target.state is None:
        target.state = state if type(state) is dict else {}
    elif type(target) is dict and type(state) is dict:
        pass  # the attributes of an OrderedDict, as `_metadata` of a state dict: not needed
    elif type(target) is NumpyDtype and type(state) is tuple and len(state) >= 8:
        if any(value is not None for value in state[2:5]):
            target.code = ""  # one with fields
        elif state[1] not in ("<", ">", "|", "="):
            raise CheckpointError("holds numpy values that are not plain numbers.")
        target.order = ">" if state[1] == ">" else "<"
    elif type(target) is NumpyArray and target.tensor is None and type(state) is tuple and len(state) == 5:
        _, shape, dtype, fortran, data = state
        if type(dtype) is NumpyDtype and not dtype.code:
            return  # objects, text and the like, which are never looked at
        if type(dtype) is not NumpyDtype or type(fortran) is not bool or type(data) is not Blob:
            raise CheckpointError("holds a numpy array that is not plain numbers.")
        target.tensor = array_tensor(data, dtype, shape, fortran)
    else:
        raise CheckpointError(
            f"sets the attributes of {quote_untrusted(target)} from {quote_untrusted(state)}. It is damaged."
        )


def array_tensor(data: Blob, dtype: NumpyDtype, shape: object, fortran: bool = False) -> TensorRef:
    """Create a tensor from the bytes of an array in C order or in Fortran order."""
    sizes = _sizes(shape, "shape")
    kind = _NUMPY[dtype.code][1]
    if math.prod(sizes) * kind.itemsize != data.length:
        raise CheckpointError("holds an array whose bytes do not fit its shape.")
    strides, step = [], 1
    for size in sizes if fortran else reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    storage = Storage(data.file, kind, data.length // kind.itemsize, data.offset, dtype.order == ">")
    return make_tensor(storage, 0, sizes, tuple(strides if fortran else reversed(strides)))
