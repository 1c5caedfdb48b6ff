"""select.random: exact, nested, and blind to all but the ids."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from stages.select.random import random
from tests.stages._selection.binding import problems_of

CTX = Context.__new__(Context)  # the stage computes only


def pool(rows: int) -> pl.DataFrame:
    ids = sorted(f"{(i * 2654435761) % 2**32:08x}" for i in range(rows))
    tokens = [int(i[:2], 16) for i in ids]
    return pl.DataFrame({"id": ids, "tokens": tokens}, {"id": pl.String, "tokens": pl.Int64})


def kept(rows: pl.DataFrame, result: pl.DataFrame) -> set[str]:
    return set(rows["id"].filter(result["drop_reason"].is_null()))


@given(st.integers(0, 200), st.integers(0, 250), st.integers(0, 9))
def test_budget_in_rows_is_met_exactly(rows: int, budget: int, seed: int) -> None:
    data = pool(rows)
    assert len(kept(data, random(CTX, data, budget=budget, seed=seed))) == min(rows, budget)


@given(st.integers(0, 200), st.integers(0, 30_000), st.integers(0, 9))
def test_budget_in_tokens(rows: int, budget: int, seed: int) -> None:
    data = pool(rows)
    chosen = random(CTX, data, budget=budget, unit="tokens", seed=seed)["drop_reason"].is_null()
    spent = data["tokens"].filter(chosen).sum()
    assert spent <= budget
    assert (data["tokens"].filter(~chosen) > budget - spent).all()


def test_larger_budgets_only_add() -> None:
    data = pool(500)
    samples = [kept(data, random(CTX, data, budget=n, seed=4)) for n in (10, 50, 300)]
    assert samples[0] < samples[1] < samples[2]


def test_the_order_of_rows_and_other_rows_do_not_matter() -> None:
    data = pool(500)
    chosen = kept(data, random(CTX, data, budget=100))
    turned = data.reverse()
    assert kept(turned, random(CTX, turned, budget=100)) == chosen
    fewer = data.filter(pl.int_range(pl.len()) % 2 == 0)
    from_fewer = kept(fewer, random(CTX, fewer, budget=100))
    assert chosen & set(fewer["id"]) <= from_fewer


def test_seeds_differ_and_every_row_has_its_chance() -> None:
    data = pool(60)
    samples = [kept(data, random(CTX, data, budget=20, seed=seed)) for seed in range(60)]
    assert samples[0] != samples[1]
    assert set.union(*samples) == set(data["id"])


def test_every_row_tells_its_rank() -> None:
    result = random(CTX, pool(50), budget=20)
    assert result.schema["random_rank"] == pl.Int32
    dropped = result.filter(pl.col("drop_reason") == "not_selected")
    assert sorted(dropped["random_rank"]) == list(range(21, 51))
    assert [json.loads(e)["rank"] for e in dropped["evidence"]] == dropped["random_rank"].to_list()
    assert sorted(result.filter(pl.col("drop_reason").is_null())["random_rank"]) == [*range(1, 21)]
    assert random(CTX, pool(0), budget=3).schema["random_rank"] == pl.Int32


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"budget": -1}, "budget: budget must be at least 0, got -1"),
        ({}, "budget: the option 'budget' is missing"),
        ({"budget": 3, "token_column": "n"}, "token_column: token_column must be left out with"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(options: dict, problem: str) -> None:
    assert problems_of("select.random", budget=0, unit="tokens", token_column="n") == []
    (message,) = problems_of("select.random", **options)
    assert message.startswith(problem)
