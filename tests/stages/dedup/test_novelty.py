"""dedup.novelty against the loop over rows with the `rouge_score` package."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import describe
from stages._text.rouge import Vocabulary, f1, tokenize
from stages._vectors.greedy_dedup import DropAt
from stages.dedup._novelty.greedy_filter import greedy_novelty
from stages.dedup.novelty import novelty
from tests.support.rows import DATA, conversations, evidence, json_lines, of


class Remembering(DefaultTokenizer):
    """The package's tokeniser, which reads each text once instead of once a pair."""

    def __init__(self, stem: bool) -> None:
        super().__init__(use_stemmer=stem)
        self.tokenize = cache(super().tokenize)


PAIRS = [(5, 2), (7, 3), (12, 10), (9, 8)]


def reference(
    texts: Sequence[tuple[str, str]], given: int, threshold: float, at: bool, stem: bool
) -> dict[str, dict]:
    """The sequential loop, in rouge_score's own arithmetic; texts are (id, text) in order."""
    scorer = RougeScorer(["rougeL"], tokenizer=Remembering(stem))
    kept = list(texts[:given])
    dropped = {}
    for key, text in texts[given:]:
        best, twin = 0.0, ""
        for other, earlier in kept:
            score = scorer.score(earlier, text)["rougeL"].fmeasure
            if score > best:
                best, twin = score, other
        if best > threshold or (at and best == threshold):
            dropped[key] = {"twin": twin, "rouge_l": best}
        else:
            kept.append((key, text))
    return dropped


