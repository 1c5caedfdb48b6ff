"""Self-Instruct and its successors: a model writes new tasks after a few human ones.

`method` names the published form and holds its numbers (see `methods.py`): self-instruct,
alpaca, unnatural, ensemble-instruct, lamini, self-guide, self-specialization, bioinstruct,
alpacare. Every method first writes tasks (`bootstrap.py`): prompts show human tasks, and for
some methods generated ones, and what is too similar to an earlier task is dropped. Then each
accepted task gets its instances, that is, inputs with outputs (`instances.py`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import Columns, Edges, InputFiles, Records, stage
from pipeline.types import Count
from stages._common.listed_files import lines_of
from stages._llm.rows import Rejection, Row, make_row, rows_to_frame, task_messages
from stages.generate._parsing.lists import Instance
from stages.generate._user_turn import check_template
from stages.generate.self_instruct.bootstrap import Bootstrap
from stages.generate.self_instruct.filters import drop_length_outliers, drop_noisy_texts
from stages.generate.self_instruct.instance_options import Answered, Examples, Turns
from stages.generate.self_instruct.instances import InstanceWriter
from stages.generate.self_instruct.methods import Method, SelfGuide, SelfInstruct
from stages.generate.self_instruct.tasks import Seed, Task, seeds_of
from stages.generate.taxonomy.axes import TOPICS

ADDS: Final = {"journal": pl.List(pl.String), "nearest_rouge_l": pl.Float64}
_log = logging.getLogger(__name__)


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    return added_columns(options.method)


def added_columns(method: Method) -> dict[str, Any]:
    """The columns that a method adds, with their types."""
    topics = {"topics": pl.List(pl.String)} if method.topics_per_request else {}
    return {**ADDS, **{_column(name): pl.String() for name in method.attributes}, **topics}


def _column(attribute: str) -> str:
    return attribute if attribute in ("constraints", "topics") else f"task_{attribute}"


def _check(options: SimpleNamespace) -> None:
    number = options.method.topics_per_request
    for name in ("topics", "topic_files"):
        value = getattr(options, name)
        if value and not number:
            raise OptionError(
                *(name, f"must be left out, got {list(value)}"),
                why=f"method {options.method.name} draws no topics",
                hint="method: {name: NAME, topics_per_request: 1}",
            )
    if options.keep_reasoning and not isinstance(options.method.instances, Answered | Turns):
        raise OptionError(
            *("keep_reasoning", f"must be left out for method {options.method.name}"),
            why="no completion is the answer alone",
            hint="instances: {name: answered} in the method, where it has that",
        )
    if isinstance(options.method.instances, Turns):
        check_template(options.model)
    if not options.topic_files:
        _topics(options.topics, (), number)


@stage(
    version=5,
    scope="set",
    reads=["messages", "input_start", "extra"],
    adds=_adds,
    check=_check,
    later=("keep_reasoning",),
)
def self_instruct(
    ctx: Context,
    seeds: Records,
    *,
    model: LanguageModel,
    num_rows: Count,
    method: Method = SelfInstruct(),
    max_requests: Count = 1000,
    requests_per_round: Count = 5,
    seed: int = 0,
    topics: tuple[str, ...] = (),
    topic_files: InputFiles = (),
    keep_reasoning: bool = False,
    source: str = "self_instruct",
    license: str = "unspecified",
) -> Records:
    """New records from a model: a row for each instance, and one for each rejected task.

    Adds `journal` (keys of all completions that the row was read from), `nearest_rouge_l`
    (its instruction's highest ROUGE-L F1 with the seeds and the instructions accepted
    before) and what the method writes besides: `constraints`, `topics`, `task_type`,
    `task_topic`, `task_view`, `task_difficulty`. `parents` are the seeds in its prompt.

    Args:
        seeds: Human tasks. Records of one instruction are instances of one task.
        model: Writes tasks and instances.
        num_rows: Tasks to accept; one with several instances becomes several rows. The
            stage ends with the round that reaches the number, or after `max_requests`; the
            log then says why the others were dropped.
        method: The published form, with its numbers; see `methods.py`.
        max_requests: Prompts for tasks to send at most.
        requests_per_round: Prompts that are sent before what they bring can be shown.
        seed: Seed of the choice of shots, topics and surplus instances, and of the sampling.
        topics: Topics to draw from where the method draws any.
        topic_files: Text files with more of them, one on each line. Without either, topics
            are drawn from a built-in list.
        keep_reasoning: Whether what the model reasoned before an answer becomes the answer's
            `reasoning`; for instances: answered or turns, which have a task answered by itself.
        source: Name of the new records' source.
        license: License of what the model writes, which only the user can know.

    Returns:
        The new records. Besides the instruction filter's reasons, rows are dropped as
        `not_novel`, `duplicate`, `repeats_demonstration`, `fields_missing`,
        `nothing_parsed`, `response_cut`, `unreadable` (whether a task is
        classification), `no_instances`, `instance_cut`, `empty_output`,
        `input_equals_output`, `ends_with_colon`, `conflicting_outputs`,
        `over_max_instances`, `noisy_text` and `length_outlier`.

    Raises:
        UserError: If the seeds do not hold what the method shows.

    Example:
        ```yaml
        invented:
          uses: generate.self_instruct
          needs: {seeds: seeds}
          with:
            model: writer
            num_rows: 14000
            max_requests: 60000
            method: {name: ensemble-instruct, inputs: with, num_shots: 6}
        ```
    """
    humans = _usable_seeds(seeds, method)
    _warn_of_missing_constraints(humans, method)
    engine = ctx.open(model)
    bootstrap = Bootstrap(
        *(method, num_rows, max_requests, requests_per_round, seed),
        topics=_topics(topics, topic_files, method.topics_per_request),
        task=humans[0].instruction,
    )
    tasks = bootstrap.tasks(ctx, engine, humans)
    accepted = [task for task in tasks if task.active]
    _warn_of_shortage(tasks, len(accepted), num_rows)
    writer = InstanceWriter(method.instances, method.inputs != "without", method.chat, seed)
    writer.write(engine, accepted, humans)
    if isinstance(method, SelfGuide):
        drop_noisy_texts(accepted)
        if method.max_length_deviations is not None:
            seen = humans if method.length_reference == "seeds" else None
            drop_length_outliers(accepted, method.max_length_deviations, seen)
    columns = added_columns(method)
    return rows_to_frame(list(_rows(tasks, license, columns, keep_reasoning)), source, columns)


def _usable_seeds(rows: pl.DataFrame, method: Method) -> list[Seed]:
    """The seeds that the method can show. Raises UserError where it cannot work with them."""
    one_task = isinstance(method, SelfGuide)
    seeds = seeds_of(rows, one_task)
    if method.inputs != "any":
        with_input = method.inputs == "with"
        seeds = [s for s in seeds if s.instances and bool(s.input) == with_input]
    if method.fields:
        seeds = [s for s in seeds if s.instances or "output" not in method.fields]
    needed = 1 if one_task else max(1, method.shots * getattr(method, "num_shot_sets", 1))
    if len(seeds) < needed:
        raise UserError(
            f"the seeds must hold at least {needed} usable instructions, got {len(seeds)}",
            why=f"the prompts show {needed} of them",
            hint=f"more seeds, or method: {{name: {method.name}, num_shots: {len(seeds)}}}",
        )
    if isinstance(method, SelfGuide):
        return _of_one_task(seeds, method.task)
    attributes = [name for name in method.attributes if name != "constraints"]
    missing = [name for name in attributes if not _all_have(seeds, name)]
    if missing:
        raise UserError(
            f"every seed must have {', '.join(missing)} in `extra`",
            why="the model writes these fields after the seeds' example",
            hint="seeds with these fields",
        )
    by_examples = isinstance(method.instances, Examples)
    if by_examples and {True, False} - {s.is_classification for s in seeds}:
        raise UserError(
            "the seeds must show both what is classification and what is not",
            why="their field `is_classification` gives the shots for that question",
            hint="seeds with that field, or instances: {name: turns} in the method",
        )
    return seeds


def _warn_of_missing_constraints(seeds: Sequence[Seed], method: Method) -> None:
    """Say so where the prompts show no constraints, so that the model will write none either."""
    if "constraints" not in method.attributes:
        return
    number = sum(bool(seed.fields.get("constraints")) for seed in seeds)
    if not number:
        _log.warning(
            "self_instruct: none of the %d seeds has constraints (a field `constraints` in their "
            "`extra`): the prompts show None in their place, and so will the new tasks; see "
            "data/seeds/unnatural_seed_tasks.jsonl",
            len(seeds),
        )


def _all_have(seeds: Sequence[Seed], attribute: str) -> bool:
    return all(seed.fields.get(attribute) not in (None, "") for seed in seeds)


def _of_one_task(seeds: Sequence[Seed], task: str | None) -> list[Seed]:
    """Examples of one task, under the task's instruction or the one that they share."""
    instructions = {seed.instruction for seed in seeds}
    if task is None and len(instructions) > 1:
        raise UserError(
            f"the seeds must be examples of one task, got {len(instructions)} tasks",
            why="this method writes inputs for one",
            hint="method: {name: self-guide, task: what is to be done with an input}",
        )
    return [replace(seed, instruction=task or seed.instruction) for seed in seeds]


