"""Dynosaur: labelled data sets become instructions.

Dynosaur: A Dynamic Growth Paradigm for Instruction-Tuning Data Curation (Yin et al. 2023,
arXiv:2305.14327; WadeYin9712/Dynosaur). A model reads a data set's name, description and
fields, and proposes tasks: an instruction, the input fields and the output field. The rows of
the data set then fill the tasks; no model writes an answer, so a row costs nothing.

As in the paper: one prompt shows the description and one does not, for more different tasks.
As in the authors' code: two demonstrations of a data set with its tasks, two rows with values
of at most 1,000 characters, up to three tasks, temperature 0; dropped are unreadable
proposals, no output field, fields that do not exist, an output field that is an input field
too, an instruction that the data set has already, and tasks whose output is a label with one
value only, or with one too frequent: more than 70% of two values, 50% of more (at most ten).
Labels of at most 15 characters each are listed in the instruction.

Ours: the demonstrations and the wording; 1,024 tokens of answer in the place of 256; labels
are counted over all rows in the place of the first hundred, and only where some occurs twice;
an instruction counts as repeated whatever its case, and across both prompts; up to 100 rows
fill a task, drawn at random; lists and objects are written as JSON, where the authors leave
the task out; fields whose name holds "id" are shown too; no value is cut to 2,000 characters;
inputs read "field: value" on a line each.
The paper's choice of tasks to replay is `select.diverse`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.models.structured_output import Unreadable, json_value
from pipeline.stage import InputFiles, Records, stage
from pipeline.types import Count, Fraction, NonEmpty, NonNegativeFloat, NonNegativeInt
from stages._llm.drafts import (
    Draft,
    Prompt,
    RowMessages,
    expand,
    filter_drafts,
    generate_field,
    to_frame,
    user,
)
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
_EXAMPLE_CHARACTERS: Final = 1000
"""Characters of a value that a prompt shows."""

_EXAMPLE_ROWS: Final = 2

_LISTED_LABEL_CHARACTERS: Final = 15
"""Labels are listed in the instruction if none is longer."""


def input_files(options: SimpleNamespace) -> list[Path]:
    """The tables that the cards name; they are part of the stage's fingerprint."""
    return [table_of(Path(card)) for card in options.cards]


def _check(options: SimpleNamespace) -> None:
    """Check that the tables exist.

    Raises:
        OptionError: A table is missing.
        UserError: A card cannot be read.
    """
    missing = [str(path) for path in input_files(options) if not path.is_file()]
    if missing:
        raise OptionError("cards", f"must name tables that exist, got {', '.join(missing)}")


