"""Budgets over several runs, kills among them, and what `status` and `journal stats` say of it."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.execution import spending as budgets
from pipeline.execution.history import status
from pipeline.execution.snapshot import Snapshot
from pipeline.models.budget import Usage
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal import spending as ledger
from pipeline.models.journal.costs import costs
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.spending import Account, InFlight
from pipeline.models.periods import period_end, period_start
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.support.billing import PRICE, BillingServer
from tests.support.running import called, command, pool, run, started
from tests.support.serving import NAME, FakeServer, listening

PRICES = {"m": {"prompt": PRICE.prompt, "completion": PRICE.completion, "currency": "EUR"}}
MOST = (120 * 1000 + 902 * 5000) / 1e6
"""What an answer of these servers costs at most, in EUR."""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_engines()


def recipe(folder: Path, port: int, rows: int, **more: Any) -> Recipe:
    stages = {
        "a": {
            "uses": "tests.support.toys.load",
            "with": {"path": str(pool(folder / f"{rows}.txt", rows))},
        },
        "new": {
            "uses": "tests.support.asking.respond",
            "needs": "a",
            "with": {"model": "m"},
            **more.pop("new", {}),
        },
    }
    model = {"engine": "openai", "model": NAME, "base_url": f"http://127.0.0.1:{port}/v1"}
    return Recipe.of("paid", stages, {"m": model}, **{"prices": PRICES, **more})


def error_of(wired: Recipe, store: Path) -> UserError | None:
    try:
        run(wired, store)
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize("where", ["recipe", "stage"])
def test_a_budget_of_a_period_is_that_of_all_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A weekly schedule pays no 20 each time; the next month has a budget of its own."""
    day = [date(2026, 3, 2)]
    monkeypatch.setattr(ledger, "today", lambda: day[0])
    monkeypatch.setattr(budgets, "today", lambda: day[0])
    server, store = BillingServer("xai", reasoning=900), tmp_path / "store"
    budget: Any = {"money": 20, "per": "month"}
    limits = {"budget": budget} if where == "recipe" else {"new": {"budget": budget}}
    with listening(FakeServer(server)) as port:
        first = error_of(recipe(tmp_path, port, 40, **limits), store)
        assert first is not None
        assert first.code == Exit.BUDGET
        assert "is reached: 20 EUR per month" in first.what
        assert "run again from 2026-04-01 (UTC) on" in str(first.hint)
        spent = server.money
        assert 20 - MOST <= spent <= 20 + 4 * MOST
        for week in range(1, 5):
            day[0] = date(2026, 3, 2) + timedelta(weeks=week)
            again = error_of(recipe(tmp_path, port, 40 + 10 * week, **limits), store)
            assert again is not None
            assert "earlier runs of this month used" in str(again.why)
        assert server.money - spent <= MOST, "no more than was left"
        day[0] = date(2026, 4, 6)
        before = server.money
        assert error_of(recipe(tmp_path, port, 80, **limits), store) is not None
        assert 20 - MOST <= server.money - before <= 20 + MOST


def test_what_a_killed_run_paid_counts(tmp_path: Path) -> None:
    server = BillingServer("xai", reasoning=900, seconds=0.2)
    store, file = tmp_path / "store", tmp_path / "paid.yaml"
    pool(tmp_path / "rows.txt", 400)
    with listening(FakeServer(server)) as port:
        model = {"engine": "openai", "model": NAME, "base_url": f"http://127.0.0.1:{port}/v1"}
        file.write_text(
            json.dumps(
                {
                    "name": "paid",
                    "models": {"m": {**model, "limits": {"concurrency": 4}}},
                    "prices": PRICES,
                    "budget": {"money": 60, "per": "month"},
                    "stages": {
                        "a": {"uses": "tests.support.toys.load", "with": {"path": "rows.txt"}},
                        "new": {
                            "uses": "tests.support.asking.respond",
                            "needs": "a",
                            "with": {"model": "m"},
                        },
                    },
                }
            )
        )
        process = started("run", str(file), "--store", str(store))
        deadline = time.monotonic() + 120
        while server.answers < 6 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        paid = server.money
        counted = budgets.tracker(Recipe.load(str(file)), Store(store)).earlier.money
        # All that came is there, and at least what was in flight.
        assert server.answers >= 6
        assert paid <= counted + 1e-6
        (entry,) = costs(Journal(store / "journal"), "paid")
        assert entry["money"] <= paid + 1e-6
        assert entry["in_flight"]["money"] > 0
        last = command("run", str(file), "--store", str(store), timeout=120)
        assert last.returncode == Exit.BUDGET, last.stderr
        assert server.money <= 60 + MOST, "kills and all"
        shown = called("status", str(file), "--store", str(store))
        assert "in flight when a run was killed" in shown.stdout
        assert "EUR" in shown.stdout


