"""One-shot scores against the plain loop: two forward passes for each row and anchor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel, Scored
from stages.score.one_shot import Miwv, Pairwise, one_shot
from stages.score.one_shot.exchanges import Form, exchanges, plain_texts
from tests.pipeline.models.test_likelihood import alone as passed
from tests.support.rows import alpaca, conversations, frame, json_lines, record, sample

POOL = pl.concat(
    [
        sample("self_instruct.jsonl.gz").head(5),
        frame([record("Add.\n\n1 and 2", "3", input_start=6), record("Hm?", "")]),
    ]
).sort("id")
"""Real rows, one with an input, and one without an answer."""

ANCHORS = conversations(
    [("Name a sea.", "The North Sea."), ("What is 2 + 2?", "4"), ("Hello", "Good day to you.")]
)


def texts(rows: pl.DataFrame) -> dict[str, tuple[str, str] | None]:
    columns = rows.select("id", "messages", "input_start", "tools").iter_rows()
    return {id_: plain_texts(*others) for id_, *others in columns}


def answer_log_probs(
    engine: Any, shown: tuple[str, str] | None, asked: tuple[str, str], form: Form = "separated"
) -> np.ndarray:
    """The answer's log-probabilities, by one forward pass over ids written here."""

    def ids(text: str) -> list[int]:
        return list(engine.tokenizer(text, add_special_tokens=False)["input_ids"])

    gap = "\n\n" if form == "separated" else ""
    bos = [] if engine.tokenizer.bos_token_id is None else [engine.tokenizer.bos_token_id]
    first = bos if form == "separated" or shown else []
    before = first + (ids("".join(shown) + gap) if shown else [])
    query = ids("".join(asked))
    start = len(before) + len(query) - len(ids(asked[1]))
    model = engine._loaded.model
    return passed(model, Scored(tuple(before + query), start))


@pytest.mark.parametrize("form", ["separated", "authors"])
def test_golden_is_the_share_of_anchors_that_rise(
    ctx: Context, tinylm: LanguageModel, form: Form
) -> None:
    engine: Any = ctx.open(tinylm)
    result = one_shot(ctx, POOL, ANCHORS, model=tinylm, form=form)
    asked = texts(ANCHORS)
    for (id_, shown), row in zip(texts(POOL).items(), result.iter_rows(named=True), strict=True):
        if shown is None:
            assert row == dict.fromkeys(row), id_
            continue
        rises = []
        for query in asked.values():
            assert query is not None
            before = answer_log_probs(engine, None, query, form)
            rises.append((answer_log_probs(engine, shown, query, form) - before).mean())
        assert row["one_shot_anchors"] == 3
        assert row["one_shot_golden"] == pytest.approx(np.mean(np.array(rises) > 0))
        assert row["one_shot_gain"] == pytest.approx(np.mean(rises), abs=1e-5)


def test_a_row_is_not_its_own_demonstration(ctx: Context, tinylm: LanguageModel) -> None:
    golden = one_shot(ctx, ANCHORS, ANCHORS, model=tinylm)
    assert golden["one_shot_anchors"].to_list() == [2, 2, 2]
    assert all((2 * score) % 1 == 0 for score in golden["one_shot_golden"])
    pairs = one_shot(ctx, ANCHORS, ANCHORS, model=tinylm, method=Pairwise(neighbors=None))
    listed = [[one["id"] for one in each] for each in pairs["one_shot_utilities"]]
    assert [id_ in ids for id_, ids in zip(ANCHORS["id"], listed, strict=True)] == [False] * 3
    assert [len(ids) for ids in listed] == [2, 2, 2]
    alone = one_shot(ctx, ANCHORS[:1], ANCHORS[:1], model=tinylm)
    assert alone.row(0) == (None, None, 0, None)


def test_an_anchor_is_helped_by_nearly_the_same_row(ctx: Context, tinylm: LanguageModel) -> None:
    again = alpaca([{"instruction": "Name the sea.", "input": "", "output": "The North Sea."}])
    sea = ANCHORS.filter(pl.col("messages").list.first().struct.field("content") == "Name a sea.")
    result = one_shot(ctx, again, sea, model=tinylm)
    assert result["one_shot_golden"].to_list() == [1.0]


def test_a_result_depends_on_the_row_alone(ctx: Context, tinylm: LanguageModel) -> None:
    together = one_shot(ctx, POOL[1:4], ANCHORS, model=tinylm)
    assert one_shot(ctx, POOL[2:3], ANCHORS, model=tinylm).row(0) == together.row(1)


def test_anchors_alone_are_measured_once(ctx: Context, tinylm: LanguageModel) -> None:
    engine: Any = ctx.open(tinylm)
    first = one_shot(ctx, POOL[1:3], ANCHORS, model=tinylm)
    before = ctx.counters["tokens"]
    again = one_shot(ctx, POOL[1:3], ANCHORS, model=tinylm)
    assert again.equals(first)
    asked = exchanges(ANCHORS, engine.tokenizer, "separated")
    saved = sum(len(a.alone().tokens) for a in asked if a is not None)
    assert before - (ctx.counters["tokens"] - before) == saved


