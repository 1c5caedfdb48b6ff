"""What every stage that asks says beforehand, held against what it then asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.models.expected_requests import CHARACTERS, TEMPLATE
from tests.support.cases import CASES, NAMES, Case
from tests.support.scripted import Scripted, scripted
from tests.support.teacher import teacher

FACTOR = 1.5
"""What the number of requests and the length of prompts may be off by, either way."""
AT_MOST = 3
"""How far above the truth the longest answers may lie, where limits are near what is said."""


def prompts(engine: Scripted) -> list[int]:
    """Characters of every prompt."""
    requests = [request for call in engine.asked for request in call]
    return [
        len(r.prompt) if isinstance(r.prompt, str) else sum(len(text) for _, text in r.prompt)
        for r in requests
    ]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_an_estimate_is_there_before_the_first_run_and_near(
    case: Case, ctx: Context, tmp_path: Path
) -> None:
    asked = case.found.expected_requests(case.namespace(tmp_path), case.rows)
    assert asked is not None
    context = scripted(ctx, teacher)
    case.found.function(context, **case.edges, **case.all_options(tmp_path))
    sent = prompts(context.engine)
    number = sum(asking.requests for asking in asked)
    assert 1 / FACTOR < number / len(sent) < FACTOR
    used = sum(TEMPLATE + length / CHARACTERS for length in sent)
    bare = [a.requests * (TEMPLATE + (a.prompt or 0) / CHARACTERS) for a in asked]
    shown = [a.requests * sum(a.shown) for a in asked]
    assert sum(bare) / FACTOR < used < (sum(bare) + sum(shown)) * FACTOR
    answers = [said for call in context.engine.said for said in call]
    used += sum(len(text) / CHARACTERS for text in answers)
    most = sum(bare) + sum(shown) + sum(a.requests * a.answer for a in asked)
    assert used / FACTOR < most < used * AT_MOST


@pytest.mark.parametrize("case", [c for c in CASES if c.edges], ids=lambda c: c.stage + c.method)
def test_what_depends_on_rows_that_are_not_there_is_not_known(case: Case, tmp_path: Path) -> None:
    """A number of requests that the options say is known all the same."""
    asked = case.found.expected_requests(case.namespace(tmp_path), lambda _: None)
    assert asked is None or all(asking.prompt is None for asking in asked)
