"""Batches of providers: no request is paid for twice, none is lost, and money is what was billed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models import Api, Batching, Completion, Decoding, LanguageModel, Request
from pipeline.models.base import Limits
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker
from pipeline.models.engines import batches as scheduler
from pipeline.models.http import rate_limit
from pipeline.models.journal.costs import costs
from pipeline.models.journal.journal import Journal
from tests.support.journals import max_answers
from tests.support.servers.batches import EAGER, BatchBehaviour, BatchServer, batching
from tests.support.servers.behaviours import refusing
from tests.support.teacher import teacher

PROVIDERS = ["openai", "anthropic"]
SHORT = Decoding(max_tokens=60)
NOW = Batching(wait=False, poll=0.01)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "FIRST_POLL", 0.002)
    monkeypatch.setattr(scheduler, "GRACE", timedelta(seconds=0.2))
    monkeypatch.setattr(rate_limit, "BACKOFF", 0.002)


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def questions(count: int, start: int = 0, **more: Any) -> list[Request]:
    decoding = Decoding(max_tokens=60, **more)
    numbers = range(start, start + count)
    return [Request((("user", f"Name the sea number {i}."),), decoding) for i in numbers]


def context(folder: Path, **limits: Any) -> tuple[Context, BudgetTracker]:
    ctx = Context.scratch(folder)
    tracker = BudgetTracker("the budget", BudgetLimit(**limits))
    ctx.budget = Budget([tracker], "recipe", "stage")
    return ctx, tracker


def model(server: BatchServer, batch: bool | Batching = EAGER, **more: Any) -> LanguageModel:
    api = more.pop("api", None) or Api(provider=server.provider)  # type: ignore[arg-type]
    return server.model(batch, api=api, **more)


def texts(answers: list[Completion]) -> list[str]:
    assert all(answer.error is None for answer in answers), answers
    return [answer.text for answer in answers]


def journal(ctx: Context) -> Journal:
    return Journal(ctx.store / "journal")


def check_paid(server: BatchServer, ctx: Context, tracker: BudgetTracker | None = None) -> None:
    """Nothing is under way, and what is counted is what was billed."""
    assert journal(ctx).batches.open() == []
    assert journal(ctx).batches._connection.execute("SELECT * FROM batch_requests").fetchall() == []
    entries = costs(journal(ctx))
    assert sum(entry["money"] for entry in entries) == pytest.approx(server.money, rel=0.01)
    assert all(entry["in_flight"] is None for entry in entries)
    if tracker is not None:
        assert tracker.spent.money == pytest.approx(server.money, rel=0.01)
        assert tracker.money == pytest.approx(server.money, rel=0.01), "nothing stays reserved"


def waits(ctx: Context, one: LanguageModel, requests: list[Request]) -> UserError:
    with pytest.raises(UserError) as error:
        ctx.open(one).generate(requests)
    assert error.value.code is Exit.WAITING, error.value
    return error.value


BEHAVIOURS = {
    "plain": BatchBehaviour(),
    "slow": BatchBehaviour(questions=6),
    "expired": BatchBehaviour(expires=0.5),
    "wholly expired": BatchBehaviour(expires=1.0),
    "broken": BatchBehaviour(broken=0.4),
    "missing": BatchBehaviour(missing=0.3),
    "garbage": BatchBehaviour(garbage=True),
    "duplicated": BatchBehaviour(duplicated=True),
    "spoiled": BatchBehaviour(spoiled=0.3),
    "down": BatchBehaviour(down=3),
    "a lost answer": BatchBehaviour(lost_answers=1),
    "a lost answer, listed late": BatchBehaviour(lost_answers=1, listed_after=3),
    "a lost request": BatchBehaviour(lost_requests=1),
    "all at once": BatchBehaviour(3, 0.2, 0.2, 0.1, None, 0.1, True, True, lost_answers=1, down=2),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_answers_and_money_are_those_of_single_requests(
    tmp_path: Path, provider: str, name: str
) -> None:
    asked = questions(40)
    with batching(teacher, provider=provider) as server:
        single, _ = context(tmp_path / "single")
        expected = texts(single.open(model(server, False)).generate(asked))
    with batching(teacher, BEHAVIOURS[name], provider=provider) as server:
        ctx, tracker = context(tmp_path / "batch")
        batch = Batching(poll=0.01, max_requests=15)
        assert texts(ctx.open(model(server, batch)).generate(asked)) == expected
        billed = sum(server.billed.values())
        if "spoiled" not in name and "once" not in name:
            assert billed == 40
        assert server.single_bill.money == 0
        check_paid(server, ctx, tracker)
        assert max_answers(journal(ctx)) == 1
        assert len(server.batches) >= 3
        assert texts(ctx.open(model(server, batch)).generate(asked)) == expected
        assert sum(server.billed.values()) == billed, "the journal answers"
