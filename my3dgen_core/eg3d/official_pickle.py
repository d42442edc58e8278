"""Conversion of official EG3D checkpoints, parsed as data, to a state dict and a configuration.

The file is not trusted: names, numbers and shapes are checked before anything is built or read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..common.errors import CheckpointError, quote_untrusted
from ..formats.file_kinds import describe_root
from ..formats.pickle_values import Record, TensorRef
from .config import GeneratorConfig, focal_at
from .generator import Generator

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of names in the state dicts of DataParallel and of torch.compile."""
_MARK = "backbone.mapping.w_avg"
"""Name of a tensor that every EG3D generator has."""
GENERATORS = ("G_ema", "G", "g_ema", "generator", "state_dict", "model")
"""Keys of the generator in a snapshot, in order of preference."""
MOST_MODULES, DEEPEST, LONGEST_KEY = 20_000, 64, 300
"""Limits of a module tree: number of modules or tensors, depth, length of a name."""
MOST_PARAMETERS = 1 << 28
"""Limit of the numbers in a state dict (1 GiB as float32)."""
RENDERING = (
    "ray_start",
    "ray_end",
    "box_warp",
    "white_back",
    "neural_resolution",
    "depth_resolution",
    "depth_resolution_importance",
)
"""Settings that a sidecar file must hold, because shapes of tensors do not determine them."""
_SUPERRESOLUTION = {(256, 256): "8XDC", (256, 128): "8X", (128, 128): "4X", (64, 128): "2X"}
"""Architectures by the first block's resolution and channels."""
_LIMITS = {
    "z_dim": (1, 8192),
    "c_dim": (25, 25),
    "w_dim": (1, 8192),
    "mapping_layers": (1, 32),
    "img_resolution": (32, 2048),
    "plane_resolution": (8, 1024),
    "channel_base": (64, 1 << 20),
    "channel_max": (1, 4096),
    "sr_num_fp16_res": (0, 16),
    "neural_resolution": (8, 1024),
    "depth_resolution": (1, 1024),
    "depth_resolution_importance": (0, 1024),
}
"""Least and greatest accepted values of whole-number settings."""


def find_generator(root: object) -> Record | dict[str, TensorRef]:
    """Find the generator in the root object of a file.

    Returns:
        record of a module, or a state dict of unread tensors.

    Raises:
        CheckpointError: the file holds no generator.
    """
    whole = root
    for _ in range(3):  # the deepest nesting is {"G_ema": {"state_dict": ...}}
        if is_module(root):
            assert isinstance(root, Record)
            return _unwrapped(root)
        if type(root) is not dict:
            break
        if state := _state_dict(root):
            return state
        root = next((root[name] for name in GENERATORS if root.get(name) is not None), None)
    if project := describe_root(whole):
        raise CheckpointError(f"is {project}, not an EG3D generator.")
    raise CheckpointError(
        "holds no generator: neither a module, nor G_ema or G, nor a state dict of tensors. "
        "Bring the .pkl of an EG3D training run or a fine-tune of it."
    )


def _unwrapped(module: Record) -> Record:
    """Return the module inside DataParallel or another wrapper that has no tensors of its own."""
    for _ in range(3):
        assert module.state is not None
        parts = module.state["_modules"]
        if set(parts) != {"module"} or module.state["_parameters"] or not is_module(parts["module"]):
            break
        module = parts["module"]
    return module


def _state_dict(values: dict[Any, Any]) -> dict[str, TensorRef] | None:
    """Return a dict of tensors without the prefixes of wrappers; None for any other dict.

    What is beside the tensors of an EG3D generator, such as the number of the step or the discriminator, is
    left out.
    """
    state = {k: value for k, value in values.items() if type(k) is str and type(value) is TensorRef}
    prefixes = [key.removesuffix(_MARK) for key in state if f".{key}".endswith(f".{_MARK}")]
    if prefixes:
        prefix = min(prefixes, key=_rank)
        return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    for prefix in _WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state if state and len(state) == len(values) else None


def _rank(prefix: str) -> tuple[int, int]:
    """Return the rank of a generator in a state dict by its prefix: bare names, then as `GENERATORS`."""
    parts = prefix.split(".")[:-1]
    if all(f"{part}." in _WRAPPERS for part in parts):
        return -1, len(parts)
    averaged = any("ema" in part.lower() for part in parts)
    places = [GENERATORS.index(part) for part in parts if part in GENERATORS]
    return 0 if averaged else min(places, default=len(GENERATORS)), len(parts)


