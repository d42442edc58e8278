"""Evaluation measures on pictures and persons whose answers are known."""

import dataclasses
import functools
import json

import face_fixtures
import micro
import numpy as np
import pytest
import torch

from my3dgen_core import (
    AlphaSpace,
    Direction,
    InversionConfig,
    Latents,
    TuningConfig,
    evaluation,
    look_at,
    orbit,
    personalize,
)
from my3dgen_core.evaluation import photo_folder, protocols

SHORT = InversionConfig(steps=4, shared_steps=0, space="w+", lr=0.1, w_noise=0.0, rays_per_image=64)
TUNING = TuningConfig(steps=4, patch=16, preview_every=0)


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def demo():
    return evaluation.read_demo_person()


@pytest.fixture(scope="module")
def part(demo):
    return evaluation.split(demo[0][:10], demo[1][:10])


@pytest.fixture(scope="module")
def identity(generator, part):
    anchors = Latents(micro.latents(generator, len(part.photos)), part.cameras)
    return personalize(generator, part.photos, anchors, TUNING)


@pytest.fixture(scope="module")
def similarity(part):
    return evaluation.IdentitySimilarity(part.photos, face_fixtures.models())


def pictures(seed, count=2, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.slow
def test_psnr_and_ssim_agree_with_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a, b = pictures(0), (pictures(0) + 0.1 * pictures(1)).clamp(-1, 1)
    for i in range(2):
        x, y = ((p[i].permute(1, 2, 0).numpy().astype(np.float64) + 1) / 2 for p in (a, b))
        wanted = peak_signal_noise_ratio(x, y, data_range=1.0)
        assert float(evaluation.psnr(b, a)[i]) == pytest.approx(wanted, abs=1e-3)
        gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        wanted = structural_similarity(x, y, channel_axis=2, data_range=1.0, **gaussian)
        assert float(evaluation.ssim(b, a)[i]) == pytest.approx(wanted, abs=0.01)  # the rim differs


@pytest.mark.slow
def test_vif_is_one_for_equal_pictures_and_falls_with_noise():
    a = pictures(0)
    values = [float(evaluation.vif(a + level * pictures(1), a).mean()) for level in (0.0, 0.05, 0.3)]
    assert values[0] == pytest.approx(1, abs=1e-4)
    assert values[0] > values[1] > values[2] > 0


@pytest.mark.slow
def test_similarity_knows_the_person_from_another_in_both_ways(demo, part):
    held = demo[2][:3]
    for aligned in (True, False):
        similarity = evaluation.IdentitySimilarity(part.photos, face_fixtures.models(), aligned)
        assert similarity.error(part.photos) == pytest.approx(0, abs=1e-3)  # each is its own nearest
        stranger = face_fixtures.real_batch().images[:1]
        assert similarity.mean(held) > similarity.mean(stranger) + 0.1
        assert 0 < similarity.error(held) < similarity.error(stranger)


def test_without_a_face_there_is_no_similarity(part, similarity):
    assert similarity.mean(torch.zeros(1, 3, 128, 128)) is None
    assert similarity.error(torch.zeros(1, 3, 128, 128)) is None
    with pytest.raises(ValueError, match="No face was found"):
        evaluation.IdentitySimilarity(torch.zeros(2, 3, 128, 128), face_fixtures.models())


def test_the_orbit_is_the_papers():
    path = orbit(**protocols.ORBIT)
    positions = path[:, [3, 7, 11]]
    t = torch.arange(120) / 120 * 2 * torch.pi
    yaw, polar = np.pi / 2 + 0.35 * t.sin(), np.pi / 2 - 0.05 + 0.25 * t.cos()
    height = 2.7 * torch.cos(polar)
    assert torch.allclose(positions[:, 1], height, atol=1e-4)
    assert torch.allclose(positions[:, 0].abs(), (2.7 * torch.sin(polar) * torch.cos(yaw)).abs(), atol=1e-4)
    assert torch.allclose(positions.norm(dim=1), torch.full((120,), 2.7), atol=1e-4)


class FakeSimilarity:
    """Identity similarity of pictures by their mean brightness; records the pictures."""

    def __init__(self):
        self.seen = []

    def mean(self, images):
        self.seen.append(images)
        return float(images.mean())

    def error(self, images):
        self.seen.append(images)
        return 1 - float(images.mean())


@pytest.mark.slow
def test_multi_view_identity_looks_at_random_frames_of_each_orbit(generator, identity):
    fake = FakeSimilarity()
    ws = identity.anchors.ws[:2]
    found = evaluation.multi_view_identity(generator, ws, fake, views=3)
    assert [len(images) for images in fake.seen] == [3, 3]
    assert found == pytest.approx(1 - float(torch.stack([images.mean() for images in fake.seen]).mean()))
    again = FakeSimilarity()
    evaluation.multi_view_identity(generator, ws, again, views=3)
    assert torch.equal(fake.seen[0], again.seen[0])
    assert not torch.equal(fake.seen[0], fake.seen[1])


def test_interpolation_shows_every_pose_of_every_pair(generator, identity):
    fake, space = FakeSimilarity(), AlphaSpace(identity.anchors)
    found = evaluation.interpolation_identity(generator, space, fake, poses=4, pairs=2)
    assert [len(images) for images in fake.seen] == [4, 4]
    assert found == pytest.approx(sum(float(images.mean()) for images in fake.seen) / 2)


def test_samples_of_one_look_have_no_diversity_and_of_many_some(generator, identity):
    one = dataclasses.replace(identity.anchors, ws=identity.anchors.ws[:1].expand(8, -1, -1).clone())
    alike = evaluation.alpha_samples(generator, AlphaSpace(one), FakeSimilarity(), count=3)
    many = evaluation.alpha_samples(generator, AlphaSpace(identity.anchors), FakeSimilarity(), count=3)
    assert alike["diversity"] == pytest.approx(0, abs=1e-5)
    assert many["diversity"] > 0.01


def test_edits_move_the_mean_anchor_freely_and_within_the_person(generator, identity):
    fake = FakeSimilarity()
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    space = AlphaSpace(identity.anchors)
    measures = evaluation.edit_identity(generator, space, fake, [Direction("d", vector)], (-1.0, 1.0))
    assert set(measures) == {"free", "within"}
    free, within = fake.seen
    assert len(free) == len(within) == 2
    assert not torch.equal(free[0], free[1])
    assert not torch.equal(free, within)


@pytest.mark.slow
def test_the_truth_itself_scores_perfectly_and_a_veil_is_found(generator):
    with torch.no_grad():
        cameras = look_at(torch.tensor([0.0, 0.4]), 0.0)
        ws = micro.latents(generator, 1)
        rendering = generator.render(ws, cameras)
        mask = (rendering.mask > 0.5).float()
        truth = (rendering.image, rendering.depth, mask)
        perfect = evaluation.truth_scores(generator, ws, cameras, *truth)
        # the same head, but in truth a little further away and only in the middle of the picture
        small = torch.zeros_like(mask)
        small[..., 16:48, 16:48] = mask[..., 16:48, 16:48]
        moved = evaluation.truth_scores(generator, ws, cameras, truth[0], truth[1] + 0.1, small)
    assert perfect["PSNR dB"] > 60
    assert perfect["SSIM"] == pytest.approx(1, abs=1e-3)
    assert perfect["depth error"] == pytest.approx(0, abs=1e-4)
    assert moved["depth error"] == pytest.approx(0.1, abs=1e-3)
    assert moved["floaters"] > perfect["floaters"] + 0.1


def test_held_out_inversion_scores_each_photo_against_itself(generator, part):
    measures, found = evaluation.held_out_inversion(
        generator, part.held_photos, part.held_cameras, config=SHORT
    )
    with torch.no_grad():
        views = evaluation.render(generator, found.ws, part.held_cameras)
    truth = torch.nn.functional.interpolate(
        part.held_photos, (128, 128), mode="bilinear", antialias=True, align_corners=False
    )
    assert measures["PSNR dB"] == pytest.approx(float(evaluation.psnr(views, truth).mean()), abs=1e-3)
    assert set(measures) == {"PSNR dB", "SSIM", "VIF"}


def test_the_split_is_the_same_every_time_and_keeps_every_photo():
    images, cameras = pictures(0, 12, 16), look_at(torch.linspace(-0.3, 0.3, 12), 0.0)
    masks = torch.zeros(12, 1, 16, 16)
    part = evaluation.split(images, cameras, masks, [f"{i}.jpg" for i in range(12)])
    assert list(part.held_names) == ["2.jpg", "7.jpg"]
    assert torch.equal(part.held_photos, images[[2, 7]])
    assert len(part.photos) == len(part.cameras) == len(part.masks) == 10
    with pytest.raises(ValueError, match="At least 5 usable photos"):
        evaluation.split(images[:4], cameras[:4])


@pytest.mark.slow
def test_all_protocols_for_both_models_make_one_table(generator, identity, part):
    results = evaluation.run_protocols(
        generator, identity, part, face_fixtures.models(), held_out=SHORT, samples=3, views=2, pairs=1
    )
    assert list(results) == ["pretrained", "personalized"]
    assert list(results["pretrained"]) == list(results["personalized"])
    for name in ("held-out inversion: PSNR dB", "alpha samples: diversity"):
        assert results["pretrained"][name] != results["personalized"][name]
    text = evaluation.protocol_table(results)
    assert "synthetic" not in text
    rows = evaluation.protocol_table(results, synthetic=True).splitlines()[2:]
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        assert all(cell == "-" or cell.endswith("(synthetic)") for cell in cells)


@pytest.mark.slow
def test_a_folder_of_photos_gives_the_tables_by_one_command(generator, demo, tmp_path, monkeypatch, capsys):
    from PIL import Image

    from my3dgen_core import __main__, save_generator

    folder = tmp_path / "me"
    folder.mkdir()
    for i, photo in enumerate(demo[0][:5]):
        pixels = ((photo + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((384, 384)).save(folder / f"{i}.png")
    save_generator(generator, tmp_path / "g.safetensors")
    monkeypatch.setattr("my3dgen_core.face.FaceModels.from_folder", lambda path: face_fixtures.models())
    monkeypatch.setattr(evaluation.command, "InversionConfig", lambda: SHORT)
    few = functools.partial(evaluation.run_protocols, views=1, samples=2, pairs=1)
    monkeypatch.setattr(evaluation.command, "run_protocols", few)
    arguments = ["evaluate", "--photos", str(folder), "--generator", str(tmp_path / "g.safetensors")]
    assert __main__.main(arguments) == 2
    assert "--face-models" in capsys.readouterr().err
    arguments += ["--face-models", str(tmp_path), "--steps", "2", "--held-out-steps", "2"]
    assert __main__.main([*arguments, "--json", str(tmp_path / "told.json")]) == 0
    text = capsys.readouterr().out
    assert "| held-out inversion: PSNR dB |" in text
    assert "held out: 2.png" in text
    assert "synthetic" not in text
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["held_out"] == ["2.png"]
    assert set(told["measures"]) == set(photo_folder.MODELS)


def test_the_papers_figure_has_two_views_of_every_column_and_names_parameters():
    from my3dgen_core.evaluation.picture_table import MARGIN, paper_figure

    colors = {"target": -1.0, "pretrained": -0.5, "full": 0.0, "LoRA": 0.5}
    person = {name: torch.full((2, 3, 20, 20), value) for name, value in colors.items()}
    counts = {"full": 30_662_136, "LoRA": 240_030}
    image = paper_figure([person, person], ["one", "two"], counts, cell=64)
    without = paper_figure([person, person], ["one", "two"], {}, cell=64)
    assert image.dtype == np.uint8
    assert image.shape[1] == MARGIN + 8 * (64 + MARGIN)
    row = image[60, MARGIN + 32 :: 64 + MARGIN][:8, 0]
    assert row.tolist() == [0, 0, 64, 64, 128, 128, 191, 191]
    foot = image[-16:]
    dark = [bool((foot[:, x : x + 64] < 100).any()) for x in range(MARGIN, image.shape[1], 64 + MARGIN)]
    assert dark[:4] == [False] * 4
    assert dark[4]
    assert dark[6]
    assert not (without[-10:] < 100).any()
    with pytest.raises(ValueError, match="two needs two views of 'LoRA'"):
        paper_figure([person, {**person, "LoRA": person["LoRA"][:1]}], ["one", "two"], counts)
