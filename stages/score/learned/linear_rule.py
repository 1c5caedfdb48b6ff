"""InstructMining's linear rule: the loss that a model would have after training on data like a row.

InstructMining: Instruction Mining: High-Quality Instruction Data Selection for Large Language
Models (Cao et al. 2023, arXiv:2307.06290).

As in the paper: the logarithm of the loss on an evaluation set is a linear function of the mean
indicators of what a model was trained on, fitted by least squares over many trainings; a row is
scored by the same function of its own indicators, and a low one is good. The rules that the
paper publishes are `instructmining-v1`, 1.0694 - 0.1498 Rew + 8.257e-5 Len - 0.9350 Knn_6 (reward
of the answer, its length, distance to the sixth neighbor), and `instructmining-v3`, 0.0274 -
0.0078 Rew + 0.4421 Und - 0.3212 Nat - 0.1520 Coh (understandability, naturalness and coherence
by UniEval).

Ours: indicators are columns or expressions, and which of them stands for which is the recipe's to
say: a published rule holds for the paper's own reward model and embedder alone. The report of a
fit has R2, standard errors and t-values; leaving out what is not significant is left to you.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import OptionError, UserError
from pipeline.types import option_group
from stages._common.charts import table
from stages._selection.scores import Expression, expression_columns, scores
from stages.score.learned.labels import Floats

PUBLISHED: Final[dict[str, dict[str, float]]] = {
    "instructmining-v1": {"Rew": -0.1498, "Len": 8.257e-5, "Knn_6": -0.9350},
    "instructmining-v3": {"Rew": -0.0078, "Und": 0.4421, "Nat": -0.3212, "Coh": -0.1520},
}
INTERCEPTS: Final = {"instructmining-v1": 1.0694, "instructmining-v3": 0.0274}


@option_group
class LinearRule:
    """The expected logarithm of the loss after training on such rows (InstructMining).

    `learned` is low for good rows: `select.top` with `descending: false`. Give one of
    `published`, `coefficients`, and the option `runs` of the stage, from which they are fitted.

    Args:
        indicators: For each indicator by name, the column or SQL expression of a row.
        published: The rule of a version of the paper.
        coefficients: The coefficient of each indicator by name.
        intercept: What is added, with `coefficients`.
        target: The column of `runs` with the loss after training.
        log_target: Whether its logarithm is what is fitted.
    """

    name: Literal["linear_rule"] = "linear_rule"
    indicators: Mapping[str, Expression]
    published: Literal["instructmining-v1", "instructmining-v3"] | None = None
    coefficients: Mapping[str, float] = field(default_factory=dict, hash=False)
    intercept: float = 0.0
    target: str = "loss"
    log_target: bool = True

    def __post_init__(self) -> None:
        if not self.indicators:
            raise ValueError("indicators must name at least one, got {}")
        if self.published and self.coefficients:
            raise ValueError("coefficients must be left out with published")
        names = set(PUBLISHED[self.published] if self.published else self.coefficients)
        if names and names != {*self.indicators}:
            needed, own = (", ".join(sorted(n)) for n in (names, self.indicators))
            raise ValueError(f"indicators must be {needed}, got {own}")
        if self.intercept and not self.coefficients:
            raise ValueError(
                f"intercept must be left out without coefficients, got {self.intercept}"
            )


class Rule(NamedTuple):
    """A rule.

    Attributes:
        coefficients: By indicator.
        intercept: What is added.
        fitted: What the report says of a fit; empty for a rule that was given.
    """

    coefficients: Mapping[str, float]
    intercept: float
    fitted: Mapping[str, Any]


def rule_columns(method: LinearRule) -> list[str]:
    """The columns that are read."""
    named = [c for text in method.indicators.values() for c in expression_columns(text)]
    return list(dict.fromkeys(named))


def check_rule(method: LinearRule, runs: Sequence[str]) -> None:
    """Check that the rule comes from one place.

    Args:
        method: The options.
        runs: The option of the stage.

    Raises:
        OptionError: It comes from none, or from two.
    """
    sources = bool(method.published) + bool(method.coefficients) + bool(runs)
    if sources != 1:
        what = "must be one of method.published, method.coefficients and runs"
        raise OptionError("runs", f"{what}, got {sources or 'none'} of them")


def score_by_rule(
    rows: pl.DataFrame, method: LinearRule, runs: Sequence[str]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The column of `LinearRule`, and the report.

    Args:
        rows: The rows to score; one that lacks an indicator has no score.
        method: The options.
        runs: The files of the trainings.

    Raises:
        UserError: The trainings do not determine the rule.
    """
    rule = rule_of(method, runs)
    values = np.stack([scores(rows, text) for text in method.indicators.values()], axis=1)
    weights = np.array([rule.coefficients[name] for name in method.indicators])
    learned = pl.Series("learned", values @ weights + rule.intercept).fill_nan(None)
    report = {
        "method": method.name,
        "intercept": rule.intercept,
        "coefficients": dict(rule.coefficients),
        "rows": {
            "scored": len(learned) - learned.null_count(),
            "without_indicator": learned.null_count(),
        },
        **rule.fitted,
    }
    return learned.to_frame(), report


