"""The named rules: what each convicts and what not, and the published recalls on paraphrases."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from string import ascii_lowercase
from tempfile import mkdtemp
from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from stages._text import ngram_index as ngram_index_module
from stages._text.ngram_index import build_index, find_overlaps, scan_overlaps
from stages.decontaminate._rules import METHODS, Name, Rule
from stages.decontaminate._substrings import build_needles, find_contained
from stages.decontaminate.ngram import ngram
from tests.bench.baselines_ngram import word_tuples
from tests.support.ngram_oracle import is_evidence
from tests.support.rows import DATA, conversations, evidence, exam, json_lines, of, sample

GOLDEN = DATA.parent / "tests/golden"
WORDS = [f"w{i}x" for i in range(100)]
"""Words that say something, for texts of exact lengths."""


def run(start: int, length: int) -> str:
    return " ".join(WORDS[start : start + length])


def verdicts(
    ctx: Context,
    rows: pl.DataFrame,
    benchmarks: pl.DataFrame,
    rule: str = "gpt3-13",
    **options: object,
) -> dict[str, dict]:
    return evidence(rows, ngram(ctx, rows, benchmarks, method=METHODS[rule](**options)))


def convicted(ctx: Context, turn: str | tuple[str, ...], item: str, **options: object) -> bool:
    rows = conversations([(turn,) if isinstance(turn, str) else turn])
    return bool(verdicts(ctx, rows, exam("b", [{"q": item}]), **options))


def test_the_presets_are_those_that_can_be_named() -> None:
    assert set(METHODS) == set(get_args(Name))
    assert all(name == rule().name for name, rule in METHODS.items())
    assert {*METHODS.values()} == {*get_args(Rule)}


def test_gpt3(ctx: Context) -> None:
    item = run(0, 40)
    assert convicted(ctx, f"so {run(20, 13)} then", item)
    assert not convicted(ctx, f"so {run(20, 12)} then", item)


def test_tulu3_needs_more_than_half_in_one_user_turn(ctx: Context) -> None:
    item = run(0, 40)
    rule = {"rule": "tulu3-8-50"}
    assert not convicted(ctx, f"so {run(0, 20)} then", item, **rule)
    assert convicted(ctx, f"so {run(0, 21)} then", item, **rule)
    assert convicted(ctx, f"{run(0, 12)} then {run(30, 9)}", item, **rule)
    assert not convicted(ctx, f"{run(0, 14)} then {run(33, 7)}", item, **rule)
    assert not convicted(ctx, (run(0, 15), "yes", run(15, 15)), item, **rule)
    assert not convicted(ctx, ("What is it?", item), item, **rule)
    assert convicted(ctx, ("What is it?", item), item, turns="all", **rule)


def test_palm_counts_ngrams(ctx: Context) -> None:
    item = run(0, 17)  # ten 8-grams
    assert convicted(ctx, f"so {run(0, 14)} then", item, rule="palm-8-70")
    assert not convicted(ctx, f"so {run(0, 13)} then", item, rule="palm-8-70")


def test_llama3_takes_a_share_for_each_benchmark(ctx: Context) -> None:
    exams = pl.concat([exam("a", [{"q": run(0, 20)}]), exam("b", [{"q": run(50, 20)}])])
    pairs = [(run(0, 12),), (run(50, 12),), (run(0, 9),)]
    rows = conversations(pairs)
    halves = verdicts(ctx, rows, exams, rule="llama3")
    assert set(halves) == {of(rows, run(0, 12)), of(rows, run(50, 12))}
    fractions = {"a": 0.45, "b": 0.7}
    causes = verdicts(ctx, rows, exams, rule="llama3", coverage=fractions)
    assert set(causes) == {of(rows, run(0, 12)), of(rows, run(0, 9))}
    assert all(c["rule"] == "llama3, coverage={'a': 0.45, 'b': 0.7}" for c in causes.values())
    for wrong in ({"a": 0.5}, {"a": 0.5, "b": 0.5, "gsm8k": 0.5}):
        with pytest.raises(
            UserError, match="coverage must have a value for each of a, b, got values for a"
        ):
            verdicts(ctx, rows, exams, rule="llama3", coverage=wrong)


def test_deepseek_finds_short_items_anywhere(ctx: Context) -> None:
    long = " ".join(["and so we go on"] * 9)
    assert convicted(ctx, f"{long} {run(0, 10)} {long}", run(0, 30), rule="deepseek-10")
    assert not convicted(ctx, f"{long} {run(0, 9)} {long}", run(0, 30), rule="deepseek-10")
    for words in (3, 9):
        turn = f"{long} {run(0, words)} {long}"
        assert convicted(ctx, turn, run(0, words), rule="deepseek-10")
        assert not convicted(ctx, f"{long} {run(1, words)}", run(0, words), rule="deepseek-10")
        # The other rules want a phrase this short to be half of the turn.
        assert convicted(ctx, turn, run(0, words), min_words=3) == (words > 8)
    with pytest.raises(UserError, match="no text of b can be compared"):
        convicted(ctx, run(0, 2), run(0, 2), rule="deepseek-10")


def test_qwen_needs_a_common_subsequence_too(ctx: Context) -> None:
    item = run(0, 50)
    rule = {"rule": "qwen-13-lcs"}
    other = " ".join(["otherwise it rains"] * 20)
    assert not convicted(ctx, f"{run(0, 29)} {other}", item, **rule)
    assert convicted(ctx, f"{run(0, 30)} {other}", item, **rule)
    assert convicted(ctx, f"{run(0, 13)} so {run(14, 9)} so {run(24, 8)} {other}", item, **rule)
    assert convicted(ctx, f"it rains {run(0, 13)} today", item, **rule)  # of the shorter text
    assert not convicted(ctx, f"{run(0, 12)} so {run(13, 12)} so {run(26, 12)}", item, **rule)


def test_substring_is_literal_but_for_the_case(ctx: Context) -> None:
    item = "\n  Count the vowels, then add 1 for each 'y'.\n"
    rule = {"rule": "substring"}
    assert convicted(ctx, "TASK: count the Vowels, then add 1 for each 'Y'. Go!", item, **rule)
    assert convicted(ctx, "recount the vowels, then add 1 for each 'y'.", item, **rule)
    assert not convicted(ctx, "Count the vowels then add 1 for each 'y'.", item, **rule)
    assert not convicted(ctx, "Count the vowels, then add 2 for each 'y'.", item, **rule)


def test_substring_of_code(ctx: Context) -> None:
    items = json_lines(DATA / "benchmarks/HumanEval.jsonl.gz")
    fields = ("prompt", "canonical_solution")
    exams = exam("humaneval", [{name: row[name] for name in fields} for row in items])
    trivial = ["return x + y", "return len(string)", "return n**2", "return ''.join(strings)"]
    assert all(any(text in row["canonical_solution"] for row in items) for text in trivial)
    docstring = items[0]["prompt"].split('"""')[1].strip()
    solution = items[1]["canonical_solution"].upper()
    rows = conversations(
        [*((text,) for text in trivial), (f"Do: {docstring}",), ("Do it.", f"Sure: {solution}")]
    )
    causes = verdicts(ctx, rows, exams, rule="substring")
    named = {(c["item"], c["field"], c["turn"]) for c in causes.values()}
    assert named == {("0", "prompt", 0), ("1", "canonical_solution", 1)}


