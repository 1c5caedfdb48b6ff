"""report.audit: runs against brute force, kappas against published ones, planted rows counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.recipe.discovery import find
from pipeline.stage import DataKind
from stages.report.audit import alarms, audit
from stages.report.audit.agreement import agreement, fleiss_kappa
from stages.report.audit.copied import longest_runs
from tests.support.rows import conversations, of, self_instruct

WORDS = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


def brute(text: str, sources: list[str]) -> int:
    """The longest run of words of a text that any source holds."""
    own = text.split()
    runs = {run for source in sources for run in _all_runs(source.split())}
    lengths = [len(run) for run in _all_runs(own) if run in runs]
    return max(lengths, default=0)


def _all_runs(words: list[str]) -> list[tuple[str, ...]]:
    places = range(len(words))
    return [tuple(words[i : j + 1]) for i in places for j in places[i:]]


@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(WORDS, min_size=1, max_size=5))
def test_the_longest_runs_are_those_of_brute_force(texts: list[str], sources: list[str]) -> None:
    runs = longest_runs(pl.Series(texts), pl.Series(sources)).tolist()
    assert runs == [brute(text, sources) for text in texts]


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_paired_texts_are_compared_with_their_own_source(pairs: list[tuple[str, str]]) -> None:
    texts, sources = zip(*pairs, strict=True)
    runs = longest_runs(pl.Series(texts), pl.Series(sources), paired=True).tolist()
    assert runs == [brute(text, [source]) for text, source in pairs]


def test_a_long_copy_is_measured_to_the_word() -> None:
    words = [f"w{n}" for n in range(1500)]
    copied = " ".join(["before", *words[101:1000], "behind"])
    assert longest_runs(pl.Series([copied]), pl.Series([" ".join(words)])).tolist() == [899]


def test_fleiss_kappa_is_that_of_its_textbook_example() -> None:
    # Fleiss 1971, as in every textbook: 10 subjects, 14 raters, 5 categories; kappa .210.
    counts = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    rows = [[str(k) for k, n in enumerate(row) for _ in range(n)] for row in counts]
    labels = pl.DataFrame(rows, orient="row", schema=[f"r{n}" for n in range(14)])
    kappa = fleiss_kappa(labels)
    assert kappa is not None
    assert round(kappa, 3) == 0.210


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=30))
def test_cohen_kappa_weighs_distances_of_numbers(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    rows = pl.DataFrame({"human": a, "judge": [x + 0.2 for x in b]})
    result = agreement(rows, ["human", "judge"], "quadratic")["pairs"]["human, judge"]
    if len({*a, *b}) == 1:
        assert result["kappa"] is None
    else:
        expected = cohen_kappa_score(a, b, weights="quadratic", labels=sorted({*a, *b}))
        assert result["kappa"] == pytest.approx(expected, nan_ok=True)


def report(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "audit.json").read_text())  # type: ignore[no-any-return]


POOL = conversations(
    [
        ("Where do I eat?", "Try Acme Diner. Acme is good."),
        ("Where do I sleep?", "Any inn. ACME has rooms."),
        ("Name a river.", "I'm sorry, but I cannot help with that."),
        ("Name a town.", "Bonn."),
        ("Name a sea.", "The North Sea."),
    ]
)


def rows(*prompts: str) -> pl.DataFrame:
    return POOL.filter(pl.col("id").is_in([of(POOL, prompt) for prompt in prompts]))


def test_planted_rows_and_what_each_filter_does_to_them(ctx: Context) -> None:
    planted = rows("Where do I eat?", "Where do I sleep?", "Name a river.")
    phrase = rows("Name a river.", "Name a town.", "Name a sea.")
    half = rows("Where do I eat?", "Where do I sleep?", "Name a town.")
    audit(
        *(ctx, POOL),
        planted=planted,
        filtered=[phrase, half, POOL],
        filters=("phrase", "refusals", "nothing"),
        phrases=("Acme",),
        min_recall=0.5,
    )
    result = report(ctx)
    assert (result["planted"]["planted"], result["planted"]["rows"]) == (3, 5)
    by_filter = result["planted"]["filters"]
    assert (by_filter["phrase"]["precision"], by_filter["phrase"]["recall"]) == (1.0, 2 / 3)
    assert (by_filter["refusals"]["precision"], by_filter["refusals"]["recall"]) == (0.5, 1 / 3)
    assert by_filter["refusals"]["false_alarms"] == 0.5
    assert by_filter["nothing"]["precision"] is None
    counts = {name: of["phrases"]["Acme"] for name, of in result["behaviour"].items()}
    assert counts == {"rows": 2, "phrase": 0, "refusals": 2, "nothing": 2, "planted": 2}
    assert result["behaviour"]["planted"]["refusals"] == 1
    assert [alarm.split()[0] for alarm in result["alarms"]] == ["refusals", "nothing"]


def test_a_judge_that_drifts_is_an_alarm_and_can_stop_the_run(ctx: Context) -> None:
    human = ["y", "n", "y", "n", "y"]
    labelled = POOL.with_columns(human=pl.Series(human), judge=pl.Series(["n", "n", "y", "y", "y"]))
    previous = POOL.with_columns(human=pl.Series(human), judge=pl.Series(human))
    edges = {"labelled": labelled, "previous": previous}
    audit(ctx, POOL, **edges, annotators=("human", "judge"))
    assert report(ctx)["alarms"] == ["kappa of human, judge fell from 1.000 to 0.167"]
    assert "**kappa of human, judge fell" in (ctx.files / "audit.md").read_text()
    with pytest.raises(UserError, match="the audit has alarms"):
        audit(ctx, POOL, **edges, annotators=("human", "judge"), stop=True)
    assert not alarms(report(ctx), None, 0.9, None)


def test_real_rows_are_described_by_source_and_copies_are_shown(ctx: Context) -> None:
    pool = self_instruct(60).with_columns(kind=pl.lit("a"), score=pl.Series(range(60)))
    audit(
        *(ctx, pool),
        training=self_instruct(200),
        columns=("kind", "score"),
        facets={"quality": ("score",)},
        sample=2,
    )
    result = report(ctx)
    assert result["sources"]["sample"]["rows"] == 60
    assert result["sources"]["all"]["kind"] == {"a": 60}
    assert result["coverage"] == {"quality": {"score": 1.0}, "diversity": {}, "importance": {}}
    assert result["copied"]["training"]["longest"] >= 1
    drawn = [json.loads(line) for line in (ctx.files / "sample.jsonl").read_text().splitlines()]
    assert len(drawn) == 2


def test_filters_and_annotators_are_as_many_as_they_must_be(ctx: Context) -> None:
    with pytest.raises(OptionError, match="must name each of the 1 filters"):
        audit(ctx, POOL, filtered=[POOL], filters=("a", "b"))


def test_the_filters_are_an_edge_of_several_that_may_be_left_out() -> None:
    (edge,) = (edge for edge in find("report.audit").edges if edge.name == "filtered")
    assert (edge.many, edge.optional, edge.kind) == (True, True, DataKind.RECORDS)


def test_files_lie_where_people_look(ctx: Context, tmp_path: Path) -> None:
    audit(ctx, POOL)
    assert {path.name for path in ctx.files.iterdir()} == {"audit.json", "audit.md"}


def test_what_cannot_be_measured_is_an_alarm_where_it_was_to_be_guarded(ctx: Context) -> None:
    silent = POOL.with_columns(human=pl.lit("y"), judge=pl.lit(None, pl.String))
    before = POOL.with_columns(human=pl.Series([*"ynyny"]), judge=pl.Series([*"ynyny"]))
    both, strange = ("human", "judge"), conversations([("Elsewhere?", "Yes.")])
    audit(ctx, POOL, labelled=silent, annotators=both, min_kappa=0.5)
    assert report(ctx)["alarms"] == ["kappa of human, judge is unknown: 0 rows with both labels"]
    audit(ctx, POOL, labelled=silent, previous=before, annotators=both)
    assert len(report(ctx)["alarms"]) == 1
    audit(ctx, POOL, labelled=silent, annotators=both)
    assert report(ctx)["alarms"] == []
    audit(ctx, POOL, planted=strange, filtered=[POOL[:1]], min_recall=0.5)
    assert report(ctx)["alarms"] == ["none of the planted rows is among the rows"]
    audit(ctx, POOL[:0], planted=strange)
    assert report(ctx)["sources"]["all"]["rows"] == 0


def test_no_number_is_no_value(ctx: Context) -> None:
    scored = POOL.with_columns(score=pl.Series([1.0, float("nan"), None, 2.0, 3.0]))
    audit(ctx, scored, columns=("score",), facets={"quality": ("score",)})
    assert report(ctx)["coverage"]["quality"]["score"] == pytest.approx(0.6)
    assert report(ctx)["sources"]["all"]["score"] == 2.0
