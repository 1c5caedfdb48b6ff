"""What stages will ask of language models: estimated before a run, compared after it.

The requests of a stage are counted by running its own function on its rows against engines
that send nothing (`pipeline.models.counting`); of more than `SAMPLE` rows a sample is run,
and scaled. An estimate is as if nothing were dropped on the way and as if the journal knew
none of the answers; those that it does know are free.

Lengths are best known once a stage has run: then they are what its last run used per
request. Before that prompts are measured while they are counted, and answers are as long as
the model's newest ones in the journal, but no longer than their limits; answers of a model
that the journal has not seen are as long as they may be, and then tokens and money are *at
most* the estimate.

Where the rows are not there yet, the requests are known if they do not depend on the rows:
a stage that is told how many rows to make asks as much whatever it is given.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.context import Context
from pipeline.execution.plan import PlannedStep, StepOutputs, edge_columns
from pipeline.models.base import Embedder, LanguageModel
from pipeline.models.budget import BudgetTracker, Usage
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from pipeline.models.identity import identity
from pipeline.models.journal.journal import Journal, journal_in
from pipeline.recipe.recipe import Recipe
from pipeline.stage import DataKind
from pipeline.store.artifact import Artifact
from pipeline.store.store import Store
from schemas.records import RECORD_COLUMNS

SAMPLE: Final = 4000
"""Rows on which a stage is counted: ids are digests, so the first are any."""

_STAND_INS: Final = (64, 96)
"""Rows of the two made-up inputs by which requests that do not depend on rows are known."""


@dataclass(frozen=True)
class Estimate:
    """What a step will use; None where it is not known yet.

    Args:
        rows: Rows on the stage's first edge.
        requests: Requests to language models.
        tokens: Tokens of prompts and answers.
        money: In the currency of the recipe's prices.
        at_most: Tokens and money are those of the longest answers that are possible.
        retried: It is about the rows alone that failed before; the journal knows the
            others' answers.
    """

    rows: int | None = None
    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    at_most: bool = False
    retried: bool = False


@dataclass(frozen=True)
class ActualUsage:
    """What a stage really used. requests: those that were sent; cached: answered before."""

    requests: int
    cached: int
    tokens: int
    money: float

    @classmethod
    def of(cls, counters: Mapping[str, int], account: BudgetTracker) -> ActualUsage:
        """From a stage's counters and its account."""
        return cls(account.requests, counters.get("cached", 0), account.tokens, account.money)


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


def uses_language_model(planned: PlannedStep) -> bool:
    """Whether a step sends requests to a language model, or may."""
    return bool(_models(planned)) and planned.step.stage.gives_rows


def estimate_steps(
    recipe: Recipe, store: Store, steps: Sequence[PlannedStep]
) -> dict[str, Estimate]:
    """The estimate for every step that is to run, by name; empty ones for cached steps."""
    outputs = StepOutputs()
    estimates: dict[str, Estimate] = {}
    for planned in steps:
        cached = planned.state == "cached" and planned.artifact is not None
        estimates[planned.step.name] = (
            Estimate() if cached else estimate_step(recipe, store, planned, outputs)
        )
        if cached and planned.artifact:
            outputs.add(planned.step, planned.artifact)
    return estimates


def estimate_step(
    recipe: Recipe, store: Store, planned: PlannedStep, outputs: StepOutputs
) -> Estimate:
    """What a step will ask.

    Args:
        recipe: The recipe, whose earlier runs are asked for lengths.
        store: Where artifacts and the journal are.
        planned: The step.
        outputs: The artifacts of the steps before it, as far as they are there.
    """
    rows = _rows_of_first_edge(planned, outputs)
    if not uses_language_model(planned):
        return Estimate(rows if planned.step.stage.annotates else None)
    last = planned.artifact or store.last(recipe.name, planned.step.name)
    seen = _lengths_in_journal(store, _models(planned))
    counts = _count(planned, outputs, seen)
    if counts is None:
        requests = _requests_without_rows(planned)
        if requests is None:
            requests = _as_before(planned, last, rows)
        counts = None if requests is None else {_models(planned)[0]: Counts(requests, 0, 0)}
        measured = False
    else:
        measured = True
    if counts is None:
        return Estimate(rows)
    retried = planned.state == "incomplete" and planned.artifact is not None
    if retried and planned.artifact:
        counts = {m: c.times(_failed_fraction(planned.artifact)) for m, c in counts.items()}
    requests = round(sum(c.requests for c in counts.values()))
    before = _lengths_of_last_run(last)
    if before is None and not measured:
        before = seen.get(_models(planned)[0])
        if before is None:
            return Estimate(rows, requests, retried=retried)
    usages = [_usage(model, c, before) for model, c in counts.items()]
    return Estimate(
        rows,
        requests,
        sum(usage.tokens for usage in usages),
        sum(usage.money for usage in usages) if any(m.price for m in counts) else None,
        at_most=before is None and any(model not in seen for model in counts),
        retried=retried,
    )


