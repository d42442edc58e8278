"""Recognition of files that are brought by mistake: what a file is, and what to do about it.

A file is told by its first bytes (`describe_file`), a zip archive by the names of its entries
(`describe_archive`), weights by the names of their tensors (`describe_weights`) and a file of this pack by
its metadata (`describe_safetensors`). Descriptions continue a message that begins with the file's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..common.errors import quote_untrusted
from .pickle_values import Record, TensorRef

HEAD = 1024
_AGAIN = "Download it again."
_UNPACK = "Unpack it and use the file inside."
_SIGNATURES = (
    (b"\x1f\x8b", f"is a gzip archive. {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7-Zip archive. {_UNPACK}"),
    (b"Rar!", f"is a RAR archive. {_UNPACK}"),
    (b"\xfd7zXZ", f"is an xz archive. {_UNPACK}"),
    (b"BZh", f"is a bzip2 archive. {_UNPACK}"),
    (b"\x89PNG", "is a picture (PNG), not a file of numbers."),
    (b"\xff\xd8\xff", "is a picture (JPEG), not a file of numbers."),
    (b"%PDF", "is a PDF document, not a file of numbers."),
    (b"GGUF", "is a language or image model in GGUF, which this pack does not use."),
    (b"\x89HDF", "is an HDF5 file, as Keras writes. Bring weights of PyTorch."),
    (b"\x7fELF", "is a program, not a file of weights. Delete it unless you know what it is."),
    (b"MZ", "is a Windows program, not a file of weights. Delete it unless you know what it is."),
    (b"\x93NUMPY", "is a .npy array: latents or a camera of a projector, for Load EG3D Dataset."),
    (b"\x08", "is a network in ONNX, as face packs have: it belongs into models/insightface/models."),
)
_ONNX = re.compile(rb"\x08[\x01-\x20](\x12|\x1a)", re.DOTALL)
OURS = {
    "my3dgen.generator": "a generator of this pack (Load EG3D Generator)",
    "my3dgen.identity": "an identity (Load Identity)",
    "my3dgen.latents": "a file of latents (Load Latents)",
    "my3dgen.direction": "a direction (Load Direction)",
}
"""Kinds of this pack's files by the `format` in their metadata."""
_DIFFUSION = "a checkpoint of an image model such as Stable Diffusion or Flux (models/checkpoints)"
_PROJECTS = (
    (r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner\.embedders)\.", _DIFFUSION),
    (r"(double_blocks|single_blocks|joint_blocks|down_blocks|up_blocks|transformer_blocks)\.\d", _DIFFUSION),
    (
        r"lora_(unet|te\d?|transformer)_|(unet|transformer|diffusion_model)\..*lora",
        "a LoRA of an image model",
    ),
    (r"control_model\.|input_hint_block\.|controlnet_", "a ControlNet (models/controlnet)"),
    (r"stylegan_decoder\.|conv_body_first\.", "GFPGAN, which restores faces in photos"),
    (r"fuse_convs_dict\.|quantize\.embedding\.", "CodeFormer, which restores faces in photos"),
    (r"(encoder|decoder)\.(input_layer|styles|style|convs)\.\d", "an encoder for 2D StyleGANs (pSp, e4e)"),
    (r"synthesis\.L\d+_", "a 2D StyleGAN3, which has no camera"),
    (r"(synthesis|G_synthesis)\.b?\d|convs\.\d+\.conv\.modulation\.", "a 2D StyleGAN2, which has no camera"),
    (r"b\d+\.(fromrgb|mbstd|out)\b", "the discriminator of a GAN; the generator is wanted"),
    (r"body\.\d+\.(rdb1|sub)\.|model\.\d+\.sub\.", "an upscaler such as ESRGAN (models/upscale_models)"),
    (r"(text_model|vision_model|visual|transformer\.resblocks)\.", "CLIP (models/clip or clip_vision)"),
    (r"features\.\d+\.weight|lin\d\.model\.", "the network of a perceptual loss (models/my3dgen/perceptual)"),
    (r"input_layer\.\d|body\.\d+\.(res_layer|shortcut_layer)", "a network that recognizes faces"),
)


