"""Beside the turns of a row, and turns that hold several: nothing is lost in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.loading import failures, json_lines, load

ASK = {"role": "user", "content": "Why?"}
SAY = {"role": "assistant", "content": "So."}

FORMATS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [ASK, SAY]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    },
    "lima": {"conversations": ["Why?", "So."]},
    "alpaca": {"instruction": "Why?", "input": "", "output": "So."},
    "prompt_completion": {"prompt": "Why?", "completion": "So."},
    "prompt of turns": {"prompt": [ASK], "completion": [SAY]},
    "completions": {"prompt": "Why?", "completions": ["So."]},
    "seeds": {"instruction": "Why?", "instances": [{"input": "", "output": "So."}]},
}


def plain(**row: Any) -> list[tuple[str, str | None]]:
    """Role and content of the turns of one row, which must load."""
    frame = load(json_lines([row]))
    assert failures(frame) == []
    return [(turn["role"], turn["content"]) for turn in frame["messages"][0]]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("field", ["system", "system_prompt"])
def test_a_system_prompt_beside_the_turns_is_the_first_turn(name: str, field: str) -> None:
    answered = [("user", "Why?"), ("assistant", "So.")]
    assert plain(**FORMATS[name], **{field: "Be brief."}) == [("system", "Be brief."), *answered]
    assert plain(**FORMATS[name], **{field: None}) == answered
    rows = [FORMATS[name] | {field: text} for text in ("Be brief.", "Be long.", "")]
    assert load(json_lines(rows))["drop_reason"].to_list() == [None] * 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_system_prompt_that_is_no_text_fails_by_name_unless_it_is_ignored(name: str) -> None:
    row = FORMATS[name] | {"system": {"tone": "dry"}}
    [(_, error)] = failures(load(json_lines([row])))
    assert error == "'system' is an object, not a text"
    frame = load(json_lines([row]), fields={"ignore": ["system"]})
    assert json.loads(frame["extra"][0])["system"] == {"tone": "dry"}


def test_turns_that_begin_with_a_system_prompt_keep_another_one_in_extra() -> None:
    turns = [{"role": "system", "content": "Be brief."}, ASK, SAY]
    rows = [{"messages": turns, "system": text} for text in ("Be brief.", "Be long.")]
    frame = load(json_lines(rows[1:]))
    assert frame["messages"][0][0]["content"] == "Be brief."
    assert json.loads(frame["extra"][0]) == {"system": "Be long."}
    assert json.loads(load(json_lines(rows[:1]))["extra"][0]) == {}


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
@pytest.mark.parametrize("name", ["alpaca", "prompt_completion"])
def test_reasoning_beside_an_answer_is_that_of_the_answer(name: str, field: str) -> None:
    rows = [FORMATS[name] | {field: text} for text in ("Hm.", "Hm!", "", None)]
    frame = load(json_lines(rows))
    thoughts = [messages[-1]["reasoning"] for messages in frame["messages"]]
    assert thoughts == ["Hm.", "Hm!", None, None]
    assert frame["drop_reason"].to_list() == [None, None, None, "duplicate"]
    dropped = load(json_lines(rows[:1]), reasoning="drop")
    assert dropped["messages"][0][-1]["reasoning"] is None
    kept = load(json_lines(rows[:1]), reasoning="keep")
    assert json.loads(kept["extra"][0]) == {field: "Hm."}


def test_what_kind_of_reasoning_a_row_has_is_no_reasoning() -> None:
    frame = load(json_lines([FORMATS["alpaca"] | {"reasoning": "on"}]))
    assert frame["messages"][0][-1]["reasoning"] is None
    assert json.loads(frame["extra"][0]) == {"reasoning": "on"}


def test_a_prompt_of_turns_may_have_a_text_as_its_completion() -> None:
    row = {"prompt": [ASK], "completion": "<think>Hm.</think>So."}
    (_, answer) = load(json_lines([row]))["messages"][0]
    assert (answer["content"], answer["reasoning"]) == ("So.", "Hm.")


@pytest.mark.parametrize(
    ("field", "text", "content"),
    [
        ("Hm.", "<think>\nHm.\n</think>\n\nSo.", "So."),
        ("Hm.", "<think>Other.</think>So.", "<think>Other.</think>So."),
        ("Hm.", "So.", "So."),
    ],
)
def test_reasoning_that_is_said_twice_is_said_once(field: str, text: str, content: str) -> None:
    row = {"messages": [ASK, {"role": "assistant", "content": text, "reasoning_content": field}]}
    answer = load(json_lines([row]))["messages"][0][-1]
    assert (answer["content"], answer["reasoning"]) == (content, field)


# Parts of Anthropic's messages


def anthropic(*parts: dict[str, Any], **user: Any) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2}}
    turns = [ASK, {"role": "assistant", "content": [call]}]
    return {"messages": [*turns, {"role": "user", "content": [*parts], **user}, SAY]}


results = st.lists(st.text(min_size=1), max_size=3)


@given(before=results, answers=st.lists(st.text(), min_size=1, max_size=3), behind=results)
def test_results_among_the_parts_of_a_users_turn_are_turns_of_the_tool(
    before: list[str], answers: list[str], behind: list[str]
) -> None:
    texts = [[{"type": "text", "text": text} for text in each] for each in (before, behind)]
    parts = [
        {"type": "tool_result", "tool_use_id": f"t{n}", "content": text}
        for n, text in enumerate(answers)
    ]
    row = anthropic(*texts[0], *parts, *texts[1])
    frame = load(json_lines([row]))
    assert failures(frame) == []
    turns = [(t["role"], t["content"], t["tool_call_id"]) for t in frame["messages"][0][2:-1]]
    expected = [("tool", text, f"t{n}") for n, text in enumerate(answers)]
    said = [[("user", "\n".join(each), None)] if each else [] for each in (before, behind)]
    assert turns == [*said[0], *expected, *said[1]]
    assert json.loads(frame["extra"][0])["messages"][2] == {
        "content": row["messages"][2]["content"]
    }


def test_a_result_of_several_parts_is_one_text_and_an_image_in_it_fails_by_name() -> None:
    def result(*parts: dict[str, Any]) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": "t1", "content": [*parts]}

    text = {"type": "text", "text": "4"}
    frame = load(json_lines([anthropic(result(text, text), is_error=None)]))
    assert frame["messages"][0][2]["content"] == "4\n4"
    images = [{"type": "image", "source": source} for source in ("a.png", "b.png")]
    rows = [anthropic(result(text, image)) for image in images]
    assert all("(image)" in error for _, error in failures(load(json_lines(rows))))
    ignored = load(json_lines(rows), fields={"ignore": ["image"]})
    assert ignored["drop_reason"].to_list() == [None, "duplicate"]
    kept = load(json_lines(rows), fields={"keep": ["image"]})
    assert kept["drop_reason"].to_list() == [None, None]


def test_what_else_a_turn_of_results_has_stays_or_fails_by_name() -> None:
    part = {"type": "tool_result", "tool_use_id": "t1", "content": "4"}
    frame = load(json_lines([anthropic(part, id="m3", name="Ada", weight=0)]))
    turn = frame["messages"][0][2]
    assert (turn["role"], turn["train"], turn["name"]) == ("tool", False, None)
    others = json.loads(frame["extra"][0])["messages"][2]
    assert others == {"id": "m3", "name": "Ada", "content": [part]}
    [(_, error)] = failures(load(json_lines([anthropic(part, mood="sad")])))
    assert error.startswith("turn 3: the field 'mood' has no place")


def test_a_call_of_another_type_than_a_function_fails_by_its_type() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    row = {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]}
    [(_, error)] = failures(load(json_lines([row])))
    assert error == "turn 2: a tool call has the unknown type 'custom'"


@pytest.mark.parametrize(
    "content", [["Why?"], [{"text": "Why?"}], [{"type": "text", "text": "Why?"}]]
)
def test_parts_that_are_texts_need_no_type(content: list[Any]) -> None:
    said = plain(messages=[{"role": "user", "content": content}, SAY])[0]
    assert said == ("user", "\n".join(p if isinstance(p, str) else p["text"] for p in content))


@pytest.mark.parametrize(
    ("part", "what"), [(3, "a number"), ({"text": "Why?", "mood": "sad"}, "an object")]
)
def test_a_part_that_is_neither_a_text_nor_of_a_type_fails(part: Any, what: str) -> None:
    [(_, error)] = failures(load(json_lines([{"messages": [{"role": "user", "content": [part]}]}])))
    assert error == f"turn 1: part 1 of its content is {what} without a type"


# Trees


def test_all_that_a_tree_says_of_its_messages_stays_in_extra() -> None:
    answer = {"message_id": "b", "role": "assistant", "text": "So.", "user_id": "u", "rank": 0}
    root = {"message_id": "a", "role": "prompter", "text": "Why?", "emojis": {"+1": 2}}
    rows = [{"message_tree_id": "t", "prompt": {**root, "replies": [{**answer, "replies": []}]}}]
    extra = json.loads(load(json_lines(rows))["extra"][0])
    assert extra["path"] == [
        {"message_id": "a", "emojis": {"+1": 2}},
        {"message_id": "b", "user_id": "u", "rank": 0},
    ]
