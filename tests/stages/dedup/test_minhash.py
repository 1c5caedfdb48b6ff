"""dedup.minhash against the brute force: all pairs, true Jaccard, connected components."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import find
from stages._minhash import MISS, bands, signatures
from stages._text import Ragged, tokens
from stages.dedup.minhash import minhash
from tests.stages._rows import conversations, evidence, of, sample


def sets_of(rows: pl.DataFrame, n: int) -> dict[str, set]:
    """The n-grams of each conversation by id, in plain Python."""
    result = {}
    for key, messages in rows.select("id", "messages").iter_rows():
        text = "\n".join(m["content"] for m in messages)
        words = tokens(pl.Series([text]))[0].to_list()
        count = max(len(words) - n + 1, min(len(words), 1))
        result[key] = {tuple(words[i : i + n]) for i in range(count)}
    return result


def similarity(a: set, b: set) -> float:
    return len(a & b) / max(len(a | b), 1)


def brute(sets: dict[str, set], threshold: float) -> tuple[set[str], dict[tuple, float]]:
    """What to drop if the least id of each component stays, and all similar pairs."""
    posting: dict[object, list[str]] = {}
    for key, grams in sets.items():
        for gram in grams:
            posting.setdefault(gram, []).append(key)
    close = {pair for keys in posting.values() for pair in combinations(keys, 2)}
    near = {pair: similarity(sets[pair[0]], sets[pair[1]]) for pair in close}
    near = {pair: value for pair, value in near.items() if value >= threshold}
    root = {key: key for key in sets}

    def top(key: str) -> str:
        while root[key] != key:
            key = root[key]
        return key

    for a, b in near:
        low, high = sorted((top(a), top(b)))
        root[high] = low
    return {key for key in sets if top(key) != key}, near


def agrees(ctx: Context, rows: pl.DataFrame, threshold: float, n: int = 5) -> int:
    """Check rows against the brute force; the number of rows dropped."""
    found = evidence(rows, minhash(ctx, rows, jaccard=threshold, ngram=n))
    sets = sets_of(rows, n)
    expected, near = brute(sets, threshold)
    assert set(found) == expected
    for key, told in found.items():
        assert told["twin"] not in found
        assert told["jaccard"] == similarity(sets[key], sets[told["twin"]])
        if told["jaccard"] < threshold:
            link = tuple(sorted((key, told["through"])))
            assert near[link] == told["through_jaccard"]
        else:
            assert "through" not in told
    return len(found)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8])
def test_real_near_duplicates(ctx: Context, threshold: float) -> None:
    narrow = sample("selfbehave.jsonl.gz").head(250)
    wide = sample("self_instruct.jsonl.gz")
    assert agrees(ctx, narrow, threshold) + agrees(ctx, wide, threshold) > 3


word = st.sampled_from(["a", "b", "c", "1", "2", "+", "你"])
talk = st.lists(st.lists(word, max_size=7).map(" ".join), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.lists(talk, min_size=1, max_size=12), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_small_pools(tmp_path_factory: pytest.TempPathFactory, talks: list, t: float) -> None:
    agrees(Context.scratch(tmp_path_factory.mktemp("ctx")), conversations(talks), t, n=3)


def test_the_order_of_rows_does_not_matter(ctx: Context) -> None:
    rows = sample("selfbehave.jsonl.gz")
    mixed = rows.sample(fraction=1.0, shuffle=True, seed=1)
    assert evidence(rows, minhash(ctx, rows)) == evidence(mixed, minhash(ctx, mixed))


LONG = "Write a short story about an old sailor who finds a map in a bottle on the shore"
CHAIN = [LONG + tail for tail in (" one", " one two", " one two three", " one two three four")]


def test_a_chain_names_the_row_kept_and_the_link(ctx: Context) -> None:
    rows = conversations([(text,) for text in CHAIN])
    found = evidence(rows, minhash(ctx, rows, jaccard=0.9, order_by="origin"))
    ids = [of(rows, text) for text in CHAIN]
    assert set(found) == set(ids[1:])
    assert {told["twin"] for told in found.values()} == {ids[0]}
    last = found[ids[3]]
    assert last["jaccard"] < 0.9 <= last["through_jaccard"]
    assert last["through"] == ids[2]
    assert "through" not in found[ids[1]]


def test_which_one_is_kept(ctx: Context) -> None:
    rows = conversations([(text,) for text in CHAIN])
    ids = [of(rows, text) for text in CHAIN]
    quality = {ids[0]: 0.1, ids[1]: float("nan"), ids[2]: 0.7, ids[3]: None}
    scored = rows.with_columns(pl.col("id").replace_strict(quality).alias("quality"))
    kept = {}
    for keep in ("first", "longest", "best:quality"):
        found = evidence(scored, minhash(ctx, scored, jaccard=0.8, keep=keep, order_by="origin"))
        (kept[keep],) = set(ids) - set(found)
    assert kept == {"first": ids[0], "longest": ids[3], "best:quality": ids[2]}


def test_rows_held_before_always_win(ctx: Context) -> None:
    rows = conversations([(text,) for text in CHAIN[1:]])
    held = conversations([(CHAIN[0],), ("Something else",)])
    found = evidence(rows, minhash(ctx, rows, held, jaccard=0.8, keep="longest"))
    assert set(found) == set(rows["id"])
    assert {told["twin"] for told in found.values()} == {of(held, CHAIN[0])}


def test_what_differs_is_never_dropped(ctx: Context) -> None:
    problem = "Tom has {} apples and eats {} of them. How many are left?"
    talks = [(problem.format(i, j), str(i - j)) for i in range(3, 9) for j in range(1, 3)]
    talks += [("yes",), ("no",), ("5 + 3",), ("5 - 3",), ("C++",), ("C#",), ("",), ("", "")]
    talks += [("?",), ("!",), ("你好",), ("您好",)]
    rows = conversations(talks)
    assert len(rows) == len(talks)
    assert evidence(rows, minhash(ctx, rows, jaccard=0.7)) == {}


def test_many_copies_and_near_copies_are_no_quadratic_matter(ctx: Context) -> None:
    talks = [(f"{LONG} and number {i % 10}", " " * i) for i in range(5000)]
    talks += [(f"{LONG} {i} {LONG} end {i % 4}",) for i in range(400)]
    rows = conversations(talks)
    found = evidence(rows, minhash(ctx, rows, jaccard=0.9))
    kept = rows.filter(~pl.col("id").is_in(list(found)))
    endings = {messages[0]["content"].removeprefix(LONG) for messages in kept["messages"]}
    assert {ending for ending in endings if "number" in ending} == {
        f" and number {i}" for i in range(10)
    }


def test_bands_keep_the_miss_small() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9, 1.0):
        number, size = bands(128, threshold) or (0, 0)
        assert 0 < number * size <= 128
        assert (1 - threshold**size) ** number <= MISS
        assert (1 - threshold ** (size + 1)) ** (128 // (size + 1)) > MISS or threshold == 1.0
    assert bands(16, 0.2) is None


def test_signatures_agree_as_often_as_the_sets_are_similar() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**64, 1500, dtype=np.uint64)
    for shared in (200, 500, 800):
        two = np.concatenate([values[: 500 + shared // 2], values[500 - shared // 2 : 1000]])
        ragged = Ragged(np.array([0, 500 + shared // 2, 1000 + shared]), two)
        signature = signatures(ragged, 2000, seed=3)
        expected = shared / 1000
        error = (expected * (1 - expected) / 2000) ** 0.5
        assert abs((signature[:, 0] == signature[:, 1]).mean() - expected) < 4 * error


@pytest.mark.parametrize(
    "wrong", [{"keep": "shortest"}, {"keep": "best:"}, {"jaccard": 0.0}, {"permutations": 4}]
)
def test_mistakes_are_told_before_the_run(wrong: dict) -> None:
    stage = find("dedup.minhash")
    options = SimpleNamespace(**{o.name: o.default for o in stage.options} | wrong)
    with pytest.raises(UserError):
        stage.check(options)


def test_it_reads_what_it_needs() -> None:
    stage = find("dedup.minhash")
    options = SimpleNamespace(field="instruction", keep="best:ifd", order_by="origin")
    assert list(stage.reads("rows", options)) == ["messages", "input_start", "origins", "ifd"]
    assert list(stage.reads("held", options)) == ["messages", "input_start"]


@pytest.mark.proof
def test_templated_pool_at_scale(ctx: Context, shared: Path) -> None:
    frame = pl.read_parquet(shared / "pools/t0_train_templates.parquet").head(12_000)
    rows = conversations(list(frame.select("prompt", "completion").iter_rows()))
    assert agrees(ctx, rows, 0.8) > 100
