"""Corrections: nothing but a right final answer counts, and what was right stays as it was."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages._text.answers import equal
from stages.rewrite.correct import LeMa, MistakeTuning, OverMiss, correct
from stages.rewrite.correct.locating import best_constant, locating_facts
from stages.rewrite.correct.overmiss import faults
from stages.rewrite.correct.solutions import (
    InColumn,
    Injected,
    Sampled,
    changed_number,
    is_right,
    short_answer,
)
from stages.rewrite.correct.steps import continued_from, numbered, split_steps
from tests.support.options import problems
from tests.support.rows import DATA, alpaca, conversations, frame, json_lines, kept, record
from tests.support.scripted import Answer, scripted
from tests.support.teacher import saying

NO_MODEL: Final = LanguageModel(model="none")
RULES: Final = Injected(by="rules")
REFERENCES: Final = Path(__file__).parents[4] / "shared/data/references"
BIGBENCH: Final = {
    "multistep_arithmetic": (62, 45, 1, 18, 1, 0.253),
    "tracking_shuffled_objects": (40, 45, 12, 7, 3, 0.463),
    "logical_deduction": (6, 45, 39, 0, 1, 0.347),
}
"""Without a mistake, right answers, right despite one, wrong without one; the best constant."""

WRONG: Final = "Step 1: 4 and 5 is 9.\nStep 2: Twice that is 19.\nThe answer is 19."
FIXED: Final = "Step 2: Twice 9 is 18.\nThe answer is 18."
ONE: Final = conversations(
    [("What is twice the sum of 4 and 5?", "4 and 5 is 9.\nTwice 9 is 18.\n#### 18")]
)
PROBLEMS: Final = frame(
    record(row["prompt"], row["completion"])
    for row in json_lines(DATA / "seeds/word_problems.jsonl")
)
TRANSLATIONS: Final = alpaca(json_lines(DATA / "seeds/translations.jsonl"))
METHODS: Final = (LeMa(), MistakeTuning(), OverMiss())
EACH: Final = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def form(step: str, solution: str, reason: str = "It adds wrongly.") -> str:
    return f"[Wrong step]\n{step}\n[Reason]\n{reason}\n[Solution]\n{solution}\n[End]"


def model(correction: str = form("2", FIXED), solution: str = WRONG) -> Callable[[str], Answer]:
    """A model that solves like this, and corrects like that."""

    def script(prompt: str) -> Answer:
        if "[Wrong step]" in prompt:
            return correction, "stop"
        if "one detail more" in prompt or "is missing from it" in prompt:
            right = re.search(r"Right translation:\n(.*)\n\nWrite", prompt, re.DOTALL)
            text = right[1] if right else ""
            return (
                f"{text} {text}" if "one detail more" in prompt else text[: len(text) // 2]
            ), "stop"
        at = re.search(r"A learner gets to step (\d+)", prompt)
        if at:
            return f"Step {at[1]}: It is 31.\nThe answer is 31.", "stop"
        return solution, "stop"

    return script


def run(
    ctx: Context, script: Callable[[str], Answer], rows: pl.DataFrame = ONE, **more: Any
) -> Any:
    return correct(scripted(ctx, script), rows, model=NO_MODEL, **more)


def facts(ctx: Context) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ctx.files / "corrections.json").read_text("utf-8"))
    return read


def reasons(rows: pl.DataFrame) -> list[str | None]:
    return rows["drop_reason"].to_list()


def test_a_correction_names_the_step_says_why_and_reaches_the_gold_answer(ctx: Context) -> None:
    rows = run(ctx, model())
    (row,) = rows.to_dicts()
    user, answer = (message["content"] for message in row["messages"])
    assert "Step 2: Twice that is 19." in user
    assert "Step 2" in answer.split("\n")[0]
    assert is_right(answer, "18")
    assert (row["mistake_step"], row["error_source"], row["solver"]) == (1, "sampled", "none")
    assert row["parents"] == ONE["id"].to_list()
    assert row["origins"][0]["license"] == ONE["origins"][0][0]["license"]
    extra = json.loads(row["extra"])
    assert extra["corrected"].split("\n")[0] == extra["wrong"].split("\n")[0] == "4 and 5 is 9."
    feedback = run(ctx, model(), method=LeMa(target="feedback"))["messages"][0][1]["content"]
    assert answer.startswith(feedback)
    assert "18" not in feedback


@pytest.mark.parametrize(
    ("correction", "reason"),
    [
        (form("2", FIXED), None),
        (form("Step 2", f"Step 1: 4 and 5 is 9.\n{FIXED}"), None),
        (form("2", "Twice 9 is 18.\nThe answer is 18."), None),
        (form("2", f"Step 1: 4 and 5 are 9 in all.\n{FIXED}"), "prefix_changed"),
        (form("2", "Step 2: Twice 9 is 17.\nThe answer is 17."), "not_gold"),
        (form("2", "Step 2: Twice 9 is more than I can say, and so nobody knows it."), "unparsed"),
        (form("none", "Nothing."), "no_mistake"),
        (form("7", FIXED), "correction_unparsed"),
        (form("0", FIXED), "correction_unparsed"),
        (form("the second", FIXED), "correction_unparsed"),
        (form("2", FIXED, reason=""), "correction_unparsed"),
        (form("2", ""), "correction_unparsed"),
        (FIXED, "correction_unparsed"),
        (f"{form('2', FIXED)}\n{form('2', FIXED)}", "correction_unparsed"),
    ],
)
def test_only_what_can_be_read_and_is_right_is_kept(
    ctx: Context, correction: str, reason: str | None
) -> None:
    rows = run(ctx, model(correction))
    assert reasons(rows) == [reason]
    assert (rows["evidence"].null_count() == 1) == (reason is None)


@pytest.mark.parametrize(
    "missing", ["", "I do not know.", "So it goes on, and on, and on, and on."]
)
def test_a_missing_answer_is_not_zero(ctx: Context, missing: str) -> None:
    """LeMa's parser reads 0 there: an empty answer would solve what has the answer 0."""
    pool = conversations([("What is 3 less 3?", "3 less 3 is 0.\n#### 0")])
    assert short_answer(missing) is None
    assert is_right(missing, "0") is None
    wrong = "3 less 3 is 1.\nThe answer is 1."
    rows = run(ctx, model(form("1", missing or "-"), wrong), pool)
    assert reasons(rows)[0] in ("unparsed", "correction_unparsed")
    rows = run(ctx, model(solution=missing or " "), pool)
    assert reasons(rows)[0] in ("unparsed", "wrong_unparsed"), "neither wrong nor right"
    assert reasons(run(ctx, model(solution="None are left.\nThe answer is 0."), pool)) == ["right"]


