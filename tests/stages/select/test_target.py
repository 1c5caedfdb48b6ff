"""select.target: against loops, scikit-learn and the published DSIR numbers; numpy and torch."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.recipe.discovery import find
from schemas.records import DOCUMENT_COLUMNS, RECORD_COLUMNS
from stages._selection.budget import Unit
from stages.select.target import Distribution, Gaps, Nearest, target
from stages.select.target.dsir import BUCKETS, bags, log_weights
from stages.select.target.gaps import log_density, principal_components, project
from stages.select.target.jaccard import Jaccard, jaccard
from stages.select.target.nearest import (
    Order,
    mean_cosine,
    nearest,
    take_task_turns,
    take_turns,
)
from tests.stages._selection.binding import bound, problems_of
from tests.support.rows import conversations, sample

CTX = Context.__new__(Context)  # the stage computes only
SMALL = st.integers(-2, 2).map(float)  # few values: many ties, zero vectors, equal rows


def vectors(rows: int, dimensions: int = 6, seed: int = 0, groups: int = 5) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(groups, dimensions))[rng.integers(groups, size=rows)]
    return (places + 0.3 * rng.normal(size=(rows, dimensions))).astype(np.float32)


def frame(values: NDArray[np.float32], prefix: str = "") -> pl.DataFrame:
    lists = pl.Series(values.tolist(), dtype=pl.List(pl.Float32))
    ids = [f"{prefix}{i:06d}" for i in range(len(values))]
    return pl.DataFrame({"id": ids, "vector": lists}).with_columns(
        tokens=pl.Series([3 + i * 7 % 11 for i in range(len(values))], dtype=pl.Int64)
    )


def matrices(rows: int, dimensions: int) -> st.SearchStrategy[NDArray[np.float32]]:
    row = st.lists(SMALL, min_size=dimensions, max_size=dimensions)
    table = st.lists(row, min_size=1, max_size=rows)
    return table.map(lambda values: np.array(values, np.float32))


def cosines(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = rows.astype(np.float64), others.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        return np.round((a @ b.T) / norms, 12)


@given(matrices(25, 3), matrices(12, 3))
def test_nearest_is_that_of_a_loop(rows: NDArray[np.float32], others: NDArray[np.float32]) -> None:
    import torch

    expected = cosines(rows, others)
    similarity, positions = nearest(rows, others)
    for line, value, position in zip(expected, similarity, positions, strict=True):
        if np.isnan(line).all():
            assert np.isnan(value)
            assert position == -1
        else:
            assert abs(value - np.nanmax(line)) <= 1e-11
            assert position == np.flatnonzero(line >= np.nanmax(line) - 1e-11)[0]
    tensors = nearest(torch.tensor(rows), torch.tensor(others))
    np.testing.assert_array_equal(tensors[0], similarity)
    np.testing.assert_array_equal(tensors[1], positions)
    means = mean_cosine(rows, others)
    finite = np.isfinite(means)
    np.testing.assert_allclose(means[finite], np.nanmean(expected[finite], axis=1), atol=1e-11)
    np.testing.assert_array_equal(mean_cosine(torch.tensor(rows), torch.tensor(others)), means)


def by_hand(
    rows: NDArray[np.float32], others: NDArray[np.float32], costs: list[int], budget: int
) -> list[tuple[int, int]]:
    """The round robin as a plain loop: (row, target) in the order of choice."""
    similar = cosines(rows, others)
    remaining = [i for i in range(len(rows)) if rows[i].any()]
    chosen = []
    while True:
        before = len(chosen)
        for j in range(len(others)):
            remaining = [i for i in remaining if costs[i] <= budget]
            if remaining and others[j].any():
                row = max(remaining, key=lambda i: (round(similar[i, j], 11), -i))
                remaining.remove(row)
                budget -= costs[row]
                chosen.append((row, j))
        if len(chosen) == before:
            return chosen


@given(matrices(30, 3), matrices(5, 3), st.integers(0, 60), st.booleans(), st.randoms())
def test_turns_are_those_of_a_loop(
    rows: NDArray[np.float32],
    others: NDArray[np.float32],
    budget: int,
    in_tokens: bool,
    random: Random,
) -> None:
    import torch

    costs = [random.randrange(1, 6) if in_tokens else 1 for _ in rows]
    turns = take_turns(rows, others, np.array(costs), budget)
    assert list(zip(turns.rows, turns.targets, strict=True)) == by_hand(rows, others, costs, budget)
    assert take_turns(torch.tensor(rows), torch.tensor(others), np.array(costs), budget) == turns


def test_turns_at_size() -> None:
    """Lists that run out, many rows per target."""
    rows, others = vectors(700, seed=1), vectors(9, seed=2)
    turns = take_turns(rows, others, np.ones(700, np.int64), 700)
    expected = by_hand(rows, others, [1] * 700, 700)
    assert list(zip(turns.rows, turns.targets, strict=True)) == expected


@pytest.mark.parametrize("order", ["max", "mean", "turns"])
@pytest.mark.parametrize("unit", ["rows", "tokens"])
def test_nearest_rows_are_kept(order: Order, unit: Unit) -> None:
    data, aims = frame(vectors(200)), frame(vectors(7, seed=3), "t")
    budget = 40 if unit == "rows" else 300
    result = target(CTX, data, aims, method=Nearest(order=order), budget=budget, unit=unit)
    kept = result["drop_reason"].is_null()
    spent = data["tokens"].filter(kept).sum() if unit == "tokens" else kept.sum()
    assert spent <= budget
    if unit == "rows":
        assert spent == budget
        assert sorted(result["target_rank"].filter(kept)) == list(range(1, budget + 1))
    else:
        assert (data["tokens"].filter(~kept) > budget - spent).all()
    assert sorted(result["target_rank"]) == list(range(1, 201))
    evidence = [json.loads(e) for e in result["evidence"].drop_nulls()]
    assert [e["rank"] for e in evidence] == result["target_rank"].filter(~kept).to_list()
    if order != "turns":
        assert result.sort("target_rank")["target_score"].is_sorted(descending=True)
    similar = cosines(vectors(200), vectors(7, seed=3))
    if order == "max":
        np.testing.assert_allclose(result["target_score"], similar.max(axis=1), atol=1e-6)
        assert result["target_id"].to_list() == [f"t{i:06d}" for i in similar.argmax(axis=1)]


def test_zero_vectors_come_last() -> None:
    values = vectors(6)
    values[2] = 0
    for order in get_args(Order):
        method = Nearest(order=order)
        result = target(CTX, frame(values), frame(vectors(2)), method=method, budget=9)
        assert result["drop_reason"].null_count() == 6  # a budget beyond the pool keeps all
        assert result["target_rank"][2] == 6
        assert result["target_score"][2] is None
        assert result["target_id"][2] is None


def plain_dsir(texts: list[str]) -> NDArray[np.int64]:
    """Counts per text and bucket as the published package takes them."""
    token = re.compile(r"\w+|[^\w\s]+")
    counts = np.zeros((len(texts), BUCKETS), np.int64)
    for line, text in enumerate(texts):
        words = token.findall(text.lower())
        for gram in [*words, *map(" ".join, pairwise(words))]:
            counts[line, int(hashlib.sha256(gram.encode()).hexdigest(), 16) % BUCKETS] += 1
    return counts


def answers(data: pl.DataFrame) -> list[str]:
    return [messages[-1]["content"] for messages in data["messages"].to_list()]


def test_weights_are_those_of_the_published_package() -> None:
    texts = [*answers(sample("self_instruct.jsonl.gz").head(400)), "", "Ünïcode ŒUVRE x_1 − “ok”…"]
    texts += ["नमस्ते दुनिया", "你好，世界！", "a\x1cb\u00a0c", "x" * 40]
    aims = [t for t in texts[:60] if t]
    raw, aimed = plain_dsir(texts), plain_dsir(aims)
    ratio = np.log(aimed.sum(0) / aimed.sum() + 1e-8) - np.log(raw.sum(0) / raw.sum() + 1e-8)
    pool, aim = bags(pl.Series(texts)), bags(pl.Series(aims))
    np.testing.assert_allclose(log_weights(pool, aim), raw @ ratio, rtol=1e-10, atol=1e-9)
    lengths = (raw.sum(axis=1) + 1) // 2  # as the package counts a text's words
    assert pool.words.tolist() == lengths.tolist()


def test_words_of_every_language(shared: Path) -> None:
    """The n-grams of texts in some 400 languages are those of Python's own pattern."""
    lines = gzip.decompress((shared / "corpora/udhr2_languages.jsonl.gz").read_bytes()).splitlines()
    texts = [json.loads(line)["text"][:300] for line in lines]
    grams = bags(pl.Series(texts))
    counts = np.zeros((len(texts), BUCKETS), np.int64)
    np.add.at(counts, (grams.owners, grams.buckets), 1)
    assert (counts == plain_dsir(texts)).all()