def is_module(value: object) -> bool:
    """Return True for the record of a torch module."""
    if type(value) is not Record or value.state is None:
        return False
    return all(type(value.state.get(part)) is dict for part in ("_parameters", "_buffers", "_modules"))


def modules(root: Record) -> Iterator[tuple[str, Record]]:
    """Yield the names and records of a module tree, the root ("") first.

    Raises:
        CheckpointError: a child that is no module, or more modules than any generator has, as in records that
            contain themselves.
    """
    waiting, seen = [("", root, 0)], 0
    while waiting:
        name, record, depth = waiting.pop()
        seen += 1
        if seen > MOST_MODULES or depth > DEEPEST or len(name) > LONGEST_KEY:
            raise CheckpointError("holds more modules than any generator. It was made to never end.")
        yield name, record
        assert record.state is not None
        for child, value in reversed(record.state["_modules"].items()):
            if value is not None:
                if not is_module(value):
                    raise CheckpointError(
                        f"has a module {quote_untrusted(child)} without parameters and buffers."
                    )
                waiting.append((_joined(name, child), value, depth + 1))


def module_state(root: Record) -> dict[str, TensorRef]:
    """Collect the state dict of a module's record: unread tensors by name.

    Raises:
        CheckpointError: parameters or buffers that are not tensors, or too many.
    """
    state: dict[str, TensorRef] = {}
    for name, record in modules(root):
        assert record.state is not None
        hidden = record.state.get("_non_persistent_buffers_set")
        for part in ("_parameters", "_buffers"):
            for key, value in record.state[part].items():
                if value is None or (type(hidden) is list and key in hidden[:100]):
                    continue
                if type(value) is not TensorRef:
                    raise CheckpointError(
                        f"has {quote_untrusted(key)}, {quote_untrusted(value)}, among its tensors."
                    )
                state[_joined(name, key)] = value
                if len(state) > MOST_MODULES:
                    raise CheckpointError("holds more tensors than any generator.")
    return state


def _joined(name: str, key: object) -> str:
    """Return the dotted name of a child; raise CheckpointError for a key that is not a plain name."""
    if type(key) is not str or not key or "." in key:
        raise CheckpointError(f"has a module or tensor named {quote_untrusted(key)}.")
    return f"{name}.{key}" if name else key


def module_config(record: Record) -> GeneratorConfig:
    """Return the configuration of a generator's record: its init arguments and current rendering settings.

    Raises:
        CheckpointError: no recorded init arguments, or a configuration that cannot be used.
    """
    state = record.state or {}
    settings = _plain(state.get("_init_kwargs"), 3)
    if type(settings) is not dict or not settings:
        raise CheckpointError(
            f"holds a module of class {quote_untrusted(record.name)} that did not record how it was made, "
            "so that its configuration is unknown. Save its state dict, with a configuration "
            "(docs/checkpoints.md in the repository)."
        )
    rendering = _plain(state.get("rendering_kwargs"), 2)
    if type(rendering) is dict and rendering:
        settings["rendering_kwargs"] = rendering
    resolution = _plain(state.get("neural_rendering_resolution"), 0)
    return official_config(settings, resolution)


def official_config(settings: Mapping[str, Any], neural_resolution: object = None) -> GeneratorConfig:
    """Return `GeneratorConfig.from_official` of untrusted settings.

    Raises:
        CheckpointError: settings that are missing, of a wrong type or out of range.
    """
    if neural_resolution is not None and type(neural_resolution) is not int:
        raise CheckpointError("has a neural resolution that is not a whole number.")
    if type(settings.get("rendering_kwargs")) is not dict:
        raise CheckpointError("has no rendering settings in its configuration. Is it an EG3D generator?")
    if type(settings.get("mapping_kwargs", {})) is not dict or settings.get("img_channels", 3) != 3:
        raise CheckpointError("has a configuration that EG3D generators of faces do not have.")
    try:
        config = GeneratorConfig.from_official(settings, neural_resolution)
    except KeyError as error:
        raise CheckpointError(f"does not say {error.args[0]} in its configuration.") from error
    except (TypeError, AttributeError, OverflowError, ValueError) as error:
        raise CheckpointError(f"has a configuration that cannot be used: {error}") from error
    return check_config(config)


