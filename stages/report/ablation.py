"""Did selecting help? The same model, trained on sets of selected rows and on random draws.

Every training sees equal tokens in equal steps: blocks of exactly max_length tokens, filled
with rows in a shuffled order, the last row of a block cut to fit. A random arm is a
draw from the pool with as many tokens as the selected rows have, anew for each training,
so that rows are repeated as often as the selected ones are. What is compared is the loss
on evaluation rows that no arm contains, each arm's with each, on each set of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, InputFiles, Items, Records, stage
from pipeline.types import Count, NonNegativeFloat, NonNegativeInt, PositiveFloat
from stages._benchmarks.run import require_harness
from stages._common.option_types import Distinct
from stages._training.dataset import (
    HIDDEN,
    answer_tokens,
    check_template,
    cut,
    hidden_counts,
    tokenizer_for,
)
from stages._training.encoding import encode, name_refused_rows, nothing_left, refused_rows
from stages._training.hyperparameters import (
    Full,
    Hyperparameters,
    MaxLength,
    Method,
    SchedulerType,
    WarmupRatio,
)
from stages._training.processes import check_devices, join
from stages._training.processes import processes as processes
from stages._training.trainer import quiet, write_json
from stages.report._ablation_page import write_page
from stages.report._benchmark_scores import METRIC, Benchmarks, as_sets, divided, summed_up
from stages.report._comparison import compare_all, visible_spreads
from stages.report._experiment import Experiment, training, untrained
from stages.report._overlaps import jaccard, refuse_overlaps

Arm = Literal["random", "pool"]

_log = logging.getLogger(__name__)


def _check(options: SimpleNamespace) -> None:
    check_template(options.model, options.chat_template)
    check_devices(options)
    rows = options.per_device_train_batch_size * options.gradient_accumulation_steps
    step = rows * options.max_length
    if options.num_tokens is not None and options.num_tokens < step:
        raise OptionError(
            "num_tokens",
            f"must be at least {step}, got {options.num_tokens}",
            why="a step is per_device_train_batch_size x gradient_accumulation_steps x "
            f"max_length = {step} tokens",
            hint=f"give num_tokens: {step} or more, or make the steps smaller",
        )


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    if edges.get("benchmarks"):
        require_harness()
    return {}


@stage(
    version=4,
    scope="set",
    reads={
        "pool": ["messages", "tools"],
        "selected": ["messages", "tools"],
        "eval_rows": ["messages", "tools", "origins"],
    },
    adds=_adds,
    check=_check,
    later=("benchmarks", "num_shots", "max_documents"),
)
def ablation(
    ctx: Context,
    pool: Records,
    selected: dict[str, Records],
    eval_rows: dict[str, Records],
    benchmarks: Items | None = None,
    *,
    model: LanguageModel,
    arms: Annotated[tuple[Arm, ...], Distinct] = ("random",),
    num_seeds: Annotated[int, Field(ge=2)] = 3,
    num_tokens: Count | None = None,
    paired: bool = False,
    method: Method = Full(),
    learning_rate: PositiveFloat = 2e-5,
    lr_scheduler_type: SchedulerType = "cosine",
    warmup_ratio: WarmupRatio = 0.03,
    weight_decay: NonNegativeFloat = 0.0,
    per_device_train_batch_size: Count = 1,
    gradient_accumulation_steps: Count = 8,
    max_length: MaxLength = 1024,
    chat_template: InputFiles = (),
    num_shots: NonNegativeInt = 0,
    max_documents: Count | None = None,
    seed: int = 0,
) -> None:
    """Train on each set of selected rows and on each arm, and compare the losses of all.

    Writes `ablation.json` (every number), `ablation.md` and `ablation.svg`; `design.json`,
    before anything is trained: how many comparisons there are, and which difference they
    can show; and `refused.jsonl` with the rows that the chat template cannot show, which no
    training sees. Loss is the mean negative log-likelihood in nats per token of the
    assistant's turns; see `_comparison.py` for the intervals. Each finished training is
    kept in the store: one more set of selected rows costs its own trainings alone.

    Args:
        pool: The rows that were selected from.
        selected: The rows that were selected: one set, or several to compare, which the
            report calls by the names of their steps.
        eval_rows: Rows that no arm may contain: one set, or several that do not overlap.
        benchmarks: Evaluation items, of `load.benchmarks`: each trained model is put through those
            of multiple choice, by the likelihoods of the choices; documents that share 13 words in
            a row with any row of the pool or of `selected` count as contaminated.
        model: The model that every training starts from.
        arms: "random" is a draw from the pool with as many tokens as `selected` has, the largest
            set where there are several; "pool" is all of the pool, of which a training sees
            as much as its tokens allow.
        num_seeds: Trainings of each arm. One alone cannot tell a difference from chance.
        num_tokens: Tokens of each training, rounded down to complete steps; by default as
            many as the largest set of `selected` has (one pass), at least one step.
        paired: Whether rows that two arms share come in the same order in both, so that what a
            seed does to all of them can be taken out. Otherwise each arm has its own order.
        method: As in `train.sft`, and so are the options that follow.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up.
        warmup_ratio: The fraction of the steps over which the rate rises from 0.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Blocks per forward pass.
        gradient_accumulation_steps: Forward passes per optimizer step.
        max_length: Tokens of a block, and of a row at most.
        chat_template: A file to render with, in place of the model's template.
        num_shots: Few-shot examples of each prompt of a benchmark.
        max_documents: Documents of each benchmark, at most, the first of them.
        seed: Trainings use seed, seed + 1, ...: for the draw and the order of rows.

    Raises:
        UserError: Before training, when an evaluation row is also in the pool or among the
            selected rows, or shares a run of 13 words with one, or with a row of another set
            of evaluation rows; or a set of selected rows has an arm's name.

    Example:
        ```yaml
        helped:
          uses: report.ablation
          needs: {pool: pool, selected: [best, diverse], eval_rows: [chats, sums]}
          with: {model: base, learning_rate: 1.0e-4, num_seeds: 3}
        ```
    """
    # The order in which a recipe names the sets is no part of the result.
    selected, eval_rows = dict(sorted(selected.items())), dict(sorted(eval_rows.items()))
    if both := sorted({*selected} & {*arms}):
        raise UserError(
            f"a set of selected rows has the name of an arm: {both[0]}",
            hint="give the step another name, or leave the arm out of `arms`",
        )
    refuse_overlaps({"pool": pool, **_labelled("selected", selected)}, eval_rows)
    asked = None
    if benchmarks is not None:
        asked = Benchmarks.of(benchmarks, num_shots, max_documents, ctx.work)
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
    with quiet():
        join(model, gradient_accumulation_steps)
        tokenizer, marked = tokenizer_for(model, chat_template)
        edges = {"pool": {"pool": pool}, "selected": selected, "eval_rows": eval_rows}
        rows, counts, refused = _encoded(ctx, tokenizer, marked, edges, max_length)
        largest = max(each["tokens"] for each in counts["selected"].values())
        steps = max(1, (num_tokens or largest) // (settings.rows_per_step * max_length))
        experiment = Experiment(
            model, tokenizer, settings, max_length, steps, paired, ctx.store,
            rows["pool"]["pool"], rows["selected"], _with_names(rows["eval_rows"]), asked,
        )  # fmt: skip
        number = len(eval_rows) + (len(asked.tasks) if asked else 0)
        design = _design(experiment, arms, num_seeds, number)
        write_json(ctx.files / "design.json", design)
        result = _run(ctx, experiment, (*sorted(selected), *arms), num_seeds)
        if asked is not None:
            described = asked.described([pool, *selected.values()])
            result = _with_benchmarks(result, described, asked.left_out)
    ids = {name: frame["id"] for name, frame in rows["selected"].items()}
    overlap = {"arms": [*ids], "jaccard": jaccard(ids)}
    all_counts = {"pool": counts["pool"]["pool"], **{e: counts[e] for e in counts if e != "pool"}}
    write_page(ctx.files, {"counts": all_counts, "design": design, "overlap": overlap, **result})
    name_refused_rows(refused, ctx.files)


def _labelled(edge: str, frames: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The frames by what messages call them: the edge alone where there is one."""
    if len(frames) == 1:
        return {edge: next(iter(frames.values()))}
    return {f"{edge}: {name}": frame for name, frame in frames.items()}