def test_rows_like_the_target_are_drawn() -> None:
    pool = sample("self_instruct.jsonl.gz").head(1500)
    code = pl.Series([("def " in a) or ("{" in a) or ("<" in a) for a in answers(pool)])
    aims = pool.filter(code).gather_every(2)
    rest = pool.join(aims, on="id", how="anti")
    among = pl.Series([("def " in a) or ("{" in a) or ("<" in a) for a in answers(rest)])
    methods = [Distribution(field="response", seed=seed) for seed in (0, 1)]
    draws = [target(CTX, rest, aims, method=m, budget=30)["drop_reason"].is_null() for m in methods]
    assert draws[0].to_list() != draws[1].to_list()
    for drawn in draws:
        assert drawn.sum() == 30
        assert among.filter(drawn).mean() > 2 * among.mean()  # type: ignore[operator]


def test_a_draw_does_not_depend_on_the_budget_or_on_noise_of_other_rows() -> None:
    pool = conversations([(f"ask {i}", f"answer {i % 7} of {i}") for i in range(80)])
    aims = conversations([("x", "answer 3 of 4"), ("y", "answer 3 of 3")])
    method = Distribution(seed=5)
    few, many = (target(CTX, pool, aims, method=method, budget=b) for b in (10, 30))
    assert few["target_rank"].to_list() == many["target_rank"].to_list()
    assert set(pool["id"].filter(few["drop_reason"].is_null())) < set(
        pool["id"].filter(many["drop_reason"].is_null())
    )
    top = target(CTX, pool, aims, method=Distribution(sample=False), budget=10)
    assert top.sort("target_rank")["target_score"].is_sorted(descending=True)
    turned = pool.reverse()
    again = target(CTX, turned, aims, method=method, budget=10)
    assert set(turned["id"].filter(again["drop_reason"].is_null())) == set(
        pool["id"].filter(few["drop_reason"].is_null())
    )


