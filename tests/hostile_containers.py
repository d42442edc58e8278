"""Hostile containers: safetensors, zips and truncated files."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

from hostile_modules import RENDERING
from hostile_pickles import CODE, COMMAND, ONES, Files, pickled
from official_files import (
    MAGIC,
    SYSTEM,
    Call,
    Global,
    LegacyWriter,
    Persistent,
    legacy,
    legacy_file,
    legacy_storage,
    official,
    raw_bytes,
    zip_file,
    zipped,
)
from safetensors.torch import save


def safetensors_files() -> Files:
    def header(values: Any, data: bytes = b"") -> bytes:
        text = values if isinstance(values, bytes) else json.dumps(values).encode()
        return struct.pack("<Q", len(text)) + text + data

    def configured(config: str, tensors: dict[str, Any] | None = None) -> bytes:
        return save(tensors or {"a": ONES}, {"format": "my3dgen.generator", "config": config})

    yield "safetensors of 2 to the 60 bytes of header", struct.pack("<Q", 1 << 60) + b"{}"
    yield "safetensors of 1 GB of header", struct.pack("<Q", 1 << 30) + b"{" + b" " * 1000
    yield "safetensors cut off", save({"a": ONES})[:-1]
    yield "safetensors with more bytes", save({"a": ONES}) + b"a"
    yield "safetensors with nested brackets", header(b"{" + b'"a":[' * 100_000)
    yield "safetensors of no JSON", header(b"{{{{")
    for name, entry in {
        "beyond the end": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 40]},
        "of negative bytes": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        "of a shape that overflows": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 16]},
        "of an unknown type": {"dtype": "object", "shape": [4], "data_offsets": [0, 16]},
        "of a negative shape": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
    }.items():
        yield f"safetensors with a tensor {name}", header({"a": entry}, raw_bytes(ONES))
    overlap = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    yield "safetensors that overlap", header({"a": overlap, "b": overlap}, raw_bytes(ONES))
    yield "safetensors of an identity", save({"a": ONES}, {"format": "my3dgen.identity"})
    yield "safetensors of another kind", save({"a": ONES})
    for name, config in {
        "text": "hello",
        "a list": "[]",
        "nested brackets": "[" * 100_000,
        "nested braces": '{"z_dim":' * 100_000,
        "a number of 10 000 digits": '{"z_dim": ' + "9" * 10_000 + "}",
        "NaN": '{"box_warp": NaN}',
        "infinity": '{"ray_start": 1e999}',
        "an unknown setting": '{"module_src": "import os"}',
        "a billion layers": '{"mapping_layers": 1000000000}',
        "huge planes": '{"plane_resolution": 1099511627776}',
        "planes that are no power of two": '{"plane_resolution": 100}',
        "huge channels": '{"channel_max": 1099511627776, "channel_base": 1099511627776}',
        "10 GB": '{"channel_max": 4096, "channel_base": 1048576, "w_dim": 8192}',
        "a list for a size": '{"z_dim": [64]}',
        "text for a size": '{"z_dim": "64"}',
        "a truth for a size": '{"z_dim": true}',
        "an unknown super-resolution": '{"superresolution": "16X"}',
        "a list for a super-resolution": '{"superresolution": ["8X"]}',
        "a pivot of one number": '{"avg_camera_pivot": [1]}',
        "a pivot of text": '{"avg_camera_pivot": "abc"}',
        "a pivot that is nested": '{"avg_camera_pivot": [[1], [2], [3]]}',
        "one ray limit": '{"ray_start": "auto"}',
        "a ray limit of text": '{"ray_start": "a", "ray_end": "b"}',
        "other tensors": "{}",
        "another picture size": '{"img_resolution": 256}',
    }.items():
        yield f"safetensors with {name} as its configuration", configured(config)


def zips() -> Files:
    good = {"archive/data.pkl": pickled({"a": 1}, 2), "archive/version": b"3\n"}
    evil = pickled(Call(Global("os", "system"), (COMMAND,)), 2)
    yield "zip with an evil pickle", zipped({**good, "archive/data.pkl": evil})
    yield "zip with two evil pickles", zipped({**good, "archive/constants.pkl": evil})
    for name in (
        "../evil",
        "archive/../../evil",
        "/etc/evil",
        "archive\\..\\evil",
        "C:/evil",
        "archive//evil",
        "archive/./x",
    ):
        yield f"zip with an entry {name}", zipped({**good, name: b"x"})
    yield "zip of TorchScript", zipped({**good, "archive/code/__torch__.py": CODE.encode()})
    yield "zip with a program", zipped({**good, "archive/data/evil.so": b"\x7fELF"})
    yield "zip with two roots", zipped({**good, "other/data.pkl": good["archive/data.pkl"]})
    yield "zip without a pickle", zipped({"archive/version": b"3\n"})
    yield "zip of nothing", zipped({})
    yield "zip compressed", zipped({**good, "archive/data/0": b"0" * 10_000_000}, zipfile.ZIP_DEFLATED)
    yield "zip with one entry twice", _twice(good)
    whole = zipped(good)
    yield "zip encrypted", _patched(whole, b"PK\x01\x02", 8, b"\x01\x00")
    yield "zip with a wrong checksum", _patched(whole, b"PK\x01\x02", 16, b"\x00\x00\x00\x00")
    yield (
        "zip with a size that lies",
        _patched(whole, b"PK\x01\x02", 20, struct.pack("<LL", 1 << 30, 1 << 30)),
    )
    yield "zip with two sizes", _patched(whole, b"PK\x01\x02", 24, struct.pack("<L", 1 << 30))
    yield "zip with an offset that lies", _patched(whole, b"PK\x01\x02", 42, struct.pack("<L", 1 << 30))
    yield "zip with a name that differs", _patched(whole, b"PK\x03\x04", 30, b"x")
    yield "zip with 65 000 entries", _patched(whole, b"PK\x05\x06", 8, struct.pack("<HH", 65_000, 65_000))
    yield "zip with a long directory", _patched(whole, b"PK\x05\x06", 12, struct.pack("<L", 1 << 30))
    yield "zip with a far directory", _patched(whole, b"PK\x05\x06", 16, struct.pack("<L", 1 << 30))
    yield "zip with two disks", _patched(whole, b"PK\x05\x06", 4, struct.pack("<H", 1))
    yield "zip that says it is larger than 4 GB", _patched(whole, b"PK\x05\x06", 16, b"\xff\xff\xff\xff")
    yield "zip cut off", whole[:-30]
    yield "zip with more bytes", whole + b"evil"
    yield "zip of many entries", zipped({**good, **{f"archive/data/{i}": b"" for i in range(25_000)}})
    overlapping = zipped({**good, "archive/data/0": b"0" * 100})
    first = overlapping.find(b"PK\x01\x02")
    last = overlapping.rfind(b"PK\x01\x02")
    yield (
        "zip with entries that overlap",
        overlapping[: last + 42] + overlapping[first + 42 : first + 46] + overlapping[last + 46 :],
    )
    storages = {
        "a missing storage": ("storage", Global("torch", "FloatStorage"), "7", "cpu", 4),
        "a storage of another size": ("storage", Global("torch", "FloatStorage"), "0", "cpu", 5),
        "a storage of 10 GB": ("storage", Global("torch", "FloatStorage"), "0", "cpu", 10 << 28),
        "a storage elsewhere": ("storage", Global("torch", "FloatStorage"), "../../etc/passwd", "cpu", 4),
        "a storage of an evil kind": ("storage", Global("os", "system"), "0", "cpu", 4),
        "a module's source": ("module", Global("training.x", "X"), "x.py", CODE),
        "a persistent id of text": "storage",
        "a persistent id of a list": ["storage"],
    }
    for name, identity in storages.items():
        body = {
            **good,
            "archive/data.pkl": pickled(Persistent(identity), 2),
            "archive/data/0": raw_bytes(ONES),
        }
        yield f"zip with {name}", zipped(body)
    yield (
        "zip with two kinds of one storage",
        zipped(
            {
                "archive/data.pkl": pickled(
                    [
                        Persistent(("storage", Global("torch", kind), "0", "cpu", count))
                        for kind, count in (("FloatStorage", 4), ("DoubleStorage", 2))
                    ],
                    2,
                ),
                "archive/data/0": raw_bytes(ONES),
            }
        ),
    )
    yield "zip of a big-endian machine", zipped({**good, "archive/byteorder": b"big"})
    yield "zip with bytes after the pickle", zipped({"archive/data.pkl": pickled({"a": 1}, 2) + evil})
    load = Call(Global("torch.storage", "_load_from_bytes"), (legacy_storage(ONES),))
    yield "zip with nested bytes", zip_file(load)


def _twice(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in (*entries.items(), *entries.items()):
            archive.filelist, kept = [], archive.filelist  # zipfile would warn
            archive.NameToInfo.clear()
            archive.writestr(zipfile.ZipInfo(name), data)
            archive.filelist = kept + archive.filelist
    return out.getvalue()


def _patched(data: bytes, signature: bytes, at: int, change: bytes) -> bytes:
    place = data.find(signature) + at
    return data[:place] + change + data[place + len(change) :]


def damaged() -> Files:
    good = pickled(
        {"G_ema": official({"a.weight": ONES, "b.noise_const": ONES}, {"rendering_kwargs": RENDERING})}
    )
    for part in range(1, 16):
        yield f"pickle cut off after {part}/16", good[: len(good) * part // 16]
    yield "two pickles", good + good
    yield "a pickle and a program", good + b"#!/bin/sh\n" + COMMAND.encode()
    whole = legacy_file({"a": ONES})
    for part in range(1, 8):
        yield f"legacy file cut off after {part}/8", whole[: len(whole) * part // 8]
    yield "legacy file and more", whole + b"a"
    yield (
        "legacy file with an evil version",
        b"".join(
            (
                pickled(MAGIC, 2),
                pickled(Call(Global("os", "system"), (COMMAND,)), 2),
                pickled(SYSTEM, 2),
                pickled(None, 2),
            )
        ),
    )
    yield (
        "legacy file of another version",
        b"".join(pickled(part, 2) for part in (MAGIC, 1002, SYSTEM, None, [])),
    )
    writer = LegacyWriter(2, inline=False)
    body = writer.dump({"a": ONES})
    yield "legacy file with one key twice", legacy(None, {}, body)[:-6] + pickled(["0", "0"], 2)
    yield "legacy file without its storage", legacy(None, {}, body)
    yield "empty file", b""
    yield "one byte", b"\x80"
    yield "zeros", bytes(100_000)
    yield "text", b"hello\n" * 100
    yield "a web page", b"<!DOCTYPE html><html>Please log in</html>"
    yield "a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    yield "gzip", b"\x1f\x8b\x08\x00" + bytes(100)
    yield "an ELF program", b"\x7fELF" + bytes(100)
    yield "a Python program", CODE.encode()
    yield "PK alone", b"PK"
    yield "protocol 0", b"cos\nsystem\n(S'touch x'\ntR."
    yield "protocol 1", b"(cos\nsystem\nX\x01\x00\x00\x00ao."
