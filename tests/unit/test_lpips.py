"""LPIPS equals its formula, on random weights that are read without executing anything."""

import dataclasses
import pickle

import micro
import pytest
import torch
from classifiers import alexnet, random_heads, vgg16
from safetensors.torch import save_file

from my3dgen_core import (
    CheckpointError,
    Identity,
    InversionConfig,
    Latents,
    TuningConfig,
    invert,
    look_at,
    personalize,
)
from my3dgen_core.fitting.losses import laplacian_l1, photo_loss
from my3dgen_core.fitting.lpips import distance

CPU = torch.device("cpu")
FILES = {"lpips_alex": ("alexnet-owt-7be5be79", "alex"), "lpips_vgg": ("vgg16-397923af", "vgg")}


NETWORKS = {
    "lpips_alex": (alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "lpips_vgg": (vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def weights(request, tmp_path_factory):
    """Name, network, heads, and a folder with both as files of torch.save."""
    make, _, widths = NETWORKS[request.param]
    torch.manual_seed(0)
    network = make().requires_grad_(False)
    heads = random_heads(*widths)
    folder = tmp_path_factory.mktemp(request.param)
    state = {f"features.{key}": value for key, value in network.state_dict().items()}
    classifier, lin = FILES[request.param]
    # torchvision's and LPIPS' files are in the old format, and hold more than is needed
    state["classifier.1.weight"] = torch.zeros(2, 2)
    torch.save(state, folder / f"{classifier}.pth", _use_new_zipfile_serialization=False)
    torch.save(heads, folder / f"{lin}.pth")
    return request.param, network, heads, folder


def straightforward(name, network, heads, image, target):
    """LPIPS of two pictures [3, H, W], pixel by pixel."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    taps, total = NETWORKS[name][1], 0.0
    a, b = ((picture - shift) / scale for picture in (image, target))
    for number, layer in enumerate(network[: taps[-1] + 1]):
        a, b = layer(a), layer(b)
        if number not in taps:
            continue
        weight = heads[f"lin{taps.index(number)}.model.1.weight"][0, :, 0, 0].double()
        rows, columns = a.shape[1:]
        pixels = 0.0
        for y in range(rows):
            for x in range(columns):
                u, v = a[:, y, x].double(), b[:, y, x].double()
                u, v = u / (u.norm() + 1e-10), v / (v.norm() + 1e-10)
                pixels += float((weight * (u - v) ** 2).sum())
        total += pixels / (rows * columns)
    return total


def pictures(size, seed=0, count=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_lpips_is_what_its_formula_says(weights):
    name, network, heads, folder = weights
    image, target = pictures(36), pictures(36, 1)
    found = distance(name, folder, CPU)(image, target, None)
    wanted = [straightforward(name, network, heads, a, b) for a, b in zip(image, target, strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)


def test_gradients_flow_to_the_picture_and_nowhere_else(weights):
    name, _, _, folder = weights
    measure = distance(name, folder, CPU)
    image, target = pictures(40).requires_grad_(True), pictures(40, 1)
    before = measure(image, target, None)
    before.sum().backward()
    assert bool(torch.isfinite(image.grad).all())
    step = image.detach() - 0.02 * image.grad / image.grad.abs().max()
    assert bool((measure(step, target, None) < before).all())
    assert not any(parameter.requires_grad for parameter in measure.parameters())
    black = torch.zeros(1, 3, 40, 40, requires_grad=True)  # equal pictures: features and differences of 0
    measure(black, black.detach(), None).sum().backward()
    assert float(black.grad.abs().max()) == 0


@pytest.mark.parametrize("size", [1, 9, 24])
def test_patches_smaller_than_the_network_needs_are_enlarged(weights, size):
    name, _, _, folder = weights
    measure = distance(name, folder, CPU)
    image, target = pictures(size).requires_grad_(True), pictures(size, 1)
    found = measure(image, target, None)
    found.sum().backward()
    assert bool((found > 0).all())
    assert bool((image.grad != 0).any())


def test_pixels_that_do_not_count_are_not_looked_at(weights):
    name, _, _, folder = weights
    measure = distance(name, folder, CPU)
    image, target = pictures(40), pictures(40, 1)
    valid = torch.ones(2, 1, 40, 40)
    assert torch.allclose(measure(image, target, valid), measure(image, target, None), rtol=1e-4)
    valid[..., :20] = 0
    scribbled = image.clone()
    scribbled[..., :20] = -1
    assert torch.equal(measure(image, target, valid), measure(scribbled, target, valid))


@pytest.mark.parametrize("name", list(FILES))
def test_missing_weights_get_a_message_that_says_where_they_belong(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)) as caught:
        distance(name, tmp_path, CPU)
    assert FILES[name][1] in str(caught.value)
    assert "laplacian" in str(caught.value)


def test_safetensors_serve_as_well(weights, tmp_path):
    name, network, heads, folder = weights
    state = {f"features.{key}": value for key, value in network.state_dict().items()}
    classifier, lin = FILES[name]
    save_file(state, tmp_path / f"{classifier}.safetensors")
    save_file(heads, tmp_path / f"{lin}.safetensors")
    ours, theirs = (distance(name, place, CPU) for place in (tmp_path, folder))
    assert ours.fingerprint == theirs.fingerprint


class Harm:
    def __reduce__(self):
        return (open, ("harm", "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "rubbish", "list", "heads"])
def test_a_file_that_is_no_weights_is_refused_and_nothing_in_it_runs(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "alexnet.pth"
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"features.0.weight": Harm()}))
    elif kind == "torch":
        torch.save({"features.0.weight": Harm()}, file)
    elif kind == "rubbish":
        file.write_bytes(b"rubbish")
    elif kind == "list":
        torch.save([torch.zeros(1)], file)
    else:
        torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, file)
    torch.save({}, tmp_path / "alex.pth")
    with pytest.raises(CheckpointError):
        distance("lpips_alex", tmp_path, CPU)
    assert not (tmp_path / "harm").exists()


def test_without_a_choice_the_term_is_the_laplacian_one():
    image, target = pictures(32), pictures(32, 1)
    squared, perceptual = photo_loss(image, target, None, 0.5)
    assert torch.allclose(squared, (image - target).square().mean((1, 2, 3)))
    assert torch.allclose(perceptual, 0.5 * laplacian_l1(image - target))
    with pytest.raises(ValueError, match="perceptual_backbone must be one of laplacian, lpips_alex"):
        TuningConfig(perceptual_backbone="lpips")
    with pytest.raises(ValueError, match="perceptual_backbone"):
        InversionConfig(perceptual_backbone="vgg")


@pytest.mark.slow
def test_training_and_inversion_use_the_choice_and_the_identity_names_it(weights, tmp_path):
    name, _, _, folder = weights
    generator = micro.generator()
    cameras = look_at(torch.tensor([-0.3, 0.3]), 0.0)
    anchors = Latents(micro.latents(generator, 2), cameras)
    with torch.no_grad():
        photos = -generator.render(anchors.ws, cameras).image.clamp(-1, 1)
    plain = TuningConfig(steps=2, patch=16, preview_every=0)
    chosen = dataclasses.replace(plain, perceptual_backbone=name, perceptual_dir=folder)
    person = personalize(generator, photos, anchors, chosen)
    assert person.history[0] != personalize(generator, photos, anchors, plain).history[0]
    person.save(tmp_path / "person.safetensors")
    provenance = Identity.load(tmp_path / "person.safetensors").provenance
    assert provenance["settings"]["perceptual_backbone"] == name
    assert provenance["perceptual_weights"] == distance(name, folder, CPU).fingerprint
    short = InversionConfig(steps=2, shared_steps=0, perceptual_backbone=name, perceptual_dir=folder)
    found = invert(generator, photos, cameras, short)
    assert bool(torch.isfinite(found.losses).all())
    with pytest.raises(FileNotFoundError, match="needs weights"):
        personalize(generator, photos, anchors, dataclasses.replace(chosen, perceptual_dir=str(tmp_path)))
