"""Face packs: folders of ONNX files, and which file is which network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..common.folders import files_below
from ..formats.onnx_file import OnnxGraph, read_onnx
from .parsing import is_parsing_network

MODELS_HINT = (
    "Put an InsightFace pack (buffalo_l, buffalo_s or antelopev2, from the model zoo of the InsightFace "
    "project: the unpacked .onnx files) into a folder such as ComfyUI/models/insightface/models/buffalo_l. "
    "Nothing is downloaded automatically."
)
# Roles of the networks in a folder.
DETECTION, LANDMARKS, RECOGNITION, PARSING = "detection", "landmarks", "recognition", "parsing"
ATTRIBUTES = "age and gender"
_DEPTH = 3  # levels of subfolders: archives unpack into antelopev2/antelopev2, and `parsing` is one more


class FaceModelError(RuntimeError):
    """Error for missing face networks or packages; the message says what to install."""


def role_of(graph: OnnxGraph) -> str | None:
    """Identify a network by its input and output shapes.

    Returns:
        `DETECTION`, `LANDMARKS` (106 points), `RECOGNITION`, `PARSING` or `ATTRIBUTES`, or None for another
            network.
    """
    if len(graph.inputs) != 1:
        return None
    if is_parsing_network(graph):
        return PARSING
    shape = next(iter(graph.inputs.values()))
    last = [out[-1] if out else None for out in graph.outputs.values()]
    if len(shape) != 4 or shape[1] != 3:
        return None
    if len(last) in (9, 15):
        return DETECTION
    if shape[2:] == [192, 192] and last == [212]:
        return LANDMARKS
    if shape[2:] == [112, 112] and last == [512]:
        return RECOGNITION
    if shape[2:] == [96, 96] and last == [3]:
        return ATTRIBUTES
    return None


@dataclass
class FacePack:
    """Content of one folder of face networks."""

    folder: Path
    """The folder."""
    files: dict[str, Path] = field(default_factory=dict)
    """ONNX file for each role."""
    others: list[str] = field(default_factory=list)
    """Names of ONNX files that are not used: another network, or a role that is taken."""
    unreadable: list[str] = field(default_factory=list)
    """Messages about ONNX files that cannot be read."""

    def describe(self) -> str:
        """Say what is in the folder and what it lacks, for a message."""
        parts = [f"{role} {file.name}" for role, file in self.files.items()]
        if self.others:
            parts.append(f"not used: {', '.join(self.others)}")
        parts += [message.rstrip(".") for message in self.unreadable]
        if not parts:
            return "no .onnx files"
        return "; ".join([*parts, *([] if DETECTION in self.files else ["no face detector"])])


def onnx_files(folder: str | Path) -> list[Path]:
    """Return the ONNX files of a folder and of those in it, the folder's own first."""
    return [path for path in files_below(folder, _DEPTH) if path.suffix.lower() == ".onnx"]


def read_pack(folder: str | Path) -> FacePack:
    """Identify the networks in a folder; of several with one role the first is used, see `onnx_files`."""
    pack = FacePack(Path(folder))
    for file in onnx_files(folder):
        try:
            role = role_of(read_onnx(file, weights=False))
        except (OSError, ValueError) as error:
            pack.unreadable.append(str(error))
            continue
        if role and role not in pack.files:
            pack.files[role] = file
        else:
            pack.others.append(file.name)
    return pack


def find_models(path: str | Path) -> dict[str, Path]:
    """Find the ONNX file for each role in a folder, see `read_pack`.

    Raises:
        FaceModelError: there is no such folder, or no ONNX file in it that can be read.
    """
    return usable_pack(path).files


def usable_pack(path: str | Path) -> FacePack:
    """Read a pack that has at least one network.

    Raises:
        FaceModelError: there is no such folder, or no ONNX file in it that can be read.
    """
    if not Path(path).is_dir():
        raise FaceModelError(f"The face model folder {path} does not exist. {MODELS_HINT}")
    pack = read_pack(path)
    if not pack.files and not pack.others:
        what = " ".join(pack.unreadable) or f"There are no .onnx files in {path}."
        raise FaceModelError(f"{what} {MODELS_HINT}")
    return pack
