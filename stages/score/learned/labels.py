"""Labelled rows as numbers: features, labels, and which rows are held out.

Rows without a readable label, or without a feature, train nothing and count in the report.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.errors import UserError
from pipeline.types import PositiveFloat, option_group
from schemas.records import prompt_id, response
from stages._selection.groups import group_columns, groups_of
from stages._selection.random_draws import uniform
from stages._selection.scores import Expression, expression_columns, scores
from stages._vectors.arrays import as_matrix

Floats = NDArray[np.float64]

PROMPT: Final = "prompt"
"""The group of rows with one prompt."""

HeldOut = Annotated[float, Field(gt=0, lt=1)]


@option_group
class Trained:
    """What every head that is trained here has.

    Args:
        label: The label of a labelled row: a column, or an SQL expression such as
            `judge_wins < 0.5`. A row without one (null, NaN) is counted and trains nothing.
        vector: The column of vectors, on both edges; null for `features` alone.
        features: More features: columns, or SQL expressions over columns, on both edges.
        group: Rows of a group are on one side of the split, and `pairs` compares within
            them: `prompt`, or a column, an SQL expression or `source` (see
            `stages/_selection/groups.py`).
        held_out: The chance of a group to be held out, by a hash of its name and the seed.
        regularization: The weight of the squared weights; features are standardized.
        seed: Of the split, of the shuffled labels and of the intervals.
    """

    label: Expression
    vector: str | None = "vector"
    features: tuple[Expression, ...] = ()
    group: Expression = PROMPT
    held_out: HeldOut = 0.2
    regularization: PositiveFloat = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vector is None and not self.features:
            raise ValueError("features must be given without a vector, got none")


class Labelled(NamedTuple):
    """The labelled rows that train the head or test it, in the order of their ids.

    Attributes:
        ids: Their ids.
        features: Shape (rows, features).
        length: The logarithm of 1 + the characters of the answer, shape (rows, 1).
        labels: Shape (rows,).
        groups: The number of each row's group, shape (rows,).
        is_held_out: Shape (rows,).
        prompts: The ids of the prompts.
        counts: Rows that were given, and that have no label or lack a feature.
    """

    ids: pl.Series
    features: Floats
    length: Floats
    labels: Floats
    groups: NDArray[np.int64]
    is_held_out: NDArray[np.bool_]
    prompts: list[str]
    counts: dict[str, int]


def feature_columns(method: Trained) -> list[str]:
    """The columns that features are made of."""
    named = [column for feature in method.features for column in expression_columns(feature)]
    return list(dict.fromkeys([*([method.vector] if method.vector else []), *named]))


def labelled_columns(method: Trained) -> list[str]:
    """The columns that are read of labelled rows."""
    group = [] if method.group == PROMPT else group_columns(method.group)
    columns = ["messages", "tools", *feature_columns(method), *group]
    return list(dict.fromkeys([*columns, *expression_columns(method.label)]))


def features_of(rows: pl.DataFrame, method: Trained) -> Floats:
    """The features of each row, NaN where one is missing: shape (rows, features)."""
    parts = [scores(rows, feature)[:, None] for feature in method.features]
    if method.vector is not None:
        parts.insert(0, as_matrix(rows[method.vector]).astype(np.float64))
    return np.concatenate(parts, axis=1)


def prompts_of(rows: pl.DataFrame) -> list[str]:
    """The id of each row's prompt. A loop, because ids are digests of JSON."""
    return [prompt_id(m or [], tools) for m, tools in rows.select("messages", "tools").iter_rows()]


def read_labelled(rows: pl.DataFrame, method: Trained) -> Labelled:
    """The labelled rows that have a label and all features, split by their groups.

    Args:
        rows: The labelled rows, in any order.
        method: The options.

    Raises:
        UserError: None is left, or all have one label.
    """
    rows = rows.sort("id")
    labels, features = scores(rows, method.label), features_of(rows, method)
    no_label, no_feature = np.isnan(labels), np.isnan(features).any(axis=1)
    usable = ~no_label & ~no_feature
    _check(labels[usable], method, len(rows), int(no_label.sum()))
    rows, prompts = rows.filter(pl.Series(usable)), prompts_of(rows.filter(pl.Series(usable)))
    names = pl.Series(prompts) if method.group == PROMPT else groups_of(rows, method.group).labels()
    _, groups = np.unique(names.to_numpy(), return_inverse=True)
    draws = uniform(names, f"score.learned:{method.seed}")
    length = rows.select(response().str.len_chars().fill_null(0)).to_series().to_numpy()
    return Labelled(
        ids=rows["id"],
        features=features[usable],
        length=np.log1p(length.astype(np.float64))[:, None],
        labels=labels[usable],
        groups=groups.astype(np.int64),
        is_held_out=draws < method.held_out,
        prompts=prompts,
        counts={
            "labelled": len(usable),
            "without_label": int(no_label.sum()),
            "without_features": int((no_feature & ~no_label).sum()),
        },
    )


def _check(labels: Floats, method: Trained, rows: int, unlabelled: int) -> None:
    if not len(labels):
        raise UserError(
            f"the edge 'labelled' must have rows with a label, got none among {rows:,}",
            why=f"{unlabelled:,} have no {method.label}, the others lack a feature",
            hint="see what the stage before gives, or name another label",
        )
    if len(set(labels.tolist())) < 2:
        raise UserError(
            f"the labels must differ, got {labels[0]:g} for all {len(labels):,} rows",
            why="nothing can be learned from labels that are all equal",
            hint="add rows with other labels, or name another expression as the label",
        )
