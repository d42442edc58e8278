"""Every IMAGE and MASK input of every node, with every kind of picture and mask that other nodes make.

`inputs_of` lists the inputs of a type from INPUT_TYPES, `Bench` calls a node with small values for all its
other inputs, `outcome` is what came back: a result, or a message. A kind says which plain value gives the
same outcome, or what the message must say; `Table` finds what is wrong: another result, another message, any
other exception, a NaN.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from micro import generator as micro_generator
from torch import Tensor

from my3dgen_core import Latents, camera_path
from my3dgen_core.face import CropTransform

ROOT = Path(__file__).resolve().parent.parent
COUNT, SIDE = 2, 48
"""Pictures in a batch, and pixels of a crop."""
NEEDED = {"AlignFaces": {"photos"}, "PasteBack": {"photos", "crops", "images"}}
"""Inputs that are declared as optional, because a video may take the place of photos, and are given here."""
PHOTO = (60, 80)
"""Height and width of a photo for Paste Back."""
FEW = {"steps": 1, "shared_steps": 1, "rank": 1, "batch_size": 2, "cell": 64, "rows": 1, "cache": False}
"""Settings that are short of work, for every node that has them."""


@dataclass(frozen=True)
class Kind:
    """One kind of picture or mask.

    Attributes:
        make: the plain value -> the value to give.
        same: the plain value -> the plain value with the same outcome, or None where nothing is connected.
        message: what the message must contain. Without either any result or message is right.
    """

    make: Callable[[Tensor], Any]
    same: Callable[[Tensor], Tensor | None] | None = None
    message: str = ""


def _scaled(low: float, high: float) -> Callable[[Tensor], Tensor]:
    return lambda x: _full(x) * (high - low) + low


def _full(x: Tensor) -> Tensor:
    """The same with the whole range 0..1 in every picture."""
    x = x.clone()
    x[:, 0, 0], x[:, 0, 1] = 0, 1
    return x


def _with(value: float) -> Callable[[Tensor], Tensor]:
    def spoiled(x: Tensor) -> Tensor:
        x = x.clone()
        x[-1, 3, 2] = value
        return x

    return spoiled


def _other_strides(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _outside_inference(x: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return x.clone().requires_grad_()


def _two(x: Tensor) -> list[Tensor]:
    return [x[:1], x[1:]]


def _same(x: Tensor) -> Tensor:
    return x


def _none(x: Tensor) -> None:
    return None


def _opaque(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], 3)


PICTURES: dict[str, Kind] = {
    "plain": Kind(_same, _same),
    "bytes": Kind(lambda x: (x * 255).round().byte(), _same),
    "uint16": Kind(lambda x: (x * 65535).round().to(torch.uint16), lambda x: (x * 65535).round() / 65535),
    "bool": Kind(lambda x: x > 0.5, lambda x: (x > 0.5).float()),
    "float16": Kind(lambda x: x.half(), lambda x: x.half().float()),
    "bfloat16": Kind(lambda x: x.bfloat16(), lambda x: x.bfloat16().float()),
    "float64": Kind(lambda x: x.double(), _same),
    "gray": Kind(lambda x: x[..., :1], lambda x: x[..., :1].expand(-1, -1, -1, 3).contiguous()),
    "opaque": Kind(_opaque, _same),
    "a hair outside": Kind(lambda x: x * 1.3 - 0.15, lambda x: (x * 1.3 - 0.15).clamp(0, 1)),
    "other strides": Kind(_other_strides, _same),
    "not of the executor": Kind(_outside_inference, _same),
    "list": Kind(_two, _same),
    "list in a list": Kind(lambda x: [_two(x)], _same),
    "list of sizes": Kind(lambda x: [x[:1], x[1:, ::2, ::2]]),
    "transparent": Kind(lambda x: torch.cat([x, x[..., :1]], 3)),
    "one pixel": Kind(lambda x: x[:, :1, :1]),
    "half": Kind(lambda x: x[:, :, : x.shape[2] // 2]),
    "one without a batch": Kind(lambda x: x[0], lambda x: x[:1]),
    "float 0..255": Kind(_scaled(0, 255), None, "look like 0..255"),
    "float -1..1": Kind(_scaled(-1, 1), None, "look like -1..1"),
    "float 0..65535": Kind(_scaled(0, 65535), None, "look like 0..65535"),
    "high dynamic range": Kind(_scaled(0, 4), None, "tone-mapped"),
    "whole numbers": Kind(lambda x: (x * 255).long(), None, "got int64"),
    "complex": Kind(lambda x: x.to(torch.complex64), None, "got complex64"),
    "NaN": Kind(_with(float("nan")), None, "contains a NaN or an infinite number"),
    "infinite": Kind(_with(float("inf")), None, "contains a NaN or an infinite number"),
    "beyond float32": Kind(lambda x: x.double() + 1e300, None, "contains a NaN or an infinite number"),
    "channels first": Kind(lambda x: x.permute(0, 3, 1, 2), None, "channels come first"),
    "two channels": Kind(lambda x: x[..., :2], None, "must be an IMAGE"),
    "five channels": Kind(lambda x: torch.cat([x, x[..., :2]], 3), None, "must be an IMAGE"),
    "no dimensions": Kind(lambda x: x.mean(), None, "must be an IMAGE"),
    "a clip": Kind(lambda x: x[None], None, "must be an IMAGE"),
    "no picture": Kind(lambda x: x[:0], None, "is empty"),
    "no pixel": Kind(lambda x: x[:, :0], None, "must be an IMAGE"),
    "empty list": Kind(lambda x: [], None, "empty list"),
    "an array": Kind(lambda x: x.numpy(), None, "got ndarray"),
    "text": Kind(lambda x: "picture.png", None, "got str"),
}


def _resized(x: Tensor) -> Tensor:
    return F.interpolate(x[:, None], scale_factor=2, mode="nearest")[:, 0]


MASKS: dict[str, Kind] = {
    "plain": Kind(_same, _same),
    "0/255": Kind(lambda x: x * 255, _same),
    "bytes": Kind(lambda x: (x * 255).round().byte(), _same),
    "bytes 0/1": Kind(lambda x: x.round().byte(), torch.round),
    "bool": Kind(lambda x: x > 0.5, torch.round),
    "float16": Kind(lambda x: x.half(), lambda x: x.half().float()),
    "float64": Kind(lambda x: x.double(), _same),
    "a hair outside": Kind(lambda x: x * 1.4 - 0.2, lambda x: (x * 1.4 - 0.2).clamp(0, 1)),
    "one for all": Kind(lambda x: x[:1], lambda x: x[:1].expand(len(x), -1, -1).contiguous()),
    "[H,W]": Kind(lambda x: x[0], lambda x: x[:1].expand(len(x), -1, -1).contiguous()),
    "[B,1,H,W]": Kind(lambda x: x[:, None], _same),
    "[B,H,W,1]": Kind(lambda x: x[..., None], _same),
    "other strides": Kind(_other_strides, _same),
    "not of the executor": Kind(_outside_inference, _same),
    "list": Kind(_two, _same),
    "list of [H,W]": Kind(list, _same),
    "another size": Kind(_resized),
    "black": Kind(torch.zeros_like),
    "white": Kind(torch.ones_like),
    "Load Image's empty one": Kind(lambda x: torch.zeros(1, 64, 64), _none),
    "empty ones of a clip": Kind(lambda x: torch.zeros(7, 64, 64), _none),
    "other proportions": Kind(lambda x: x[:, : x.shape[1] // 2], None, "has other proportions"),
    "too many": Kind(lambda x: x[:1].expand(5, -1, -1), None, "has 5 masks for"),
    "labels": Kind(lambda x: x * 18, None, "has values from 0 to 18"),
    "labels as bytes": Kind(lambda x: (x * 3).round().byte(), None, "has values from 0 to 3"),
    "0..65535": Kind(lambda x: x * 65535, None, "has values from 0 to 6.55e+04"),
    "-1..1": Kind(lambda x: x * 2 - 1, None, "has values from -1 to 1"),
    "NaN": Kind(_with(float("nan")), None, "contains a NaN or an infinite number"),
    "infinite": Kind(_with(float("inf")), None, "contains a NaN or an infinite number"),
    "a picture": Kind(lambda x: x[..., None].expand(-1, -1, -1, 3), None, "must be a MASK"),
    "complex": Kind(lambda x: x.to(torch.complex64), None, "must be a MASK"),
    "no mask": Kind(lambda x: x[:0], None, "is empty"),
    "an array": Kind(lambda x: x.numpy(), None, "got ndarray"),
    "text": Kind(lambda x: "mask.png", None, "got str"),
}


KINDS = {"IMAGE": PICTURES, "MASK": MASKS}


def inputs_of(mappings: Mapping[str, Any], kind: str) -> list[tuple[str, str]]:
    """List (node, input) of all inputs of a type, without the prefix of the nodes' ids."""
    return [
        (name.removeprefix("My3DGen"), field)
        for name, node in mappings.items()
        for group, fields in node.INPUT_TYPES().items()
        if group != "hidden"
        for field, declared in fields.items()
        if declared[0] == kind
    ]


