"""What stands beside content: tool calls, tools, reasoning, names and the training mark."""

from __future__ import annotations

import json
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reasoning import MARKS
from schemas.records import record_id
from stages.load._chat.source import MEDIA
from stages.load.records import _check as check
from stages.load.records import records
from tests.conftest import ROOT
from tests.stages.load._formats.test_records_formats import as_json_lines, as_parquet
from tests.support.loading import failures, gunzip_json, json_lines, load
from tests.support.options import options_of, problems
from tests.support.rows import kept

TRIALS = ROOT.parent / "shared/trials"
ASK = {"role": "user", "content": "q"}
CALL = {"id": None, "name": "add", "arguments": '{"a": 1}'}


def trial(name: str) -> pl.DataFrame:
    path = TRIALS / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand")
    return load(path)


def one(row: Any, **options: Any) -> dict[str, Any]:
    """The only row that is loaded, with its turns without what they lack."""
    [result] = load(json_lines([row]), **options).iter_rows(named=True)
    assert result["error"] is None, result["error"]
    turns = [{k: v for k, v in turn.items() if v is not None} for turn in result["messages"]]
    return result | {"messages": turns}


def error(row: Any, **options: Any) -> str:
    [(_, reason)] = failures(load(json_lines([row]), **options))
    return reason


def answer(turn: dict[str, Any], **options: Any) -> dict[str, Any]:
    """An assistant's turn as it is loaded."""
    return one({"messages": [ASK, {"role": "assistant", **turn}]}, **options)["messages"][1]


def test_calls_of_every_content() -> None:
    frame = trial("tool-calls-null-content.jsonl")
    assert len(kept(frame)) == len(frame) == 4
    contents = [turns[1]["content"] for turns in frame["messages"]]
    assert contents == [None, None, None, "Let me look."]
    assert {turns[1]["tool_calls"][0]["name"] for turns in frame["messages"]} == {"tide"}
    assert [turns[2]["tool_call_id"] for turns in frame["messages"]] == ["c1", "c2", "c2", "c2"]
    assert frame["tools"].null_count() == 3


def test_rows_that_differ_in_tools_are_two() -> None:
    assert len(kept(trial("tools-differ.jsonl"))) == 2


def test_null_turns_are_empty_ones() -> None:
    frame = trial("null-turns.jsonl")
    roles = [[turn["role"] for turn in turns] for turns in frame["messages"]]
    assert roles == [["user"], *[["user", "assistant"]] * 3]


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}, {"content": []}])
def test_every_age_of_openai_is_one_conversation(arguments: Any, content: Any) -> None:
    function = {"name": "add", "arguments": arguments}
    forms = [
        {"tool_calls": [{"type": "function", "function": function}]},
        {"tool_calls": [{"id": "", "function": function, "index": 0}]},
        {"tool_calls": json.dumps([function])},
        {"tool_calls": [json.dumps(function)]},
        {"function_call": function},
    ]
    for form in forms:
        assert answer(content | form) == {"role": "assistant", "tool_calls": [CALL]}


def test_results_of_every_age() -> None:
    results = [
        {"role": "function", "name": "add", "content": ""},
        {"role": "tool", "tool_call_id": "1", "content": None},
        {"role": "tool", "content": {"sum": 3}},
        {"role": "ipython", "content": "[3]"},
    ]
    calling = {"role": "assistant", "tool_calls": [CALL]}
    assert one({"messages": [ASK, calling, *results]})["messages"][2:] == [
        {"role": "tool", "content": "", "name": "add"},
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "tool", "content": '{"sum": 3}'},
        {"role": "tool", "content": "[3]"},
    ]


