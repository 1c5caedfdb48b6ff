"""dedup.novelty against the loop over rows with the `rouge_score` package."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from stages._text.rouge import Vocabulary, f1, tokenize
from stages.dedup.novelty import Cosine, RougeL, novelty
from stages.dedup.novelty.greedy_filter import greedy_novelty
from tests.support.options import options_of
from tests.support.rows import DATA, conversations, evidence, json_lines, of


class Remembering(DefaultTokenizer):
    """The package's tokeniser, which reads each text once instead of once a pair."""

    def __init__(self, stem: bool) -> None:
        super().__init__(use_stemmer=stem)
        self.tokenize = cache(super().tokenize)


PAIRS = [(5, 2), (7, 3), (12, 10), (9, 8)]


def reference(
    texts: Sequence[tuple[str, str]], n_held: int, threshold: float, inclusive: bool, stem: bool
) -> dict[str, dict]:
    """The sequential loop, in rouge_score's own arithmetic; texts are (id, text) in order."""
    scorer = RougeScorer(["rougeL"], tokenizer=Remembering(stem))
    kept = list(texts[:n_held])
    dropped = {}
    for key, text in texts[n_held:]:
        best, kept_id = 0.0, ""
        for other, earlier in kept:
            score = scorer.score(earlier, text)["rougeL"].fmeasure
            if score > best:
                best, kept_id = score, other
        if best > threshold or (inclusive and best == threshold):
            dropped[key] = {"duplicate_of": kept_id, "rouge_l": best}
        else:
            kept.append((key, text))
    return dropped


