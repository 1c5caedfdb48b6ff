"""A prompt of one's own: what is shown, what is read from the answers, and what becomes of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.plan import plan
from pipeline.models import Completion, LanguageModel, Request
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from schemas.records import RECORD_COLUMNS
from stages.generate.column import column
from stages.generate.column.fields import parse_field
from stages.generate.column.outputs import Json, Label, Structured
from tests.support.rows import conversations, documents
from tests.support.running import artifact, run
from tests.support.scripted import Answer, Scripted, ScriptedContext, scripted
from tests.support.tool_rows import CONVERSATION, tool_record

MODEL = LanguageModel(model="none")
ROWS = conversations([("Name a river.", "The Rhine."), ("Name a hill.", "Hawk Hill.")])
FIELDS = {"difficulty": "int 1..5", "reason": "str", "tags": "list[str]", "level": ["easy", "hard"]}
GOOD = {"difficulty": 3, "reason": "why", "tags": ["a"], "level": "easy"}


def always(text: str, reason: str = "stop") -> Callable[[str], Answer]:
    return lambda _: (text, reason)


def prompts(ctx: ScriptedContext) -> list[str]:
    return [request.prompt[-1][1] for call in ctx.engine.calls for request in call]  # type: ignore[misc]


def shown(ctx: Context, rows: pl.DataFrame, prompt: str, **options: Any) -> list[str]:
    """The prompts that a template makes."""
    context = scripted(ctx, always("answer"))
    column(context, rows, model=MODEL, prompt=prompt, **options)
    return prompts(context)


def test_the_prompt_shows_columns_and_parts_of_the_conversation(ctx: Context) -> None:
    rows = ROWS.with_columns(pl.Series("tone", ["dry", "{{ 7 * 7 }}"]))
    texts = shown(ctx, rows, "{{ tone }}: {{ instruction }} -> {{ response }}")
    answers = dict(zip(rows["id"], rows["messages"].to_list(), strict=True))
    expected = [
        f"{tone}: {turns[0]['content']} -> {turns[1]['content']}"
        for tone, turns in zip(rows["tone"], answers.values(), strict=True)
    ]
    assert texts == expected


def test_a_column_goes_before_a_part_of_the_same_name(ctx: Context) -> None:
    rows = ROWS.with_columns(pl.lit("mine to show").alias("instruction"))
    assert {*shown(ctx, rows, "{{ instruction }}")} == {"mine to show"}


def test_tools_reasoning_and_empty_turns_are_shown(ctx: Context) -> None:
    empty = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    records = [tool_record(CONVERSATION, '[{"name": "get_weather"}]'), tool_record(empty)]
    rows = pl.DataFrame(records, schema=RECORD_COLUMNS)
    template = "<{{ system }}|{{ response }}|{{ reasoning }}>\n{{ conversation }}"
    full, bare = shown(ctx, rows, template, view="all")
    assert "I need the forecast." in full
    assert "get_weather\nplace: Skerryvore" in full
    assert '[{"name": "get_weather"}]' in full
    assert bare == "<||>\nUser:\n\n\nAssistant:\n"
    messages = "{% for m in messages %}{{ m.role }}={{ m.text }};{% endfor %}"
    assert shown(ctx, rows, messages)[1] == "user=;assistant=;"


def test_a_long_row_is_shown_whole(ctx: Context) -> None:
    text = "word {{ 7 * 7 }} " * 3200
    (prompt,) = shown(ctx, conversations([("Read this.", text)]), "{{ response }}")
    assert prompt == text


def test_a_null_drops_its_row_and_nothing_is_sent_for_it(ctx: Context) -> None:
    rows = ROWS.with_columns(pl.Series("topic", [None, "hills"]))
    context = scripted(ctx, always("answer"))
    result = column(context, rows, model=MODEL, prompt="About {{ topic }}")
    assert result["drop_reason"].to_list() == ["null_value", None]
    assert json.loads(result["evidence"][0]) == {"name": "topic"}
    assert prompts(context) == ["About hills"]
    assert len(shown(ctx, rows, "About {{ topic or 'anything' }}")) == 2


def test_a_blank_prompt_is_not_sent(ctx: Context) -> None:
    result = column(
        scripted(ctx, always("x")), ROWS, model=MODEL, prompt="{% if false %}x{% endif %}"
    )
    assert result["drop_reason"].to_list() == ["no_prompt"] * 2


def test_a_template_that_fails_names_the_row(ctx: Context) -> None:
    with pytest.raises(UserError, match="the user prompt must be a template that renders"):
        shown(ctx, ROWS, "{{ 1 / 0 }}")


def test_text_is_stored_without_a_preamble_and_its_journal_beside_it(ctx: Context) -> None:
    context = scripted(ctx, always("Sure! Here is the summary:\n\nIt flows."))
    result = column(context, ROWS, model=MODEL, prompt="{{ response }}", column="summary")
    assert result["summary"].to_list() == ["It flows."] * 2
    assert [len(keys) for keys in result["summary_journal"]] == [1, 1]


@pytest.mark.parametrize(
    ("text", "reason", "drop"),
    [("", "stop", "unreadable"), ("It fl", "length", "unreadable")],
)
def test_what_is_no_answer_drops_its_row(ctx: Context, text: str, reason: str, drop: str) -> None:
    result = column(scripted(ctx, always(text, reason)), ROWS, model=MODEL, prompt="Go")
    assert result["drop_reason"].to_list() == [drop] * 2
    assert result["generation"].to_list() == [None, None]


def test_a_request_that_fails_fails_its_row(ctx: Context) -> None:
    result = column(scripted(ctx, always("no server", "error")), ROWS, model=MODEL, prompt="Go")
    assert result["error"].to_list() == ["no server"] * 2
    assert result["drop_reason"].to_list() == [None, None]


def test_fields_become_columns_of_their_types(ctx: Context) -> None:
    output = Structured(fields=FIELDS)
    text = f"Here it is:\n```json\n{json.dumps({**GOOD, 'more': 1, 'difficulty': 3.0})}\n```"
    context = scripted(ctx, always(text))
    result = column(context, ROWS, model=MODEL, prompt="Rate {{ response }}", output=output)
    assert result.select(*FIELDS).row(0, named=True) == GOOD
    assert result.schema["difficulty"] == pl.Int64
    (request, _) = context.engine.calls[0]
    schema = json.loads(request.decoding.json_schema or "")
    assert schema["additionalProperties"] is False
    assert schema["required"] == [*FIELDS]
    assert '- "difficulty": an integer from 1 to 5' in prompts(context)[0]


@pytest.mark.parametrize(
    "answer",
    [
        {**GOOD, "difficulty": 6},
        {**GOOD, "difficulty": "3"},
        {**GOOD, "level": "medium"},
        {**GOOD, "tags": "a"},
        {**GOOD, "tags": [None]},
        {name: value for name, value in GOOD.items() if name != "reason"},
        {**GOOD, "reason": "\ud800"},
        {**GOOD, "difficulty": True},
        ["3"],
    ],
)
def test_an_answer_of_another_form_is_shown_for_a_repair_and_dropped(
    ctx: Context, answer: Any
) -> None:
    context = scripted(ctx, always(json.dumps(answer)))
    result = column(context, ROWS[:1], model=MODEL, prompt="Go", output=Structured(fields=FIELDS))
    assert result["drop_reason"].item() == "unreadable"
    assert result.select(*FIELDS).row(0) == (None,) * 4
    assert len(prompts(context)) == 2
    assert result["generation_journal"].list.len().item() == 2


@pytest.mark.parametrize("number", ["1e999", "123456789012345678901234567890"])
def test_numbers_that_no_column_holds_are_unreadable(ctx: Context, number: str) -> None:
    output = Structured(fields={"n": "float", "m": "int"})
    context = scripted(ctx, always(f'{{"n": {number}, "m": {number}}}'))
    result = column(context, ROWS, model=MODEL, prompt="Go", output=output)
    assert result["drop_reason"].to_list() == ["unreadable"] * 2


def test_null_is_read_where_a_field_allows_it(ctx: Context) -> None:
    output = Structured(fields={"year": "int | null"})
    context = scripted(ctx, always('{"year": null}'))
    result = column(context, ROWS, model=MODEL, prompt="Go", output=output)
    assert result["year"].to_list() == [None, None]
    assert result["drop_reason"].to_list() == [None, None]


def test_labels_and_json(ctx: Context) -> None:
    label = Label(labels=("good", "bad"))
    result = column(scripted(ctx, always("**Bad.**")), ROWS, model=MODEL, prompt="Go", output=label)
    assert result["generation"].to_list() == ["bad", "bad"]
    output = Json(json_schema={"type": "array", "items": {"type": "string"}})
    context = scripted(ctx, always('["é", "b"]'))
    result = column(context, ROWS, model=MODEL, prompt="Go", output=output)
    assert result["generation"].to_list() == ['["é", "b"]'] * 2
    assert shown(ctx, ROWS, "Go", output=replace(label, show_form=False))[:2] == ["Go", "Go"]


def test_several_samples_are_lists_with_a_null_for_an_unreadable_one(ctx: Context) -> None:
    class Numbered(Scripted):
        def _answer(self, request: Request) -> Completion:
            answer = super()._answer(request)
            texts = ["zero", "", "two"]
            return replace(answer, text=texts[request.sample], reasoning=f"r{request.sample}")

    context = scripted(ctx, always(""))
    context.engine = Numbered(always(""))
    result = column(context, ROWS, model=MODEL, prompt="Go", num_samples=3, keep_reasoning=True)
    assert result["generation"].to_list() == [["zero", None, "two"]] * 2
    assert result["generation_reasoning"].to_list() == [["r0", "r1", "r2"]] * 2
    assert result["generation_journal"].list.len().to_list() == [3, 3]


def test_rows_with_equal_prompts_are_sampled_by_themselves(ctx: Context) -> None:
    seeds = {}
    for temperature in (0.0, 0.7):
        context = scripted(ctx, always("x"))
        column(context, ROWS, model=MODEL, prompt="Say it", temperature=temperature)
        seeds[temperature] = len({request.seed for request in context.engine.calls[0]})
    assert seeds == {0.0: 1, 0.7: 2}


def test_few_shot_rows_are_drawn_by_the_row_and_never_the_row_itself(ctx: Context) -> None:
    rows = conversations([(f"Name river {n}.", f"River {n}") for n in range(12)])
    template = "{% for e in examples %}[{{ e.response }}]{% endfor %} not [{{ response }}]?"

    def drawn(part: pl.DataFrame, **options: Any) -> dict[str, str]:
        texts = shown(ctx, part, template, examples=rows, **options)
        return dict(zip(part["id"], texts, strict=True))

    whole = drawn(rows, num_examples=3)
    for text in whole.values():
        examples, own = text.removesuffix("?").split(" not ")
        assert examples.count("[") == 3
        assert own not in examples
    assert drawn(rows[3:5].reverse(), num_examples=3) == {
        id_: whole[id_] for id_ in rows["id"][3:5]
    }
    assert drawn(rows, num_examples=3, seed=1) != whole
    assert all(text.count("[") == 12 for text in drawn(rows, num_examples=50).values())


def test_the_order_of_rows_does_not_matter(ctx: Context) -> None:
    def answered(rows: pl.DataFrame) -> pl.DataFrame:
        context = scripted(ctx, lambda text: (text[::-1], "stop"))
        return column(context, rows, model=MODEL, prompt="{{ response }}")

    assert_frame_equal(answered(ROWS), answered(ROWS.reverse()).reverse())


def test_documents_can_be_prompted(ctx: Context) -> None:
    assert shown(ctx, documents(["A whale breathes."]), "Sum up: {{ text }}") == [
        "Sum up: A whale breathes."
    ]


def test_a_prompt_of_a_file(ctx: Context, tmp_path: Path) -> None:
    file = tmp_path / "prompt.jinja"
    file.write_text("About {{ response }}\n")
    context = scripted(ctx, always("x"))
    column(context, ROWS, model=MODEL, prompt_file=(str(file),), system="Be {{ input }}brief.")
    assert {request.prompt[0] for request in context.engine.calls[0]} == {("system", "Be brief.")}
    assert prompts(context)[0].startswith("About ")
    assert not prompts(context)[0].endswith("\n")


def recipe(options: dict[str, Any], needs: Any = "pool") -> Recipe:
    load = {"path": "data/samples/user_oriented_252.jsonl", "source": "s", "license": "MIT"}
    stages = {
        "pool": {"uses": "load.records", "with": load},
        "few": {"uses": "select.random", "needs": "pool", "with": {"budget": 3}},
        "own": {"uses": "generate.column", "needs": needs, "with": {"model": "m", **options}},
    }
    return Recipe.of("own", stages, {"m": {"model": "data/models/tinylm"}})


STRUCTURED = {"name": "structured"}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"prompt": "{{ instructon }}"}, "did you mean 'instruction'"),
        ({"prompt": "{{ language }}"}, "tag.surface adds it"),
        ({"prompt": "Go", "system": "{{ tone }}"}, "system must name columns"),
        ({"prompt": "{{ oops"}, "prompt must be a Jinja template"),
        ({}, "got neither"),
        ({"prompt": "{{ examples }}"}, "got none"),
        (
            {"prompt": "Go", "output": {**STRUCTURED, "fields": {"a": "integer"}}},
            "a must be a type",
        ),
        ({"prompt": "Go", "output": {**STRUCTURED, "fields": {"a": "int 5..1"}}}, "low to high"),
        ({"prompt": "Go", "output": {"name": "json", "json_schema": {"type": 1}}}, "JSON schema"),
        ({"prompt": "Go", "output": {"name": "label", "labels": ["a", "a"]}}, "name each once"),
    ],
)
def test_mistakes_are_reported_before_anything_is_sent(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        recipe(options)


def test_examples_that_are_not_shown_are_a_mistake() -> None:
    with pytest.raises(UserError, match="must show the examples"):
        recipe({"prompt": "Go"}, {"rows": "pool", "examples": "pool"})


@pytest.mark.parametrize(
    "raw",
    ["", "integer", "int 1..", "str 1..3", "int 1.5..2", "list[list[str]]", [], ["a", 1], 3],
)
def test_what_is_no_field_is_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match="a must be a type such as"):
        parse_field("a", raw)


def test_a_described_field_tells_the_model_more() -> None:
    field = parse_field("a", {"type": "float 0..1 | null", "description": "how hard"})
    assert field.words == "how hard: a number from 0 to 1, or null where there is none"
    assert field.dtype == pl.Float64


def test_its_requests_are_planned_and_sent_once(tmp_path: Path) -> None:
    output = {"name": "label", "labels": ["easy", "hard"]}
    own = recipe({"prompt": "Rate {{ instruction }}", "output": output}, "few")
    run(own, tmp_path)
    labelled = artifact(own, tmp_path, "own").read("kept")
    assert {*labelled["generation"]} <= {"easy", "hard"}
    assert {step.state for step in plan(own, Store(tmp_path))} == {"cached"}