def _topics(topics: tuple[str, ...], files: Sequence[str], number: int) -> tuple[str, ...]:
    """The topics of the option and of each line of the files; the built-in ones without either."""
    pool = (*topics, *lines_of(files)) or TOPICS
    if len(pool) < number:
        raise OptionError(
            "method.topics_per_request",
            f"must be at most {len(pool)}, the number of topics, got {number}",
            hint="more topics, or fewer for each request",
        )
    return pool


def _warn_of_shortage(tasks: Sequence[Task], accepted: int, num_rows: int) -> None:
    if accepted < num_rows:
        reasons = Counter(task.rejection[0] for task in tasks if task.rejection)
        reasons["failed"] = sum(task.error is not None for task in tasks)
        counts = [f"{reason} {number}" for reason, number in reasons.most_common() if number]
        _log.warning(
            "self_instruct: %d of %d instructions accepted after max_requests; the others: %s",
            *(accepted, num_rows, ", ".join(counts) or "none were proposed"),
        )


def _rows(
    tasks: Sequence[Task], license: str, columns: Mapping[str, Any], keep_reasoning: bool
) -> Iterator[Row]:
    """The outcome of every task, in the order in which they were proposed."""
    # The first row of each accepted task, by the task's key: duplicates refer to it.
    row_ids: dict[str, str] = {}
    for task in tasks:
        extra: dict[str, Any] = {"request": task.request}
        if task.mean is not None:
            nearest = [
                {"id": row_ids.get(key, key), "rouge_l": score} for key, score in task.scores
            ]
            extra |= {"mean_rouge_l": task.mean, "most_similar": nearest}
        if task.is_classification is not None:
            extra["is_classification"] = task.is_classification
        if task.fallback:
            extra["fallback"] = task.fallback
        written = Instance(task.input, str(task.fields.get("output", "")))
        instances = task.instances or [(written, _with_row_id(task.rejection, row_ids))]
        fields = {_column(name): value or None for name, value in task.fields.items()}
        added: dict[str, Any] = {n: fields.get(n) for n in columns if n not in ADDS}
        for position, (instance, rejection) in enumerate(instances):
            number = {"instance": position} if task.instances else {}
            messages, input_start = task_messages(task.instruction, *instance)
            if keep_reasoning and task.reasoning and instance.output:
                messages[-1]["reasoning"] = task.reasoning
            row = make_row(
                *(messages, input_start),
                license=license,
                parents=task.parents,
                extra=extra | number,
                rejection=rejection,
                error=task.error,
                journal=task.journal,
                nearest_rouge_l=task.scores[0][1] if task.scores else None,
                **added,
            )
            row_ids.setdefault(task.key, row["id"])
            yield row


def _with_row_id(rejection: Rejection | None, row_ids: Mapping[str, str]) -> Rejection | None:
    """The rejection with the task that it refers to named by the row that came of it."""
    if rejection is None or "duplicate_of" not in rejection[1]:
        return rejection
    reason, evidence = rejection
    key = evidence["duplicate_of"]
    return reason, evidence | {"duplicate_of": row_ids.get(key, key)}
