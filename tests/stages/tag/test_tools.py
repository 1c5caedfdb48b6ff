"""tag.tools: valid conversations of every form have no fault, and each mutation has its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pipeline.context import Context
from schemas.records import RECORD_COLUMNS
from stages.tag._tool_definitions import invalid_arguments, tool_definitions
from stages.tag.tools import FAULTS, faults_of, tools
from tests.support.options import problems
from tests.support.rows import json_lines, record

CTX = Context.__new__(Context)  # the stage computes only
GLAIVE = Path(__file__).parents[4] / "shared/data/chat/glaive_toolcall_en_demo.json.gz"

Turn = dict[str, Any]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
FORMS: dict[str, Callable[[str, Any], Any]] = {
    "openai": lambda name, schema: {
        "type": "function",
        "function": {"name": name, "parameters": schema},
    },
    "bare": lambda name, schema: {"name": name, "description": "d", "parameters": schema},
    "responses": lambda name, schema: {"type": "function", "name": name, "parameters": schema},
    "anthropic": lambda name, schema: {"name": name, "input_schema": schema},
    "mcp": lambda name, schema: {"name": name, "inputSchema": schema},
}
TOOLS = json.dumps([FORMS["openai"]("forecast", SCHEMA), FORMS["openai"]("news", {})])

USER = {"role": "user", "content": "What is the weather?"}
ANSWER = {"role": "assistant", "content": "It is fine."}


def call(id_: str | None = "1", name: str = "forecast", arguments: Any = None) -> Turn:
    arguments = {"city": "Rome"} if arguments is None else arguments
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id_, "name": name, "arguments": text}


def calling(*calls: Turn, content: str | None = None) -> Turn:
    return {"role": "assistant", "content": content, "tool_calls": [*calls]}


def result(id_: str | None = "1", name: str | None = None) -> Turn:
    return {"role": "tool", "content": "ok", "tool_call_id": id_, "name": name}


def table(*conversations: list[Turn], tools: str | None = TOOLS) -> pl.DataFrame:
    rows = [record() | {"id": str(i), "messages": c} for i, c in enumerate(conversations)]
    return pl.DataFrame([row | {"tools": tools} for row in rows], schema=RECORD_COLUMNS)


def kinds(*turns: Turn, tools: str | None = TOOLS, **options: Any) -> list[str]:
    return [fault.fault for fault in faults_of(turns, tools, **options)]


def test_what_is_counted() -> None:
    both = calling(call("1"), call("2", "news", {}))
    plain = [USER, ANSWER]
    called = [USER, both, result("2"), result("1"), ANSWER, USER, calling(call("3"))]
    tags = tools(CTX, table(plain, called))
    assert tags.columns == [
        "tool_calls", "tool_results", "tools_defined", "tools_used", "tool_faults"
    ]  # fmt: skip
    assert tags.row(0) == (0, 0, 2, [], [])
    assert tags.row(1) == (3, 2, 2, ["forecast", "news"], [])


@pytest.mark.parametrize("text", ["a calculator", '[{"name": ', '{"x": 1}', "3"])
def test_definitions_that_cannot_be_read_are_no_number(text: str) -> None:
    turns = [USER, calling(call(name="any"))]
    assert tools(CTX, table(turns, tools=text)).row(0)[2:] == (None, ["any"], [])


def test_definitions_without_names_are_counted_and_name_no_tool_unknown() -> None:
    text = json.dumps([{"type": "web_search"}, FORMS["bare"]("forecast", SCHEMA)])
    assert tools(CTX, table([USER, calling(call(name="any"))], tools=text)).row(0)[2:] == (
        2, ["any"], []
    )  # fmt: skip
    assert tools(CTX, table([USER, ANSWER], tools=None))["tools_defined"].to_list() == [0]


def test_a_verdict_names_the_first_fault_by_turn_and_call() -> None:
    wrong = [
        USER,
        calling(call("1"), call("2", "forecast", {"days": 1})),
        result("1"),
        result("2"),
        ANSWER,
        result("9"),
    ]
    rows = table([USER, ANSWER], wrong)
    assert "drop_reason" not in tools(CTX, rows).columns
    tags = tools(CTX, rows, decide=True)
    assert tags["drop_reason"].to_list() == [None, "invalid_arguments"]
    assert tags["tool_faults"].to_list() == [[], ["invalid_arguments", "orphan_result"]]
    evidence = json.loads(tags["evidence"][1])
    assert evidence.pop("why") == "'city' is a required property"
    assert evidence == {"turn": 2, "call": 2, "tool": "forecast", "id": "2"}
    tags = tools(CTX, rows, decide=True, faults=("orphan_result",))
    assert tags["drop_reason"][1] == "orphan_result"
    assert json.loads(tags["evidence"][1])["turn"] == 6


@pytest.mark.parametrize(
    ("expected", "turns"),
    [
        ([], [USER, calling(call()), result(), ANSWER]),
        ([], [USER, calling(call("1"), call("2")), result("2"), result("1"), ANSWER]),
        # By name or order where an id is missing.
        ([], [USER, calling(call(None)), result(None), ANSWER]),
        (
            [],
            [
                USER,
                calling(call(None), call(None, "news", {})),
                result(None, "news"),
                result(None, "forecast"),
                ANSWER,
            ],
        ),
        ([], [USER, calling(call("1")), result(None), ANSWER]),
        ([], [USER, calling(call(None)), result("1"), ANSWER]),
        ([], [USER, calling(call("a"), call(None)), result("b"), result("a"), ANSWER]),
        # One call a turn, results behind them all; an id used again once it is answered.
        ([], [USER, calling(call("1")), calling(call("2")), result("1"), result("2"), ANSWER]),
        ([], [USER, calling(call()), result(), calling(call()), result(), ANSWER]),
        # A system turn parts nothing; what ends with calls is what a model learns.
        ([], [USER, calling(call()), {"role": "system", "content": "s"}, result(), ANSWER]),
        ([], [USER, calling(call("1"), call("2"))]),
        ([], [USER, calling(call("1")), calling(call("2"))]),
        (["unanswered_call"], [USER, calling(call()), ANSWER]),
        (["unanswered_call"], [USER, calling(call()), USER, ANSWER]),
        (["unanswered_call"], [USER, calling(call("1"), call("2")), result("1")]),
        (
            ["unanswered_call"],
            [USER, calling(call("1"), call("2")), result("2"), calling(call("3")), result("3")],
        ),
        (["orphan_result"], [USER, result(), ANSWER]),
        (["orphan_result"], [USER, calling(call()), result(), result("2"), ANSWER]),
        (["orphan_result"], [USER, calling(call()), result(), ANSWER, result(None)]),
        (
            ["unanswered_call", "orphan_result"],
            [USER, calling(call(None)), result(None, "news"), ANSWER],
        ),
        (["unpaired_ids"], [USER, calling(call("1")), result("2"), ANSWER]),
        (["unpaired_ids"], [USER, calling(call("1")), result("1"), result("1"), ANSWER]),
        (
            ["unpaired_ids"],
            [USER, calling(call("1"), call("2")), result("3"), result("1"), ANSWER],
        ),
        (
            ["unpaired_ids"],
            [USER, calling(call("1"), call("1")), result("1"), result("1"), ANSWER],
        ),
        (["unknown_tool"], [USER, calling(call(name="stocks")), result(), ANSWER]),
        (["unknown_tool"], [USER, calling(call(name="Forecast"))]),
    ],
)
def test_faults(expected: list[str], turns: list[Turn]) -> None:
    assert kinds(*turns) == expected


def test_calls_at_the_end_are_unanswered_by_option_alone() -> None:
    turns = [USER, calling(call("1"), call("2"))]
    assert kinds(*turns, allow_last=False) == ["unanswered_call"] * 2
    tags = tools(CTX, table(turns), last_call="unanswered", decide=True)
    assert tags["drop_reason"].to_list() == ["unanswered_call"]


def test_without_definitions_no_tool_is_unknown() -> None:
    for text in (None, "", "[]"):
        assert kinds(USER, calling(call(name="any", arguments={"x": 1})), tools=text) == []
        assert kinds(USER, calling(call(arguments="x")), tools=text) == ["invalid_arguments"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("arguments", "is_valid"),
    [
        ('{"city": "Rome"}', True),
        ('{"city": "Rome", "days": 3}', True),
        ('{"city": "Rome", "days": 0}', False),
        ('{"city": "Rome", "days": "3"}', False),
        ('{"city": "Rome", "nights": 3}', False),
        ('{"days": 3}', False),
        ("{}", False),
        ("", False),
        (None, False),
        ("{'city': 'Rome'}", False),
        ('{"city": "Rome"', False),
        ('"Rome"', False),
        ("[]", False),
        ("null", False),
        ('{"city": NaN}', False),
        ("[" * 100_000, False),
    ],
)
def test_arguments_are_checked_in_every_form_of_definition(
    form: str, arguments: str | None, is_valid: bool
) -> None:
    text = json.dumps([FORMS[form]("forecast", SCHEMA)])
    turn = calling({"id": "1", "name": "forecast", "arguments": arguments})
    expected = [] if is_valid else ["invalid_arguments"]
    assert kinds(USER, turn, tools=text) == expected
    assert kinds(USER, turn, tools=text[1:-1]) == expected  # one definition, and no list


def test_no_arguments_are_an_empty_object() -> None:
    for arguments in (None, "", "{}"):
        turn = calling({"id": "1", "name": "news", "arguments": arguments})
        assert kinds(USER, turn) == []


def test_types_may_have_names_of_programming_languages() -> None:
    python = {"type": "dict", "properties": {"x": {"type": "float"}, "y": {"type": "list"}}}
    capitals = {"type": "OBJECT", "properties": {"x": {"type": "NUMBER"}, "y": {"type": "ARRAY"}}}
    alone = {"x": {"type": "float", "description": "d"}, "y": {"type": "list"}}
    for schema in (python, capitals, alone):
        text = json.dumps([FORMS["bare"]("f", schema)])
        assert kinds(calling(call(name="f", arguments={"x": 1.5, "y": []})), tools=text) == []
        for wrong in ({"x": "1.5"}, {"y": 1}):
            turn = calling(call(name="f", arguments=wrong))
            assert kinds(turn, tools=text) == ["invalid_arguments"]


def test_a_parameter_may_have_the_name_of_a_keyword() -> None:
    """Names of properties are never taken for keywords, nor values for schemas."""
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["INT", "str"]},
            "default": {"type": "string"},
        },
    }
    text = json.dumps([FORMS["openai"]("f", schema)])
    assert kinds(calling(call(name="f", arguments={"type": "INT"})), tools=text) == []
    assert kinds(calling(call(name="f", arguments={"type": "integer"})), tools=text) != []
    assert kinds(calling(call(name="f", arguments={"default": 3})), tools=text) != []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"type": "a colour"}}},
        {"$ref": "https://localhost:1/schema.json"},
        {"$ref": "#/nowhere"},
        {"type": "object", "properties": {"x": {"pattern": "("}}},
        {"$ref": "#"},
        ["x"],
    ],
)
def test_a_schema_that_is_none_constrains_nothing_and_fetches_nothing(schema: Any) -> None:
    text = json.dumps([FORMS["openai"]("f", schema)])
    assert kinds(calling(call(name="f", arguments={"x": "y"})), tools=text) == []
    assert kinds(calling(call(name="f", arguments="x")), tools=text) == ["invalid_arguments"]


def test_a_tool_that_takes_free_text_has_no_invalid_arguments() -> None:
    text = json.dumps([{"type": "custom", "custom": {"name": "patch"}}])
    assert kinds(calling(call(name="patch", arguments="*** Begin")), tools=text) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.fixed_dictionaries({}, optional={"city": VALUES, "days": VALUES, "more": VALUES}))
@settings(deadline=None)
def test_the_validator_is_that_of_jsonschema(arguments: dict[str, Any]) -> None:
    schema = tool_definitions(TOOLS).schemas["forecast"]
    is_valid = Draft202012Validator(SCHEMA).is_valid(arguments)
    assert (invalid_arguments(json.dumps(arguments), schema) is None) == is_valid


def _valid(rng: random.Random, with_ids: bool) -> list[Turn]:
    """A conversation of rounds of parallel calls, their results in any order."""
    turns: list[Turn] = [dict(USER)]
    for number in range(rng.randint(1, 3)):
        names = [rng.choice(["forecast", "news"]) for _ in range(rng.randint(1, 3))]
        ids = [f"c{number}-{i}" if with_ids else None for i in range(len(names))]
        turns.append(calling(*(call(i, name) for i, name in zip(ids, names, strict=True))))
        pairs = list(zip(ids, names, strict=True))
        rng.shuffle(pairs)
        turns += [result(i, name) for i, name in pairs]
        if rng.random() < 0.5:
            turns += [dict(ANSWER), dict(USER)]
    return [*turns, dict(ANSWER)]


def _mutated(turns: list[Turn], kind: str, rng: random.Random) -> list[Turn]:
    """The conversation with one fault of a kind."""
    turns = json.loads(json.dumps(turns))
    results = [i for i, turn in enumerate(turns) if turn["role"] == "tool"]
    calls = [one for turn in turns for one in turn.get("tool_calls") or ()]
    at = rng.choice(results)
    match kind:
        case "unanswered_call":
            del turns[at]
        case "orphan_result":
            turns.insert(rng.choice([i for i, t in enumerate(turns) if t == ANSWER]) + 1, result())
        case "unknown_tool":
            chosen = rng.choice(calls)
            chosen["name"] = "stocks"
            if chosen["id"] is None:  # its result has the name too
                names = [turn for turn in turns if turn["role"] == "tool"]
                for turn in names:
                    turn["name"] = None
        case "invalid_arguments":
            rng.choice(calls)["arguments"] = rng.choice(["{", "3", '{"city"}'])
        case "unpaired_ids":
            turns[at]["tool_call_id"] = "other"
    return turns


@pytest.mark.parametrize("seed", range(40))
def test_each_mutation_is_found_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    for with_ids in (True, False):
        turns = _valid(rng, with_ids)
        assert kinds(*turns) == []
        for fault in FAULTS:
            if fault == "unpaired_ids" and not with_ids:
                continue
            wrong = _mutated(turns, fault, rng)
            assert kinds(*wrong) == [fault], (fault, wrong)


@pytest.mark.skipif(not GLAIVE.exists(), reason="needs ../shared")
def test_real_calls_have_the_faults_that_are_in_them() -> None:
    """Glaive's 300 conversations: every result follows its call, and most arguments are valid."""
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    rows = []
    for row in json_lines(GLAIVE):
        turns = []
        for turn in row["conversations"]:
            if turn["from"] == "function_call":
                one = json.loads(turn["value"])
                turns.append(calling(call(None, one["name"], one["arguments"])))
            else:
                turns.append({"role": roles[turn["from"]], "content": turn["value"]})
        rows.append(record() | {"messages": turns, "tools": row["tools"]})
    tags = tools(CTX, pl.DataFrame(rows, schema=RECORD_COLUMNS), decide=True)
    assert tags["tool_calls"].sum() == tags["tool_results"].sum() > 100
    counts = tags["drop_reason"].drop_nulls().value_counts()
    assert set(counts["drop_reason"]) <= {"invalid_arguments", "unknown_tool"}
    assert counts["count"].sum() < 0.05 * len(rows)


def test_options() -> None:
    assert problems("tag.tools", decide=True, faults=["orphan_result"]) == []
    assert problems("tag.tools", faults=[]) != []
    assert problems("tag.tools", faults=["orphan"]) != []
    assert problems("tag.tools", faults=["orphan_result", "orphan_result"]) != []
