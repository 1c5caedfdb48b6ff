"""Stages that ask in a provider's batches give the rows of those that ask one by one.

In waves, with fallbacks and answers that are sampled anew; as one run, and as many that do not
wait.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models import Api, Batching, LanguageModel
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker
from pipeline.models.engines import batches
from pipeline.models.journal.journal import Journal
from tests.stages._llm.test_servers import as_text, check_accounts, kept
from tests.support.cases import CASES, MODEL, MORE_CASES, Case, few_rows
from tests.support.scripted import Answer
from tests.support.servers.batches import EAGER, BatchBehaviour, BatchServer, batching
from tests.support.teacher import teacher

CHOSEN = (
    ("generate.respond", ""), ("score.judge", "rating"), ("score.judge", "pairwise"),
    ("generate.self_instruct", "self-instruct"), ("generate.pairs", "spar"),
    ("rewrite.evolve", "wizardlm"), ("score.agreement", "confidence"),
)  # fmt: skip
MOST_RUNS = 60


def first(stage: str, method: str) -> Case:
    cases = [case for case in (*CASES, *MORE_CASES) if case.stage == stage]
    return next((case for case in cases if case.method == method), cases[0])


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FIRST_POLL", 0.002)


def run(case: Case, ctx: Context, folder: Path, model: LanguageModel) -> pl.DataFrame:
    """The rows of a stage, with the model in the place of all."""
    options = case.all_options(folder)
    for option, value in options.items():
        if isinstance(value, tuple) and MODEL in value:
            options[option] = (model,)
        elif value == MODEL:
            options[option] = model
    options |= {"max_requests": 3} if "max_requests" in options else {}
    return pl.DataFrame(case.resolved.function(ctx, **few_rows(case), **options))


def budgeted(folder: Path) -> tuple[Context, BudgetTracker]:
    ctx, tracker = Context.scratch(folder), BudgetTracker("the budget", BudgetLimit())
    ctx.budget = Budget([tracker], "recipe", "stage")
    return ctx, tracker


class Waiting(Exception):
    """A run ended with exit code 6."""


def one_run(case: Case, folder: Path, model: LanguageModel) -> pl.DataFrame:
    try:
        return run(case, budgeted(folder)[0], folder, model)
    except UserError as error:
        raise (Waiting if error.code is Exit.WAITING else error) from None


def until_done(case: Case, folder: Path, model: LanguageModel) -> pl.DataFrame:
    """The rows, by as many runs as it takes."""
    for _ in range(MOST_RUNS):
        with suppress(Waiting):
            return one_run(case, folder, model)
    raise AssertionError("it never ends")


def flaky(text: str) -> Answer:
    """The teacher, who refuses some and is unreadable for others."""
    number = sum(map(ord, text)) % 7
    if number == 0:
        return "I'm sorry, but I can't help with that.", "stop"
    return ("}{ %%", "stop") if number == 1 else teacher(text)


def second(server: BatchServer, batch: bool | Batching) -> LanguageModel:
    """A model with a fallback."""
    fallback = server.model(batch, id="second", resample=0)
    return server.model(batch, fallback=fallback, resample=1)


@pytest.mark.parametrize(("stage", "method"), CHOSEN)
def test_rows_are_those_of_single_requests(tmp_path: Path, stage: str, method: str) -> None:
    case = first(stage, method)
    behaviour = BatchBehaviour(expires=0.2, broken=0.1, missing=0.1, duplicated=True)
    with batching(flaky, behaviour) as server:
        single = run(case, budgeted(tmp_path / "single")[0], tmp_path, second(server, False))
        check_accounts(case, single)
        assert len(kept(single)) < len(single) or len(kept(single))
        money = server.money
        ctx, tracker = budgeted(tmp_path / "batch")
        rows = run(case, ctx, tmp_path, second(server, EAGER))
        assert as_text(rows) == as_text(single)
        assert tracker.spent.money == pytest.approx(server.money - money, rel=0.01)
        assert tracker.spent.money == pytest.approx(money / 2, rel=0.01)
        assert Journal(ctx.store / "journal").batches.open() == []
        billed = server.billed.total()
        rows = until_done(case, tmp_path / "runs", second(server, Batching(wait=False)))
        assert as_text(rows) == as_text(single)
        assert server.billed.total() - billed == billed // 2, "nothing is paid for twice"


@pytest.mark.parametrize(("stage", "method"), CHOSEN[:2])
def test_anthropic(tmp_path: Path, stage: str, method: str) -> None:
    case, api = first(stage, method), Api(provider="anthropic", omit=("logprobs",))
    with batching(teacher, BatchBehaviour(expires=0.3), provider="anthropic") as server:
        single = run(case, budgeted(tmp_path / "single")[0], tmp_path, server.model(False, api=api))
        ctx, tracker = budgeted(tmp_path / "batch")
        rows = run(case, ctx, tmp_path, server.model(EAGER, api=api))
        assert as_text(rows) == as_text(single)
        assert tracker.spent.money == pytest.approx(server.batch_bill.money / 2, rel=0.01)