def test_draws_follow_the_weights() -> None:
    """Over many seeds a row is drawn first as often as its importance weight says."""
    pool = conversations([("", "red"), ("", "red blue"), ("", "blue")])
    aims = conversations([("", "red"), ("", "red"), ("", "blue")])
    method = Distribution(field="response")
    scores = target(CTX, pool, aims, method=method, budget=1)["target_score"].to_numpy()
    chance = np.exp(scores) / np.exp(scores).sum()
    first = np.zeros(3)
    for seed in range(600):
        seeded = replace(method, seed=seed)
        first += (target(CTX, pool, aims, method=seeded, budget=1)["target_rank"] == 1).to_numpy()
    assert np.abs(first / 600 - chance).max() < 0.08


def test_short_rows_have_a_reason() -> None:
    pool = conversations([("a", ""), ("b", "one two"), ("c", "one two three four")])
    method = Distribution(field="response", min_words=3)
    result = pool.with_columns(target(CTX, pool, pool, method=method, budget=9))
    evidence = {
        m[-1]["content"]: json.loads(e)
        for m, e in result.select("messages", "evidence").rows()
        if e
    }
    assert evidence == {"": {"words": 0, "minimum": 3}, "one two": {"words": 2, "minimum": 3}}
    assert result["drop_reason"].value_counts().sort("drop_reason").rows() == [
        (None, 1),
        ("too_short", 2),
    ]
    with pytest.raises(UserError, match="target must have texts"):
        target(CTX, pool, conversations([("a", "")]), method=method, budget=1)


def test_densities_are_those_of_scikit_learn() -> None:
    import torch
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KernelDensity

    held, pool = vectors(300, seed=1), vectors(200, seed=2)
    mean, basis = principal_components(held, 3)
    spots, centers = project(pool, mean, basis), project(held, mean, basis)
    whitened = PCA(3, whiten=True, svd_solver="full").fit(held.astype(np.float64))
    np.testing.assert_allclose(
        np.abs(whitened.transform(pool)), np.abs(spots), rtol=0.01, atol=1e-3
    )
    densities = log_density(spots, centers)
    model = KernelDensity(bandwidth=300 ** (-1 / 7), rtol=1e-10).fit(centers)
    np.testing.assert_allclose(densities, model.score_samples(spots), rtol=1e-6)
    tensors = log_density(torch.tensor(spots), torch.tensor(centers))
    np.testing.assert_allclose(tensors, densities, rtol=1e-12)
    far = np.full((1, 3), 1e3)
    assert np.isfinite(log_density(far, centers)).all()  # no underflow