@pytest.mark.parametrize("field", ["tools", "functions"])
@pytest.mark.parametrize("value", [[{"name": "add"}], '[{"name":"add"}]', {"name": "add"}])
def test_tools_of_every_form(field: str, value: Any) -> None:
    rows = [{"messages": [ASK]}, {"instruction": "q", "output": "a"}, {"prompt": "q"}]
    for row in rows:
        result = one(row | {field: value})
        assert result["tools"] == '[{"name": "add"}]'
        assert result["extra"] == "{}"
        assert result["id"] == record_id(result["messages"], result["tools"])


@pytest.mark.parametrize("nothing", [[], "", "[]", None, "null"])
def test_no_tools(nothing: Any) -> None:
    assert one({"messages": [ASK], "tools": nothing})["tools"] is None


def test_sharegpt_calls() -> None:
    said = [("human", "q"), ("function_call", '{"name": "add", "arguments": {"a": 1}}')]
    said += [("observation", "7"), ("function_call", json.dumps([{"name": "f"}, {"name": "g"}]))]
    quoted = """{"name": "add", "arguments": '{"a": 1}'}"""
    said += [("function_call", quoted), ("function_call", "<think>\nHm.\n</think>\n" + quoted)]
    row = {"conversations": [{"from": f, "value": v} for f, v in said]}
    turns = one(row)["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", *["assistant"] * 3]
    assert turns[1] == turns[4] == {"role": "assistant", "tool_calls": [CALL]}
    assert [call["name"] for call in turns[3]["tool_calls"]] == ["f", "g"]
    assert turns[5] == {"role": "assistant", "reasoning": "Hm.", "tool_calls": [CALL]}


@pytest.mark.parametrize("said", ["{}", "add(1)", "3", '{"name": 3}', "[3]"])
def test_a_call_that_cannot_be_read_fails(said: str) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": said}]
    assert error({"conversations": turns}).startswith("turn 2: a tool call ")


def test_hermes_marks() -> None:
    system = 'Use <tools></tools>: <tools>\n{"name": "add"}\n{"name": "f"}\n</tools>'
    calls = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
    calls += "<tool_call>{'name': 'f', 'arguments': {'x': True}}</tool_call>"
    results = "<tool_response>\n3\n</tool_response>\n<tool_response>\n</tool_response>"
    said = [("system", system), ("human", "q"), ("gpt", "So:\n" + calls), ("tool", results)]
    result = one({"conversations": [{"from": f, "value": v} for f, v in said]})
    assert result["tools"] == '[{"name": "add"}, {"name": "f"}]'
    assert result["messages"][0]["content"] == "Use <tools></tools>:"
    assert json.loads(result["extra"])["system"] == system
    assert result["messages"][2:] == [
        {
            "role": "assistant",
            "content": "So:",
            "tool_calls": [CALL, {"id": None, "name": "f", "arguments": '{"x": true}'}],
        },
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": ""},
    ]


ADD = {"type": "function", "function": {"name": "add", "description": "Adds."}}
HERMES = (
    "You are a function calling AI model. You are provided with function signatures within "
    "<tools></tools> XML tags. You may call one or more functions to assist with the user query. "
    "Don't make assumptions about what values to plug into functions. Here are the available "
    "tools: <tools> {tools} </tools> Use the following pydantic model json schema for each tool "
    'call you will make: {"title": "FunctionCall", "type": "object"} For each function call '
    "return a json object with function name and arguments within <tool_call></tool_call> XML "
    'tags as follows:\n<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}\n'
    "</tool_call>"
)
HERMES_2 = (
    "You are a function calling AI model. You are provided with function signatures within "
    "<tools> </tools> XML tags. You may call one or more functions to assist with the user query. "
    "If available tools are not relevant in assisting with user query, just respond in natural "
    "conversational language. Don't make assumptions about what values to plug into functions. "
    "After calling & executing the functions, you will be provided with function results within "
    "<tool_response> </tool_response> XML tags. Here are the available tools:\n<tools>\n{tools}\n"
    "</tools>\nFor each function call return a JSON object, with the following pydantic model json "
    "schema:\n{'title': 'FunctionCall'}\nEach function call should be enclosed within <tool_call> "
    "</tool_call> XML tags. Example:\n<tool_call>\n{'name': <function-name>}\n</tool_call>"
)
QWEN = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
    "provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n"
    "</tools>\n\nFor each function call, return a json object with function name and arguments "
    'within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\n</tool_call>"
)


