"""Rows that a stage makes without a model, which the requests behind it depend on."""

from __future__ import annotations

import polars as pl

from pipeline.execution.count_requests import SAMPLE, count_on_sample, is_own, language_models
from pipeline.execution.expected_rows import ExpectedOutputs
from pipeline.execution.plan import PlannedStep


def made_rows(planned: PlannedStep, outputs: ExpectedOutputs) -> tuple[pl.DataFrame | None, float]:
    """The rows that a step makes of others, or of nothing, without a model: that is soon tried.

    Args:
        planned: The step.
        outputs: What the steps before it have given or will give.

    Returns:
        The rows, and how many they stand for; None and 0 for other steps.
    """
    stage = planned.step.stage
    of_rows = bool(stage.edges) and not stage.edges[0].many
    if not (stage.creates and of_rows) or language_models(planned) or is_own(planned):
        return None, 0
    counted = count_on_sample(planned, outputs, None, SAMPLE)
    return (counted.output, counted.rows) if counted else (None, 0)
