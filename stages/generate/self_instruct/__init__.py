"""Self-Instruct and what was made of it: a model writes new tasks after a few human ones.

Presets, by the papers' names:

- `self-instruct`: Wang et al. 2022, arXiv:2212.10560. (1) Instructions, from prompts that
  list human and machine-written ones, less what is too like an earlier one; (2) is it
  classification? (3) instances: input first, or, where it is classification, label
  first, lest all inputs get the same label; (4) filters on the instances. The
  demonstrations of (2) and (3) are drawn from the seeds and not fixed in the prompts,
  so that seeds of another domain or language carry through all the steps.
- `alpaca`: Taori et al. 2023 (tatsu-lab/stanford_alpaca). Three seeds are shown, whole
  tasks with input and output are written up to number 20, all in one answer. What has not
  the fields of a task is dropped. The authors also forbid the end-of-text token, which no
  engine here does; they keep empty outputs, which are dropped here; and they end a
  list at any "20.", here only where a line begins.
- `unnatural`: Unnatural Instructions, Honovich et al. 2022, arXiv:2212.09689. Fifteen seeds
  in five triplets; after three the fourth is written with its input and the constraints
  on its output, which is then asked for greedily. Paraphrases are another stage's.
- `ensemble-instruct`: Lee et al. 2023, arXiv:2310.13961. Simple prompts for small models,
  tasks with an input and tasks without in a pipeline each (`inputs`); answers by others
  and the consensus are `generate.respond` and `select.response`.
- `lamini`: LaMini-LM, Wu et al. 2023, arXiv:2304.14402. Three seeds and three topics, 20
  instructions from a chat model, each answered.
- `self-guide`: Zhao et al. 2024, arXiv:2407.12874. Inputs for one task, then outputs, less
  noise and odd lengths. The seeds are examples of that task.
- `self-specialization`: Kang et al. 2023, arXiv:2310.00160. Instructions and inputs after
  the seeds of a domain; `generate.respond` answers them, `method: context`.
- `bioinstruct`: Tran et al. 2023, arXiv:2310.19975. As Alpaca, from three of the seeds of a
  domain, by a chat model.
- `alpacare`: Zhang et al. 2023, arXiv:2310.14558. The same with type, topic, view and
  difficulty of every task, which the seeds (made by clinicians) have in `extra`. Of two
  tasks too like each other the authors drop both, here the second is dropped.

Open models (Harnessing the Power of David against Goliath, Wang et al. 2023,
arXiv:2308.12711): any preset with `prompting: chat`, for models that follow a request
rather than continue a text.

A preset is a row of settings (`_presets.py`, where each number stands, and which of them
are ours). An option that a recipe gives wins over its preset; None, the default of these
options, is the preset's value:

inputs: seeds "with" an input, "without", or "any". domain: what the tasks are about.
    task: the one task of `self-guide`, by default the instruction of all its seeds.
topics_per_request: so many are drawn from `topics` and the lines of `topic_files`, by
    default from a list of ours.
demonstrations, machine_demonstrations: tasks in a prompt, and how many of them at most
    are the model's own. demonstration_sets: so many fixed sets in turn; 0 draws anew.
list_until: the number before which a list is stopped.
prompting: the prompt is a text to be continued, or a user's turn.
on_length: an answer that reached max_tokens is thrown away whole, as by the authors of
    Self-Instruct, or only its unfinished last item, as by Alpaca's.
capitalize: "sentence" also lower-cases the rest, as Self-Instruct does.
screen: whether the rules on instructions hold: `words` (the fewest and the most),
    `keywords`, ascii_start (of the first letter), no punctuation first, no "write a
    program". max_rouge_l: 1 lets everything pass that is not equal.
instances: few-shot "examples" (the seeds then need the field `is_classification`),
    "simple" ones, "turns" for a model that knows only chat, "answered", "written" with
    the task, or "none": the row ends with the user's turn.
classification_demonstrations: (yes, no). instance_demonstrations, instance_max_tokens:
    (input first, output first), or for tasks (with input, without).
length_deviations: inputs and outputs lie within so many standard deviations; 0: any.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import Columns, Edges, InputFiles, Records, stage
from stages._common.unused_options import refuse_idle
from stages._llm.rows import Rejection, Row, make_row, rows_to_frame, task_messages
from stages.generate._parsing.lists import Instance
from stages.generate.self_instruct.bootstrap import Bootstrap
from stages.generate.self_instruct.filters import drop_noise, drop_odd_lengths
from stages.generate.self_instruct.instances import Answering
from stages.generate.self_instruct.presets import (
    OPTIONS,
    Capitalize,
    Inputs,
    Instances,
    OnLength,
    Preset,
    Prompting,
    Settings,
    settings,
)
from stages.generate.self_instruct.tasks import Seed, Task, seeds_of
from stages.generate.taxonomy.axes import TOPICS

ADDS: Final = {"journal": pl.List(pl.String), "nearest_rouge_l": pl.Float64}
_log = logging.getLogger(__name__)


def _chosen(options: SimpleNamespace) -> Settings:
    return settings(options.preset, {name: getattr(options, name) for name in OPTIONS})


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    return added(_chosen(options))


def added(chosen: Settings) -> dict[str, Any]:
    """The columns that a preset adds."""
    topics = {"topics": pl.List(pl.String)} if chosen.topics_per_request else {}
    return {**ADDS, **{_column(name): pl.String() for name in chosen.attributes}, **topics}


def _column(attribute: str) -> str:
    return attribute if attribute in ("constraints", "topics") else f"task_{attribute}"


def _check(options: SimpleNamespace) -> None:
    chosen = _chosen(options)
    if not 0 <= chosen.machine_demonstrations <= chosen.demonstrations:
        raise UserError(
            f"machine_demonstrations is {chosen.machine_demonstrations}",
            why=f"they are among the {chosen.demonstrations} demonstrations of a prompt",
        )
    if chosen.last <= chosen.demonstrations + 1:
        raise UserError(
            f"list_until is {chosen.last}, which leaves no number to be written",
            why=f"{chosen.demonstrations} demonstrations are shown, and the list stops there",
            hint=f"list_until: {chosen.demonstrations + 8}",
        )
    if options.preset == "ensemble-instruct" and chosen.inputs == "any":
        raise UserError(
            "ensemble-instruct has a pipeline for tasks with an input and one for those without",
            hint="two stages, one with inputs: with, one with inputs: without",
        )
    whole = bool(chosen.fields)
    fit = {"none", "answered", *(("written",) if "output" in chosen.fields else ())}
    fit |= set() if whole else {"examples", "simple", "turns"}
    if chosen.instances not in fit:
        raise UserError(
            f"instances: {chosen.instances} does not go with the preset {options.preset}",
            why="what is written at once decides what is left to be written",
            hint=f"one of {', '.join(sorted(fit))}",
        )
    if not options.topic_files:
        _topics(options.topics, (), chosen.topics_per_request)
    by_kind = chosen.instances == "examples"
    refuse_idle(
        *(self_instruct, options),
        (chosen.topics_per_request > 0, "topics_per_request", "topics topic_files"),
        (chosen.fields == ("input",), "the preset self-guide", "task"),
        (chosen.prompt in ("tasks/domain", "tasks/alpacare"), "presets of a domain", "domain"),
        (by_kind, "instances: examples", "classification_demonstrations"),
        (chosen.screen, "screen: true", "words keywords ascii_start"),
    )


@stage(
    version=2,
    scope="set",
    reads=["messages", "input_start", "extra"],
    adds=_adds,
    check=_check,
)
def self_instruct(
    ctx: Context,
    seeds: Records,
    *,
    model: LanguageModel,
    count: int,
    preset: Preset = "self-instruct",
    max_requests: int = 1000,
    requests_per_round: int = 5,
    seed: int = 0,
    domain: str | None = None,
    task: str | None = None,
    inputs: Inputs | None = None,
    topics: tuple[str, ...] = (),
    topic_files: InputFiles = (),
    topics_per_request: int | None = None,
    prompting: Prompting | None = None,
    demonstrations: int | None = None,
    machine_demonstrations: int | None = None,
    demonstration_sets: int | None = None,
    list_until: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    presence_penalty: float | None = None,
    max_tokens: int | None = None,
    on_length: OnLength | None = None,
    capitalize: Capitalize | None = None,
    screen: bool | None = None,
    words: tuple[int, int] | None = None,
    keywords: tuple[str, ...] | None = None,
    ascii_start: bool | None = None,
    max_rouge_l: float | None = None,
    instances: Instances | None = None,
    classification_demonstrations: tuple[int, int] = (12, 19),
    instance_demonstrations: tuple[int, int] | None = None,
    instance_temperature: float | None = None,
    instance_presence_penalty: float | None = None,
    instance_max_tokens: tuple[int, int] | None = None,
    max_instances: int | None = None,
    length_deviations: float | None = None,
    source: str = "self_instruct",
    license: str = "unspecified",
) -> Records:
    """New records from a model: a line per instance, and one per refused task.

    Adds `journal` (keys of all completions that the row was read from), `nearest_rouge_l`
    (its instruction's highest ROUGE-L F1 with the seeds and the instructions accepted
    before) and what the preset asks for: `constraints`, `topics`, `task_type`,
    `task_topic`, `task_view`, `task_difficulty`. `parents` are the seeds in its prompt.

    count: tasks to accept. It ends with the round that reaches it, or after max_requests
        lists; the log then says what the others fell to. requests_per_round: lists that
        are asked for before what they bring can be shown.
    license: of what the model writes, which only the user can know.
    The other options stand above, with the presets.
    """
    options = SimpleNamespace(**locals())
    chosen = _chosen(options)
    humans = _humans(seeds, chosen, task)
    engine = ctx.open(model)
    drawn = _topics(topics, topic_files, chosen.topics_per_request)
    limits = count, max_requests, requests_per_round, seed
    bootstrap = Bootstrap(chosen, *limits, drawn, humans[0].instruction)
    tasks = bootstrap.tasks(ctx, engine, humans)
    accepted = [one for one in tasks if one.active]
    _tell_shortage(tasks, len(accepted), count)
    Answering(chosen, seed, classification_demonstrations).instances(engine, accepted, humans)
    _screen(accepted, chosen)
    columns = added(chosen)
    return rows_to_frame(list(_lines(tasks, license, columns)), source, columns)


def _humans(rows: pl.DataFrame, chosen: Settings, task: str | None) -> list[Seed]:
    """The seeds that the preset can show. Raises UserError where they do not do."""
    one_task = chosen.fields == ("input",)
    seeds = seeds_of(rows, one_task)
    if chosen.inputs != "any":
        seeds = [s for s in seeds if s.instances and bool(s.input) == (chosen.inputs == "with")]
    if chosen.fields:
        seeds = [s for s in seeds if s.instances or "output" not in chosen.fields]
    needed = chosen.demonstrations * max(1, chosen.demonstration_sets)
    if len(seeds) < max(1, needed):
        raise UserError(
            f"the seeds hold {len(seeds)} instructions",
            why=f"the prompts show {needed} of them",
            hint=f"demonstrations: {len(seeds)}, or more seeds",
        )
    if one_task:
        return _of_one_task(seeds, task)
    lacking = [a for a in chosen.attributes if a != "constraints" and not _have(seeds, a)]
    if lacking:
        raise UserError(
            f"the seeds do not say their {', '.join(lacking)}",
            why="the model is to write it after their example; it is read from `extra`",
            hint="seeds with these fields",
        )
    if chosen.instances == "examples" and {True, False} - {s.is_classification for s in seeds}:
        raise UserError(
            "the seeds do not show both what is classification and what is not",
            why="their field `is_classification` gives the demonstrations for that question",
            hint="seeds with that field, or instances: turns",
        )
    return seeds


def _have(seeds: Sequence[Seed], attribute: str) -> bool:
    return all(seed.fields.get(attribute) not in (None, "") for seed in seeds)


def _of_one_task(seeds: Sequence[Seed], task: str | None) -> list[Seed]:
    """Examples of one task, under the instruction that is given for it or that they share."""
    instructions = {seed.instruction for seed in seeds}
    if task is None and len(instructions) > 1:
        raise UserError(
            f"the seeds are examples of {len(instructions)} tasks",
            why="this preset writes inputs for one",
            hint="task: what is to be done with an input",
        )
    return [replace(seed, instruction=task or seed.instruction) for seed in seeds]


def _topics(topics: tuple[str, ...], files: Sequence[str], needed: int) -> tuple[str, ...]:
    """Topics as they are given, and one from each line of the files; ours without either."""
    lines = [line for file in files for line in Path(file).read_text("utf-8").splitlines()]
    found = (*topics, *(line.strip() for line in lines if line.strip())) or TOPICS
    if len(found) < needed:
        raise UserError(
            f"topics_per_request: {needed} of {len(found)} topics",
            hint="more topics, or fewer for each request",
        )
    return found


def _screen(tasks: Sequence[Task], chosen: Settings) -> None:
    if chosen.clean:
        drop_noise(tasks)
    if chosen.length_deviations:
        drop_odd_lengths(tasks, chosen.length_deviations)


def _tell_shortage(tasks: Sequence[Task], accepted: int, count: int) -> None:
    if accepted < count:
        reasons = Counter(task.rejection[0] for task in tasks if task.rejection)
        reasons["failed"] = sum(task.error is not None for task in tasks)
        told = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common() if number)
        _log.warning(
            "self_instruct: %d of %d instructions accepted after max_requests; the others: %s",
            *(accepted, count, told or "none were proposed"),
        )


def _lines(tasks: Sequence[Task], license: str, columns: Mapping[str, Any]) -> Iterator[Row]:
    """What became of every task, in the order in which they were proposed."""
    rows: dict[str, str] = {}
    """The first row of each accepted task, by the task's key: twins are named by it."""
    for task in tasks:
        extra: dict[str, Any] = {"request": task.request}
        if task.mean is not None:
            nearest = [{"id": rows.get(key, key), "rouge_l": score} for key, score in task.scores]
            extra |= {"mean_rouge_l": task.mean, "most_similar": nearest}
        if task.is_classification is not None:
            extra["is_classification"] = task.is_classification
        given = Instance(task.input, str(task.given.get("output", "")))
        told = task.instances or [(given, _named(task.rejection, rows))]
        own = {_column(name): value or None for name, value in task.given.items()}
        added_here: dict[str, Any] = {n: own.get(n) for n in columns if n not in ADDS}
        for position, (instance, rejection) in enumerate(told):
            number = {"instance": position} if task.instances else {}
            one = make_row(
                *task_messages(task.instruction, *instance),
                license=license,
                parents=task.parents,
                extra=extra | number,
                rejection=rejection,
                error=task.error,
                journal=task.journal,
                nearest_rouge_l=task.scores[0][1] if task.scores else None,
                **added_here,
            )
            rows.setdefault(task.key, one["id"])
            yield one


def _named(rejection: Rejection | None, rows: Mapping[str, str]) -> Rejection | None:
    """The rejection with its twin named by the row that came of it."""
    if rejection is None or "twin" not in rejection[1]:
        return rejection
    reason, evidence = rejection
    return reason, evidence | {"twin": rows.get(evidence["twin"], evidence["twin"])}