def _plain(value: object, depth: int) -> Any:
    """Return an untrusted value if it is plain: None, bool, number, short string, or a list or dict of such.

    Other values, and nesting deeper than `depth`, become None; keys that are not strings are dropped.
    """
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        return value if abs(value) < 1 << 53 else None
    if type(value) is str:
        return value if len(value) <= 200 else None
    if type(value) in (list, tuple) and depth and len(value) <= 16:  # type: ignore[arg-type]
        return [_plain(item, 0) for item in value]  # type: ignore[attr-defined]
    if type(value) is dict and depth and len(value) <= 200:
        return {key: _plain(item, depth - 1) for key, item in value.items() if type(key) is str}
    return None


def our_config(text: str) -> GeneratorConfig:
    """Parse the configuration in the metadata of a safetensors file (JSON).

    Raises:
        CheckpointError: not a configuration that can be used.
    """
    return settings_config(_json(text))


def settings_config(values: dict[str, Any]) -> GeneratorConfig:
    """Return `GeneratorConfig.from_dict` of untrusted settings.

    Raises:
        CheckpointError: unknown settings, or settings of a wrong type or out of range.
    """
    plain = {key: _plain(value, 1) for key, value in values.items()}
    for key, value in plain.items():
        if type(value) is dict or (type(value) is list and key != "avg_camera_pivot"):
            raise CheckpointError(
                f"has a configuration in which {quote_untrusted(key)} is not a plain value."
            )
    try:
        return check_config(GeneratorConfig.from_dict(plain))
    except CheckpointError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"has a configuration that cannot be used: {error}") from error


def _json(text: str) -> dict[str, Any]:
    """Parse a JSON object; raise CheckpointError for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("has a configuration that is not JSON.") from error
    if type(values) is not dict:
        raise CheckpointError("has a configuration that is not a JSON object.")
    return values


def check_config(config: GeneratorConfig) -> GeneratorConfig:
    """Return `config` if every setting has a valid type and is in the accepted range.

    Raises:
        CheckpointError: a setting that no generator of this kind has.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _LIMITS:
            low, high = _LIMITS[field.name]
            good = type(value) is int and low <= value <= high
        elif field.name in ("ray_start", "ray_end"):
            good = value == "auto" if type(value) is str else _finite(value)
        elif field.name == "avg_camera_pivot":
            good = len(value) == 3 and all(map(_finite, value))
        elif field.name == "conv_clamp":
            good = value is None or (_finite(value) and value > 0)
        elif field.name == "sr_noise_mode":
            good = value in ("none", "const", "random")
        else:
            kind = type(field.default)
            good = _finite(value) if kind is float else type(value) is kind
        if not good:
            raise CheckpointError(
                f"asks for {field.name} = {quote_untrusted(value) if type(value) is str else value}, "
                "which no generator of this kind has."
            )
    if config.channels(config.plane_resolution) < 1 or config.box_warp <= 0:
        raise CheckpointError("asks for a generator without channels, or without a volume.")
    return config


def _finite(value: object) -> bool:
    """Return True for an int or float of magnitude below 1e9."""
    return type(value) in (int, float) and abs(value) < 1e9  # type: ignore[arg-type]  # NaN compares false


