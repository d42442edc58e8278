"""Pickle reader that cannot run code: an interpreter of the opcodes that files of generators consist of.

A subclass of the standard reader with a strict `find_class` would not be enough: whatever `find_class`
returns is called by REDUCE with the file's arguments, receives `__setstate__` or `__dict__` by BUILD, is
hashed, extended and appended to, all inside C code with the file's sizes, and each of those would have to
be proved harmless in every version of Python. This module instead knows about forty opcodes and refuses the
rest. A name in the file becomes a `Global`, a string that is never imported; a call is a function of
`pickle_values` or an error; an object is a `Record`. Results consist of None, bool,
int, float, str, bytes, tuple, list, dict and the classes of `pickle_values`, and of nothing else.

Size is bounded too: the opcodes, containers and characters of one file are counted against a `Budget`; bytes
stay in the file (`Blob`); keys are strings and small integers, because hashing a nested tuple can take
exponential time; sets become lists; and no value that was read is walked, compared or printed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from ..common.errors import CheckpointError, quote_untrusted
from .pickle_values import (
    MOST_OPCODES,
    Budget,
    Global,
    Record,
    Storage,
    find_call,
    find_global,
    make_record,
    make_storage,
    set_state,
)
from .untrusted_file import Blob, DataFile

LONGEST_NAME, LONGEST_INT, HEAD = 200, 16, 4096
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class PickleReader:
    """Reader of one pickle from a stream.

    Args:
        stream: source of the opcodes.
        file: the whole file, in which bytes stay.
        base: offset of the stream in the file.
        budget: limits shared by all streams of a file; None: new ones.
        persistent: returns the object of a persistent id; None: such ids are refused.
        nested: True for a stream inside another one, which may not nest further.
    """

    def __init__(
        self,
        stream: BinaryIO,
        file: DataFile,
        base: int = 0,
        budget: Budget | None = None,
        persistent: Callable[[object], object] | None = None,
        nested: bool = False,
    ) -> None:
        self.stream, self.file, self.base, self.nested = stream, file, base, nested
        self.budget = budget or Budget()
        self.persistent = persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Read the value of the pickle and leave the stream at its end.

        Raises:
            CheckpointError: an opcode, name, call or size that no generator needs, or a damaged stream.
        """
        read, budget, operations = self.stream.read, self.budget, _OPERATIONS
        self.stack, self.outer, self.memo = [], [], {}
        try:
            while (code := read(1)) != b".":
                budget.opcodes -= 1
                if budget.opcodes < 0:
                    raise CheckpointError(f"has more than {MOST_OPCODES} pickle opcodes.")
                operation = operations.get(code)
                if operation is None:
                    raise CheckpointError(_unknown(code))
                operation(self)
            if self.outer or len(self.stack) != 1:
                raise CheckpointError("is a damaged pickle: it ends with an unfinished value.")
            return self.stack.pop()
        except (IndexError, KeyError) as error:
            raise CheckpointError("is a damaged pickle: it uses a value that it never made.") from error
        except (struct.error, UnicodeError, OverflowError) as error:
            raise CheckpointError(f"is a damaged pickle: {error}.") from error

    def take(self, length: int) -> bytes:
        """Read exactly `length` bytes."""
        data = self.stream.read(length)
        if len(data) != length:
            raise CheckpointError("is cut off in the middle of a pickle. Download it again.")
        return data

    def number(self, form: str) -> int:
        """Read one integer of a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def key(self, value: object) -> object:
        """Return `value` if it may be a key: strings and small integers hash fast and rarely collide."""
        if type(value) is str or value is None or type(value) is bool:
            return value
        if type(value) is int and abs(value) < 1 << 31:
            return value
        raise CheckpointError(
            f"uses {quote_untrusted(value)} as a key; only text and small numbers can be one."
        )

    def nested_storage(self, blob: Blob) -> Storage:
        """Read the storage in the bytes of a tensor, which are a legacy torch stream of their own."""
        if self.nested:
            raise CheckpointError("nests storages in storages. It is damaged.")
        self.budget.take(30)  # each takes as much time as 30 containers
        head = blob.file.read(blob.offset, min(blob.length, HEAD))
        root = read_legacy(io.BytesIO(head), blob.file, blob.offset, blob.length, self.budget)
        if type(root) is not Storage:
            raise CheckpointError("holds a tensor whose bytes are not a storage.")
        return root

    # One method per opcode, named as in Python's pickletools.

    def _proto(self) -> None:
        if (version := self.take(1)[0]) > 5:
            raise CheckpointError(f"is a pickle of an unknown protocol, {version}.")

    def _frame(self) -> None:
        if self.number("<Q") > self.file.size:
            raise CheckpointError("announces a frame longer than the file. It is cut off.")

    def _mark(self) -> None:
        self.budget.take(1)
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Return the items above the last mark and remove them with the mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _integer(self, form: str) -> None:
        self.stack.append(self.number(form))

    def _long1(self) -> None:
        length = self.take(1)[0]
        if length > LONGEST_INT:
            raise CheckpointError(f"has an integer of {length} bytes, which no generator needs.")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def _binfloat(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def _text(self, form: str) -> None:
        length = self.number(form)
        self.budget.take_text(length)
        self.stack.append(self.take(length).decode("utf-8", "surrogatepass"))

    def _bytes(self, form: str) -> None:
        length = self.number(form)
        offset = self.stream.tell()
        if length > self.file.size - self.base - offset:
            raise CheckpointError(f"is cut off: it promises {length} bytes that it does not have.")
        self.stream.seek(offset + length)
        self.stack.append(Blob(self.file, self.base + offset, length))

    def _tuple(self, size: int) -> None:
        self.budget.take(1)
        if len(self.stack) < size:
            raise IndexError
        items = tuple(self.stack[len(self.stack) - size :])
        del self.stack[len(self.stack) - size :]
        self.stack.append(items)

    def _tuple_mark(self) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def _empty(self, kind: type[list[Any]] | type[dict[Any, Any]]) -> None:
        self.budget.take(1)
        self.stack.append(kind())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Record:  # the items of a list of an unknown class are left out
            raise CheckpointError(f"appends to {quote_untrusted(target)}. It is damaged.")

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is Record:
            return  # the items of a dictionary of an unknown class are left out
        if type(target) is not dict or len(items) % 2:
            raise CheckpointError(f"sets items of {quote_untrusted(target)}. It is damaged.")
        for index in range(0, len(items), 2):
            target[self.key(items[index])] = items[index + 1]

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _get(self, form: str) -> None:
        self.stack.append(self.memo[self.number(form)])

    def _put(self, form: str) -> None:
        self.memo[self.number(form)] = self.stack[-1]

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self.stack.append(find_global(module, name))

    def _line(self) -> str:
        line: bytes = self.stream.readline(LONGEST_NAME)
        if not line.endswith(b"\n"):
            raise CheckpointError("names something longer than any name. It is damaged.")
        return line[:-1].decode("utf-8")

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str or len(name) + len(module) > LONGEST_NAME:
            raise CheckpointError("names something by what is not a name. It is damaged.")
        self.stack.append(find_global(module, name))

    def _reduce(self) -> None:
        self.budget.take(1)
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise CheckpointError(
                f"calls {quote_untrusted(function)} with {quote_untrusted(arguments)}. It is damaged."
            )
        call = find_call(function.name)
        if call is None:
            raise CheckpointError(
                f"calls {quote_untrusted(function.name)}, which no generator needs. It was refused before "
                "anything ran: do not open this file with other programs. Ask for the weights alone "
                "(torch.save of a state dict, or .safetensors)."
            )
        self.stack.append(call(self, arguments))

    def _newobj(self) -> None:
        self.budget.take(1)
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.stack.append(make_record(kind, arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        set_state(self.stack[-1], state)

    def _binpersid(self) -> None:
        if self.persistent is None:
            raise CheckpointError("uses persistent ids, which a plain pickle of a generator does not have.")
        self.budget.take(1)
        self.stack.append(self.persistent(self.stack.pop()))


_OPERATIONS: dict[bytes, Callable[[PickleReader], None]] = {
    b"\x80": PickleReader._proto,
    b"\x95": PickleReader._frame,
    b"(": PickleReader._mark,
    b"N": lambda r: r.stack.append(None),
    b"\x88": lambda r: r.stack.append(True),
    b"\x89": lambda r: r.stack.append(False),
    b"J": lambda r: r._integer("<i"),
    b"K": lambda r: r._integer("<B"),
    b"M": lambda r: r._integer("<H"),
    b"\x8a": PickleReader._long1,
    b"G": PickleReader._binfloat,
    b"\x8c": lambda r: r._text("<B"),
    b"X": lambda r: r._text("<I"),
    b"\x8d": lambda r: r._text("<Q"),
    b"C": lambda r: r._bytes("<B"),
    b"B": lambda r: r._bytes("<I"),
    b"\x8e": lambda r: r._bytes("<Q"),
    b"\x96": lambda r: r._bytes("<Q"),  # a bytearray
    b")": lambda r: r._tuple(0),
    b"\x85": lambda r: r._tuple(1),
    b"\x86": lambda r: r._tuple(2),
    b"\x87": lambda r: r._tuple(3),
    b"t": PickleReader._tuple_mark,
    b"]": lambda r: r._empty(list),
    b"}": lambda r: r._empty(dict),
    b"\x8f": lambda r: r._empty(list),  # a set
    b"a": lambda r: r._extend([r.stack.pop()]),
    b"e": lambda r: r._extend(r.pop_mark()),
    b"\x90": lambda r: r._extend(r.pop_mark()),  # to a set
    b"\x91": PickleReader._tuple_mark,  # a frozenset
    b"s": PickleReader._setitem,
    b"u": lambda r: r._set(r.pop_mark()),
    b"h": lambda r: r._get("<B"),
    b"j": lambda r: r._get("<I"),
    b"q": lambda r: r._put("<B"),
    b"r": lambda r: r._put("<I"),
    b"\x94": PickleReader._memoize,
    b"c": PickleReader._global,
    b"\x93": PickleReader._stack_global,
    b"R": PickleReader._reduce,
    b"\x81": PickleReader._newobj,
    b"b": PickleReader._build,
    b"Q": PickleReader._binpersid,
}


def _unknown(code: bytes) -> str:
    if not code:
        return "is cut off in the middle of a pickle. Download it again."
    return f"uses the pickle opcode 0x{code[0]:02x}, which no generator needs. It is damaged."


def read_legacy(stream: BinaryIO, file: DataFile, base: int, length: int, budget: Budget) -> Any:
    """Read a stream of torch.save before the zip format: five pickles, then the storages in sequence.

    Args:
        stream: the stream at its beginning; for a nested stream it may hold only the first bytes.
        file: the whole file.
        base: offset of the stream in the file.
        length: number of bytes of the stream.
        budget: limits shared by all streams of the file.

    Returns:
        The saved value, with the offsets of its storages set.

    Raises:
        CheckpointError: a damaged stream, or one whose storages do not match their description.
    """
    storages: dict[str, Storage] = {}

    def persistent(saved: object) -> object:
        if type(saved) is tuple and len(saved) == 4 and saved[0] == "module" and type(saved[1]) is Global:
            return saved[1]
        if type(saved) is not tuple or not 5 <= len(saved) <= 6 or saved[0] != "storage":
            raise CheckpointError("uses a persistent id that is not a storage.")
        _, kind, key, _, count = saved[:5]
        if type(key) is not str or (len(saved) == 6 and saved[5] is not None):
            raise CheckpointError("uses a storage by an odd key, or a view of one.")
        storage = make_storage(file, kind, count)
        known = storages.setdefault(key, storage)
        if known.dtype != storage.dtype or known.count != storage.count:
            raise CheckpointError("describes one storage in two ways.")
        return known

    def load(with_storages: bool = False) -> Any:
        ids = persistent if with_storages else None
        return PickleReader(stream, file, base, budget, ids, nested=True).load()

    check_stream_start(load(), load(), load())
    root, keys = load(with_storages=True), load()
    if type(keys) is not list or len(keys) != len(storages):
        raise CheckpointError("lists other storages than it uses.")
    position = base + stream.tell()
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        if storage is None or storage.offset is not None:
            raise CheckpointError("lists a storage that it does not use, or one twice.")
        if struct.unpack("<q", file.read(position, 8))[0] != storage.count:
            raise CheckpointError("holds a storage of another size than described.")
        storage.offset = position + 8
        position += 8 + storage.count * storage.dtype.itemsize
    if position != base + length:
        raise CheckpointError("is cut off, or something was added to it. Download it again.")
    return root


def check_stream_start(magic: object, protocol: object, system: object) -> None:
    """Raise CheckpointError unless these are the first three pickles of a legacy stream."""
    if type(magic) is not int or magic != MAGIC or type(protocol) is not int or protocol != PROTOCOL:
        raise CheckpointError("is not a file of torch.save, or of an unknown version.")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise CheckpointError("was written on a big-endian machine, which is not supported.")
