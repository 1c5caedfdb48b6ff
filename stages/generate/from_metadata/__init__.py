"""Instructions out of data set cards: labelled data becomes tasks without being rewritten.

Dynosaur (Yin et al. 2023, arXiv:2305.14327). A model reads a data set's name,
description and fields, and proposes tasks: an instruction, the fields that are
given, the one that is asked for. It is asked once with the description and once
without, for more different tasks. The rows then fill the tasks; no model writes an
answer, so a row costs nothing. Filters of the paper and its code: unreadable
proposals, no output field, fields that are not there, fields both given and asked
for, and an instruction that the data set has already.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.models.structured_output import Unreadable, json_value
from pipeline.stage import InputFiles, Records, stage
from stages._llm.drafts import Draft, RowMessages, expand, filter_drafts, generate_field, to_frame
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages.generate.from_metadata.dataset_cards import read_card, read_table, table_of

PROMPTS: Final = Prompts(__file__)

ADDS: Final = {
    "journal": pl.List(pl.String),
    "data_set": pl.String,
    "input_fields": pl.List(pl.String),
    "output_field": pl.String,
}
_SHOWN: Final = 300
"""Characters of a value that a prompt shows."""


def input_files(options: SimpleNamespace) -> list[Path]:
    """The tables that the cards name."""
    return [table_of(Path(card)) for card in options.cards]


def _check(options: SimpleNamespace) -> None:
    missing = [str(path) for path in input_files(options) if not path.is_file()]
    if missing:
        raise UserError("a card names a table that is not there", where=", ".join(missing))


@stage(version=1, scope="set", adds=ADDS, check=_check)
def from_metadata(
    ctx: Context,
    *,
    model: LanguageModel,
    cards: InputFiles,
    tasks: int = 3,
    descriptions: tuple[Literal["with", "without"], ...] = ("with", "without"),
    instances: int = 100,
    label_space: int = 10,
    seed: int = 0,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_tokens: int = 1024,
    source: str = "from_metadata",
) -> Records:
    """New records from the rows of data sets: a line per instance, and one per refused task.

    Adds `journal`, `data_set`, `input_fields` and `output_field`. The licence is the
    card's, `extra` says which row of the table it was.

    cards: YAML or JSON files with name, description, license and rows (the table).
    tasks: at most so many are asked for at a time. descriptions: whether the card's
        description is shown; both are the paper's.
    instances: at most so many rows fill a task, drawn by `seed`.
    label_space: an output field of at most so many different values is a label, and
        the instruction then ends with all of them (0: never).

    Dropped: `tasks_cut`, `tasks_unparsed`, `no_output_field`, `unknown_field`,
    `field_given_and_asked`, `repeated_instruction`, `no_instruction`; of instances
    `empty_output`, `duplicate`.
    """
    decoding = Decoding(max_tokens, temperature, top_p)
    ask = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
    tables = {card: read_table(table_of(Path(card))) for card in cards}
    drafts = _questions(tables, descriptions, tasks, seed)
    ask(drafts, "tasks", _asking, read=proposals)
    drafts = expand(drafts, lambda d: d["tasks"][:tasks])
    seen: set[tuple[str, str]] = set()
    filter_drafts(drafts, lambda draft: _rejection(draft, tables[draft["card"]].columns, seen))
    drafts = expand(drafts, lambda d: _instances(d, tables[d["card"]], instances, seed))
    filter_drafts(drafts, lambda d: None if d["output"] else ("empty_output", {"row": d["row"]}))
    _label(drafts, tables, label_space)
    for draft in drafts:
        draft.notes |= {n: draft.fields[n] for n in ("row",) if n in draft.fields}
    return to_frame(drafts, _talk, source, ADDS)


def _talk(draft: Draft) -> RowMessages:
    found = (str(draft.fields.get(name) or "") for name in ("instruction", "input", "output"))
    return task_messages(*found)


def _questions(
    tables: Mapping[str, pl.DataFrame], descriptions: Sequence[str], count: int, seed: int
) -> list[Draft]:
    """A draft for each card and each way to show it."""
    return [
        _question(card, tables[card], kind == "with", count, seed)
        for card in sorted(tables)
        for kind in dict.fromkeys(descriptions)
    ]


def _asking(draft: Draft) -> tuple[tuple[str, str], ...]:
    return (("user", PROMPTS.render("tasks", **draft.fields)),)


def _question(card: str, rows: pl.DataFrame, described: bool, count: int, seed: int) -> Draft:
    """What is asked about a data set, with one of its rows as the example."""
    about = read_card(Path(card))
    if rows.is_empty():
        raise UserError("the table has no rows", where=str(table_of(Path(card))))
    row = rows.row(random.Random(f"{seed} example {about.name}").randrange(len(rows)), named=True)
    fields = {
        "card": card,
        "name": about.name,
        "data_set": about.name,
        "description": about.description if described else None,
        "example": [(field, _text(value)[:_SHOWN]) for field, value in row.items()],
        "count": count,
    }
    return Draft((), fields, about.license)


def proposals(text: str) -> list[dict[str, Any]] | None:
    """The tasks of an answer; None where it holds no JSON objects.

    What an object lacks is left empty, and then rejected by name.
    """
    try:
        found = json_value(text)
    except Unreadable:
        return None
    listed = found if isinstance(found, list) else [found]
    tasks = [task for task in listed if isinstance(task, dict)]
    return [
        {
            "instruction": _text(task.get("instruction")).strip(),
            "input_fields": [_text(name) for name in _listed(task.get("input_fields"))],
            "output_field": _text(task.get("output_field")).strip(),
        }
        for task in tasks
    ] or None


def _listed(value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _rejection(
    draft: Draft, columns: Sequence[str], seen: set[tuple[str, str]]
) -> Rejection | None:
    """The first of the paper's filters that a task falls to."""
    asked, given = draft["output_field"], draft["input_fields"]
    key = draft["card"], " ".join(draft["instruction"].casefold().split())
    unknown = [name for name in (asked, *given) if name not in columns]
    if not draft["instruction"]:
        return "no_instruction", {}
    if not asked:
        return "no_output_field", {}
    if unknown:
        return "unknown_field", {"field": unknown[0], "fields": list(columns)}
    if asked in given:
        return "field_given_and_asked", {"field": asked}
    if key in seen:
        return "repeated_instruction", {"instruction": draft["instruction"]}
    seen.add(key)
    return None


