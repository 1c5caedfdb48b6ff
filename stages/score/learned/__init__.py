"""Scores that are learned: heads trained here on labelled rows, and rules over columns.

Rows with labels come in on the edge `labelled`, rows to score on the other. A head is trained on
the labelled rows of some prompts and tested on those of the others; the report says how good it
is there, beside the length of the answer alone, and beside the same head after its labels have
been shuffled, which must be at chance. Features are a column of vectors, of texts
(`embed.text`) or of a model's hidden states (`embed.activations`), and other columns.

What papers learn, in these options:

- DEITA (Liu et al. 2023, arXiv:2312.15685): complexity and quality by a model that was trained
  on grades of a strong one: `method: {name: regressor, label: judge_complexity}` over hidden
  states of a causal model. As in the paper: grades from 1 to 6 as labels, the expected grade
  as the score. Ours: a linear head, or `fine_tuned` with one number in place of a distribution
  over grades, and one score of a conversation.
- Cappy (Tan et al. 2023, arXiv:2311.06720): a small regressor of how right an answer is:
  `regressor` with that as the label.
- QuRating (Wettig et al. 2024, arXiv:2402.09739) and HelpSteer2-Preference (Wang et al. 2024,
  arXiv:2410.01257): a rater learned from comparisons: `pairs`, with the votes of
  `score.judge` with `method: pairwise` as the label.
- Self-J (Ye and Ng 2024, arXiv:2409.00935): a judge that a model trains for itself: its own grades
  beside a reference answer are the labels, the head needs no reference: `regressor` with
  `label: 0.5 * judge_score + 0.5 * similarity`. Ours: the weights of that sum.
- IterSelectTune: `classifier` with `similarity: true` (`similarity.py`); A-LoL: `regressor` with
  `advantage` (`advantage.py`); InstructMining: `linear_rule` (`linear_rule.py`); CAR: `car`
  (`car.py`); ready-made reward models: `reward_model` (`reward_model.py`).

Files: `report.json` and `report.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.models.counting import is_counting
from pipeline.stage import Columns, Edges, InputFiles, Records, stage
from stages._common.edges import require_input, required
from stages._selection.scores import expression_columns, scores
from stages.score.learned import page
from stages.score.learned.advantage import advantages
from stages.score.learned.car import Car, car_columns, rank_teachers, teachers_page
from stages.score.learned.fine_tuned import FineTuned, fine_tune
from stages.score.learned.heads import Classifier, Pairs, Predict, Regressor
from stages.score.learned.held_out import train_and_test
from stages.score.learned.labels import (
    Head,
    Labelled,
    Trained,
    feature_columns,
    features_of,
    labelled_columns,
    prompts_of,
    read_labelled,
)
from stages.score.learned.linear_rule import (
    LinearRule,
    check_rule,
    rule_columns,
    rule_page,
    score_by_rule,
)
from stages.score.learned.reward_model import RewardModel, reward
from stages.score.learned.similarity import nearest_positive

Method = Annotated[
    Classifier | Regressor | Pairs | FineTuned | LinearRule | Car | RewardModel,
    Field(discriminator="name"),
]


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    method = options.method
    match method:
        case Head():
            more = [method.advantage] if isinstance(method, Regressor) else []
            named = [c for text in more for c in expression_columns(text)]
            rows = ["messages", "tools", *feature_columns(method), *named]
            return {"rows": list(dict.fromkeys(rows)), "labelled": labelled_columns(method)}
        case FineTuned():
            return {"rows": ["messages", "tools"], "labelled": labelled_columns(method)}
        case LinearRule():
            return {"rows": rule_columns(method), "labelled": []}
        case Car():
            return {"rows": car_columns(method), "labelled": []}
    return {"rows": ["messages", "tools"], "labelled": []}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    is_trained = isinstance(options.method, Trained)
    require_input(edges, "labelled", options.method.name, connected=is_trained)
    return _added(options.method)


def _added(method: Method) -> Columns:
    match method:
        case Car():
            return {"learned": pl.Float64, "learned_rank": pl.Int32}
        case Classifier(similarity=True):
            more: Columns = {"learned_similarity": pl.Float64}
        case Regressor(advantage=str()):
            more = {"learned_advantage": pl.Float64, "learned_priority": pl.Float64}
        case Trained():
            more = {}
        case _:
            return {"learned": pl.Float64}
    return {"learned": pl.Float64, "learned_in_training": pl.Boolean, **more}


def _check(options: SimpleNamespace) -> None:
    method = options.method
    if isinstance(method, RewardModel | FineTuned) != (options.model is not None):
        needed = "given" if options.model is None else "left out"
        raise OptionError("model", f"must be {needed} with method: {method.name}")
    if isinstance(method, LinearRule):
        check_rule(method, options.runs)
    elif options.runs:
        raise OptionError("runs", f"must be left out with method: {method.name}")


@stage(version=2, scope="set", reads=_reads, adds=_adds, check=_check, files=True)
def learned(
    ctx: Context,
    rows: Records,
    labelled: Records | None = None,
    *,
    method: Method,
    model: LanguageModel | None = None,
    runs: InputFiles = (),
) -> pl.DataFrame:
    """Score rows by what is learned from labelled ones, or by a rule over columns.

    Adds `learned` (null where a feature is missing), and for heads that are trained here
    `learned_in_training`: whether rows with this prompt were among the training rows, for which
    a head's score says less than the report does. Each method says what else it adds.
    `report.json` and `report.md` have the accuracy on the rows held out. Deciding is a stage of
    its own: `select.top`, or `select.response`.

    Args:
        rows: The rows to score.
        labelled: Rows with labels, for heads that are trained here. They may be among the rows.
        method: `classifier`, `regressor`, `pairs`, `fine_tuned`, `linear_rule`, `car` or
            `reward_model`.
        model: The reward model of `reward_model`, or the language model that `fine_tuned`
            trains: a folder or a name on the hub.
        runs: For `linear_rule`, tables in CSV with one training a line: its mean indicators and
            its loss. Paths or patterns.

    Returns:
        The columns. Failed: rows that the reward model's chat template cannot render.

    Raises:
        UserError: The labels, the trainings or the model cannot teach a score.

    Example:
        ```yaml
        scored:
          uses: score.learned
          needs: {rows: vectors, labelled: judged_vectors}
          with: {method: {name: regressor, label: judge_quality}}
        best: {uses: select.top, needs: scored, with: {score: learned, budget: 1000}}
        ```
    """
    match method:
        case LinearRule():
            result, report = score_by_rule(rows, method, runs)
            text = rule_page(report)
        case Car():
            result, report = rank_teachers(rows, method)
            text = teachers_page(report)
        case RewardModel() | FineTuned() if is_counting():
            return rows.select(pl.lit(0, kind).alias(n) for n, kind in _added(method).items())
        case FineTuned():
            assert model is not None  # `_check` saw to it
            examples = required(labelled, "labelled", method.name)
            result, data, report = fine_tune(ctx, rows, examples, model, method)
            result, text = result.with_columns(_in_training(rows, data)), page.page(report)
        case RewardModel():
            assert model is not None
            result, report = reward(ctx, rows, model, method)
            counts = ", ".join(f"{n:,} {name}" for name, n in report["rows"].items())
            text = f"# Rewards by {model.short_name}\n\nRows: {counts}."
        case _:
            examples = required(labelled, "labelled", method.name).sort("id")
            data = read_labelled(examples, method, features_of(examples, method))
            head, report = train_and_test(data, method)
            result, text = _scored(rows, method, head, data), page.page(report)
    _write(ctx.files, report, text)
    return result


def _scored(rows: pl.DataFrame, method: Head, head: Predict, data: Labelled) -> pl.DataFrame:
    """The columns of a head that was trained here."""
    features = features_of(rows, method)
    complete = ~np.isnan(features).any(axis=1)
    values = np.full(len(rows), np.nan)
    values[complete] = head(features[complete])
    columns = {
        "learned": pl.Series(values, dtype=pl.Float64).fill_nan(None),
        "learned_in_training": _in_training(rows, data),
    }
    match method:
        case Classifier(similarity=True):
            positive = data.features[(data.labels == 1) & ~data.is_held_out]
            columns["learned_similarity"] = nearest_positive(features, positive)
        case Regressor(advantage=str() as outcome):
            columns |= advantages(scores(rows, outcome), values)
    return pl.DataFrame(columns)


def _in_training(rows: pl.DataFrame, data: Labelled) -> pl.Series:
    """Whether rows with this prompt were among the training rows."""
    trained = {p for p, held in zip(data.prompts, data.is_held_out, strict=True) if not held}
    seen = [prompt in trained for prompt in prompts_of(rows)]
    return pl.Series("learned_in_training", seen, pl.Boolean)


def _write(files: Path, report: Mapping[str, Any], text: str) -> None:
    dumped = json.dumps(report, indent=1, ensure_ascii=False)
    (files / "report.json").write_text(dumped + "\n", "utf-8")
    (files / "report.md").write_text(text + "\n", "utf-8")
