"""The rows of the stage: conversations with what is known of their task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

from schemas.turns import lists_of
from stages._common.verdicts import evidence_json
from stages.load._rows.frame import conversations_frame
from stages.load._rows.output import SURROGATE, TOO_DEEP, OutputRow, extra_json
from stages.load.tasks.rendering import Drop, Rendered, Row

ADDS: Final[Mapping[str, Any]] = {
    "task": pl.String(),
    "template": pl.String(),
    "format": pl.String(),
    "options": pl.List(pl.String()),
    "answer": pl.String(),
    "cluster": pl.String(),
    "num_shots": pl.Int32(),
}
SPLIT: Final = {"split": pl.String()}
FEEDBACK: Final = {"feedback": pl.Float64()}
_LICENSE: Final = {"task_license": pl.String()}
_COLUMNS: Final = {**ADDS, **SPLIT, **FEEDBACK, **_LICENSE}
_CONVERSATION: Final = 11
"""How many values of a row are those of `conversations_frame`."""

_ERROR: Final = 5
"""Where among them the error stands."""


class Place(NamedTuple):
    """Where a row stands, and whose it is.

    Attributes:
        task: Its task.
        cluster: The task's cluster.
        license: The task's own license.
        file: The name of the file.
        line: The line, from 1.
    """

    task: str
    cluster: str
    license: str | None
    file: str
    line: int


def kept_row(result: Rendered, row: Row, place: Place, split: str) -> OutputRow:
    """The output row of an instruction; a failed one where it holds what is no text.

    Args:
        result: The instruction.
        row: What it was made of; it stays in `extra`.
        place: Where that stands.
        split: Where the instruction belongs.
    """
    try:
        extra = extra_json(row)
        size = sum(map(_size, (extra, result.prompt, result.target)))
    except UnicodeEncodeError:
        return failed_row(SURROGATE, place)
    except RecursionError:
        return failed_row(TOO_DEEP, place)
    turns = [("user", result.prompt), ("assistant", result.target)]
    return (
        turns, None, None, extra, None, None, None, None, None, None, size,
        place.task, result.template, result.format, result.options, result.answer,
        place.cluster, result.num_shots, split, result.feedback, place.license,
    )  # fmt: skip


def _size(text: str) -> int:
    """The bytes of a text.

    Raises:
        UnicodeEncodeError: It holds a lone surrogate.
    """
    return len(text) if text.isascii() else len(text.encode())


def dropped_row(drop: Drop, place: Place) -> OutputRow:
    """The output row of a row that is dropped.

    Args:
        drop: Why.
        place: Where it stands.
    """
    details = (
        {"task": place.task, "template": drop.template} if drop.template else {"task": place.task}
    )
    evidence = {**details, "file": place.file, "line": place.line, **drop.details}
    return (
        *[None] * 8, drop.reason, evidence_json(evidence), 0,
        place.task, drop.template or None, None, None, None, place.cluster, *[None] * 4,
    )  # fmt: skip


def failed_row(error: str, place: Place) -> OutputRow:
    """The output row of a row that cannot be read.

    Args:
        error: Why.
        place: Where it stands.
    """
    return (
        *[None] * 5, error, place.file, place.line, None, None, 0,
        place.task, None, None, None, None, place.cluster, *[None] * 4,
    )  # fmt: skip


def is_failed(row: OutputRow) -> bool:
    """Whether an output row is one that cannot be read."""
    return row[_ERROR] is not None


def build(batch: list[OutputRow]) -> pl.DataFrame:
    """A batch of rows as columns.

    Args:
        batch: The rows, which are used up.
    """
    about = [row[_CONVERSATION:] for row in batch]
    frame = conversations_frame([row[:_CONVERSATION] for row in batch])
    columns = zip(*about, strict=True) if about else [()] * len(_COLUMNS)
    series = [
        pl.Series(name, list(values), dtype=kind)
        for (name, kind), values in zip(_COLUMNS.items(), columns, strict=True)
    ]
    batch.clear()
    return frame.with_columns(series)


def size_of(row: OutputRow) -> int:
    """How many bytes of text a row holds."""
    return int(row[_CONVERSATION - 1])


def with_licenses(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows, whose origins have the licenses of their own tasks.

    Args:
        frame: Rows with `origins`, whose `index` is the number of a row.
    """
    own = frame["task_license"]
    frame = frame.drop("task_license")
    if own.null_count() == len(own):
        return frame
    lengths = frame["origins"].list.len()
    values = frame["origins"].drop_nulls().explode().struct.unnest()
    license_ = own.gather(values["index"]).alias("own")
    values = values.with_columns(license_).select(
        "source", "index", pl.coalesce("own", "license").alias("license")
    )
    return frame.with_columns(lists_of(values, lengths).alias("origins"))


class TemplateCounts:
    """How many rows each template gave and lost.

    Written as `templates.json`: an entry for each template with `task`, `template`, `file`,
    `line`, `rendered`, `dropped` (by reason) and `findings` of the linter.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}

    def add_template(self, task: str, name: str, file: str, line: int) -> None:
        """A template that may be used.

        Args:
            task: Whose.
            name: Its name.
            file: Its file.
            line: Its line.
        """
        self._entries[task, name] = {
            "task": task, "template": name, "file": file, "line": line,
            "rendered": 0, "dropped": {}, "findings": [],
        }  # fmt: skip

    def add_finding(self, task: str, name: str, finding: str) -> None:
        """A fault of a template.

        Args:
            task: Whose.
            name: The template's name.
            finding: The fault.
        """
        self._entries[task, name]["findings"].append(finding)

    def count(self, task: str, result: Rendered | Drop) -> None:
        """What became of a row.

        Args:
            task: Whose.
            result: What the template made of it.
        """
        entry = self._entries.get((task, result.template))
        if entry is None:
            return
        if isinstance(result, Drop):
            dropped = entry["dropped"]
            dropped[result.reason] = dropped.get(result.reason, 0) + 1
        else:
            entry["rendered"] += 1

    def text(self) -> str:
        """All entries as JSON."""
        entries: Sequence[Mapping[str, Any]] = list(self._entries.values())
        return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
