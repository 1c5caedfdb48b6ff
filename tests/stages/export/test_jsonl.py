"""export.jsonl: each form as its readers document it, and back again as it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.recipe.discovery import find
from schemas.records import canonical_turns, record_id
from schemas.turns import record_message
from stages.export.jsonl import FormName, jsonl
from stages.export.parquet import parquet
from tests.support.loading import load
from tests.support.options import problems
from tests.support.rows import alpaca, evidence, frame, record, self_instruct
from tests.support.rows import json_lines as read_rows
from tests.support.tool_rows import CONVERSATION, WEATHER, call, glaive_record, tool_record

FORMS = get_args(FormName)
TOOLS = json.dumps([WEATHER])
ARGUMENTS = '{"place": "Skerryvore", "days": 2}'


def export(folder: Path, rows: pl.DataFrame, **options: Any) -> tuple[Path, pl.DataFrame]:
    ctx = Context.scratch(folder)
    return ctx.files, jsonl(ctx, rows, **options)


def written(folder: Path, rows: pl.DataFrame, **options: Any) -> list[dict[str, Any]]:
    files, _ = export(folder, rows, **options)
    return [row for file in sorted((files / "data").iterdir()) for row in read_rows(file)]


def asked(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Go on."}, *turns]


def answer(content: str | None = "So.", **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def test_openai(tmp_path: Path) -> None:
    """As the guide to fine-tuning on function calls shows it."""
    [row] = written(tmp_path, frame([tool_record(CONVERSATION, TOOLS)]))
    assert row["tools"] == [WEATHER]
    function = {"name": "get_weather", "arguments": ARGUMENTS}
    assert row["messages"] == [
        {"role": "system", "content": "You are a forecaster."},
        {"role": "user", "content": "What will the weather be in Skerryvore?"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "I need the forecast.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            "weight": 0,
        },
        {
            "role": "tool",
            "content": '{"sky": "grey"}',
            "tool_call_id": "call_1",
            "name": "get_weather",
        },
        {
            "role": "assistant",
            "content": "Grey for two days.",
            "reasoning_content": "It says grey.",
        },
    ]


def test_axolotl(tmp_path: Path) -> None:
    """As its loader reads it: `train`, contents that are texts, arguments that it can parse."""
    rows = frame([tool_record([*CONVERSATION[:4], answer(train=True)], TOOLS)])
    [row] = written(tmp_path, rows, form="axolotl")
    assert row["tools"] == [WEATHER]
    assert [turn.get("train") for turn in row["messages"]] == [None, None, False, None, True]
    assert [turn["content"] for turn in row["messages"]][2] == ""
    [result_row] = row["messages"][2]["tool_calls"]
    assert json.loads(result_row["function"]["arguments"]) == {"place": "Skerryvore", "days": 2}


def test_sharegpt(tmp_path: Path) -> None:
    """As LLaMA-Factory documents it."""
    omit = ("tool_call_id", "name", "train")
    rows = frame([tool_record(CONVERSATION, TOOLS)])
    [row] = written(tmp_path, rows, form="sharegpt", reasoning="drop", omit=omit)
    called = {"name": "get_weather", "arguments": json.loads(ARGUMENTS)}
    assert row == {
        "conversations": [
            {"from": "human", "value": "What will the weather be in Skerryvore?"},
            {"from": "function_call", "value": json.dumps(called)},
            {"from": "observation", "value": '{"sky": "grey"}'},
            {"from": "gpt", "value": "Grey for two days."},
        ],
        "system": "You are a forecaster.",
        "tools": TOOLS,
    }


def test_alpaca(tmp_path: Path) -> None:
    two = record("s", "q1", "a1", "q2", "a2", roles=("user", "assistant"))["messages"][1:]
    turns = [{"role": "system", "content": "s"}] + [
        {**turn, "role": ("user", "assistant")[at % 2]} for at, turn in enumerate(two)
    ]
    rows = alpaca([{"instruction": "Add.", "input": "1 and 2", "output": "3"}])
    expected = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    plain = {"system": "", "history": []}
    assert written(tmp_path / "a", rows, form="alpaca") == [expected | plain]
    assert written(tmp_path / "b", frame([tool_record(turns)]), form="alpaca") == [
        {"instruction": "q2", "input": "", "output": "a2", "system": "s", "history": [["q1", "a1"]]}
    ]


@pytest.mark.parametrize("no_input", ["N/A", "<noinput>", " ", "none."])
def test_an_input_that_is_none_to_readers_stays_in_the_instruction(
    tmp_path: Path, no_input: str
) -> None:
    rows = frame([record(f"Add.\n\n{no_input}", "3", input_start=6)])
    [row] = written(tmp_path, rows, form="alpaca")
    assert (row["instruction"], row["input"]) == (f"Add.\n\n{no_input}", "")


CALL = answer(None, tool_calls=[call("f", "{}")])
RESULT = {"role": "tool", "content": "1"}
LACKING = [
    ("openai", asked({"role": "user", "content": "And?", "train": True}, answer()), "train", 2),
    ("axolotl", asked(answer(None, tool_calls=[call("f", "a = 1")])), "arguments", 2),
    ("sharegpt", asked(answer(reasoning="Hm.")), "reasoning", 2),
    ("sharegpt", asked(answer(train=False)), "train", 2),
    ("sharegpt", asked(answer(None, tool_calls=[call("f", "{}", "1")])), "tool_call_id", 2),
    ("sharegpt", asked(CALL, {**RESULT, "name": "f"}, answer()), "name", 3),
    ("sharegpt", asked(CALL, {**RESULT, "tool_call_id": "1"}, answer()), "tool_call_id", 3),
    ("sharegpt", asked(answer("So.", tool_calls=CALL["tool_calls"])), "content", 2),
    ("sharegpt", asked(answer(None, tool_calls=[call("f", None)])), "arguments", 2),
    ("sharegpt", asked(answer(None, tool_calls=[call("f", "[1]")])), "arguments", 2),
    ("sharegpt", asked(CALL, RESULT, RESULT, answer()), "role", 4),
    ("sharegpt", [answer(), *asked(answer())], "role", 1),
    ("sharegpt", asked({"role": "system", "content": "s"}, answer()), "role", 2),
    ("alpaca", asked(CALL), "tool_calls", 2),
    ("alpaca", asked(answer(reasoning="Hm.")), "reasoning", 2),
    ("alpaca", [{"role": "system", "content": "s"}, *asked(*asked(answer()))], "role", 3),
    ("alpaca", [{"role": "tool", "content": "s"}, answer()], "role", 1),
]


@pytest.mark.parametrize(("form", "turns", "field", "turn"), LACKING)
def test_what_a_form_lacks_is_named(
    tmp_path: Path, form: Any, turns: list[dict[str, Any]], field: str, turn: int
) -> None:
    rows = frame([tool_record(turns), record("Why?", "So.")])
    files, result = export(tmp_path, rows, form=form)
    [id_] = evidence(rows, result)
    assert evidence(rows, result)[id_] == {"field": field, "turn": turn}
    assert result["drop_reason"].drop_nulls().to_list() == [f"form_lacks: {field}"]
    assert sorted(result["split"], key=str) == [None, "train"]
    assert len(read_rows(files / "data/train-00000-of-00001.jsonl")) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tools", ['{"name": "f"}', "none", "[1]", "[{}]"])
def test_tools_that_are_no_list_of_definitions(tmp_path: Path, form: Any, tools: str) -> None:
    rows = frame([tool_record(asked(answer()), tools)])
    _, result = export(tmp_path, rows, form=form)
    assert result["drop_reason"].to_list() == ["form_lacks: tools"]
    assert evidence(rows, result)[rows["id"][0]] == {"field": "tools"}


def test_what_may_be_omitted_drops_no_row(tmp_path: Path) -> None:
    turns = asked(
        answer(None, tool_calls=[call("f", "{}", "1")], train=False),
        {**RESULT, "tool_call_id": "1", "name": "f"},
        answer(),
    )
    rows = frame([tool_record(turns)])
    reasons = {
        omit: export(tmp_path / str(len(omit)), rows, form="sharegpt", omit=omit)[1]["drop_reason"][
            0
        ]
        for omit in ((), ("tool_call_id",), ("tool_call_id", "name"))
    }
    assert [*reasons.values()] == [
        "form_lacks: tool_call_id",
        "form_lacks: name",
        "form_lacks: train",
    ]
    omit = ("tool_call_id", "name", "train")
    [row] = written(tmp_path / "all", rows, form="sharegpt", omit=omit)
    assert [turn["from"] for turn in row["conversations"]][1:3] == ["function_call", "observation"]
    # A form that has a place for them keeps them.
    [row] = written(tmp_path / "openai", rows, omit=omit)
    assert row["messages"][1]["weight"] == 0
    assert row["messages"][2]["tool_call_id"] == "1"


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda text: bool(text.strip())
)
OBJECTS = st.dictionaries(TEXTS, st.integers() | TEXTS | st.lists(st.booleans(), max_size=2))
CALLS = st.builds(
    call,
    TEXTS,
    OBJECTS.map(lambda o: json.dumps(o, ensure_ascii=False)) | st.none() | st.just("a = 1"),
    st.none() | TEXTS,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Conversations with whatever stands beside content, most of them in order."""

    def maybe(strategy: st.SearchStrategy[Any], odds: int = 3) -> Any:
        return draw(strategy) if draw(st.integers(0, odds)) == 0 else None

    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({"role": "system", "content": draw(TEXTS)})
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(TEXTS)})
        if calls := maybe(st.lists(CALLS, min_size=1, max_size=2), 1):
            turns.append({"role": "assistant", "content": maybe(TEXTS), "tool_calls": calls})
            for _ in range(draw(st.integers(1, 2))):
                turn = {"tool_call_id": maybe(TEXTS), "name": maybe(TEXTS)}
                turns.append({"role": "tool", "content": draw(TEXTS), **turn})
        turns.append(answer(draw(TEXTS), reasoning=maybe(TEXTS)))
    if draw(st.integers(0, 2)) == 0:
        draw(st.sampled_from(turns))["train"] = draw(st.booleans())
    return canonical_turns(turns)