def _instances(draft: Draft, rows: pl.DataFrame, most: int, seed: int) -> list[dict[str, Any]]:
    """The rows that fill a task, a random few: what is given, and what is to be answered."""
    draw = random.Random(f"{seed} rows {draft['data_set']} {draft['instruction']}")
    chosen = sorted(draw.sample(range(len(rows)), min(most, len(rows))))
    given, asked = draft["input_fields"], draft["output_field"]
    found = []
    for place in chosen:
        row = rows.row(place, named=True)
        lines = [f"{name}: {_text(row[name])}" for name in given]
        found.append({"row": place, "input": "\n".join(lines), "output": _text(row[asked]).strip()})
    return found


def _label(drafts: Sequence[Draft], tables: dict[str, pl.DataFrame], most: int) -> None:
    """Where the answer is one of few labels, say which they are."""
    labels: dict[tuple[str, str], list[str]] = {}
    for draft in drafts:
        if not draft.active:
            continue
        key = draft["card"], draft["output_field"]
        if key not in labels:
            values = tables[key[0]][key[1]]
            found = sorted({_text(value).strip() for value in values.unique()} - {""})
            labels[key] = found if 1 < len(found) <= most else []
        if labels[key]:
            told = ", ".join(labels[key])
            draft.fields["instruction"] = f"{draft['instruction']} The answer is one of: {told}."


def _text(value: Any) -> str:
    """A value as a text: texts as they are, nothing as nothing, all else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)
