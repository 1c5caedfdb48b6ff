"""No stage overlooks what stands beside `content`: calls, reasoning, tools, results of tools.

Two inputs that differ in one of these alone give two outcomes, at every stage that reads
messages and for every kind of difference, or the stage stands in `UNAFFECTED` with the reason.
"""

from __future__ import annotations

import json
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl
import pytest

from pipeline.recipe.discovery import available, find
from pipeline.stage import ALL, DataKind, Stage
from schemas.records import RECORD_COLUMNS
from tests.support.examples import ExampleContext, example_of
from tests.support.rows import exam

Difference = Literal["calls", "reasoning", "tools", "results"]
DIFFERENCES: Final[tuple[Difference, ...]] = ("calls", "reasoning", "tools", "results")

SECRET: Final = (
    "The lighthouse keeper of Skerryvore counted seventeen herring gulls before breakfast "
    "and wrote each of their names into a green ledger that nobody else has ever opened"
)

_NEW: Final = "it makes new conversations of the texts of an instruction and its answer"
_TRAINED: Final = "it trains for long; what a trainer sees is tested in tests/stages/train"
_PROMPTS: Final = "it groups rows by their prompts, and the answers are what it chooses among"
_ANSWERS: Final = "rows that have tools are dropped, and what is before the last request is kept"

_TEMPLATE: Final = "its template names what is shown; what each name shows is tested there"
_FIELDS: Final = "it looks at instructions, prompts and responses, or at all turns (`field`)"
_COUNTED: Final = "it measures what is said and counts the rest; tag.tools counts these"
_PLANTED: Final = "the text holds no secret; tests/stages/_privacy plants one in every field"
_HELD: Final = "it compares prompts, and turns for long runs of words"

UNAFFECTED: Final[dict[str, tuple[tuple[Difference, ...], str]]] = {
    "generate.backtranslate": (DIFFERENCES, _NEW),
    "generate.column": (DIFFERENCES, _TEMPLATE),
    "score.column": (("reasoning", "tools", "results"), _TEMPLATE),
    "generate.magpie": (DIFFERENCES, "its example continues no rows; test_magpie.py does"),
    "generate.self_instruct": (DIFFERENCES, _NEW),
    "generate.system_prompt": (DIFFERENCES, _NEW),
    "generate.taxonomy": (DIFFERENCES, _NEW),
    "generate.respond": (("calls", "reasoning", "results"), _ANSWERS),
    "rewrite.evolve": (("reasoning", "results"), _ANSWERS),
    "dedup.semantic": (DIFFERENCES, "it compares vectors, and of texts the numbers alone"),
    "dedup.novelty": (("tools", "results"), _FIELDS),
    "embed.text": (("tools", "results"), "its template names what is embedded"),
    "evaluate.constraints": (
        DIFFERENCES,
        "it checks the content of answers, where rows ask for it",
    ),
    "evaluate.robustness": (DIFFERENCES, "its example compares scores; it asks about texts alone"),
    "evaluate.judge": (("calls", "reasoning"), "a judge sees no reasoning by default"),
    "report.audit": (DIFFERENCES, "it measures what answers say to people"),
    "score.heuristics": (("tools", "results"), _COUNTED),
    "tag.surface": (("results",), "it tags what user and assistant say"),
    "select.except": (("tools",), _HELD),
    "select.response": (("calls", "reasoning"), _PROMPTS),
    "generate.pairs": (
        ("calls", "reasoning", "results"),
        "a prompt with one answer, as here, makes no pair; the fields of pairs are tested in "
        "tests/stages/generate/test_pairs.py",
    ),
    "report.ablation": (DIFFERENCES, _TRAINED),
    "mix.online": (DIFFERENCES, _TRAINED),
    "report.novelty": (DIFFERENCES, "it samples for long; it reads what the template renders"),
    "score.agreement": (
        ("reasoning", "results"),
        "it compares what was answered, and nobody is asked about rows with tools",
    ),
    "score.learned": (DIFFERENCES, "it reads vectors and columns, and of turns the prompt alone"),
    "score.execution": (DIFFERENCES, "it runs or compares what an answer says"),
    "tag.intent": (DIFFERENCES, "it looks at the first thing that a user says"),
    "tag.secrets": (DIFFERENCES, _PLANTED),
    "rewrite.redact": (DIFFERENCES, _PLANTED),
    "tag.tools": (("reasoning", "results"), "it counts calls and results and reads no texts"),
    "tag.refusal": (DIFFERENCES, "it looks at what an assistant says to people"),
    "tag.reasoning": (("calls", "tools", "results"), "it reads reasoning and answers alone"),
    "train.sft": (DIFFERENCES, _TRAINED),
    "train.preference": (DIFFERENCES, _TRAINED),
    "train.autoencoder": (DIFFERENCES, _TRAINED),
}
"""Stages whose outcome is the same for some differences, with the reason."""


SLOW: Final = ("embed.gradients", "score.one_shot")
"""Stages that pass each row through a model several times."""


