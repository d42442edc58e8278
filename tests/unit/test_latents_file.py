"""Random latents, and files of latents."""

import micro
import pytest
import torch
from meta_device import META, NoCPU, on_meta
from safetensors.torch import save_file

from my3dgen_core import CheckpointError, Latents, load_latents, mean_latent, random_latents, save_latents
from my3dgen_core.camera import angles


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


def test_one_seed_gives_the_same_heads_however_many_follow(generator):
    many, few = random_latents(generator, 5, 20), random_latents(generator, 5, 20, batch_size=7)
    assert torch.allclose(many.ws, few.ws, atol=1e-6)
    assert not torch.allclose(many.ws, random_latents(generator, 6, 20).ws)
    assert many.base_hash == generator.base_hash()
    assert float(angles(many.cameras)[0].abs().max()) < 1e-6


def test_truncation_leads_to_the_mean_head(generator):
    mean = mean_latent(generator)
    away = [float((random_latents(generator, 0, 8, psi).ws - mean.ws).norm()) for psi in (0.0, 0.5, 1.0)]
    assert away[0] == pytest.approx(0, abs=1e-5)
    assert away[1] == pytest.approx(away[2] / 2, rel=1e-4)
    assert away[2] > 1


def test_saved_latents_come_back_bit_for_bit(generator, tmp_path):
    heads = random_latents(generator, 0, 3)
    full = Latents(heads.ws, heads.cameras, torch.rand(3), torch.rand(3, 7), heads.base_hash)
    for given in (full, Latents(heads.ws)):
        save_latents(given, tmp_path / "heads.safetensors")
        found = load_latents(tmp_path / "heads.safetensors")
        assert found.base_hash == given.base_hash
        for name in ("ws", "cameras", "losses", "alphas"):
            mine, theirs = getattr(found, name), getattr(given, name)
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.equal(mine, theirs)


def test_what_is_no_file_of_latents_is_refused(generator, tmp_path):
    path = tmp_path / "heads.safetensors"
    with pytest.raises(FileNotFoundError, match="no latents at"):
        load_latents(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(CheckpointError, match=r"no \.safetensors file"):
        load_latents(path)
    save_file({"ws": torch.zeros(1, 4, 8)}, path)
    with pytest.raises(CheckpointError, match="not a file of latents"):
        load_latents(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"cameras": torch.zeros(1, 25)},
        {"ws": torch.zeros(2, 4, 8), "cameras": torch.zeros(1, 25)},
        {"ws": torch.full((1, 4, 8), float("nan"))},
        {"ws": torch.zeros(4, 8)},
        {"ws": torch.zeros(1, 4, 8), "extra": torch.zeros(1)},
        {"ws": torch.zeros(1, 4, 8, dtype=torch.int64)},
    ],
    ids=["no ws", "counts", "nan", "flat", "extra", "integers"],
)
def test_a_damaged_file_is_refused_with_a_message(tmp_path, tensors):
    path = tmp_path / "heads.safetensors"
    save_file(tensors, path, {"format": "my3dgen.latents"})
    with pytest.raises(CheckpointError, match="is damaged"):
        load_latents(path)


def test_no_tensor_is_made_on_the_wrong_device():
    generator = on_meta()
    with NoCPU():
        assert random_latents(generator, 0, 3).ws.device == META
        assert mean_latent(generator).ws.device == META
