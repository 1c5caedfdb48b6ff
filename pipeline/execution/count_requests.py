"""How many requests a step sends: its function is run on a sample against counting engines.

Of more rows than `SAMPLE` a sample is run, and scaled where requests grow with the rows.
Rows of steps that have not run yet are stood in for (`expected_rows`). Where nothing is known
of them either, requests are known if they do not depend on them: a stage that makes a fixed
number of rows sends as many requests whatever rows come in.

Requests whose answers the journal has are looked up as the stage itself would look them up,
and counted by themselves: nothing is sent for them.

A stage of the user's own may do more than send requests: where it takes long it is stopped,
and run on fewer rows.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.context import Context
from pipeline.execution.expected_rows import ExpectedOutputs
from pipeline.execution.known_requests import KnownRequests, by_model
from pipeline.execution.plan import PlannedStep
from pipeline.execution.sampled_inputs import half_of, sampled_inputs
from pipeline.execution.time_limit import TooSlow, time_limit
from pipeline.models.base import Embedder, LanguageModel
from pipeline.models.counting import (
    CountingEncoder,
    CountingEngine,
    RequestCount,
    assumes_nothing_dropped,
    counting,
)
from pipeline.stage import VERDICT, DataKind
from schemas.records import RECORD_COLUMNS

SAMPLE: Final = 4000
"""Rows on which a stage is counted."""

SAMPLE_RENDERED: Final = 1000
"""The same where every prompt is rendered, to be looked up in the journal."""

SMALL_SAMPLE: Final = 200
"""Rows on which a stage is counted that takes too long on `SAMPLE`."""

MAX_SECONDS: Final = 10.0
"""How long a stage of the user's own may run while it is counted."""

MAX_MADE: Final = 2000
"""Rows that a stage may make (option `num_rows`) while its requests are counted."""

_log = logging.getLogger(__name__)

_STAND_INS: Final = (64, 96)
"""Rows of the two stand-ins for inputs by which requests that do not depend on rows are known."""


class Counts(NamedTuple):
    """Requests to one model, scaled to all rows; the fields are those of `RequestCount`."""

    requests: float
    prompt_tokens: float
    answer_tokens: float
    most_requests: float
    most_prompt: float
    limit_tokens: float
    known: float = 0.0

    @classmethod
    def of(cls, count: RequestCount) -> Counts:
        return cls(**vars(count))

    def times(self, factor: float) -> Counts:
        return Counts(*(value * factor for value in self))


@dataclass(frozen=True)
class Counted:
    """What a stage does as far as it can be known before it runs.

    Attributes:
        counts: Its requests, by model.
        output: Rows that it made, or stand-ins for them.
        rows: How many rows that stands for.
        assumes_all_kept: Whether a filter of its own was off, or its rows are stand-ins.
        grows: Whether requests grow with the rows that come in.
    """

    counts: dict[LanguageModel, Counts]
    output: pl.DataFrame | None
    rows: float
    assumes_all_kept: bool
    grows: bool = True

    @property
    def requests(self) -> float:
        """Requests to all models, those that the journal answers among them."""
        return sum(count.requests + count.known for count in self.counts.values())

    def times(self, factor: float) -> Counted:
        """The same for more rows."""
        counts = {model: count.times(factor) for model, count in self.counts.items()}
        return replace(self, counts=counts, rows=self.rows * factor)


def language_models(planned: PlannedStep) -> list[LanguageModel]:
    models: list[Any] = []
    for option in planned.step.stage.options:
        if option.is_model:
            option.each(getattr(planned.options, option.name), models.append)
    return [model for model in models if isinstance(model, LanguageModel)]


class _CountingContext(Context):
    """A context whose models send nothing. known: what the journal knows; None for nothing."""

    engines: dict[LanguageModel, CountingEngine]
    known: KnownRequests | None

    @classmethod
    def of(cls, folder: Path, known: KnownRequests | None) -> _CountingContext:
        context = cls(folder / "files", folder / "work", folder / "store")
        for path in (context.files, context.work, context.store):
            path.mkdir()
        context.engines, context.known = {}, known
        return context

    def open(self, model: LanguageModel | Embedder) -> Any:
        if not isinstance(model, LanguageModel):
            return CountingEncoder()
        if model not in self.engines:
            self.engines[model] = self.known.engine(model) if self.known else CountingEngine(model)
        return self.engines[model]


def is_own(planned: PlannedStep) -> bool:
    """Whether the step's stage is the user's own code."""
    return not planned.step.stage.function.__module__.startswith("stages.")


def count_requests(
    planned: PlannedStep, outputs: ExpectedOutputs, known: KnownRequests
) -> Counted | None:
    """The requests of a step; None where nothing is known of its rows, or it cannot be counted.

    Of more rows than `SAMPLE` a sample and the half of it are counted: where the whole
    sample sends clearly more than its half, the requests grow with the rows and are
    scaled, else they are bounded by the options. A stage of the user's own that takes longer
    than `MAX_SECONDS` is counted on `SMALL_SAMPLE` rows, and a warning says so.

    Args:
        planned: The step.
        outputs: What the steps before it have given or will give.
        known: What the journal knows of its models.
    """
    try:
        return count_on_sample(
            planned, outputs, known, SAMPLE_RENDERED if known.lengths else SAMPLE
        )
    except TooSlow:
        text = "%s takes more than %g s to count: its requests are those of %d rows, scaled"
        _log.warning(text, planned.step.name, MAX_SECONDS, SMALL_SAMPLE)
    try:
        return count_on_sample(planned, outputs, known, SMALL_SAMPLE)
    except TooSlow:
        text = "%s takes more than %g s on these as well: unknown"
        _log.warning(text, planned.step.name, MAX_SECONDS)
        return None


