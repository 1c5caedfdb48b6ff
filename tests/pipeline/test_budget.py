"""Budgets: never exceeded, nothing lost, the next run goes on; estimates and what came of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.tables import estimates, plan_table, plan_totals
from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.execution.actual_usage import comparison
from pipeline.execution.estimate import Amounts, Estimate, estimate_steps
from pipeline.execution.plan import plan
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.execution.spending import budget_warnings, trackers
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker, Price, Usage
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.usage import TokenUsage
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.support.journals import max_answers
from tests.support.running import artifact, called, contents, pool, run
from tests.support.serving import NAME, FakeServer, listening

ROWS = 14


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(FakeServer()) as opened:
        yield opened
    close_engines()


def recipe(folder: Path, port: int, **more: Any) -> Recipe:
    path = pool(folder / "rows.txt", ROWS)
    uses = "tests.support.asking."
    stages: dict[str, Any] = {
        "a": {"uses": "tests.support.toys.load", "with": {"path": str(path)}},
        "new": {"uses": uses + "respond", "needs": "a", "with": {"model": "m"}},
        "rated": {"uses": uses + "rate", "needs": "a", "with": {"model": "m", "tokens": 3}},
    }
    stages["new"] |= more.pop("new", {})
    return Recipe.of("budgets", stages, {"m": model(port)}, **more)


def model(port: int) -> dict[str, Any]:
    return {"engine": "openai", "model": NAME, "base_url": f"http://127.0.0.1:{port}/v1"}


def answered(store: Path) -> int:
    journal = Journal(store / "journal")
    assert max_answers(journal) <= 1
    return journal.count()


PRICES = {"m": {"prompt": 1000.0, "completion": 5000.0}}


@pytest.mark.parametrize(
    ("where", "budget"),
    [
        ("run", {"requests": 9}),
        ("run", {"tokens": 200}),
        ("stage", {"money": 0.3}),
        ("stage", {"requests": 5, "money": 0.4}),
    ],
)
def test_a_budget_stops_cleanly_and_the_next_runs_go_on(
    tmp_path: Path, port: int, budget: dict[str, float], where: str
) -> None:
    allowed: dict[str, Any] = {"budget": budget} if where == "run" else {"new": {"budget": budget}}
    wired = recipe(tmp_path, port, prices=PRICES, **allowed)
    store, before, stops = tmp_path / "store", 0, 0
    while (error := stopped(wired, store)) is not None:
        stops += 1
        assert (error.code, "is reached" in error.what) == (Exit.BUDGET, True)
        now = answered(store)
        assert now > before, "every run gets somewhere"
        assert now - before <= budget.get("requests", ROWS)
        assert used(store) <= stops * budget.get("tokens", 10**9)
        assert stops < 20
        before = now
    assert stops
    free = tmp_path / "free"
    run(recipe(tmp_path, port), free)
    assert contents(free, wired) == contents(store, wired)
    assert answered(store) == answered(free) == 2 * ROWS


def stopped(wired: Recipe, store: Path) -> UserError | None:
    try:
        run(wired, store)
    except UserError as error:
        return error
    return None


def used(store: Path) -> int:
    rows = Journal(store / "journal")._connection.execute("SELECT response FROM responses")
    usages = [json.loads(response)["usage"] for (response,) in rows]
    return sum(u["prompt_tokens"] + u["completion_tokens"] for u in usages)


def test_a_budget_is_in_no_fingerprint(tmp_path: Path, port: int) -> None:
    store = tmp_path / "store"
    run(recipe(tmp_path, port), store)
    limited = recipe(tmp_path, port, prices=PRICES, budget={"requests": 0})
    assert {planned.state for planned in plan(limited, Store(store))} == {"cached"}
    assert run(limited, store) is Exit.DONE


def test_the_command_line_says_so_and_exits_5(tmp_path: Path, port: int) -> None:
    pool(tmp_path / "rows.txt", 6)
    text = f"""\
name: spent
models: {{m: {json.dumps(model(port))}}}
budget: {{requests: 4}}
stages:
  a: {{uses: tests.support.toys.load, with: {{path: rows.txt}}}}
  new: {{uses: tests.support.asking.respond, needs: a, with: {{model: m}}}}
