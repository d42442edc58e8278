"""DISTS equals its formula, on random weights that are read without executing anything."""

import pytest
import torch
import torch.nn.functional as F
from classifiers import vgg16

from my3dgen_core import CheckpointError
from my3dgen_core.evaluation import nearness
from my3dgen_core.evaluation.dists import dists

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """VGG16, alpha, beta and a folder with them as files of torch.save."""
    torch.manual_seed(0)
    network = vgg16().requires_grad_(False)
    channels = {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}
    folder = tmp_path_factory.mktemp("dists")
    state = {f"features.{key}": value for key, value in network.state_dict().items()}
    torch.save(state, folder / "vgg16-397923af.pth", _use_new_zipfile_serialization=False)
    torch.save(channels, folder / "dists.pt", _use_new_zipfile_serialization=False)
    return network, channels, folder


def straightforward(network, channels, image, target):
    """DISTS of two pictures [3, H, W], channel by channel."""
    window = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16

    def stages(picture):
        x = picture / 2 + 0.5
        found = [x]
        x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        for i, layer in enumerate(network[:30]):
            if isinstance(layer, torch.nn.MaxPool2d):
                squares = F.pad(x.square(), (1, 1, 1, 1)).unfold(1, 3, 2).unfold(2, 3, 2)
                x = ((squares * window).sum((3, 4)) + 1e-12).sqrt()
            else:
                x = layer(x)
            if i in (3, 8, 15, 22, 29):
                found.append(x)
        return [channel for stage in found for channel in stage]

    total, weight = 0.0, float(channels["alpha"].sum() + channels["beta"].sum())
    for i, (a, b) in enumerate(zip(stages(image), stages(target), strict=True)):
        texture = (2 * a.mean() * b.mean() + 1e-6) / (a.mean() ** 2 + b.mean() ** 2 + 1e-6)
        shared = ((a - a.mean()) * (b - b.mean())).mean()
        structure = (2 * shared + 1e-6) / (a.var(correction=0) + b.var(correction=0) + 1e-6)
        total += float(channels["alpha"][0, i] * texture + channels["beta"][0, i] * structure)
    return 1 - total / weight


@pytest.mark.slow
def test_it_is_the_formula(weights):
    network, channels, folder = weights
    measure = dists(folder, CPU)
    images, targets = torch.rand(2, 2, 3, 48, 32) * 2 - 1
    expected = [straightforward(network, channels, a, b) for a, b in zip(images, targets, strict=True)]
    assert measure(images, targets).tolist() == pytest.approx(expected, abs=2e-5)
    assert measure(images, images).abs().max() < 1e-5
    square = images.repeat(1, 1, 1, 2)[..., :48]
    assert nearness(square, square.flip(3), dists=measure)["DISTS"] > 0.01


def test_missing_weights_say_where_they_belong(tmp_path, weights):
    with pytest.raises(FileNotFoundError, match=r"dists\.pt, into .*perceptual"):
        dists(tmp_path / "perceptual", CPU)
    (tmp_path / "vgg16-x.pth").write_bytes((weights[2] / "vgg16-397923af.pth").read_bytes())
    torch.save({"alpha": torch.rand(1, 3, 1, 1)}, tmp_path / "dists.pt")
    with pytest.raises(CheckpointError, match=r"alpha of shape \[1, 1475, 1, 1\]"):
        dists(tmp_path, CPU)
