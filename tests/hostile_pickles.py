"""Hostile pickles: calls, opcodes and arguments that must never be carried out."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from typing import Any

import torch
from official_files import (
    Call,
    Global,
    New,
    Persistent,
    Raw,
    Writer,
    legacy,
    legacy_file,
    legacy_storage,
    official,
    ordered,
    raw_bytes,
    zip_file,
)

COMMAND = 'touch "$CANARY"'
CODE = "import os; open(os.environ['CANARY'], 'w').close()"
Files = Iterator[tuple[str, bytes]]
ONES = torch.ones(4)

# What a pickle would call, and with what.
CALLS: list[tuple[str, str, tuple[Any, ...]]] = [
    *((package, "system", (COMMAND,)) for package in ("os", "posix", "nt")),
    *(("os", name, (COMMAND,)) for name in ("popen", "remove", "unlink", "rmdir", "_exit", "abort")),
    *(("os", name, ("/bin/sh", ["sh", "-c", COMMAND])) for name in ("execv", "execvp", "posix_spawn")),
    *(
        ("subprocess", name, (["sh", "-c", COMMAND],))
        for name in ("Popen", "call", "run", "check_output", "getoutput")
    ),
    *(
        (package, name, (CODE,))
        for package in ("builtins", "__builtin__")
        for name in ("eval", "exec", "compile")
    ),
    *(
        ("builtins", name, ("os",))
        for name in ("__import__", "open", "input", "breakpoint", "globals", "print")
    ),
    *(
        ("builtins", name, ("a", "b"))
        for name in ("getattr", "setattr", "delattr", "vars", "type", "map", "filter")
    ),
    *(
        ("builtins", name, (1 << 40,))
        for name in ("bytearray", "bytes", "range", "list", "dict", "str", "object")
    ),
    ("builtins", "memoryview", (b"a",)),
    ("importlib", "import_module", ("antigravity",)),
    ("importlib", "__import__", ("antigravity",)),
    ("runpy", "run_path", ("/tmp/x.py",)),
    ("runpy", "_run_code", (CODE, {})),
    ("pty", "spawn", ("/bin/sh",)),
    ("shutil", "rmtree", ("/tmp/nothing",)),
    ("shutil", "copyfile", ("/etc/hostname", "x")),
    ("socket", "create_connection", (("127.0.0.1", 9),)),
    ("ctypes", "CDLL", ("libc.so.6",)),
    ("operator", "attrgetter", ("system",)),
    ("operator", "methodcaller", ("system", COMMAND)),
    ("functools", "partial", (Global("os", "system"), COMMAND)),
    ("functools", "reduce", (Global("os", "system"), [COMMAND])),
    ("types", "FunctionType", (None, {})),
    ("types", "CodeType", (0,) * 16),
    ("marshal", "loads", (b"c",)),
    ("pickle", "loads", (b"cos\nsystem\n",)),
    ("_pickle", "loads", (b"cos\nsystem\n",)),
    ("torch", "load", ("x.pt",)),
    ("torch.serialization", "load", ("x.pt",)),
    ("torch.hub", "load", ("owner/name", "model")),
    ("torch.jit", "load", ("x.pt",)),
    ("torch._utils", "_import_dotted_name", ("os.system",)),
    ("torch._utils", "_rebuild_sparse_tensor", (None, ())),
    ("torch._tensor", "_rebuild_from_type_v2", (Global("os", "system"), COMMAND, (), {})),
    ("torch.utils.cpp_extension", "load_inline", ("x", "int x;")),
    ("torch.distributed.rpc.internal", "_run_function", (b"x",)),
    ("numpy", "load", ("x.npy",)),
    ("numpy.testing._private.utils", "runstring", (CODE, {})),
    ("numpy.f2py.crackfortran", "myeval", (CODE,)),
    ("webbrowser", "open", ("http://127.0.0.1",)),
    ("timeit", "timeit", (CODE,)),
    ("code", "interact", ()),
    ("pdb", "run", (CODE,)),
    ("cProfile", "run", (CODE,)),
    ("bdb", "Bdb.run", (CODE,)),
    ("multiprocessing.util", "spawnv_passfds", (b"/bin/sh", [], ())),
    ("asyncio.subprocess", "create_subprocess_shell", (COMMAND,)),
    ("pathlib", "Path.write_text", (".", "x")),
    ("pathlib", "PosixPath", (".",)),
    ("io", "FileIO", ("x", "w")),
    ("_io", "open", ("x", "w")),
    ("logging.config", "dictConfig", ({},)),
    ("urllib.request", "urlopen", ("http://127.0.0.1",)),
    ("copyreg", "_reconstructor", (Global("os", "_Environ"), Global("builtins", "object"), None)),
    ("copy_reg", "_reconstructor", (Global("os", "_Environ"), Global("__builtin__", "object"), None)),
    ("copyreg", "__newobj__", (Global("subprocess", "Popen"), COMMAND)),
    ("copyreg", "add_extension", ("os", "system", 1)),
    ("collections", "namedtuple", ("x", CODE)),
    ("collections", "defaultdict", (Global("os", "getcwd"),)),
    ("dnnlib.util", "call_func_by_name", (COMMAND,)),
    ("dnnlib.util", "construct_class_by_name", (COMMAND,)),
    ("dnnlib.util", "get_obj_by_name", ("os.system",)),
    ("dnnlib.util", "open_url", ("http://127.0.0.1",)),
    ("torch_utils.persistence", "import_hook", (Global("os", "system"),)),
    ("torch_utils.persistence", "_src_to_module", (CODE,)),
    ("torch_utils.custom_ops", "get_plugin", ("x",)),
    ("training.triplane", "TriPlaneGenerator", (512,)),
    ("training.os", "system", (COMMAND,)),
    ("torch.nn.modules.module", "Module", ()),
    ("torch.nn.parameter", "Parameter", (1,)),
    ("lora", "os.system", (COMMAND,)),
    ("models.__init__", "__builtins__", ("eval", CODE)),
]

NAMES = [
    ("torch", "_utils._rebuild_tensor_v2.__globals__"),
    ("torch._utils", "_rebuild_tensor_v2.__code__"),
    ("collections", "OrderedDict.__init__"),
    ("collections", "OrderedDict\n"),
    ("collections ", "OrderedDict"),
    ("numpy", "dtype.__subclasses__"),
    ("", ""),
    ("", "eval"),
    ("training", ""),
    ("training.x", "a-b"),
    ("training.x", "é"),
    ("training.x", "x" * 300),
    ("trainin", "g.x"),
    ("torch.nn.modules", "../os"),
    ("torch\x00", "FloatStorage"),
    ("__main__", "Model"),
    ("sys", "modules"),
]


def pickled(value: Any, protocol: int = 4) -> bytes:
    return Writer(protocol).dump(value)


def code(*parts: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(parts)


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def inside(value: Any, attribute: str = "renderer") -> bytes:
    """A generator's record with something odd among its attributes."""
    return pickled({"G_ema": official({}, {"rendering_kwargs": {}}, {"": {attribute: value}})})


