"""What is said of one request, and of a page of some kilobytes."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.models.budget import Budget
from tests.support.cli import call

RECIPE = "name: one\nstages:\n  a: {uses: tests.support.toys.load, with: {path: rows.txt}}\n"


def test_one_request_is_left() -> None:
    assert Budget([]).exhausted(1).why == "1 request is left"
    assert Budget([]).exhausted(1200).why == "1,200 requests are left"


def test_a_small_page_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("Why?\tSo.\n")
    (tmp_path / "one.yaml").write_text(RECIPE)
    store = ("--store", str(tmp_path / "store"))
    assert call("run", str(tmp_path / "one.yaml"), *store).code == 0
    done = call("report", str(tmp_path / "one.yaml"), *store, "-o", str(tmp_path / "page.html"))
    assert re.search(r"\([0-9.]+ kB\): open it in a browser", done.stdout), done