def _reading() -> list[Any]:
    names: list[Any] = []
    for name in available():
        stage = find(name)
        edge = stage.edges[0] if stage.edges else None
        if edge is None or edge.kind is not DataKind.RECORDS:
            continue
        reads = stage.reads(edge.name, example_of(stage).options)
        if reads != ALL and "messages" in reads:
            names.append(pytest.param(name, marks=[pytest.mark.proof] * (name in SLOW)))
    return names


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("name", _reading())
def test_a_difference_changes_the_outcome(
    name: str, difference: Difference, tmp_path: Path
) -> None:
    if difference in UNAFFECTED.get(name, ((), ""))[0]:
        return
    stage = find(name)
    plain = _outcome(stage, _rows(stage, difference, ""), tmp_path / "plain")
    other = _outcome(stage, _rows(stage, difference, SECRET), tmp_path / "other")
    assert plain != other


def test_the_list_names_stages_that_exist() -> None:
    assert set(UNAFFECTED) <= {*available(), "train.preference"}


def _rows(stage: Stage, difference: Difference, text: str) -> pl.DataFrame:
    """Pairs of rows of equal messages, of which the second has the text in one field."""
    rows = example_of(stage).inputs()[stage.edges[0].name][:6]
    records = []
    for number, row in enumerate(rows.iter_rows(named=True)):
        user, answer = (dict(turn) for turn in (row["messages"][0], row["messages"][-1]))
        row["messages"] = [user, answer]
        if difference == "results":
            call = {"id": "1", "name": "look_up", "arguments": "{}"}
            before = {"role": "assistant", "content": None, "tool_calls": [call]}
            result = {"role": "tool", "content": "done", "tool_call_id": "1"}
            row["messages"] = [user, before, result, answer]
        records += [row, _with(row, difference, text, f"{number:032d}")]
    columns = {**rows.schema, **{n: t for n, t in RECORD_COLUMNS.items() if n in rows.columns}}
    return pl.DataFrame(records, schema=columns).sort("id")


def _with(row: dict[str, Any], difference: Difference, text: str, id_: str) -> dict[str, Any]:
    changed = json.loads(json.dumps(row)) | {"id": id_}
    if not text:
        return changed
    last = changed["messages"][-1]
    match difference:
        case "calls":
            arguments = json.dumps({"text": text})
            last["tool_calls"] = [{"id": "1", "name": "note", "arguments": arguments}]
        case "reasoning":
            last["reasoning"] = text
        case "tools":
            function = {"name": "note", "description": text}
            changed["tools"] = json.dumps([{"type": "function", "function": function}])
        case "results":
            changed["messages"][-2]["content"] = text
    return changed


def _outcome(stage: Stage, rows: pl.DataFrame, folder: Path) -> Any:
    """What a stage gives: its rows, its files and the requests that it sends."""
    example = example_of(stage)
    inputs = example.inputs()
    for edge in stage.edges:
        if edge.kind is DataKind.ITEMS:
            inputs[edge.name] = exam("secret", [{"question": SECRET}])
        elif edge.name == "except":  # what is left out holds the text in a plain turn
            inputs[edge.name] = _holding(SECRET, inputs[edge.name])
    first = stage.edges[0]
    context = ExampleContext.of(folder)
    options = _seeing_all(example.options)
    reads = stage.reads(first.name, options)
    # What it does not read it would not get.
    seen = rows.select("id", *(c for c in rows.columns if c in reads and c != "id"))
    inputs[first.name] = [seen] if first.many else seen
    result = stage.call(context, inputs, vars(options))
    files = {
        path.relative_to(context.files).as_posix(): path.read_bytes()
        for path in sorted(context.files.rglob("*"))
        if path.is_file()
    }
    table = result.write_json() if isinstance(result, pl.DataFrame) else None
    return table, files, [request.prompt for request in context.engine.requests]


def _seeing_all(options: SimpleNamespace) -> SimpleNamespace:
    """The options, with the widest view and the most of a row compared."""
    wide = {"view": "all", "field": "conversation", "turns": "all"}
    changed = dict(vars(options))
    for name, value in wide.items():
        if name in changed:
            changed[name] = value
    method = changed.get("method")
    if is_dataclass(method) and not isinstance(method, type):
        field = "response" if getattr(method, "name", "") == "rouge_l" else "conversation"
        options = {"view": "all", "field": field, "turns": "all", "coverage": 0.1}
        here = {name: value for name, value in options.items() if hasattr(method, name)}
        changed["method"] = replace(method, **here)
    return SimpleNamespace(**changed)


def _holding(text: str, rows: pl.DataFrame) -> pl.DataFrame:
    """One of the rows, whose only turn is a text."""
    (row,) = rows[:1].to_dicts()
    row["messages"] = [{"role": "user", "content": text}]
    columns = {**rows.schema, **{n: t for n, t in RECORD_COLUMNS.items() if n in rows.columns}}
    return pl.DataFrame([row], schema=columns)
