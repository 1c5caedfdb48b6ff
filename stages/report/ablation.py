"""Did selecting help? The same model, trained on the selected rows and on random draws.

Every training sees equal tokens in equal steps: blocks of exactly max_length tokens, filled
with rows in a shuffled order, the last row of a block cut to fit. A random arm is a
draw from the pool with as many tokens as the selected rows have, anew for each training,
so that rows are repeated as often as the selected ones are. What is compared is the loss
on evaluation rows that no arm contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import InputFiles, Records, stage
from pipeline.types import Count, NonNegativeFloat, PositiveFloat
from schemas.turns import viewed
from stages._common.charts import dot_plot
from stages._common.option_types import Distinct
from stages._text.ngram_index import build_index, find_overlaps
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
from stages._training.trainer import quiet, write_json
from stages.report._comparison import compare, page
from stages.report._experiment import SELECTED, Experiment, training, untrained

NGRAM: Final = 13
"""Words in a run that an evaluation row and a training row must not share (GPT-3's rule)."""

Arm = Literal["random", "pool"]


def _check(options: SimpleNamespace) -> None:
    check_template(options.model, options.chat_template)
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


@stage(
    version=3,
    scope="set",
    reads={
        "pool": ["messages", "tools"],
        "selected": ["messages", "tools"],
        "eval_rows": ["messages", "tools", "origins"],
    },
    check=_check,
)
def ablation(
    ctx: Context,
    pool: Records,
    selected: Records,
    eval_rows: Records,
    *,
    model: LanguageModel,
    arms: Annotated[tuple[Arm, ...], Distinct] = ("random",),
    num_seeds: Annotated[int, Field(ge=2)] = 3,
    num_tokens: Count | None = None,
    method: Method = Full(),
    learning_rate: PositiveFloat = 2e-5,
    lr_scheduler_type: SchedulerType = "cosine",
    warmup_ratio: WarmupRatio = 0.03,
    weight_decay: NonNegativeFloat = 0.0,
    per_device_train_batch_size: Count = 1,
    gradient_accumulation_steps: Count = 8,
    max_length: MaxLength = 1024,
    chat_template: InputFiles = (),
    seed: int = 0,
) -> None:
    """Train on the selected rows and on each arm, and compare the losses on evaluation rows.

    Writes `ablation.json` (every number), `ablation.md` and `ablation.svg`, which
    name the rows as the edges do, and `refused.jsonl` with the rows that the chat template
    cannot show, which no training sees. Loss is the mean negative log-likelihood in nats per
    token of the assistant's turns; see `_comparison.py` for the intervals. Each finished
    training is kept in `ctx.work`.

    Args:
        pool: The rows that were selected from.
        selected: The rows that were selected.
        eval_rows: Rows that no arm may contain.
        model: The model that every training starts from.
        arms: "random" is a draw from the pool with as many tokens as `selected` has; "pool"
            is all of the pool, of which a training sees as much as its tokens allow.
        num_seeds: Trainings of each arm. One alone cannot tell a difference from chance.
        num_tokens: Tokens of each training, rounded down to complete steps; by default as
            many as `selected` has (one pass), at least one step.
        method: As in `train.sft`, and so are the options that follow.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up.
        warmup_ratio: The fraction of the steps over which the rate rises from 0.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Blocks per forward pass.
        gradient_accumulation_steps: Forward passes per optimizer step.
        max_length: Tokens of a block, and of a row at most.
        chat_template: A file to render with, in place of the model's template.
        seed: Trainings use seed, seed + 1, ...: for the draw and the order of rows.

    Raises:
        UserError: Before training, when an evaluation row is also in the pool or among the
            selected rows, or shares a run of 13 words with one.

    Example:
        ```yaml
        helped: {uses: report.ablation, needs: {pool: pool, selected: best, eval_rows: eval},
                 with: {model: base, learning_rate: 1.0e-4, num_seeds: 3}}
        ```
    """
    _refuse_overlaps(pool, selected, eval_rows)
    edges = {"pool": pool, "selected": selected, "eval_rows": eval_rows}
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
        tokenizer, marked = tokenizer_for(model, chat_template)
        rows, counts, refused = _encoded(ctx, tokenizer, marked, edges, max_length)
        steps = _steps(num_tokens or counts[SELECTED]["tokens"], settings, max_length)
        experiment = Experiment(model, tokenizer, settings, max_length, steps, ctx.work, **rows)
        result = _run(ctx, experiment, (SELECTED, *arms), num_seeds)
    _write(ctx.files, {"counts": counts, **result})
    name_refused_rows(refused, ctx.files)


def _encoded(
    ctx: Context, tokenizer: Any, template: str, edges: Mapping[str, pl.DataFrame], max_length: int
) -> tuple[dict[str, pl.DataFrame], dict[str, dict[str, int]], list[dict[str, Any]]]:
    """The rows of each edge as tokens, their counts, and the rows without."""
    rows, counts, refused = {}, {}, []
    for edge, frame in edges.items():
        encoded = encode(tokenizer, template, frame)
        refused += [{"edge": edge, **row} for row in refused_rows(frame["id"], encoded)]
        others = frame.select(pl.exclude("messages", "tools"))
        tokens = others.with_columns(encoded.drop("error", HIDDEN))
        rows[edge], counts[edge] = cut(tokens, max_length)
        counts[edge] |= hidden_counts(encoded)
        if rows[edge].is_empty():
            what = f"no row of `{edge}` has an answer to learn or to predict"
            raise nothing_left(what, counts[edge], refused, ctx.work)
    return rows, counts, refused


def _steps(num_tokens: int, settings: Hyperparameters, max_length: int) -> int:
    """Complete optimizer steps within `num_tokens`, at least one."""
    return max(1, num_tokens // (settings.rows_per_step * max_length))


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
    tokens = experiment.eval_rows.select(answer_tokens().cast(pl.Int64)).to_series().to_numpy()
    of_arm = {arm: [run for run in runs if run["arm"] == arm] for arm in arms}
    return {
        "base": base,
        "arms": [_summary(arm, of_arm[arm]) for arm in arms],
        "comparisons": [compare(a, of_arm[SELECTED], of_arm[a], tokens) for a in arms[1:]],
        "runs": runs,
    }


def _summary(arm: str, runs: list[Any]) -> dict[str, Any]:
    """An arm's mean and spread over its trainings."""
    losses = [run["loss"] for run in runs]
    return {
        "arm": arm,
        "trainings": len(runs),
        "tokens": runs[0]["tokens"],
        "answer_tokens": float(np.mean([run["answer_tokens"] for run in runs])),
        "steps": runs[0]["steps"],
        "loss": float(np.mean(losses)),
        "spread": float(np.std(losses, ddof=1)),
        "by_source": {
            source: float(np.mean([run["by_source"][source] for run in runs]))
            for source in runs[0]["by_source"]
        },
    }


def _write(files: Path, result: dict[str, Any]) -> None:
    groups = {
        arm["arm"]: [run["loss"] for run in result["runs"] if run["arm"] == arm["arm"]]
        for arm in result["arms"]
    }
    chart = dot_plot(
        "Evaluation loss after training, one dot per training",
        "nats per answer token; lower is better",
        groups,
        {"untrained": result["base"]["loss"]},
    )
    (files / "ablation.svg").write_text(chart, "utf-8")
    (files / "ablation.md").write_text(page(result), "utf-8")
    write_json(files / "ablation.json", result)


def _refuse_overlaps(pool: pl.DataFrame, selected: pl.DataFrame, eval_rows: pl.DataFrame) -> None:
    """Stop where an evaluation row could be trained on, all of it or a run of NGRAM words."""
    eval_turns = _turns(eval_rows)
    index = build_index(eval_turns.select("id", "text"), NGRAM, NGRAM)
    problems = []
    for name, rows in {"pool": pool, "selected": selected}.items():
        same = rows.join(eval_rows, on="id", how="semi")["id"]
        turns = _turns(rows)
        hits = find_overlaps(index, turns["text"])
        pairs = pl.DataFrame(
            {"row": turns["id"][hits.row], "eval_row": eval_turns["id"][hits.text]}
        ).filter(~pl.col("row").is_in(same.implode()))
        messages = [f"{row} is an evaluation row" for row in same]
        messages += [
            f"{row} shares {NGRAM} words with {eval_row}"
            for row, eval_row in pairs.unique("row", keep="first", maintain_order=True).iter_rows()
        ]
        if messages:
            more = f"; and {len(messages) - 5} more" if len(messages) > 5 else ""
            problems.append(f"{len(messages)} rows of `{name}`: {'; '.join(messages[:5])}{more}")
    if problems:
        raise UserError(
            "the arms contain evaluation rows",
            why="\n    ".join(problems),
            hint="take them out of the pool before selecting: select.except, with the pool on the "
            "edge rows, the evaluation rows on the edge except, and match: near",
        )


def _turns(rows: pl.DataFrame) -> pl.DataFrame:
    """Every turn's text with the id of its row."""
    text = pl.col("messages").struct.field("content").alias("text")
    return rows.select("id", viewed("all")).explode("messages").select("id", text)