def calls() -> Files:
    for index, (module, name, arguments) in enumerate(CALLS):
        call = Call(Global(module, name), arguments)
        if index % 3 == 0:
            yield f"call {module}.{name} as an attribute", inside(call)
        elif index % 3 == 1:
            yield f"call {module}.{name} in a zip", zip_file({"G_ema": call})
        else:
            yield f"call {module}.{name} in a legacy file", legacy_file([call])
        yield f"call {module}.{name} alone", pickled(call, 2 if index % 2 else 4)
    for module, name in NAMES:
        yield f"name {module!r} {name[:40]!r}", pickled(New(Global(module, name)))
    for name in ("system", "eval"):
        yield f"NEWOBJ of os.{name}", pickled(New(Global("os", name), (COMMAND,)))
    yield "a name made of numbers", pickled(Raw(b"K\x01K\x02\x93"))
    yield "a name made of tuples", pickled(Raw(b"))\x93"))
    yield "REDUCE of a string", pickled(Call("os.system", (COMMAND,)))
    yield "REDUCE of a record", pickled(Call(New(Global("training.x", "X")), ()))
    yield "REDUCE with a list", pickled(Raw(named("collections", "OrderedDict") + b"]R"))
    yield "REDUCE of a REDUCE", pickled(Call(Call(Global("collections", "OrderedDict")), ()))
    yield (
        "a stack of reduces",
        pickled(Call(Call(Global("builtins", "getattr"), (Global("os", "x"), "system")), (COMMAND,))),
    )
    yield "what Python's own pickle makes", pickle.dumps(_Evil(), 4)
    yield "the same in protocol 0", pickle.dumps(_Evil(), 0)
    yield "the same in protocol 2", pickle.dumps(_Evil(), 2)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (COMMAND,)


