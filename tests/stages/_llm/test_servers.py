"""Every stage that asks a model, before servers of every behaviour.

No row holds reasoning, nothing is lost or counted twice, nothing unreadable becomes a value, and
what the server charges is what was counted.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Limits
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker
from pipeline.models.http import rate_limit
from tests.support.cases import CASES, MODEL, MORE_CASES, NAMES, Case, few_rows
from tests.support.rows import DATA
from tests.support.servers import Running, switched
from tests.support.servers.behaviours import BEHAVIOURS, Behaviour
from tests.support.teacher import teacher

ALL = [
    *(pytest.param(case, id=name) for case, name in zip(CASES, NAMES, strict=True)),
    *(pytest.param(case, id=f"{case.stage}-{case.method}".rstrip("-")) for case in MORE_CASES),
]
SAME = [name for name, behaviour in BEHAVIOURS.items() if behaviour.same and name != "plain"]


def sixth(number: int) -> list[Any]:
    """All cases, of which those of five sixths are proofs."""
    return [
        pytest.param(*case.values, id=case.id, marks=[pytest.mark.proof] * (i % 6 != number))
        for i, case in enumerate(ALL)
    ]


CROSSED = [
    # Every way to ask meets one behaviour: what answers it is the engine, not the stage.
    *(pytest.param(*case.values, [SAME[i % len(SAME)]], id=case.id) for i, case in enumerate(ALL)),
    *(
        pytest.param(*case.values, SAME, id=f"{case.id}-all", marks=pytest.mark.proof)
        for case in ALL
    ),
]
FLAKY = Behaviour(broken=0.35, same=False)
TOLERANCE = 0.01
"""Of money, against the server's bill."""


def budgeted(folder: Path) -> tuple[Context, BudgetTracker]:
    """A context in an empty folder, and what counts its money."""
    ctx, tracker = Context.scratch(folder), BudgetTracker("the budget", BudgetLimit())
    ctx.budget = Budget([tracker])
    return ctx, tracker


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real back-offs of a second would make minutes of 60% of 429."""
    monkeypatch.setattr(rate_limit, "BACKOFF", 0.002)
    monkeypatch.setattr(rate_limit, "MAX_BACKOFF", 0.02)


def run(
    case: Case, ctx: Context, folder: Path, running: Running, name: str, **more: Any
) -> pl.DataFrame:
    """The rows of a stage, with models of one behaviour in the place of all."""
    options = case.all_options(folder)
    if case.stage == "generate.magpie":
        more["tokenizer"] = str(DATA / "models/tinylm")
    for option, value in options.items():
        if isinstance(value, tuple) and MODEL in value:
            options[option] = tuple(
                running.model(f"{name}/m{i}", **{**more, "id": f"m{i}"}) for i in range(len(value))
            )
        elif value == MODEL:
            options[option] = running.model(name, **more)
    options |= {"max_requests": 3} if "max_requests" in options else {}
    return pl.DataFrame(case.resolved.function(ctx, **few_rows(case), **options))


def check_accounts(case: Case, rows: pl.DataFrame) -> None:
    """Each row is kept, dropped with evidence, or failed; of rows that come in each is there."""
    columns = ("drop_reason", "evidence", "error")
    missing = [pl.lit(None, pl.String).alias(n) for n in columns if n not in rows.columns]
    verdicts = rows.with_columns(missing).select(columns)
    reason, evidence, error = (verdicts[name].is_not_null() for name in columns)
    assert not (reason & error).any()
    assert (reason == evidence).all()
    if case.resolved.creates:
        assert rows.filter(~reason & ~error)["id"].is_unique().all()
    else:
        assert len(rows) == len(few_rows(case)["rows"])


def kept(rows: pl.DataFrame) -> pl.DataFrame:
    names = [name for name in ("drop_reason", "error") if name in rows.columns]
    return rows.filter(pl.all_horizontal(pl.lit(value=True), *(pl.col(n).is_null() for n in names)))


def as_text(rows: pl.DataFrame) -> str:
    return json.dumps(rows.to_dicts(), default=str, sort_keys=True)


def without_keys(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows without the keys of completions, which are those of one model."""
    keys = [name for name in rows.columns if name.endswith("journal")]
    return rows.drop(*keys, "evidence", strict=False).to_dicts()


@pytest.mark.parametrize(("case", "behaviours"), CROSSED)
def test_rows_are_those_of_a_plain_server(
    case: Case, behaviours: list[str], tmp_path: Path
) -> None:
    """Whatever form an answer has, and whatever the server does not take or say."""
    with switched(teacher) as running:
        plain = run(case, budgeted(tmp_path / "plain")[0], tmp_path, running, "plain")
        assert running.server.requests
        check_accounts(case, plain)
        assert len(kept(plain)) or case.method == "mammoth2"
        for name in behaviours:
            ctx, tracker = budgeted(tmp_path / name)
            rows = run(case, ctx, tmp_path, running, name)
            check_accounts(case, rows)
            assert without_keys(rows) == without_keys(plain), name
            assert "SCRATCH" not in as_text(rows), name
            bill = running.bill(name)
            assert bill.completion, name
            if BEHAVIOURS[name].usage != "missing":
                assert tracker.spent.money == pytest.approx(bill.money, rel=TOLERANCE), name


