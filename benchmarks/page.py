"""Insertion of a benchmark's results into a Markdown page, between two named marks."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place for {name!r}: put {begin} and {end} where it belongs.")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")
