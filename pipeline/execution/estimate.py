"""The requests of stages to language models: estimated before a run, compared after it.

Requests are counted by running the stage (`count_requests`). An estimate is as if nothing
were dropped on the way and as if the journal knew none of the answers; those that it does
know are free.

Lengths are best known once a stage has run: then they are what its last run used per
request. Before that prompts are measured while they are counted, and answers are as long as
the model's newest ones in the journal, but no longer than their limits; answers of a model
that the journal has not seen are as long as they may be, and then tokens and money are *at
most* the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.execution.count_requests import (
    Counts,
    Lengths,
    count_requests,
    is_own,
    language_models,
    requests_without_rows,
)
from pipeline.execution.plan import PlannedStep, StepOutputs
from pipeline.models.base import LanguageModel
from pipeline.models.budget import BudgetTracker, Usage
from pipeline.models.identity import identity
from pipeline.models.journal.journal import Journal, journal_in
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import Artifact
from pipeline.store.store import Store


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


def uses_language_model(planned: PlannedStep) -> bool:
    """Whether a step sends requests to a language model, or may."""
    return bool(language_models(planned)) and planned.step.stage.gives_rows


def counting_notes(steps: Sequence[PlannedStep]) -> list[str]:
    """What `plan` will run of the user's own code to count its requests, one line each."""
    return [
        f"{planned.step.label} is run on some rows to count its requests: none is sent, but "
        "whatever else its code does is done"
        for planned in steps
        if uses_language_model(planned) and planned.state != "cached" and is_own(planned)
    ]


def estimate_steps(
    recipe: Recipe, store: Store, steps: Sequence[PlannedStep]
) -> dict[str, Estimate]:
    """The estimate for every step that is to run, by name; empty ones for cached steps.

    Args:
        recipe: The recipe; lengths are those of its earlier runs where there are any.
        store: Where artifacts and the journal are.
        steps: The planned steps in their order, so that inputs come before what reads them.
    """
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
    """The requests that a step will send.

    Args:
        recipe: The recipe; lengths are those of its earlier runs where there are any.
        store: Where artifacts and the journal are.
        planned: The step.
        outputs: The artifacts of the steps before it, as far as they are there.
    """
    rows = _rows_of_first_edge(planned, outputs)
    if not uses_language_model(planned):
        return Estimate(rows if planned.step.stage.annotates else None)
    last = planned.artifact or store.latest(recipe.name, planned.step.name)
    seen = _lengths_in_journal(store, language_models(planned))
    counts = count_requests(planned, outputs, seen)
    if not counts or not any(c.requests for c in counts.values()):
        # Nothing could be counted: its rows are not there, or it sends requests in other ways.
        requests = requests_without_rows(planned) or _as_before(planned, last, rows)
        counts = None if requests is None else {language_models(planned)[0]: Counts(requests, 0, 0)}
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
        before = seen.get(language_models(planned)[0])
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


def _rows_of_first_edge(planned: PlannedStep, outputs: StepOutputs) -> int | None:
    """How many rows come in on the stage's first edge, if its inputs are there."""
    edges = planned.step.stage.edges
    names = planned.step.needs.get(edges[0].name, ()) if edges else ()
    counts = [outputs.artifacts[name].kept for name in names if name in outputs.artifacts]
    return sum(counts) if counts and len(counts) == len(names) else None


def _as_before(planned: PlannedStep, last: Artifact | None, rows: int | None) -> int | None:
    """The last run's requests, per row where a number of rows decided them.

    Without a last run: one for each row of a stage that annotates, if its models can do
    nothing but generate.
    """
    if last is None:
        only_generate = all(model.engine != "transformers" for model in language_models(planned))
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
    """Lines that compare estimates with what was used; none for stages that sent no request."""
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