def describe_file(file: Path) -> str | None:
    """Describe a file by its first bytes, or return None if they are not of a kind that is known.

    Known kinds are those that no reader takes: an empty file, a Git LFS pointer, a web page, text, pictures,
    archives, programs.
    """
    with file.open("rb") as stream:
        start, size = stream.read(HEAD), os.fstat(stream.fileno()).st_size
    if not start:
        return f"is empty. {_AGAIN}"
    if not any(start):
        return f"begins with nothing but zeros: a download or a copy was not finished. {_AGAIN}"
    for signature, what in _SIGNATURES:
        if start.startswith(signature) and (signature != b"\x08" or _ONNX.match(start)):
            return what
    if start[:4] == b"RIFF":
        return "is a picture, a sound or a film, not a file of numbers."
    if start[257:262] == b"ustar":
        return f"is a tar archive. {_UNPACK}"
    return _describe_text(start, size)


def _describe_text(start: bytes, size: int) -> str | None:
    try:
        text = start.decode("utf-8").removeprefix("\ufeff").lstrip()
    except UnicodeDecodeError as error:
        if size <= HEAD or error.start < len(start) - 4:  # otherwise `start` ends within a character
            return None
        text = start[: error.start].decode("utf-8").removeprefix("\ufeff").lstrip()
    if start.startswith(b"PK") or not all(letter.isprintable() or letter in "\n\r\t" for letter in text):
        return None
    if text.startswith("version https://git-lfs"):
        found = re.search(r"^size (\d{1,15})$", text, re.MULTILINE)
        large = f" of {int(found[1]):,} bytes" if found else ""
        return (
            f"is a Git LFS pointer, which only names the file{large}. Run 'git lfs pull' where it came "
            "from, or download the file itself."
        )
    if re.match(r"<(!doctype|html|\?xml|head|body)", text, re.IGNORECASE):
        return (
            "is a web page, not the file: its address leads to a page with a log-in, a warning or an error. "
            "Open the address in a browser and download the file there."
        )
    if called := re.match(r"\(*c([\w.]{1,80})\n(\w{1,80})\n", text):
        return (
            f"is a pickle of protocol 0 that asks for {quote_untrusted(f'{called[1]}.{called[2]}')}. It was "
            "refused before anything ran; do not open this file with other programs."
        )
    return f"is text of {size:,} bytes that begins with {quote_untrusted(text, 30)}, not a file of numbers."


def describe_archive(names: Iterable[str]) -> str:
    """Describe a zip archive that torch.save has not written, by the names of its entries."""
    found = [name for name in names if not name.endswith("/")]
    if not found:
        return "is an empty zip archive, not one of torch.save."
    shown = ", ".join(quote_untrusted(name, 40) for name in found[:3]) + (", ..." if len(found) > 3 else "")
    if all(name.endswith(".npy") for name in found):
        return f"is a .npz archive of arrays ({shown}), as projectors write latents: for Load EG3D Dataset."
    if any("/code/" in name or name.endswith("constants.pkl") for name in found):
        return f"is a TorchScript program ({shown}). Ask for the weights: a state dict, or the .pkl of EG3D."
    return f"is a zip archive with {shown}, not one of torch.save. {_UNPACK}"


def describe_weights(names: Iterable[str]) -> str | None:
    """Name the project that weights belong to, by the names of their tensors; None if it is not known."""
    known = [name for name in names if type(name) is str][:5000]
    if any(name.startswith(("backbone.", "module.backbone.")) for name in known):
        return None
    for pattern, project in _PROJECTS:
        form = re.compile(rf"(module\.|params\.)?({pattern})", re.ASCII)
        if any(form.match(name) for name in known):
            return project
    return None


def describe_safetensors(metadata: Mapping[str, str], names: Iterable[str], wanted: str) -> str | None:
    """Describe a safetensors file of another kind than the wanted one; None if its kind is not known."""
    kind = OURS.get(metadata.get("format", "")) or describe_weights(names)
    return f"is {kind}, not {wanted}." if kind else None


def tensor_names(root: object) -> list[str]:
    """Return the names of the tensors in the root value of a file, without those of outer dictionaries."""
    found: list[str] = []
    values: list[tuple[Any, int]] = [(root, 0)]
    while values and len(found) < 5000:
        value, depth = values.pop()
        if type(value) is not dict:
            continue
        for key, inner in list(value.items())[:5000]:
            if type(inner) is TensorRef and type(key) is str:
                found.append(key)
            elif depth < 2:
                values.append((inner, depth + 1))
    return found


def describe_root(root: object) -> str | None:
    """Name the project that the root value of a file belongs to; None if it is not known."""
    items = root if type(root) in (tuple, list) else [root]
    if any(type(item) is Record and ".tflib." in f".{item.name}." for item in items[:5]):  # type: ignore[index]
        return "a 2D StyleGAN of TensorFlow"
    return describe_weights(tensor_names(root))