TOOLS_OF_ROWS = st.builds(
    lambda name, more: {"type": "function", "function": {"name": name, "parameters": more}},
    TEXTS,
    OBJECTS,
)
TOOL_TEXTS = st.none() | st.lists(TOOLS_OF_ROWS, min_size=1, max_size=2).map(
    lambda tools: json.dumps(tools, ensure_ascii=False)
)


def read_back(form: str, row: dict[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """The turns and tools of a row, by what the readers of the form document."""
    tools = row.get("tools") or None
    if tools is not None and not isinstance(tools, str):
        tools = json.dumps(tools, ensure_ascii=False)
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    if form == "alpaca":
        prompt = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        pairs = [*row["history"], [prompt, row["output"]]]
        said = [(("user", "assistant")[at], text) for pair in pairs for at, text in enumerate(pair)]
        return system + [{"role": role, "content": text} for role, text in said], tools
    if form == "sharegpt":
        return system + [_from_sharegpt(turn) for turn in row["conversations"]], tools
    messages = []
    for turn in row["messages"]:
        loss = turn.get("train", turn.get("weight"))
        train = {} if loss is None else {"train": bool(loss)}
        messages.append(record_message(turn) | train)
    return messages, tools


def _from_sharegpt(turn: dict[str, str]) -> dict[str, Any]:
    if turn["from"] == "function_call":
        value = json.loads(turn["value"])
        return record_message(
            {"role": "assistant", "tool_calls": value if isinstance(value, list) else [value]}
        )
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    return {"role": roles[turn["from"]], "content": turn["value"]}


@pytest.mark.parametrize("form", FORMS)
@given(turns=conversations(), tools=TOOL_TEXTS, data=st.data())
def test_what_a_form_holds_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    form: Any,
    turns: list[dict[str, Any]],
    tools: str | None,
    data: st.DataObject,
) -> None:
    """Every row comes back with its id, or is dropped for a field that it has."""
    row = tool_record(turns, tools)
    first = next(turn["content"] for turn in turns if turn["role"] == "user")
    row["input_start"] = data.draw(st.none() | st.integers(1, len(first)))
    ctx = Context.scratch(tmp_path_factory.mktemp("jsonl"))
    result = jsonl(ctx, frame([row]), form=form)
    if result["drop_reason"][0] is None:
        [result_row] = read_rows(ctx.files / "data/train-00000-of-00001.jsonl")
        messages, definitions = read_back(form, result_row)
        assert record_id(messages, definitions) == row["id"]
        if form == "sharegpt":
            speakers = [turn["from"] for turn in result_row["conversations"]]
            assert {*speakers[::2]} <= {"human", "observation"}
            assert {*speakers[1::2]} <= {"gpt", "function_call"}
            assert len(speakers) % 2 == 0
        return
    cause = json.loads(result["evidence"][0])
    assert result["drop_reason"][0] == f"form_lacks: {cause['field']}"
    assert _lacks(form, turns, tools, **cause)


def _lacks(
    form: str, turns: list[dict[str, Any]], tools: str | None, field: str, turn: int = 0
) -> bool:
    """Whether the field is there, and the form has none for it by what is documented."""
    message = turns[turn - 1]
    calls = message.get("tool_calls", ())
    match field:
        case "tools":
            return form == "alpaca" and tools is not None
        case "arguments":
            return form in ("axolotl", "sharegpt") and any(
                not (call.get("arguments") or "").startswith("{") for call in calls
            )
        case "content":
            return form == "sharegpt" and bool(calls) and bool(message["content"])
        case "tool_call_id":
            ids = [call.get("id") for call in calls] + [message.get("tool_call_id")]
            return form in ("sharegpt", "alpaca") and any(ids)
        case "role":
            return form in ("sharegpt", "alpaca") and message["role"] in ("tool", "assistant")
        case "train":
            return form in ("sharegpt", "alpaca") or message["role"] != "assistant"
        case _:
            return form in ("sharegpt", "alpaca") and field in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("reads_tools")
@given(rows=st.lists(st.tuples(conversations(), TOOL_TEXTS), min_size=1, max_size=4))
def test_load_records_reads_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, form: Any, rows: list[Any]
) -> None:
    records = frame(tool_record(turns, tools) for turns, tools in rows)
    ctx = Context.scratch(tmp_path_factory.mktemp("jsonl"))
    result = jsonl(ctx, records, form=form)
    held = records.filter(result["drop_reason"].is_null())
    if len(held):
        loaded = load(ctx.files / "data/train-00000-of-00001.jsonl")
        assert sorted(loaded["id"].fill_null("failed")) == held["id"].to_list()


