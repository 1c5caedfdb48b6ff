"""Requests that are counted without sending any, held against those that a stage then sends."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import tables
from pipeline.cli.tables import plan_table, plan_totals
from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.estimate import counting_notes, estimate_steps, total
from pipeline.execution.plan import plan
from pipeline.models import Embedder, LanguageModel
from pipeline.models.budget import BudgetLimit
from pipeline.models.counting import (
    CHARACTERS_PER_TOKEN,
    TEMPLATE_TOKENS,
    CountingEncoder,
    CountingEngine,
    counting,
    is_counting,
)
from pipeline.models.engines.registry import close_engines
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from pipeline.store.store import Store
from tests.support.cases import CASES, NAMES, Case
from tests.support.running import artifact, pool, run
from tests.support.scripted import Scripted, scripted
from tests.support.serving import NAME, FakeServer, listening
from tests.support.teacher import teacher

FACTOR = 1.6
"""What the tokens of prompts may be off by, either way: earlier answers stand in some."""
AT_MOST = 3
"""How far above the truth the longest answers may lie, where limits are near what is said."""


TINYLM = str(ROOT / "data/models/tinylm")
SEEDS = {
    "path": str(ROOT / "data/seeds/self_instruct_seed_tasks.jsonl"),
    "source": "seeds",
    "license": "Apache-2.0",
}
BOUNDED = {"model": "m", "num_rows": 20, "max_requests": 30, "requests_per_round": 5}


class Counted(Context):
    """A context whose models only count."""

    engine: CountingEngine

    def open(self, model: LanguageModel | Embedder) -> Any:
        return self.engine if isinstance(model, LanguageModel) else CountingEncoder()


def prompt_lengths(engine: Scripted) -> list[int]:
    """Characters of every prompt."""
    requests = [request for call in engine.calls for request in call]
    return [
        len(r.prompt) if isinstance(r.prompt, str) else sum(len(text) for _, text in r.prompt)
        for r in requests
    ]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_way_of_asking_is_counted_to_the_request(
    case: Case, ctx: Context, tmp_path: Path
) -> None:
    context = Counted(ctx.files, ctx.work, ctx.store)
    context.engine = CountingEngine(LanguageModel(model="any"))
    with counting():
        case.resolved.function(context, **case.edges, **case.all_options(tmp_path))
    assert not is_counting()
    count = context.engine.count
    sent = scripted(ctx, teacher)
    case.resolved.function(sent, **case.edges, **case.all_options(tmp_path))
    lengths = prompt_lengths(sent.engine)
    assert count.requests == len(lengths)
    prompts = sum(TEMPLATE_TOKENS + length / CHARACTERS_PER_TOKEN for length in lengths)
    assert prompts / FACTOR < count.prompt_tokens < prompts * FACTOR
    answers = sum(len(text) for call in sent.engine.answers for text in call) / CHARACTERS_PER_TOKEN
    assert (prompts + answers) / FACTOR < count.prompt_tokens + count.answer_tokens
    assert count.prompt_tokens + count.answer_tokens < (prompts + answers) * AT_MOST


def test_requests_that_only_the_options_decide_are_known_before_the_rows(tmp_path: Path) -> None:
    stages = {
        "seeds": {"uses": "load.records", "with": SEEDS},
        "new": {"uses": "generate.self_instruct", "needs": {"seeds": "seeds"}, "with": BOUNDED},
        "evolved": {"uses": "rewrite.evolve", "needs": {"rows": "new"}, "with": {"model": "m"}},
    }
    recipe = Recipe.of("counted", stages, {"m": {"engine": "transformers", "model": TINYLM}})
    store = Store(tmp_path)
    estimates = estimate_steps(recipe, store, plan(recipe, store))
    new, evolved = estimates["new"], estimates["evolved"]
    assert new.expected.requests, "as many as its options say, whatever the seeds are"
    assert new.expected.tokens, "and about as long"
    all_sent = new.expected.requests + BOUNDED["max_requests"]
    assert new.at_most.requests == 3 * all_sent, "each may be sampled anew twice"
    assert evolved.at_most.rows == BOUNDED["num_rows"]
    assert evolved.at_most.requests, "as many as there will be rows at most"
    assert evolved.all_kept


@pytest.mark.parametrize(("rows", "bound", "requests"), [(9000, None, 9000), (9000, 30, 30)])
def test_of_many_rows_a_sample_is_counted_and_scaled(
    rows: int, bound: int | None, requests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.execution.count_requests.SAMPLE", 100)
    pool(tmp_path / "rows.txt", rows)
    options = {"model": "m"} | ({"most": bound} if bound else {})
    asking = "tests.support.asking.respond" if bound is None else "tests.support.asking.some"
    stages = {
        "a": {"uses": "tests.support.toys.load", "with": {"path": str(tmp_path / "rows.txt")}},
        "b": {
            "uses": asking,
            "needs": "a",
            "with": options,
        },
    }
    recipe = Recipe.of("counted", stages, {"m": {"engine": "transformers", "model": TINYLM}})
    run(recipe, tmp_path / "store", "a")
    store = Store(tmp_path / "store")
    assert estimate_steps(recipe, store, plan(recipe, store))["b"].expected.requests == requests


SLOW = """\
import time
import polars as pl
from pipeline.models import Decoding, LanguageModel, Request
from pipeline.context import Context
from pipeline.stage import Records, stage


