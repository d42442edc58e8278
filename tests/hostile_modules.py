"""Hostile modules and settings: bombs, cycles, depths, and configurations that ask for too much."""

from __future__ import annotations

import struct
from typing import Any

from hostile_pickles import CODE, ONES, Files, code, named, pickled
from official_files import (
    Global,
    New,
    Raw,
    easy_dict,
    legacy_storage,
    module_state,
    official,
    persistent,
    zip_file,
)


def bombs() -> Files:
    """Much out of little, or without an end."""
    deep = 150_000
    yield "nested tuples", code(b"N" + b"\x85" * deep + b".")
    yield "nested lists", code(b"]" * deep + b"a" * (deep - 1) + b".")
    yield "nested dictionaries", code(b"}" + b"N}" * deep + b"s" * deep + b".")
    yield "nested marks", code(b"(" * deep + b"t" * deep + b".")
    yield "more marks than allowed", code(b"(" * 400_000 + b".")
    yield "more containers than allowed", code(b"(" + b"}" * 400_000 + b"t.")
    yield "more opcodes than allowed", code(b"(" + b"N" * 1_100_000 + b"t.")
    yield "more sets than allowed", code(b"(" + b"\x8f\x94" * 400_000 + b"t.")
    yield "more memo than allowed", code(b"N" + b"\x94" * 1_100_000 + b".")
    yield "more text than allowed", code(b"X" + struct.pack("<I", 17 << 20) + b"a" * (17 << 20) + b".")
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"\x94"
    encode = named("_codecs", "encode") + b"h\x00\x8c\x06latin1\x86R"
    yield "one text made to bytes again and again", code(b"(" + text + encode * 300 + b"t.")
    pairs = b"](" + b"NN\x86" * 10_000 + b"e\x85\x94"
    copies = (named("collections", "OrderedDict") + b"h\x00R") * 100
    yield "one list made a dictionary again and again", code(b"(" + pairs + copies + b"t.")
    for name, opening, closing in (("lists", b"](", b"e"), ("tuples", b"(", b"t")):
        laughs = b"N\x94"
        for level in range(60):
            laughs += opening + (b"h" + bytes([level])) * 10 + closing + b"\x94"
        yield f"a billion laughs of {name}", code(b"(" + laughs + b"t.")
        yield f"a billion laughs of {name} as a key", code(b"}(" + laughs + b"tNs.")
        last = b"(" + laughs + b"t"
        yield f"a billion laughs of {name} as a class", inside_settings("superresolution_module", last)
        yield f"a billion laughs of {name} as a ray", inside_settings("ray_start", last)
        yield f"a billion laughs of {name} called", code(last + b")R.")
        yield f"a billion laughs of {name} as a name", code(last + last + b"\x93.")
    yield "a list in itself", code(b"]\x94h\x00a.")
    yield "a dictionary in itself", code(b"}\x94\x8c\x05G_emah\x00s.")
    yield "a module in itself", cyclic_module()
    yield "modules that fork 200 times", forking_modules(200)
    yield "modules 10 000 deep", deep_modules(10_000)
    yield "the same storage for ever", code(b"(" + _stream(legacy_storage(ONES)) + _again() * 20_000 + b"t.")
    yield "settings in themselves", inside_settings("a", b"}\x94\x8c\x01ah\x00s")


