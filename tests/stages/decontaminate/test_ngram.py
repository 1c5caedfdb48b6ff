"""decontaminate.ngram against the brute force over word tuples, and the known traps."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from schemas.records import ITEM_COLUMNS
from stages.decontaminate._rules import GPT3, METHODS, Substring, label
from stages.decontaminate.ngram import ngram
from stages.load.benchmarks import benchmarks
from tests.support.ngram_oracle import largest, split
from tests.support.rows import DATA, conversations, evidence, exam, json_lines, of, sample

QUESTION = "Natalia sold clips to 48 of her friends in April, and then half as many in May."


def dropped(
    ctx: Context,
    rows: pl.DataFrame,
    benchmarks: pl.DataFrame,
    rule: str = "gpt3-13",
    fields: tuple[str, ...] | None = None,
    **options: object,
) -> dict:
    """The evidence under a rule with these options."""
    verdict = ngram(ctx, rows, benchmarks, method=METHODS[rule](**options), fields=fields)
    assert set(verdict["drop_reason"].drop_nulls()) <= {"contaminated"}
    return evidence(rows, verdict)


word = st.sampled_from(["the", "cat", "sat", "on", "1", "2", "a", "你", "好", "Sat.", "x+y"])
number = st.sampled_from(["1", "2", "3", "50", "a", "x"])
text = (st.lists(word, max_size=14) | st.lists(number, max_size=18)).map(" ".join)
LONG = "the cat sat on the mat today as always with a friend of hers"


@given(
    st.sampled_from([*METHODS]),
    st.lists(st.lists(text, min_size=1, max_size=3), min_size=1, max_size=5),
    st.lists(st.dictionaries(st.sampled_from(["q", "a"]), text, min_size=1), max_size=4),
    st.fixed_dictionaries(
        {
            "ngram_size": st.none() | st.integers(3, 10),
            "coverage": st.sampled_from([None, 0.0, 0.3, 0.6]),
            "min_words": st.sampled_from([None, 3, 4]),
            "turns": st.sampled_from([None, "all", "user", "assistant"]),
        }
    ),
)
def test_small_pools(
    tmp_path_factory: pytest.TempPathFactory, name: str, turns: list, items: list, options: dict
) -> None:
    """Every rule against loops over word tuples, and its evidence against the texts."""
    if name == "substring":
        options |= {"ngram_size": None, "coverage": None}
    options = {option: value for option, value in options.items() if value is not None}
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    rows = conversations(turns)
    exams = exam("b", [{"q": LONG}, *items])
    causes = dropped(ctx, rows, exams, rule=name, **options)
    rule = METHODS[name](**options)
    expected = largest(rule, rows, exams)
    assert {key: cause["overlap"] for key, cause in causes.items()} == pytest.approx(expected)
    by_id = dict(rows.select("id", "messages").iter_rows())
    for key, cause in causes.items():
        turn = " ".join(split(by_id[key][cause["turn"]]["content"]))
        item = exams.filter(pl.col("item") == cause["item"])["texts"][0].to_list()
        (among,) = (field["text"] for field in item if field["name"] == cause["field"])
        assert cause["rule"] == label(rule)
        if name == "substring":
            assert among.lower().strip() in by_id[key][cause["turn"]]["content"].lower()
            assert " ".join(split(among)).startswith(cause["ngram"])
        else:
            assert f" {cause['ngram']} " in f" {turn} "
            assert f" {cause['ngram']} " in f" {' '.join(split(among))} "


def test_real_items_in_real_rows(ctx: Context) -> None:
    items = benchmarks(ctx, names=("gsm8k", "humaneval", "ifeval"))
    leaks = items.sample(40, seed=0)["texts"].list.first().struct.field("text")
    turns = [(f"Please solve this.\n\n{leak}", "I do not know.") for leak in leaks]
    rows = pl.concat([conversations(turns), sample("self_instruct.jsonl.gz").head(300)]).sort("id")
    exams = items.filter(pl.col("benchmark") != "mmlu")
    causes = dropped(ctx, rows, exams, ngram_size=8, coverage=0.5)
    assert set(causes) >= set(conversations(turns)["id"])
    few = exams.filter(pl.col("texts").list.first().struct.field("text").is_in(leaks.to_list()))
    some = rows.filter(pl.col("id").is_in(conversations(turns)["id"].to_list()))
    some = pl.concat([some, rows.head(20)]).unique("id").sort("id")
    for name in ("tulu3-8-50", "palm-8-70", "qwen-13-lcs", "deepseek-10", "substring"):
        causes = dropped(ctx, some, few, rule=name)
        expected = largest(METHODS[name](), some, few)
        assert {key: cause["overlap"] for key, cause in causes.items()} == pytest.approx(expected)


def test_paraphrases_pass_as_published(ctx: Context) -> None:
    """Recall on 1,319 rephrased items: methods that count n-grams are blind to paraphrase."""
    rephrased = json_lines(DATA.parent / "tests/golden/rephrase_gsm8k.jsonl.gz")
    items = json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")
    exams = exam("gsm8k", [{"question": row["question"]} for row in items])
    rows = conversations([(row["text"],) for row in rephrased])
    assert len(dropped(ctx, rows, exams, ngram_size=13)) <= 0.005 * len(rows)
    assert len(dropped(ctx, rows, exams, ngram_size=8)) <= 0.10 * len(rows)
    copies = conversations([(row["question"],) for row in items])
    assert len(dropped(ctx, copies, exams, ngram_size=13)) == len(copies)


def test_the_train_split_is_no_test_item(ctx: Context, shared: object) -> None:
    train = json_lines(shared / "benchmarks/gsm8k_train.jsonl.gz")
    items = json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")
    exams = exam("gsm8k", [{"question": row["question"]} for row in items])
    rows = conversations([(row["question"], row["answer"]) for row in train])
    assert len(dropped(ctx, rows, exams, ngram_size=13, coverage=0.5)) < 0.01 * len(rows)


def test_only_turn_three_of_a_conversation(ctx: Context) -> None:
    rows = conversations([("Hello!", "Hi. How can I help?", f"Well: {QUESTION}", "Sure.")])
    exams = exam("gsm8k", [{"question": "Something else altogether."}, {"question": QUESTION}])
    (cause,) = dropped(ctx, rows, exams).values()
    assert (cause["benchmark"], cause["item"], cause["field"]) == ("gsm8k", "1", "question")
    assert cause["turn"] == 2
    assert cause["overlap"] == 1.0
    assert cause["ngram"] == "natalia sold clips to 48 of her friends in april and then half"
    assert len(dropped(ctx, rows, exams, turns="user")) == 1
    assert dropped(ctx, rows, exams, turns="assistant") == {}


def test_another_number_is_another_problem(ctx: Context) -> None:
    problem = "A farmer has {} cows and buys {} more cows. How many cows has the farmer got now?"
    rows = conversations([(problem.format(48, 7),), (problem.format(31, 5),)])
    exams = exam("gsm8k", [{"question": problem.format(31, 5)}])
    assert list(dropped(ctx, rows, exams, coverage=0.9)) == [of(rows, problem.format(31, 5))]


def test_short_items(ctx: Context) -> None:
    short = {"a": "yes", "b": "B", "c": "42", "d": "All of the above", "e": "0 0 0 0 0 0 0"}
    question = "What happens if you eat watermelon seeds?"
    exams = exam("truthfulqa", [short, {"question": question}])
    fall = exam("mmlu", [{"choice": "the fall of the Berlin Wall"}])
    turns = [
        ("yes",),
        ("B", "42"),
        ("Is it all of the above?", "All of the above"),
        ("0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",),
        (f"Tell me: {question}", "Nothing."),
        ("Describe three events of the year 1989, such as the fall of the Berlin Wall",),
    ]
    rows = conversations(turns)
    causes = dropped(ctx, rows, pl.concat([exams, fall]))
    assert list(causes) == [of(rows, f"Tell me: {question}")]
    assert causes[of(rows, f"Tell me: {question}")]["overlap"] == 1.0


def test_empty_turns_and_texts(ctx: Context) -> None:
    rows = conversations([("",), ("", ""), ("a",)])
    exams = exam("b", [{"q": QUESTION, "empty": "", "none": None}])
    assert dropped(ctx, rows, exams) == {}
    assert dropped(ctx, rows.clear(), exams) == {}


def test_long_runs_of_zeros_and_of_numbers_are_no_leak(ctx: Context) -> None:
    runs = ["0 " * 40, "0 1 " * 20, " ".join(map(str, range(40))), " ".join("abcdefghijklmnop")]
    rows = conversations([(run,) for run in runs])
    exams = exam("b", [{"q": f"What follows? {run} And why is it so?"} for run in runs])
    assert dropped(ctx, rows, exams) == {}


def test_chinese(ctx: Context) -> None:
    item = "小明有三个苹果，他给了小红一个苹果，请问小明还剩几个苹果？"
    rows = conversations([(f"请回答：{item}",), ("请写一首关于苹果的诗。",)])
    causes = dropped(ctx, rows, exam("c", [{"question": item}]))
    assert list(causes) == [of(rows, f"请回答：{item}")]


def test_coverage_counts_words_of_the_item_once(ctx: Context) -> None:
    words_of = [f"w{i}x" for i in range(20)]
    item, half = " ".join(words_of), " ".join(words_of[:10])
    rows = conversations([(f"{half} and again {half}",)])
    exams = exam("b", [{"q": item}])
    (cause,) = dropped(ctx, rows, exams, ngram_size=5, coverage=0.4).values()
    assert cause["overlap"] == 0.5
    assert dropped(ctx, rows, exams, ngram_size=5, coverage=0.5) == {}


def test_fields_choose_the_texts(ctx: Context) -> None:
    rows = conversations([(QUESTION,)])
    exams = exam("b", [{"question": "What is the name of the first planet?", "answer": QUESTION}])
    assert len(dropped(ctx, rows, exams)) == 1
    assert dropped(ctx, rows, exams, fields=("question",)) == {}


def test_what_cannot_be_compared_is_never_clean(ctx: Context) -> None:
    rows = conversations([(QUESTION,)])
    good = exam("good", [{"question": QUESTION}])
    with pytest.raises(UserError, match="must hold evaluation items"):
        ngram(ctx, rows, pl.DataFrame(schema=ITEM_COLUMNS))
    for useless in ([{"question": "yes"}], [{"question": None}], [{}]):
        with pytest.raises(UserError, match="no text of bad can be compared"):
            ngram(ctx, rows, pl.concat([good, exam("bad", useless)]))
    with pytest.raises(UserError, match="no text of good can be compared"):
        ngram(ctx, rows, good, fields=("prompt",))


FRACTION = "must be at least 0 and below 1, got"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "gpt3-13", "ngram_size": 2}, "method.ngram_size must be at least 3, got 2"),
        ({"name": "gpt3-13", "min_words": 0}, "method.min_words must be at least 3, got 0"),
        ({"name": "gpt3-13", "coverage": 1.0}, f"method.coverage {FRACTION} 1.0"),
        (
            {"name": "gpt3-13", "coverage": {"b": -0.1}},
            "method.coverage must be at least 0 and below 1 for b, got -0.1",
        ),
        ({"name": "llama3", "coverage": 1.1}, "method.coverage must be between 0 and 1, got 1.1"),
        ({"name": "llama3", "coverage": "half"}, "method.coverage must be a number, got 'half'"),
        ({"name": "substring", "ngram_size": 8}, "method (substring) has no option 'ngram_size'"),
        ({"name": "substring", "coverage": 0.5}, "method (substring) has no option 'coverage'"),
    ],
)
def test_mistakes_are_reported_before_the_run(method: dict, expected: str) -> None:
    _, (problem,) = bind(find("decontaminate.ngram"), {"method": method}, {}, Path())
    assert problem.what == expected


def test_a_method_may_be_its_name() -> None:
    stage = find("decontaminate.ngram")
    for name, rule in METHODS.items():
        options, problems = bind(stage, {"method": name}, {}, Path())
        assert not problems
        assert options.method == rule()
        assert label(options.method) == name
    assert label(Substring(min_words=7, turns="user")) == "substring, min_words=7, turns=user"
    assert stage.options[0].default == GPT3()


def test_a_row_depends_on_itself_alone(ctx: Context) -> None:
    items = json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")[:50]
    exams = exam("gsm8k", [{"question": row["question"]} for row in items])
    pool = conversations([(row["question"], row["answer"]) for row in items[::3]])
    rows = pl.concat([pool, sample("self_instruct.jsonl.gz").head(60)]).sort("id")
    complete = ngram(ctx, rows, exams)
    mixed = exams.sample(fraction=1.0, shuffle=True, seed=2)
    parts = [ngram(ctx, rows[i : i + 7], mixed) for i in range(0, len(rows), 7)]
    assert pl.concat(parts).equals(complete)
    assert complete["drop_reason"].count() == len(pool)