letters = st.text(st.sampled_from("aBcÉß你。 \n.'3"), max_size=12)


@given(st.lists(letters, max_size=6), st.lists(st.lists(letters, max_size=4), max_size=5))
def test_substring_equals_python_in(needles: list[str], turns: list[list[str]]) -> None:
    """Turns are made of the needles and other letters, so that there is something to find."""
    texts = [letter.join([*needles, *turn]) for turn in turns for letter in ("", " ")] + needles
    built = build_needles(pl.DataFrame({"text": needles}, schema={"text": pl.String}), 3)
    contained = {
        (int(row), int(text))
        for pairs in find_contained(built, pl.Series(texts, dtype=pl.String))
        for row, text in zip(pairs.row, pairs.text, strict=True)
    }
    assert contained == {
        (i, n)
        for i, text in enumerate(texts)
        for n in built.searchable().tolist()
        if needles[n].lower().strip() in text.lower()
    }


def test_a_copy_is_whole_in_spite_of_its_zeros(ctx: Context) -> None:
    """Ignored n-grams are no evidence, and no alibi either."""
    item = f"{run(0, 10)} {'0 ' * 60} {run(10, 4)}"
    for name in ("tulu3-8-50", "palm-8-70", "llama3"):
        rows = conversations([(f"Try: {item}",), ("0 " * 80,)])
        (cause,) = verdicts(ctx, rows, exam("b", [{"q": item}]), rule=name).values()
        assert cause["overlap"] == 1.0


