"""What Self-Instruct works on: human seed tasks, and the tasks that a model writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from schemas.records import input_text, instruction, record_id, response
from stages._llm.rows import Rejection, task_messages
from stages.generate._parsing.lists import Instance


@dataclass(frozen=True)
class Seed:
    """A human task with its instances. `id` is that of the first record that holds it.

    is_classification is None where the source does not say. fields: the source's own,
    such as a task's constraints, topic or difficulty.
    """

    id: str
    instruction: str
    is_classification: bool | None
    instances: tuple[Instance, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        return len(self.instruction) + sum(len(i.input) + len(i.output) for i in self.instances)

    @property
    def input(self) -> str:
        """The first instance's input, by which Ensemble-Instruct tells two kinds of tasks apart."""
        return self.instances[0].input if self.instances else ""


@dataclass
class Task:
    """An instruction that a model wrote, and what became of it.

    request: the number of the request that it was written in. journal: keys of all
    completions that anything of it was read from. parents: ids of the seeds shown.
    given: what was written together with the instruction (an input, an output, ...), and
    the topics that were asked for.
    scores: ROUGE-L with the most similar earlier instructions, by key, and its mean
    over all of them. rejection and error say why there is no more to come.
    """

    request: int
    instruction: str
    journal: list[str]
    parents: tuple[str, ...]
    given: dict[str, Any] = field(default_factory=dict)
    rejection: Rejection | None = None
    error: str | None = None
    scores: list[tuple[str, float]] = field(default_factory=list)
    mean: float | None = None
    is_classification: bool | None = None
    instances: list[tuple[Instance, Rejection | None]] = field(default_factory=list)

    @property
    def input(self) -> str:
        """The input that was written together with the instruction."""
        return str(self.given.get("input", ""))

    @property
    def key(self) -> str:
        """The id of the conversation that is the instruction alone, or with its given input."""
        return record_id(task_messages(self.instruction, self.input)[0])

    @property
    def active(self) -> bool:
        return self.rejection is None and self.error is None


def seeds_of(rows: pl.DataFrame, one_task: bool = False) -> list[Seed]:
    """The seed tasks in records: records of one instruction are instances of one task.

    one_task: the records are examples of a single task, each a seed by itself.

    rows: `id`, `messages`, `input_start` and `extra`, whose field `is_classification`
    is read, with those that a preset shows. Tasks stand in the order of their first record.
    """
    columns = rows.select("id", "extra", instruction(), input_text(), response())
    found: dict[str, Seed] = {}
    for id_, extra, text, given, answer in columns.iter_rows():
        if not (text or "").strip():
            continue
        own = json.loads(extra) if extra else {}
        key = id_ if one_task else text
        seed = found.get(key) or Seed(id_, text, own.get("is_classification"), (), own)
        instances = (*seed.instances, Instance(given, answer)) if answer else seed.instances
        found[key] = replace(seed, instances=instances)
    return list(found.values())
