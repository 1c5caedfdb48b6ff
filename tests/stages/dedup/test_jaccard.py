"""dedup.jaccard, and what it has in common with dedup.minhash, against the brute force."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from schemas.records import RECORD_COLUMNS
from stages.dedup.jaccard import jaccard
from stages.dedup.minhash import minhash
from tests.bench.pools import edited_pool, records
from tests.support.near_duplicates import Stage, agree, components, kept
from tests.support.rows import conversations, evidence, frame, of, record, sample

both = pytest.mark.parametrize("stage", [jaccard, minhash])


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8])
def test_real_near_duplicates(ctx: Context, threshold: float) -> None:
    narrow = sample("selfbehave.jsonl.gz").head(150)
    wide = sample("self_instruct.jsonl.gz").head(2000)
    stages = (jaccard, minhash)
    assert agree(stages, ctx, narrow, threshold) + agree(stages, ctx, wide, threshold) >= 3


word = st.sampled_from(["a", "b", "c", "1", "2", "+", "你"])
conversation = st.lists(st.lists(word, max_size=7).map(" ".join), min_size=1, max_size=3)


@given(st.lists(conversation, min_size=1, max_size=12), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_small_pools(
    tmp_path_factory: pytest.TempPathFactory, turns: list, threshold: float
) -> None:
    scratch = Context.scratch(tmp_path_factory.mktemp("ctx"))
    agree((jaccard, minhash), scratch, conversations(turns), threshold, n=3)


@both
def test_the_order_of_rows_does_not_matter(ctx: Context, stage: Stage) -> None:
    rows = sample("selfbehave.jsonl.gz")
    mixed = rows.sample(fraction=1.0, shuffle=True, seed=1)
    assert evidence(rows, stage(ctx, rows)) == evidence(mixed, stage(ctx, mixed))


LONG = "Write a short story about an old sailor who finds a map in a bottle on the shore"
CHAIN = [LONG + tail for tail in (" one", " one two", " one two three", " one two three four")]


@both
def test_a_chain_names_the_row_kept_and_the_link(ctx: Context, stage: Stage) -> None:
    rows = conversations([(text,) for text in CHAIN])
    dropped = evidence(rows, stage(ctx, rows, threshold=0.9, order_by="origin"))
    ids = [of(rows, text) for text in CHAIN]
    assert set(dropped) == set(ids[1:])
    assert {cause["duplicate_of"] for cause in dropped.values()} == {ids[0]}
    last = dropped[ids[3]]
    assert last["jaccard"] < 0.9 <= last["through_jaccard"]
    assert last["through"] == ids[2]
    assert "through" not in dropped[ids[1]]


@both
def test_which_one_is_kept(ctx: Context, stage: Stage) -> None:
    rows = conversations([(text,) for text in CHAIN])
    ids = [of(rows, text) for text in CHAIN]
    # Below zero is a value, a missing one and NaN are none: they lose against all values.
    quality = {ids[0]: float("nan"), ids[1]: -1.0, ids[2]: 0.0, ids[3]: None}
    scored = rows.with_columns(pl.col("id").replace_strict(quality).alias("quality"))
    remaining = {}
    for keep in ("first", "longest", "best:quality"):
        verdict = stage(ctx, scored, threshold=0.8, keep=keep, order_by="origin")
        (remaining[keep],) = kept(scored, verdict)
    assert remaining == {"first": ids[0], "longest": ids[3], "best:quality": ids[2]}
    negative = scored.with_columns(pl.col("quality").replace(0.0, None))
    verdict = stage(ctx, negative, threshold=0.8, keep="best:quality", order_by="origin")
    assert kept(negative, verdict) == [ids[1]]


@both
def test_rows_held_before_always_win(ctx: Context, stage: Stage) -> None:
    rows = conversations([(text,) for text in [*CHAIN[1:], "A row of its own, unlike any other"]])
    held = conversations([(CHAIN[0],), ("Something else",), ("Something else", "")])
    dropped = evidence(rows, stage(ctx, rows, held, threshold=0.8, keep="longest"))
    assert set(dropped) == {of(rows, text) for text in CHAIN[1:]}
    assert {cause["duplicate_of"] for cause in dropped.values()} == {of(held, CHAIN[0])}
    # The same rows once more: all are there already, by whichever similar row is first.
    again = evidence(rows, stage(ctx, rows, rows))
    assert set(again) == set(rows["id"])
    alone = of(rows, "A row of its own, unlike any other")
    assert again[alone] == {"duplicate_of": alone, "jaccard": 1.0}


@both
def test_what_differs_is_never_dropped(ctx: Context, stage: Stage) -> None:
    problem = "Tom has {} apples and eats {} of them. How many are left?"
    turns: list[tuple] = [
        (problem.format(i, j), str(i - j)) for i in range(3, 9) for j in range(1, 3)
    ]
    # Shorter than an n-gram: compared whole.
    turns += [("yes",), ("no",), ("5 + 3",), ("5 - 3",), ("C++",), ("C#",), ("你好",), ("您好",)]
    turns += [
        ("3.5",),
        ("3:5",),
        ("35",),
        ("3 5",),
        ("5!",),
        ("5",),
        ("-5",),
        ("1,000",),
        ("1 000",),
    ]
    # Without a token: like nothing, not even each other.
    turns += [("",), ("", ""), ("?",), ("!",), (" ", "\n")]
    rows = conversations(turns)
    assert len(rows) == len(turns)
    assert evidence(rows, stage(ctx, rows, threshold=0.7)) == {}


@both
def test_of_each_group_one_row_stays(ctx: Context, stage: Stage) -> None:
    turns = [(f"{LONG} number {i % 3}", " " * i) for i in range(30)]
    rows = conversations(turns)
    dropped = evidence(rows, stage(ctx, rows, threshold=1.0))
    assert len(rows) - len(dropped) == 3
    assert not {cause["duplicate_of"] for cause in dropped.values()} & set(dropped)
    assert {cause["jaccard"] for cause in dropped.values()} == {1.0}


@both
@pytest.mark.parametrize("turns", [[], [("",)], [("one",)], [("one",), ("two",)]])
def test_pools_of_next_to_nothing(ctx: Context, stage: Stage, turns: list) -> None:
    rows = conversations(turns) if turns else pl.DataFrame(schema=RECORD_COLUMNS)
    verdict = stage(ctx, rows)
    assert verdict.schema == {"drop_reason": pl.String, "evidence": pl.String}
    assert kept(rows, verdict) == rows["id"].to_list()
    assert kept(rows, stage(ctx, rows, conversations([("", "")]))) == rows["id"].to_list()
    assert kept(rows, stage(ctx, rows, pl.DataFrame(schema=RECORD_COLUMNS))) == rows["id"].to_list()


@both
def test_fields_are_compared_by_themselves(ctx: Context, stage: Stage) -> None:
    rivers = "Name three rivers of Asia, please, and tell me how long each of them is"
    bread = "Explain in plain words why the dough of a good bread has to rest over night"
    brief = "Answer as briefly as you can and never in more than one single short sentence"
    three = ("system", "user", "assistant")
    rows = frame(
        [
            record("", LONG, "ok", roles=three),
            record(brief, LONG, "ok", roles=three),
            record(LONG, rivers),
            record(f"{LONG}\n\n{bread}", "no", input_start=len(LONG) + 2),
            record(bread, brief, "Go on", rivers),
        ]
    )
    dropped = {
        field: len(rows) - len(kept(rows, stage(ctx, rows, field=field)))
        for field in ("conversation", "prompt", "instruction", "response", "both")
    }
    # The first two differ in their system turn; the fourth has the input of its own.
    assert dropped == {
        "conversation": 0,
        "prompt": 2,
        "instruction": 3,
        "response": 2,
        "both": 1,
    }


def test_edited_rows_as_all_pairs_have_it(ctx: Context) -> None:
    texts = ["\n".join(m["content"] for m in messages) for messages in sample_conversations(700)]
    rows = records(edited_pool(texts, 4000, seed=1))
    listed = [messages[0]["content"] for messages in rows["messages"]]
    for threshold in (0.6, 0.8):
        roots = components(listed, 5, threshold)
        expected = {rows["id"][i]: rows["id"][r] for i, r in enumerate(roots) if i != r}
        assert len(expected) > 500
        for stage in (jaccard, minhash):
            dropped = evidence(rows, stage(ctx, rows, threshold=threshold))
            assert {key: cause["duplicate_of"] for key, cause in dropped.items()} == expected


def sample_conversations(count: int) -> list:
    return sample("self_instruct.jsonl.gz").head(count)["messages"].to_list()


def test_many_copies_and_near_copies_are_no_quadratic_matter(ctx: Context) -> None:
    turns = [(f"{LONG} and number {i % 10}", " " * i) for i in range(3000)]
    turns += [(f"{LONG} {i} {LONG} end {i % 4}",) for i in range(400)]
    rows = conversations(turns)
    remaining = set(kept(rows, jaccard(ctx, rows, threshold=0.9)))
    first = pl.col("messages").list.first().struct.field("content")
    texts = rows.filter(pl.col("id").is_in(list(remaining))).select(first.alias("t"))["t"]
    endings = {text.removeprefix(LONG) for text in texts if " and number" in text}
    assert endings == {f" and number {i}" for i in range(10)}


@pytest.mark.parametrize(
    ("option", "wrong", "expected"),
    [
        ("keep", "shortest", "keep must be first, longest or best:COLUMN, got 'shortest'"),
        ("keep", "best:", "keep must be first, longest or best:COLUMN, got 'best:'"),
        ("threshold", 0.0, "threshold must be above 0, got 0.0"),
        ("threshold", 1.1, "threshold must be at most 1, got 1.1"),
        ("ngram_size", 0, "ngram_size must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("name", ["dedup.jaccard", "dedup.minhash"])
def test_mistakes_are_reported_before_the_run(
    name: str, option: str, wrong: object, expected: str
) -> None:
    _, (problem,) = bind(find(name), {option: wrong}, {}, Path())
    assert problem.what == expected


def test_it_reads_what_it_needs() -> None:
    stage = find("dedup.jaccard")
    options = SimpleNamespace(field="instruction", view="calls", keep="best:ifd", order_by="origin")
    assert list(stage.reads("rows", options)) == ["messages", "input_start", "origins", "ifd"]
    assert list(stage.reads("held", options)) == ["messages", "input_start"]


@pytest.mark.proof
@both
def test_alpaca_and_edited_rows_at_scale(ctx: Context, stage: Stage, shared: Path) -> None:
    """F1 = 1 against all pairs: the pool of the issue, and 40,000 rows with seeded edits."""
    import gzip

    read = json.loads(gzip.decompress((shared / "pools/alpaca_52k.json.gz").read_bytes()))
    parts = [[row["instruction"], row["input"], row["output"]] for row in read]
    texts = ["\n".join(filter(None, part)) for part in parts]
    for pool in (texts, edited_pool(texts[:10_000], 40_000, seed=0)):
        rows = records(pool)
        listed = [messages[0]["content"] for messages in rows["messages"]]
        roots = components(listed, 5, 0.8)
        expected = {rows["id"][i]: rows["id"][r] for i, r in enumerate(roots) if i != r}
        dropped = evidence(rows, stage(ctx, rows, threshold=0.8))
        assert {key: cause["duplicate_of"] for key, cause in dropped.items()} == expected
        assert expected


@pytest.mark.proof
def test_templated_pool_at_scale(ctx: Context, shared: Path) -> None:
    """Passages under several templates: long texts, large groups, much boilerplate."""
    pool = pl.read_parquet(shared / "pools/t0_train_templates.parquet").head(12_000)
    rows = conversations(list(pool.select("prompt", "completion").iter_rows()))
    listed = ["\n".join(m["content"] for m in messages) for messages in rows["messages"]]
    roots = components(listed, 5, 0.8)
    expected = {rows["id"][i]: rows["id"][r] for i, r in enumerate(roots) if i != r}
    assert len(expected) > 100
    for stage in (jaccard, minhash):
        dropped = evidence(rows, stage(ctx, rows, threshold=0.8))
        assert {key: cause["duplicate_of"] for key, cause in dropped.items()} == expected
