"""export.parquet of rows with calls, tools and reasoning: what others read and render."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import LanguageModel
from schemas.turns import template_messages, template_tools
from stages._training.dataset import read_shards, tokenizer_for
from stages._training.encoding import encode
from stages.export.parquet import parquet
from tests.support.rows import DATA, frame, json_lines, plain, record
from tests.support.tool_rows import CONVERSATION, WEATHER, call, glaive_record, tool_record

TOOLS = json.dumps([WEATHER])
TINYLM = DATA / "models/tinylm"


def export(folder: Path, rows: pl.DataFrame, **options: Any) -> tuple[Path, pl.DataFrame]:
    ctx = Context.scratch(folder)
    return ctx.files, parquet(ctx, rows, **options)


def load(folder: Path, split: str = "train") -> Any:
    import datasets

    cache = str(folder.parent / "cache")
    return datasets.load_dataset(str(folder), cache_dir=cache, split=split)


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINYLM)


def answered(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Go on."}, *turns]


def calling(arguments: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call("f", arguments, "1")]}


def test_a_row_renders_as_its_record_does(tmp_path: Path) -> None:
    """Plain rows beside it, whose turns have nulls where the others have calls."""
    rows = frame([tool_record(CONVERSATION, TOOLS), record("Why?", "So.")])
    files, _ = export(tmp_path / "a", rows)
    tok = tokenizer()
    template = tok.chat_template
    loaded = {row["id"]: row for row in load(files)}
    for row in rows.iter_rows(named=True):
        shard = loaded[row["id"]]
        text = tok.apply_chat_template(shard["messages"], tools=shard["tools"], tokenize=False)
        turns = template_messages(row["messages"], template)
        tools = template_tools(row["tools"])
        assert text == tok.apply_chat_template(turns, tools=tools, tokenize=False)
        assert '\\"' not in text
    shown = tok.apply_chat_template(
        loaded[tool_record(CONVERSATION, TOOLS)["id"]]["messages"], tools=[WEATHER], tokenize=False
    )
    assert '{"name": "get_weather", "arguments": {"place": "Skerryvore", "days": 2}}' in shown
    assert "<think>\nI need the forecast.\n</think>" in shown


def test_the_columns_are_those_that_trl_documents(tmp_path: Path) -> None:
    from trl import is_conversational

    files, _ = export(tmp_path / "a", frame([tool_record(CONVERSATION, TOOLS)]))
    loaded = load(files)
    assert loaded.column_names == ["messages", "tools", "id", "sources", "licenses"]
    row = loaded[0]
    assert is_conversational(row)
    assert row["tools"] == [WEATHER]
    function = {"name": "get_weather", "arguments": {"place": "Skerryvore", "days": 2}}
    assert plain(row["messages"])[2:4] == [
        {
            "role": "assistant",
            "reasoning_content": "I need the forecast.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            "train": False,
        },
        {
            "role": "tool",
            "content": '{"sky": "grey"}',
            "tool_call_id": "call_1",
            "name": "get_weather",
        },
    ]


def test_trl_trains_on_it_without_conversion(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = frame([tool_record(CONVERSATION, TOOLS), record("Why?", "So.")])
    files, _ = export(tmp_path / "a", rows)
    tok = tokenizer()
    config = SFTConfig(
        str(tmp_path / "out"), max_length=None, report_to=[], use_cpu=True, bf16=False
    )
    model = AutoModelForCausalLM.from_pretrained(TINYLM)
    trainer = SFTTrainer(model, config, train_dataset=load(files), processing_class=tok)
    texts = [tok.decode(row["input_ids"]) for row in trainer.train_dataset]
    expected = [
        tok.apply_chat_template(
            template_messages(row["messages"], tok.chat_template),
            tools=template_tools(row["tools"]),
            tokenize=False,
        )
        for row in rows.iter_rows(named=True)
    ]
    assert sorted(map(str.strip, texts)) == sorted(map(str.strip, expected))


@pytest.mark.parametrize(
    ("reasoning", "fields", "content", "lost"),
    [
        ("field", ["I need the forecast.", "It says grey."], "Grey for two days.", 0),
        (
            "inline",
            [None, None],
            "<think>\nIt says grey.\n</think>\n\nGrey for two days.",
            0,
        ),
        ("last", [None, "It says grey."], "Grey for two days.", len("I need the forecast.")),
        ("drop", [None, None], "Grey for two days.", len("I need the forecast.It says grey.")),
    ],
)
def test_reasoning_stands_where_it_is_wanted(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    reasoning: Any,
    fields: list[str | None],
    content: str,
    lost: int,
) -> None:
    rows = frame([tool_record(CONVERSATION, TOOLS), record("Why?", "So.")])
    files, _ = export(tmp_path / "a", rows, reasoning=reasoning)
    turns = next(row["messages"] for row in load(files) if len(row["messages"]) == 5)
    assert [turns[at].get("reasoning_content") for at in (2, 4)] == fields
    assert turns[4]["content"] == content
    assert turns[2]["content"] == (
        "<think>\nI need the forecast.\n</think>\n\n" if reasoning == "inline" else None
    )
    described = json.loads((files / "shards.json").read_text())
    assert described.get("rows_without_their_reasoning", 0) == (1 if lost else 0)
    assert described.get("characters_of_reasoning_left_out", 0) == lost
    said = f"was left out: 1 rows had some, {lost} characters"
    assert (said in (files / "README.md").read_text()) == bool(lost)
    assert [said in record.message for record in caplog.records] == ([True] if lost else [])


def test_last_loses_nothing_of_rows_that_think_in_their_last_turn_alone(tmp_path: Path) -> None:
    turns = answered({"role": "assistant", "content": "So.", "reasoning": "Hm."})
    files, _ = export(tmp_path / "a", frame([tool_record(turns)]), reasoning="last")
    assert load(files)[0]["messages"][1]["reasoning_content"] == "Hm."
    assert "rows_without" not in (files / "shards.json").read_text()


def test_plain_rows_have_the_columns_of_plain_rows(tmp_path: Path) -> None:
    """A row that is dropped adds no column, and nor do empty lists of calls."""
    lists = answered({"role": "assistant", "content": "So.", "tool_calls": []})
    unanswered = [*CONVERSATION[:2]]
    rows = frame([tool_record(lists), tool_record(unanswered, TOOLS)])
    files, _ = export(tmp_path / "a", rows)
    schema = pq.read_schema(files / "data/train-00000-of-00001.parquet")
    assert schema.names == ["messages", "id", "sources", "licenses"]
    assert [part.name for part in schema.field("messages").type.value_type] == ["role", "content"]


def test_calls_without_ids_have_no_field_for_them(tmp_path: Path) -> None:
    turns = [{**calling("{}"), "tool_calls": [call("f", "{}")]}]
    files, _ = export(tmp_path / "a", frame([tool_record(answered(*turns))]))
    [result_row] = load(files)[0]["messages"][1]["tool_calls"]
    assert result_row == {"type": "function", "function": {"name": "f", "arguments": {}}}


def test_a_last_turn_of_calls_alone_is_an_answer(tmp_path: Path) -> None:
    rows = frame(
        [
            tool_record(answered(calling('{"a": 1}'))),
            tool_record(answered({"role": "assistant", "content": " ", "reasoning": "Hm."})),
        ]
    )
    _, result = export(tmp_path / "a", rows)
    reasons = dict(zip(rows["id"], result["drop_reason"], strict=True))
    assert reasons[tool_record(answered(calling('{"a": 1}')))["id"]] is None
    assert sorted(map(str, reasons.values())) == ["None", "no_answer"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
ARGUMENTS = (
    st.none()
    | st.text(max_size=12)
    | JSON_VALUES.map(json.dumps)
    | JSON_VALUES.map(json.dumps).map(json.dumps)
    | st.sampled_from(
        [
            *("", " ", "{", "01", "1.", "tru", "NaN", '"a', '"\t"', "[1,]"),
            *('{"n": 1' + "0" * 30 + "}", "[" * 1500 + "]" * 1500),
            *('{"a": 1} and more', "a = 1", '"a = 1"'),
        ]
    )
)


@example(['""'], None)
@given(st.lists(ARGUMENTS, min_size=1, max_size=6), ARGUMENTS)
def test_whatever_stands_in_arguments_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str | None], tools: str | None
) -> None:
    """`datasets` decodes every row; a shard read for training renders as the records do."""
    folder = tmp_path_factory.mktemp("shards")
    rows = frame([tool_record(answered(calling(text)), tools) for text in arguments])
    ctx = Context.scratch(folder)
    parquet(ctx, rows)
    [file] = (ctx.files / "data").iterdir()
    table = pq.read_table(file)
    from datasets import Dataset

    decoded = Dataset(table)[:]["messages"]
    assert len(decoded) == len(rows)
    again = read_shards([file])
    assert again["id"].to_list() == rows["id"].to_list()
    for before, after in zip(rows["messages"], again["messages"], strict=True):
        shown = [template_messages(turns.to_list()) for turns in (before, after)]
        if not _is_too_large(before[1]["tool_calls"][0]["arguments"]):
            assert shown[0] == shown[1]


def _is_too_large(text: str | None) -> bool:
    """Whether arguments are JSON to Python and not to `datasets`, which has texts for them."""
    from pandas.io.json import ujson_loads

    try:
        json.loads(text or "{}")
    except (ValueError, RecursionError):
        return False
    try:
        ujson_loads(text or "{}")
    except ValueError:
        return True
    return False


def test_what_is_no_json_is_a_text_to_datasets(tmp_path: Path) -> None:
    texts = ["a = 1", '{"n": 1' + "0" * 30 + "}", '{"a": 1}', None, '"a = 1"']
    rows = frame([tool_record(answered(calling(text), calling(text))) for text in texts])
    files, _ = export(tmp_path / "a", rows)
    got = [row["messages"][1]["tool_calls"][0]["function"]["arguments"] for row in load(files)]
    assert sorted(map(str, got)) == sorted(["a = 1", texts[1], "{'a': 1}", "{}", "a = 1"])


def test_training_reads_tool_rows_of_several_shards(tmp_path: Path) -> None:
    rows = frame(
        [tool_record(CONVERSATION, TOOLS), record("Why?", "So."), tool_record(CONVERSATION)]
    )
    files, _ = export(tmp_path / "a", rows, rows_per_shard=1)
    again = read_shards(sorted((files / "data").iterdir()))
    tok, template = tokenizer_for(LanguageModel(model=str(TINYLM)))
    assert encode(tok, template, again).equals(encode(tok, template, rows))


def test_glaive_goes_through(tmp_path: Path, shared: Path) -> None:
    published = json_lines(shared / "chat/glaive_toolcall_en_demo.json.gz")
    rows = frame(glaive_record(row) for row in published)
    files, result = export(tmp_path / "a", rows)
    loaded = load(files)
    assert len(loaded) == result["drop_reason"].null_count() > 250
    kept = {row["id"]: row for row in rows.iter_rows(named=True)}
    for row in loaded:
        record_ = kept[row["id"]]
        assert row["tools"] == template_tools(record_["tools"])
        assert plain(row["messages"]) == [
            {k: v for k, v in turn.items() if v or k == "role"}
            for turn in template_messages(record_["messages"])
        ]