@stage(version=3, scope="set", adds=ADDS, check=_check, later=("max_label_shares",))
def from_metadata(
    ctx: Context,
    *,
    model: LanguageModel,
    cards: InputFiles,
    num_tasks: Count = 3,
    descriptions: Annotated[tuple[Literal["with", "without"], ...], NonEmpty] = ("with", "without"),
    max_instances: Count = 100,
    max_labels: NonNegativeInt = 10,
    max_label_shares: tuple[Fraction, Fraction] = (0.7, 0.5),
    seed: int = 0,
    temperature: NonNegativeFloat = 0.0,
    top_p: Fraction = 1.0,
    max_tokens: Count = 1024,
    source: str = "from_metadata",
) -> Records:
    """New records from the rows of data sets, and a dropped row for every refused task.

    The license is the card's, `extra` holds the row's number in the table. Added columns:
    `journal`, `data_set`, `input_fields` and `output_field`.

    Dropped rows: `tasks_cut`, `tasks_unparsed`, `no_output_field`, `unknown_field`,
    `field_given_and_asked`, `repeated_instruction`, `no_instruction`, `unbalanced_labels`; of
    instances `empty_output` and `duplicate`.

    Example:
        A recipe, with a card as in `dataset_cards`:

        ```yaml
        tasks:
          uses: generate.from_metadata
          with: {model: teacher, cards: cards/*.yaml, max_instances: 50}
        ```

    Args:
        model: Proposes the tasks.
        cards: YAML or JSON files with name, description, license and rows (the table).
        num_tasks: Largest number of tasks of a completion.
        descriptions: Whether the card's description is shown; one request for each value.
            Both are the paper's.
        max_instances: Size of the random sample of rows that fill a task.
        max_labels: An output field with at most as many distinct values, some of them more
            than once, is a label: a task with it is dropped where one label is too frequent, and
            its instruction lists short ones; 0 for never.
        max_label_shares: The largest part of the rows that one label may have: of two labels,
            and of more.
        seed: Of sampling and of requests.
        temperature: Of sampling.
        top_p: Nucleus of sampling.
        max_tokens: Limit of a completion.
        source: The source of the rows.
    """
    decoding = Decoding(max_tokens, temperature, top_p)
    generate = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
    tables = {card: read_table(table_of(Path(card))) for card in cards}
    drafts = _requests(tables, descriptions, num_tasks, seed)
    generate(drafts, "tasks", _prompt, parse=proposals)
    drafts = expand(drafts, lambda d: d["tasks"][:num_tasks])
    seen: set[tuple[str, str]] = set()
    filter_drafts(drafts, lambda draft: _rejection(draft, tables[draft["card"]].columns, seen))
    count = _LabelCounts(tables, max_labels)
    filter_drafts(drafts, lambda draft: _imbalance(count(draft), max_label_shares))
    drafts = expand(drafts, lambda d: _instances(d, tables[d["card"]], max_instances, seed))
    filter_drafts(drafts, lambda d: None if d["output"] else ("empty_output", {"row": d["row"]}))
    for draft in drafts:
        if draft.active:
            _list_labels(draft, count(draft))
    for draft in drafts:
        draft.notes |= {n: draft.fields[n] for n in ("row",) if n in draft.fields}
    return to_frame(drafts, _messages, source, ADDS)


def _messages(draft: Draft) -> RowMessages:
    fields = (str(draft.fields.get(name) or "") for name in ("instruction", "input", "output"))
    return task_messages(*fields)


def _requests(
    tables: Mapping[str, pl.DataFrame], descriptions: Sequence[str], num_tasks: int, seed: int
) -> list[Draft]:
    """A draft for each card, with and without its description."""
    return [
        _request(card, tables[card], description == "with", num_tasks, seed)
        for card in sorted(tables)
        for description in dict.fromkeys(descriptions)
    ]


def _request(
    path: str, rows: pl.DataFrame, with_description: bool, num_tasks: int, seed: int
) -> Draft:
    """What the model reads of a data set, with random rows as examples."""
    card = read_card(Path(path))
    if rows.is_empty():
        raise UserError("the table must have rows, got none", where=str(table_of(Path(path))))
    rng = random.Random(f"{seed} example {card.name}")
    positions = sorted(rng.sample(range(len(rows)), min(_EXAMPLE_ROWS, len(rows))))
    examples = [
        [(name, _text(value)[:_EXAMPLE_CHARACTERS]) for name, value in row.items()]
        for row in (rows.row(position, named=True) for position in positions)
    ]
    fields = {
        "card": path,
        "name": card.name,
        "data_set": card.name,
        "description": card.description if with_description else None,
        "examples": examples,
        "count": num_tasks,
    }
    return Draft((), fields, card.license)


def _prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("tasks", **draft.fields))


def proposals(text: str) -> list[dict[str, Any]] | None:
    """The tasks in a completion; None where it holds no JSON objects.

    What an object lacks is left empty and rejected by name later.

    Example:
        >>> proposals('[{"instruction": "Add.", "input_fields": "a", "output_field": "sum"}]')
        [{'instruction': 'Add.', 'input_fields': ['a'], 'output_field': 'sum'}]
    """
    try:
        value = json_value(text)
    except Unreadable:
        return None
    tasks = value if isinstance(value, list) else [value]
    return [
        {
            "instruction": _text(task.get("instruction")).strip(),
            "input_fields": [_text(name) for name in _as_list(task.get("input_fields"))],
            "output_field": _text(task.get("output_field")).strip(),
        }
        for task in tasks
        if isinstance(task, dict)
    ] or None