@pytest.mark.parametrize("form", FORMS)
def test_load_records_reads_plain_rows(tmp_path: Path, form: Any) -> None:
    """Real rows, with their inputs where the form has a place for them."""
    rows = self_instruct(500)
    files, result = export(tmp_path, rows, form=form)
    held = rows.filter(result["drop_reason"].is_null())
    loaded = load(files / "data/train-00000-of-00001.jsonl").sort("id")
    assert loaded["id"].equals(held["id"])
    if form == "alpaca":
        same = loaded["input_start"].eq_missing(held["input_start"])
        no_input = pl.col("input_start").is_null()
        assert held.filter(~same).is_empty() or loaded.filter(~same).select(no_input.all()).item()
        assert same.mean() > 0.99  # type: ignore[operator]


def test_glaive_comes_back_as_published(tmp_path: Path, shared: Path) -> None:
    published = read_rows(shared / "chat/glaive_toolcall_en_demo.json.gz")
    rows = frame(glaive_record(row) for row in published)
    files, result = export(tmp_path, rows, form="sharegpt")
    result_row = [_parsed(row) for row in read_rows(files / "data/train-00000-of-00001.jsonl")]
    originals = [_parsed({"system": "", **row}) for row in published]
    assert all(row in originals for row in result_row)
    assert len(result_row) > 250
    reasons = result["drop_reason"].drop_nulls().unique().to_list()
    assert all(reason == "no_answer" or reason.startswith("form_lacks: ") for reason in reasons)


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    turns = [
        {**t, "value": json.loads(t["value"])} if t["from"] == "function_call" else t
        for t in row["conversations"]
    ]
    return row | {"conversations": turns, "tools": json.loads(row["tools"] or "[]")}


