r"""Chain-of-Instructions: tasks in a row, each of which works on what the one before it gives.

Hayati et al. 2024, "Chain-of-Instructions: Compositional Instruction Tuning on Large Language
Models" (arXiv:2402.11532).
- As in the paper: a language model shortens the instructions, says whether the output of one task
  can be the input of the next, and does the next one with it; the first input and output are the
  row's own. Two tasks, or with `num_tasks` three or more.
- As in the authors' data: instructions joined by "and then", each output under a header with the
  number of its task. Most of their rows write the second header without its space: reading takes
  both, writing puts the space.
- Ours: the wording; a next task is one of a row that has an input, drawn at random (the paper
  pairs tasks of Super-NaturalInstructions); what counts is the probability of yes, against
  `min_composable`; longer chains grow by a task at a time (the paper joins two chains of two that
  share a task).

Example:
    >>> text = join(["A boat.", "No irony."])
    >>> text
    'Task 1 output: A boat.\n\nTask 2 output: No irony.'
    >>> split(text.replace("Task 2", "Task2"))
    ['A boat.', 'No irony.']
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.models.base import Decoding, Engine
from pipeline.types import Count, Fraction, NonNegativeFloat, option_group
from stages._llm.drafts import (
    LABEL_TOKENS,
    Draft,
    Prompt,
    RowMessages,
    filter_drafts,
    generate_field,
    score_field,
    user,
)
from stages._llm.label_scores import MIN_MASS
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, joint_license, task_messages
from stages.compose._parts import Part

PROMPTS: Final = Prompts(__file__)

ADDS: Final[dict[str, Any]] = {
    "strategy": pl.String(),
    "composable": pl.Float64(),
    "tokens": pl.Int32(),
    "journal": pl.List(pl.String),
}

_HEADER: Final = re.compile(r"(?:\A|\s+)Task ?([0-9]+) output(?: and task ?[0-9]+ input)?: ?")


@option_group
class Chain:
    """Tasks that work on each other's outputs (Hayati et al. 2024, arXiv:2402.11532).

    Args:
        name: "chain".
        num_tasks: The tasks of a new row.
        num_candidates: How many tasks are tried as the next one of each; every one that fits
            makes a row.
        shorten: Whether instructions are shortened before.
        min_composable: The least probability that the next task can be done with the output.
        temperature: Of shortened instructions and outputs.
        answer_max_tokens: Limit of each in tokens.
        judge_max_tokens: Limit in tokens of the answer whether a task fits.
        min_mass: The least probability that yes and no together must have in that answer; with
            less it cannot be read.
    """

    name: Literal["chain"] = "chain"
    num_tasks: Annotated[int, Field(ge=2)] = 2
    num_candidates: Count = 1
    shorten: bool = True
    min_composable: Fraction = 0.5
    temperature: NonNegativeFloat = 0.0
    answer_max_tokens: Count = 1024
    judge_max_tokens: Count = LABEL_TOKENS
    min_mass: Fraction = MIN_MASS


def join(outputs: Sequence[str]) -> str:
    """The outputs of a chain as one answer.

    Args:
        outputs: One for each task, in order.
    """
    return "\n\n".join(f"Task {n} output: {text}" for n, text in enumerate(outputs, 1))


def split(text: str) -> list[str]:
    """The outputs that an answer holds; none where it is not that of a chain.

    Args:
        text: What `join` gives, or an answer of the authors' data.
    """
    headers = [*_HEADER.finditer(text)]
    if [int(header[1]) for header in headers] != [*range(1, len(headers) + 1)]:
        return []
    if not headers or headers[0].start():
        return []
    ends = [*(header.start() for header in headers[1:]), len(text)]
    return [text[header.end() : end] for header, end in zip(headers, ends, strict=True)]


def chains(parts: Sequence[Part], method: Chain, engine: Engine, seed: int) -> list[Draft]:
    """A draft for each chain that was tried, with its tasks as far as it came.

    Args:
        parts: The rows.
        method: The options.
        engine: The model that is asked.
        seed: Of the sampling and the choice of the next tasks.
    """
    decoding = Decoding(method.answer_max_tokens, method.temperature)
    write = partial(generate_field, engine, decoding=decoding, seed=seed)
    judge = partial(
        score_field,
        engine,
        seed=seed,
        min_mass=method.min_mass,
        max_tokens=method.judge_max_tokens,
    )
    tasks = {part.id: _task(part) for part in sorted(parts, key=lambda part: part.id)}
    if method.shorten:
        write([*tasks.values()], "instruction", _summary, parse=instruction_text)
    drafts = [_first(task) for task in tasks.values()]
    following = [id_ for id_, task in tasks.items() if task["part"].input]
    for number in range(2, method.num_tasks + 1):
        drafts = [
            child for draft in drafts for child in _next(draft, tasks, following, method, seed)
        ]
        judge(drafts, "composable", _question)
        _note_weakest(drafts)
        filter_drafts(drafts, partial(_rejection, least=method.min_composable))
        write(drafts, "output", _work)
        for draft in drafts:
            if len(draft.parents) == number:
                _lengthen(draft)
    filter_drafts(drafts, _unless_read_back)
    return drafts


def messages_of(draft: Draft) -> RowMessages:
    """The turns of a chain, without an answer where a task was not done.

    Args:
        draft: A chain.
    """
    instruction = PROMPTS.render("instruction", instructions=draft["instructions"])
    done = len(draft["outputs"]) == len(draft["instructions"])
    return task_messages(instruction, draft["input"], join(draft["outputs"]) if done else "")


def _task(part: Part) -> Draft:
    """A row as a task, whose instruction may be shortened."""
    return Draft((part.id,), {"part": part, "instruction": part.instruction}, part.license)


def _summary(task: Draft) -> Prompt:
    return user(PROMPTS.render("summary", instruction=task["part"].instruction))


def _first(task: Draft) -> Draft:
    """A chain of one task, which is rejected or has failed where the task has."""
    part = task["part"]
    chain = task.child(
        input=part.input,
        instructions=[task["instruction"] or part.instruction],
        outputs=[part.answer],
        strategy="chain",
    )
    chain.rejection, chain.error = task.rejection, task.error
    return chain


def _next(
    chain: Draft, tasks: Mapping[str, Draft], following: Sequence[str], method: Chain, seed: int
) -> Iterator[Draft]:
    """The chain with each of several tasks after it."""
    if not chain.active:
        yield chain
        return
    others = [id_ for id_ in following if id_ not in chain.parents]
    rng = random.Random(f"{seed} chain {' '.join(chain.parents)}")
    drawn = rng.sample(others, min(method.num_candidates, len(others)))
    if not drawn:
        chain.reject("no_next_task", rows_with_input=len(following))
        yield chain
    for id_ in drawn:
        task = tasks[id_]
        longer = chain.child(next=task["instruction"] or task["part"].instruction)
        longer.parents = (*chain.parents, id_)
        longer.license = joint_license([chain.license, task.license])
        longer.journal += task.journal
        longer.rejection, longer.error = task.rejection, task.error
        yield longer


def _question(chain: Draft) -> Prompt:
    last = {"first": chain["instructions"][-1], "output": chain["outputs"][-1]}
    return user(PROMPTS.render("composable", **last, second=chain["next"]))


def _work(chain: Draft) -> Prompt:
    values = {"instruction": chain["next"], "input": chain["outputs"][-1]}
    return user(PROMPTS.render("output", **values))


def _note_weakest(drafts: Sequence[Draft]) -> None:
    """A chain holds as its weakest link does."""
    for chain in drafts:
        if chain.active:
            chain.fields["weakest"] = min(chain["composable"], chain.fields.get("weakest", 1.0))
            chain.fields["composable"] = chain["weakest"]


def _rejection(chain: Draft, least: float) -> Rejection | None:
    if chain["composable"] >= least:
        return None
    return "not_composable", {"probability": chain["composable"], "min_composable": least}


def _lengthen(chain: Draft) -> None:
    chain.fields["instructions"] = [*chain["instructions"], chain["next"]]
    if chain.active:
        chain.fields["outputs"] = [*chain["outputs"], chain["output"]]


def _unless_read_back(chain: Draft) -> Rejection | None:
    """An output that looks like a header would be read as another."""
    if split(join(chain["outputs"])) == chain["outputs"]:
        return None
    return "unparsed", {"outputs": chain["outputs"]}
