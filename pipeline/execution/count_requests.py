"""How many requests a step sends: its function is run on a sample against counting engines.

Of more rows than `SAMPLE` a sample is run, and scaled where requests grow with the rows.
Where the rows are not there yet, requests are known if they do not depend on them: a stage
that makes a fixed number of rows sends as many requests whatever rows come in.

A stage of the user's own may do more than send requests: where it takes long it is stopped,
and run on fewer rows.
"""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.context import Context
from pipeline.execution.plan import PlannedStep, StepOutputs
from pipeline.execution.run_step import step_inputs
from pipeline.models.base import Embedder, LanguageModel
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from pipeline.stage import DataKind
from schemas.records import RECORD_COLUMNS

SAMPLE: Final = 4000
"""Rows on which a stage is counted: ids are digests, so the first are any."""

SMALL_SAMPLE: Final = 200
"""Rows on which a stage is counted that takes too long on `SAMPLE`."""

MAX_SECONDS: Final = 10.0
"""How long a stage of the user's own may run while it is counted."""

MAX_MADE: Final = 2000
"""Rows that a stage may make (option `num_rows`) while its requests are counted."""

_log = logging.getLogger(__name__)

_STAND_INS: Final = (64, 96)
"""Rows of the two stand-ins for inputs by which requests that do not depend on rows are known."""


class Lengths(NamedTuple):
    """Mean tokens of a prompt and of an answer."""

    prompt: float
    answer: float


class Counts(NamedTuple):
    """Requests to one model with the tokens of their prompts and answers, scaled to all rows."""

    requests: float
    prompt_tokens: float
    answer_tokens: float

    def times(self, factor: float) -> Counts:
        """All three multiplied."""
        return Counts(*(value * factor for value in self))


def language_models(planned: PlannedStep) -> list[LanguageModel]:
    models: list[Any] = []
    for option in planned.step.stage.options:
        if option.is_model:
            option.each(getattr(planned.options, option.name), models.append)
    return [model for model in models if isinstance(model, LanguageModel)]


class _CountingContext(Context):
    """A context whose models send nothing. seen: lengths that the journal knows."""

    engines: dict[LanguageModel, CountingEngine]
    seen: Mapping[LanguageModel, Lengths]

    @classmethod
    def of(cls, folder: Path, seen: Mapping[LanguageModel, Lengths]) -> _CountingContext:
        context = cls(folder / "files", folder / "work", folder / "store")
        for path in (context.files, context.work, context.store):
            path.mkdir()
        context.engines, context.seen = {}, seen
        return context

    def open(self, model: LanguageModel | Embedder) -> Any:
        if not isinstance(model, LanguageModel):
            return CountingEncoder()
        lengths = self.seen.get(model)
        answer = lengths.answer if lengths else None
        return self.engines.setdefault(model, CountingEngine(model, answer))


def is_own(planned: PlannedStep) -> bool:
    """Whether the step's stage is the user's own code."""
    return not planned.step.stage.function.__module__.startswith("stages.")


def count_requests(
    planned: PlannedStep, outputs: StepOutputs, seen: Mapping[LanguageModel, Lengths]
) -> dict[LanguageModel, Counts] | None:
    """The requests of a step by model; None where its rows are not there, or cannot be counted.

    Of more rows than `SAMPLE` a sample and the half of it are counted: where the whole
    sample sends clearly more than its half, the requests grow with the rows and are
    scaled, else they are bounded by the options. A stage of the user's own that takes longer
    than `MAX_SECONDS` is counted on `SMALL_SAMPLE` rows, and a warning says so.

    Args:
        planned: The step.
        outputs: The artifacts of the steps before it, as far as they are there.
        seen: Mean lengths by model where earlier requests are known.
    """
    inputs = _inputs(planned, outputs)
    if inputs is None:
        return None
    name = planned.step.name
    try:
        return _counted(planned, inputs, seen, SAMPLE)
    except _TooSlow:
        text = "%s takes more than %g s to count: its requests are those of %d rows, scaled"
        _log.warning(text, name, MAX_SECONDS, SMALL_SAMPLE)
    try:
        return _counted(planned, inputs, seen, SMALL_SAMPLE)
    except _TooSlow:
        _log.warning("%s takes more than %g s on these as well: unknown", name, MAX_SECONDS)
        return None


def _counted(
    planned: PlannedStep,
    inputs: Mapping[str, Any],
    seen: Mapping[LanguageModel, Lengths],
    sample: int,
) -> dict[LanguageModel, Counts] | None:
    """The requests counted on a sample of so many rows."""
    number = max((len(i) for i in inputs.values() if isinstance(i, pl.DataFrame)), default=0)
    counts = _run(planned, {name: _head(i, sample) for name, i in inputs.items()}, seen)
    if counts is None or number <= sample:
        return counts
    half = _run(planned, {name: _head(i, sample // 2) for name, i in inputs.items()}, seen)
    scaled = {}
    for model, whole in counts.items():
        part = half[model].requests if half and model in half else 0.0
        grows = whole.requests > 1.5 * part
        scaled[model] = whole.times(number / sample) if grows else whole
    return scaled


class _TooSlow(BaseException):
    """Stops a stage; not an `Exception`, which the stage might take for a fault of its own."""


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `_TooSlow` within it after so many seconds; only the main thread can be stopped."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run(
    planned: PlannedStep, inputs: Mapping[str, Any], seen: Mapping[LanguageModel, Lengths]
) -> dict[LanguageModel, Counts] | None:
    """Run the stage against counting engines; None where it cannot be run so."""
    options, factor = _scaled_down(vars(planned.options))
    with tempfile.TemporaryDirectory() as folder, counting(), _quiet():
        context = _CountingContext.of(Path(folder), seen)
        try:
            with _time_limit(MAX_SECONDS if is_own(planned) else None):
                planned.step.stage.function(context, **inputs, **options)
        except Exception:
            # Whatever is wrong with the rows or the stage is reported when it runs.
            return None
    return {
        model: Counts(e.count.requests, e.count.prompt_tokens, e.count.answer_tokens).times(factor)
        for model, e in context.engines.items()
    }


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
def _quiet() -> Iterator[None]:
    """Warnings of a stage are about real answers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _inputs(planned: PlannedStep, outputs: StepOutputs) -> dict[str, Any] | None:
    """What the stage takes on its edges; None where something that it needs has not run."""
    needed = [name for names in planned.step.needs.values() for name in names]
    if any(name not in outputs.artifacts for name in needed):
        return None
    return step_inputs(planned, outputs)


def _head(value: Any, rows: int) -> Any:
    if isinstance(value, list):
        return [_head(one, rows) for one in value]
    return value.head(rows) if isinstance(value, pl.DataFrame) else value


def requests_without_rows(planned: PlannedStep) -> int | None:
    """The requests of a step whatever its rows are, or None where they depend on them.

    The stage is counted on two stand-ins of different sizes: what comes out the same
    is decided by the options.
    """
    totals = []
    for number in _STAND_INS:
        inputs = {
            edge.name: None if edge.name not in planned.step.needs else _stand_ins(number)
            for edge in planned.step.stage.edges
            if edge.kind is DataKind.RECORDS and not edge.many
        }
        if len(inputs) < len(planned.step.stage.edges):
            return None
        try:
            counts = _run(planned, inputs, {})
        except _TooSlow:
            return None
        totals.append(None if counts is None else sum(c.requests for c in counts.values()))
    return round(totals[0]) if totals[0] is not None and totals[0] == totals[1] else None


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