def texts_of(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """(id, first turn) in id order."""
    return [(key, messages[0]["content"]) for key, messages in rows["id", "messages"].iter_rows()]


word = st.sampled_from(["write", "writes", "a", "poem", "on", "7", "8", "诗"])
turns = st.lists(st.lists(word, max_size=9).map(" ".join).map(lambda t: [t]), min_size=1)


@given(
    turns,
    st.lists(st.lists(word, max_size=9).map(" ".join).map(lambda t: [t]), max_size=4),
    st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_small_pools(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list,
    seeds: list,
    threshold: float,
    inclusive: bool,
    stem: bool,
) -> None:
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    rows, held = conversations(turns), conversations(seeds)
    method = RougeL(threshold=threshold, stem=stem)
    verdicts = novelty(ctx, rows, held, method=method, inclusive=inclusive)
    both = texts_of(held) + texts_of(rows)
    assert evidence(rows, verdicts) == reference(both, len(held), threshold, inclusive, stem)


@pytest.mark.parametrize(
    ("threshold", "order_by", "inclusive", "stem"),
    [(0.5, "id", False, False), (0.4, "origin", True, True)],
)
def test_real_instructions(
    ctx: Context,
    monkeypatch: pytest.MonkeyPatch,
    threshold: float,
    order_by: str,
    inclusive: bool,
    stem: bool,
) -> None:
    monkeypatch.setattr("stages.dedup.novelty.greedy_filter._BLOCK", 64)
    pool = json_lines(DATA / "samples/self_instruct.jsonl.gz")[:250]
    seeds = json_lines(DATA / "seeds/self_instruct_seed_tasks.jsonl")[:40]
    rows = conversations([(row["instruction"],) for row in pool])
    held = conversations([(row["instruction"],) for row in seeds])
    method = RougeL(threshold=threshold, stem=stem)
    verdict = novelty(ctx, rows, held, method=method, inclusive=inclusive, order_by=order_by)
    ordered = rows
    if order_by == "origin":
        ordered = rows.sort(pl.col("origins").list.first().struct.field("index"))
    both = texts_of(held) + texts_of(ordered)
    dropped = evidence(rows, verdict)
    assert dropped == reference(both, len(held), threshold, inclusive, stem)
    assert len(dropped) > 5


def test_a_dropped_row_does_not_count(ctx: Context) -> None:
    texts = ["one two three four", "one two three four five", "two three four five six"]
    rows = conversations([(text,) for text in texts])
    dropped = evidence(rows, novelty(ctx, rows, method=RougeL(threshold=0.75), order_by="origin"))
    first, second, _ = (of(rows, text) for text in texts)
    assert dropped == {second: {"duplicate_of": first, "rouge_l": 0.888888888888889}}


def test_exactly_seven_tenths_is_as_the_reference_has_it(ctx: Context) -> None:
    shared = "a b c d e f g"
    rows = conversations([(f"{shared} h",), (f"{shared} i j k l m",)])
    dropped = evidence(rows, novelty(ctx, rows))
    assert [cause["rouge_l"] for cause in dropped.values()] == [0.7000000000000001]


def test_at_or_above(ctx: Context) -> None:
    rows = conversations([("a b c d",), ("a b e f",)])
    assert evidence(rows, novelty(ctx, rows, method=RougeL(threshold=0.5))) == {}
    assert (
        len(evidence(rows, novelty(ctx, rows, method=RougeL(threshold=0.5), inclusive=True))) == 1
    )


def test_numbers_tell_instructions_distinct_and_other_scripts_are_kept(ctx: Context) -> None:
    rows = conversations(
        [("写一首诗",), ("写一首诗。",), ("",), ("?!",), ("Add 1 2",), ("Add 3 4",)]
    )
    assert evidence(rows, novelty(ctx, rows)) == {}


def test_the_order_of_rows_does_not_matter(ctx: Context) -> None:
    pool = json_lines(DATA / "samples/self_instruct.jsonl.gz")
    rows = conversations([(row["instruction"],) for row in pool])
    mixed = rows.sample(fraction=1.0, shuffle=True, seed=1)
    dropped = evidence(rows, novelty(ctx, rows, method=RougeL(threshold=0.5)))
    assert dropped == evidence(mixed, novelty(ctx, mixed, method=RougeL(threshold=0.5)))
    assert dropped


def test_one_of_each_pair_stays(ctx: Context) -> None:
    turns = [
        (f"name the capital city of {place}{end}",) for place in "abcdefgh" for end in ("", "!")
    ]
    rows = conversations(turns)
    dropped = evidence(rows, novelty(ctx, rows, method=RougeL(threshold=0.9)))
    assert len(dropped) == 8
    assert {cause["duplicate_of"] for cause in dropped.values()} | set(dropped) == set(rows["id"])


def with_vectors(rows: pl.DataFrame, vectors: NDArray) -> pl.DataFrame:
    column = np.asarray(vectors, np.float32).tolist()
    return rows.with_columns(pl.Series("v", column, pl.List(pl.Float32)))


def test_by_cosine(ctx: Context) -> None:
    degrees = [0, 20, 40, 100, 101]
    radians = np.radians(degrees)
    circle = np.stack([np.cos(radians), np.sin(radians)], axis=1) * 5
    rows = pl.DataFrame({"id": list("abcde"), "n": [2, 1, 0, 4, 3]}).pipe(with_vectors, circle)
    dropped = evidence(rows, novelty(ctx, rows, method=Cosine(vector="v")))
    assert {key: cause["duplicate_of"] for key, cause in dropped.items()} == {"b": "a", "e": "d"}
    assert [cause["cosine"] for cause in dropped.values()] == pytest.approx(
        np.cos(np.radians([20, 1])), abs=1e-6
    )
    by_n = evidence(rows, novelty(ctx, rows, method=Cosine(vector="v"), order_by="n"))
    assert {key: cause["duplicate_of"] for key, cause in by_n.items()} == {"b": "c", "d": "e"}
    seeds = rows[:1].with_columns(id=pl.lit("seed"))
    seeded = evidence(rows, novelty(ctx, rows, seeds, method=Cosine(vector="v")))
    assert {key: cause["duplicate_of"] for key, cause in seeded.items()} == {
        "a": "seed",
        "b": "seed",
        "e": "d",
    }
    near = Cosine(vector="v", threshold=0.9999)
    assert set(evidence(rows, novelty(ctx, rows, seeds, method=near))) == {"a"}
    zeros = with_vectors(rows.drop("v"), np.zeros((5, 2)))
    assert evidence(zeros, novelty(ctx, zeros, zeros, method=Cosine(vector="v"))) == {}


def test_the_columns_that_are_read(ctx: Context) -> None:
    stage = find("dedup.novelty")
    words = options_of(novelty, order_by="score desc")
    assert stage.reads("rows", words) == ["messages", "input_start", "score"]
    assert stage.reads("held", words) == ["messages", "input_start"]
    cosine = options_of(novelty, method=Cosine(vector="v"), order_by="v")
    assert stage.reads("rows", cosine) == stage.reads("held", cosine) == ["v"]
    rows = pl.DataFrame(
        {"id": ["a", "b"], "v": [[1.0], None]}, {"id": str, "v": pl.List(pl.Float32)}
    )
    with pytest.raises(UserError, match="missing"):
        novelty(ctx, rows, method=Cosine(vector="v"))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "cosine", "stem": True}, "method (cosine) has no option 'stem'"),
        ({"name": "cosine", "field": "response"}, "method (cosine) has no option 'field'"),
        ({"name": "rouge_l", "vector": "v"}, "method (rouge_l) has no option 'vector'"),
        ({"name": "rouge_l", "threshold": 0.0}, "method.threshold must be above 0, got 0.0"),
        ({"name": "cosine", "threshold": 1.1}, "method.threshold must be at most 1, got 1.1"),
    ],
)
def test_options_of_one_method_only(method: dict, expected: str) -> None:
    _, (problem,) = bind(find("dedup.novelty"), {"method": method}, {}, Path())
    assert problem.what == expected


