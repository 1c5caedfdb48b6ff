"""Training on a mixture of skills that changes with the losses on them.

Skill-it: Skill-it! A Data-Driven Skills Framework for Understanding and Training Language
Models (Chen et al. 2023, arXiv:2307.14430; HazyResearch/skill-it).

As in the paper: a graph says how much training on a skill helps another; the weights of the
skills are set anew several times during one training, proportional to the prior times
exp(eta x graph x losses); a graph is learned by small trainings on one skill alone and on halves
of two.

As in the authors' code: the losses of the last three evaluations are summed, or their mean is
taken where targets are a subset of the skills; each update starts from the prior and not from the
last weights; before there are losses they are 1; eta is 0.5 (LEGO, stance detection), 0.2
(Natural Instructions) or 0.1 (addition); a learned edge weighs 0.5, a skill's own 1.

Ours: rows of a skill are drawn in shuffled passes and counted exactly, where the code draws each
row by chance; the learning rate is constant, since decay takes from what is learned late; how
many small trainings there are, their steps; skills are measured in nats per answer token.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.hints import suggest
from pipeline.models.base import LanguageModel
from pipeline.stage import InputFiles, Records, stage
from pipeline.types import Count, NonEmpty, NonNegativeFloat, PositiveFloat, option_group
from stages._common.charts import line_plot
from stages._common.option_types import Distinct
from stages._selection.groups import GroupWeights, group_columns, groups_of
from stages._selection.scores import Expression
from stages._training.dataset import HIDDEN, check_template, cut, tokenizer_for
from stages._training.encoding import encode, name_refused_rows, nothing_left, refused_rows
from stages._training.hyperparameters import (
    Full,
    Hyperparameters,
    MaxLength,
    SchedulerType,
    WarmupRatio,
)
from stages._training.hyperparameters import Method as Trained
from stages._training.trainer import quiet, save, write_json
from stages.mix._online_training import Losses, Skills, epochs, probe, train_online
from stages.mix._skill_graph import learned_graph, skill_weights


@option_group
class KnownGraph:
    """A graph that is known.

    Attributes:
        edges: For each skill how much training on it helps each evaluated skill, itself
            among them: `{text: {text: 1, code: 0.5}}`; what is not named is 0.
    """

    name: Literal["known"] = "known"
    edges: Annotated[Mapping[str, Mapping[str, float]], NonEmpty]


@option_group
class LearnedGraph:
    """A graph of small trainings, k(k + 1) / 2 of them for k skills and each seed.

    Attributes:
        num_steps: Optimizer steps of each.
        num_seeds: Trainings of each, whose mean loss decides.
        edge: The weight of an edge between two skills.
    """

    name: Literal["learned"] = "learned"
    num_steps: Count = 50
    num_seeds: Count = 2
    edge: PositiveFloat = 0.5


Graph = Annotated[KnownGraph | LearnedGraph, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> list[str]:
    return list(dict.fromkeys(["messages", "tools", *group_columns(options.skill)]))


def _check(options: SimpleNamespace) -> None:
    if options.num_updates > options.num_steps:
        what = f"must be at most num_steps = {options.num_steps}, got {options.num_updates}"
        raise OptionError("num_updates", what, why="each part of the training has a step or more")
    check_template(options.model, options.chat_template)


@stage(version=1, scope="set", reads=_reads, check=_check)
def online(
    ctx: Context,
    rows: Records,
    eval_rows: Records,
    *,
    model: LanguageModel,
    graph: Graph,
    num_steps: Count,
    skill: Expression = "source",
    num_updates: Count = 5,
    eta: NonNegativeFloat = 0.5,
    window: Count = 3,
    targets: Annotated[tuple[str, ...], Distinct] = (),
    prior: GroupWeights | None = None,
    method: Trained = Full(),
    learning_rate: PositiveFloat = 2e-5,
    lr_scheduler_type: SchedulerType = "constant",
    warmup_ratio: WarmupRatio = 0.03,
    weight_decay: NonNegativeFloat = 0.0,
    per_device_train_batch_size: Count = 1,
    gradient_accumulation_steps: Count = 8,
    max_length: MaxLength = 2048,
    chat_template: InputFiles = (),
    seed: int = 0,
) -> None:
    """Train a model on skills whose weights follow the losses on evaluation rows.

    Writes `model/` as `train.sft` does, `weights.json` (the graph; for each part of the training
    its steps, the weights, the rows of each skill and the losses it ended with; how often rows
    were read), `weights.svg`, and `metrics.json`. Rows of a skill are repeated, in shuffled
    passes, where its weight asks for more than it has. A killed training goes on from its last
    checkpoint and gives the same.

    Args:
        rows: The rows to train on.
        eval_rows: The rows that losses are measured on; none may be among the others.
        model: The model to start from.
        graph: How skills help each other: `known` or `learned`.
        num_steps: Optimizer steps in all, each of gradient_accumulation_steps x
            per_device_train_batch_size rows.
        skill: `source`, a column or an SQL expression of both edges: what skill a row is of.
        num_updates: How often the weights are set: at the start, and then after equal parts.
        eta: How strongly losses count; 0 for the prior alone.
        window: How many evaluations count.
        targets: The evaluated skills that count; none for all.
        prior: The weights of the skills without any losses; null for equal ones.
        method: As in `train.sft`, and so are the options that follow.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up, over the whole training.
        warmup_ratio: The fraction of the steps over which the rate rises from 0.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Rows per forward pass.
        gradient_accumulation_steps: Forward passes per optimizer step.
        max_length: Tokens at which rows are cut.
        chat_template: A file to render with, in place of the model's template.
        seed: Of the order of the rows; small trainings use seed, seed + 1, ...

    Raises:
        UserError: A row is on both edges, a skill is named that has no rows, or no row has an
            answer.

    Example:
        ```yaml
        trained:
          uses: mix.online
          needs: {rows: pool, eval_rows: heldout}
          with: {model: base, num_steps: 600, num_updates: 6, graph: {name: learned}}
        ```
    """
    settings = Hyperparameters(
        method=method,
        learning_rate=learning_rate,
        lr_scheduler_type=lr_scheduler_type,
        warmup_ratio=warmup_ratio,
        weight_decay=weight_decay,
        per_device_train_batch_size=per_device_train_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        seed=seed,
    )
    _refuse_shared(rows, eval_rows)
    with quiet():
        tokenizer, marked = tokenizer_for(model, chat_template)
        refused: list[dict[str, Any]] = []
        encoded = partial(_encoded, ctx.work, tokenizer, marked, skill, max_length, refused)
        skills = Skills(
            model=model,
            tokenizer=tokenizer,
            settings=settings,
            max_length=max_length,
            rows=encoded("rows", rows),
            eval_rows=encoded("eval_rows", eval_rows),
            work=ctx.work,
        )
        matrix = _matrix(skills, graph, seed)
        updates = _updates(skills, matrix, prior, eta, window, targets)
        ends = [num_steps * part // num_updates for part in range(1, num_updates + 1)]

        def step_done(step: int) -> None:
            ctx.progress(step, num_steps)

        trained, parts, metrics = train_online(skills, ends, updates, step_done)
        save(trained, tokenizer, model, ctx.files, method)
    name_refused_rows(refused, ctx.files)
    write_json(ctx.files / "metrics.json", metrics)
    _write(ctx.files, skills, matrix, parts)


def _refuse_shared(rows: pl.DataFrame, eval_rows: pl.DataFrame) -> None:
    shared = rows.join(eval_rows, on="id", how="semi")["id"]
    if len(shared):
        raise UserError(
            f"eval_rows must hold no row that is trained on, got {len(shared)} of them",
            why=f"the first is {shared[0]}",
            hint="split the pool before: select.split, with parts and keep",
        )


def _encoded(
    work: Path,
    tokenizer: Any,
    template: str,
    skill: str,
    max_length: int,
    refused: list[dict[str, Any]],
    edge: str,
    rows: pl.DataFrame,
) -> pl.DataFrame:
    """An edge's rows as tokens, cut, each with its `skill`; those without an answer left out."""
    encoded = encode(tokenizer, template, rows)
    refused += ({"edge": edge, **row} for row in refused_rows(rows["id"], encoded))
    labels = groups_of(rows, skill).labels().alias("skill")
    tokens = encoded.drop("error", HIDDEN).with_columns(rows["id"], labels)
    usable, counts = cut(tokens, max_length)
    if usable.is_empty():
        what = f"no row of `{edge}` has an answer to learn or to predict"
        raise nothing_left(what, counts, refused, work)
    return usable.sort("id")