def opcodes() -> Files:
    system = named("os", "system")
    alone = {
        "INST": b"(X\x01\x00\x00\x00aios\nsystem\n.",
        "OBJ": b"(" + named("training.x", "X") + b"o.",
        "NEWOBJ_EX": named("training.x", "X") + b")}\x92.",
        "EXT1": b"\x82\x01.",
        "EXT2": b"\x83\x01\x00.",
        "EXT4": b"\x84\x01\x00\x00\x00.",
        "PERSID": b"Psystem\n.",
        "BINPERSID without storages": b"X\x01\x00\x00\x00aQ.",
        "POP": b"NN0.",
        "DUP": b"N2.",
        "POP_MARK": b"N(N1.",
        "LONG4": b"\x8b\xff\xff\xff\x7f\x01.",
        "LONG4 negative": b"\x8b\xff\xff\xff\xff\x01.",
        "LONG1 long": b"\x8a\xff" + b"\x01" * 255 + b".",
        "LONG text": b"L" + b"9" * 5000 + b"L\n.",
        "INT text": b"I" + b"9" * 5000 + b"\n.",
        "FLOAT text": b"F1e999\n.",
        "STRING": b"S'a'\n.",
        "UNICODE": b"Va\n.",
        "BINSTRING": b"T\x01\x00\x00\x00a.",
        "SHORT_BINSTRING": b"U\x01a.",
        "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1 << 40) + b".",
        "NEXT_BUFFER": b"\x97.",
        "READONLY_BUFFER": b"N\x98.",
        "GET text": b"Np0\ng0\n.",
        "PUT text": b"Np0\n.",
        "LIST": b"(l.",
        "DICT": b"(d.",
        "unknown": b"\xff.",
        "zero": b"\x00.",
        "PROTO 200": b"\x80\xc8N.",
        "FRAME huge": b"\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        "BINUNICODE8 huge": b"\x8d" + struct.pack("<Q", 1 << 60) + b"a.",
        "BINUNICODE huge": b"X\xff\xff\xff\xff" + b"a.",
        "BINBYTES8 huge": b"\x8e" + struct.pack("<Q", 1 << 60) + b"a.",
        "BINBYTES huge": b"B\xff\xff\xff\xffa.",
        "text that is no UTF-8": b"\x8c\x02\xff\xfe.",
        "GLOBAL without an end": b"c" + b"a" * 100_000,
        "GLOBAL after BUILD": system + b"}b.",
        "STOP at once": b".",
        "two values": b"NN.",
        "an open mark": b"(N.",
        "TUPLE without a mark": b"Nt.",
        "TUPLE3 of two": b"NN\x87.",
        "APPEND to nothing": b"Na.",
        "APPENDS to a tuple": b")(Ne.",
        "APPENDS to a dictionary": b"}(Ne.",
        "ADDITEMS to a global": named("collections", "OrderedDict") + b"(N\x90.",
        "SETITEMS of a list": b"](NNu.",
        "SETITEMS of three": b"}(NNNu.",
        "SETITEM of a global": named("collections", "OrderedDict") + b"NNs.",
        "SETITEM of a record": named("training.x", "X") + b")\x81NNs.",
        "BUILD of a list": b"]}b.",
        "BUILD of text": b"X\x01\x00\x00\x00a}b.",
        "BUILD of an allowed function": named("torch._utils", "_rebuild_tensor_v2") + b"}b.",
        "BUILD with slots": named("training.x", "X") + b")\x81N}\x86b.",
        "BUILD with text": named("training.x", "X") + b")\x81X\x01\x00\x00\x00ab.",
        "BUILD twice": named("training.x", "X") + b")\x81}b}b.",
        "BUILD of a dictionary with a list": b"}]b.",
        "NEWOBJ with arguments": named("training.x", "X") + b"N\x85\x81.",
        "NEWOBJ with a list": named("training.x", "X") + b"]\x81.",
        "NEWOBJ of text": b"X\x01\x00\x00\x00a)\x81.",
        "NEWOBJ of a function": named("torch.storage", "_load_from_bytes") + b")\x81.",
        "NEWOBJ of a storage": named("torch", "FloatStorage") + b")\x81.",
        "memo that was never made": b"h\x07.",
        "long memo that was never made": b"j\xff\xff\xff\xff.",
        "PUT of nothing": b"q\x00.",
        "MEMOIZE of nothing": b"\x94.",
    }
    for name, body in alone.items():
        yield f"opcode {name}", code(body)


