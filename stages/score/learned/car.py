"""CAR: which of several teachers a student learns most from.

CAR (stronger ≠ better teacher): Stronger Models are NOT Stronger Teachers for Instruction Tuning
(Xu et al. 2024, arXiv:2411.07133).

As in the paper: one number for each pair of a teacher and a student, r / (1 + beta L), with r the
mean reward of the teacher's answers and L their mean loss under the student's base model: a
high reward counts for less where the answers look foreign to the student.

Ours: rows that lack a reward or a loss count in the report and enter neither mean; rewards must
have a positive mean, since the loss would raise a negative one: scale them first, such as by a
head of `score.learned` with `method: classifier`. Beta is 3 after our recollection of the
paper's code: give your own. The report says how many prompts all teachers share: means over
different prompts compare the prompts too.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.types import NonNegativeFloat, option_group
from stages._common.charts import table
from stages._selection.groups import group_columns, groups_of
from stages._selection.scores import Expression, expression_columns, scores
from stages.score.learned.labels import Floats, prompts_of


@option_group
class Car:
    """Compatibility-adjusted reward: one number for each teacher (Xu et al. 2024).

    `learned` is the number of the row's teacher, and `learned_rank` its rank, 1 for the best.

    Args:
        reward: Each answer's reward: a column, or an SQL expression over columns.
        loss: Each answer's mean loss under the student's base model (`score.loss`).
        teacher: Whose answer a row is: a column (`generate.respond` adds `model`), an SQL
            expression, or `source`.
        beta: The weight of the loss.
    """

    name: Literal["car"] = "car"
    reward: Expression
    loss: Expression = "loss"
    teacher: Expression = "model"
    beta: NonNegativeFloat = 3.0


def car_columns(method: Car) -> list[str]:
    """The columns that are read."""
    named = [*expression_columns(method.reward), *expression_columns(method.loss)]
    return list(dict.fromkeys(["messages", "tools", *group_columns(method.teacher), *named]))


def compatibility_adjusted_reward(reward: float, loss: float, beta: float) -> float:
    """A teacher's number.

    Args:
        reward: The mean reward of its answers, above 0.
        loss: Their mean loss under the student.
        beta: The weight of the loss.

    Example:
        The better reward loses, because the answers are foreign to the student:

        >>> [round(compatibility_adjusted_reward(*m, 3.0), 5) for m in ((0.2, 1.5), (0.18, 0.5))]
        [0.03636, 0.072]
    """
    return reward / (1 + beta * loss)


def rank_teachers(rows: pl.DataFrame, method: Car) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The columns of `Car`, and the report.

    Args:
        rows: The answers of all teachers.
        method: The options.

    Raises:
        UserError: A teacher has no answer with both numbers, or no positive mean reward.
    """
    groups = groups_of(rows, method.teacher)
    reward, loss = scores(rows, method.reward), scores(rows, method.loss)
    measured = ~np.isnan(reward) & ~np.isnan(loss)
    numbers = [
        _teacher(name, reward, loss, measured, groups.codes == code, method)
        for code, name in enumerate(groups.names)
    ]
    best_first = sorted(numbers, key=lambda teacher: (-teacher["car"], teacher["teacher"]))
    ranks = {teacher["teacher"]: rank for rank, teacher in enumerate(best_first, start=1)}
    names = groups.labels().to_list()
    columns = {
        "learned": [numbers[code]["car"] for code in groups.codes],
        "learned_rank": [ranks[name] for name in names],
    }
    report = {
        "method": method.name,
        "beta": method.beta,
        "shared_prompts": _shared_prompts(rows.filter(pl.Series(measured)), method),
        "teachers": best_first,
    }
    return pl.DataFrame(columns, {"learned": pl.Float64, "learned_rank": pl.Int32}), report


def _shared_prompts(rows: pl.DataFrame, method: Car) -> int:
    """The prompts that have an answer of every teacher."""
    groups = groups_of(rows, method.teacher)
    answered = pl.DataFrame({"prompt": prompts_of(rows), "teacher": groups.labels()})
    teachers = answered.group_by("prompt").agg(pl.col("teacher").n_unique())["teacher"]
    return int((teachers == len(groups.names)).sum())


def _teacher(
    name: str,
    reward: Floats,
    loss: Floats,
    measured: NDArray[np.bool_],
    own: NDArray[np.bool_],
    method: Car,
) -> dict[str, Any]:
    """The numbers of one teacher, of whose answers `own` is true."""
    both = own & measured
    if not both.any():
        raise UserError(
            f"teacher {name!r} must have an answer with a reward and a loss, got none",
            why=f"{int(own.sum()):,} rows lack {method.reward} or {method.loss}",
        )
    mean_reward, mean_loss = float(reward[both].mean()), float(loss[both].mean())
    if mean_reward <= 0 or mean_loss < 0:
        which, value = ("reward", mean_reward) if mean_reward <= 0 else ("loss", mean_loss)
        needed = "above 0" if which == "reward" else "at least 0"
        raise UserError(
            f"the mean {which} of teacher {name!r} must be {needed}, got {value:g}",
            why="the loss would make a negative reward better",
            hint="scale the reward to be positive: 1 / (1 + exp(-reward))",
        )
    return {
        "teacher": name,
        "car": compatibility_adjusted_reward(mean_reward, mean_loss, method.beta),
        "reward": mean_reward,
        "loss": mean_loss,
        "rows": int(both.sum()),
        "without_numbers": int((own & ~measured).sum()),
    }


def teachers_page(report: dict[str, Any]) -> str:
    """The report as Markdown.

    Args:
        report: What `rank_teachers` gives.
    """
    rows = [
        [t["teacher"], f"{t['car']:.5f}", f"{t['reward']:.4f}", f"{t['loss']:.4f}",
         f"{t['rows']:,}", f"{t['without_numbers']:,}"]
        for t in report["teachers"]
    ]  # fmt: skip
    header = ["teacher", "CAR", "mean reward", "mean loss", "rows", "rows without numbers"]
    return "\n\n".join(
        [
            f"# Teachers by compatibility-adjusted reward (beta {report['beta']:g})",
            table(header, rows),
            f"{report['shared_prompts']:,} prompts have an answer of every teacher.",
        ]
    )
