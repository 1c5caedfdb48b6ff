"""What is said of one request, and of a page of some kilobytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipeline.models.budget import Budget
from pipeline.models.journal.journal import Journal, JournalEntry
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


def test_tokens_of_which_no_answer_says_anything_are_unknown(tmp_path: Path) -> None:
    request = '{"model":{"weights":{"id":"m"}}}'
    entry = JournalEntry("0" * 32, request, {"text": "Yes", "finish_reason": "stop"})
    Journal(tmp_path / "journal").put_many([entry])
    done = call("journal", "stats", "--store", str(tmp_path))
    assert re.search(r"m +1 +unknown +unknown +0 +0", done.stdout), done
    assert "\n1 request, " in done.stdout
    (model,) = json.loads(call("journal", "stats", "--json", "--store", str(tmp_path)).stdout)[
        "models"
    ]
    assert model["prompt_tokens"] is None
