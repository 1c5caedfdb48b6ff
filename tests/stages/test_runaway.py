"""A model that runs away fills its answer with one thing up to the limit: that is read at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.context import Context
from tests.stages.test_nothing_usable import WRITING
from tests.support.cases import Case
from tests.support.scripted import scripted
from tests.support.teacher import saying

LONG = 30_000
RUNS = ("\n", "\n ", " ", "* ", "**", "\t", "#", "```\n", "[", "{", "1")
SECONDS = 4.0
"""For one answer; patterns that try every beginning against every end take minutes for one."""


@pytest.mark.parametrize("case", WRITING)
def test_a_runaway_answer_is_read_in_no_time(case: Case, ctx: Context, tmp_path: Path) -> None:
    text = "\n".join(run * (LONG // len(run)) for run in RUNS)
    context = scripted(ctx, saying((text, "stop")))
    options = case.all_options(tmp_path)
    options |= {"max_requests": 1} if "max_requests" in options else {}
    began = time.process_time()
    made = case.found.function(context, **case.edges, **options)
    asked = sum(len(requests) for requests in context.engine.asked)
    assert len(made)
    assert time.process_time() - began < SECONDS * max(1, asked)