class Bench:
    """Nodes with a small value for every input, in a folder with face models."""

    def __init__(self, mappings: Mapping[str, Any]) -> None:
        """Make the values; outside inference mode.

        Args:
            mappings: NODE_CLASS_MAPPINGS.
        """
        self.nodes = {name.removeprefix("My3DGen"): kind() for name, kind in mappings.items()}
        self.sockets = sys.modules["my3dgen_pack.nodes.socket_types"]
        host = sys.modules["my3dgen_pack.nodes.host"]
        cameras = camera_path("swing", COUNT)
        generator = micro_generator(
            0, neural_resolution=16, depth_resolution=4, depth_resolution_importance=4
        )
        ws = generator.w_avg.expand(COUNT, generator.num_ws, -1).clone()
        model = self.sockets.Model(host.manage(generator), "tiny")
        transforms = [
            CropTransform(np.array([[z, 0, 256 - z * PHOTO[1] / 2], [0, z, 256 - z * PHOTO[0] / 2]]), PHOTO)
            for z in (8.0, 11.0)
        ]
        self.values: dict[str, Any] = {
            self.sockets.MODEL: model,
            self.sockets.CAMERA: self.sockets.Cameras(cameras),
            self.sockets.LATENT: Latents(ws, cameras, base_hash=generator.base_hash()),
            self.sockets.CROP: self.sockets.Crops(tuple(transforms), tuple(range(COUNT)), COUNT),
        }
        trained = self.call("TrainIdentity", {})["result"][0]
        self.values[self.sockets.IDENTITY] = trained
        self.personal = model.with_identity(trained, 1.0)

    def picture(self, node: str, field: str) -> Tensor:
        """The plain IMAGE of an input: two pictures of whole bytes."""
        if node == "AlignFaces":
            from face_fixtures import portrait

            pixels = torch.from_numpy(portrait().copy()).float() / 255
            return torch.stack([pixels, pixels.flip(1)])
        size = PHOTO if field == "photos" else (SIDE, SIDE)
        noise = torch.rand(COUNT, *size, 3, generator=torch.Generator().manual_seed(1))
        return (noise * 255).round() / 255

    def plain(self, node: str, field: str) -> Tensor:
        """The plain value of an IMAGE or MASK input."""
        declared = self.nodes[node].INPUT_TYPES()
        kinds = {
            name: value[0]
            for group in ("required", "optional")
            for name, value in declared.get(group, {}).items()
        }
        return self.picture(node, field) if kinds[field] == "IMAGE" else self.mask(node)

    def mask(self, node: str) -> Tensor:
        """The plain MASK of an input: a white rectangle, moved in the second picture, and a gray strip."""
        size = self.picture(node, "photos").shape[1:3] if node == "AlignFaces" else (SIDE, SIDE)
        masks = torch.zeros(COUNT, *size)
        for index, mask in enumerate(masks):
            rows, columns = (
                slice(side // 4 + 2 * index, side // 2 + 2 * index) for side in (size[0], size[1])
            )
            mask[rows, columns] = 1
            mask[: size[0] // 8] = 51 / 255  # a soft part
        return masks

    def inputs(self, node: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call: what is given, and plain or default values for all that is required."""
        declared = self.nodes[node].INPUT_TYPES()
        found: dict[str, Any] = {}
        for group in ("required", "optional"):
            for field, (kind, *options) in declared.get(group, {}).items():
                default = options[0].get("default") if options else None
                if field in given:
                    found[field] = given[field]
                elif field in FEW and (isinstance(kind, list) or default is not None):
                    found[field] = kind[0] if isinstance(kind, list) else FEW[field]
                elif default is not None:
                    found[field] = default
                elif isinstance(kind, list):
                    found[field] = kind[0]
                elif group == "required" or field in NEEDED.get(node, ()):
                    found[field] = self.picture(node, field) if kind == "IMAGE" else self.values[kind]
        if node == "RestorePhotos":
            found |= {"model": self.personal, "masks": given.get("masks", self.mask(node))}
        if node == "AlignFaces" and "reference" in given:
            found["which"] = "most like the reference"
        if node == "TrainIdentity" and "heads" in given:
            found["background_weight"] = 0.5
        if node == "PasteBack" and "old_heads" in given:
            found["masks"] = torch.zeros(SIDE, SIDE)  # the new face covers nothing of the old head
        return found

    def call(self, node: str, given: Mapping[str, Any]) -> Any:
        """Call a node as the executor does, and return what it gives."""
        kind = self.nodes[node]
        inputs = {name: value for name, value in self.inputs(node, given).items() if value is not None}
        if getattr(kind, "INPUT_IS_LIST", False):
            inputs = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
        return getattr(kind, kind.FUNCTION)(**inputs)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a call: the tensors of its result by their place in it, or a message."""

    tensors: dict[str, Tensor]
    message: str = ""


def outcome(
    call: Callable[[], Any], own: tuple[Path, ...] = (ROOT / "nodes", ROOT / "my3dgen_core")
) -> Outcome:
    """Return the outcome of a call.

    A message is a ValueError, OSError or FloatingPointError that the pack raises itself, in a whole sentence;
    every other exception is a fault and goes on, also a ValueError that torch raised.

    Args:
        call: the call.
        own: folders of the code that may raise a message.
    """
    try:
        result = call()
    except (ValueError, OSError, FloatingPointError) as error:
        raised_in = Path(inspect.trace()[-1].filename).resolve()
        text = str(error)
        if not any(raised_in.is_relative_to(folder) for folder in own) or len(text.split()) < 5:
            raise AssertionError(f"no message of the pack: {text!r} from {raised_in}") from error
        return Outcome({}, text)
    found = dict(tensors(result))
    spoiled = [place for place, tensor in found.items() if not bool(torch.isfinite(tensor).all())]
    assert not spoiled, f"NaN or infinite numbers in {spoiled}"
    return Outcome(found)


def tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a node's result, with their places in it; models are left out."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, np.ndarray):
        yield place, torch.from_numpy(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "ui":
                yield from tensors(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from tensors(item, f"{place}[{index}]")
    elif dataclasses.is_dataclass(value) and type(value).__name__ != "Model":
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), f"{place}.{field.name}")
    elif hasattr(value, "tensors"):
        yield from tensors(value.tensors, f"{place}.tensors")


def assert_same(found: Outcome, expected: Outcome) -> None:
    """Assert that two outcomes are equal to the last bit."""
    assert found.message == expected.message
    assert found.tensors.keys() == expected.tensors.keys()
    for place, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[place], tensor), f"another value in {place}"


class Table:
    """The outcomes of all kinds in all inputs of one type."""

    def __init__(self, bench: Bench, mappings: Mapping[str, Any], type_: str) -> None:
        """Find the inputs.

        Args:
            bench: the nodes.
            mappings: NODE_CLASS_MAPPINGS.
            type_: "IMAGE" or "MASK".
        """
        self.bench, self.inputs = bench, inputs_of(mappings, type_)
        self.kinds = KINDS[type_]
        self._plain: dict[tuple[str, str], Outcome] = {}

    def sample(self, name: str) -> list[tuple[str, str]]:
        """Choose inputs for one kind: all where the outcome is a message, else one, another for each kind."""
        if self.kinds[name].message:
            return self.inputs
        quick = [pair for pair in self.inputs if pair[0] != "AlignFaces"]
        return [quick[list(self.kinds).index(name) % len(quick)]]

    def faults(self, name: str, inputs: list[tuple[str, str]]) -> list[str]:
        """Give one kind to these inputs, and describe every wrong outcome."""
        found = []
        for node, field in inputs:
            try:
                self._check(node, field, self.kinds[name])
            except Exception as error:
                found.append(f"{node}.{field}: {type(error).__name__}: {error}")
        return found

    def unused(self) -> list[str]:
        """List the inputs where other pictures or masks change nothing of the result."""
        found = []
        for node, field in self.inputs:
            plain = self.bench.plain(node, field)
            one, other = (self._outcome(node, field, value) for value in (plain, plain.flip(0)))
            if all(torch.equal(tensor, other.tensors[place]) for place, tensor in one.tensors.items()):
                found.append(f"{node}.{field}")
        return found

    def _check(self, node: str, field: str, kind: Kind) -> None:
        plain = self.bench.plain(node, field)
        found = self._outcome(node, field, kind.make(plain))
        if kind.message:
            assert kind.message in found.message, found.message or "a result"
            assert f"The input {field!r}" in found.message, found.message
        elif kind.same is not None:
            assert_same(found, self._expected(node, field, kind.same(plain), kind.same is _same))

    def _expected(self, node: str, field: str, value: Tensor | None, is_plain: bool) -> Outcome:
        if not is_plain:
            return self._outcome(node, field, value)
        if (node, field) not in self._plain:
            self._plain[node, field] = self._outcome(node, field, value)
        return self._plain[node, field]

    def _outcome(self, node: str, field: str, value: Any) -> Outcome:
        return outcome(lambda: self.bench.call(node, {field: value}))