@pytest.mark.parametrize("case", sixth(0))
def test_what_is_no_answer_becomes_no_value(case: Case, tmp_path: Path) -> None:
    """Reasoning without an end, noise in the place of a form, an account without money."""
    with switched(teacher) as running:
        ctx, tracker = budgeted(tmp_path / "unclosed")
        rows = run(case, ctx, tmp_path, running, "unclosed reasoning")
        check_accounts(case, rows)
        assert "SCRATCH" not in as_text(rows.drop("evidence", strict=False))
        assert "error" not in rows.columns or rows["error"].null_count() == len(rows)
        new = kept(rows)
        if case.resolved.creates:
            # A refused evolution leaves the row as it was for the next round, and is dropped; a
            # revision leaves it as it was.
            came = [edge["id"] for edge in few_rows(case).values()]
            assert not len(new.filter(~pl.col("id").is_in(pl.concat(came) if came else [])))
        bill = running.bill("unclosed reasoning")
        assert tracker.spent.money == pytest.approx(bill.money, rel=TOLERANCE)

        rows = run(case, budgeted(tmp_path / "noise")[0], tmp_path, running, "noise", resample=1)
        check_accounts(case, rows)
        if case.stage in ("score.judge", "decontaminate.semantic", "generate.pairs"):
            judged = rows.filter(pl.col("drop_reason").is_null())
            scores = [name for name in rows.columns if name.startswith("judge_")]
            assert all(judged[name].null_count() == len(judged) for name in scores)
            assert rows["drop_reason"].is_not_null().any()

        broke, tracker = budgeted(tmp_path / "quota")
        why = refusal(case, broke, tmp_path, running)
        assert "quota" in why or running.answers.answered["quota"] < 3
        assert tracker.spent.money == pytest.approx(running.bill("quota").money, rel=TOLERANCE)


def refusal(case: Case, ctx: Context, folder: Path, running: Running) -> str:
    """What a stage says once the account has no quota left."""
    try:
        rows = run(case, ctx, folder, running, "quota")
    except UserError as error:
        return str(error)
    check_accounts(case, rows)
    return str(rows["error"].drop_nulls().to_list()) if "error" in rows.columns else ""


@pytest.mark.parametrize("case", sixth(2))
def test_markdown_and_capitals_are_read(case: Case, tmp_path: Path) -> None:
    """As many rows as of a plain server, without the marks and the preamble in their texts."""
    with switched(teacher) as running:
        plain = run(case, budgeted(tmp_path / "plain")[0], tmp_path, running, "plain")
        for name in ("markdown", "capitals with probabilities"):
            rows = run(case, budgeted(tmp_path / name)[0], tmp_path, running, name)
            check_accounts(case, rows)
            assert len(kept(rows)) == len(kept(plain)), name
            if case.resolved.creates:
                assert not re.search(r"Sure!|Here (?:is|are) ", as_text(kept(rows))), name
            if case.resolved.creates and case.stage != "generate.system_prompt":
                # Passages of documents have marks of their own.
                assert as_text(kept(rows)).count("**") == as_text(kept(plain)).count("**"), name


@pytest.mark.parametrize("case", sixth(4))
def test_one_run_and_two_give_the_same_rows(case: Case, tmp_path: Path) -> None:
    """A third of the requests fails in the first run; unreadable answers stay what they are."""
    with switched(teacher, flaky=FLAKY) as running:
        undisturbed = run(case, budgeted(tmp_path / "one")[0], tmp_path, running, "plain/x", id="m")
        ctx, _ = budgeted(tmp_path / "two")
        limits = Limits(attempts=1, patience=20.0)
        first = run(case, ctx, tmp_path, running, "flaky", id="m", limits=limits)
        check_accounts(case, first)
        running.answers.behaviours["flaky"] = Behaviour()
        second = run(case, ctx, tmp_path, running, "flaky", id="m", limits=limits)
        sent = len(running.server.requests)
        third = run(case, ctx, tmp_path, running, "flaky", id="m", limits=limits)
    assert len(running.server.requests) == sent, "nothing is asked twice"
    assert as_text(second) == as_text(third) == as_text(undisturbed)


def test_rounds_end_with_the_budget(tmp_path: Path) -> None:
    """A partial run counts what one round left out, and not what rounds after it would have."""
    case = next(case for case in CASES if case.stage == "generate.self_instruct")
    with switched(teacher) as running:
        ctx = Context.scratch(tmp_path)
        tracker = BudgetTracker("the budget", BudgetLimit(requests=1))
        ctx.budget = Budget([tracker], partial=True)
        options = {**case.all_options(tmp_path), "model": running.model("plain")}
        options |= {"num_rows": 50, "max_requests": 40, "requests_per_round": 2}
        case.resolved.function(ctx, **few_rows(case), **options)
    assert tracker.requests == 1
    assert 0 < ctx.budget.not_sent <= 1 + 8, "the round's other prompt, and what its tasks need"
