"""decontaminate.certificate: it measures by itself, and zero only where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import find
from schemas.records import ITEM_COLUMNS, digest
from stages.decontaminate._rules import RULES
from stages.decontaminate.certificate import certificate
from stages.decontaminate.ngram import ngram
from stages.load.benchmarks import benchmarks
from tests.support.ngram_oracle import pairs
from tests.support.rows import DATA, conversations, exam, json_lines, of, sample

EVERY = tuple(RULES)


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
        verdict = ngram(ctx, clean, items, rule=rule)
        clean = clean.filter(verdict["drop_reason"].is_null())
    told = certified(ctx, pool, clean, items, rules=EVERY)
    assert told["pools"]["before"]["rows"] == len(pool)
    assert told["pools"]["after"] == {
        "rows": len(clean), "digest": digest(sorted(clean["id"].to_list()))
    }  # fmt: skip
    assert {n: b["items"] for n, b in told["benchmarks"].items()} == {
        "gsm8k": 1319, "humaneval": 164, "mt_bench": 80,
    }  # fmt: skip
    for rule, pools in told["benchmarks"]["gsm8k"]["rules"].items():
        assert pools["before"]["items_touched"] >= 7, rule
        assert pools["before"]["rows"] >= 8, rule
        assert pools["before"]["largest_overlap"]["overlap"] == 1.0
        assert pools["before"]["overlaps"][9] >= 7
    for benchmark in told["benchmarks"].values():
        for pools in benchmark["rules"].values():
            assert pools["after"]["items_touched"] == pools["after"]["rows"] == 0
    assert "By these rules the published rows touch no item" in card(ctx)
    # The same from the other side: nothing was taken out, so nothing is gone.
    kept = certified(ctx, pool, pool, items)
    for benchmark in kept["benchmarks"].values():
        for pools in benchmark["rules"].values():
            assert pools["before"] == pools["after"]
    assert "**The published rows still touch items" in card(ctx)


def test_it_believes_no_verdict(ctx: Context) -> None:
    """One leak that a rule of half the words lets pass stays in the certificate of another."""
    question = " ".join(f"w{i}x" for i in range(40))
    pool = conversations([(" ".join(question.split()[:15]),), ("Something else",)])
    items = exam("b", [{"q": question}])
    kept = ngram(ctx, pool, items, rule="tulu3-8-50")["drop_reason"].is_null()
    told = certified(ctx, pool, pool.filter(kept), items)["benchmarks"]["b"]["rules"]
    assert told["tulu3-8-50"]["after"]["items_touched"] == 0
    near = told["tulu3-8-50"]["after"]["largest_overlap"]
    assert near == {
        "overlap": 0.375, "row": of(pool, " ".join(question.split()[:15])),
        "item": "0", "field": "q",
    }  # fmt: skip
    assert told["tulu3-8-50"]["after"]["overlaps"] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert told["gpt3-13"]["after"]["items_touched"] == told["gpt3-13"]["after"]["rows"] == 1
    assert "still touch" in card(ctx)


word = st.sampled_from(["the", "cat", "sat", "on", "1", "a", "mat"])
text = st.lists(word, max_size=12).map(" ".join)


@settings(max_examples=60)
@given(
    st.lists(st.lists(text, min_size=1, max_size=3), min_size=1, max_size=5),
    st.lists(st.dictionaries(st.sampled_from(["q", "a"]), text, min_size=1), max_size=4),
    st.sampled_from([rule for rule in EVERY if rule != "gpt3-13"]),
    st.integers(0, 5),
)
def test_counts_equal_brute_force(
    tmp_path_factory: pytest.TempPathFactory, talks: list, items: list, rule: str, cut: int
) -> None:
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    before = conversations(talks)
    after = before.head(cut)
    long = "the cat sat on the mat today as always with a friend of hers"
    exams = pl.concat([exam("b", [{"q": long}, *items]), exam("c", [{"q": long}])])
    told = certified(ctx, before, after, exams, rules=(rule,))
    for name, pool in (("before", before), ("after", after)):
        found = pairs(RULES[rule], pool, exams)
        for benchmark in ("b", "c"):
            mine = {(row, item) for row, among, item in found if among == benchmark}
            counts = told["benchmarks"][benchmark]["rules"][rule][name]
            assert counts["items_touched"] == len({item for _, item in mine})
            assert counts["rows"] == len({row for row, _ in mine})
            shares = [share for (_, among, _), share in found.items() if among == benchmark]
            if shares:
                assert counts["largest_overlap"]["overlap"] == pytest.approx(max(shares))


def test_items_too_short_to_compare_are_not_certified(ctx: Context) -> None:
    long = "What is the capital of the country of Utopia?"
    items = exam("b", [{"q": long}, {"q": "Who am I?"}, {"q": "yes", "a": long + " Rome."}])
    pool = conversations([("Who am I?",), ("Nothing else.",)])
    told = certified(ctx, pool, pool, items, rules=("tulu3-8-50", "substring"))["benchmarks"]["b"]
    assert told["items"] == 3
    assert [told["rules"][rule]["compared"] for rule in told["rules"]] == [2, 2]
    assert "touch no item of these benchmarks that could be compared." in card(ctx)
    told = certified(ctx, pool, pool, items.filter(pl.col("item") != "1"))["benchmarks"]["b"]
    assert [told["rules"][rule]["compared"] for rule in told["rules"]] == [2, 2]
    assert "touch no item of these benchmarks." in card(ctx)


def test_duplicate_items_are_one(ctx: Context) -> None:
    items = exam("b", [{"q": f"What is the capital of the country number {i}?"} for i in range(3)])
    pool = conversations([("What is the capital of the country number 1?",)])
    once = certified(ctx, pool, pool, items)
    assert certified(ctx, pool, pool, pl.concat([items, items])) == once
    assert once["benchmarks"]["b"]["items"] == 3


def test_pools_may_be_empty_and_exams_may_not(ctx: Context, tmp_path: Path) -> None:
    items = exam("b", [{"q": "What is the capital of the country of Utopia?"}])
    pool = conversations([("What is the capital of the country of Utopia?",)])
    told = certified(ctx, pool, pool.clear(), items)
    assert told["pools"]["after"]["rows"] == 0
    assert told["benchmarks"]["b"]["rules"]["gpt3-13"]["before"]["items_touched"] == 1
    assert told["benchmarks"]["b"]["rules"]["gpt3-13"]["after"]["largest_overlap"] is None
    with pytest.raises(UserError, match="no evaluation item"):
        certificate(ctx, pool, pool, pl.DataFrame(schema=ITEM_COLUMNS))
    with pytest.raises(UserError, match="nothing of c"):
        certificate(ctx, pool, pool, pl.concat([items, exam("c", [{"q": "yes"}])]))
    check = find("decontaminate.certificate").check
    for rules in ((), ("gpt3-13", "gpt3-13")):
        with pytest.raises(UserError, match="at least one rule"):
            check(SimpleNamespace(rules=rules))


def test_the_table_is_one_for_a_card(ctx: Context) -> None:
    items = exam("b|c", [{"q": "What is the capital of the country of Utopia?"}])
    pool = conversations([("What is the capital of the country of Utopia?",)])
    told = certified(ctx, pool, pool.clear(), items, rules=("gpt3-13", "substring"))
    lines = [line for line in card(ctx).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2
    assert "1 (100.0%)" in lines[2]
    assert "0 (0.0%)" in lines[2]
    for pool_told in told["pools"].values():
        assert pool_told["digest"] in card(ctx)
    assert told["benchmarks"]["b|c"]["digest"] in card(ctx)
