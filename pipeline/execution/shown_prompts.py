"""What stages would ask first: one request of each that asks a model, and nothing is sent.

The stage's own steps are run on its first row, as when requests are counted, or on more where
one is not enough. Where the rows are not there yet, others stand in, whose texts say so.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.count_requests import MAX_SECONDS, is_own, quiet
from pipeline.execution.expected_rows import placeholder
from pipeline.execution.first_rows import first_ids
from pipeline.execution.plan import PlannedStep, StepOutputs, edge_argument, edge_columns
from pipeline.execution.time_limit import time_limit
from pipeline.models.base import Completion, Embedder, LanguageModel, Request
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from pipeline.recipe.graph import Step
from pipeline.stage import BASE_COLUMNS, Columns, DataKind, Edge

ROWS: Final = (1, 64, None)
"""Rows of its first input that a stage is run on, until it asks something; None for all."""

_PLACEHOLDERS: Final = 64
_SENTENCES: Final = 40
"""Of a text that stands in for a document, which must be long enough to be read."""


@dataclass(frozen=True)
class ShownPrompt:
    """The first request of a step.

    Attributes:
        name: The step.
        uses: Its stage.
        model: The model that it goes to; empty where there is no request.
        turns: Role and text of each turn; the role of a text to be continued is empty.
        waits_for: The steps whose rows are placeholders, since they have not run.
        why: Why there is no request; empty where there is one.
    """

    name: str
    uses: str
    model: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)
    waits_for: list[str] = field(default_factory=list)
    why: str = ""


class _FirstRequest(BaseException):
    """Ends a stage with its first request: no handler of the stage's may take it."""

    def __init__(self, model: LanguageModel, request: Request) -> None:
        super().__init__()
        self.model, self.request = model, request


class _Engine(CountingEngine):
    """Ends the stage with its first request."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Raise the first request."""
        if requests:
            raise _FirstRequest(self.model, requests[0])
        return []


class _ShowingContext(Context):
    """A context whose models send nothing."""

    def open(self, model: LanguageModel | Embedder) -> Any:
        """What stands in for the engine of a model."""
        return _Engine(model) if isinstance(model, LanguageModel) else CountingEncoder()


def shown_prompts(
    planned_steps: Sequence[PlannedStep], targets: Sequence[str] = ()
) -> list[ShownPrompt]:
    """One rendered prompt of each step that asks a language model.

    Args:
        planned_steps: The plan, with all that the steps need.
        targets: The steps to show; empty for all of them.
    """
    outputs, prompts = StepOutputs(), []
    columns = {planned.step.name: planned.step.columns for planned in planned_steps}
    for planned in planned_steps:
        step = planned.step
        if step.asks_model and (not targets or step.name in targets):
            prompts.append(_shown(planned, _Rows(outputs, columns)))
        if planned.artifact:
            outputs.add(step, planned.artifact)
    return prompts


class _Rows(NamedTuple):
    """The rows behind steps.

    Attributes:
        outputs: Those of steps that have run.
        columns: The columns of all steps, with their types.
    """

    outputs: StepOutputs
    columns: Mapping[str, Columns]


def _shown(planned: PlannedStep, rows: _Rows) -> ShownPrompt:
    step = planned.step
    edges = [edge for edge in step.stage.edges if step.needs.get(edge.name)]
    missing = [
        n for edge in edges for n in step.needs[edge.name] if n not in rows.outputs.artifacts
    ]
    what = step.name, step.stage.name
    if any(edge.kind is DataKind.FILES and {*step.needs[edge.name]} & {*missing} for edge in edges):
        return ShownPrompt(*what, waits_for=missing, why=f"{', '.join(missing)} must run first")
    why = "it asks nothing about these rows"
    for number in ROWS:
        try:
            _call(planned, rows, number)
        except _FirstRequest as first:
            return ShownPrompt(*what, first.model.model, _turns(first.request), missing)
        except UserError as error:
            why = error.what
        except Exception as error:  # of the rows or of the stage: its run will say so
            why = f"{type(error).__name__}: {error}"
    return ShownPrompt(*what, waits_for=missing, why=why)


def _turns(request: Request) -> list[tuple[str, str]]:
    prompt = request.prompt
    return [("", prompt)] if isinstance(prompt, str) else list(prompt)


def _call(planned: PlannedStep, rows: _Rows, number: int | None) -> None:
    """Run the stage on so many of its rows; it ends with its first request."""
    inputs = dict(_inputs(planned.step, rows, number))
    limited = time_limit(MAX_SECONDS) if is_own(planned) else nullcontext()
    with tempfile.TemporaryDirectory() as folder, counting(), quiet(), limited:
        context = _ShowingContext.scratch(Path(folder))
        planned.step.stage.call(context, inputs, vars(planned.options))


def _inputs(step: Step, rows: _Rows, number: int | None) -> Iterator[tuple[str, Any]]:
    """The inputs by edge; of the first one that is connected at most so many rows."""
    limited = True
    for edge in step.stage.edges:
        names = step.needs.get(edge.name, [])
        values = [_read(step, edge, name, rows, number if limited else None) for name in names]
        limited = limited and not names
        yield edge.name, edge_argument(edge, names, values)


def _read(
    step: Step, edge: Edge, name: str, rows: _Rows, number: int | None
) -> pl.DataFrame | Path:
    if edge.kind is DataKind.FILES:
        return rows.outputs.artifacts[name].files
    view = rows.outputs.views.get(name)
    if view is None:
        columns = {**BASE_COLUMNS[edge.kind], **rows.columns.get(name, {})}
        return _placeholders(name, columns).head(number or _PLACEHOLDERS)
    frame = view.read(edge_columns(step, edge.name, edge.kind, view))
    if number is None:
        return frame
    ids = first_ids(view.read, view.columns, number)
    return frame.filter(pl.col("id").is_in(ids.implode()))


def _placeholders(name: str, columns: Columns) -> pl.DataFrame:
    """Rows whose texts say what will stand there.

    Args:
        name: The step that they will come from.
        columns: Their columns, with the types.
    """
    return pl.DataFrame(
        {
            c: pl.Series(c, [_value(c, dtype, i, name) for i in range(_PLACEHOLDERS)], dtype=dtype)
            for c, dtype in {**columns, "id": pl.String}.items()
        }
    )


def _value(column: str, dtype: Any, number: int, name: str) -> Any:
    def text(what: str, row: int = number) -> str:
        return f"[the {what} of row {row + 1} of {name}, which has not run yet]"

    if column == "id":
        return f"{number:032x}"
    if column in ("messages", "prompt", "chosen", "rejected"):
        # Two answers to each, for judges that compare, and one with code, for who reads code.
        question, answer = text("instruction", number // 2), text("answer")
        answer = f"```\n{answer}\n```" if number % 2 else answer
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"prompt": turns[:1], "messages": turns}.get(column, turns[1:])
    if column == "text":
        return " ".join([text("text") + "."] * _SENTENCES)
    if column == "extra":
        return json.dumps({"is_classification": number % 4 < 2})  # as seed tasks have it
    if column in ("input_start", "tools", "parents"):
        return [] if column == "parents" else None
    if dtype == pl.List(pl.String):
        return [text(column)]
    return text(column) if dtype == pl.String else placeholder(dtype)