@pytest.mark.parametrize("name", [*METHODS])
def test_problems_that_differ_in_numbers_are_different(ctx: Context, name: Name) -> None:
    problem = "A farmer has {} cows and sells {} of them for ${} each. What does he have now?"
    turns = [(problem.format(48, 7, 310),), (problem.format(31, 5, 270),)]
    rows = conversations(turns)
    exams = exam("gsm8k", [{"question": problem.format(31, 5, 270)}])
    causes = verdicts(ctx, rows, exams, rule=name)
    expected = {of(rows, turns[1][0])}
    if name == "qwen-13-lcs":
        assert set(causes) >= expected
    else:
        assert set(causes) == expected


@pytest.mark.parametrize("name", [*METHODS])
def test_runs_of_zeros_and_counting_are_no_leak(ctx: Context, name: Name) -> None:
    runs = ["0 " * 40, "0 1 " * 20, " ".join(map(str, range(40))), "0" * 60, "0.0, " * 30]
    rows = conversations([(part,) for part in runs])
    exams = exam("b", [{"q": f"What follows? {part} And why is it so?"} for part in runs])
    assert verdicts(ctx, rows, exams, rule=name) == {}


def arithmetic(seed: int, length: int) -> str:
    rng = np.random.default_rng(seed)
    numbers = [str(n) for n in rng.integers(0, 1000, length)]
    return " ".join(
        f"{n} {sign}" for n, sign in zip(numbers, rng.choice([*"+-*/"], length), strict=True)
    )


@pytest.mark.parametrize("name", [*METHODS])
@pytest.mark.parametrize("form", ["{} = ?", "Calculate {}", "x {} y", "What is {}? Solve for x."])
def test_verbatim_arithmetic_is_a_leak(ctx: Context, name: Name, form: str) -> None:
    """Whatever its length, beside n-grams or in place of them; other numbers are no leak."""
    items = [form.format(arithmetic(seed, 8 + seed % 30)) for seed in range(100)]
    others = [form.format(arithmetic(-seed - 1 + 2**20, 8 + seed % 30)) for seed in range(100)]
    copies = [f"Here: {item}\n\nThink about it." for item in items]
    rows = conversations([(text,) for text in copies + others])
    causes = verdicts(ctx, rows, exam("b", [{"q": item} for item in items]), rule=name)
    assert set(causes) == {of(rows, copy) for copy in copies}
    assert all(cause["overlap"] == 1.0 for cause in causes.values())


@pytest.mark.parametrize("name", [*METHODS])
def test_a_part_of_arithmetic_is_no_leak(ctx: Context, name: Name) -> None:
    item = arithmetic(0, 30)
    assert convicted(ctx, f"Count: {item}", item, rule=name)
    for part in (item[:-8], item[8:], item.replace(" ", " 7 ", 1)):
        assert not convicted(ctx, f"Count: {part}", item, rule=name)


@pytest.mark.parametrize("name", sorted({*METHODS} - {"substring"}))
@pytest.mark.parametrize("text", [" ".join(map(str, range(2, 60, 2))), " ".join(ascii_lowercase)])
def test_a_count_is_no_leak_though_it_is_an_item(ctx: Context, name: Name, text: str) -> None:
    with_text = exam("b", [{"q": text}, {"q": run(0, 30)}])
    assert not verdicts(ctx, conversations([(text,)]), with_text, rule=name)


INVISIBLE = (
    "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u202e\u2060\u2066\ufe0f\ufeff\U000e0041"
)


@given(st.sampled_from([*METHODS]), st.sampled_from([*INVISIBLE, INVISIBLE]), st.randoms())
def test_invisible_characters_hide_nothing(name: Name, hidden: str, random: Random) -> None:
    """Neither in the row nor in the item, within words and between them."""
    ctx = Context.scratch(Path(mkdtemp()))
    items = [run(0, 40), "你好世界今天我们学习如何做一个简单的蛋糕然后吃掉它", arithmetic(0, 20)]
    for item in items:
        hiding = "".join(c + hidden * (random.random() < 0.5) for c in item)
        assert convicted(ctx, f"So: {hiding} then", item, rule=name)
        assert convicted(ctx, f"So: {item} then", hiding, rule=name)