def _matrix(skills: Skills, graph: KnownGraph | LearnedGraph, seed: int) -> NDArray[np.float64]:
    """The graph as a matrix: shape (training skills, evaluated skills)."""
    names, evaluated = skills.names, skills.evaluated
    if isinstance(graph, LearnedGraph):
        small = partial(probe, skills, graph.num_steps)
        seeds = range(seed, seed + graph.num_seeds)
        return learned_graph(names, evaluated, small, seeds, graph.edge)
    _refuse_unknown("graph.edges", {*graph.edges}, names)
    _refuse_unknown("graph.edges", {n for to in graph.edges.values() for n in to}, evaluated)
    return np.array([[graph.edges.get(a, {}).get(b, 0.0) for b in evaluated] for a in names])


def _refuse_unknown(option: str, names: set[str], skills: list[str]) -> None:
    if unknown := sorted(names - {*skills}):
        raise UserError(
            f"{option} must name skills with rows, got {', '.join(map(repr, unknown))}",
            why=f"the skills are {', '.join(skills)}",
            hint=suggest(unknown[0], skills),
        )


def _updates(
    skills: Skills,
    matrix: NDArray[np.float64],
    prior: Mapping[str, float] | None,
    eta: float,
    window: int,
    targets: tuple[str, ...],
) -> Any:
    """What gives the weights of the next part, from the losses after each part so far."""
    names, evaluated = skills.names, skills.evaluated
    _refuse_unknown("targets", {*targets}, evaluated)
    _refuse_unknown("prior", {*(prior or {})}, names)
    before = np.array([1.0 if prior is None else prior.get(name, 0.0) for name in names])
    columns = [evaluated.index(name) for name in targets]

    def next_weights(losses: list[Losses]) -> NDArray[np.float64]:
        last = [np.array([part[name] for name in evaluated]) for part in losses[-window:]]
        return skill_weights(matrix, before, eta, last, columns)

    return next_weights


def _write(
    files: Path, skills: Skills, matrix: NDArray[np.float64], parts: list[dict[str, Any]]
) -> None:
    """Write `weights.json` and its picture."""
    names = skills.names
    result = {
        "skills": names,
        "evaluated": skills.evaluated,
        "graph": matrix.tolist(),
        "parts": parts,
        "epochs": epochs(skills, parts),
    }
    write_json(files / "weights.json", result)
    lines = {name: [part["weights"][name] for part in parts] for name in names}
    chart = line_plot("Weights of the skills", "part of the training", lines)
    (files / "weights.svg").write_text(chart, "utf-8")