def test_a_method_may_be_its_name() -> None:
    options, problems = bind(find("dedup.novelty"), {"method": "cosine"}, {}, Path())
    assert not problems
    assert options.method == Cosine(threshold=0.9, vector="vector")


def test_no_rows(ctx: Context) -> None:
    rows = conversations([("one two",)])
    for held in (None, rows):
        assert len(novelty(ctx, rows[:0], held)) == 0
    empty = with_vectors(rows[:0], np.zeros((0, 2)))
    some = with_vectors(rows, np.ones((1, 2)))
    for pair in ((empty, None), (empty, some), (some, empty)):
        assert evidence(pair[0], novelty(ctx, *pair, method=Cosine(vector="v"))) == {}


def alpaca(shared: Path) -> list[list[int]]:
    """Token numbers of the 175 seed instructions and the 52,002 of Alpaca."""
    seeds = json_lines(shared / "pools/self_instruct_seed_tasks.jsonl")
    pool = json.loads(gzip.decompress((shared / "pools/alpaca_52k.json.gz").read_bytes()))
    vocabulary = Vocabulary()
    return [vocabulary.encode(tokenize(row["instruction"])) for row in [*seeds, *pool]]


@pytest.mark.proof
def test_alpaca_is_novel_throughout(shared: Path) -> None:
    """The published invariant: Alpaca's own filter left no pair above 0.7."""
    sequences = alpaca(shared)
    assert len(sequences) == 52_177
    verdicts = greedy_novelty(sequences, n_reference=175, threshold=0.7)
    assert (verdicts.duplicate_of == -1).all()


@pytest.mark.proof
def test_alpaca_has_2587_pairs_just_below_the_threshold(shared: Path) -> None:
    """All 1.36 billion pairs without any bound: as a check of the bounds, too."""
    sequences = alpaca(shared)
    lengths = np.array([len(sequence) for sequence in sequences])
    above, between, pairs, step = 0, 0, 0, 256
    for start in range(0, len(sequences), step):
        block, before = sequences[start : start + step], sequences[: start + step]
        lcs = cdist(before, block, scorer=LCSseq.similarity, dtype=np.uint16, workers=-1)
        both = np.add.outer(lengths[: start + step], lengths[start : start + step])
        earlier, later = np.nonzero(lcs * np.uint16(2) >= 0.68 * both)
        # The seeds were never filtered among each other.
        distinct = (earlier < later + start) & (later + start >= 175)
        earlier, later = earlier[distinct], later[distinct]
        score = f1(lcs[earlier, later], lengths[earlier], lengths[later + start])
        above += int((score > 0.7).sum())
        between += int(((score >= 0.69) & (score <= 0.7)).sum())
        pairs += sum(range(max(start, 175), start + len(block)))
    assert pairs == 52_002 * 175 + 52_002 * 52_001 // 2
    assert (above, between) == (0, 2587)


def test_inputs_count_where_the_prompt_is_compared(ctx: Context) -> None:
    rows = conversations([(f"Translate the text into French.\n\nword{n}", "x") for n in (1, 2)])
    rows = rows.with_columns(input_start=pl.lit(33, pl.Int32))
    assert novelty(ctx, rows)["drop_reason"].null_count() == 1
    assert (
        novelty(ctx, rows, method=RougeL(field="prompt", threshold=0.9))["drop_reason"].null_count()
        == 2
    )


@pytest.mark.parametrize("order_by", ["id", "id desc"])
def test_numbers_make_a_problem_another_where_that_is_asked_for(
    ctx: Context, order_by: str
) -> None:
    texts = [f"Tom has {n} apples and eats {m} of them. How many are left?" for n, m in PAIRS]
    rows = conversations([(text, str(i)) for i, text in enumerate([*texts, texts[0] + " Say!"])])
    seeds = conversations([(texts[1] + " Now.", "x")])
    assert novelty(ctx, rows, seeds, order_by=order_by)["drop_reason"].null_count() == 0
    compared = RougeL(compare_numbers=True)
    verdicts = novelty(ctx, rows, seeds, method=compared, order_by=order_by)
    assert verdicts["drop_reason"].null_count() == len(PAIRS) - 1  # one like the seed, one a copy
    for row, why in zip(rows["messages"], verdicts["evidence"], strict=True):
        if why is not None:
            kept = json.loads(why)["duplicate_of"]
            original = pl.concat([rows, seeds]).filter(pl.col("id") == kept)["messages"][0]
            numbers = [re.findall(r"\d+", messages[0]["content"]) for messages in (row, original)]
            assert numbers[0] == numbers[1]