@pytest.mark.parametrize("prompt", [HERMES, HERMES_2, QWEN])
@pytest.mark.parametrize("before", ["", "You are kind.", "# Rules\n\nUse tools.\nBe brief."])
@pytest.mark.parametrize("behind", ["", "Today is Monday."])
@pytest.mark.parametrize("field", [None, [ADD], [ADD["function"]], [{"name": "sub"}]])
def test_a_system_prompt_shows_the_tools_once(
    prompt: str, before: str, behind: str, field: Any
) -> None:
    shown = prompt.replace("{tools}", json.dumps(ADD))
    system = "\n\n".join(filter(None, (before, shown, behind)))
    said = [("system", system), ("human", "q"), ("gpt", "a")]
    row: dict[str, Any] = {"conversations": [{"from": f, "value": v} for f, v in said]}
    result = one(row if field is None else row | {"tools": field})
    turns = [t["content"] for t in result["messages"] if t["role"] == "system"]
    if field == [{"name": "sub"}]:
        assert turns == [system]  # other tools than those of the row
        return
    assert turns == ["\n\n".join(filter(None, (before, behind)))] * bool(before or behind)
    assert json.loads(result["tools"]) == (field or [ADD])
    assert json.loads(result["extra"])["system"] == system
    # What was loaded is loaded again as it is: its own system prompt shows no tools.
    again = one({"messages": result["messages"], "tools": result["tools"]})
    assert again["id"] == result["id"]


def test_a_prompt_that_shows_tools_in_any_field_of_a_row() -> None:
    shown = QWEN.replace("{tools}", json.dumps(ADD))
    for row in (
        {"system": shown, "conversations": [{"from": "human", "value": "q"}]},
        {"system": shown, "instruction": "q", "output": ""},
        {"messages": [{"role": "developer", "content": shown}, ASK]},
    ):
        assert one(row)["messages"] == [ASK]
        assert json.loads(one(row)["tools"]) == [ADD]


@pytest.mark.parametrize(
    "text",
    [
        "<tools>" + " " * (1 << 20),
        "<tools>[" + " " * (1 << 20) + "]",
        "<tools>[{]</tools>" + "You may call one or more functions. " * 30_000,
        "<tools>[" * 100_000,
        "For each function call" * 50_000 + '<tools>{"name": "add"}</tools>',
        '<tools>{"name": "add"}</tools>' + "For each function call <tool_call>" * 30_000,
        "# Tools\n" * 100_000 + '<tools>{"name": "add"}</tools>',
    ],
)
def test_a_hostile_system_prompt_takes_no_time(text: str) -> None:
    begin = time.perf_counter()
    load(json_lines([{"messages": [{"role": "system", "content": text}, ASK]}]))
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    "text",
    [
        "Write <tool_call> and </tool_call> around it.",
        '<tool_call>{"name": "add"</tool_call>',
        '<tool_call>{"name": "add"}',
        '<tool_call>{"name": "add"}</tool_call> and so on',
        "<tool_call></tool_call>" * 5000 + "x",
    ],
)
def test_marks_that_cannot_be_read_are_text(text: str) -> None:
    assert answer({"content": text}) == {"role": "assistant", "content": text}


