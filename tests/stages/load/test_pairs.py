"""`load.pairs`: every format of preference data gives the pairs that were written in it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from schemas.pairs import pair_id
from stages.load.pairs import pairs
from tests.support.loading import failures, json_lines, load
from tests.support.options import options_of
from tests.support.pairing import load_pairs, said
from tests.support.rows import SAMPLES
from tests.support.rows import json_lines as read_json

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda text: text.strip() and not text.lstrip().startswith(("[", "{", "\n\nHuman:"))
)


def sides(row: dict[str, Any], **options: Any) -> tuple[Any, ...]:
    """Prompt, chosen and rejected of the only pair of a row."""
    frame = load_pairs(json_lines([row]), **options)
    assert failures(frame) == []
    (pair,) = frame.to_dicts()
    assert pair["drop_reason"] is None
    own_id = pair_id(pair["prompt"], pair["chosen"], pair["rejected"], pair["tools"])
    assert pair["id"] == own_id
    return said(pair["prompt"]), said(pair["chosen"]), said(pair["rejected"])


@given(prompt=TEXT, system=st.none() | TEXT, answers=st.lists(TEXT, min_size=2, max_size=2))
def test_one_pair_is_the_same_in_every_format(
    prompt: str, system: str | None, answers: list[str]
) -> None:
    better, worse = answers
    asked = [("system", system)] * (system is not None) + [("user", prompt)]
    turns = [{"role": role, "content": text} for role, text in asked]
    good, bad = ([{"role": "assistant", "content": text}] for text in answers)
    of_system = {} if system is None else {"system": system}
    gpt = [{"from": "gpt", "value": text} for text in answers]
    written: list[dict[str, Any]] = [
        {"prompt": turns, "chosen": good, "rejected": bad},
        {"prompt": turns, "chosen": better, "rejected": worse},
        {"prompt": prompt, "chosen": better, "rejected": worse, **of_system},
        {"chosen": [*turns, *good], "rejected": [*turns, *bad]},
        {"prompt": prompt, "chosen": [*turns, *good], "rejected": [*turns, *bad]},
        {"question": prompt, "chosen": better, "rejected": worse, **of_system},
        {"instruction": prompt, "input": "", "chosen": better, "rejected": worse, **of_system},
        {"conversations": [{"from": "human", "value": prompt}], "chosen": gpt[0],
         "rejected": gpt[1], **of_system},
        {"messages": turns, "chosen": good[0], "rejected": bad[0]},
        {"prompt": json.dumps(turns), "chosen": json.dumps(good), "rejected": json.dumps(bad)},
        {"instruction": prompt, "output": [better, worse], **of_system},
        {"prompt": prompt, "completions": [worse, better], "scores": [1, 2], **of_system},
        {"instruction": prompt, **of_system, "completions": [
            {"response": worse, "overall_score": 2.5}, {"response": better, "overall_score": 8}]},
        {"prompt": turns, "answers": [
            {"answer": worse, "rank": 2}, {"answer": better, "rank": 1}]},
    ]  # fmt: skip
    for row in written:
        if better == worse:
            assert load_pairs(json_lines([row]))["drop_reason"].to_list() == ["identical"]
        else:
            assert sides(row) == (asked, [("assistant", better)], [("assistant", worse)]), row


@given(
    turns=st.lists(TEXT.filter(lambda t: "\n\n" not in t and t == t.strip()), min_size=2,
                   max_size=6).filter(lambda turns: len(turns) % 2 == 0),
    worse=TEXT.filter(lambda t: "\n\n" not in t and t == t.strip()),
)  # fmt: skip
def test_dialogues_as_texts(turns: list[str], worse: str) -> None:
    def dialogue(texts: list[str]) -> str:
        speakers = ("Human", "Assistant")
        return "".join(f"\n\n{speakers[i % 2]}: {text}" for i, text in enumerate(texts))

    row = {"chosen": dialogue(turns), "rejected": dialogue([*turns[:-1], worse])}
    if turns[-1] == worse:
        assert load_pairs(json_lines([row]))["drop_reason"].to_list() == ["identical"]
        return
    expected = [(("user", "assistant")[i % 2], text) for i, text in enumerate(turns)]
    assert sides(row) == (expected[:-1], expected[-1:], [("assistant", worse)])
    explicit = {"prompt": dialogue(turns[:-1]) + "\n\nAssistant:", "chosen": f"{turns[-1]}"}
    assert sides(explicit | {"rejected": worse}) == sides(row)


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
ASKED = {"role": "user", "content": "1 + 1?"}


def test_calls_tools_and_reasoning_are_kept_and_count() -> None:
    chosen = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "2", "reasoning_content": "Added."},
    ]
    row = {"prompt": [ASKED], "chosen": chosen, "rejected": "3", "tools": [{"name": "add"}]}
    (pair,) = load_pairs(json_lines([row])).to_dicts()
    first, second, last = pair["chosen"]
    assert first["tool_calls"] == [{"id": "c1", "name": "add", "arguments": '{"a":1}'}]
    assert first["content"] is None
    assert (second["role"], second["tool_call_id"]) == ("tool", "c1")
    assert (last["content"], last["reasoning"]) == ("2", "Added.")
    assert json.loads(pair["tools"]) == [{"name": "add"}]
    other_tools = row | {"tools": [{"name": "sub"}]}
    other_call = json.loads(json.dumps(row).replace("add", "sub", 1))
    other_thought = json.loads(json.dumps(row).replace("Added.", "Guessed."))
    assert other_call != row
    rows = load_pairs(json_lines([row, other_tools, other_call, other_thought]))
    assert rows["id"].n_unique() == 4


def test_calls_as_sharegpt_writes_them() -> None:
    row = {
        "conversations": [{"from": "human", "value": "1 + 1?"}],
        "chosen": [
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "2"},
        ],
        "rejected": {"from": "gpt", "value": "3"},
    }
    (pair,) = load_pairs(json_lines([row])).to_dicts()
    calls = pair["chosen"][0]["tool_calls"]
    assert calls == [{"id": None, "name": "add", "arguments": '{"a": 1}'}]
    assert said(pair["chosen"]) == [("assistant", None), ("tool", "2"), ("assistant", "2")]


@pytest.mark.parametrize("label", [True, False, 1, 0, "true", "False"])
def test_one_answer_with_a_label_has_one_side(label: object) -> None:
    answer = [("assistant", "So.")]
    is_good = str(label).lower() in ("true", "1")
    expected = ([("user", "Why?")], answer if is_good else None, None if is_good else answer)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    for row in (
        {"prompt": "Why?", "completion": "So."},
        {"prompt": messages[:1], "completion": messages[1:]},
        {"messages": messages},
        {"instruction": "Why?", "input": "", "output": "So."},
    ):
        assert sides(row | {"label": label}) == expected
        assert sides(row | {"kto_tag": label}) == expected


@pytest.mark.parametrize("label", [None, "yes!", 0.5, [True]])
def test_a_label_that_says_neither_fails(label: object) -> None:
    row = {"prompt": "Why?", "completion": "So.", "label": label}
    ((_, error),) = failures(load_pairs(json_lines([row])))
    assert error.startswith("'label' must be true or false")


SCORES = st.lists(st.sampled_from([None, "N/A", 1, 2.5, 3]), min_size=1, max_size=5)


@given(scores=SCORES, ranked=st.sampled_from(["best_worst", "adjacent", "all"]))
def test_rated_answers_give_pairs_of_a_better_and_a_worse_one(
    scores: list[Any], ranked: str
) -> None:
    answers = [{"text": f"answer {i}", "score": score} for i, score in enumerate(scores)]
    frame = load_pairs(json_lines([{"prompt": "Why?", "completions": answers}]), ranked=ranked)
    numbers = sorted((s for s in scores if isinstance(s, int | float)), reverse=True)
    positions = {"best_worst": 1, "adjacent": len(numbers) - 1,
                 "all": len(numbers) * (len(numbers) - 1) // 2}  # fmt: skip
    if len(numbers) < 2:
        assert frame["drop_reason"].to_list() == ["no_pair"]
        return
    assert len(frame) == positions[ranked]
    kept = frame.filter(pl.col("drop_reason").is_null())
    assert (kept["chosen_score"] > kept["rejected_score"]).all()
    for pair in kept.to_dicts():
        for side in ("chosen", "rejected"):
            at = int(pair[side][0]["content"].removeprefix("answer "))
            assert scores[at] == pair[f"{side}_score"]
    assert set(frame["drop_reason"].drop_nulls()) <= {"tie"}
    if ranked == "best_worst":
        assert (frame["drop_reason"][0] == "tie") == (numbers[0] == numbers[-1])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chosen": "So.", "rejected": "No."}, "no prompt"),
        ({"prompt": "Why?", "chosen": "So.", "rejected": ""}, "the rejected answer is empty"),
        ({"prompt": "Why?", "chosen": " ", "rejected": "No."}, "the chosen answer is empty"),
        ({"prompt": "", "chosen": "So.", "rejected": "No."}, "turn 1 of the prompt is empty"),
        ({"prompt": "Why?", "chosen": 3, "rejected": "No."}, "'chosen': it is a number"),
        ({"prompt": "Why?", "chosen": None, "rejected": None}, "both sides are missing"),
        ({"prompt": "Why?", "chosen": [ASKED, ASKED], "rejected": [ASKED]}, "same prompt"),
        (
            {"prompt": "Why?", "chosen": [{"role": "assistant", "content": [{"type": "image"}]}],
             "rejected": "No."},
            "part 1 of its content is no text (image)",
        ),
        (
            {"chosen": [ASKED, {"role": "assistant", "content": "2"}],
             "rejected": [ASKED | {"content": "2 + 2?"}, {"role": "assistant", "content": "2"}]},
            "do not begin with the same prompt",
        ),
        (
            {"prompt": "Who?", "chosen": [ASKED, {"role": "assistant", "content": "2"}],
             "rejected": [ASKED, {"role": "assistant", "content": "3"}]},
            "do not begin with the prompt",
        ),
        ({"prompt": "Why?", "completions": [1, 2]}, "answer 1: it is a number"),
        ({"prompt": "Why?", "completions": ["a"], "scores": [1, 2]}, "as many scores"),
        ({"text": "?"}, "no known format of pairs has these fields: text"),
        ({"prompt": "Why?", "chosen": "\ud800", "rejected": "No."}, "surrogate"),
    ],
)  # fmt: skip
def test_what_is_no_pair_fails_with_a_reason(row: dict[str, Any], says: str) -> None:
    good = {"prompt": "How?", "chosen": "So.", "rejected": "No."}
    ((line, error),) = failures(load_pairs(json_lines([good, row])))
    assert line == 2
    assert says in error


def test_scores_ties_and_other_fields() -> None:
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "score_chosen": 4, "lang": "en"}
    rows = [row | {"score_rejected": score} for score in (1.5, 4, None, "N/A")]
    frame = load_pairs(json_lines([*rows, row]))
    assert frame["drop_reason"].to_list() == [None, "tie", "duplicate", "duplicate", "duplicate"]
    assert frame["chosen_score"][0] == 4
    assert frame["rejected_score"].to_list() == [1.5, None, None, None, None]
    assert json.loads(frame["extra"][0]) == {"lang": "en"}
    assert json.loads(frame["extra"][3]) == {"lang": "en", "score_rejected": "N/A"}
    indices = [origin["index"] for origin in frame["origins"][0]]
    assert indices == [0, 2, 3, 4]


ROLES = ["Human", "GPT", "model", "ai", "Bot", "bing", "bard", "claude", "Developer", "ipython",
         "environment", "tool_response", "PROMPTER"]  # fmt: skip
ANSWERS: list[Any] = [
    "<think>\nHm.\n</think>\n\n2",
    "Hm.\n</think>2",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>2",
    'So:\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "Write <tool_call> around it.",
    [{"role": "assistant", "content": "2", "reasoning_content": "Hm."}],
    [{"role": "assistant", "content": "2", "thinking": "Hm."}],
    [{"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."},
                                       {"type": "text", "text": "2"}]}],
    [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "add",
                                        "input": {"a": 1}}]}],
    [{"role": "assistant", "content": "", "function_call": {"name": "add", "arguments": "{}"}},
     {"role": "function", "name": "add", "content": ""}, {"role": "assistant", "content": "2"}],
    [{"role": "assistant", "content": None, "tool_calls": [CALL]},
     {"role": "ipython", "content": {"sum": 2}}, {"role": "assistant", "content": "2"}],
    [{"from": "function_call", "value": """{"name": "add", "arguments": '{"a": 1}'}"""},
     {"from": "observation", "value": "2"}, {"from": "gpt", "value": "2"}],
    [{"role": "assistant", "content": "2", "weight": 0, "id": "m1", "tokens": 3}],
    *([{"role": "assistant", "content": "1"}, {"role": role, "content": "2"}] for role in ROLES),
    # What no record has a place for.
    [{"role": "assistant", "content": "2", "mood": "good"}],
    [{"role": "assistant", "content": [{"type": "image", "url": "x"}]}],
    [{"role": "assistant", "content": "2", "tool_calls": [CALL | {"mood": "good"}]}],
    [{"role": "assistant", "content": "2", "weight": 0.5}],
    [{"role": "doctor", "content": "2"}],
    [{"role": "assistant", "content": "2", "tool_calls": "add(1)"}],
]  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {}, {"reasoning": "drop"}, {"reasoning": "keep"},
    {"fields": {"keep": ["mood", "image"], "roles": {"Doctor": "assistant"}}},
    {"fields": {"ignore": ["mood", "image"]}},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_turns_are_those_that_load_records_reads(options: dict[str, Any]) -> None:
    for answer in ANSWERS:
        turns = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
        record = load(json_lines([{"messages": [ASKED, *turns]}]), **options).to_dicts()[0]
        pairs_of = [
            {"prompt": [ASKED], "chosen": answer, "rejected": "3"},
            {"prompt": [ASKED], "completions": ["3", answer], "scores": [1, 2]},
            {"chosen": [ASKED, *turns], "rejected": [ASKED, {"role": "assistant", "content": "3"}]},
        ]
        for row in pairs_of:
            (pair,) = load_pairs(json_lines([row]), **options).to_dicts()
            if record["error"] is not None:
                assert pair["error"].split(": ", 1)[-1].split("turn ")[-1][2:] in record["error"]
            elif record["messages"][-1]["role"] == "assistant":
                assert [*pair["prompt"], *pair["chosen"]] == record["messages"], (answer, row)
            else:
                assert pair["error"].endswith(("the assistant's turn", "answer is empty"))


def test_what_a_turn_holds_beside_its_fields() -> None:
    def pair(mood: str, **options: Any) -> dict[str, Any]:
        chosen = [{"role": "assistant", "content": "So.", "mood": mood, "rating": 3}]
        row = {"prompt": "Why?", "chosen": chosen, "rejected": "No."}
        return load_pairs(json_lines([row]), **options).to_dicts()[0]

    assert "the field 'mood' has no place in a record" in pair("good")["error"]
    ignored, kept = ({"fields": {name: ["mood"]}} for name in ("ignore", "keep"))
    extra = {"chosen": [{"mood": "good", "rating": 3}]}
    for options in (ignored, kept):
        assert json.loads(pair("good", **options)["extra"]) == extra
    assert pair("good", **ignored)["id"] == pair("bad", **ignored)["id"]
    assert len({pair(mood, **kept)["id"] for mood in ("good", "bad")}) == 2


def test_media_beside_the_turns_fail_until_they_are_decided() -> None:
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "images": ["x.png"]}
    ((_, error),) = failures(load_pairs(json_lines([row])))
    assert "'images'" in error
    assert failures(load_pairs(json_lines([row]), fields={"ignore": ["images"]})) == []


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
def test_reasoning_beside_one_answer_is_its_own_and_beside_two_it_fails(field: str) -> None:
    rows = [{"prompt": "Why?", "completion": "So.", "label": True, field: t} for t in ("a", "b")]
    loaded = load_pairs(json_lines(rows)).to_dicts()
    assert [pair["chosen"][0]["reasoning"] for pair in loaded] == ["a", "b"]
    assert [pair["drop_reason"] for pair in loaded] == [None, None]
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", field: "a"}
    ((_, error),) = failures(load_pairs(json_lines([row])))
    assert f"{{keep: [{field}]}}" in error
    ignored = load_pairs(json_lines([row]), fields={"ignore": [field]})
    assert json.loads(ignored["extra"][0]) == {field: "a"}


def test_tools_that_the_prompt_shows() -> None:
    shown = 'Be kind.\n\n# Tools\n\n<tools>\n{"name": "add"}\n</tools>'
    for row in (
        {"prompt": "Why?", "system": shown},
        {"prompt": [{"role": "system", "content": shown}, {"role": "user", "content": "Why?"}]},
        {"prompt": "Why?", "system": "Be kind.", "functions": [{"name": "add"}]},
    ):
        (pair,) = load_pairs(json_lines([row | {"chosen": "a", "rejected": "b"}])).to_dicts()
        assert said(pair["prompt"]) == [("system", "Be kind."), ("user", "Why?")]
        assert pair["tools"] == '[{"name": "add"}]'


def _flat(tree: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    row = {name: value for name, value in tree.items() if name != "replies"} | {"parent_id": parent}
    replies = tree.get("replies", [])
    return [row, *(each for reply in replies for each in _flat(reply, tree["message_id"]))]


@pytest.mark.parametrize("ranked", ["best_worst", "adjacent", "all"])
def test_flat_trees_give_the_pairs_of_nested_ones(ranked: str) -> None:
    trees = [tree["prompt"] for tree in read_json(SAMPLES / "oasst_trees.jsonl.gz")]
    rows = [row for tree in trees for row in _flat(tree)]
    nested = load_pairs(SAMPLES / "oasst_trees.jsonl.gz", ranked=ranked)
    for order in (rows, rows[::-1]):
        flat = load_pairs(json_lines(order), ranked=ranked)
        assert flat.filter(pl.col("error").is_not_null()).is_empty()
        assert set(flat["line"].drop_nulls()) <= set(range(1, len(rows) + 1))
        assert len(flat) >= len(rows)
        columns = ["id", "chosen_score", "rejected_score"]
        pairs_in = [
            each.filter(pl.col("drop_reason").is_null()).select(columns).sort("id")
            for each in (nested, flat)
        ]
        assert len(pairs_in[0]) > 50
        assert pairs_in[0].equals(pairs_in[1])


def test_messages_of_a_flat_tree_that_make_no_pair() -> None:
    def message(id_: str, parent: str | None, role: str, **more: Any) -> dict[str, Any]:
        return {"message_id": id_, "parent_id": parent, "role": role, "text": id_, **more}

    rows: list[Any] = [
        message("q", None, "prompter"),
        message("a", "q", "assistant", rank=1),
        message("b", "q", "assistant", rank=0),
        message("c", "q", "assistant", rank=2, deleted=True),
        message("d", "c", "prompter"),
        message("q", None, "prompter"),
        message("x", "y", "assistant"),
        [1],
    ]
    frame = load_pairs(json_lines(rows))
    assert frame["drop_reason"].to_list() == [
        None, "no_pair", "no_pair", "deleted", "deleted", None, None, None
    ]  # fmt: skip
    assert said(frame["chosen"][0].to_list()) == [("assistant", "b")]
    errors = [error for _, error in failures(frame)]
    assert errors == [
        "the message id 'q' occurs twice",
        "the parent 'y' is not in the source",
        "no message of a tree, as the rows before it are",
    ]


def test_a_table_of_pairs() -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["q", "chosen", "rejected"])
    writer.writerow(["Why?", "[1, 2]", "No."])
    frame = load_pairs(text.getvalue().encode(), name="rows.csv", fields={"prompt": "q"})
    (pair,) = frame.to_dicts()
    assert said(pair["chosen"]) == [("assistant", "[1, 2]")]


@pytest.mark.parametrize(
    ("file", "counts", "options"),
    [
        ("dpo_en_demo.json.gz", {None: 295, "duplicate": 5}, {}),
        ("kto_en_demo.json.gz", {None: 300}, {}),
        ("oasst_rm_zh.json.gz", {None: 772, "identical": 3}, {}),
        ("oasst_rm_zh.json.gz", {None: 1212, "identical": 6}, {"ranked": "adjacent"}),
        ("hh_rlhf_harmless_base_test.jsonl.gz", {None: 2308, "failed": 4}, {}),
        ("oasst_en_100_trees.jsonl.gz", {None: 212, "no_pair": 2}, {}),
    ],
)
def test_real_files(
    shared: Path, file: str, counts: dict[str | None, int], options: dict[str, Any]
) -> None:
    frame = load_pairs(shared / "chat" / file, **options)
    ends = pl.when(pl.col("error").is_null()).then("drop_reason").otherwise(pl.lit("failed"))
    assert Counter(frame.select(ends).to_series()) == counts


def test_real_dialogues_are_what_their_texts_say(shared: Path) -> None:
    file = shared / "chat/hh_rlhf_harmless_base_test.jsonl.gz"
    speakers = {"user": "Human", "assistant": "Assistant"}
    frame = load_pairs(file)
    for pair, row in zip(frame.to_dicts(), read_json(file), strict=True):
        if pair["error"] is not None:
            continue
        for side in ("chosen", "rejected"):
            turns = [*pair["prompt"], *pair[side]]
            text = "".join(f"\n\n{speakers[t['role']]}: {t['content']}" for t in turns)
            assert text == row[side]
            assert pair["prompt"][-1]["role"] == "user"


def test_load_records_refuses_preferences() -> None:
    rows = [
        {"conversations": [{"from": "human", "value": "Why?"}], "chosen": "a", "rejected": "b"},
        {"messages": [ASKED, {"role": "assistant", "content": "2"}], "label": False},
        {"prompt": "Why?", "completion": "So.", "label": True},
        {"prompt": "Why?", "completion": "So.", "label": "physics"},
    ]
    errors = [error for _, error in failures(load(json_lines(rows)))]
    assert errors == [
        "the row is a preference (it has 'rejected'): use load.pairs",
        *["the row is a preference (it has 'label'): use load.pairs"] * 2,
    ]


def test_a_file_without_pairs_is_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json_lines([{"instruction": "Add.", "output": "3"}]))
    check = pairs.__stage__.check  # type: ignore[attr-defined]
    with pytest.raises(UserError) as caught:
        check(options_of(pairs, path=(str(path),), source="s", license="MIT"))
    assert "load.records" in str(caught.value.hint)
    path.write_bytes(json_lines([{"instruction": "Add.", "output": ["3", "4"]}]))
    check(options_of(pairs, path=(str(path),), source="s", license="MIT"))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("field", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "a", "rejected": "b"},
        {"input": "Q", "chosen": "a", "rejected": "b"},
        {"chosen": [turn("user", "Q"), turn("assistant", "a")],
         "rejected": [turn("user", "Q"), turn("assistant", "b")]},
        {"prompt": "Q",
         "chosen": [turn("user", "Q"), turn("assistant", "a")],
         "rejected": [turn("user", "Q"), turn("assistant", "b")]},
        {"prompt": "Q", "completion": "a", "label": True},
        {"prompt": "Q", "responses": ["a", "b"], "scores": [2, 1]},
    ],
)  # fmt: skip
def test_a_system_prompt_beside_a_pair_begins_its_prompt(row: dict[str, Any], field: str) -> None:
    rows = load_pairs(json_lines([row | {field: text} for text in ("Be brief.", "Be long.")]))
    assert rows["error"].to_list() == rows["drop_reason"].to_list() == [None, None]
    for prompt, text in zip(rows["prompt"], ("Be brief.", "Be long."), strict=True):
        assert said(prompt.to_list()) == [("system", text), ("user", "Q")]


def test_all_that_a_tree_says_of_its_messages_stays_in_extra() -> None:
    answers = [
        {"message_id": i, "role": "assistant", "text": i, "rank": n, "user_id": f"u{n}"}
        for n, i in enumerate("bc")
    ]
    root = {"message_id": "a", "role": "prompter", "text": "Why?", "emojis": {"+1": 2}}
    nested = [{"prompt": {**root, "replies": answers}}]
    flat = [{**root, "parent_id": None}, *({**a, "parent_id": "a"} for a in answers)]
    for lines in (nested, flat):
        rows = load_pairs(json_lines(lines))
        [extra] = map(json.loads, rows["extra"].drop_nulls())
        assert extra["path"] == [{"message_id": "a", "emojis": {"+1": 2}}]
        assert extra["chosen"] == {"message_id": "b", "rank": 0, "user_id": "u0"}