def texts_of(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """(id, first turn) in id order."""
    return [(key, messages[0]["content"]) for key, messages in rows["id", "messages"].iter_rows()]


word = st.sampled_from(["write", "writes", "a", "poem", "on", "7", "8", "诗"])
talks = st.lists(st.lists(word, max_size=9).map(" ".join).map(lambda t: [t]), min_size=1)


@settings(max_examples=150)
@given(
    talks,
    st.lists(st.lists(word, max_size=9).map(" ".join).map(lambda t: [t]), max_size=4),
    st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_small_pools(
    tmp_path_factory: pytest.TempPathFactory,
    talks: list,
    seeds: list,
    threshold: float,
    at: bool,
    stem: bool,
) -> None:
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    rows, against = conversations(talks), conversations(seeds)
    found = novelty(
        ctx, rows, against, threshold=threshold, drop_at="at" if at else "above", stem=stem
    )
    both = texts_of(against) + texts_of(rows)
    assert evidence(rows, found) == reference(both, len(against), threshold, at, stem)


@pytest.mark.parametrize(
    ("threshold", "order_by", "at", "stem"),
    [(0.5, "id", False, False), (0.4, "origin", True, True)],
)
def test_real_instructions(
    ctx: Context,
    monkeypatch: pytest.MonkeyPatch,
    threshold: float,
    order_by: str,
    at: bool,
    stem: bool,
) -> None:
    monkeypatch.setattr("stages.dedup._novelty.greedy_filter._BLOCK", 64)
    pool = json_lines(DATA / "samples/self_instruct.jsonl.gz")[:350]
    seeds = json_lines(DATA / "seeds/self_instruct_seed_tasks.jsonl")[:40]
    rows = conversations([(row["instruction"],) for row in pool])
    against = conversations([(row["instruction"],) for row in seeds])
    drop_at: DropAt = "at" if at else "above"
    verdict = novelty(
        ctx, rows, against, threshold=threshold, drop_at=drop_at, stem=stem, order_by=order_by
    )
    ordered = rows
    if order_by == "origin":
        ordered = rows.sort(pl.col("origins").list.first().struct.field("index"))
    both = texts_of(against) + texts_of(ordered)
    found = evidence(rows, verdict)
    assert found == reference(both, len(against), threshold, at, stem)
    assert len(found) > 5


def test_a_dropped_row_does_not_count(ctx: Context) -> None:
    texts = ["one two three four", "one two three four five", "two three four five six"]
    rows = conversations([(text,) for text in texts])
    found = evidence(rows, novelty(ctx, rows, threshold=0.75, order_by="origin"))
    first, second, _ = (of(rows, text) for text in texts)
    assert found == {second: {"twin": first, "rouge_l": 0.888888888888889}}


def test_exactly_seven_tenths_is_as_the_reference_has_it(ctx: Context) -> None:
    shared = "a b c d e f g"
    rows = conversations([(f"{shared} h",), (f"{shared} i j k l m",)])
    found = evidence(rows, novelty(ctx, rows))
    assert [told["rouge_l"] for told in found.values()] == [0.7000000000000001]


def test_at_or_above(ctx: Context) -> None:
    rows = conversations([("a b c d",), ("a b e f",)])
    assert evidence(rows, novelty(ctx, rows, threshold=0.5)) == {}
    assert len(evidence(rows, novelty(ctx, rows, threshold=0.5, drop_at="at"))) == 1


def test_numbers_tell_instructions_apart_and_other_scripts_are_kept(ctx: Context) -> None:
    rows = conversations(
        [("写一首诗",), ("写一首诗。",), ("",), ("?!",), ("Add 1 2",), ("Add 3 4",)]
    )
    assert evidence(rows, novelty(ctx, rows)) == {}


def test_the_order_of_rows_does_not_matter(ctx: Context) -> None:
    pool = json_lines(DATA / "samples/self_instruct.jsonl.gz")
    rows = conversations([(row["instruction"],) for row in pool])
    mixed = rows.sample(fraction=1.0, shuffle=True, seed=1)
    found = evidence(rows, novelty(ctx, rows, threshold=0.5))
    assert found == evidence(mixed, novelty(ctx, mixed, threshold=0.5))
    assert found


def test_one_of_each_pair_stays(ctx: Context) -> None:
    talks = [
        (f"name the capital city of {place}{end}",) for place in "abcdefgh" for end in ("", "!")
    ]
    rows = conversations(talks)
    found = evidence(rows, novelty(ctx, rows, threshold=0.9))
    assert len(found) == 8
    assert {told["twin"] for told in found.values()} | set(found) == set(rows["id"])


def with_vectors(rows: pl.DataFrame, vectors: NDArray) -> pl.DataFrame:
    column = np.asarray(vectors, np.float32).tolist()
    return rows.with_columns(pl.Series("v", column, pl.List(pl.Float32)))


def test_by_cosine(ctx: Context) -> None:
    degrees = [0, 20, 40, 100, 101]
    turned = np.radians(degrees)
    circle = np.stack([np.cos(turned), np.sin(turned)], axis=1) * 5
    rows = pl.DataFrame({"id": list("abcde"), "n": [2, 1, 0, 4, 3]}).pipe(with_vectors, circle)
    found = evidence(rows, novelty(ctx, rows, measure="cosine", vector="v"))
    assert {key: told["twin"] for key, told in found.items()} == {"b": "a", "e": "d"}
    assert [told["cosine"] for told in found.values()] == pytest.approx(
        np.cos(np.radians([20, 1])), abs=1e-6
    )
    by_n = evidence(rows, novelty(ctx, rows, measure="cosine", vector="v", order_by="n"))
    assert {key: told["twin"] for key, told in by_n.items()} == {"b": "c", "d": "e"}
    seeds = rows[:1].with_columns(id=pl.lit("seed"))
    seeded = evidence(rows, novelty(ctx, rows, seeds, measure="cosine", vector="v"))
    assert {key: told["twin"] for key, told in seeded.items()} == {
        "a": "seed",
        "b": "seed",
        "e": "d",
    }
    near = {"measure": "cosine", "vector": "v", "threshold": 0.9999}
    assert set(evidence(rows, novelty(ctx, rows, seeds, **near))) == {"a"}
    zeros = with_vectors(rows.drop("v"), np.zeros((5, 2)))
    assert evidence(zeros, novelty(ctx, zeros, zeros, measure="cosine", vector="v")) == {}


def test_what_is_read_and_what_cannot_be(ctx: Context) -> None:
    stage = describe("dedup.novelty", novelty)
    told = {option.name: option.default for option in stage.options}
    words = SimpleNamespace(**told | {"order_by": "score desc"})
    assert stage.reads("rows", words) == ["messages", "input_start", "score"]
    assert stage.reads("against", words) == ["messages", "input_start"]
    cosine = SimpleNamespace(**told | {"measure": "cosine", "vector": "v", "order_by": "v"})
    assert stage.reads("rows", cosine) == stage.reads("against", cosine) == ["v"]
    assert stage.check is not None
    mistakes = [{"measure": "cosine", "stem": True}, {"measure": "cosine", "numbers": True}]
    for wrong in (*mistakes, {"threshold": 0.0}, {"threshold": 1.1}):
        with pytest.raises(UserError):
            stage.check(SimpleNamespace(**told | wrong))
    stage.check(cosine)
    rows = pl.DataFrame(
        {"id": ["a", "b"], "v": [[1.0], None]}, {"id": str, "v": pl.List(pl.Float32)}
    )
    with pytest.raises(UserError, match="missing"):
        novelty(ctx, rows, measure="cosine", vector="v")


def test_no_rows(ctx: Context) -> None:
    rows = conversations([("one two",)])
    for against in (None, rows):
        assert len(novelty(ctx, rows[:0], against)) == 0
    empty = with_vectors(rows[:0], np.zeros((0, 2)))
    some = with_vectors(rows, np.ones((1, 2)))
    for pair in ((empty, None), (empty, some), (some, empty)):
        assert evidence(pair[0], novelty(ctx, *pair, measure="cosine", vector="v")) == {}


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
    verdicts = greedy_novelty(sequences, given=175, threshold=0.7)
    assert (verdicts.twin == -1).all()


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
        apart = (earlier < later + start) & (later + start >= 175)
        earlier, later = earlier[apart], later[apart]
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
    assert novelty(ctx, rows, field="prompt", threshold=0.9)["drop_reason"].null_count() == 2


@pytest.mark.parametrize("order_by", ["id", "id desc"])
def test_numbers_make_a_problem_another_where_that_is_asked_for(
    ctx: Context, order_by: str
) -> None:
    texts = [f"Tom has {n} apples and eats {m} of them. How many are left?" for n, m in PAIRS]
    rows = conversations([(text, str(i)) for i, text in enumerate([*texts, texts[0] + " Say!"])])
    seeds = conversations([(texts[1] + " Now.", "x")])
    assert novelty(ctx, rows, seeds, order_by=order_by)["drop_reason"].null_count() == 0
    made = novelty(ctx, rows, seeds, numbers=True, order_by=order_by)
    assert made["drop_reason"].null_count() == len(PAIRS) - 1  # one like the seed, one a copy
    for row, why in zip(rows["messages"], made["evidence"], strict=True):
        if why is not None:
            twin = json.loads(why)["twin"]
            known = pl.concat([rows, seeds]).filter(pl.col("id") == twin)["messages"][0]
            found = [re.findall(r"\d+", talk[0]["content"]) for talk in (row, known)]
            assert found[0] == found[1]