def test_what_exceeds_the_limit_is_not_used(ctx: Context, tinylm: LanguageModel) -> None:
    long = conversations([("Say a.", "a " * 40)])
    anchors = pl.concat([ANCHORS, conversations([("Say b.", "b " * 60)])]).sort("id")
    result = one_shot(ctx, long, anchors, model=tinylm, max_length=130)
    assert result["one_shot_anchors"].to_list() == [3]
    result = one_shot(ctx, long, anchors, model=tinylm, max_length=30)
    assert result.row(0) == (None, None, 0, None)


VECTORS = pl.Series("vector", [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], dtype=pl.List(pl.Float32))


def test_utilities_are_those_of_delift(ctx: Context, tinylm: LanguageModel) -> None:
    engine: Any = ctx.open(tinylm)
    rows = ANCHORS.with_columns(VECTORS)
    ids, said = rows["id"].to_list(), list(texts(rows).values())
    result = one_shot(ctx, rows, rows, model=tinylm, method=Pairwise(neighbors=1))
    listed = [[one["id"] for one in each] for each in result["one_shot_utilities"]]
    assert listed == [[ids[1]], [ids[0]], [ids[1]]]

    def distance(log_probs: np.ndarray) -> float:
        return float(np.linalg.norm(np.exp(log_probs) - 1) / np.sqrt(len(log_probs)))

    for shown, asked, of in ((0, 1, 0), (1, 0, 1), (2, 1, 2)):
        query = said[asked]
        assert query is not None
        expected = distance(answer_log_probs(engine, None, query))
        expected -= distance(answer_log_probs(engine, said[shown], query))
        value = result["one_shot_utilities"][of][0]["value"]
        assert value == pytest.approx(expected, abs=1e-5)


def test_miwv_is_what_the_nearest_other_row_costs(ctx: Context, tinylm: LanguageModel) -> None:
    engine: Any = ctx.open(tinylm)
    rows = ANCHORS.with_columns(VECTORS)
    ids, said = rows["id"].to_list(), list(texts(rows).values())
    result = one_shot(ctx, rows, rows, model=tinylm, method=Miwv())
    assert result["one_shot_neighbor"].to_list() == [ids[1], ids[0], ids[1]]
    for row, neighbor in ((0, 1), (1, 0), (2, 1)):
        query = said[row]
        assert query is not None
        lost = answer_log_probs(engine, None, query).mean()
        lost -= answer_log_probs(engine, said[neighbor], query).mean()
        assert result["one_shot_miwv"][row] == pytest.approx(lost, abs=1e-5)
    only = one_shot(ctx, rows[:1], rows[:1], model=tinylm, method=Miwv())
    assert only.row(0) == (None, None, None)


def test_the_nearest_neighbors_are_those_that_fit(ctx: Context, tinylm: LanguageModel) -> None:
    ask = conversations([("Say b.", "b c d")]).with_columns(VECTORS[:1])
    anchors = conversations([("Say a.", "a " * 90), ("Say no.", "No.")])
    is_long = ["a a" in str(messages) for messages in anchors["messages"].to_list()]
    # The long one is nearer.
    vectors = [[1.0, 0.0] if long else [0.0, 1.0] for long in is_long]
    anchors = anchors.with_columns(pl.Series("vector", vectors, dtype=pl.List(pl.Float32)))
    short = anchors["id"][is_long.index(False)]
    for limit, expected in ((60, short), (1000, anchors["id"][is_long.index(True)])):
        miwv = one_shot(ctx, ask, anchors, model=tinylm, method=Miwv(), max_length=limit)
        assert miwv["one_shot_neighbor"].to_list() == [expected]
        pairs = one_shot(
            ctx, ask, anchors, model=tinylm, method=Pairwise(neighbors=1), max_length=limit
        )
        assert [one["id"] for one in pairs["one_shot_utilities"][0]] == [expected]


def test_vectors_of_two_embedders_are_refused(ctx: Context, tinylm: LanguageModel) -> None:
    rows = ANCHORS.with_columns(VECTORS)
    other = rows.with_columns(pl.Series("vector", [[1.0]] * 3, dtype=pl.List(pl.Float32)))
    with pytest.raises(UserError, match="one length on both edges, got 2 and 1"):
        one_shot(ctx, rows, other, model=tinylm, method=Miwv())


@pytest.mark.proof
def test_the_published_anchors_as_rows(ctx: Context, tinylm: LanguageModel, shared: Path) -> None:
    """Nuggets' own 100 anchors: none is measured on itself, and before itself it wins."""
    anchors = alpaca(json_lines(shared / "references/nuggets_anchors_100.json.gz"))
    assert len(anchors) == 100
    few = anchors.sort(pl.col("messages").list.last().struct.field("content").str.len_chars())[:2]
    result = one_shot(ctx, few, anchors, model=tinylm, max_length=160)
    assert 30 < result["one_shot_anchors"].min() <= result["one_shot_anchors"].max() <= 99
    steps = result["one_shot_golden"] * result["one_shot_anchors"]
    assert np.allclose(steps, steps.round(), atol=1e-4)
    engine: Any = ctx.open(tinylm)
    for said in texts(few).values():
        assert said is not None
        rise = answer_log_probs(engine, said, said) - answer_log_probs(engine, None, said)
        assert rise.sum() > 0