def arguments() -> Files:
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    storage = Call(Global("torch.storage", "_load_from_bytes"), (legacy_storage(ONES),))

    def tensor(offset: Any = 0, shape: Any = (4,), stride: Any = (1,), base: Any = storage) -> bytes:
        return inside(Call(rebuild, (base, offset, shape, stride, False, ordered())))

    yield "tensor before its storage", tensor(offset=-1)
    yield "tensor behind its storage", tensor(offset=1)
    yield "tensor far behind its storage", tensor(offset=1 << 62)
    yield "tensor with a negative stride", tensor(stride=(-1,))
    yield "tensor with a long stride", tensor(stride=(2,))
    yield "tensor with a stride that overflows", tensor(shape=(2,), stride=((1 << 63) - 1,))
    yield "tensor of 10 GB by expansion", tensor(shape=(10 << 28,), stride=(0,))
    yield "tensor of 10 GB in two dimensions", tensor(shape=(50_000, 50_000), stride=(0, 0))
    yield "tensor whose size overflows", tensor(shape=(1 << 33, 1 << 33), stride=(0, 0))
    yield "tensor with a negative size", tensor(shape=(-4,))
    yield "tensor with a size of two negatives", tensor(shape=(-2, -2), stride=(1, 1))
    yield "tensor with a fraction of a size", tensor(shape=(4.0,))
    yield "tensor with a true size", tensor(shape=(True,))
    yield "tensor with text as its shape", tensor(shape="4")
    yield "tensor with a list as its shape", tensor(shape=[4])
    yield "tensor of 1000 dimensions", tensor(shape=(1,) * 1000, stride=(1,) * 1000)
    yield "tensor with fewer strides", tensor(shape=(2, 2), stride=(1,))
    yield "tensor without a storage", tensor(base=None)
    yield "tensor on a list", tensor(base=[1.0, 2.0])
    yield "tensor with text as its offset", tensor(offset="0")
    yield "tensor without arguments", inside(Call(rebuild, ()))
    yield "tensor with too many arguments", inside(Call(rebuild, (storage, 0, (4,), (1,), 1, 2, 3, 4, 5)))
    yield (
        "parameter of text",
        inside(Call(Global("torch._utils", "_rebuild_parameter"), ("a", True, ordered()))),
    )
    yield "parameter of nothing", inside(Call(Global("torch._utils", "_rebuild_parameter"), ()))
    load = Global("torch.storage", "_load_from_bytes")
    evil = Call(Global("os", "system"), (COMMAND,))
    streams = {
        "text": "abc",
        "a list": [],
        "nothing": b"",
        "garbage": b"garbage" * 100,
        "an evil pickle": pickled(evil, 2),
        "an evil magic number": pickled(evil, 2) * 5,
        "an evil root": legacy(evil, {}),
        "an evil list of keys": legacy_storage(ONES)[:-60] + pickled(evil, 2),
        "a storage within a storage": legacy(Call(load, (legacy_storage(ONES),)), {}),
        "a wrong magic number": legacy_storage(ONES).replace(b"\x6c\xfc\x9c\x46", b"\x6c\xfc\x9c\x47"),
        "a big-endian one": legacy_storage(ONES).replace(b"little_endian\x88", b"little_endian\x89"),
        "a root that is no storage": legacy(None, {}),
        "a zip archive": zip_file(ONES),
        "one byte too few": legacy_storage(ONES)[:-1],
        "one byte too many": legacy_storage(ONES) + b"a",
        "a count that lies": legacy_storage(ONES)[:-24] + struct.pack("<q", 5) + raw_bytes(ONES),
        "a negative count": legacy_storage(ONES)[:-24] + struct.pack("<q", -4) + raw_bytes(ONES),
        "10 GB": legacy(_storage_id(count=10 << 28), {"94": ONES}),
        "a negative size": legacy(_storage_id(count=-4), {"94": ONES}),
        "an unknown kind": legacy(_storage_id(kind=Global("torch", "QInt8Storage")), {"94": ONES}),
        "os.system for a kind": legacy(_storage_id(kind=Global("os", "system")), {"94": ONES}),
        "text for a kind": legacy(_storage_id(kind="FloatStorage"), {"94": ONES}),
        "a view": legacy(_storage_id(view=("94", 0, 4)), {"94": ONES}),
        "another key": legacy(_storage_id(key="95"), {"94": ONES}),
        "a key that is no text": legacy(_storage_id(key=94), {"94": ONES}),
        "source code": legacy(Persistent(("module", Global("os", "system"), "x.py", CODE)), {}),
        "an odd persistent id": legacy(Persistent("94"), {"94": ONES}),
        "a short persistent id": legacy(Persistent(("storage",)), {"94": ONES}),
    }
    for name, stream in streams.items():
        yield f"storage from {name}", inside(Call(load, (stream,)))
    yield "storage without bytes", inside(Call(load, ()))
    dictionary = Global("collections", "OrderedDict")
    for name, pairs in {
        "text": "ab",
        "numbers": [1, 2],
        "triples": [[1, 2, 3]],
        "a key that is a list": [[[], 1]],
        "a key that is a tuple": [[(1, 2), 1]],
        "a key that is a tensor": [[ONES, 1]],
        "a huge key": [[1 << 100, 1]],
    }.items():
        yield f"dictionary of {name}", inside(Call(dictionary, (pairs,)))
    yield "dictionary with a key that is a dictionary", pickled(Raw(b"}}Ns"))
    yield "dictionary with a key of bytes", pickled({b"a": 1})
    yield "dictionary with a fraction as a key", pickled({0.5: 1})
    yield "EasyDict with arguments", inside(New(Global("dnnlib.util", "EasyDict"), ({},)))
    yield "set of a number", inside(Call(Global("builtins", "set"), (1,)))
    for encoding in ("rot13", "zlib_codec", "utf-7", "punycode", "unicode_escape"):
        yield f"bytes by {encoding}", inside(Call(Global("_codecs", "encode"), (CODE, encoding)))
    yield "bytes by two errors", inside(Call(Global("_codecs", "encode"), ("a", "latin1", "x")))
    yield "bytes that are none", inside(Call(Global("_codecs", "encode"), ("\u4e00", "latin1")))
    yield from numpy_values()
    for name, meta in {
        "nothing": None,
        "text": "x",
        "a list": [],
        "a function": {"type": "function", "class_name": "x", "state": {}, "module_src": CODE},
        "no class": {"type": "class", "state": {}},
        "a tuple for a state": {"type": "class", "class_name": "X", "state": (), "module_src": CODE},
        "a number for a class": {"type": "class", "class_name": 3, "state": {}, "module_src": CODE},
    }.items():
        call = Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))
        yield f"record of {name}", pickled({"G_ema": call})