def _with_names(sets: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All evaluation rows with the name of their set."""
    return pl.concat(rows.with_columns(eval_set=pl.lit(name)) for name, rows in sets.items())


def _encoded(
    ctx: Context,
    tokenizer: Any,
    template: str,
    edges: Mapping[str, Mapping[str, pl.DataFrame]],
    max_length: int,
) -> tuple[dict[str, dict[str, pl.DataFrame]], dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The rows of each edge as tokens, their counts, and the rows without.

    A row of several edges is tokenized once: rows of one id are equal.
    """
    shown = ["id", "messages", "tools"]
    frames = [frame.select(shown) for each in edges.values() for frame in each.values()]
    union = pl.concat(frames).unique("id", keep="first", maintain_order=True)
    tokens = encode(tokenizer, template, union).with_columns(union["id"])
    rows: dict[str, dict[str, pl.DataFrame]] = {edge: {} for edge in edges}
    counts: dict[str, dict[str, Any]] = {edge: {} for edge in edges}
    refused: list[dict[str, Any]] = []
    for edge, name, frame in [(e, n, f) for e, each in edges.items() for n, f in each.items()]:
        label = edge if len(edges[edge]) == 1 else f"{edge}: {name}"
        encoded = frame.select("id").join(tokens, on="id", how="left", maintain_order="left")
        refused += [{"edge": label, **row} for row in refused_rows(frame["id"], encoded)]
        others = frame.select(pl.exclude(*shown))
        kept, count = cut(pl.concat([encoded.drop("error", HIDDEN), others], how="horizontal"),
                          max_length)  # fmt: skip
        rows[edge][name], counts[edge][name] = kept, count | hidden_counts(encoded)
        if kept.is_empty():
            what = f"no row of `{label}` has an answer to learn or to predict"
            raise nothing_left(what, count, refused, ctx.work)
    return rows, counts, refused


def _design(
    experiment: Experiment, arms: Sequence[str], num_seeds: int, num_sets: int
) -> dict[str, Any]:
    """What the experiment can show, said before it begins."""
    sets = len(experiment.selected)
    number = sets + len(arms)
    comparisons = number * (number - 1) // 2 * num_sets
    blocked = experiment.paired and sets > 1
    degrees = (sets - blocked if sets > 1 else min(number, 2)) * (num_seeds - 1)
    visible = visible_spreads(num_seeds, max(1, comparisons), degrees)
    _log.info(
        "%d trainings of %d tokens, %d comparisons: a difference of %.1f spreads of an arm's "
        "trainings is likely to be seen",
        number * num_seeds, experiment.tokens, comparisons, visible,
    )  # fmt: skip
    return {
        "trainings_per_arm": num_seeds,
        "tokens": experiment.tokens,
        "steps": experiment.steps,
        "paired": experiment.paired,
        "comparisons": comparisons,
        "visible_spreads": visible,
    }


def _run(
    ctx: Context, experiment: Experiment, arms: tuple[str, ...], num_seeds: int
) -> dict[str, Any]:
    """All trainings of all arms, and the comparisons of their losses."""
    base, seed = untrained(experiment), experiment.settings.seed
    per_step = experiment.tokens // experiment.steps
    total = len(arms) * num_seeds * experiment.steps
    runs: list[dict[str, Any]] = []
    for arm in arms:
        for number in range(seed, seed + num_seeds):
            before = len(runs) * experiment.steps

            def step_done(step: int, before: int = before) -> None:
                ctx.count(tokens=per_step)
                ctx.progress(before + step, total)

            runs.append(training(experiment, arm, number, step_done))
    require_equal(runs, experiment.tokens)
    of_arm = {arm: [run for run in runs if run["arm"] == arm] for arm in arms}
    eval_rows = experiment.eval_rows.select(
        "eval_set", answer_tokens().cast(pl.Int64).alias("tokens")
    )
    measured: Mapping[str, Sequence[Mapping[str, Any]]] = of_arm
    if experiment.benchmarks is not None:
        measured, eval_rows = as_sets(of_arm, eval_rows)
    comparisons = compare_all(measured, experiment.selected, eval_rows, experiment.paired)
    summaries = [_summary(arm, of_arm[arm]) for arm in arms]
    return {"base": base, "arms": summaries, "comparisons": comparisons, "runs": runs}


def _with_benchmarks(
    result: Mapping[str, Any],
    described: Mapping[str, Mapping[str, Any]],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """The result with the benchmarks by themselves: tasks, scores of each arm, comparisons."""
    losses, others = divided(result["comparisons"])
    flagged = {name: of["contaminated"] for name, of in described.items()}
    arms: dict[str, list[Any]] = {arm["arm"]: [] for arm in result["arms"]}
    for run in result["runs"]:
        arms[run["arm"]].append(run)
    return {
        **result,
        "comparisons": losses,
        "benchmarks": {
            "metric": METRIC,
            "tasks": described,
            "base": summed_up([result["base"]], flagged),
            "arms": {arm: summed_up(runs, flagged) for arm, runs in arms.items()},
            "comparisons": others,
            "left_out": left_out,
        },
    }


def require_equal(runs: Sequence[Mapping[str, Any]], tokens: int) -> None:
    """Make sure that all trainings saw equal tokens in equal steps.

    Args:
        runs: The trainings.
        tokens: What each must have seen.

    Raises:
        AssertionError: One did not: a comparison would say nothing.
    """
    seen = {(run["tokens"], run["steps"]) for run in runs}
    if len(seen) != 1 or next(iter(seen))[0] != tokens:
        raise AssertionError(f"trainings saw unequal tokens and steps, not {tokens}: {seen}")


def _summary(arm: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An arm's means and spread over its trainings."""
    losses = [run["loss"] for run in runs]
    return {
        "arm": arm,
        "trainings": len(runs),
        "tokens": runs[0]["tokens"],
        "answer_tokens": float(np.mean([run["answer_tokens"] for run in runs])),
        "steps": runs[0]["steps"],
        "loss": float(np.mean(losses)),
        "spread": float(np.std(losses, ddof=1)),
        **{key: _means(key, runs) for key in ("by_set", "by_source")},
    }


def _means(key: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over trainings of each named loss."""
    return {name: float(np.mean([run[key][name] for run in runs])) for name in runs[0][key]}