def test_glaive_dialogues() -> None:
    system = "SYSTEM: You are helpful, with the following functions. Use them if required -\n"
    system += '{"name": "add"}\n\n{"name": "f"}'
    chat = 'USER: q\n\n\nASSISTANT: <functioncall> {"name": "add", "arguments": \'{"a": 1}\'} '
    chat += '<|endoftext|>\n\n\nFUNCTION RESPONSE: {"sum": 3}\n\n\nASSISTANT: 3 <|endoftext|>\n\n\n'
    for row in ({"system": system, "chat": chat}, {"sample": f"{system}\n\n{chat}"}):
        result = one(row)
        assert result["tools"] == '[{"name": "add"}, {"name": "f"}]'
        assert json.loads(result["extra"])["system"] == system.removeprefix("SYSTEM: ")
        assert result["messages"] == [
            ASK,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": '{"sum": 3}'},
            {"role": "assistant", "content": "3"},
        ]


def test_apigen_rows() -> None:
    called = json.dumps([{"name": "add", "arguments": {"a": 1}}])
    row = {"id": 3, "query": "q", "answers": called, "tools": '[{"name": "add"}]'}
    result = one(row)
    assert result["messages"] == [ASK, {"role": "assistant", "tool_calls": [CALL]}]
    assert (result["tools"], result["extra"]) == ('[{"name": "add"}]', '{"id": 3}')


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_in_fields(name: str) -> None:
    assert answer({"content": "4", name: "Hm."})["reasoning"] == "Hm."
    assert answer({"content": "4", name: "Hm."}, reasoning="keep")["reasoning"] == "Hm."
    assert "reasoning" not in answer({"content": "4", name: "Hm."}, reasoning="drop")
    assert "reasoning" not in answer({"content": "4", name: ""})


MARKED = [
    "<think>\nHm.\n</think>\n\n4",
    "<think>Hm.</think>4",
    "Hm.\n</think>\n\n4",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>4",
    "<|channel|>analysis<|message|>Hm.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>4<|return|>",
    *(f"{opening}Hm.{closing}4" for opening, closing in MARKS),
    *(f"Hm.{closing}\n4" for _, closing in MARKS),
]


@pytest.mark.parametrize("text", MARKED)
def test_reasoning_in_marks(text: str) -> None:
    role = {"role": "assistant"}
    assert answer({"content": text}) == role | {"content": "4", "reasoning": "Hm."}
    assert answer({"content": text}, reasoning="drop") == role | {"content": "4"}
    assert answer({"content": text}, reasoning="keep") == role | {"content": text}
    alpaca = one({"instruction": "q", "output": text})["messages"]
    assert alpaca[1] == role | {"content": "4", "reasoning": "Hm."}


@pytest.mark.parametrize(
    "text",
    [
        "<think>Hm. 4",
        "4 <think>Hm.</think> 5",
        "It ends with `</think>`.",
        *(f"{opening}Hm. 4" for opening, _ in MARKS),
        *(f"4 {opening}Hm.{closing} 5" for opening, closing in MARKS),
        "<|channel|>analysis<|message|>Hm.",
        "a < b",
    ],
)
@pytest.mark.parametrize("reasoning", ["split", "keep", "drop"])
def test_unfinished_marks_are_text(text: str, reasoning: str) -> None:
    assert answer({"content": text}, reasoning=reasoning)["content"] == text


def test_an_empty_thought_is_none() -> None:
    turn = answer({"content": "<think>\n\n</think>\n\n4"})
    assert turn == {"role": "assistant", "content": "4"}


def test_a_call_in_a_channel() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
    text += 'to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>'
    turn = answer({"content": text})
    assert turn == {"role": "assistant", "reasoning": "Hm.", "tool_calls": [CALL]}


def test_reasoning_alone_is_no_answer() -> None:
    row = {"messages": [ASK, {"role": "assistant", "content": "<think>Hm.</think>"}]}
    assert error(row) == "turn 2 (assistant) is empty beside its reasoning"


def test_thinking_parts_and_calls_in_parts() -> None:
    parts = [
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        {"type": "text", "text": "So:"},
        {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}},
    ]
    assert answer({"content": parts}) == {
        "role": "assistant",
        "content": "So:",
        "reasoning": "Hm.",
        "tool_calls": [CALL | {"id": "1"}],
    }


