"""The bundled starter generator against the ground truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import my3dgen_core.starter as starter
from my3dgen_core.camera import look_at, mirror
from my3dgen_core.checkpoint import load_generator

FOLDER = Path(starter.__file__).parent


def test_the_weights_are_small_enough_to_ship() -> None:
    assert (FOLDER / "starter.safetensors").stat().st_size <= 8_000_000


def test_the_starter_renders_a_head_on_white() -> None:
    generator = load_generator("starter")
    with torch.no_grad():
        ws = generator.mapping(torch.randn(1, 64, generator=torch.Generator().manual_seed(1)), look_at(0, 0))
        out = generator.render(ws, look_at(0, 0))
    assert out.image.shape == (1, 3, 128, 128)
    assert out.image_raw[0, :, :3, :3].mean() > 0.99, "the upper left corner is background"
    # an earlier starter had a faint line on the outermost pixels
    assert out.image[0, :, 4:8, 4:8].mean() > 0.97
    assert out.mask[0, 0, 32, 32] > 0.98
    assert 2.2 < out.depth[0, 0, 32, 32] < 2.6


def test_the_mean_latent_is_the_mean_of_the_mapping() -> None:
    generator = load_generator("starter")
    with torch.no_grad():
        z = torch.randn(4000, 64, generator=torch.Generator().manual_seed(3))
        w = generator.mapping(z, look_at(0, 0).expand(4000, -1))[:, 0]
    assert (w.mean(dim=0) - generator.w_avg).norm() < 0.1 * w.std(dim=0).norm()


@pytest.mark.slow
def test_the_starter_reaches_the_score_of_its_card_on_unseen_heads() -> None:
    pytest.importorskip("anny", reason="the truth needs the starter extra (anny and warp-lang)")
    pytest.importorskip("warp", reason="the truth needs the starter extra (anny and warp-lang)")
    from my3dgen_core.starter.training.held_out import HeldOut, measure

    card = (FOLDER / "CARD.md").read_text()

    def stated(row: str) -> float:
        found = re.search(rf"^\| {re.escape(row)} \| ([\d.]+)", card, re.MULTILINE)
        assert found, f"CARD.md must state: {row}"
        return float(found.group(1))

    scores = measure(load_generator("starter"), HeldOut.make(heads=8, views=2, seed=779_000))
    # Sixteen views of eight heads scatter around the card's mean by a dB, two inside the head.
    assert scores.psnr > stated("PSNR (whole image)") - 2.0
    assert scores.psnr_inside > stated("PSNR (inside)") - 3.0
    assert scores.ssim > stated("SSIM") - 0.01
    assert scores.depth < stated("depth error on the head") + 0.001
    assert scores.iou > stated("mask IoU") - 0.01


def test_the_shipped_directions_belong_to_the_shipped_weights() -> None:
    from my3dgen_core import Direction
    from my3dgen_core.starter.training.factor_directions import ATTRIBUTES

    generator = load_generator("starter")
    for name in ATTRIBUTES:
        direction = Direction.load(FOLDER / "directions" / f"{name}.safetensors")
        assert direction.base_hash == generator.base_hash(), (
            "run python -m my3dgen_core.starter.training.factor_directions"
        )


def test_the_demo_persons_own_smile_was_found_about_the_shipped_identity() -> None:
    from my3dgen_core import Direction, Identity
    from my3dgen_core.starter.training.factor_directions import DEMO_PERSON_SMILE

    generator = load_generator("starter")
    smile = Direction.load(FOLDER / "directions" / DEMO_PERSON_SMILE)
    assert smile.base_hash == generator.base_hash(), (
        "run python -m my3dgen_core.starter.training.factor_directions"
    )
    half = generator.num_ws // 2
    assert float(smile.vector[:half].abs().max()) == 0
    assert smile.meta["correlation"] > 0.8
    identity = Identity.load(FOLDER / "demo_identity.safetensors")
    assert smile.meta["identity"] == identity.content_hash(), "find it again: the identity is another"


@pytest.mark.slow
def test_the_skin_direction_darkens_the_skin_step_by_step() -> None:
    from my3dgen_core import Direction

    generator = load_generator("starter")
    direction = Direction.load(FOLDER / "directions" / "skin.safetensors")
    with torch.no_grad():
        mean = generator.w_avg.expand(1, generator.num_ws, -1)
        ws = direction.apply(mean, torch.tensor([-2.0, 0.0, 2.0]))
        cheeks = generator.render(ws, look_at(0, 0)).image[:, :, 64:84, 48:80].mean((1, 2, 3))
    steps = cheeks.diff()
    assert bool((steps > 0.05).all()) or bool((steps < -0.05).all())


@pytest.mark.slow
def test_mirrored_cameras_see_mirrored_silhouettes_of_the_mean_head() -> None:
    """The mean of symmetric training data is symmetric."""
    generator = load_generator("starter")
    ws, camera = generator.w_avg.expand(1, generator.num_ws, -1), look_at(0.4, 0.1)
    with torch.no_grad():
        one, two = (generator.render(ws, view).mask > 0.5 for view in (camera, mirror(camera)))
    two = two.flip(-1)
    assert float((one & two).sum() / (one | two).sum()) > 0.97
    assert float((one & one.flip(-1)).sum() / (one | one.flip(-1)).sum()) < 0.97  # a side view is not