def test_solutions_are_sampled_from_every_model(ctx: Context) -> None:
    solvers = (LanguageModel(model="a/x"), LanguageModel(model="b/x"))
    rows = run(ctx, model(), solvers=solvers, errors=Sampled(num_samples=3))
    assert len(rows) == 6
    assert Counter(rows["solver"]) == {"x": 3, "x#2": 3}
    assert set(rows["drop_reason"].drop_nulls()) == {"duplicate"}


def test_a_row_without_a_final_answer_has_no_gold(ctx: Context) -> None:
    pool = conversations([("Write a story.", "Once upon a time there was a miller who had a son.")])
    assert reasons(run(ctx, model(), pool)) == ["no_gold"]


def mistakes(count: int = 12) -> pl.DataFrame:
    rows = []
    for number in range(count):
        steps = [f"Line {n} of {number} holds." for n in range(4)] + ["The answer is 9."]
        at = (number * 7) % 4
        extra = json.dumps({"wrong": steps, "mistake_step": at, "gold": "8"})
        rows.append({**record(f"What comes of {number}?", "8"), "extra": extra})
    return frame(rows)


COLUMN: Final = InColumn(wrong="extra.wrong", mistake_step="extra.mistake_step")


@pytest.mark.parametrize(("skilled", "beats"), [(True, True), (False, False)])
def test_a_locator_is_held_against_the_best_constant(
    ctx: Context, skilled: bool, beats: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = mistakes()
    known = {
        json.loads(extra)["wrong"][0]: json.loads(extra)["mistake_step"] for extra in pool["extra"]
    }

    def script(prompt: str) -> Answer:
        first = re.search(r"Step 1: (.*)", prompt)
        at = known[first[1]] if first and skilled else 0
        return form(str(at + 1), f"Step {at + 1}: So it is.\nThe answer is 8."), "stop"

    rows = run(ctx, script, pool, errors=COLUMN, gold="extra.gold")
    assert not any(reasons(rows))
    located = facts(ctx)["located"]
    assert located["known"] == 12
    assert located["beats_constant"] is beats
    assert ("worth nothing" in caplog.text) is not beats
    assert set(rows["error_source"]) == {"given"}


def test_an_unreadable_step_is_no_located_one(ctx: Context) -> None:
    run(ctx, model("nonsense"), mistakes(6), errors=COLUMN, gold="extra.gold")
    assert facts(ctx)["located"] is None


@pytest.mark.skipif(not REFERENCES.is_dir(), reason="needs the reference data")
@pytest.mark.parametrize("name", BIGBENCH)
def test_the_counts_of_big_bench_mistake(name: str) -> None:
    """A wrong answer and a wrong step are two things: neither says the other."""
    rows = json_lines(REFERENCES / f"bigbench_mistake_{name}.jsonl.gz")
    sound, right, lucky, unlucky, constant, accuracy = BIGBENCH[name]
    is_same = [equal(str(row["answer"] or ""), row["target"]) is True for row in rows]
    without = [row["mistake_index"] is None for row in rows]
    assert (sum(without), sum(is_same)) == (sound, right)
    assert sum(s and not w for s, w in zip(is_same, without, strict=True)) == lucky
    assert sum(w and not s for s, w in zip(is_same, without, strict=True)) == unlucky
    step, share = best_constant([row["mistake_index"] for row in rows])
    assert (step, round(share, 3)) == (constant, accuracy)
    assert locating_facts([(None, None), (2, 2), (1, 0)])["right"] == 2  # type: ignore[index]


def test_both_sides_are_kept_in_pairs_with_their_tags(ctx: Context) -> None:
    rows = kept(run(ctx, model(), PROBLEMS, method=MistakeTuning(), errors=RULES))
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_dicts():
        pairs.setdefault(row["pair"], []).append(row)
    assert len(pairs) == 12, "of yes and no questions no number decides"
    golds = dict(zip(PROBLEMS["id"], PROBLEMS["messages"], strict=True))
    for id_, sides in pairs.items():
        assert Counter(side["tag"] for side in sides) == {"correct": 1, "incorrect": 1}
        by_tag = {side["tag"]: side for side in sides}
        gold = golds[id_][1]["content"]
        assert by_tag["correct"]["messages"][1]["content"] == gold
        assert is_right(by_tag["incorrect"]["messages"][1]["content"], short_answer(gold)) is False
        for tag, side in by_tag.items():
            assert side["messages"][0]["content"].endswith(f"[{tag} rationale]")
            assert (side["parents"], side["error_source"]) == ([id_], "injected")
    assert facts(ctx)["sources"] == {"injected": {"kept": 24, "no_fault": 6}}


def test_one_wrong_side_for_each_problem(ctx: Context) -> None:
    rows = run(ctx, model(), method=MistakeTuning(), errors=Sampled(num_samples=3))
    assert Counter(rows["tag"]) == {None: 2, "correct": 1, "incorrect": 1}
    assert set(rows["drop_reason"].drop_nulls()) == {"another_is_kept"}


@pytest.mark.parametrize(
    ("again", "right"),
    [
        ("9 twice is 18.\nThe answer is 18.", "rethought"),
        ("The answer is 17.", "gold"),
        (" ", "gold"),
    ],
)
def test_a_rethought_answer_is_the_right_side_where_it_is_right(
    ctx: Context, again: str, right: str
) -> None:
    def script(prompt: str) -> Answer:
        return (again if "You solved this before" in prompt else WRONG), "stop"

    rows = run(ctx, script, method=MistakeTuning(right="rethought"))
    (row,) = rows.filter(pl.col("tag") == "correct").to_dicts()
    assert json.loads(row["extra"])["right_side"] == right
    gold = ONE["messages"][0][1]["content"]
    assert row["messages"][1]["content"] == (again if right == "rethought" else gold)


def test_the_cause_of_a_mistake_is_noted_where_it_can_be_read(ctx: Context) -> None:
    for cause in ("arithmetic", ""):

        def script(prompt: str, cause: str = cause) -> Answer:
            return (cause if "keywords" in prompt else WRONG), "stop"

        rows = run(ctx, script, method=MistakeTuning(explain=True))
        assert len(kept(rows)) == 2
        assert {json.loads(extra)["cause"] for extra in rows["extra"]} == {cause or None}


def test_a_translation_stands_beside_its_two_faults(ctx: Context) -> None:
    rows = kept(run(ctx, model(), TRANSLATIONS, method=OverMiss()))
    assert len(rows) >= 10
    assert set(rows["error_source"]) == {"injected"}
    rights = {row["id"]: row["messages"][1]["content"] for row in TRANSLATIONS.to_dicts()}
    for row in rows.to_dicts():
        text = row["messages"][1]["content"]
        (right,) = re.findall(r"<right>(.*?)</right>", text)
        over, miss = re.findall(r"<wrong>(.*?)</wrong>", text)
        assert right == rights[row["parents"][0]]
        assert len(miss) < len(right) < len(over)
        assert "Hint:" in row["messages"][0]["content"][row["input_start"] :]


@pytest.mark.parametrize(
    ("over", "miss"),
    [
        ("The sea.", "The sea."),
        ("The sea is very cold now.", ""),
        ("<wrong>The sea is very cold now.", "Cold."),
    ],
)
def test_what_is_no_fault_is_dropped(ctx: Context, over: str, miss: str) -> None:
    pool = alpaca(
        [{"instruction": "Translate.", "input": "Das Meer ist kalt.", "output": "The sea is cold."}]
    )

    def script(prompt: str) -> Answer:
        return (over if "one detail more" in prompt else miss), "stop"

    assert reasons(run(ctx, script, pool, method=OverMiss()))[0] in ("no_fault", "miss_unparsed")


@given(st.integers(0, 999), st.sampled_from(PROBLEMS["messages"].to_list()[:12]))
def test_an_injected_error_leaves_what_precedes_it(seed: int, messages: Any) -> None:
    solution = messages[1]["content"]
    steps, gold = split_steps(solution), short_answer(solution)
    wrong = changed_number(steps, gold, random.Random(seed))
    if wrong is None:
        assert gold in ("yes", "no")
        return
    new, at = wrong
    assert new[:at] == steps[:at]
    assert new[at] != steps[at]
    assert is_right("\n".join(new), gold) is False


@given(st.lists(st.sampled_from("abcdef"), min_size=3, max_size=30), st.integers(0, 99))
def test_faults_by_rules_are_longer_and_shorter(words: list[str], key: int) -> None:
    for text in (" ".join(words), "天" + "".join("海风山水火木"["abcdef".index(w)] for w in words)):
        over, miss = faults(text, str(key))
        assert len(over) > len(text) > len(miss) > 0


@given(
    st.lists(st.sampled_from(["Two and two.", "It is 3.5 m.", "x = 4"]), min_size=1, max_size=6),
    st.integers(0, 5),
)
def test_steps_are_read_back_as_they_were(steps: list[str], at: int) -> None:
    assert split_steps(numbered(steps)) == steps
    at = min(at, len(steps) - 1)
    rest = ["New.", "Newer."]
    assert continued_from(steps, at, numbered(rest, at + 1)) == rest
    assert continued_from(steps, at, numbered([*steps[:at], *rest])) == rest


def test_a_model_puts_the_error_where_it_is_told_to(ctx: Context) -> None:
    script = model(form("1", "Step 1: So.\nThe answer is 18."))
    rows = run(ctx, script, PROBLEMS, errors=Injected())
    assert facts(ctx)["located"]["known"] > 8
    before = {row["id"]: split_steps(row["messages"][1]["content"]) for row in PROBLEMS.to_dicts()}
    for row in rows.filter(pl.col("drop_reason") != "no_fault").to_dicts():
        wrong = json.loads(row["extra"])["wrong"].split("\n")
        at = wrong.index("It is 31.")
        assert wrong[:at] == "\n".join(before[row["parents"][0]]).split("\n")[:at]


@EACH
def test_rows_do_not_depend_on_the_others(ctx: Context, method: Any) -> None:
    pool = TRANSLATIONS if isinstance(method, OverMiss) else PROBLEMS
    columns = ["id", "messages", "parents", "drop_reason", "tag"]

    def rows(part: pl.DataFrame) -> set[str]:
        result = run(ctx, model(), part, method=method, errors=RULES)
        return {str(row) for row in result.select(columns).to_dicts()}

    whole = rows(pool)
    assert rows(pool.reverse()) == whole
    assert rows(pool.gather_every(2)) < whole


@EACH
@pytest.mark.parametrize("said", ["", "}{ %% \x00 [[", "I'm sorry, but I can't help with that."])
def test_a_useless_model_makes_no_rows(ctx: Context, method: Any, said: str) -> None:
    pool = TRANSLATIONS if isinstance(method, OverMiss) else PROBLEMS
    rows = run(ctx, saying((said, "stop")), pool, method=method)
    assert not len(kept(rows))
    assert rows["evidence"].null_count() == 0
    failed = run(ctx, saying(("away", "error")), pool, method=method)
    assert set(failed["error"].drop_nulls()) == {"away"}


def odd_rows() -> pl.DataFrame:
    with_tools = record("Find it.", "Done.")
    with_tools["messages"][1] |= {
        "tool_calls": [{"id": None, "name": "f", "arguments": "{}"}],
        "content": None,
    }
    reasoned = record("Why?", "So.")
    reasoned["messages"][1]["reasoning"] = "Because."
    return frame(
        [
            *(with_tools, reasoned, record("", "So."), record("Why?", ""), record("Why?")),
            *(record("One.", "Two.", "Three.", "Four."), record("三加四是多少？", "答案：7")),
            record("Long. " * 9_000, "So it is. " * 5_000 + "\n#### 7"),
        ]
    )


@EACH
def test_odd_rows_are_kept_whole_or_dropped_with_a_reason(ctx: Context, method: Any) -> None:
    rows = run(ctx, model(), odd_rows(), method=method, errors=RULES)
    ended = {*reasons(rows)} - {None}
    assert ended >= {"has_tools", "has_reasoning", "no_instruction", "no_answer", "multi_turn"}


def test_methods_and_errors_differ_in_their_rows(ctx: Context) -> None:
    variants = [
        *({"method": m, "errors": e} for m in METHODS[:2] for e in (Sampled(), Injected(), RULES)),
        *({"method": OverMiss(), "errors": e} for e in (Injected(), RULES)),
        {"method": LeMa(target="feedback")},
        {"method": MistakeTuning(right="rethought")},
        {"method": LeMa(field_by_field=True)},
    ]
    seen = set()
    for options in variants:
        context = scripted(ctx, model())
        pool = TRANSLATIONS if isinstance(options["method"], OverMiss) else ONE
        rows = correct(context, pool, model=NO_MODEL, **options)  # type: ignore[arg-type]
        seen.add(str([context.engine.calls, rows.drop("journal").to_dicts()]))
    assert len(seen) == len(variants)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "overmiss", "errors": {"name": "sampled"}}, "errors must be injected"),
        ({"method": "overmiss", "gold": "id"}, "gold must be left out"),
        (
            {"method": {"name": "mistake_tuning", "correct_tag": "x", "incorrect_tag": "x"}},
            "differ",
        ),
        ({"errors": {"name": "injected"}, "solvers": ["model"]}, "solvers must be left out"),
    ],
)
def test_options_that_nothing_uses_are_refused(options: dict[str, Any], what: str) -> None:
    (message,) = problems("rewrite.correct", **options)
    assert what in message


