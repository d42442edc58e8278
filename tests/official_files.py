"""Builds files in the shapes of EG3D's and its fine-tunes' pickles, opcode by opcode, without their classes.

Values: Python's plain ones, tensors, and `Global`, `Call`, `New` and `Raw` for what pickles have beyond.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BUFFERS = ("w_avg", "resample_filter", "noise_const")
STORAGES = {
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.float64: "DoubleStorage",
    torch.int64: "LongStorage",
}


@dataclass(eq=False)
class Global:
    module: str
    name: str


@dataclass(eq=False)
class Call:
    """REDUCE."""

    function: Any
    arguments: tuple[Any, ...] = ()


@dataclass(eq=False)
class New:
    """NEWOBJ, then SETITEMS and BUILD where there is something to set."""

    kind: Any
    arguments: Any = ()
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(eq=False)
class Raw:
    """Opcodes as they are."""

    code: bytes


@dataclass(eq=False)
class Persistent:
    """BINPERSID."""

    identity: Any


class Writer:
    """Writes one pickle. protocol 2: as torch.save does; 4: as official files are."""

    def __init__(self, protocol: int = 4, inline: bool = True, torch_style: int = 1) -> None:
        self.protocol = protocol
        self.inline = inline
        """Tensors as `_load_from_bytes`; otherwise by persistent ids, kept in `storages`."""
        self.ordered = torch_style == 1
        """Containers of modules are OrderedDicts up to torch 1.13, plain dictionaries in 2.x."""
        self.storages: dict[str, Tensor] = {}
        self.out = io.BytesIO()

    def dump(self, value: Any) -> bytes:
        self.out.write(b"\x80" + bytes([self.protocol]))
        self.save(value)
        self.out.write(b".")
        return self.out.getvalue()

    def save(self, value: Any) -> None:
        write = self.out.write
        if isinstance(value, Raw):
            write(value.code)
        elif value is None:
            write(b"N")
        elif isinstance(value, bool):
            write(b"\x88" if value else b"\x89")
        elif isinstance(value, int):
            if 0 <= value < 256:
                write(b"K" + bytes([value]))
            elif -(1 << 31) <= value < 1 << 31:
                write(b"J" + struct.pack("<i", value))
            else:
                data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
                write(b"\x8a" + bytes([len(data)]) + data)
        elif isinstance(value, float):
            write(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            data = value.encode()
            write(b"X" + struct.pack("<I", len(data)) + data)
        elif isinstance(value, bytes):
            if self.protocol < 3:
                self.save(Call(Global("_codecs", "encode"), (value.decode("latin1"), "latin1")))
            else:
                write(b"B" + struct.pack("<I", len(value)) + value)
        elif isinstance(value, tuple):
            write(b"(")
            for item in value:
                self.save(item)
            write(b"t")
        elif isinstance(value, list):
            write(b"](")
            for item in value:
                self.save(item)
            write(b"e")
        elif isinstance(value, set):
            write(b"\x8f(")
            for item in value:
                self.save(item)
            write(b"\x90")
        elif isinstance(value, dict):
            write(b"}")
            self.items(value)
        elif isinstance(value, Global):
            if self.protocol >= 4:
                self.save(value.module)
                self.save(value.name)
                write(b"\x93")
            else:
                write(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            write(b"R")
        elif isinstance(value, New):
            self.save(value.kind)
            self.save(value.arguments)
            write(b"\x81")
            self.items(value.items)
            if value.state is not None:
                self.save(value.state)
                write(b"b")
        elif isinstance(value, Persistent):
            self.save(value.identity)
            write(b"Q")
        elif isinstance(value, Tensor):
            self.tensor(value)
        else:
            raise TypeError(type(value))

    def items(self, items: Mapping[Any, Any]) -> None:
        if items:
            self.out.write(b"(")
            for key, value in items.items():
                self.save(key)
                self.save(value)
            self.out.write(b"u")

    def tensor(self, value: Tensor) -> None:
        shape, stride = tuple(value.shape), tuple(value.stride())
        storage: Any
        if self.inline:
            storage = Call(Global("torch.storage", "_load_from_bytes"), (legacy_storage(value),))
        else:
            key = str(len(self.storages))
            self.storages[key] = value
            identity = ("storage", Global("torch", STORAGES[value.dtype]), key, "cuda:0", value.numel())
            storage = Persistent(identity if not isinstance(self, LegacyWriter) else (*identity, None))
        arguments = (storage, 0, shape, stride, False, ordered())
        self.save(Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments))


class LegacyWriter(Writer):
    """The pickle within a legacy stream of torch.save."""


def ordered(values: Mapping[str, Any] | None = None) -> Call | Raw:
    empty = Call(Global("collections", "OrderedDict"))
    if not values:
        return empty
    pairs = [[key, value] for key, value in values.items()]
    return Call(Global("collections", "OrderedDict"), (pairs,))


def raw_bytes(value: Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
MAGIC = 0x1950A86A20F9469CFC6C


def legacy(root: Any, storages: Mapping[str, Tensor], pickled: bytes | None = None) -> bytes:
    """torch.save before zip: five pickles and the storages."""
    head = b"".join(Writer(2).dump(part) for part in (MAGIC, 1001, SYSTEM))
    middle = pickled if pickled is not None else LegacyWriter(2, inline=False).dump(root)
    tail = b"".join(struct.pack("<q", value.numel()) + raw_bytes(value) for value in storages.values())
    return head + middle + Writer(2).dump(list(storages)) + tail


def legacy_storage(value: Tensor, location: str = "cuda:0") -> bytes:
    """The argument of `_load_from_bytes`: one storage as a stream of its own."""
    identity = ("storage", Global("torch", STORAGES[value.dtype]), "94", location, value.numel(), None)
    return legacy(Persistent(identity), {"94": value})


def legacy_file(root: Any) -> bytes:
    writer = LegacyWriter(2, inline=False)
    pickled = writer.dump(root)
    return legacy(None, writer.storages, pickled)


def zip_file(root: Any) -> bytes:
    """torch.save since 1.6."""
    writer = Writer(2, inline=False)
    entries = {"data.pkl": writer.dump(root), "byteorder": b"little", "version": b"3\n"}
    entries.update({f"data/{key}": raw_bytes(value) for key, value in writer.storages.items()})
    return zipped({f"archive/{name}": data for name, data in entries.items()})


def zipped(entries: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def parameter(value: Tensor) -> Call:
    return Call(Global("torch._utils", "_rebuild_parameter"), (value, True, ordered()))


def module(
    state: Mapping[str, Tensor],
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    name: str = "",
    style: int = 1,
) -> Call | New:
    """The record of the module with this state dict; `attributes` are further ones by the module's name.

    The decoder's network is a plain module, as in official files, the others are persistence records.
    """
    attributes = attributes or {}
    container = ordered if style == 1 else dict
    own = {key: value for key, value in state.items() if "." not in key}
    children: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        first, dot, rest = key.partition(".")
        if dot:
            children.setdefault(first, {})[rest] = value
    below = {
        child: module(part, attributes, f"{name}.{child}".strip("."), style)
        for child, part in children.items()
    }
    if name.endswith("decoder.net"):
        below["1"] = New(
            Global("torch.nn.modules.activation", "Softplus"), state=module_state({}, {}, {}, container)
        )
    parameters = {key: parameter(value) for key, value in own.items() if key not in BUFFERS}
    buffers = {key: value for key, value in own.items() if key in BUFFERS}
    record = module_state(parameters, buffers, below, container) | dict(attributes.get(name, {}))
    if name.endswith("decoder.net"):
        return New(Global("torch.nn.modules.container", "Sequential"), state=record)
    return persistent(record, name)


def module_state(parameters: Any, buffers: Any, modules: Any, container: Any = ordered) -> dict[str, Any]:
    return {
        "training": False,
        "_parameters": container(parameters),
        "_buffers": container(buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": container({}),
        "_modules": container(modules),
    }


def persistent(state: Any, class_name: str = "Network") -> Call:
    meta = {
        "type": "class",
        "version": 6,
        "module_src": "raise SystemExit('the source text of a record was run')",
        "class_name": class_name or "TriPlaneGenerator",
        "state": state,
    }
    return Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))


def easy_dict(values: Mapping[str, Any]) -> New:
    plain = {key: easy_dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    return New(Global("dnnlib.util", "EasyDict"), items=plain)


def numpy_double(value: float) -> Call:
    """A numpy float64, as gains are kept."""
    kind = Call(Global("numpy", "dtype"), ("f8", False, True))
    return Call(Global("numpy.core.multiarray", "scalar"), (kind, struct.pack("<d", value)))


def official(
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    style: int = 1,
) -> Call | New:
    """The record of a whole generator that was made with `settings` (official init arguments)."""
    top = {
        "neural_rendering_resolution": settings.get("neural_rendering_resolution", 64),
        "rendering_kwargs": easy_dict(settings["rendering_kwargs"]),
        "_last_planes": None,
        "_init_args": (),
        "_init_kwargs": easy_dict({k: v for k, v in settings.items() if k != "neural_rendering_resolution"}),
        "gain": numpy_double(2**0.5),
    }
    attributes = dict(attributes or {})
    attributes[""] = {**top, **attributes.get("", {})}
    return module(state, attributes, style=style)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def wrapped_name(key: str) -> str:
    """The name that a tensor of a generator has in My3DGen's wrapped one."""
    parts = key.split(".")
    if parts[:2] == ["backbone", "synthesis"]:
        parts[2:2] = ["synthesis"]
    elif parts[0] == "superresolution":
        parts[1:1] = ["superresolution_module"]
    else:
        return key
    out = []
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        out.append(part)
        if part.startswith("block") or (part[0] == "b" and part[1:].isdigit()):
            out.append("synthesis_block")
        elif part in ("conv0", "conv1") and not following.startswith("lora_"):
            out.append("synthesis_layer")
        elif part == "torgb" and not following.startswith("lora_"):
            out.append("to_rgb_layer")
        elif part == "affine" and not following.startswith("lora_"):
            out.append("fully_connected_layer")
    return ".".join(out)


