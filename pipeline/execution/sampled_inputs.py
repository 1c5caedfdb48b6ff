"""What a stage is counted on: samples of the rows that come, or will come, on its edges."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import polars as pl

from pipeline.execution.expected_rows import ExpectedOutputs, sample
from pipeline.execution.plan import PlannedStep, edge_argument
from pipeline.stage import ALL, DataKind, OptionalColumn


class SampledInputs(NamedTuple):
    """What a stage is counted on.

    Attributes:
        edges: Its inputs.
        rows: How many rows the longest of them stands for.
        size: How many rows it has.
        exact: Whether no fewer rows are expected.
    """

    edges: dict[str, Any]
    rows: float
    size: int
    exact: bool


def sampled_inputs(
    planned: PlannedStep, outputs: ExpectedOutputs, limit: int
) -> SampledInputs | None:
    """What the stage is counted on; None where nothing is known of one of its inputs.

    Args:
        planned: The step.
        outputs: What the steps before it have given or will give.
        limit: At most so many rows of each input.
    """
    step, edges = planned.step, {}
    longest, exact = (0.0, 1), True
    for edge in step.stage.edges:
        values: list[Any] = []
        names = step.needs.get(edge.name, [])
        for name in names:
            if edge.kind is DataKind.FILES:
                if name not in outputs.outputs.artifacts:
                    return None
                values.append(outputs.outputs.artifacts[name].files)
            elif (rows := outputs.on_edge(step, edge.name, name)) is None:
                return None
            else:
                reads = step.stage.reads(edge.name, step.options)
                every = edge.kind is not DataKind.RECORDS or reads == ALL
                declared = rows.columns if every else reads
                columns = [c for c in declared if c != "id" and _is_read(c, rows.columns)]
                frame = sample(rows.read(columns), limit)
                number = rows.at_most if math.isfinite(rows.at_most) else rows.expected
                longest = max(longest, (number, len(frame) or 1))
                exact = exact and rows.expected == rows.at_most
                values.append(frame)
        edges[edge.name] = edge_argument(edge, names, values)
    return SampledInputs(edges, *longest, exact)


def _is_read(column: str, present: Collection[str]) -> bool:
    return column in present or not isinstance(column, OptionalColumn)


def half_of(value: Any, size: int) -> Any:
    """Half of an input's rows.

    Args:
        value: The input.
        size: The rows of the longest input.
    """
    if isinstance(value, list):
        return [half_of(one, size) for one in value]
    return sample(value, max(1, size // 2)) if isinstance(value, pl.DataFrame) else value