@pytest.mark.parametrize(
    ("mark", "train"),
    [
        ({"weight": 0}, False),
        ({"weight": 1}, True),
        ({"train": False}, False),
        ({"loss": False}, False),
        ({"weight": None}, None),
        ({"weight": 1, "train": False}, False),
    ],
)
def test_the_training_mark(mark: dict[str, Any], train: bool | None) -> None:
    assert answer({"content": "a"} | mark).get("train") == train


def test_part_of_a_loss_fails() -> None:
    row = {"messages": [ASK, {"role": "assistant", "content": "a", "weight": 0.5}]}
    assert "turn 2: 'weight' must be true or false, 0 or 1, got 0.5" in error(row)


@pytest.mark.parametrize(
    ("role", "ours"),
    [
        ("Human", "user"), ("USER", "user"), ("GPT", "assistant"), ("model", "assistant"),
        ("ai", "assistant"), ("Bot", "assistant"), ("chatbot", "assistant"),
        ("bing", "assistant"), ("bard", "assistant"), ("Developer", "system"),
        ("ipython", "tool"), ("environment", "tool"), ("tool_response", "tool"),
        ("observation", "tool"), ("function", "tool"),
    ],
)  # fmt: skip
def test_names_of_roles(role: str, ours: str) -> None:
    other = {"role": role, "content": "x"}
    row = {"conversations": [{"from": role, "value": "x"}, {"from": "human", "value": "q"}]}
    assert one({"messages": [other, ASK]})["messages"][0]["role"] == ours
    assert one(row)["messages"][0]["role"] == ours


def test_roles_of_a_recipe() -> None:
    row = {"messages": [{"role": "Patient", "content": "q"}, {"role": "doctor", "content": "a"}]}
    assert "unknown role 'Patient'" in error(row)
    roles = {"patient": "user", "Doctor": "assistant"}
    turns = one(row, fields={"roles": roles})["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"]


@pytest.mark.parametrize("blank", ["<noinput>", "<NoInput>", "N/A", "n/a", "nan", " \n", "", None])
def test_placeholders_are_no_input(blank: str | None) -> None:
    row = one({"instruction": "q", "input": blank, "output": "a"})
    assert row["input_start"] is None
    assert row["messages"][0] == ASK


def test_messages_as_json_text() -> None:
    turns = [ASK, {"role": "assistant", "content": "a"}]
    for field in ("messages", "conversations"):
        assert one({field: json.dumps(turns)})["messages"] == turns


UNKNOWN = [
    {"messages": [ASK | {"mood": "a"}]},
    {"messages": [ASK | {"images": ["a.png"]}]},
    {"messages": [ASK | {"refusal": "no"}]},
    {"messages": [ASK], "images": ["a.png"]},
    {"instruction": "q", "output": "a", "audio": "a.wav"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image"}]}]},
    {"messages": [ASK], "tools": "a hammer"},
    *({"messages": [ASK], name: "a.png"} for name in sorted(MEDIA)),
]
NAMES = ["mood", "images", "refusal", "images", "audio", "image", "tools", *sorted(MEDIA)]


@pytest.mark.parametrize(("row", "name"), list(zip(UNKNOWN, NAMES, strict=True)))
def test_what_has_no_place_fails_by_name_until_it_is_decided(row: Any, name: str) -> None:
    text = json.dumps(row)
    assert f"{{keep: [{name}]}}" in error(row)
    ignored, kept_ = (one(json.loads(text), fields={k: (name,)}) for k in ("ignore", "keep"))
    assert ignored["extra"] == kept_["extra"] != "{}"
    assert ignored["id"] == record_id(ignored["messages"]) != kept_["id"]


def test_kept_fields_part_rows_and_ignored_ones_do_not() -> None:
    rows = [{"messages": [ASK | {"mood": mood}]} for mood in ("a", "b", "a")]
    assert len(kept(load(json_lines(rows), fields={"keep": ("mood",)}))) == 2
    assert len(kept(load(json_lines(rows), fields={"ignore": ("mood",)}))) == 1
    # Harmless ones count only where the recipe says so.
    rows = [{"messages": [ASK], "id": number} for number in range(3)]
    assert len(kept(load(json_lines(rows)))) == 1
    assert len(kept(load(json_lines(rows), fields={"keep": ("id",)}))) == 3


def test_harmless_keys_stay_in_extra() -> None:
    others = {"id": "1", "timestamp": 7, "feedback": None, "refusal": None, "annotations": []}
    result = one({"messages": [ASK | others | {"audio": None}]})
    assert result["messages"] == [ASK]
    extra = json.loads(result["extra"])["messages"]
    assert extra == [{"id": "1", "timestamp": 7, "annotations": []}]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"keep": "mood"}, "keep must be a list of fields"),
        ({"roles": {"king": "queen"}}, "roles must be"),
        ({"roles": ("king",)}, "roles must be"),
        ({"prompt": ("a", "b")}, "prompt must be the name of a field"),
    ],
)
def test_fields_of_another_type_are_refused(tmp_path: Path, fields: Any, says: str) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(json_lines([{"prompt": "a", "completion": "b"}]))
    with pytest.raises(Exception, match=says):
        check(options_of(records, path=(str(path),), fields=fields))


