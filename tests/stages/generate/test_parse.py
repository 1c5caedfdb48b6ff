"""Parsers on the raw responses of real models, and on what is cut, odd or empty."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.structured_output import Unreadable
from stages._llm.ratings import rating
from stages.generate._parsing.lists import (
    Instance,
    Rules,
    continued_turn,
    field_tasks,
    input_first,
    judge_instances,
    labelled_instance,
    leaked,
    numbered_items,
    output_first,
    without_mark,
)
from stages.generate.self_instruct.instances import yes_or_no_word
from tests.conftest import ROOT
from tests.support.rows import json_lines

GOLDEN = ROOT / "tests/golden"


def test_every_instruction_of_a_real_log_is_read_from_its_raw_response() -> None:
    by_response = defaultdict(list)
    for row in json_lines(GOLDEN / "selfinstruct_ko_machine_generated.jsonl.gz"):
        choice = row["metadata"]["response"]["choices"][0]
        by_response[choice["message"]["content"]].append(row["instruction"])
    assert len(by_response) == 398
    read = 0
    for raw, logged in by_response.items():
        items = [item.capitalize() for item in numbered_items(raw)]
        assert set(logged) <= set(items)
        assert all(not re.match(r"\d+\s?\. ", item) for item in items)
        read += len(items)
    assert read >= 574, "what the log's own novelty filter refused is read as well"


def test_letters_outside_ascii_are_refused_only_where_that_is_asked() -> None:
    log = json_lines(GOLDEN / "selfinstruct_ko_machine_generated.jsonl.gz")
    texts = [row["instruction"] for row in log if len(row["instruction"].split()) >= 4]
    default, open_ = Rules(keywords=()), Rules(keywords=(), ascii_start=False)
    reasons = [default.rejection(text) for text in texts]
    assert sum(r is not None and r[0] == "starts_outside_ascii" for r in reasons) > 0.9 * len(texts)
    assert not any(open_.rejection(t) for t in texts if not t[0].isascii())


def test_yes_and_no_are_read_from_answers_that_run_on() -> None:
    answers = [
        row["is_classification"] for row in json_lines(GOLDEN / "selfbehave_hq_is_clf_raw.jsonl.gz")
    ]
    lines = [answer.strip().split("\n")[0] for answer in answers]
    assert sum(map(yes_or_no_word, answers)) == 3
    assert [yes_or_no_word(a) for a in answers] == [line.startswith("Yes") for line in lines]
    # Compared whole, as the authors' code does, none of the three would count.
    assert not any(
        answer.strip() in ("Yes", "yes", "YES") for answer in answers if yes_or_no_word(answer)
    )


@pytest.mark.parametrize("text", ["", " \n", "Maybe", "Yesterday", "It is classification."])
def test_what_is_neither_yes_nor_no_is_not_taken_for_no(text: str) -> None:
    with pytest.raises(Unreadable, match="one of: yes, no"):
        yes_or_no_word(text)


@given(st.lists(st.text("abc. 123", min_size=1).map(lambda t: " ".join(t.split())), max_size=8))
def test_a_numbered_list_comes_back_item_by_item(items: list[str]) -> None:
    items = [i for i in items if i and not re.match(r"\d+\s?\.(\s|$)", i)]
    head, *rest = items or ["x"]
    text = f" {head}\n" + "".join(f"{n}. {item}\n" for n, item in enumerate(rest, 10))
    assert numbered_items(text) == [head, *rest]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", []),
        (" \n10. \n11.", []),
        (" Name a colour.\n10 . Name\n a river.", ["Name a colour.", "Name a river."]),
        ("9. Name a colour.\n10. Name a river.", ["Name a colour.", "Name a river."]),
        (" Multiply 3.5 by 2.\n3.5 is it?", ["Multiply 3.5 by 2. 3.5 is it?"]),
    ],
)
def test_odd_lists(text: str, items: list[str]) -> None:
    assert numbered_items(text) == items


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Name three rivers.", "too_short"),
        ("word " * 151, "too_long"),
        ("word " * 150, None),
        ("Describe what the Images show.", "banned_keyword"),
        ("Describe what imagery is like.", None),
        ("Say how to go to Rome.", "banned_keyword"),
        ("Write a program that sorts numbers.", "write_a_program"),
        ("(a) is which of these?", "starts_with_punctuation"),
        ("Ärger is a word for what?", "starts_outside_ascii"),
        ("Name the four longest rivers.", None),
    ],
)
def test_rules(instruction: str, reason: str | None) -> None:
    rejection = Rules().rejection(instruction)
    assert (rejection and rejection[0]) == reason


def test_instances_with_the_input_first() -> None:
    text = "Example 1\nList: 3, 1\nOutput: 1, 3\n\nExample 2\nInput: 9, 8\nOutput: 8, 9\n"
    assert input_first(text) == [Instance("List: 3, 1", "1, 3"), Instance("9, 8", "8, 9")]
    assert input_first("Output:\nParis\n") == [Instance("", "Paris")]
    assert input_first("Input: a\nOutput: b\nInput: c\nOutput: d") == [Instance("a", "b")]
    assert input_first("An example is no heading.") == []


def test_instances_with_the_label_first() -> None:
    text = "Class label: spam\nBuy now!\nReally!\nClass label: ham\nSee you.\n\nClass label: none"
    expected = [Instance("Buy now!\nReally!", "spam"), Instance("See you.", "ham")]
    assert output_first(text) == [*expected, Instance("", "none")]
    assert output_first("spam") == []


def test_what_is_wrong_with_instances() -> None:
    pairs = [("a", ""), ("a", "a"), ("a", "b:"), ("c:", "d"), ("a", "b"), ("a", "b"), ("x", "y")]
    judged = judge_instances([Instance(*pair) for pair in pairs], cut=True)
    assert [r and r[0] for _, r in judged] == [
        "empty_output",
        "input_equals_output",
        "ends_with_colon",
        "ends_with_colon",
        None,
        "duplicate",
        "instance_cut",
    ]


def test_two_outputs_for_one_input_cost_all_instances() -> None:
    judged = judge_instances(
        [Instance("a", "1"), Instance("b", "2"), Instance("a", "3")], cut=False
    )
    assert [r and r[0] for _, r in judged] == ["conflicting_outputs"] * 3
    without_input = judge_instances([Instance("", "1"), Instance("", "2")], cut=False)
    assert [r for _, r in without_input] == [None, None]


def test_a_continued_turn_holds_an_input_behind_a_blank_line_only() -> None:
    assert continued_turn("\n\nSentence: I am here.\n\nTwice.") == "Sentence: I am here.\n\nTwice."
    assert continued_turn(" Yes or no?\n\nIt is.") == "It is."
    assert continued_turn(" in one line.\n") == ""


@pytest.mark.parametrize(
    ("text", "strict", "lax"),
    [
        ("Good.\nScore: 4", 4, 4),
        ("score: 5 \n", 5, 5),
        ("Score: 3, for it is short.", 3, 3),
        ("Not a Score: 5 yet. Score: 2", 2, 5),
        ("Score: 5 would be too high.", None, 5),
        ("Score: 4\n\nA score: 5 would be too high.", 4, 4),
        ("Score: 3\n\nNo: too low.\n\nScore: 4", 4, 3),
        ("Score: 7", None, None),
        ("Score: five", None, None),
        ("", None, None),
    ],
)
def test_ratings(text: str, strict: int | None, lax: int | None) -> None:
    assert (rating(text), rating(text, strict=False)) == (strict, lax)


RAW = {
    with_input: [
        row["raw_instances"]
        for row in json_lines(GOLDEN / f"ensemble_instruct_{name}_instances.jsonl.gz")
    ]
    for name, with_input in (("io", True), ("o", False))
}


def test_labelled_instances_of_real_completions_that_run_on() -> None:
    read = {kind: [labelled_instance(text, kind) for text in texts] for kind, texts in RAW.items()}
    assert [sum(i is None for i in instances) for instances in read.values()] == [12, 13]
    for kind, instances in read.items():
        for text, instance in zip(RAW[kind], instances, strict=True):
            if instance is None:
                head = text.lstrip().split("instruction:")[0]
                assert not head.startswith("input:" if kind else "output:") or "output:" not in head
                continue
            assert "|EoS|" not in instance.input + instance.output
            assert "instruction:" not in instance.output.splitlines()
            assert bool(instance.input) <= kind


@given(st.sampled_from([(kind, text) for kind, texts in RAW.items() for text in texts]), st.data())
def test_cut_anywhere_an_instance_is_a_beginning_or_nothing(
    case: tuple[bool, str], data: st.DataObject
) -> None:
    kind, text = case
    part = text[: data.draw(st.integers(0, len(text)))]
    whole, cut = labelled_instance(text, kind), labelled_instance(part, kind)
    if cut is not None and whole is not None:
        assert whole.input == cut.input
        # What is cut within a mark does not know that one was coming.
        assert whole.output.startswith(cut.output) or cut.output.startswith(whole.output)


FIELDS = ("instruction", "input", "output")
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="#:\r\x0b\x0c\x85"), min_size=1)


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=4), st.integers(1, 20))
def test_whole_tasks_come_back_field_by_field(
    tasks: list[tuple[str, str, str]], first: int
) -> None:
    text = "###\n".join(
        "".join(f"{n}. {k.capitalize()}: {v}\n" for k, v in zip(FIELDS, task, strict=True))
        for n, task in enumerate(tasks, first)
    )
    expected = [dict(zip(FIELDS, (v.strip() for v in task), strict=True)) for task in tasks]
    assert [values for _, values in field_tasks(text, FIELDS)] == expected


def test_tasks_with_other_fields_are_returned_unread() -> None:
    good = "4. Instruction: a\n4. Input:\n<noinput>\n4. Output: b\n\nOutput: c\n5. d"
    [(_, read)] = field_tasks(good, FIELDS)
    assert read == {"instruction": "a", "input": "", "output": "b\n\nOutput: c\n5. d"}
    wrong = (
        "4. Instruction: a\n4. Output: b",
        "4. Instruction: a\n4. Input: b\n4. Input: c\n4. Output: d",
        "4. Instruction: a\n4. Output: b\n4. Input: c",
        "4. Instruction: a\n5. Input: b\n5. Output: c",
        "Instruction: a\nInput: b\nOutput: c",
        "Sure, here they are:",
    )
    for text in wrong:
        assert field_tasks(text, FIELDS) == [(text, None)]
    assert field_tasks("###\n \n###", FIELDS) == []
    assert field_tasks("", FIELDS) == []


def test_marks_of_the_form_are_no_text() -> None:
    assert leaked("a fine day\n Input: b") == "Input:"
    assert leaked("Example 2: c") == "Example 2:"
    assert leaked("one |EoS|") == "|EoS|"
    assert leaked("the input: all of it, # 1 and output") is None
    assert without_mark(" a b |EoS| c |EoS|") == "a b"