class _Shapes(TorchFunctionMode):
    """Mode for building a module on the meta device without torch's meta kernels.

    These import torch's compiler on first use, which takes seconds. `randn` and `outer` return empty tensors
    here, and divisions their first operand, which has the right shape.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.randn:
            return torch.empty(*args, device="meta")
        if function is torch.outer:
            return torch.empty(len(args[0]), len(args[1]), device="meta")
        if getattr(function, "__name__", "") in ("div", "__truediv__"):
            return args[0]
        return function(*args, **(kwargs or {}))


def empty_generator(config: GeneratorConfig) -> Generator:
    """Build a generator on the meta device: names and shapes of its tensors, without memory for values.

    Raises:
        CheckpointError: a configuration that cannot be built, or is too large.
    """
    try:
        with torch.device("meta"), _Shapes():
            generator = Generator(config)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"has a configuration that cannot be built: {error}") from error
    if sum(value.numel() for value in generator.state_dict().values()) > MOST_PARAMETERS:
        raise CheckpointError("asks for a generator of more than 1 GB. EG3D's have 0.13 GB.")
    return generator


def sidecar_config(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> GeneratorConfig:
    """Return the configuration of a bare state dict: sizes from its shapes, the rest from a sidecar file.

    Args:
        file: path of the state dict; the sidecar has the same name with suffix .json.
        shapes: shapes of the tensors by name.

    Raises:
        CheckpointError: no sidecar (the message says what to write), or one that does not fit.
    """
    sizes = sizes_from_shapes(shapes)
    beside = file.with_suffix(".json")
    if not beside.is_file():
        raise CheckpointError(
            f"is a bare state dict: its shapes do not tell how it is rendered. Put a {beside.name} beside it "
            f"with {', '.join(RENDERING)} (docs/checkpoints.md in the repository)."
        )
    if beside.stat().st_size > 1 << 20:
        raise CheckpointError(f"has a {beside.name} beside it that is too large for a configuration.")
    values = _json(beside.read_text("utf-8", "replace"))
    if "rendering_kwargs" in values:
        return official_config(_plain(values, 3) or {}, values.get("neural_rendering_resolution"))
    if missing := [name for name in RENDERING if name not in values]:
        raise CheckpointError(f"has a {beside.name} beside it that does not say {', '.join(missing)}.")
    radius = values.get("avg_camera_radius")
    if isinstance(radius, (int, float)):
        values = {"focal": focal_at(radius), **values}
    return settings_config({**sizes, **values})


def sizes_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the fields of `GeneratorConfig` that the shapes of a state dict determine.

    Raises:
        CheckpointError: not the state dict of an EG3D generator.
    """
    try:
        (w_dim,) = shapes["backbone.mapping.w_avg"]
        width = shapes["backbone.mapping.fc0.weight"][1]
        channels = {
            int(key.split(".")[2].removeprefix("b")): shape[0]
            for key, shape in shapes.items()
            if key.startswith("backbone.synthesis.b") and key.endswith(".conv1.weight")
        }
        largest = max(channels)
        first, last = (shapes[f"superresolution.block{i}.conv{i}.noise_const"] for i in (0, 1))
        kind = (first[0], shapes["superresolution.block0.conv0.weight"][0])
        return {
            "z_dim": width - w_dim,
            "c_dim": shapes["backbone.mapping.embed.weight"][1],
            "w_dim": w_dim,
            "mapping_layers": _count(shapes, "backbone.mapping.fc{}.weight"),
            "img_resolution": last[0],
            "plane_resolution": largest,
            "channel_max": max(channels.values()),
            # If every resolution has the maximum number of channels, any larger base gives the same sizes.
            "channel_base": channels[largest] * largest,
            "superresolution": _SUPERRESOLUTION[kind],
        }
    except (KeyError, IndexError, ValueError) as error:
        names = ", ".join(quote_untrusted(name, 60) for name in list(shapes)[:3])
        raise CheckpointError(
            f"is not the state dict of an EG3D generator, which has backbone.mapping.w_avg: it holds {names}"
            f"{', ...' if len(shapes) > 3 else ''}."
        ) from error


def _count(shapes: Iterable[str], pattern: str) -> int:
    """Count the names that a pattern gives for 0, 1, ..., up to the first that is missing."""
    known = set(shapes)
    return next(i for i in range(len(known) + 1) if pattern.format(i) not in known)


def mismatch(expected: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Describe the first difference between a generator's state dict and the shapes of a file; None if none.

    Args:
        expected: state dict of the generator, of which only the shapes are used.
        shapes: shapes in the file by name.

    Returns:
        continuation of a message that begins with the file's name, or None.
    """
    missing, unknown = sorted(set(expected) - set(shapes)), sorted(set(shapes) - set(expected))
    if missing or unknown:
        return (
            f"does not fit its own configuration: missing {missing[:3] or 'nothing'}, unknown "
            f"{[key[:LONGEST_KEY] for key in unknown[:3]] or 'nothing'}. It is damaged or of another kind."
        )
    for key, value in expected.items():
        if tuple(shapes[key]) != tuple(value.shape):
            return (
                f"has {key} of shape {list(shapes[key])}, "
                f"but its configuration asks for {list(value.shape)}. It is damaged."
            )
    return None
