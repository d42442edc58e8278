"""View coverage of a set of photos, as a message and as a picture."""

from __future__ import annotations

import numpy as np
import pytest

from my3dgen_core.face import FaceReport, coverage_plot, describe_coverage

BLUE = np.array([90, 170, 255])


def _report(*angles: tuple[float, float], kept: bool = True) -> list[FaceReport]:
    return [FaceReport(i, f"{i}", kept=kept, yaw=yaw, pitch=pitch) for i, (yaw, pitch) in enumerate(angles)]


def _dots(plot: np.ndarray) -> np.ndarray:
    """Rows and columns of the dots, above the histogram."""
    return np.argwhere((plot[: int(plot.shape[0] * 0.66)] == BLUE).all(2))


def test_the_message_counts_the_sides_and_names_the_missing_one() -> None:
    report = _report((-30, 0), (-20, 5), (0, 0), (5, 0), (11, 0), (40, 0))
    assert describe_coverage(report).startswith(
        "Views: 2 from the left, 3 from the front, 1 from the right. More photos from the right would help. "
    )
    enough = describe_coverage(_report((-30, 0), (-20, 5), (0, 0), (5, 0), (20, 0), (40, 0)))
    assert enough.startswith("Views: 2 from the left, 2 from the front, 2 from the right. Yaw")
    assert "left and the front and the right" in describe_coverage([])


def test_the_message_has_the_photos_by_yaw_and_the_side_without_a_far_one() -> None:
    message = describe_coverage(_report((-70, 0), (-19, 5), (0, 0), (5, 0), (19, 0), (18, 0)))
    assert message.endswith(
        "-60 to -40: 1, -40 to -20: 0, -20 to +0: 1, +0 to +20: 4, +20 to +40: 0, +40 to +60: 0. "
        "No photo from the right beyond 20 degrees."
    )
    assert describe_coverage(_report((0, 0))).endswith(
        "No photo from the left or the right beyond 20 degrees."
    )
    assert "beyond" not in describe_coverage(_report((-21, 0), (21, 0)))


def test_a_dot_lies_where_its_camera_stands() -> None:
    plot = coverage_plot(_report((-45, 20)))
    assert plot.shape == (288, 512, 3)
    assert plot.dtype == np.uint8
    row, column = _dots(plot).mean(0)
    assert column == pytest.approx(34 + 0.125 * (500 - 34), abs=2)
    assert row == pytest.approx(190 - (20 / 30 + 1) / 2 * 156, abs=2)
    mirrored = _dots(coverage_plot(_report((45, -20)))).mean(0)
    assert mirrored[1] > column
    assert mirrored[0] > row


def test_dropped_photos_are_not_drawn_and_far_ones_are_at_the_border() -> None:
    assert len(_dots(coverage_plot(_report((10, 0), kept=False)))) == 0
    assert len(_dots(coverage_plot([]))) == 0
    assert _dots(coverage_plot(_report((85, 80)))).mean(0)[1] == pytest.approx(500, abs=3)


def test_a_plot_too_small_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="160 x 120"):
        coverage_plot([], 100, 100)
