"""The comparison table: every picture is in its place, with the measure of its own target."""

import pytest
import torch

from my3dgen_core.evaluation import Comparison, comparison, picture_table


def made(models=2, latents=3, cameras=2, **more):
    """Pictures whose gray tells where they belong."""
    gray = torch.arange(models * latents * cameras, dtype=torch.float32).view(models, latents, cameras)
    pictures = (gray / gray.numel() * 2 - 1)[..., None, None, None].expand(-1, -1, -1, 3, 32, 32)
    labels = {
        "models": [f"m{i}" for i in range(models)],
        "latents": [f"l{i}" for i in range(latents)],
        "cameras": [f"c{i}" for i in range(cameras)],
    }
    return Comparison(pictures, labels, **more)


@pytest.fixture
def drawn(monkeypatch):
    """Record of what is drawn: titles, texts, and the gray of every picture."""
    calls = []

    def sheet(columns, labels, rows, cell):
        calls.append(
            (list(columns), list(labels), [[round(float(p.mean()), 3) for p in row] for row in rows])
        )
        return picture_table.sheet(columns, labels, rows, cell)

    monkeypatch.setattr(comparison, "sheet", sheet)
    return calls


@pytest.mark.parametrize(
    "rows", [("models",), ("latents",), ("cameras",), ("models", "latents"), ("latents", "cameras")]
)
def test_every_picture_stands_where_its_names_say(drawn, rows):
    table = made()
    assert table.draw(rows, cell=32).dtype == "uint8"
    ((titles, texts, pictures),) = drawn
    for text, row in zip(texts, pictures, strict=True):
        for title, gray in zip(titles, row, strict=True):
            names = f"{text}, {title.splitlines()[0]}"
            place = [int(names[names.index(letter) + 1]) for letter in "mlc"]
            assert gray == pytest.approx(float(table.pictures[tuple(place)].mean()), abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "rows"), [((1, 50, 1), ("latents",)), ((1, 1, 50), ("latents",)), ((1, 400, 1), ("latents",))]
)
def test_a_table_of_many_pictures_is_no_larger_than_programs_open(shape, rows):
    drawn = made(*shape).draw(rows, cell=1024)
    assert 7000 < max(drawn.shape) <= 8192


def test_scores_are_of_the_photo_that_belongs_to_each_latent(drawn):
    table = made(2, 3, 1)
    photos = table.pictures[0, :, 0]
    scored = Comparison(table.pictures, table.labels, photos).measured(None, None)
    assert scored.scores["PSNR"].shape == (2, 3, 1)
    assert float(scored.scores["PSNR"][0].min()) > 90
    assert float(scored.scores["PSNR"][1].max()) < 20
    lines = scored.table().splitlines()
    assert lines[0] == "| model | PSNR |"
    assert lines[2].startswith("| m0 | 100.00 dB")
    scored.draw(("latents",), 32)
    scored.draw(("models",), 32)
    (titles, _, beside), (_, texts, above) = drawn
    assert titles[0] == "photo"
    assert titles[1] == "m0\n100.00 dB"
    assert [row[0] == row[1] for row in beside] == [True] * 3
    assert texts[0] == "photo"
    assert above[0] == above[1]


def test_photos_may_belong_to_cameras():
    table = made(1, 1, 2)
    scored = Comparison(table.pictures, table.labels, table.pictures[0, 0], "cameras").measured(None, None)
    assert float(scored.scores["PSNR"].min()) > 90


def test_what_does_not_fit_is_refused_with_a_message():
    table = made()
    with pytest.raises(ValueError, match="There are 3 latents, but 2 labels"):
        Comparison(table.pictures, {**table.labels, "latents": ["a", "b"]})
    with pytest.raises(ValueError, match="There are 5 photos for 3 latents"):
        Comparison(table.pictures, table.labels, torch.zeros(5, 3, 8, 8))
    with pytest.raises(ValueError, match="Rows are one or two of"):
        table.draw(("models", "latents", "cameras"))
    with pytest.raises(ValueError, match="must have shape"):
        Comparison(table.pictures[0], table.labels)
