"""Files brought by mistake are told by what they are, by every reader, and the message says what to do."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import official_files as files
import pytest
import torch
from safetensors.torch import save_file

from my3dgen_core import CheckpointError, Direction, Identity, load_generator, load_latents
from my3dgen_core.fitting.lpips import read_weights
from my3dgen_core.formats.file_kinds import describe_weights
from my3dgen_core.person.eg3d_dataset import read_latent

READERS = (load_generator, Identity.load, load_latents, read_latent, Direction.load, read_weights)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 126413312\n"
ONE = torch.ones(1)


def zip_of(names: list[str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"0" * 100)
    return out.getvalue()


FILES = {
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "nothing but zeros"),
    "lfs": (POINTER.encode(), r"Git LFS pointer.*126,413,312 bytes.*git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>Please log in</html>", "is a web page.*browser"),
    "xml": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "is a web page"),
    "json": (b'{"error": "not found"}', "is text of 22 bytes"),
    "umlauts": ("größer ".encode() * 500, "is text of"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip archive.*Unpack"),
    "tar": (b"a.pkl" + bytes(252) + b"ustar" + bytes(300), "tar archive.*Unpack"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture"),
    "onnx": (b"\x08\x07\x12\x07pytorch" + bytes(50), "ONNX"),
    "photos": (
        zip_of(["a/IMG_1.jpg", "a/IMG_2.jpg"]),
        r"zip archive with 'a/IMG_1.jpg', 'a/IMG_2.jpg'.*Unpack",
    ),
}


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__qualname__)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_named_by_every_reader(read, kind: str, tmp_path: Path) -> None:
    data, message = FILES[kind]
    file = tmp_path / "brought.pt"
    file.write_bytes(data)
    if read is load_latents and kind == "photos":
        message = "no .safetensors file"
    with pytest.raises(CheckpointError, match=rf"(?s)brought\.pt .*{message}"):
        read(file)


def test_a_zip_written_by_torch_is_never_taken_for_an_archive_of_something_else(tmp_path: Path) -> None:
    torch.save(torch.ones(1, 14, 512), tmp_path / "w.pt")
    assert read_latent(tmp_path / "w.pt").shape == (1, 14, 512)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        load_generator(tmp_path / "s.pt")


WEIGHTS = {
    "model.diffusion_model.input_blocks.0.0.weight": "Stable Diffusion",
    "double_blocks.0.img_attn.qkv.weight": "Flux",
    "lora_unet_down_blocks_0.lora_up.weight": "LoRA of an image model",
    "stylegan_decoder.style_mlp.1.weight": "GFPGAN",
    "synthesis.b4.conv1.weight": "2D StyleGAN2",
    "convs.0.conv.modulation.weight": "2D StyleGAN2",
    "synthesis.L0_36_512.weight": "2D StyleGAN3",
    "b512.fromrgb.weight": "discriminator",
    "encoder.input_layer.0.weight": "pSp",
    "body.0.rdb1.conv1.weight": "ESRGAN",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_another_project_are_named(name: str, tmp_path: Path) -> None:
    state = {name: torch.ones(1), "mapping.fc0.weight": torch.ones(2)}
    torch.save({"params_ema": state, "epoch": 3}, tmp_path / "nested.pth")
    torch.save(state, tmp_path / "flat.pt")
    save_file(state, tmp_path / "flat.safetensors")
    for file in sorted(tmp_path.iterdir()):
        for read in (load_generator, Direction.load, read_weights):
            with pytest.raises(CheckpointError, match=WEIGHTS[name]):
                read(file)
    for read in (Identity.load, load_latents):
        with pytest.raises(CheckpointError, match=WEIGHTS[name]):
            read(tmp_path / "flat.safetensors")


def test_pickles_of_2d_stylegans_are_named(tmp_path: Path) -> None:
    made = files.module({"mapping.fc0.weight": ONE, "synthesis.b4.const": ONE})
    files.write(tmp_path / "ada.pkl", files.Writer(4).dump({"G_ema": made}))
    network = files.New(files.Global("dnnlib.tflib.network", "Network"), state={"version": 4})
    files.write(tmp_path / "tf.pkl", files.Writer(4).dump((network, network, network)))
    for name, what in (("ada", "a 2D StyleGAN2"), ("tf", "a 2D StyleGAN of TensorFlow")):
        with pytest.raises(CheckpointError, match=f"{name}.pkl is {what}.*not an EG3D generator"):
            load_generator(tmp_path / f"{name}.pkl")


def test_generators_of_eg3d_and_weights_of_nobody_known_get_no_name() -> None:
    assert describe_weights(["backbone.synthesis.b4.conv1.weight", "synthesis.b4.conv1.weight"]) is None
    assert describe_weights(["smile", "age"]) is None


def test_files_of_this_pack_are_named_with_the_node_that_loads_them(tmp_path: Path) -> None:
    for kind, node in {"generator": "Load EG3D Generator", "identity": "Load Identity"}.items():
        save_file({"a": ONE}, tmp_path / "a.safetensors", {"format": f"my3dgen.{kind}"})
        for read in (load_latents, Direction.load):
            with pytest.raises(CheckpointError, match=node):
                read(tmp_path / "a.safetensors")
    save_file({"ws": ONE}, tmp_path / "l.safetensors", {"format": "my3dgen.latents"})
    for read in (load_generator, Identity.load):
        with pytest.raises(CheckpointError, match="Load Latents"):
            read(tmp_path / "l.safetensors")


def test_a_latent_is_not_a_generator_and_the_message_names_its_node(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.ones((1, 14, 512), np.float32))
    np.savez(tmp_path / "projected_w.npz", w=np.ones((1, 14, 512), np.float32))
    for file in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match="Load EG3D Dataset"):
            load_generator(file)
