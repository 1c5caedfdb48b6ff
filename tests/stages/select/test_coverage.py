"""select.coverage: InsTag's passes, step by step, and what becomes of rows without tags."""

from __future__ import annotations

import json
from random import Random
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from stages.select.coverage import coverage
from tests.stages._selection.binding import problems_of

CTX = Context.__new__(Context)  # the stage computes only
TAGS = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from("abcdefgh"), max_size=5)), max_size=30
)
Row = tuple[list[str] | None, int]


def pool(tags: list[list[str] | None], tokens: list[int] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"{i:06d}" for i in range(len(tags))],
            "tags": pl.Series(tags, dtype=pl.List(pl.String)),
            "tokens": pl.Series(tokens or [1] * len(tags), dtype=pl.Int64),
        }
    )


def by_hand(rows: list[Row], budget: int) -> list[tuple[int, int, list[str]]]:
    """Algorithm 1 of the paper as it stands: row, pass and new tags in the order of choice."""
    left = sorted(range(len(rows)), key=lambda i: -len(set(rows[i][0] or ())))
    chosen: list[tuple[int, int, list[str]]] = []
    turn = 0
    while left:
        turn += 1
        seen: set[str] = set()
        selected = []
        for i in left:
            new = set(rows[i][0] or ()) - seen
            if new and rows[i][1] <= budget:
                budget -= rows[i][1]
                seen |= new
                selected.append(i)
                chosen.append((i, turn, sorted(new)))
        if not selected:
            break
        left = [i for i in left if i not in selected]
    return chosen


@given(TAGS, st.integers(0, 40), st.booleans(), st.randoms())
def test_the_passes_are_those_of_the_paper(
    tags: list[list[str] | None], budget: int, in_tokens: bool, random: Random
) -> None:
    tokens = [random.randrange(0, 6) for _ in tags]
    data = pool(tags, tokens)
    result = coverage(CTX, data, budget=budget, unit="tokens" if in_tokens else "rows")
    costs = tokens if in_tokens else [1] * len(tags)
    expected = by_hand(list(zip(tags, costs, strict=True)), budget)
    chosen = result.with_row_index().filter(pl.col("drop_reason").is_null()).sort("coverage_rank")
    assert chosen["coverage_rank"].to_list() == list(range(1, len(expected) + 1))
    assert chosen.select("index", "coverage_pass", "coverage_tags").rows() == expected
    spent = data["tokens" if in_tokens else "id"].filter(result["drop_reason"].is_null())
    assert (spent.sum() if in_tokens else len(spent)) <= budget


def test_known_choice() -> None:
    rows: list[list[str] | None] = [["a"], ["a", "b"], ["c"], ["b", "a"], ["b", "c", "d"], ["a"]]
    result = coverage(CTX, pool(rows), budget=5)
    assert result["coverage_rank"].to_list() == [5, 2, 4, 3, 1, None]
    assert result["coverage_pass"].to_list() == [3, 1, 2, 2, 1, None]
    assert result["coverage_tags"][:3].to_list() == [["a"], ["a"], ["c"]]


def test_rows_without_tags_have_reasons_of_their_own() -> None:
    result = coverage(CTX, pool([["a"], [], None, ["a"]]), budget=1)
    assert result["drop_reason"].to_list() == [None, "no_tags", "missing_tags", "not_selected"]
    assert json.loads(result["evidence"][3]) == {"tags": 1, "passes": 1}
    assert json.loads(result["evidence"][2]) == {"tags": None, "passes": 1}
    whole = coverage(CTX, pool([["a"], [], None, ["a"]]), budget=9)
    assert whole["coverage_pass"].to_list() == [1, None, None, 2]


def test_one_pass_covers_every_tag() -> None:
    random = Random(3)
    tags = [[str(random.randrange(400)) for _ in range(random.randrange(6))] for _ in range(3000)]
    result = pool(tags).with_columns(coverage(CTX, pool(tags), budget=3000))  # type: ignore[arg-type]
    for turn in (1, 2):
        new = result.filter(coverage_pass=turn)["coverage_tags"].explode()
        left = result.filter(pl.col("coverage_pass") >= turn)["tags"].explode().drop_nulls()
        assert new.is_unique().all()
        assert set(new) == set(left)


@given(st.randoms(), st.integers(0, 20))
def test_the_order_of_the_rows_does_not_matter(random: Random, budget: int) -> None:
    """Rows come in id order; with different numbers of tags even that does not matter."""
    data = pool([[f"{random.randrange(12)}-{j}" for j in range(i)] for i in range(15)])
    turned = data.sample(fraction=1, shuffle=True, seed=random.randrange(99))
    chosen = [
        set(f["id"].filter(coverage(CTX, f, budget=budget)["drop_reason"].is_null()))
        for f in (data, turned)
    ]
    assert chosen[0] == chosen[1]


def test_types_and_empty_input() -> None:
    expected = {
        "coverage_rank": pl.Int32,
        "coverage_pass": pl.Int32,
        "coverage_tags": pl.List(pl.String),
    }
    for rows in ([], [[]], [["a"]], [None]):
        result = coverage(CTX, pool(rows), budget=2)  # type: ignore[arg-type]
        assert {name: result.schema[name] for name in expected} == expected
        assert len(result) == len(rows)


def test_a_column_of_texts_is_one_tag_each() -> None:
    data = pool([["x"]] * 4).with_columns(tags=pl.Series(["maths", "maths", None, "code"]))
    result = coverage(CTX, data, budget=2)
    assert result["drop_reason"].to_list() == [None, "not_selected", "missing_tags", None]


def test_mistakes() -> None:
    with pytest.raises(UserError, match="must hold lists of tags"):
        coverage(CTX, pool([["x"]]), budget=2, tags="tokens")
    mark = coverage.__stage__  # type: ignore[attr-defined]
    problems = problems_of("select.coverage", budget=-1)
    assert problems == ["budget: budget must be at least 0, got -1"]
    problems = problems_of("select.coverage", budget=1, token_column="n")
    assert problems == ["token_column: token_column must be left out with unit: rows, got 'n'"]
    options = SimpleNamespace(budget=1, tags="topics", unit="tokens", token_column="length")
    assert mark.reads(options) == ["topics", "length"]