def test_gaps_are_where_held_is_thin() -> None:
    rng = np.random.default_rng(0)
    spots = np.array([[0, 0, 5], [0, 5, 0], [5, 0, 0]], np.float32)
    label = rng.integers(3, size=300)
    data = frame((spots[label] + 0.3 * rng.normal(size=(300, 3))).astype(np.float32))
    held = frame(
        (spots[rng.integers(2, size=200)] + 0.3 * rng.normal(size=(200, 3))).astype(np.float32)
    )
    aims = frame(
        (spots[1 + rng.integers(2, size=100)] + 0.3 * rng.normal(size=(100, 3))).astype(np.float32)
    )
    missing = int((label == 2).sum())
    for aim in (None, aims):
        result = target(CTX, data, aim, held, method=Gaps(), budget=missing)
        assert (label[result["drop_reason"].is_null().to_numpy()] == 2).mean() > 0.97
        assert result.sort("target_rank")["target_score"].is_sorted(descending=True)
        assert result["held_density"].null_count() == 0
    alone = target(CTX, data, None, held, method=Gaps(), budget=9)
    np.testing.assert_allclose(alone["target_score"], -alone["held_density"])
    none = target(CTX, data, aims, held.head(0), method=Gaps(), budget=50)
    assert none["held_density"].null_count() == 300
    assert (label[none["drop_reason"].is_null().to_numpy()] > 0).all()


def test_documents_are_chosen_as_rows_are_but_not_by_words() -> None:
    declared, columns = find("select.target"), {"vector": pl.List(pl.Float32)}
    documents = {**DOCUMENT_COLUMNS, **columns}
    options = bound("select.target", method="gaps", budget=1)
    edges = {"rows": [documents], "held": [{**RECORD_COLUMNS, **columns}]}
    assert "held_density" in declared.adds(options, edges)
    options = bound("select.target", method="distribution", budget=1)
    with pytest.raises(OptionError, match="must have conversations on 'rows', got documents"):
        declared.adds(options, {"rows": [documents], "target": edges["held"]})


def test_equal_rows_and_single_rows() -> None:
    same = frame(np.ones((4, 3), np.float32))
    for method in (Nearest(), Gaps()):
        held = same if isinstance(method, Gaps) else None
        result = target(CTX, same, same, held, method=method, budget=2)
        assert result["target_rank"].to_list() == [1, 2, 3, 4]
        assert result["drop_reason"].null_count() == 2
    one = target(CTX, same.head(1), same.head(1), same.head(1), method=Gaps(), budget=2)
    assert one["drop_reason"].to_list() == [None]


