"""What a stage returned against what it declares.

One row for each input row, the declared columns in their types: the user's own stages are
checked like ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.plan import PlannedStep
from pipeline.stage import BASE_COLUMNS, VERDICT


def validated(planned: PlannedStep, result: Any, ids: pl.Series | None) -> pl.DataFrame:
    """The output with ids and exactly the declared columns, in their types.

    Args:
        planned: The step.
        result: What its stage returned.
        ids: Of the rows that it annotates; None where it makes rows of its own.

    Raises:
        UserError: It is not what the stage declares.
    """
    stage = planned.step.stage
    if not isinstance(result, pl.DataFrame):
        raise contract_error(
            planned, f"must return a polars DataFrame, got {type(result).__name__}"
        )
    if ids is None:
        assert stage.makes is not None
        columns = {**BASE_COLUMNS[stage.makes], **declared(planned)}
        source = {"file": pl.String(), "line": pl.Int64()}
        return _select_columns(planned, result, {**columns, **source}, optional=("file", "line"))
    if len(result) != len(ids):
        raise contract_error(
            planned, f"must return one row for each of the {len(ids)} input rows, got {len(result)}"
        )
    return _select_columns(planned, result, declared(planned)).select(ids, pl.all())


def empty_rows(planned: PlannedStep) -> pl.DataFrame:
    """What `validated` gives for no rows.

    Args:
        planned: The step.
    """
    stage = planned.step.stage
    none = pl.DataFrame(schema=declared(planned))
    if not stage.creates:
        return validated(planned, none, pl.Series("id", [], dtype=pl.String))
    assert stage.makes is not None
    columns = {**BASE_COLUMNS[stage.makes], **declared(planned)}
    return validated(planned, pl.DataFrame(schema=columns), None)


def declared(planned: PlannedStep) -> dict[str, Any]:
    """The added columns under the names that the stage itself uses."""
    original = {new: old for old, new in planned.step.rename.items()}
    return {original.get(name, name): dtype for name, dtype in planned.step.own.items()}


def _select_columns(
    planned: PlannedStep,
    result: pl.DataFrame,
    columns: Mapping[str, Any],
    optional: Sequence[str] = (),
) -> pl.DataFrame:
    """The declared columns and the verdict, in this order and in their types.

    Args:
        planned: The step.
        result: What its stage returned.
        columns: Columns with their types.
        optional: Those of them that may be missing; they are then null.
    """
    verdict = {name: pl.String() for name in VERDICT}
    missing = [name for name in columns if name not in {*result.columns, *optional}]
    undeclared = [name for name in result.columns if name not in {*columns, *verdict, "id"}]
    if missing:
        raise contract_error(planned, f"declares the columns {missing}, but did not return them")
    if undeclared:
        raise contract_error(planned, f"returned the columns {undeclared}, but declares no such")
    try:
        return result.select(
            pl.col(name).cast(dtype)
            if name in result.columns
            else pl.repeat(None, len(result), dtype=dtype).alias(name)
            for name, dtype in {**columns, **verdict}.items()
        )
    except pl.exceptions.PolarsError as error:
        raise contract_error(
            planned, f"returned a column of another type than declared: {error}"
        ) from None


def contract_error(planned: PlannedStep, what: str) -> UserError:
    """An error of the stage's author.

    Args:
        planned: The step.
        what: What the stage did.
    """
    return UserError(
        f"the stage {planned.step.stage.name} {what}",
        where=planned.step.where,
        hint=f"fix {planned.step.stage.function.__name__}(); the stage contract is documented "
        "in pipeline/stage.py",
    )
