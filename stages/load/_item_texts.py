"""The texts of a row of an evaluation set: which columns hold them, and how cells are read.

Evaluation sets have no common schema. The columns of public ones, of conversations and of
this project's own files are known by name; of other rows the user says which columns are
texts. Nothing is guessed from the values: an id or a flag is a text too, and whoever
searches for these finds no leak.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.records import ITEM_COLUMNS

CONVERSATIONS: Final = ("messages", "conversations", "conversation")
"""Columns that hold all of a row's texts; the first of them that a row has is read alone."""

QUESTIONS: Final = frozenset({
    "complete_prompt", "ctx", "goal", "input", "inputs", "input_sentence", "instruct_prompt",
    "instruction", "premise", "problem", "problem_statement", "prompt", "query", "question",
    "question_content", "question_stem", "sentence", "stem", "text", "turns",
})  # fmt: skip
"""Columns of public evaluation sets that ask something; a row without one is not known."""

OTHERS: Final = frozenset({
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j",
    "answer", "answers", "best_answer", "correct_answer", "correct_answers", "incorrect_answer",
    "incorrect_answers", "instances", "mc_answer", "distractor", "choices", "options", "option",
    "endings", "sol", "canonical_solution", "solution", "solutions", "code", "output", "outputs",
    "response", "completion", "target", "targets", "reference", "references",
    "reference_answer", "hypothesis", "article", "body", "context", "flores_passage",
    "passage", "story", "support", "explanation",
})  # fmt: skip
"""Columns that are texts of an item beside a question: passages, choices and answers."""

NESTED: Final = frozenset(
    {*CONVERSATIONS, "turns", "choices", "options", "endings", "instances", "texts"}
)
"""Columns of a table whose cells may be JSON."""

_SILENT: Final = frozenset({"system", "developer", "tool", "function", "observation"})
"""Roles of turns that are no part of the item: many sets share one system prompt."""

_PLAIN: Final = ("content", "value", "text")
_NAMED: Final = ("stem", "choices", "question", "input", "output")


def layout(row: Mapping[str, Any]) -> dict[str, tuple[str, ...]] | None:
    """The columns of a row that are texts, each under its own name; None if none is known.

    Numbers behind a name do not count (`sol1`), nor do case and spaces (`Correct Answer`).

    Args:
        row: A row of a file.

    >>> layout({"id": 7, "Question": "Why?", "Incorrect Answer 1": "So."})
    {'Question': ('Question',), 'Incorrect Answer 1': ('Incorrect Answer 1',)}
    >>> layout({"id": 7, "flag": "yes"}) is None
    True
    """
    if is_item(row):
        return {"texts": ("texts",)}
    for name in CONVERSATIONS:
        if row.get(name):
            return {name: (name,)}
    names = {column: _normalized(column) for column in row}
    if QUESTIONS.isdisjoint(names.values()):
        return None
    return {column: (column,) for column, name in names.items() if name in QUESTIONS | OTHERS}


def is_item(row: Mapping[str, Any]) -> bool:
    """Whether a row is an evaluation item as `cat -o` writes it."""
    return row.keys() >= ITEM_COLUMNS.keys()


def _normalized(column: str) -> str:
    return re.sub(r"[\W\d_]+$", "", re.sub(r"[\W_]+", "_", column.lower()))


def texts_of(
    row: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str]]:
    """The texts of a row by name, the n-th of a list as `name_n`; empty ones are left out.

    Of an object its `content`, `value` or `text` is read, a multiple-choice question's
    `stem` and `choices`, and a task's `input` and `output`; system prompts and the results
    of tools are no texts of an item.

    Args:
        row: A row of a file.
        columns: The columns of each text by the text's name; several are joined, one a line.

    >>> turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    >>> list(texts_of({"messages": turns}, {"messages": ("messages",)}))
    [('messages_2', 'Why?')]
    """
    for name, sources in columns.items():
        values = [row[column] for column in sources if row.get(column) is not None]
        if len(sources) > 1:
            values = ["\n".join(map(str, values))]
        for value in values:
            yield from _texts(name, value)


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value:
        yield name, value
    elif isinstance(value, list):
        for number, part in enumerate(value, 1):
            yield from _texts(f"{name}_{number}", part)
    elif isinstance(value, dict):
        if value.keys() == {"name", "text"}:  # a text of an item as `cat -o` writes it
            yield from _texts(str(value["name"]), value["text"])
        elif str(value.get("role", value.get("from"))) not in _SILENT:
            for key in _PLAIN:
                yield from _texts(name, value.get(key))
            for key in _NAMED:
                yield from _texts(f"{name}_{key}", value.get(key))
