"""Names in pictures are drawn by a font that has their characters, or stand as a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from my3dgen_core.common import drawn_text
from my3dgen_core.common.drawn_text import drawable, font_for
from my3dgen_core.face import FaceReport, contact_sheet


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_text, "_SYSTEM_FONTS", ())


@pytest.mark.usefixtures("no_system_fonts")
def test_without_a_font_for_it_a_name_loses_its_accents_or_becomes_a_number() -> None:
    assert drawable("me 2.jpg", "photo 1") == "me 2.jpg"
    assert drawable("Müller é.jpg", "photo 1") == "Muller e.jpg"
    assert drawable("Анна.jpg", "photo 1") == "photo 1"
    assert font_for("Анна.jpg") is None


def test_a_font_with_all_characters_draws_the_name_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def has(font: object, text: str) -> bool:
        asked.append(text)
        return len(asked) == 2

    monkeypatch.setattr(drawn_text, "_has", has)
    assert drawable("安娜.jpg", "photo 1") == "安娜.jpg"
    assert asked == ["安娜.jpg"] * 2


@pytest.mark.usefixtures("no_system_fonts")
def test_the_contact_sheet_shows_numbers_for_names_that_no_font_has() -> None:
    def sheet(first: str, second: str) -> np.ndarray:
        reason = f"Nearly the same picture as {first}."
        rows = [FaceReport(0, first), FaceReport(1, second, reason=reason)]
        return contact_sheet(rows, torch.zeros(0, 3, 512, 512))

    assert (sheet("安娜.jpg", "Анна.jpg") == sheet("photo 1", "photo 2")).all()
    assert (sheet("安娜.jpg", "Анна.jpg") != sheet("photo 1", "photo 3")).any()