def snapshot(
    state: Mapping[str, Tensor],
    lora: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    before: Mapping[str, Tensor] | None = None,
    scaling: Mapping[str, Any] | None = None,
) -> Call | New:
    """A My3DGen fine-tune: `state` by official names, `lora` by the authors', wrappers around the layers.

    before: the state that the wrappers were made of. Each then keeps a deep copy of what it wraps in its init
    arguments, as official fine-tunes do: the networks, the blocks, the layers and the affines once more each.
    scaling: what every wrapper recorded about it.
    """
    attributes: dict[str, dict[str, Any]] = {}
    for key in lora:
        if key.endswith("lora_A"):
            attributes.setdefault(key.removesuffix(".lora_A"), {}).update(scaling or {})
    if before is not None:
        wrappers = {"backbone.synthesis": "backbone.synthesis.", "superresolution": "superresolution."}
        for key in before:
            parts = key.split(".")
            for depth in range(2, len(parts)):
                part, prefix = parts[depth - 1], ".".join(parts[:depth])
                if prefix.startswith(("backbone.synthesis.", "superresolution.")) and part != "mapping":
                    name = wrapped_name(prefix + ".lora_A").removesuffix(".lora_A")
                    if part.startswith("b"):
                        name = name.removesuffix(".synthesis_block")
                    wrappers[name] = prefix + "."
        for name, prefix in wrappers.items():
            copied = {k.removeprefix(prefix): v for k, v in before.items() if k.startswith(prefix)}
            attributes.setdefault(name, {})["_init_args"] = (module(copied),)
    live = {wrapped_name(key): value for key, value in state.items()} | dict(lora)
    return official(live, settings, attributes)