def count_on_sample(
    planned: PlannedStep, outputs: ExpectedOutputs, known: KnownRequests | None, limit: int
) -> Counted | None:
    """What a step does, counted on a sample of its rows; None as for `count_requests`.

    Args:
        planned: The step.
        outputs: What the steps before it have given or will give.
        known: What the journal knows of its models; None where it has none.
        limit: At most so many rows.
    """
    inputs = sampled_inputs(planned, outputs, limit)
    counted = _run(planned, inputs.edges, known) if inputs else None
    if inputs is None or counted is None or (inputs.rows == inputs.size and inputs.exact):
        return counted
    half = {name: half_of(value, inputs.size) for name, value in inputs.edges.items()}
    fewer = _run(planned, half, known)
    without_models = not counted.counts and bool(planned.step.needs)
    grows = without_models or counted.requests > 1.5 * (fewer.requests if fewer else 0.0)
    return counted.times(inputs.rows / inputs.size) if grows else replace(counted, grows=False)


def _run(
    planned: PlannedStep, inputs: Mapping[str, Any], known: KnownRequests | None
) -> Counted | None:
    """Run the stage against counting engines; None where it cannot be run so."""
    options, factor = _scaled_down(vars(planned.options))
    counted = _call(planned, inputs, options, known)
    if counted and factor > 1 and not any(c.requests for c in counted.counts.values()):
        # The journal knows all that a few rows ask: the run has come further than that.
        return _call(planned, inputs, vars(planned.options), known)
    if counted is None or factor == 1:
        return counted
    # What the journal knows are the first requests of all, and no part of the others.
    counts = {
        model: c.times((factor * (c.requests + c.known) - c.known) / (c.requests or 1))._replace(
            known=c.known
        )
        for model, c in counted.counts.items()
    }
    return replace(counted, counts=counts, rows=counted.rows * factor)


def _call(
    planned: PlannedStep,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    known: KnownRequests | None,
) -> Counted | None:
    replays = known is not None and bool(known.lengths)
    with tempfile.TemporaryDirectory() as folder, counting(replays), quiet():
        context = _CountingContext.of(Path(folder), known)
        try:
            with time_limit(MAX_SECONDS if is_own(planned) else None):
                result = planned.step.stage.call(context, inputs, options)
        except Exception:
            # Whatever is wrong with the rows or the stage is reported when it runs.
            return None
        assumes = assumes_nothing_dropped()
    counts = {m: Counts.of(count) for m, count in by_model(context.engines.values()).items()}
    output = result if isinstance(result, pl.DataFrame) else None
    if output is None:
        return Counted(counts, output, 0, assumes)
    made_up = {key for engine in context.engines.values() for key in engine.made_up}
    rows = min(_number_kept(output, made_up), options.get("num_rows") or math.inf)
    output = output.filter(_verdict_is_null(output))
    if planned.step.stage.makes is DataKind.RECORDS and not len(output):
        output = _stand_ins(_STAND_INS[0])
    return Counted(counts, output, rows, assumes)


def _number_kept(output: pl.DataFrame, made_up: Collection[str]) -> int:
    """How many rows may be kept: a verdict on a sample of an answer says nothing."""
    open_ = _verdict_is_null(output)
    if "journal" in output.columns:
        hypothetical = pl.col("journal").list.eval(pl.element().is_in(list(made_up))).list.any()
        open_ = open_ | hypothetical.fill_null(value=False)
    return len(output.filter(open_))


def _verdict_is_null(output: pl.DataFrame) -> pl.Expr:
    verdicts = [pl.col(name).is_null() for name in VERDICT if name in output.columns]
    return pl.all_horizontal(pl.lit(value=True), *verdicts)


def _scaled_down(options: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """The options for fewer rows to be made, and the factor back to all of them.

    A stage that makes tens of thousands of rows would be run for half a minute.
    """
    num_rows = options.get("num_rows")
    if not isinstance(num_rows, int) or num_rows <= MAX_MADE:
        return dict(options), 1.0
    factor = num_rows / MAX_MADE
    scaled = {**options, "num_rows": MAX_MADE}
    if isinstance(options.get("max_requests"), int):
        scaled["max_requests"] = max(1, round(options["max_requests"] / factor))
    return scaled, factor


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of a stage are about real answers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def count_without_rows(planned: PlannedStep) -> Counted | None:
    """The requests of a step whatever its rows are, or None where they depend on them.

    The stage is counted on two stand-ins of different sizes: what comes out the same
    is decided by the options.
    """
    both = []
    for number in _STAND_INS:
        inputs = {
            edge.name: None if edge.name not in planned.step.needs else _stand_ins(number)
            for edge in planned.step.stage.edges
            if edge.kind is DataKind.RECORDS and not edge.many
        }
        if len(inputs) < len(planned.step.stage.edges):
            return None
        try:
            both.append(_run(planned, inputs, None))
        except TooSlow:
            return None
    first, second = both
    if not first or not second or round(first.requests) != round(second.requests):
        return None
    return replace(first, grows=False) if first.requests else None


def _stand_ins(number: int) -> pl.DataFrame:
    """Records without a meaning, all different."""
    rows = [
        {
            "id": f"{i:032x}",
            "messages": [
                {"role": "user", "content": f"What is the number {i} of the row called?"},
                {"role": "assistant", "content": f"It is called {i}."},
            ],
            "input_start": None,
            "origins": [{"source": "stand-in", "index": i, "license": "CC0-1.0"}],
            "parents": [],
            "extra": json.dumps({"is_classification": i % 2 == 0}),  # as seed tasks have it
        }
        for i in range(number)
    ]
    return pl.DataFrame(rows, schema=RECORD_COLUMNS)