def _stream(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data + b"\x85\x94"


def _again() -> bytes:
    return named("torch.storage", "_load_from_bytes") + b"h\x00R"


def inside_settings(key: str, value: bytes) -> bytes:
    settings = {"z_dim": 64, "c_dim": 25, "w_dim": 64, "img_resolution": 128, "mapping_kwargs": {}}
    rendering = RENDERING | {key: Raw(value)}
    return pickled({"G_ema": official({}, {**settings, "rendering_kwargs": rendering})})


RENDERING = {
    "superresolution_module": "training.superresolution.SuperresolutionHybrid2X",
    "depth_resolution": 8,
    "depth_resolution_importance": 8,
    "ray_start": 2.25,
    "ray_end": 3.3,
    "box_warp": 1,
}


def cyclic_module() -> bytes:
    return code(_opened_module(memo=b"\x94") + b"h\x00sub.")


def _text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def _opened_module(memo: bytes = b"") -> bytes:
    """Up to where its child "a" comes; `sub` closes it."""
    empty = _text("_parameters") + b"}" + _text("_buffers") + b"}"
    return named("training.x", "X") + b")\x81" + memo + b"}(" + empty + _text("_modules") + b"}" + _text("a")


def forking_modules(levels: int) -> bytes:
    """Each has the one before twice: 2 to the power of `levels` paths."""
    out = _opened_module() + b"Nsub\x94"
    for level in range(levels):
        child = b"h" + bytes([level])
        out += _opened_module() + child + b"s" + _text("b") + child + b"sub\x94"
    return code(b"}" + _text("x") + b"(" + out + b"ts" + _text("G_ema") + b"h" + bytes([levels]) + b"s.")


def deep_modules(levels: int) -> bytes:
    return code(b"}" + _text("G_ema") + _opened_module() * levels + b"N" + b"sub" * levels + b"s.")


def settings() -> Files:
    """Configurations that no generator has, in pickles and in safetensors."""
    good = {
        "z_dim": 64,
        "c_dim": 25,
        "w_dim": 64,
        "img_resolution": 128,
        "mapping_kwargs": {"num_layers": 2},
        "channel_base": 1024,
        "channel_max": 16,
        "rendering_kwargs": RENDERING,
    }
    odd = {
        "z_dim": (1 << 40, -1, "64", None, [64], float("nan"), float("inf")),
        "w_dim": (1 << 52, 0),
        "c_dim": (24,),
        "channel_base": (1 << 50, 0, 1),
        "channel_max": (1 << 50, 0),
        "img_resolution": (1 << 30, 3),
        "mapping_kwargs": ({"num_layers": 10**9}, {"num_layers": -1}, "ab", [1]),
        "num_fp16_res": (4,),
        "img_channels": (4,),
        "rendering_kwargs": (None, {}, [], "x"),
    }
    for key, values in odd.items():
        for value in values:
            yield f"official {key} = {value!r}", pickled({"G_ema": official_of(good | {key: value})})
    for key, value in {
        "superresolution_module": "os.system",
        "clamp_mode": "relu",
        "ray_start": "auto",
        "ray_end": float("nan"),
        "box_warp": -1,
        "depth_resolution": 10**9,
        "depth_resolution_importance": 1 << 40,
        "avg_camera_pivot": [0.0] * 4,
        "avg_camera_radius": "x",
        "superresolution_noise_mode": CODE,
    }.items():
        yield (
            f"official {key} = {value!r}",
            pickled({"G_ema": official_of(good | {"rendering_kwargs": RENDERING | {key: value}})}),
        )
    yield "official generator without tensors", pickled({"G_ema": official_of(good)})
    yield (
        "official generator with a resolution of text",
        pickled({"G_ema": official({}, {**good, "neural_rendering_resolution": "128"})}),
    )
    yield "a module that is a number", pickled({"G_ema": persistent(module_state({}, {}, {"a": 1}))})
    yield "a tensor that is text", pickled({"G_ema": persistent(module_state({"a": "b"}, {}, {}))})
    yield (
        "a tensor with a path for a name",
        pickled({"G_ema": persistent(module_state({"a.b": ONES}, {}, {}))}),
    )
    yield "a module without a configuration", pickled({"G_ema": persistent(module_state({}, {}, {}))})
    yield (
        "a module without parameters",
        pickled({"G_ema": New(Global("training.x", "X"), state={"_modules": {}})}),
    )
    yield "no generator", pickled({"D": None, "G": None})
    yield "an empty dictionary", pickled({})
    yield "a number", pickled(7)
    yield "a list of tensors", pickled([ONES])
    yield "a state dict of another network", zip_file({"conv.weight": ONES, "conv.bias": ONES})
    yield "a state dict of numbers", zip_file({"conv.weight": 3})


def official_of(values: dict[str, Any]) -> Any:
    rendering = values["rendering_kwargs"]
    plain = {key: easy_dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    top = {"rendering_kwargs": easy_dict(rendering) if isinstance(rendering, dict) else rendering}
    return persistent(
        module_state({}, {}, {}) | top | {"_init_kwargs": New(Global("dnnlib.util", "EasyDict"), items=plain)}
    )