def _as_list(value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _rejection(
    draft: Draft, columns: Sequence[str], seen: set[tuple[str, str]]
) -> Rejection | None:
    """The first of the paper's filters that refuses a task.

    Args:
        draft: The task.
        columns: Of the data set.
        seen: Card and instruction of the tasks so far; updated.
    """
    output, inputs = draft["output_field"], draft["input_fields"]
    key = draft["card"], " ".join(draft["instruction"].casefold().split())
    unknown = [name for name in (output, *inputs) if name not in columns]
    if not draft["instruction"]:
        return "no_instruction", {}
    if not output:
        return "no_output_field", {}
    if unknown:
        return "unknown_field", {"field": unknown[0], "fields": list(columns)}
    if output in inputs:
        return "field_given_and_asked", {"field": output}
    if key in seen:
        return "repeated_instruction", {"instruction": draft["instruction"]}
    seen.add(key)
    return None


def _instances(
    draft: Draft, rows: pl.DataFrame, max_instances: int, seed: int
) -> list[dict[str, Any]]:
    """Input and output of a random sample of rows, by which a task is filled."""
    rng = random.Random(f"{seed} rows {draft['data_set']} {draft['instruction']}")
    positions = sorted(rng.sample(range(len(rows)), min(max_instances, len(rows))))
    inputs, output = draft["input_fields"], draft["output_field"]
    instances = []
    for position in positions:
        row = rows.row(position, named=True)
        text = "\n".join(f"{name}: {_text(row[name])}" for name in inputs)
        instances.append({"row": position, "input": text, "output": _text(row[output]).strip()})
    return instances


class _LabelCounts:
    """How often each label of an output field occurs, by data set and field.

    Args:
        tables: The rows by card.
        max_labels: The largest number of distinct values of a label.
    """

    def __init__(self, tables: Mapping[str, pl.DataFrame], max_labels: int) -> None:
        self.tables, self.max_labels = tables, max_labels
        self.counts: dict[tuple[str, str], Counter[str]] = {}

    def __call__(self, draft: Draft) -> Counter[str]:
        """The counts for a task's output; empty where it is no label."""
        key = card, field = draft["card"], draft["output_field"]
        if key not in self.counts:
            texts = (_text(value).strip() for value in self.tables[card][field])
            counts = Counter(text for text in texts if text)
            is_label = len(counts) <= self.max_labels and counts.total() > len(counts)
            self.counts[key] = counts if is_label else Counter()
        return self.counts[key]


def _imbalance(counts: Counter[str], shares: tuple[float, float]) -> Rejection | None:
    """A label that is too frequent, or the only one.

    >>> _imbalance(Counter(yes=8, no=2), (0.7, 0.5))
    ('unbalanced_labels', {'label': 'yes', 'share': 0.8})
    >>> _imbalance(Counter(yes=7, no=3), (0.7, 0.5)) is None
    True
    """
    if not counts:
        return None
    [(label, number)] = counts.most_common(1)
    share = number / counts.total()
    if len(counts) > 1 and share <= shares[len(counts) > 2]:
        return None
    return "unbalanced_labels", {"label": label, "share": round(share, 4)}


def _list_labels(draft: Draft, counts: Counter[str]) -> None:
    """Append the labels to the instruction where all are short."""
    if counts and max(map(len, counts)) <= _LISTED_LABEL_CHARACTERS:
        listed = ", ".join(sorted(counts))
        draft.fields["instruction"] = f"{draft['instruction']} The answer is one of: {listed}."


def _text(value: Any) -> str:
    """Texts as they are, None as an empty text, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)