def _storage_id(kind: Any = None, key: Any = "94", count: Any = 4, view: Any = None) -> Persistent:
    return Persistent(("storage", kind or Global("torch", "FloatStorage"), key, "cpu", count, view))


def numpy_values() -> Files:
    dtype, scalar = Global("numpy", "dtype"), Global("numpy.core.multiarray", "scalar")
    array = Global("numpy._core.multiarray", "_reconstruct")
    double = Call(dtype, ("f8", False, True))
    for kind in ("O", "O8", "|O", "V8", "U4", "S4", "M8", "c16", "f8,O", "", 3, None, ("f8", 2)):
        yield f"numpy type {kind!r}", inside(Call(dtype, (kind, False, True)))
    yield "numpy scalar of text", inside(Call(scalar, (double, "abcdefgh")))
    yield "numpy scalar of a record", inside(Call(scalar, (New(Global("training.x", "X")), b"a" * 8)))
    yield "numpy scalar of too few bytes", inside(Call(scalar, (double, b"a")))
    yield "numpy scalar of many bytes", inside(Call(scalar, (double, b"a" * 100)))
    made = Raw(Writer(4).dump(double)[2:-1])
    fields = (3, "|", None, ("a",), {"a": (made, 0)}, 8, 1, 16)
    yield "numpy type with fields", inside(Raw(_built(double, fields)))
    yield "numpy type with a short state", inside(Raw(_built(double, (3, "<"))))
    yield "numpy type with text as its state", inside(Raw(_built(double, "<")))
    for kind in (Global("os", "system"), Global("numpy", "matrix"), Global("training.x", "X"), "ndarray"):
        yield f"numpy array of class {kind}", inside(Call(array, (kind, (0,), b"b")))
    ndarray = Call(array, (Global("numpy", "ndarray"), (0,), b"b"))
    for name, state in {
        "objects": (
            1,
            (1,),
            Call(dtype, ("O8", False, True)),
            False,
            [Call(Global("os", "system"), (COMMAND,))],
        ),
        "a list": (1, (1,), double, False, [1.0]),
        "too few bytes": (1, (2,), double, False, b"a" * 8),
        "10 GB": (1, (10 << 27,), double, False, b"a" * 8),
        "a negative shape": (1, (-1,), double, False, b"a" * 8),
        "text for a shape": (1, "1", double, False, b"a" * 8),
        "a short state": (1, (1,)),
    }.items():
        yield f"numpy array of {name}", inside(Raw(_built(ndarray, state)))


def _built(value: Any, state: Any) -> bytes:
    return Writer(4).dump(value)[2:-1] + Writer(4).dump(state)[2:-1] + b"b"