@stage(version=1, scope="set", reads=["messages"], adds={{"n": pl.Int32}})
def slow(ctx: Context, rows: Records, *, model: LanguageModel) -> pl.DataFrame:
    for _ in range(len(rows)):
        try:
            time.sleep({seconds})
        except Exception:
            pass  # as a stage that goes on whatever happens
    ctx.open(model).generate([Request("Why?")] * len(rows))
    return rows.select(pl.lit(1, pl.Int32).alias("n"))
"""


@pytest.mark.parametrize(("seconds", "requests"), [(0.001, 1200), (0.5, None)])
def test_a_slow_stage_of_the_users_own_does_not_hold_up_a_plan(
    seconds: float,
    requests: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pipeline.execution.count_requests.MAX_SECONDS", 0.6)
    module = f"slow_stage_{requests}"
    (tmp_path / f"{module}.py").write_text(SLOW.format(seconds=seconds))
    monkeypatch.syspath_prepend(tmp_path)
    pool(tmp_path / "rows.txt", 1200)
    stages = {
        "a": {"uses": "tests.support.toys.load", "with": {"path": str(tmp_path / "rows.txt")}},
        "b": {"uses": module, "needs": "a", "with": {"model": "m"}},
    }
    recipe = Recipe.of("counted", stages, {"m": {"engine": "transformers", "model": TINYLM}})
    run(recipe, tmp_path / "store", "a")
    store = Store(tmp_path / "store")
    steps = plan(recipe, store)
    (note,) = counting_notes(steps)
    assert note.startswith(f"b ({module}) is run on some rows to count its requests")
    start = time.monotonic()
    assert estimate_steps(recipe, store, steps)["b"].expected.requests == requests
    assert time.monotonic() - start < 10
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings[0].startswith("b takes more than 0.6 s to count")
    assert len(warnings) == (1 if requests else 2)


def test_a_plan_of_a_large_generator_takes_seconds(tmp_path: Path) -> None:
    """Twenty thousand tasks are estimated from fewer; a prompt is not rendered for each."""
    recipe, store = Recipe.load("self-instruct"), Store(tmp_path)
    start = time.process_time()
    estimate = estimate_steps(recipe, store, plan(recipe, store))["invented"]
    assert 40_000 <= (estimate.expected.requests or 0) <= 50_000, (
        "2 for each of 20,000 tasks, and rounds"
    )
    assert time.process_time() - start < 20


def judged(folder: Path, port: int, answers: int = 2) -> Recipe:
    """A pool of 30 rows, answers to them, a filter, and a judge of what it lets through."""
    pool(folder / "rows.txt", 30)
    model = {"engine": "openai", "model": NAME, "base_url": f"http://127.0.0.1:{port}/v1"}
    respond = {"models": ["m"], "num_answers": answers, "max_tokens": 24}
    stages = {
        "a": {"uses": "tests.support.toys.load", "with": {"path": str(folder / "rows.txt")}},
        "answered": {"uses": "generate.respond", "needs": {"rows": "a"}, "with": respond},
        "measured": {"uses": "score.heuristics", "needs": "answered"},
        "judged": {"uses": "score.judge", "needs": "measured",
                   "with": {"model": "m", "method": {"name": "rating"}}},
    }  # fmt: skip
    return Recipe.of("judged", stages, {"m": model})


def test_a_judge_behind_a_generator_that_has_not_run_is_bounded(tmp_path: Path) -> None:
    recipe, store = judged(tmp_path, 9), Store(tmp_path / "store")
    estimates = estimate_steps(recipe, store, plan(recipe, store))
    assert estimates["judged"].unknown, "nobody has counted the rows yet"
    assert total(list(estimates.values())).at_most.requests is None
    run(recipe, tmp_path / "store", "a")
    estimates = estimate_steps(recipe, store, plan(recipe, store))
    assert estimates["answered"].expected.requests == 60
    for name in ("measured", "judged"):
        assert (estimates[name].at_most.rows, estimates[name].all_kept) == (60, True)
    most = estimates["judged"].at_most.requests or 0
    assert 60 <= most <= 4 * 60, "each may be repaired, and sampled anew twice"
    assert (estimates["judged"].at_most.tokens or 0) > (estimates["answered"].at_most.tokens or 0)
    answered = estimates["answered"].at_most.requests or 0
    assert total(list(estimates.values())).at_most.requests == answered + most
    shown = plan_table(tables.estimates(plan(recipe, store), estimates), plan_totals(estimates))
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert f"<= {most} " in lines["judged"]
    assert f"<= {answered} " in lines["answered"], "what adds to a bound is one"
    assert f"<= {answered + most} " in lines["total"]


@pytest.mark.proof
@pytest.mark.parametrize("stop", [1, 17, 59])
def test_a_resumed_run_counts_what_the_journal_has(tmp_path: Path, stop: int) -> None:
    with listening(FakeServer()) as port:
        recipe = judged(tmp_path, port)
        limited = replace(recipe, budget=BudgetLimit(requests=stop))
        with pytest.raises(UserError, match="budget"):
            run(limited, tmp_path / "store")
        store = Store(tmp_path / "store")
        estimates = estimate_steps(recipe, store, plan(recipe, store))
        assert (estimates["answered"].journal, estimates["answered"].expected.requests) == (
            stop, 60 - stop,
        )  # fmt: skip
        assert (estimates["judged"].at_most.requests or 0) <= 4 * 60
        run(recipe, tmp_path / "store", "answered")
        again = estimate_steps(recipe, store, plan(recipe, store))
        kept = artifact(recipe, tmp_path / "store", "answered").kept
        assert again["measured"].at_most.rows == kept
    close_engines()
