"""The notebook of the documentation runs, and shows what it says that it shows."""

from __future__ import annotations

import nbformat

from tests.support.notebooks import NOTEBOOK, executed, html_of


def test_the_notebook_runs_and_its_outputs_are_those_of_today() -> None:
    written, now = nbformat.read(NOTEBOOK, as_version=4), executed()
    assert len(written.cells) == len(now.cells)
    for before, after in zip(written.cells, now.cells, strict=True):
        again = "run: python -m tests.support.notebooks"
        assert html_of(before) == html_of(after), f"{before.source[:60]!r} changed; {again}"
    texts = [str(cell.get("outputs", "")) for cell in now.cells]
    assert any("near_duplicate" in text and "grid-template-columns" in text for text in texts)
    assert any("Dataset of 200 rows" in text for text in texts)
    assert "error: the recipe has no stage 'chosne'" in texts[-1]
    assert "Traceback" not in texts[-1]
