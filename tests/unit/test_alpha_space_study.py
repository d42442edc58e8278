"""The benchmark of what lives in a person: its measures, and a report that cannot flatter."""

import re

import pytest
import torch

from studies.alpha_space.measures import (
    hidden_error,
    hidden_part,
    nearest_smiles,
    own_drop,
    pairwise,
    smile_claim,
)
from studies.alpha_space.pictures import Shelf
from studies.alpha_space.report import INTRODUCTION, SMILES, SMILING, claims, write_report

STEPS = torch.linspace(-2, 2, 5)


def test_a_smile_is_judged_over_the_range_of_the_photos_alone():
    smiles, cosines = torch.tensor([0.6, 0.7, 0.8, 0.9, 1.0]), [0.5, 0.78, 0.8, 0.79, 0.4]
    inside = smile_claim(STEPS, smiles, cosines, torch.tensor([0.72, 0.88]))
    assert inside["drop"] == pytest.approx(0.016)  # at .72, four fifths of the way from .8 to .7
    assert inside["covered"] == 1
    assert inside["rising"] == 1
    wide = smile_claim(STEPS, smiles, cosines, torch.tensor([0.6, 1.2]))
    assert wide["drop"] == pytest.approx(0.4)
    assert wide["covered"] == pytest.approx(0.4 / 0.6)


def test_the_photos_own_fall_is_that_of_their_most_and_least_smiling():
    smiles = torch.tensor([0.9, 0.5, 0.7, 0.6, 0.8, 1.0, 1.1, 0.4, 1.2, 1.3])
    cosines = torch.where(smiles > 1.15, 0.7, torch.where(smiles < 0.55, 0.75, 0.8))
    found = own_drop(smiles, cosines)
    assert found["fifths"] == pytest.approx([0.75, 0.8, 0.7])
    assert found["drop"] == pytest.approx(0.1)
    assert own_drop(smiles[:2], cosines[:2])["drop"] is None


def test_a_sweep_that_passes_by_the_photos_smiles_covers_nothing():
    found = smile_claim(STEPS, torch.full((5,), 0.8) + 0.001 * STEPS, [0.8] * 5, torch.tensor([0.9, 1.0]))
    assert found["covered"] == 0
    assert smile_claim(STEPS, torch.full((5,), torch.nan), [0.8] * 5, torch.tensor([0.9]))["drop"] is None


def test_the_steps_shown_lead_from_the_least_smile_to_the_most():
    smiles = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, torch.nan, 1.1])
    shown = nearest_smiles(torch.linspace(-3, 3, 7), smiles, torch.tensor([0.58, 1.3]))
    assert shown[0] == 1
    assert shown[3] == 3
    assert shown[-1] == 6
    assert shown == sorted(shown)


def test_so_much_is_hidden_as_was_said_and_diversity_is_that_of_pairs():
    masks = hidden_part(torch.zeros(2, 3, 128, 128), 0.4)
    assert float(masks.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(masks[:, :, 64, 64].min()) == 1
    same = torch.zeros(3, 3, 32, 32)
    assert pairwise(same) == 0
    same[2] = 0.5
    assert pairwise(same) > 0.1
    assert pairwise(same[:1]) is None


def test_only_what_was_hidden_counts_as_filled_in():
    photos = torch.zeros(1, 3, 64, 64)
    masks = hidden_part(photos, 0.25)
    wrong = torch.ones(1, 3, 64, 64) * (1 - masks)
    assert hidden_error(wrong, photos, masks) == pytest.approx(100)
    assert hidden_error(0.2 * masks, photos, masks) == pytest.approx(20)


def row(person, better):
    """A person of whom everything is a little better, or a little worse, in the personal generator."""
    shift = 0.1 if better else -0.1
    names = [f"{model}, {space}" for model in ("pretrained", "personal") for space in ("W", "alpha P+")]
    near = {
        name: {key: 0.5 + shift * name.startswith("personal") for key in ("identity", "PSNR dB", "SSIM")}
        | {"PSNR of the hidden part, dB": 0.5 + shift * name.startswith("personal")}
        for name in names
    }
    models = {}
    for model in ("pretrained", "personal"):
        good = 0.5 + shift * (model == "personal")
        sweep = {"drop": 0.01 if better else 0.2, "covered": 1.0, "rising": 1.0}
        models[model] = {
            "samples": {"identity": good, "diversity, pose-free": good},
            "interpolation": {"identity": good},
            "smile": dict.fromkeys(SMILES, sweep),
            "edits": {"within": good},
        }
    settings = {"photos": 3, "tuning_steps": 2, "samples": 4, "poses": 2, "pairs": 1, "way": 3}
    settings |= {"hidden": 0.4, "finder": {"samples": 48}}
    told = {"person": person, "stamp": "a", "settings": settings, "seconds": 60.0, "device": "cpu"}
    told |= {"origin": f"LoRA r={2 - better}, 3 photos", "training seconds": 120.0}
    return told | models | {"held-out photos": near, "hidden": near}


def test_a_claim_holds_only_if_it_holds_for_every_person(tmp_path):
    assert {answer for _, answer, _ in claims([row(1, True), row(2, True)])} == {"yes"}
    assert {answer for _, answer, _ in claims([row(1, False)])} == {"no"}
    mixed = {answer for _, answer, _ in claims([row(1, True), row(2, False)])}
    assert mixed == {"1 of 2 persons"}
    shelf = Shelf(tmp_path / "pictures", 1)
    shelf.keep("hidden", photo=torch.zeros(2, 3, 16, 16), hidden=torch.ones(2, 3, 16, 16))
    shelf.write()
    rows = [row(1, True), row(2, False), row(2, True)]
    text = write_report(rows, tmp_path / "living.md", tmp_path / "pictures")
    assert (tmp_path / "living.md").read_text() == text
    assert "2 persons" in text  # the later line of the same person counts
    assert "| yes |" in text
    assert "1 of 2" not in text
    assert "identities: LoRA r=1, 3 photos." in text
    assert "](hidden.jpg)" in text
    assert (tmp_path / "hidden.jpg").is_file()
    assert "](samples.jpg)" not in text
    mixed_up = write_report(rows[:2], tmp_path / "living.md", tmp_path)
    assert "LoRA r=1, 3 photos: 1; LoRA r=2, 3 photos: 2" in mixed_up
    with pytest.raises(ValueError, match="nothing to report"):
        write_report([], tmp_path / "none.md", tmp_path)


def test_the_committed_page_is_what_the_program_writes(root):
    """Its rows are not committed: the numbers cannot be computed again, words and pictures can be held."""
    folder = root / "studies" / "alpha_space"
    page = (folder / "README.md").read_text(encoding="utf-8")
    introduction = INTRODUCTION.format(
        persons="6 persons",
        who="100, 101, 102, 103, 104, 105",
        photos=50,
        origins="LoRA r=1, 50 photos, 800 steps",
        minutes=7.4,
        training="",
    )
    assert page.startswith(introduction)
    assert SMILING.format(heads=600) in page
    assert page.endswith((folder / "notes.md").read_text(encoding="utf-8"))
    pictures = re.findall(r"\]\((\w+\.jpg)\)", page)
    assert len(pictures) == 5
    assert all((folder / name).is_file() for name in pictures)
