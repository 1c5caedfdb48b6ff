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
    """A human task with its instances.

    Attributes:
        id: Id of the first record that holds the task.
        instruction: The instruction.
        is_classification: Whether it is classification; None where the source does not say.
        instances: Its inputs with their outputs.
        fields: The source's own fields, such as a task's constraints, topic or difficulty.
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
        """The first instance's input, by which Ensemble-Instruct has two kinds of tasks."""
        return self.instances[0].input if self.instances else ""


@dataclass
class Task:
    """An instruction that a model wrote, and the outcome for it.

    Attributes:
        request: Number of the request that it was written in.
        instruction: The instruction, or the unparsed text.
        journal: Keys of all completions that anything of it was read from.
        parents: Ids of the seeds shown.
        fields: What was written together with the instruction (an input, an output, ...),
            and the topics of the prompt.
        rejection: Why it is dropped.
        error: Why it failed.
        scores: ROUGE-L with the most similar earlier instructions, by key.
        mean: Mean ROUGE-L with all earlier instructions.
        is_classification: The model's answer to that question, where there was one.
        instances: Its instances, each with the reason why it is dropped.
        reasoning: What the model reasoned before an answer that is nothing else.
        fallback: What a fallback wrote of it, with its name.
    """

    request: int
    instruction: str
    journal: list[str]
    parents: tuple[str, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    rejection: Rejection | None = None
    error: str | None = None
    scores: list[tuple[str, float]] = field(default_factory=list)
    mean: float | None = None
    is_classification: bool | None = None
    instances: list[tuple[Instance, Rejection | None]] = field(default_factory=list)
    reasoning: str = ""
    fallback: dict[str, str] = field(default_factory=dict)

    @property
    def input(self) -> str:
        """The input that was written together with the instruction."""
        return str(self.fields.get("input", ""))

    @property
    def key(self) -> str:
        """The id of the conversation of the instruction, with its input where it has one."""
        return record_id(task_messages(self.instruction, self.input)[0])

    @property
    def active(self) -> bool:
        return self.rejection is None and self.error is None


def seeds_of(rows: pl.DataFrame, one_task: bool = False) -> list[Seed]:
    """The seed tasks in records: records of one instruction are instances of one task.

    Args:
        rows: `id`, `messages`, `input_start` and `extra`, whose field `is_classification`
            is read, with the fields that a method shows.
        one_task: The records are examples of a single task, each a seed by itself.

    Returns:
        The tasks, in the order of their first records.
    """
    columns = rows.select("id", "extra", instruction(), input_text(), response())
    seeds: dict[str, Seed] = {}
    for id_, extra, text, input, output in columns.iter_rows():
        if not (text or "").strip():
            continue
        source_fields = json.loads(extra) if extra else {}
        key = id_ if one_task else text
        is_classification = source_fields.get("is_classification")
        seed = seeds.get(key) or Seed(id_, text, is_classification, (), source_fields)
        instances = (*seed.instances, Instance(input, output)) if output else seed.instances
        seeds[key] = replace(seed, instances=instances)
    return list(seeds.values())