@pytest.mark.parametrize("form", FORMS)
def test_datasets_reads_the_folder(tmp_path: Path, form: Any) -> None:
    import datasets

    rows = self_instruct(300)
    options = {"form": form, "validation_fraction": 0.1, "rows_per_file": 100, "columns": ("id",)}
    files, result = export(tmp_path / "a", rows, **options)
    loaded = datasets.load_dataset(str(files), cache_dir=str(tmp_path / "cache"))
    kept_rows = rows.select("id").with_columns(result)
    for name in ("train", "validation"):
        assert loaded[name]["id"][:] == kept_rows.filter(pl.col("split") == name)["id"].to_list()
    shards = parquet(Context.scratch(tmp_path / "b"), rows, validation_fraction=0.1)
    both = result["split"].is_not_null()
    assert shards["split"].filter(both).equals(result["split"].filter(both))


def test_the_bytes_depend_on_rows_and_options_alone(tmp_path: Path) -> None:
    rows = self_instruct(300)
    again = pl.concat([rows[:77], rows[77:]], rechunk=False).with_columns(pl.col("origins"))
    files = [
        export(tmp_path / name, one, form="openai", rows_per_file=50, compression="gzip")[0]
        for name, one in (("a", rows), ("b", again))
    ]
    contents = [
        {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in files
    ]
    assert contents[0] == contents[1]
    whole = written(tmp_path / "c", rows)
    parts = sorted((files[0] / "data").iterdir())
    assert [json.loads(x) for p in parts for x in gzip.decompress(p.read_bytes()).splitlines()] == (
        whole
    )


def test_the_card_says_what_the_files_are(tmp_path: Path) -> None:
    rows = frame([tool_record(CONVERSATION, TOOLS), record("Why?", "So.")])
    files, _ = export(tmp_path, rows, form="axolotl", reasoning="last")
    card = (files / "README.md").read_text()
    assert "message_field_training: train" in card
    assert "was left out: 1 rows had some" in card
    described = json.loads((files / "shards.json").read_text())
    assert (described["form"], described["rows_without_their_reasoning"]) == ("axolotl", 1)
    [shard] = described["splits"]["train"]["shards"]
    assert (shard["file"], shard["rows"]) == ("data/train-00000-of-00001.jsonl", 2)


def test_columns_are_written_beside_the_form(tmp_path: Path) -> None:
    rows = frame([record("Why?", "So.")]).with_columns(
        ifd=pl.lit(0.5), nothing=pl.lit(float("nan")), vector=pl.lit(pl.Series([[1.0, 2.0]]))
    )
    [row] = written(tmp_path, rows, columns=("id", "ifd", "nothing", "vector", "cluster"))
    assert row.pop("messages")
    assert row == {"id": rows["id"][0], "ifd": 0.5, "nothing": None, "vector": [1.0, 2.0]}


def test_mistakes_are_reported_before_anything_runs() -> None:
    check = find("export.jsonl").check
    assert check
    with pytest.raises(
        OptionError, match=r"must be columns other than messages, tools .* got tools"
    ):
        check(SimpleNamespace(form="openai", columns=("id", "tools")))
    check(SimpleNamespace(form="openai", columns=("id", "instruction")))
    (problem,) = problems("export.jsonl", omit=["name", "name"])
    assert problem.startswith("omit must name each once")
    (problem,) = problems("export.jsonl", form="chatml")
    assert "openai" in problem


def test_no_rows_and_no_answers(tmp_path: Path) -> None:
    files, result = export(tmp_path / "a", frame([record("only a question")]))
    assert result["drop_reason"].to_list() == ["no_answer"]
    assert not [*(files / "data").iterdir()]
    empty = frame([record("q", "a")])[:0]
    assert len(export(tmp_path / "b", empty)[1]) == 0