def rule_of(method: LinearRule, runs: Sequence[str]) -> Rule:
    """The rule: published, given, or fitted.

    Args:
        method: The options.
        runs: The files of the trainings.

    Raises:
        UserError: The trainings do not determine the rule.
    """
    if method.published:
        return Rule(PUBLISHED[method.published], INTERCEPTS[method.published], {})
    if method.coefficients:
        return Rule(method.coefficients, method.intercept, {})
    table_of_runs = pl.concat([_read_runs(path, method) for path in runs])
    usable = table_of_runs.drop_nulls()
    target = usable[method.target].to_numpy()
    if method.log_target and (target <= 0).any():
        raise UserError(
            f"{method.target} must be above 0 for its logarithm, got {target.min():g}",
            where=runs[0],
            hint="write log_target: false",
        )
    design = np.column_stack([np.ones(len(usable)), usable.select([*method.indicators]).to_numpy()])
    unusable = len(table_of_runs) - len(usable)
    return _least_squares(design, np.log(target) if method.log_target else target, method, unusable)


def _read_runs(path: str, method: LinearRule) -> pl.DataFrame:
    try:
        frame = pl.read_csv(Path(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise UserError("runs must be a table in CSV", where=path, why=why) from None
    needed = [*method.indicators, method.target]
    if missing := [name for name in needed if name not in frame.columns]:
        raise UserError(
            f"runs must have the columns {', '.join(needed)}, got none named {', '.join(missing)}",
            where=path,
        )
    numbers = frame.select(pl.col(needed).cast(pl.Float64, strict=False))
    return numbers.select(pl.when(pl.all().is_finite()).then(pl.all()))


def _least_squares(design: Floats, target: Floats, method: LinearRule, unusable: int) -> Rule:
    names = ["intercept", *method.indicators]
    count, width = design.shape
    if count <= width or np.linalg.matrix_rank(design) < width:
        raise UserError(
            f"runs must determine {width} coefficients, got {count} trainings that do not",
            why=f"{unusable} more lack a number"
            if unusable
            else "some indicators are constant, or there are too few trainings",
            hint="add trainings whose indicators differ, or leave indicators out",
        )
    if np.ptp(target) == 0:
        raise UserError(f"the {method.target} of runs must differ, got {target[0]:g} for all")
    weights = np.linalg.lstsq(design, target, rcond=None)[0]
    residual = float(((target - design @ weights) ** 2).sum())
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * residual / (count - width))
    fitted = {
        "trainings": count,
        "trainings_without_number": unusable,
        "r2": 1 - residual / float(((target - target.mean()) ** 2).sum()),
        "standard_errors": dict(zip(names, errors.tolist(), strict=True)),
    }
    coefficients = dict(zip(method.indicators, weights[1:].tolist(), strict=True))
    return Rule(coefficients, float(weights[0]), fitted)


def rule_page(report: Mapping[str, Any]) -> str:
    """The report as Markdown.

    Args:
        report: What `score_by_rule` gives.
    """
    errors = report.get("standard_errors", {})
    weights = {"intercept": report["intercept"], **report["coefficients"]}
    rows = [
        [name, f"{value:.5g}", *(_error(value, errors[name]) if errors else [])]
        for name, value in weights.items()
    ]
    header = ["indicator", "coefficient", *(["standard error", "t"] if errors else [])]
    said = (
        f"Fitted over {report['trainings']:,} trainings, R2 {report['r2']:.3f}."
        if errors
        else "The rule was given, and not fitted here."
    )
    return "\n\n".join(["# The linear rule", said, table(header, rows)])


def _error(value: float, error: float) -> list[str]:
    """The standard error, and t."""
    return [f"{error:.3g}", f"{value / error:.1f}" if error else "-"]
