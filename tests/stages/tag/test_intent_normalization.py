"""Normalized tags: the same whatever the order, and when they are normalized again."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import Embedder
from stages._vectors.arrays import Matrix
from stages.tag.intent.normalization import (
    Merge,
    Normalized,
    Thresholds,
    is_tag,
    normalize,
    plain_wording,
    stemmed,
)
from tests.support.rows import DATA

NAMES = [
    "recipe",
    "Recipes",
    "sea",
    "Sea!",
    "tide",
    "tides",
    "C++",
    "c",
    "creative_writing",
    "地理",
]
TAGS = st.lists(st.lists(st.sampled_from(NAMES) | st.text(max_size=4), max_size=5), max_size=12)
THRESHOLDS = st.builds(
    Thresholds,
    min_count=st.integers(1, 3),
    clustering=st.sampled_from(["leader", "dbscan"]),
    min_similarity=st.sampled_from([0.7, 0.9]),
    min_support=st.sampled_from([None, 1, 2]),
    min_confidence=st.sampled_from([0.6, 0.99]),
)


def angles(tags: Sequence[str]) -> Matrix:
    """Vectors that lie on a circle, by a digest of the tag: many are near, some are equal."""
    degrees = [sum(map(ord, tag)) * 37 % 360 // 12 * 12 for tag in tags]
    radians = np.radians(np.array(degrees, np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@settings(max_examples=200)
@given(TAGS, THRESHOLDS, st.booleans())
def test_normalizing_again_changes_nothing(
    raw: list[list[str]], thresholds: Thresholds, embedded: bool
) -> None:
    encode = angles if embedded else None
    tags = normalize(raw, thresholds, encode).tags
    assert normalize(tags, thresholds, encode) == Normalized(tags, [])


@settings(max_examples=100)
@given(TAGS, THRESHOLDS, st.integers(0, 99))
def test_the_order_of_rows_and_of_tags_does_not_matter(
    raw: list[list[str]], thresholds: Thresholds, seed: int
) -> None:
    rng = random.Random(seed)
    order = rng.sample(range(len(raw)), len(raw))
    other = normalize([rng.sample(raw[i], len(raw[i])) for i in order], thresholds, angles)
    tags, merges = normalize(raw, thresholds, angles)
    assert other.merges == merges
    assert [sorted(row) for row in other.tags] == [sorted(tags[i]) for i in order]


@settings(max_examples=100)
@given(TAGS, THRESHOLDS)
def test_the_merges_say_what_became_of_every_tag(
    raw: list[list[str]], thresholds: Thresholds
) -> None:
    """Whoever applies them step by step gets the tags."""
    tags, merges = normalize(raw, thresholds, angles)
    rows = [[*row] for row in raw]
    for step in ("form", "wording", "frequency", "embedding"):
        into = {merge.tag: merge.into for merge in merges if merge.step == step}
        rows = [[name for tag in row if (name := into.get(tag, tag)) is not None] for row in rows]
    rounds = [merge for merge in merges if merge.step == "association"]
    into = {merge.tag: merge.into for merge in rounds}
    assert len(into) == len(rounds)
    while any(tag in into for row in rows for tag in row):
        rows = [[into.get(tag, tag) or "" for tag in row] for row in rows]
    assert [{*row} for row in rows] == [{*row} for row in tags]
    assert all(len({*row}) == len(row) for row in tags)


def merges_of(normalized: Normalized, step: str) -> list[Merge]:
    return [merge for merge in normalized.merges if merge.step == step]


def test_case_signs_and_number_are_one_tag_under_its_commonest_name() -> None:
    raw = [["Recipes"], ["recipe"], ["RECIPE!"], ["creative_writing", "Creative Writing"]]
    normalized = normalize(raw, Thresholds())
    assert normalized.tags == [["recipe"], ["recipe"], ["recipe"], ["creative writing"]]
    assert {(m.tag, m.into) for m in merges_of(normalized, "wording")} == {
        ("Recipes", "recipe"), ("RECIPE!", "recipe"),
        ("creative_writing", "creative writing"), ("Creative Writing", "creative writing"),
    }  # fmt: skip
    assert all(0 <= (m.similarity or 0) <= 1 for m in normalized.merges)


def test_languages_are_not_each_other() -> None:
    names = ["C", "C++", "C#", "F#", "R"]
    assert normalize([names], Thresholds()).tags == [["c", "c++", "c#", "f#", "r"]]
    assert plain_wording("हिन्दी कविता") == "हिन्दी कविता"


def test_rare_tags_are_counted_over_their_wordings() -> None:
    raw = [["Recipe"], ["recipes"], ["sea"], ["Sea", "sea"]]
    normalized = normalize(raw, Thresholds(min_count=2))
    assert normalized.tags == [["recipe"], ["recipe"], ["sea"], ["sea"]]
    normalized = normalize([*raw, ["tide"]], Thresholds(min_count=2))
    assert normalized.tags[-1] == []
    assert merges_of(normalized, "frequency") == [Merge("frequency", "tide", None, 1)]


def test_prose_is_no_tag() -> None:
    prose = "The user wants to know how deep the sea is at low tide."
    normalized = normalize([[prose, "sea", "?!", ""]], Thresholds())
    assert normalized.tags == [["sea"]]
    assert {merge.tag for merge in merges_of(normalized, "form")} == {prose, "?!", ""}
    assert not is_tag("sea" * 21)


CHAIN = {"sea": 0, "ocean": 10, "lake": 20, "pond": 30, "puddle": 40}
"""Degrees: each is similar to its neighbors alone."""


def chained(tags: Sequence[str]) -> Matrix:
    radians = np.radians([CHAIN[tag] for tag in tags])
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_dbscan_chains_and_says_so_and_the_leader_does_not() -> None:
    raw = [[tag] for tag in CHAIN] + [["sea"]]
    similarity = float(np.cos(np.radians(11)))
    dbscan = normalize(raw, Thresholds(clustering="dbscan", min_similarity=similarity), chained)
    assert dbscan.tags == [["sea"]] * 6
    (puddle,) = (merge for merge in dbscan.merges if merge.tag == "puddle")
    assert puddle.similarity == pytest.approx(np.cos(np.radians(40)), abs=1e-5)
    leader = normalize(raw, Thresholds(min_similarity=similarity), chained)
    assert leader.tags != dbscan.tags
    assert merges_of(leader, "embedding")
    assert all((m.similarity or 0) >= similarity for m in merges_of(leader, "embedding"))


def test_a_tag_that_never_comes_alone_is_merged_into_its_companion() -> None:
    raw = [["mathematics", "algebra"]] * 3 + [["mathematics", "algebra", "matrices"]] * 2
    raw += [["mathematics"], ["cooking"]]
    normalized = normalize(raw, Thresholds(min_support=2))
    assert normalized.tags == [["mathematics"]] * 6 + [["cooking"]]
    assert {(m.tag, m.support, m.confidence) for m in merges_of(normalized, "association")} == {
        ("algebra", 5, 1.0), ("matrices", 2, 1.0),
    }  # fmt: skip
    assert normalize(raw, Thresholds(min_support=6)).merges == []


def test_vectors_that_are_none_are_similar_to_nothing() -> None:
    def encode(tags: Sequence[str]) -> Matrix:
        return np.array([[np.nan, 1.0], [0.0, 0.0], [1.0, 0.0]], np.float32)[: len(tags)]

    for clustering in ("leader", "dbscan"):
        thresholds = Thresholds(clustering=clustering)
        assert normalize([["a", "b", "c"]], thresholds, encode).merges == []


WORDS = [f"{first}{second}" for first in "bcdfglmnprst" for second in
         ("ada", "ebo", "iri", "olu", "uma", "ento", "aldi", "ors", "isk", "eft")]  # fmt: skip


def many_tags() -> list[list[str]]:
    """100,000 raw tags of 25,000 rows, some frequent and very many rare, in several spellings."""
    rng = random.Random(0)
    ranks = [int(40_000 * rng.random() ** 4) for _ in range(100_000)]
    names = [f"{WORDS[rank % 120]} {WORDS[rank // 120 % 120]} {rank // 14_400}" for rank in ranks]
    spelled = [rng.choice([str.title, str.lower, lambda t: t.replace(" ", "_")])(n) for n in names]
    return [spelled[i : i + 4] for i in range(0, 100_000, 4)]


def test_a_hundred_thousand_tags_take_less_than_half_a_minute(ctx: Context) -> None:
    raw = many_tags()
    encoder = ctx.open(Embedder(model=str(DATA / "models/potion-base-4m")))
    for thresholds in (Thresholds(20, min_support=40), Thresholds(1, min_support=40)):
        start = time.process_time()
        tags, merges = normalize(raw, thresholds, encoder.encode)
        assert time.process_time() - start < 30
        assert Counter(merge.step for merge in merges)["wording"] > 10_000
        assert max(Counter(tag for row in tags for tag in row).values()) > 1000
        assert len({tag for row in raw for tag in row}) > 20_000


def test_stems_are_of_english_alone() -> None:
    assert stemmed("écritures littéraires") == "écritures littéraires"