def test_a_recipe_may_write_them() -> None:
    pool = {"path": "data/samples/self_instruct.jsonl.gz", "source": "s", "license": "MIT"}
    fields = {"instruction": "instruction", "keep": ["id"], "roles": {"king": "user"}}
    assert problems("load.records", **pool, fields=fields, reasoning="drop") == []


@st.composite
def tool_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of one source: a name has values of one type, as in a table.

    The first row has all names, so that the table has them in the order of the rows: Arrow's
    structs have one order, and arguments are identified in the order in which they are given.
    """
    kinds = {"a": st.integers(-9, 9), "b": st.text(max_size=5), "c": st.lists(st.integers(0, 3))}

    def members() -> dict[str, Any]:
        return {k: draw(kinds[k]) for k in ("a", "b", "c") if draw(st.booleans())}

    full = {"a": 1, "b": "x", "c": [1]}
    first = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": full}}]}
    rows = [{"messages": [ASK, first], "tools": [{"name": "f", "parameters": full}]}]
    for number in range(draw(st.integers(1, 4))):
        calls = [
            {"id": f"{n}", "function": {"name": "f", "arguments": members()}}
            for n in range(draw(st.integers(0, 2)))
        ]
        turn = {"role": "assistant", "content": None if calls else "So.", "tool_calls": calls}
        tools = [{"name": "f", "parameters": members()} for _ in range(draw(st.integers(0, 2)))]
        row = {"messages": [ASK | {"content": f"q{number}"}, turn], "tools": tools}
        rows.append(row)
    return rows


@given(rows=tool_rows())
def test_ids_are_equal_from_json_and_from_parquet(rows: list[dict[str, Any]]) -> None:
    parquet, name = as_parquet(rows)
    lines, _ = as_json_lines(rows)
    assert load(parquet, name=name)["id"].to_list() == load(lines)["id"].to_list()


def test_arguments_that_are_null_stay_in_json() -> None:
    call = {"function": {"name": "f", "arguments": {"a": None}}}
    assert answer({"tool_calls": [call]})["tool_calls"][0]["arguments"] == '{"a": null}'
    text = '{"a":  1.0, "a": null}'
    call = {"function": {"name": "f", "arguments": text}}
    assert answer({"tool_calls": [call]})["tool_calls"][0]["arguments"] == text


def test_a_lone_surrogate_beside_content_fails() -> None:
    lone = "\ud800"
    for turn in ({"reasoning": lone, "content": "a"}, {"tool_calls": [CALL | {"name": lone}]}):
        row = {"messages": [ASK, {"role": "assistant", **turn}]}
        assert "surrogate" in error(row)
    assert "surrogate" in error({"messages": [ASK], "tools": [{"name": lone}]})


ESCAPED = r'{"a": "\ud83d"}'
SAID = {"role": "assistant"}
HIDDEN = [
    {"messages": [ASK, SAID | {"tool_calls": [CALL | {"arguments": ESCAPED}]}]},
    {"messages": [ASK, SAID | {"function_call": {"name": "f", "arguments": ESCAPED}}]},
    {"messages": [ASK, {"role": "assistant", "content": f'<tool_call>{{"name": "f", "arguments": '
                        f"{ESCAPED}}}</tool_call>"}]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call",
                        "value": f'{{"name": "f", "arguments": {ESCAPED}}}'}]},
    {"query": "q", "tools": "[]", "answers": f'[{{"name": "f", "arguments": {ESCAPED}}}]'},
    {"system": "", "chat": f'USER: q ASSISTANT: <functioncall> {{"name": "f", "arguments": '
                           f"'{ESCAPED}'}}"},
]  # fmt: skip
"""Arguments that are text, and say by an escape what is none."""


@pytest.mark.parametrize("row", HIDDEN)
def test_a_lone_surrogate_that_arguments_hide_fails(row: dict[str, Any]) -> None:
    assert "surrogate" in error(row)
    pair = json.dumps(row).replace("ud83d", "ud83d\\\\ude00")
    assert one(json.loads(pair))["messages"][-1]["tool_calls"]


def _digest(ids: list[str]) -> str:
    return blake2b("".join(ids).encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize(
    ("file", "digest"),
    [
        ("seeds/self_instruct_seed_tasks.jsonl", "59716a9901b9247333f29639e1179784"),
        ("samples/self_instruct.jsonl.gz", "af7c2ba68b4ba6df466dc2b16c2834fd"),
        ("samples/selfbehave.jsonl.gz", "9c8f16eb6deafee5af9aaf72d96178ee"),
        ("samples/oasst_trees.jsonl.gz", "ecbd33b0e9de7e3afbee149757435794"),
        ("samples/user_oriented_252.jsonl", "88c6f2703bb1b4e2aa4a696a8676cb3c"),
    ],
)
def test_bundled_rows_keep_their_ids(file: str, digest: str) -> None:
    """The digests are of the ids before records had calls and reasoning."""
    assert _digest(load(ROOT / "data" / file)["id"].to_list()) == digest


def test_alpaca_keeps_its_ids(shared: Path) -> None:
    """All of 52,002 but the 13 whose input is the placeholder N/A."""
    frame = load(shared / "pools/alpaca_52k.json.gz")
    rows = gunzip_json(shared / "pools/alpaca_52k.json.gz")
    same = [id_ for id_, row in zip(frame["id"], rows, strict=True) if row["input"] != "N/A"]
    assert len(same) == 52_002 - 13
    assert _digest(same) == "f554a8ba7e5124a48cc69aad0f7e6366"


def test_glaive_tool_calls(shared: Path) -> None:
    """Every turn of the published file: calls are calls, and no text is lost."""
    path = shared / "chat/glaive_toolcall_en_demo.json.gz"
    frame, rows = load(path), gunzip_json(path)
    assert failures(frame) == []
    for turns, tools, row in zip(frame["messages"], frame["tools"], rows, strict=True):
        published = json.loads(row["tools"]) if row["tools"] else []
        assert json.loads(tools or "[]") == published
        for turn, said in zip(turns, row["conversations"], strict=True):
            if said["from"] != "function_call":
                assert turn["content"] == said["value"]
                continue
            calls = json.loads(said["value"])
            calls = calls if isinstance(calls, list) else [calls]
            got = [{**c, "arguments": json.loads(c["arguments"])} for c in turn["tool_calls"]]
            assert [{k: c[k] for k in ("name", "arguments")} for c in got] == calls
