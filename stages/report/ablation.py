"""Did choosing help? The same model, trained on what was chosen and on random choices.

Every training sees equal tokens in equal steps: blocks of exactly max_tokens, filled
with rows in a shuffled order, the last row of a block cut to fit. A random arm is a
draw from the pool with as many tokens as the chosen rows have, anew for each training,
so that rows are repeated as often as the chosen ones are. What is compared is the loss
on held-out rows that no arm contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import InputFiles, Records, stage
from stages._common.charts import dot_plot
from stages._common.unused_options import refuse_idle
from stages._text.ngram_index import build_index, find_overlaps
from stages._training.dataset import answer_tokens, check_template, cut, encode, tokenizer_for
from stages._training.trainer import (
    Hyperparameters,
    Method,
    Schedule,
    check_hyperparameters,
    quiet,
    write_json,
)
from stages.report._comparison import compare, page
from stages.report._experiment import Experiment, training, untrained

NGRAM: Final = 13
"""Words in a run that a held-out row and a training row must not share (GPT-3's rule)."""

Arm = Literal["random", "pool"]


def _check(options: SimpleNamespace) -> None:
    check_hyperparameters(options)
    check_template(options.model, options.chat_template)
    step = options.batch_size * options.gradient_accumulation * options.max_tokens
    if options.tokens is not None and options.tokens < step:
        raise UserError(
            f"tokens is {options.tokens}, less than one step",
            why=f"a step is batch_size x gradient_accumulation x max_tokens = {step} tokens",
            hint=f"give tokens: {step} or more, or make the steps smaller",
        )
    if options.seeds < 2:
        raise UserError(
            f"seeds is {options.seeds}",
            why="one training per arm cannot tell a difference from chance",
            hint="give at least 2, better 3",
        )
    method = options.method
    refuse_idle(
        *(ablation, options),
        (method == "lora", "method: lora", "lora_rank"),
    )


@stage(
    version=1,
    scope="set",
    reads={"pool": ["messages"], "chosen": ["messages"], "heldout": ["messages", "origins"]},
    check=_check,
)
def ablation(
    ctx: Context,
    pool: Records,
    chosen: Records,
    heldout: Records,
    *,
    model: LanguageModel,
    arms: tuple[Arm, ...] = ("random",),
    seeds: int = 3,
    tokens: int | None = None,
    method: Method = "full",
    lora_rank: int = 16,
    lr: float = 2e-5,
    schedule: Schedule = "cosine",
    warmup: float = 0.03,
    weight_decay: float = 0.0,
    batch_size: int = 1,
    gradient_accumulation: int = 8,
    max_tokens: int = 1024,
    chat_template: InputFiles = (),
    seed: int = 0,
) -> None:
    """Train on `chosen` and on each arm, `seeds` times each, and compare held-out losses.

    arms: "random" is a draw from the pool with as many tokens as `chosen` has; "pool"
        is the whole pool, of which a training sees as much as its tokens allow.
    tokens: of each training, rounded down to whole steps; by default as many as
        `chosen` has (one pass), at least one step.
    seed: trainings use seed, seed + 1, ...: for the draw and the order of rows.
    The others are those of `train.sft`.

    Writes `ablation.json` (every number), `ablation.md` and `ablation.svg`. Loss is the
    mean negative log-likelihood in nats per token of the assistant's turns; see
    `_comparison.py` for the intervals. Each finished training is kept in `ctx.work`.
    Raises UserError, before training, when a held-out row is also in the pool or among
    the chosen rows, or shares a run of 13 words with one.
    """
    edges = {"pool": pool, "chosen": chosen, "heldout": heldout}
    _refuse_overlaps(edges)
    settings = Hyperparameters(
        method=method,
        lora_rank=lora_rank,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        seed=seed,
    )
    with quiet():
        tokenizer, marked = tokenizer_for(model, chat_template)
        counts, rows = {}, {}
        for name, frame in edges.items():
            encoded = encode(tokenizer, marked, frame["messages"])
            rows[name], counts[name] = cut(encoded.with_columns(frame.drop("messages")), max_tokens)
            if rows[name].is_empty():
                raise UserError(f"no row of `{name}` has an answer to learn or to predict")
        steps = max(1, (tokens or counts["chosen"]["tokens"]) // (settings.per_step * max_tokens))
        experiment = Experiment(
            model, tokenizer, settings, max_tokens, steps, **rows, folder=ctx.work / "trainings"
        )
        result = {"counts": counts, **_run(ctx, experiment, ("chosen", *arms), seeds)}
    _write(ctx.files, result)


def _run(ctx: Context, experiment: Experiment, arms: tuple[str, ...], seeds: int) -> dict[str, Any]:
    """All trainings of all arms, and what they say together."""
    base, seed = untrained(experiment), experiment.settings.seed
    per_step, total = experiment.tokens // experiment.steps, len(arms) * seeds * experiment.steps
    runs: list[dict[str, Any]] = []
    for arm in arms:
        for number in range(seed, seed + seeds):
            before = len(runs) * experiment.steps

            def step_done(step: int, before: int = before) -> None:
                ctx.count(tokens=per_step)
                ctx.progress(before + step, total)

            runs.append(training(experiment, arm, number, step_done))
    tokens = experiment.heldout.select(answer_tokens().cast(pl.Int64)).to_series().to_numpy()
    of_arm = {arm: [run for run in runs if run["arm"] == arm] for arm in arms}
    return {
        "base": base,
        "arms": [_summary(arm, of_arm[arm]) for arm in arms],
        "comparisons": [compare(a, of_arm["chosen"], of_arm[a], tokens) for a in arms[1:]],
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
        "Held-out loss after training, one dot per training",
        "nats per answer token; lower is better",
        groups,
        {"untrained": result["base"]["loss"]},
    )
    (files / "ablation.svg").write_text(chart, "utf-8")
    (files / "ablation.md").write_text(page(result), "utf-8")
    write_json(files / "ablation.json", result)


def _refuse_overlaps(edges: Mapping[str, pl.DataFrame]) -> None:
    """Stop where a held-out row could be trained on, whole or in a run of NGRAM words."""
    heldout = _turns(edges["heldout"])
    index = build_index(heldout.select("id", "text"), NGRAM, NGRAM)
    problems = []
    for name in ("pool", "chosen"):
        same = edges[name].join(edges["heldout"], on="id", how="semi")["id"]
        turns = _turns(edges[name])
        found = find_overlaps(index, turns["text"])
        pairs = pl.DataFrame(
            {"row": turns["id"][found.row], "heldout": heldout["id"][found.text]}
        ).filter(~pl.col("row").is_in(same.implode()))
        known = [f"{row} is held out" for row in same]
        known += [
            f"{row} shares {NGRAM} words with {twin}"
            for row, twin in pairs.unique("row", keep="first", maintain_order=True).iter_rows()
        ]
        if known:
            more = f"; and {len(known) - 5} more" if len(known) > 5 else ""
            problems.append(f"{len(known)} rows of `{name}`: {'; '.join(known[:5])}{more}")
    if problems:
        raise UserError(
            "the arms contain held-out rows",
            why="\n    ".join(problems),
            hint="take them out of the pool before choosing: decontaminate.ngram, with the "
            "held-out file loaded by load.benchmarks (path: FILE, benchmark: heldout) as "
            "benchmarks",
        )


def _turns(rows: pl.DataFrame) -> pl.DataFrame:
    """Every turn's text with the id of its row."""
    text = pl.col("messages").struct.field("content").fill_null("").alias("text")
    return rows.select("id", "messages").explode("messages").select("id", text)
