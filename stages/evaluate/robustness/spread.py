"""The spread of a score over the variants of a task: wordings, languages, tenses, label words.

Robustness to rephrasing: Evaluating the Zero-shot Robustness of Instruction-tuned Language Models
(Sun et al. 2023, arXiv:2306.11270; jiudingsun01/InstructionEval).

As in the paper: a task's instruction is said in several ways, some of which the model was trained
with (observed) and some not; of each kind the mean over tasks of the mean over wordings is
compared. As in the authors' code: the standard deviation is that of the population of a task's
wordings; its mean over tasks is what is reported. Ours: the worst and the best wording of each
task stand beside the mean.

MultiInstruct (Sensitivity): MultiInstruct: Improving Multi-Modal Zero-Shot Learning via Instruction
Tuning (Xu et al. 2022, arXiv:2212.10773).

As in the paper: sensitivity, the mean over tasks of the standard deviation over instructions by the
mean over them. Ours: tasks of mean 0, which have none, are left out and counted.

Robustness to instructions (RE): Evaluating the Robustness to Instructions of Large Language Models
(Ni et al. 2023, arXiv:2308.14306).

As in the paper: seen instructions against unseen ones, by kind of task. Ours: `kind` is any column.

Past-tense refusals: Does Refusal Training in LLMs Generalize to the Past Tense? (Andriushchenko and
Flammarion 2024, arXiv:2407.11969).

As in the paper: of several rewrites of a request any success counts: `best`, with the request as
the task. Ours: the rewrites are those of `rewrite.paraphrase`.

Conjugate prompting: Understanding Catastrophic Forgetting in Language Models via Implicit Inference
(Kotha et al. 2023, arXiv:2309.10105).

As in the paper: the same prompts in other languages show what tuning has only hidden: `variant` is
the language. Ours: translated by `compose.translate`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import polars as pl

from pipeline.types import option_group

ALL: Final = "all"
"""The kind, or the task, of rows of which no column says it."""


@option_group
class Spread:
    """The spread of a column over the variants of each task; nothing is asked.

    Args:
        name: "spread".
        score: The column of the score: a number, or whether it is right.
        variant: The column of the variant, such as `variant` of `rewrite.paraphrase`. Rows of one
            variant of a task are averaged first.
        task: The column of the task; of a list, such as `parents`, the first element. Null: all
            rows are of one task.
        kind: The column of the kind, by which all is reported separately: observed or unobserved
            wordings, or a tense. Null: one kind.
        higher_is_better: Whether the worst variant of a task is the one with the lowest score; for
            a loss it is the one with the highest.
    """

    name: Literal["spread"] = "spread"
    score: str
    variant: str = "variant"
    task: str | None = None
    kind: str | None = None
    higher_is_better: bool = True

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        return list(dict.fromkeys(filter(None, (self.score, self.variant, self.task, self.kind))))


def spread(rows: pl.DataFrame, method: Spread) -> dict[str, Any]:
    """The spread by kind.

    Args:
        rows: One row for each score; those without a score count as `without_score`.
        method: The options.

    Returns:
        By kind: `rows`, `without_score`, `tasks`, `variants` (of all tasks), `mean`, `deviation`
        (of the population of a task's variants, mean over tasks), `sensitivity`, `tasks_of_mean_0`,
        `worst` and `best` (means over tasks).

    Example:
        >>> rows = pl.DataFrame({"variant": ["a", "b"], "score": [0.5, 1.0]})
        >>> result = spread(rows, Spread(score="score"))["all"]
        >>> result["mean"], result["deviation"], result["worst"], round(result["sensitivity"], 4)
        (0.75, 0.25, 0.5, 0.3333)
    """
    table = rows.select(
        kind=_labels(rows, method.kind),
        task=_labels(rows, method.task),
        variant=_labels(rows, method.variant),
        score=pl.col(method.score).cast(pl.Float64).fill_nan(None),
    )
    scored = table.drop_nulls("score")
    variants = scored.group_by("kind", "task", "variant", maintain_order=True).agg(
        pl.col("score").mean()
    )
    score = pl.col("score")
    tasks = variants.group_by("kind", "task", maintain_order=True).agg(
        variants=pl.len(),
        mean=score.mean(),
        deviation=score.std(ddof=0),
        worst=score.min() if method.higher_is_better else score.max(),
        best=score.max() if method.higher_is_better else score.min(),
    )
    return {kind: _summary(table, tasks, kind) for kind in sorted(table["kind"].unique().to_list())}


def _labels(rows: pl.DataFrame, name: str | None) -> pl.Expr:
    """A column as labels; a list by its first element."""
    if name is None:
        return pl.lit(ALL)
    column = pl.col(name)
    column = column.list.first() if isinstance(rows.schema[name], pl.List) else column
    return column.cast(pl.String).fill_null("(none)")


def _summary(table: pl.DataFrame, all_tasks: pl.DataFrame, kind: str) -> dict[str, Any]:
    of_kind = table.filter(pl.col("kind") == kind)
    tasks = all_tasks.filter(pl.col("kind") == kind)
    varying = tasks.filter(pl.col("mean") != 0)
    return {
        "rows": len(of_kind),
        "without_score": of_kind["score"].null_count(),
        "tasks": len(tasks),
        "variants": int(tasks["variants"].sum()),
        "mean": tasks["mean"].mean(),
        "deviation": tasks["deviation"].mean(),
        "sensitivity": (varying["deviation"] / varying["mean"]).mean(),
        "tasks_of_mean_0": len(tasks) - len(varying),
        "worst": tasks["worst"].mean(),
        "best": tasks["best"].mean(),
    }