def test_status_and_stats_tell_costs_by_stage_and_model_over_runs(tmp_path: Path) -> None:
    server, store = BillingServer("gemini", reasoning=300), tmp_path / "store"
    with listening(FakeServer(server)) as port:
        run(recipe(tmp_path, port, 5), store)
        wired = recipe(tmp_path, port, 9)
        run(wired, store)
    assert server.answers == 9
    (entry,) = status(Snapshot.of_recipe(wired, Store(store)))["costs"]
    assert (entry["recipe"], entry["stage"], entry["model"]) == ("paid", "new", NAME)
    assert (entry["requests"], entry["currency"]) == (9, "EUR")
    assert entry["prompt_tokens"] + entry["completion_tokens"] == server.tokens
    assert entry["money"] == pytest.approx(server.money, rel=0.01)
    stats = called("journal", "stats", "--store", str(store), "--json")
    assert json.loads(stats.stdout)["costs"] == [entry]
    shown = called("journal", "stats", "--store", str(store))
    assert f"{entry['money']:,.4g} EUR" in shown.stdout
    assert status(Snapshot.of_recipe(wired, Store(tmp_path / "empty")))["costs"] == []


def test_a_period_has_one_currency(tmp_path: Path) -> None:
    server, store = BillingServer(), tmp_path / "store"
    with listening(FakeServer(server)) as port:
        run(recipe(tmp_path, port, 2), store)
        dollars = {"m": {"prompt": 1.0, "completion": 2.0}}
        budget = {"money": 9, "per": "day"}
        with pytest.raises(UserError, match="must be in the currency of what was paid"):
            run(recipe(tmp_path, port, 3, prices=dollars, budget=budget), store)


def test_prices_of_a_recipe_are_in_one_currency(tmp_path: Path) -> None:
    model = {"engine": "openai", "model": "a", "base_url": "http://127.0.0.1:9/v1"}
    prices = {"a": {"prompt": 1, "completion": 2, "currency": "EUR"}}

    def of(**other: Any) -> Recipe:
        both = {**prices, "b": {"prompt": 1, "completion": 2, **other}}
        stages = {"x": {"uses": "tests.support.toys.load", "with": {"path": __file__}}}
        return Recipe.of("r", stages, {"a": model, "b": model}, prices=both)

    assert of(currency="EUR").currency == "EUR"
    for wrong, message in [
        ({"currency": "USD"}, r"in one currency, got EUR \(a\) and USD \(b\)"),
        ({}, r"in one currency, got EUR \(a\) and USD \(b\)"),
        ({"currency": "euro"}, "currency must be three capital letters such as EUR, got 'euro'"),
        ({"currency": "EUR", "cached": -1}, "cached must be at least 0, got -1"),
        (
            {"currency": "EUR", "batch": {"prompt": -1, "completion": 1}},
            "batch.prompt must be at least 0, got -1",
        ),
    ]:
        with pytest.raises(RecipeErrors) as error:
            of(**wrong)
        assert re.search(message, str(error.value)), error.value


def test_a_period_is_one_of_the_calendars(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors, match="per must be 'day', 'week' or 'month', got 'year'"):
        recipe(tmp_path, 9, 3, budget={"money": 9, "per": "year"})


def test_a_period_without_an_amount_is_refused(tmp_path: Path) -> None:
    """It would limit nothing."""
    with pytest.raises(RecipeErrors, match="must limit requests, tokens or money, got `per` alone"):
        recipe(tmp_path, 9, 3, budget={"per": "day"})


@pytest.mark.parametrize("per", ["day", "week", "month"])
def test_periods_cover_every_day_once(per: Any) -> None:
    day = date(2027, 12, 27)
    for _ in range(800):
        start, end = period_start(per, day), period_end(per, day)
        assert start <= day < end
        assert period_start(per, end) == end
        assert period_end(per, end - timedelta(days=1)) == end
        day += timedelta(days=1)


def test_what_is_in_flight_is_durable_and_written_seldom(tmp_path: Path) -> None:
    path = Journal(tmp_path).path
    account = Account("r", "s", "{}", "USD")
    flight, commits, last = InFlight(path, account), 0, None
    for number in [*range(1, 300), *range(299, 0, -1)]:
        flight.cover(Usage(number, 10 * number, 0.1 * number))
        (row,) = sqlite3.connect(path).execute("SELECT requests, tokens, money FROM in_flight")
        assert row[0] >= number
        assert row[1] >= 10 * number
        assert row[2] >= 0.1 * number - 1e-9
        assert row[0] <= 8 * number
        commits, last = commits + (row != last), row
    assert commits < 30
    flight.end(Usage())
    assert Journal(tmp_path).spendings() == []