@pytest.mark.parametrize("name", [*METHODS])
def test_duplicate_items_change_nothing(ctx: Context, name: Name) -> None:
    items = [{"q": row["question"]} for row in json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")]
    rows = conversations([(item["q"],) for item in items[:5]])
    once = ngram(ctx, rows, exam("b", items[:9]), method=METHODS[name]())
    twice = ngram(ctx, rows, pl.concat([exam("b", items[:9])] * 2), method=METHODS[name]())
    assert once.equals(twice)
    assert once["drop_reason"].count() == 5


def test_a_template_of_all_items_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 items and 300 rows share a line: 90,000 pairs, of which few are held at a time."""
    template = "Answer this question with one letter and give your reasons step by step please:"
    items = [f"{template} {WORDS[i % 100]} {i}" for i in range(300)]
    index = build_index(pl.DataFrame({"text": items}), 13, 5)
    rows = pl.Series([f"{template} something else {i}" for i in range(300)])
    complete = find_overlaps(index, rows)
    assert len(complete.row) == 300 * 300
    monkeypatch.setattr(ngram_index_module, "_MATCHES", 5000)
    parts = list(scan_overlaps(index, rows))
    assert max(len(part.row) for part in parts) <= 5000
    assert all(
        (a == np.concatenate(b)).all()
        for a, b in zip(complete, zip(*parts, strict=True), strict=True)
    )
    monkeypatch.setattr(ngram_index_module, "_MATCHES", 5)  # less than one row has: it stays whole
    assert sorted({len(part.row) for part in scan_overlaps(index, rows)}) == [0, 300]


PUBLISHED = {
    "gsm8k": (("question",), "rephrase_gsm8k", "gsm8k_test", (0, 11, 83)),
    "humaneval": (("prompt", "canonical_solution"), "humaneval_python", "HumanEval", (1, 6, 17)),
}
"""Fields, files, and how many of the 1,319 and 164 rephrased items share with their own
original any 13-, 10- or 8-gram: 0.0%, 0.8%, 6.3% and 0.6%, 3.7%, 10.4%."""


@pytest.mark.parametrize("benchmark", [*PUBLISHED])
def test_recall_on_paraphrases_is_as_published(benchmark: str) -> None:
    """Rules of n-grams are blind to paraphrase, and ours no less.

    The published counts split words at apostrophes and underscores, so texts are given
    that way, and have hits by counting ("1 2 3 4 5 6 7 8"), which are no evidence here.
    """
    fields, golden, file, published = PUBLISHED[benchmark]
    rephrased = [row["text"] for row in json_lines(GOLDEN / f"{golden}.jsonl.gz")]
    items = json_lines(DATA / f"benchmarks/{file}.jsonl.gz")
    texts, originals = (
        [" ".join(re.findall("[a-z0-9]+", text.lower())) for text in column]
        for column in (rephrased, ["\n".join(row[field] for field in fields) for row in items])
    )
    for n, expected in zip((13, 10, 8), published, strict=True):
        index = build_index(pl.DataFrame({"text": originals}), n, 5)
        pairs = find_overlaps(index, pl.Series(texts))
        own = set(pairs.row[pairs.row == pairs.text].tolist())
        shared = {
            number: ngrams(text, n) & ngrams(originals[number], n)
            for number, text in enumerate(texts)
        }
        plain = {number for number, grams in shared.items() if grams}
        assert len(plain) == expected
        assert own == {i for i in plain if any(is_evidence(gram, False) for gram in shared[i])}
        if benchmark == "gsm8k":
            assert own == plain


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    return set(zip(*(text.split()[i:] for i in range(n)), strict=False))


def test_tulus_rule_is_blind_to_paraphrase_too(ctx: Context) -> None:
    """All but HumanEval/76, whose rephrasing kept the seven examples of its docstring."""
    for golden, file, field, expected in (
        ("rephrase_gsm8k", "gsm8k_test", "question", set()),
        ("humaneval_python", "HumanEval", "prompt", {"76"}),
    ):
        rows = conversations([(row["text"],) for row in json_lines(GOLDEN / f"{golden}.jsonl.gz")])
        items = json_lines(DATA / f"benchmarks/{file}.jsonl.gz")
        exams = exam("b", [{"q": row[field]} for row in items])
        causes = verdicts(ctx, rows, exams, rule="tulu3-8-50")
        assert {cause["item"] for cause in causes.values()} == expected


def test_the_strong_baseline_flags_the_same_rows(ctx: Context) -> None:
    """What `make bench` measures against: equal on real rows with real leaks and without."""
    items = json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")[:200]
    exams = exam("gsm8k", [{"q": row["question"], "a": row["answer"]} for row in items])
    exams = pl.concat([exams, exam("short", [{"q": "What is the capital of France?"}])])
    leaks = [(f"Hello. {row['question']}", "I see.") for row in items[::9]]
    asked = [("What is the capital of France?",), ("0 " * 30,)]
    rows = pl.concat([conversations(leaks + asked), sample("self_instruct.jsonl.gz")]).sort("id")
    flagged = set(verdicts(ctx, rows, exams))
    assert flagged == word_tuples(rows, exams)
    assert len(flagged) >= len(leaks) + 1
