"""decontaminate.certificate: it measures by itself, and zero only where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from schemas.records import ITEM_COLUMNS, digest
from stages.decontaminate._rules import METHODS, Tulu3
from stages.decontaminate.certificate import certificate
from stages.decontaminate.ngram import ngram
from stages.load.benchmarks import benchmarks
from tests.support.ngram_oracle import pairs
from tests.support.rows import DATA, conversations, exam, json_lines, of, sample

EVERY = tuple(METHODS)


def certified(ctx: Context, *pools: pl.DataFrame, **options: object) -> dict:
    certificate(ctx, *pools, **options)
    return json.loads((ctx.files / "certificate.json").read_text("utf-8"))


def card(ctx: Context) -> str:
    return (ctx.files / "certificate.md").read_text("utf-8")


def test_planted_contamination_is_certified_before_and_gone_after(ctx: Context) -> None:
    items = benchmarks(ctx, names=("gsm8k", "humaneval", "mt_bench"))
    questions = [row["question"] for row in json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")]
    planted = [(f"Solve it.\n\n{text}", "I do not know.") for text in questions[:7]]
    planted += [(f"Do this again, please: {questions[0]}", "No.")]
    pool = pl.concat([sample("self_instruct.jsonl.gz"), conversations(planted)]).sort("id")
    clean = pool
    for rule in EVERY:
        verdict = ngram(ctx, clean, items, method=METHODS[rule]())
        clean = clean.filter(verdict["drop_reason"].is_null())
    result = certified(ctx, pool, clean, items, methods=EVERY)
    assert result["pools"]["before"]["rows"] == len(pool)
    assert result["pools"]["after"] == {
        "rows": len(clean), "digest": digest(sorted(clean["id"].to_list()))
    }  # fmt: skip
    assert {n: b["items"] for n, b in result["benchmarks"].items()} == {
        "gsm8k": 1319, "humaneval": 164, "mt_bench": 80,
    }  # fmt: skip
    for rule, pools in result["benchmarks"]["gsm8k"]["rules"].items():
        assert pools["before"]["items_touched"] >= 7, rule
        assert pools["before"]["rows"] >= 8, rule
        assert pools["before"]["largest_overlap"]["overlap"] == 1.0
        assert pools["before"]["overlaps"][9] >= 7
    for benchmark in result["benchmarks"].values():
        for pools in benchmark["rules"].values():
            assert pools["after"]["items_touched"] == pools["after"]["rows"] == 0
    assert "By these rules the published rows touch no item" in card(ctx)
    # The same from the other side: nothing was taken out, so nothing is gone.
    kept = certified(ctx, pool, pool, items)
    for benchmark in kept["benchmarks"].values():
        for pools in benchmark["rules"].values():
            assert pools["before"] == pools["after"]
    assert "**The published rows still touch items" in card(ctx)


def test_it_searches_again(ctx: Context) -> None:
    """One leak that a rule of half the words lets pass stays in the certificate of another."""
    question = " ".join(f"w{i}x" for i in range(40))
    pool = conversations([(" ".join(question.split()[:15]),), ("Something else",)])
    items = exam("b", [{"q": question}])
    kept = ngram(ctx, pool, items, method=Tulu3())["drop_reason"].is_null()
    result = certified(ctx, pool, pool.filter(kept), items)["benchmarks"]["b"]["rules"]
    assert result["tulu3-8-50"]["after"]["items_touched"] == 0
    largest = result["tulu3-8-50"]["after"]["largest_overlap"]
    assert largest == {
        "overlap": 0.375, "row": of(pool, " ".join(question.split()[:15])),
        "item": "0", "field": "q",
    }  # fmt: skip
    assert result["tulu3-8-50"]["after"]["overlaps"] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert result["gpt3-13"]["after"]["items_touched"] == result["gpt3-13"]["after"]["rows"] == 1
    assert "still touch" in card(ctx)


word = st.sampled_from(["the", "cat", "sat", "on", "1", "a", "mat"])
text = st.lists(word, max_size=12).map(" ".join)


@given(
    st.lists(st.lists(text, min_size=1, max_size=3), min_size=1, max_size=5),
    st.lists(st.dictionaries(st.sampled_from(["q", "a"]), text, min_size=1), max_size=4),
    st.sampled_from([rule for rule in EVERY if rule != "gpt3-13"]),
    st.integers(0, 5),
)
def test_counts_equal_brute_force(
    tmp_path_factory: pytest.TempPathFactory, turns: list, texts: list, rule: str, cut: int
) -> None:
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    before = conversations(turns)
    after = before.head(cut)
    long = "the cat sat on the mat today as always with a friend of hers"
    items = pl.concat([exam("b", [{"q": long}, *texts]), exam("c", [{"q": long}])])
    result = certified(ctx, before, after, items, methods=(rule,))
    for name, pool in (("before", before), ("after", after)):
        overlaps = pairs(METHODS[rule](), pool, items)
        for benchmark in ("b", "c"):
            expected = {(row, item) for row, among, item in overlaps if among == benchmark}
            counts = result["benchmarks"][benchmark]["rules"][rule][name]
            assert counts["items_touched"] == len({item for _, item in expected})
            assert counts["rows"] == len({row for row, _ in expected})
            fractions = [
                fraction for (_, among, _), fraction in overlaps.items() if among == benchmark
            ]
            if fractions:
                assert counts["largest_overlap"]["overlap"] == pytest.approx(max(fractions))


def test_items_too_short_to_compare_are_not_certified(ctx: Context) -> None:
    long = "What is the capital of the country of Utopia?"
    items = exam("b", [{"q": long}, {"q": "Who am I?"}, {"q": "yes", "a": long + " Rome."}])
    pool = conversations([("Who am I?",), ("Nothing else.",)])
    result = certified(ctx, pool, pool, items, methods=("tulu3-8-50", "substring"))["benchmarks"][
        "b"
    ]
    assert result["items"] == 3
    assert [result["rules"][rule]["compared"] for rule in result["rules"]] == [2, 2]
    assert "touch no item of these benchmarks that could be compared." in card(ctx)
    result = certified(ctx, pool, pool, items.filter(pl.col("item") != "1"))["benchmarks"]["b"]
    assert [result["rules"][rule]["compared"] for rule in result["rules"]] == [2, 2]
    assert "touch no item of these benchmarks." in card(ctx)


def test_duplicate_items_are_one(ctx: Context) -> None:
    items = exam("b", [{"q": f"What is the capital of the country number {i}?"} for i in range(3)])
    pool = conversations([("What is the capital of the country number 1?",)])
    once = certified(ctx, pool, pool, items)
    assert certified(ctx, pool, pool, pl.concat([items, items])) == once
    assert once["benchmarks"]["b"]["items"] == 3


def test_pools_may_be_empty_and_benchmarks_may_not(ctx: Context, tmp_path: Path) -> None:
    items = exam("b", [{"q": "What is the capital of the country of Utopia?"}])
    pool = conversations([("What is the capital of the country of Utopia?",)])
    result = certified(ctx, pool, pool.clear(), items)
    assert result["pools"]["after"]["rows"] == 0
    assert result["benchmarks"]["b"]["rules"]["gpt3-13"]["before"]["items_touched"] == 1
    assert result["benchmarks"]["b"]["rules"]["gpt3-13"]["after"]["largest_overlap"] is None
    with pytest.raises(UserError, match="must hold evaluation items"):
        certificate(ctx, pool, pool, pl.DataFrame(schema=ITEM_COLUMNS))
    with pytest.raises(UserError, match="no text of c can be compared"):
        certificate(ctx, pool, pool, pl.concat([items, exam("c", [{"q": "yes"}])]))
    for methods, expected in (
        ([], "methods must be of at least 1 element"),
        (["gpt3-13", "gpt3-13"], "methods must name each rule once, got ['gpt3-13', 'gpt3-13']"),
        (["gpt3"], "methods[0] must be 'gpt3-13', "),
    ):
        _, (problem,) = bind(find("decontaminate.certificate"), {"methods": methods}, {}, tmp_path)
        assert problem.what.startswith(expected)


def test_the_table_is_one_for_a_card(ctx: Context) -> None:
    items = exam("b|c", [{"q": "What is the capital of the country of Utopia?"}])
    pool = conversations([("What is the capital of the country of Utopia?",)])
    result = certified(ctx, pool, pool.clear(), items, methods=("gpt3-13", "substring"))
    table = [line for line in card(ctx).splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2
    assert "1 (100.0%)" in table[2]
    assert "0 (0.0%)" in table[2]
    for pool_entry in result["pools"].values():
        assert pool_entry["digest"] in card(ctx)
    assert result["benchmarks"]["b|c"]["digest"] in card(ctx)
