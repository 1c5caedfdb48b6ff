"""Batches of providers: no request is paid for twice or lost, and money is what was billed."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models import Api, Batching, Completion, Decoding, LanguageModel, Request
from pipeline.models.api import Limits
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker
from pipeline.models.engines import batch_results
from pipeline.models.engines import batches as scheduler
from pipeline.models.engines.registry import close_engines
from pipeline.models.http import client as http_client
from pipeline.models.http import rate_limit
from pipeline.models.journal.batches import Batches
from pipeline.models.journal.costs import costs
from pipeline.models.journal.journal import Journal
from pipeline.models.validation import mistakes
from tests.support.journals import max_answers
from tests.support.servers.batches import EAGER, BatchBehaviour, BatchServer, batching
from tests.support.servers.behaviours import refusing
from tests.support.serving import error_response, listening
from tests.support.teacher import teacher

PROVIDERS = ["openai", "anthropic"]
SHORT = Decoding(max_tokens=60)
NOW = Batching(wait=False, poll=0.01)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "FIRST_POLL", 0.002)
    monkeypatch.setattr(scheduler, "GRACE", timedelta(seconds=0.2))
    monkeypatch.setattr(rate_limit, "BACKOFF", 0.002)
    monkeypatch.setattr(batch_results, "PAUSE", 0.002)


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
    "cut": BatchBehaviour(cut=4),
    "another's page": BatchBehaviour(pages=5),
    "spoiled": BatchBehaviour(spoiled=0.3),
    "down": BatchBehaviour(down=3),
    "a lost answer": BatchBehaviour(lost_answers=1),
    "a lost answer, listed late": BatchBehaviour(lost_answers=1, listed_after=3),
    "a lost answer, another's page": BatchBehaviour(lost_answers=1, pages=60),
    "a lost answer, odd entries": BatchBehaviour(lost_answers=1, odd_entries=True),
    "unknown for a moment": BatchBehaviour(unknown=3),
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


# Runs that do not wait


def test_a_run_that_does_not_wait_says_what_it_waits_for(tmp_path: Path, provider: str) -> None:
    asked = questions(30)
    with batching(teacher, BatchBehaviour(questions=3), provider=provider) as server:
        ctx, _ = context(tmp_path)
        one = model(server, NOW)
        error = waits(ctx, one, asked)
        assert error.what == "waiting for batch batch_0"
        assert "0 of 30 answered, submitted 20" in str(error.why)
        assert "run again later" in str(error.hint)
        waits(ctx, one, asked)
        assert server.submissions == 1
        close_engines()
        later = 0
        while journal(ctx).batches.open():
            later += 1
            ctx, tracker = context(tmp_path)
            answers = asked_later(ctx, one, asked)
        assert later <= 3
        texts(answers)
        assert server.submissions == 1
        check_paid(server, ctx, tracker)


def asked_later(ctx: Context, one: LanguageModel, requests: list[Request]) -> list[Completion]:
    """The answers; none where the run still waits."""
    with suppress(UserError):
        return ctx.open(one).generate(requests)
    return []


def test_a_run_waits_as_long_as_it_is_allowed(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(questions=1000)) as server:
        ctx, _ = context(tmp_path)
        began = time.monotonic()
        waits(ctx, model(server, Batching(wait=0.3, poll=0.02)), questions(3))
        assert 0.3 <= time.monotonic() - began < 20
        assert server.submissions == 1


def test_an_answer_nobody_asks_for_any_more_is_kept_and_charged(tmp_path: Path) -> None:
    """The recipe has changed meanwhile: what was paid for is in the journal all the same."""
    with batching(teacher) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(10))
        texts(ctx.open(model(server)).generate(questions(10, start=5)))
        assert sum(server.billed.values()) == 15
        check_paid(server, ctx)
        texts(ctx.open(model(server)).generate(questions(5)))
        assert sum(server.billed.values()) == 15


def test_what_is_in_a_batch_is_sent_nowhere_else(tmp_path: Path) -> None:
    """Also where the model is asked one by one now, or at another address."""
    with batching(teacher, BatchBehaviour(questions=3)) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(10))
        single = model(server, False)
        waits(ctx, single, questions(12))
        elsewhere = replace(single, base_url="http://127.0.0.1:9/v1")
        with pytest.raises(UserError, match="until batch batch_0 has ended") as error:
            ctx.open(elsewhere).generate(questions(10))
        assert "journal batches --forget batch_0" in str(error.value.hint)
        for _ in range(2):
            answers = asked_later(ctx, single, questions(12))
        texts(answers)
        assert sum(server.billed.values()) == 12
        assert server.single_bill.money
        check_paid(server, ctx)


def test_a_batch_that_the_server_does_not_know_is_not_paid_for_again(tmp_path: Path) -> None:
    with batching(teacher) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(4))
        batch = server.batches.pop("batch_0")
        with pytest.raises(UserError, match="does not know batch batch_0") as error:
            ctx.open(model(server)).generate(questions(4))
        assert "--forget batch_0" in str(error.value.hint)
        server.batches["batch_0"] = batch
        texts(ctx.open(model(server)).generate(questions(4)))
        assert sum(server.billed.values()) == 4


def test_a_journal_that_fails_after_a_submission_forgets_nothing(
    tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise UserError("the request journal cannot be written")

    with batching(teacher, provider=provider) as server:
        ctx, _ = context(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Batches, "note_id", full)
            with pytest.raises(UserError, match="cannot be written"):
                ctx.open(model(server)).generate(questions(6))
        close_engines()
        ctx, tracker = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(6)))
        assert server.submissions == 1
        check_paid(server, ctx, tracker)


def test_a_slow_upload_is_no_part_of_the_grace(tmp_path: Path) -> None:
    behaviour = BatchBehaviour(upload_takes=0.4, lost_answers=1, listed_after=1)
    with batching(teacher, behaviour) as server:
        ctx, tracker = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(6)))
        assert server.submissions == 1
        check_paid(server, ctx, tracker)


def test_a_batch_of_an_earlier_run_that_is_listed_late(tmp_path: Path, provider: str) -> None:
    """How long ago it was begun says nothing: its upload may have taken that long."""
    with batching(teacher, BatchBehaviour(lost_answers=1), provider=provider) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(6))
        close_engines()
        time.sleep(0.3)
        (batch,) = server.batches.values()
        batch.hidden = 1
        ctx, tracker = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(6)))
        assert server.submissions == 1
        check_paid(server, ctx, tracker)


def test_a_submission_that_was_lost_is_given_up_in_time_by_runs_that_do_not_wait(
    tmp_path: Path,
) -> None:
    with batching(teacher, BatchBehaviour(lost_requests=1)) as server:
        ctx, _ = context(tmp_path)
        one = model(server, NOW, limits=Limits(timeout=1.0, patience=0.1))
        answers = list[Completion]()
        for _ in range(100):
            close_engines()
            ctx, _ = context(tmp_path)
            answers = answers or asked_later(ctx, one, questions(6))
            time.sleep(0.0 if answers else 0.05)
        texts(answers)
        assert server.submissions == 2
        check_paid(server, ctx)


def test_an_upload_that_is_not_answered_ends_the_run(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(nameless_uploads=1)) as server:
        ctx, tracker = context(tmp_path)
        with pytest.raises(UserError, match="cannot be uploaded") as error:
            ctx.open(model(server)).generate(questions(6))
        assert error.value.code is Exit.TRY_AGAIN
        check_paid(server, ctx, tracker)
        texts(ctx.open(model(server)).generate(questions(6)))
        check_paid(server, ctx, tracker)


def test_a_batch_that_is_unknown_from_run_to_run(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(unknown=2)) as server:
        ctx, _ = context(tmp_path)
        one = model(server, NOW)
        waits(ctx, one, questions(4))
        assert "it does not know batch batch_0" in str(waits(ctx, one, questions(4)).why)
        time.sleep(0.3)
        with pytest.raises(UserError, match="does not know batch batch_0"):
            ctx.open(one).generate(questions(4))
        texts(ctx.open(model(server)).generate(questions(4)))
        assert server.submissions == 1


def test_results_that_are_not_there_yet_are_awaited(tmp_path: Path, provider: str) -> None:
    behaviour = BatchBehaviour(questions=0, resultless=3)
    with batching(teacher, behaviour, provider=provider) as server:
        ctx, tracker = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(5)))
        assert server.behaviour.resultless == 0
        check_paid(server, ctx, tracker)


def test_results_that_stay_away_are_told_from_run_to_run(tmp_path: Path, provider: str) -> None:
    with batching(teacher, BatchBehaviour(questions=0), provider=provider) as server:
        ctx, _ = context(tmp_path)
        one = model(server, NOW)
        waits(ctx, one, questions(4))
        server.behaviour.resultless = 3
        for _ in range(2):
            why = str(waits(ctx, one, questions(4)).why)
            assert "it does not know the results of batch batch_0" in why
        time.sleep(0.3)
        with pytest.raises(UserError, match="does not know the results of batch batch_0"):
            ctx.open(one).generate(questions(4))
        texts(ctx.open(model(server)).generate(questions(4)))
        assert server.submissions == 1


async def _full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that takes nothing, and holds nothing of what it was sent."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    left = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
    while left and (part := await reader.read(min(left, 1 << 16))):
        left -= len(part)
    writer.write(error_response("503 Service Unavailable", "we are full"))
    await writer.drain()
    writer.close()


def test_what_is_submitted_is_never_whole_in_memory(tmp_path: Path, provider: str) -> None:
    """The requests themselves are, as their payloads; their batch is not beside them."""
    long, number = "x" * 200_000, 60
    asked = [Request((("user", f"{i} {long}"),), Decoding(max_tokens=8)) for i in range(number)]
    with listening(_full) as port:
        ctx, _ = context(tmp_path)
        limits, api = Limits(patience=0.01), Api(provider=provider)  # type: ignore[arg-type]
        url = f"http://127.0.0.1:{port}/v1"
        full = LanguageModel("m", "openai", base_url=url, limits=limits, api=api, batch=NOW)
        engine = ctx.open(full)
        tracemalloc.start()
        with pytest.raises(UserError) as error:
            engine.generate(asked)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert error.value.code in (Exit.TRY_AGAIN, Exit.WAITING)
    assert peak < 2.5 * number * len(long)


def test_a_list_that_does_not_go_on_proves_nothing(tmp_path: Path, provider: str) -> None:
    """The batch is on its third page, which this server never shows."""
    with batching(teacher, BatchBehaviour(lost_answers=1), provider=provider) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(6))
        other, _ = context(tmp_path / "other")
        texts(
            other.open(model(server, Batching(poll=0.01, max_requests=6))).generate(questions(30))
        )
        server.behaviour.unpaged = True
        error = waits(ctx, model(server, Batching(wait=0.5, poll=0.01)), questions(6))
        assert "does not go on" in str(error.why)
        server.behaviour.unpaged = False
        texts(ctx.open(model(server)).generate(questions(6)))
        assert server.submissions == 6


# What a server refuses


def test_a_refused_request_fails_alone(tmp_path: Path, provider: str) -> None:
    def rule(body: Mapping[str, Any]) -> str | None:
        return "This prompt is too long." if "number 3." in json.dumps(body) else None

    with batching(teacher, BatchBehaviour(refuses=rule), provider=provider) as server:
        ctx, tracker = context(tmp_path)
        answers = ctx.open(model(server)).generate(questions(12))
        assert [n for n, answer in enumerate(answers) if answer.error] == [3]
        assert answers[3].error == "the server answered 400: This prompt is too long."
        check_paid(server, ctx, tracker)


def test_a_run_of_refused_requests_alone_goes_on(tmp_path: Path, provider: str) -> None:
    def rule(body: Mapping[str, Any]) -> str | None:
        odd = any(f"number 1{n}." in json.dumps(body) for n in range(9))
        return "We do not take this." if odd else None

    with batching(teacher, provider=provider) as server:
        ctx, _ = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(10)))
        server.behaviour.refuses = rule
        for _ in range(2):  # only the refused ones are left
            close_engines()
            ctx, _ = context(tmp_path)
            answers = ctx.open(model(server)).generate(questions(19))
            assert [n for n, answer in enumerate(answers) if answer.error] == [*range(10, 19)]


def test_a_spelling_is_learned_from_a_batch(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(refuses=refusing("max_tokens"))) as server:
        ctx, tracker = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(12)))
        assert len(server.batches) == 2
        assert all("max_completion_tokens" in str(entry.sent) for entry in journal(ctx).entries())
        check_paid(server, ctx, tracker)


def test_what_was_learned_is_kept_from_run_to_run(tmp_path: Path) -> None:
    """Each run is a process of its own here, and learns at most one thing."""
    refuses = refusing("max_tokens", "seed", "temperature")
    with batching(teacher, BatchBehaviour(questions=1, refuses=refuses)) as server:
        asked, answers = questions(4, temperature=1.0), list[Completion]()
        for _ in range(10):
            close_engines()
            http_client._dialects.clear()
            ctx, _ = context(tmp_path)
            answers = answers or asked_later(ctx, model(server, NOW), asked)
        texts(answers)
        assert len(server.batches) == 4
        check_paid(server, ctx)


def test_two_batches_are_respelled_alike(tmp_path: Path) -> None:
    """They were submitted before anything was learned, and end in a later run."""
    behaviour = BatchBehaviour(questions=3, refuses=refusing("max_tokens", "seed"))
    with batching(teacher, behaviour) as server:
        ctx, _ = context(tmp_path)
        options = replace(NOW, max_requests=5)
        waits(ctx, model(server, options), questions(10))
        close_engines()
        http_client._dialects.clear()
        ctx, tracker = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(10)))
        check_paid(server, ctx, tracker)


def test_a_request_of_which_no_spelling_is_taken_fails(tmp_path: Path) -> None:
    """A process that always forgets what was learned ends all the same."""
    with batching(teacher, BatchBehaviour(questions=1, refuses=refusing("max_tokens"))) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(1))
        tries = "UPDATE batch_requests SET tries = 10000"
        journal(ctx)._connection.execute(tries)
        http_client._dialects.clear()
        (answer,) = ctx.open(model(server)).generate(questions(1))
        assert "refuses each of its spellings: " in str(answer.error)


def test_a_parameter_that_no_request_may_have_stops_the_stage(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(refuses=refusing("temperature"))) as server:
        ctx, _ = context(tmp_path)
        with pytest.raises(UserError, match="does not take temperature"):
            ctx.open(model(server)).generate(questions(12))
        check_paid(server, ctx)


def test_what_fails_in_each_batch_fails(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(expires=0.5)) as server:
        server._tried = NeverTried()
        ctx, tracker = context(tmp_path)
        answers = ctx.open(model(server)).generate(questions(40))
        failed = [answer.error for answer in answers if answer.error]
        assert 0 < len(failed) < 20
        assert set(failed) == {"It was not run in time. (batch 3)"}
        assert len(server.batches) == 3
        check_paid(server, ctx, tracker)


class NeverTried(set[str]):
    """So that requests fail in each batch as in the first one."""

    def __contains__(self, key: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("problem", "match"),
    [
        ({"code": "invalid_request", "message": "No such model."}, "refused batch batch_0"),
        ({"code": "billing_hard_limit_reached", "message": "Pay."}, "quota is used up"),
    ],
)
def test_a_batch_that_is_not_run(tmp_path: Path, problem: dict[str, Any], match: str) -> None:
    with batching(teacher, BatchBehaviour(problems=[problem])) as server:
        ctx, _ = context(tmp_path)
        with pytest.raises(UserError, match=match):
            ctx.open(model(server)).generate(questions(5))
        check_paid(server, ctx)
        server.behaviour.problems = []
        texts(ctx.open(model(server)).generate(questions(5)))


def test_a_line_that_is_refused_fails_alone(tmp_path: Path) -> None:
    problem = {"code": "invalid_json_line", "message": "This line is too long.", "line": 3}
    with batching(teacher, BatchBehaviour(problems=[problem])) as server:
        ctx, _ = context(tmp_path)
        with pytest.raises(UserError) as error:
            ctx.open(model(server, NOW)).generate(questions(5))
        assert error.value.code is Exit.WAITING
        server.batches["batch_0"].questions = 0
        server.behaviour.problems = []
        answers = ctx.open(model(server)).generate(questions(5))
        assert [n for n, answer in enumerate(answers) if answer.error] == [2]
        check_paid(server, ctx)


@pytest.mark.parametrize("queue", [40, 12, 3])
def test_a_full_queue_takes_less_at_once(tmp_path: Path, queue: int) -> None:
    with batching(teacher, BatchBehaviour(queue=queue)) as server:
        ctx, tracker = context(tmp_path)
        options = Batching(poll=0.01, max_requests=10)
        texts(ctx.open(model(server, options)).generate(questions(min(30, queue * 3))))
        check_paid(server, ctx, tracker)


def test_no_money_at_the_provider(tmp_path: Path, provider: str) -> None:
    with batching(teacher, BatchBehaviour(quota=True), provider=provider) as server:
        ctx, _ = context(tmp_path)
        with pytest.raises(UserError, match="quota is used up") as error:
            ctx.open(model(server)).generate(questions(5))
        assert error.value.code is Exit.BUDGET
        check_paid(server, ctx)


# Limits


def test_batches_keep_to_their_limits(tmp_path: Path) -> None:
    with batching(teacher) as server:
        ctx, _ = context(tmp_path)
        options = Batching(poll=0.01, max_bytes=2000)
        long = Request((("user", "x" * 3000),), SHORT)
        *answers, failed = ctx.open(model(server, options)).generate([*questions(20), long])
        texts(answers)
        assert "a batch has at most 2,000" in str(failed.error)
        assert all(len(file) <= 2000 for file in server.files.values())


@pytest.mark.parametrize("unit", ["tokens", "money", "requests"])
def test_what_does_not_fit_the_budget_is_not_submitted(tmp_path: Path, unit: str) -> None:
    limit = {"tokens": 1000, "money": 0.005, "requests": 7}[unit]
    with batching(teacher) as server:
        ctx, tracker = context(tmp_path, **{unit: limit})
        with pytest.raises(UserError, match="the budget is reached") as error:
            ctx.open(model(server)).generate(questions(200))
        assert error.value.code is Exit.BUDGET
        assert 0 < getattr(tracker, unit) <= limit
        check_paid(server, ctx, tracker)

        partial, tracker = context(tmp_path / "partial", **{unit: limit})
        partial.budget.partial = True
        answers = partial.open(model(server)).generate(questions(200, start=1000))
        errors = [answer.error for answer in answers if answer.error]
        assert errors
        assert all(str(error).startswith("not_asked") for error in errors)
        assert len(answers) - len(errors) == tracker.requests


def test_a_budget_over_runs_counts_what_is_under_way_once(tmp_path: Path) -> None:
    with batching(teacher) as server:
        first, _ = context(tmp_path, money=1.0)
        waits(first, model(server, NOW), questions(20))
        (spending,) = journal(first).spendings()
        assert not spending.answered
        ctx, tracker = context(tmp_path, money=1.0, per="month")
        tracker.since, tracker.earlier = spending.day, spending.usage
        texts(ctx.open(model(server)).generate(questions(20)))
        assert tracker.earlier.money == pytest.approx(0)
        check_paid(server, ctx, tracker)


# Journals of before


def test_a_journal_of_before_takes_batches(tmp_path: Path) -> None:
    """Its tables come with the first batch; what it has answered is not asked again."""
    with batching(teacher) as server:
        ctx, _ = context(tmp_path)
        texts(ctx.open(model(server, False)).generate(questions(3)))
        connection = journal(ctx)._connection
        names = "SELECT name FROM sqlite_master WHERE name LIKE 'batch%'"
        assert connection.execute(names).fetchall() == []
        texts(ctx.open(model(server)).generate(questions(6)))
        assert sum(server.billed.values()) == 6
        check_paid(server, ctx)


def test_batches_of_azure_are_refused() -> None:
    one = LanguageModel(
        "m", "openai", base_url="https://n.example/v1", batch=True, api=Api(provider="azure")
    )
    assert any("batch must be left out for azure" in text for text in mistakes(one))