@pytest.mark.parametrize(
    ("wrong", "shown", "reason"),
    [
        (["2 is 2.", None, " ", "The answer is 9."], ["2 is 2.", "The answer is 9."], None),
        ("The answer is 9.", ["The answer is 9."], None),
        (9, ["9"], None),
        (0, ["0"], None),
        ([None, ""], None, "no_solution"),
        ([], None, "no_solution"),
        (None, None, "no_solution"),
    ],
)
def test_what_a_row_has_of_a_solution_is_no_word_for_nothing(
    ctx: Context, wrong: Any, shown: list[str] | None, reason: str | None
) -> None:
    extra = json.dumps({"wrong": wrong})
    pool = frame([{**record("What comes of it?", "The answer is 8."), "extra": extra}])
    rows = run(ctx, model(form("1", "The answer is 8.")), pool, errors=InColumn())
    assert reasons(rows) == [reason]
    if shown:
        assert json.loads(rows["extra"][0])["wrong"].split("\n") == shown


@pytest.mark.parametrize("gold", [{"a": "one two three four five six seven"}, "a b c d e f g", [1]])
def test_a_gold_answer_of_any_type_is_compared_or_missing(ctx: Context, gold: Any) -> None:
    extra = json.dumps({"gold": gold})
    pool = frame([{**record("What comes of it?", "The answer is 8."), "extra": extra}])
    rows = run(ctx, model(), pool, gold="extra.gold")
    assert set(rows["drop_reason"].drop_nulls()) <= {"no_gold", "not_gold", "unparsed"}