"""
    (tmp_path / "spent.yaml").write_text(text)
    call = (str(tmp_path / "spent.yaml"), "--store", str(tmp_path / "store"))
    run(Recipe.load(call[0]), tmp_path / "store", "a")
    planned = called("plan", *call)
    assert "warning: the budget of the run is 4 requests; 6 are expected" in planned.stdout
    first = called("run", *call)
    assert first.returncode == Exit.BUDGET, first.stderr
    assert "the budget of the run is reached: 4 requests" in first.stderr
    assert "2 requests are left" in first.stderr
    assert "requests of new: 4 requests, " in first.stderr, "a part is not compared with the whole"
    assert "about 2 requests are left" in first.stderr
    planned = called("plan", *call)
    assert "4 more requests are in the journal" in planned.stdout
    assert "warning" not in planned.stdout, "2 are left to send"
    second = called("run", *call)
    assert second.returncode == Exit.DONE, second.stderr
    assert "requests of new: 2 requests (estimate +0%), 4 more answered by the" in second.stderr
    raised = called("run", *call, "--set", "budget.requests=9")
    assert raised.returncode == Exit.DONE


def test_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        recipe(
            tmp_path,
            9,
            prices={"n": {"prompt": 1.0, "completion": 2.0}, "m": {"prompt": "much"}},
            budget={"requests": -1, "money": 3},
            new={"budget": {"request": 1}},
        )
    text = str(caught.value)
    assert "there is no model 'n'" in text
    assert "prices.m: " in text
    assert "budget: requests must be at least 0, got -1" in text
    assert "stages.new.budget: unknown key 'request'" in text
    with pytest.raises(RecipeErrors, match="'m' has no price"):
        recipe(tmp_path, 9, budget={"money": 3})


@pytest.mark.parametrize("key", ["price", "prices"])
def test_a_price_within_a_model_is_said_to_stand_beside_it(tmp_path: Path, key: str) -> None:
    path = tmp_path / "r.yaml"
    model = f"{{engine: replay, model: m, {key}: {{prompt: 1, completion: 2}}}}"
    path.write_text(f"name: r\nmodels: {{m: {model}}}\nstages: {{}}\n")
    with pytest.raises(RecipeErrors, match=f"unknown key '{key}'\n  try: prices stand beside"):
        Recipe.load(str(path))


def test_estimates_come_from_rows_and_from_what_was_seen(tmp_path: Path, port: int) -> None:
    store = tmp_path / "store"
    wired = recipe(tmp_path, port, prices=PRICES)

    def estimated(one: Recipe) -> dict[str, Estimate]:
        opened = Store(store)
        return estimate_steps(one, opened, plan(one, opened))

    unknown = estimated(wired)["new"]
    assert (unknown.expected, unknown.unknown) == (Amounts(), True)
    run(wired, store, "a")
    counted = estimated(wired)["new"]
    assert (counted.expected.rows, counted.expected.requests) == (ROWS, ROWS)
    assert counted.longest, "nothing was seen of this model"
    assert not counted.all_kept, "its rows are there"
    runner = Runner(wired, Store(store), LineProgress(3, lambda text: None))
    runner.run()
    assert runner.used["new"].requests == ROWS
    for unit in ("tokens", "money"):
        ratio = getattr(counted.expected, unit) / getattr(runner.used["new"], unit)
        assert 1 / 2 < ratio < 2
    (line,) = [t for t in comparison(runner.expected, runner.used) if t.startswith("new")]
    assert f"{ROWS} requests (estimate +0%), " in line
    assert "tokens (estimate for the longest answers " in line
    assert estimated(wired)["new"] == Estimate(), "nothing is to be asked"

    more = recipe(tmp_path, port, prices=PRICES, new={"with": {"model": "m", "samples": 3}})
    seen = estimated(more)["new"]
    assert not seen.longest, "now its lengths are known"
    assert (seen.expected.requests, seen.journal) == (2 * ROWS, ROWS), (
        "one sample is in the journal"
    )
    assert seen.expected.tokens == pytest.approx(2 * runner.used["new"].tokens, rel=0.01)
    assert seen.expected.money == pytest.approx(2 * runner.used["new"].money, rel=0.01)
    again = Runner(more, Store(store), LineProgress(3, lambda text: None))
    again.run()
    (line,) = [t for t in comparison(again.expected, again.used) if t.startswith("new")]
    assert f"{2 * ROWS} requests (estimate +0%), {ROWS} more answered by the journal" in line
    assert abs((seen.expected.tokens or 0) / again.used["new"].tokens - 1) < 0.3

    other = artifact(more, store, "new")
    assert other.manifest["used"]["cached"] == ROWS


def test_a_budget_that_will_not_do_is_told_beforehand(tmp_path: Path, port: int) -> None:
    store, spare = tmp_path / "store", {"budget": {"requests": 99}}
    run(recipe(tmp_path, port), store, "a")
    limited = recipe(tmp_path, port, prices=PRICES, budget={"tokens": 9, "money": 9}, new=spare)
    opened = Store(store)
    expected = estimate_steps(limited, opened, plan(limited, opened))
    (warning,) = budget_warnings(trackers(limited, opened), expected)
    tokens = expected["new"].at_most.tokens
    together = sum(estimate.expected.tokens or 0 for estimate in expected.values())
    assert warning == f"the budget of the run is 9 tokens; at most {together:,} are expected"
    shown = plan_table(estimates(plan(limited, opened), expected), plan_totals(expected))
    assert f"<= {tokens:,}" in shown
    assert "requests are expected" not in shown


def test_the_journal_tells_the_lengths_of_a_stage_that_never_ran(tmp_path: Path, port: int) -> None:
    store = tmp_path / "store"
    run(recipe(tmp_path, port), store, "new")
    opened = Store(store)
    wired = recipe(tmp_path, port)
    rated = estimate_steps(wired, opened, plan(wired, opened))["rated"]
    assert rated.expected.requests == ROWS
    assert rated.expected.tokens == pytest.approx(used(store), rel=0.15)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50)), max_size=60),
    st.integers(0, 500),
    st.integers(1, 5),
)
def test_a_budget_is_never_exceeded(
    uses: list[tuple[int, int, int]], tokens: int, width: int
) -> None:
    """Whatever is reserved, in flight and settled, at any time."""
    account = BudgetTracker("the budget", BudgetLimit(tokens=tokens, money=tokens / 10))
    price, budget = Price(100_000.0, 100_000.0), Budget([account])
    open_: list[tuple[Usage, Usage]] = []
    spent = 0
    for prompt, longest, real in uses:
        reserved = Usage.of(1, TokenUsage(prompt, 0, longest), price)
        if budget.reserve(reserved):
            actual = Usage.of(1, TokenUsage(prompt, 0, min(real, longest)), price)
            open_.append((reserved, actual))
        if len(open_) >= width:
            one = open_.pop(0)
            budget.reconcile(*one)
            spent += one[1].tokens
        assert account.tokens <= tokens
        assert account.money <= tokens / 10 + 1e-6
    for one in open_:
        budget.reconcile(*one)
        spent += one[1].tokens
    assert spent == account.tokens <= tokens