def _models(planned: PlannedStep) -> list[LanguageModel]:
    models: list[Any] = []
    for option in planned.step.stage.options:
        if option.is_model:
            option.each(getattr(planned.options, option.name), models.append)
    return [model for model in models if isinstance(model, LanguageModel)]


def _rows_of_first_edge(planned: PlannedStep, outputs: StepOutputs) -> int | None:
    """How many rows come in on the stage's first edge, if its inputs are there."""
    edges = planned.step.stage.edges
    names = planned.step.needs.get(edges[0].name, ()) if edges else ()
    counts = [outputs.artifacts[name].kept for name in names if name in outputs.artifacts]
    return sum(counts) if counts and len(counts) == len(names) else None


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


def _count(
    planned: PlannedStep, outputs: StepOutputs, seen: Mapping[LanguageModel, Lengths]
) -> dict[LanguageModel, Counts] | None:
    """The requests of a step by model; None where its rows are not there, or cannot be counted.

    Of more rows than `SAMPLE` a sample and the half of it are counted: where the whole
    sample asks clearly more than its half, the requests grow with the rows and are
    scaled, else they are bounded by the options.
    """
    inputs = _inputs(planned, outputs)
    if inputs is None:
        return None
    number = max((len(i) for i in inputs.values() if isinstance(i, pl.DataFrame)), default=0)
    counts = _run(planned, {name: _head(i, SAMPLE) for name, i in inputs.items()}, seen)
    if counts is None or number <= SAMPLE:
        return counts
    half = _run(planned, {name: _head(i, SAMPLE // 2) for name, i in inputs.items()}, seen)
    scaled = {}
    for model, whole in counts.items():
        part = half[model].requests if half and model in half else 0.0
        grows = whole.requests > 1.5 * part
        scaled[model] = whole.times(number / SAMPLE) if grows else whole
    return scaled


def _run(
    planned: PlannedStep, inputs: Mapping[str, Any], seen: Mapping[LanguageModel, Lengths]
) -> dict[LanguageModel, Counts] | None:
    """Run the stage against counting engines; None where it cannot be run so."""
    with tempfile.TemporaryDirectory() as folder, counting(), _quiet():
        context = _CountingContext.of(Path(folder), seen)
        try:
            planned.step.stage.function(context, **inputs, **vars(planned.options))
        except Exception:
            # Whatever is wrong with the rows or the stage is told when it runs.
            return None
    return {
        model: Counts(e.count.requests, e.count.prompt_tokens, e.count.answer_tokens)
        for model, e in context.engines.items()
    }


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
    inputs: dict[str, Any] = {}
    for edge in planned.step.stage.edges:
        names = planned.step.needs.get(edge.name, ())
        if any(name not in outputs.artifacts for name in names):
            return None
        values: list[Any] = []
        for name in names:
            if edge.kind is DataKind.FILES:
                values.append(outputs.artifacts[name].files)
            else:
                view = outputs.views[name]
                values.append(view.read(edge_columns(planned.step, edge.name, edge.kind, view)))
        inputs[edge.name] = values if edge.many else next(iter(values), None)
    return inputs


def _head(value: Any, rows: int) -> Any:
    if isinstance(value, list):
        return [_head(one, rows) for one in value]
    return value.head(rows) if isinstance(value, pl.DataFrame) else value


def _requests_without_rows(planned: PlannedStep) -> int | None:
    """The requests of a step whatever its rows are, or None where they depend on them.

    The stage is counted on two made-up inputs of different sizes: what comes out the same
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
        counts = _run(planned, inputs, {})
        totals.append(None if counts is None else sum(c.requests for c in counts.values()))
    return round(totals[0]) if totals[0] is not None and totals[0] == totals[1] else None


def _stand_ins(number: int) -> pl.DataFrame:
    """Records that say nothing, each of its own."""
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


def _as_before(planned: PlannedStep, last: Artifact | None, rows: int | None) -> int | None:
    """The last run's requests, per row where a number of rows decided them.

    Without a last run: one for each row of a stage that annotates, if its models can do
    nothing but generate.
    """
    if last is None:
        only_generate = all(model.engine != "transformers" for model in _models(planned))
        return rows if planned.step.stage.annotates and only_generate else None
    used, rows_before = last.manifest["used"], last.manifest["counts"]["in"]
    requests = used.get("requests", 0) + used.get("cached", 0)
    return round(requests * rows / rows_before) if rows is not None and rows_before else requests


def _failed_fraction(artifact: Artifact) -> float:
    """The part of its rows that are to be tried again."""
    counts = artifact.manifest["counts"]
    return counts["failed"] / (counts["in"] + counts["created"])


def _lengths_of_last_run(last: Artifact | None) -> Lengths | None:
    used = last.manifest["used"] if last else {}
    sent = used.get("requests")
    if not sent:
        return None
    return Lengths(used.get("prompt_tokens", 0) / sent, used.get("completion_tokens", 0) / sent)


def _lengths_in_journal(
    store: Store, models: Sequence[LanguageModel]
) -> dict[LanguageModel, Lengths]:
    """What the journal has seen of each of these models."""
    journal: Journal | None = journal_in(store.root)
    if journal is None:
        return {}
    lengths = {model: journal.lengths(identity(model, store.files())) for model in {*models}}
    journal.close()
    return {model: Lengths(*mean) for model, mean in lengths.items() if mean is not None}


def _usage(model: LanguageModel, counts: Counts, before: Lengths | None) -> Usage:
    """Tokens and money; before: mean lengths that are better known than those counted."""
    prompt, answer = counts.prompt_tokens, counts.answer_tokens
    if before is not None:
        prompt, answer = counts.requests * before.prompt, counts.requests * before.answer
    return Usage.of(0, round(prompt), round(answer), model.price)


def comparison(estimates: Mapping[str, Estimate], used: Mapping[str, ActualUsage]) -> list[str]:
    """Lines that compare estimates with what was used; none for stages that asked nothing."""
    lines = []
    for name, actual in used.items():
        estimate = estimates[name]
        if not actual.requests + actual.cached:
            continue
        requests = actual.requests + (0 if estimate.retried else actual.cached)
        parts = [_compared("requests", estimate.requests, requests)]
        fraction = actual.requests / requests if requests else 0
        tokens = estimate.tokens and round(estimate.tokens * fraction)
        if actual.cached:
            parts.append(
                f"{actual.cached:,} {'more' if estimate.retried else 'of them'} known before"
            )
        if actual.requests:
            parts.append(_compared("tokens", tokens, actual.tokens, estimate.at_most))
        if actual.money:
            money = estimate.money and estimate.money * fraction
            parts.append(_compared("money", money, actual.money, estimate.at_most))
        lines.append(f"{name}: {', '.join(parts)}")
    return lines


def _compared(unit: str, estimate: float | None, actual: float, at_most: bool = False) -> str:
    amount = f"{actual:,}" if isinstance(actual, int) else f"{actual:,.4g}"
    if not estimate or not actual:
        return f"{amount} {unit}"
    kind = "estimate for the longest answers" if at_most else "estimate"
    return f"{amount} {unit} ({kind} {estimate / actual - 1:+.0%})"


def budget_warnings(recipe: Recipe, estimates: Mapping[str, Estimate]) -> list[str]:
    """What is expected to go beyond a budget, one line each."""
    warnings = []
    for name, limit in {"": recipe.budget, **recipe.budgets}.items():
        parts = [e for stage, e in estimates.items() if name in ("", stage)]
        for unit, allowed in vars(limit).items():
            amounts: list[Any] = [getattr(part, unit) or 0 for part in parts]
            if allowed is not None and sum(amounts) > allowed:
                whose = f"of {name}" if name else "of the run"
                at_most = unit != "requests" and any(part.at_most for part in parts)
                expected = f"{'at most ' if at_most else ''}{sum(amounts):,.6g} are expected"
                warnings.append(f"the budget {whose} is {allowed:,g} {unit}; {expected}")
    return warnings