def test_a_row_without_a_right_side_takes_no_pair_from_another(ctx: Context) -> None:
    extra = json.dumps({"gold": "8"})
    answers = ("The answer is 7.", "4 and 4 is 8.\nThe answer is 8.")
    pool = frame({**record("What?", answer), "extra": extra} for answer in answers)
    for rows in (pool, pool.reverse()):
        result = run(ctx, model(), rows, method=MistakeTuning(), gold="extra.gold")
        assert sorted(kept(result)["tag"]) == ["correct", "incorrect"]
        assert sorted(result["drop_reason"].drop_nulls()) == ["not_gold"]


def test_numbers_of_any_length_and_number_are_stepped_over() -> None:
    """Digits without an end are no numbers, and a final answer without one costs no time."""
    steps = ["It is " + "9" * 5000 + ".", *(f"{n} and {n} is {2 * n}." for n in range(5000))]
    assert changed_number([*steps, "The answer is Paris."], "Paris", random.Random(0)) is None
    changed = changed_number([*steps, "The answer is 5."], "5", random.Random(0))
    assert changed is not None
    assert short_answer("\n".join(changed[0])) != "5"


def test_two_turns_of_the_user_are_no_problem_with_an_answer(ctx: Context) -> None:
    """Also where the gold answer is in a column, and no answer of the row is needed."""
    extra = json.dumps({"gold": "8", "wrong": "The answer is 9."})
    pool = frame([{**record("What is it?", "Or is it 8?", roles=("user", "user")), "extra": extra}])
    for gold, reason in (("extra.gold", "multi_turn"), ("response", "no_answer")):
        rows = run(ctx, model(), pool, gold=gold, errors=InColumn())
        assert reasons(rows) == [reason]