def test_features_are_compared_by_what_they_share() -> None:
    one = np.array([[0.2, 0, 0.5, 0]], np.float32)
    other = np.array([[0.1, 0.3, 0.5, 0]], np.float32)
    assert jaccard(one, other)[0] == pytest.approx(0.6, abs=1e-6)
    assert jaccard(one, one)[0] == 1
    twice = np.vstack([one, other])  # the prototype is the mean
    assert jaccard(one, twice)[0] == pytest.approx(0.65 / 0.85, abs=1e-6)
    assert np.isnan(jaccard(np.zeros((1, 4), np.float32), one)[0])
    with pytest.raises(UserError, match="must have vectors of 0 and more, got -1"):
        jaccard(-np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
    with pytest.raises(UserError, match="must have features, got only zeros"):
        jaccard(one, np.zeros((1, 4), np.float32))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_tasks_take_turns_by_their_nearest_target(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    rows, targets = (rng.standard_normal((n, 3)).astype(np.float32) for n in (12, 5))
    tasks = [np.array([0, 3]), np.array([1, 2, 4])]
    turns = take_task_turns(rows, targets, tasks, np.ones(12, np.int64), budget)
    similarity = cosines(rows, targets)
    free, expected = set(range(12)), []
    for turn in range(budget):
        of_task = similarity[:, tasks[turn % 2]].max(axis=1)
        best = max(free, key=lambda row, s=of_task: (round(s[row], 12), -row))
        free.remove(best)
        expected.append(best)
    assert turns.rows == expected
    assert all(target in tasks[turn % 2] for turn, target in enumerate(turns.targets))


def test_types_and_empty_input() -> None:
    adds = target.__stage__.adds  # type: ignore[attr-defined]
    edges = {"rows": [{}], "target": [{}], "held": [{}]}
    data = frame(np.abs(vectors(9)))
    for method in (Nearest(), Jaccard(), Gaps(), Distribution()):
        gaps = isinstance(method, Gaps)
        added = adds(
            SimpleNamespace(method=method, keep_chosen=False),
            {**edges, "held": [{}] if gaps else []},
        )
        texts = conversations([("a", "b c"), ("d", "e")])
        pool = texts if isinstance(method, Distribution) else data
        held = data if gaps else None
        for rows in (pool, pool.head(0)):
            result = target(CTX, rows, pool, held, method=method, budget=4)
            assert {name: result.schema[name] for name in added} == added
            assert set(result.columns) == {*added, "drop_reason", "evidence"}


def test_mistakes() -> None:
    data = frame(vectors(5))
    mark = target.__stage__  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="must have an input for 'target'"):
        mark.adds(
            SimpleNamespace(method=Nearest(), keep_chosen=False),
            {"rows": [{}], "target": [], "held": []},
        )
    with pytest.raises(UserError, match="must have an input for 'held'"):
        target(CTX, data, data, method=Gaps(), budget=1)
    with pytest.raises(UserError, match="does not read 'held', got an input"):
        target(CTX, data, data, data, method=Nearest(), budget=1)
    with pytest.raises(UserError, match="must have rows"):
        target(CTX, data, data.head(0), method=Nearest(), budget=1)
    with pytest.raises(UserError, match="must not all be zero"):
        target(CTX, data, frame(np.zeros((2, 6), np.float32)), method=Nearest(), budget=1)
    with pytest.raises(UserError, match="must have one length"):
        target(CTX, data, frame(vectors(2, 3)), method=Nearest(), budget=1)
    with pytest.raises(UserError, match="not finite"):
        target(CTX, data, frame(np.full((1, 6), np.nan, np.float32)), method=Nearest(), budget=1)
    options = bound(
        "select.target", method={"name": "distribution", "field": "instruction"}, budget=1,
        unit="tokens", token_column="length",
    )  # fmt: skip
    read = ["messages", "input_start"]
    assert mark.reads(options) == {"rows": [*read, "length"], "target": read, "held": read}


def test_options_that_are_accepted() -> None:
    for method in (
        "nearest",
        "gaps",
        "jaccard",
        {"name": "nearest", "order": "turns", "vector": "v", "task": "subset"},
        {"name": "distribution", "min_words": 100, "seed": 3, "field": "both"},
    ):
        assert problems_of("select.target", method=method, budget=1) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"budget": -1}, "budget: budget must be at least 0, got -1"),
        (
            {"method": {"name": "gaps", "n_components": 0}},
            "method.n_components: method.n_components must be at least 1, got 0",
        ),
        (
            {"method": {"name": "distribution", "min_words": -1}},
            "method.min_words: method.min_words must be at least 0, got -1",
        ),
        (
            {"method": {"name": "distribution", "sample": False, "seed": 3}},
            "method.seed: method.seed must be left out with sample: false, got 3",
        ),
        (
            {"method": {"name": "distribution", "vector": "v"}},
            "method.vector: method (distribution) has no option 'vector'",
        ),
        (
            {"method": {"name": "gaps", "order": "mean"}},
            "method.order: method (gaps) has no option 'order'",
        ),
        (
            {"method": {"name": "nearest", "task": "subset"}},
            "method.task: method.task must be left out with order: max, got 'subset'",
        ),
        ({"seed": 1}, "seed: 'seed' is an option of method: distribution"),
        ({"method": "near"}, "method: method: there is no 'near'"),
        ({"token_column": "n"}, "token_column: token_column must be left out with unit: rows"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(change: dict, problem: str) -> None:
    (message,) = problems_of("select.target", **{"method": "gaps", "budget": 1} | change)
    assert message.startswith(problem)
