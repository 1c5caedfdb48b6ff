"""The requests of stages to language models: estimated before a run, compared after it.

Requests are counted by running the stage (`count_requests`); those that the journal answers
are free, and counted by themselves. Behind stages that have not run, rows are followed as if
nothing were dropped on the way (`expected_rows`): that gives what a stage will send *at most*.
What is *expected* is less where earlier runs show which part of its rows a stage keeps.

Lengths are best known once a stage has run: then they are what its last run used per
request. Before that prompts are measured while they are counted, and answers are as long as
the model's newest ones in the journal, but no longer than their limits; answers of a model
that the journal has not seen are taken for as long as they may be. What is sent *at most* takes
a token of a prompt for each of its bytes, every answer for as long as it may be, and all of them
for truncated, to be repaired and to be sampled anew as often as their stage asks again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.execution.count_requests import (
    Counted,
    Counts,
    count_requests,
    count_without_rows,
    is_own,
    language_models,
)
from pipeline.execution.expected_rows import ExpectedOutputs
from pipeline.execution.known_requests import KnownRequests
from pipeline.execution.made_rows import made_rows
from pipeline.execution.plan import PlannedStep, StepOutputs
from pipeline.models.base import LanguageModel
from pipeline.models.budget import Usage
from pipeline.models.journal.journal import Lengths
from pipeline.models.journal.usage import TokenUsage
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import Artifact
from pipeline.store.store import Store


@dataclass(frozen=True)
class Amounts:
    """What a step takes and uses; None where it is not known, or has no bound.

    Args:
        rows: Rows on the stage's first edge.
        requests: Requests to language models that are sent.
        tokens: Tokens of their prompts and answers.
        money: In the currency of the recipe's prices.
    """

    rows: int | None = None
    requests: int | None = None
    tokens: int | None = None
    money: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What a step will use.

    Args:
        expected: As far as earlier runs say; else the same as `at_most`.
        at_most: If no row is dropped on the way and all answers are as long as they may be.
        journal: Requests whose answers the journal has: they are not sent again.
        all_kept: Whether they assume that rows are kept which a filter may drop.
        longest: Whether what is expected takes answers for as long as they may be, since the
            journal has none of the model.
        unknown: Whether requests are sent of which nothing is known yet.
    """

    expected: Amounts = field(default_factory=Amounts)
    at_most: Amounts = field(default_factory=Amounts)
    journal: int = 0
    all_kept: bool = False
    longest: bool = False
    unknown: bool = False


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


def key_notes(steps: Sequence[PlannedStep]) -> list[str]:
    """The environment variables that steps will need for a server and that are not set.

    That is no mistake yet: what the journal answers needs no key.

    Args:
        steps: The planned steps.
    """
    needed: dict[str, list[str]] = {}
    for planned in steps:
        if planned.state == "cached":
            continue
        models = language_models(planned)
        for model in [*models, *(m.fallback for m in models)]:
            if model is None or model.engine != "openai":
                continue
            for variable in (model.api_key_env, *model.api.headers.values()):
                if variable is not None and not os.environ.get(variable):
                    needed.setdefault(variable, []).append(planned.step.name)
    return [
        f"the environment variable {variable} is not set: requests of "
        f"{', '.join(dict.fromkeys(names))} that the journal does not answer need it"
        for variable, names in needed.items()
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
    outputs = ExpectedOutputs()
    estimates: dict[str, Estimate] = {}
    for planned in steps:
        if planned.state == "cached" and planned.artifact is not None:
            estimates[planned.step.name] = Estimate()
            outputs.outputs.add(planned.step, planned.artifact)
        else:
            estimates[planned.step.name] = _estimate(recipe, store, planned, outputs)
    return estimates


def estimate_step(
    recipe: Recipe, store: Store, planned: PlannedStep, outputs: StepOutputs
) -> Estimate:
    """What a step will send, once the steps before it have run.

    Args:
        recipe: The recipe; lengths are those of its earlier runs where there are any.
        store: Where artifacts and the journal are.
        planned: The step.
        outputs: The artifacts of the steps before it.
    """
    return _estimate(recipe, store, planned, ExpectedOutputs(outputs))


def _estimate(
    recipe: Recipe, store: Store, planned: PlannedStep, outputs: ExpectedOutputs
) -> Estimate:
    """What a step will ask; its rows are added to what is to come."""
    last = planned.artifact or store.latest(recipe.history(planned.parts), planned.step.name)
    rows = _RowsIn.of(planned, outputs)
    if not uses_language_model(planned):
        outputs.add(planned, last, *made_rows(planned, outputs))
        return rows.estimate()
    known = KnownRequests(store, language_models(planned))
    try:
        counted = count_requests(planned, outputs, known)
    finally:
        known.close()
    if counted is None or not counted.requests:
        counted = count_without_rows(planned)
    generated = counted.output if counted and planned.step.stage.creates else None
    outputs.add(planned, last, generated, counted.rows if counted else 0)
    if counted is None:
        return _as_before(planned, last, rows, known.lengths)
    return _of_counted(planned, counted, rows, last, known.lengths)


@dataclass(frozen=True)
class _RowsIn:
    """How many rows come in on a step's first edge; None or infinite where it is not known."""

    expected: float | None = None
    at_most: float = math.inf
    exist: bool = False

    @classmethod
    def of(cls, planned: PlannedStep, outputs: ExpectedOutputs) -> _RowsIn:
        sources = outputs.first_edge(planned.step)
        if sources is None:
            return cls()
        at_most = sum(source.at_most for source in sources)
        exist = all(source.exist for source in sources)
        return cls(sum(source.expected for source in sources), at_most, exist)

    @property
    def bounded(self) -> bool:
        """Whether there is a bound."""
        return math.isfinite(self.at_most)

    @property
    def fraction(self) -> float:
        """Which part of the rows that may come is expected."""
        if self.expected is None or not self.at_most or not self.bounded:
            return 1.0
        return self.expected / self.at_most

    def amounts(self, *, expected: bool, **more: Any) -> Amounts:
        number = self.expected if expected else self.at_most if self.bounded else None
        return Amounts(None if number is None else round(number), **more)

    def estimate(self, *, unknown: bool = False, **more: Any) -> Estimate:
        """The estimate of a step of which the rows alone are known, and what is expected more."""
        known = self.amounts(expected=True, **more), self.amounts(expected=False)
        return Estimate(*known, all_kept=not self.exist, unknown=unknown)


def _of_counted(
    planned: PlannedStep,
    counted: Counted,
    rows: _RowsIn,
    last: Artifact | None,
    seen: Mapping[LanguageModel, Lengths],
) -> Estimate:
    """The estimate of a step whose requests were counted."""
    before, counts = _lengths_of_last_run(last), counted.counts
    fraction = rows.fraction if counted.grows else 1.0
    requests = sum(c.requests for c in counts.values())
    # A stage that goes on until it has its rows asks more where some are dropped.
    more = getattr(planned.options, "max_requests", None) if counted.assumes_all_kept else None
    excess = 1 + (more or 0) / requests if requests else 1.0
    most = sum(c.most_requests for c in counts.values())
    priced = any(model.price for model in counts)

    def amounts(usages: Sequence[Usage], factor: float, *, expected: bool) -> Amounts:
        return rows.amounts(
            expected=expected,
            requests=round((requests if expected else most) * factor),
            tokens=round(sum(usage.tokens for usage in usages) * factor),
            money=sum(usage.money for usage in usages) * factor if priced else None,
        )

    expected = [_usage(model, c, before) for model, c in counts.items()]
    longest = [
        Usage.of(0, TokenUsage(round(c.most_prompt), 0, round(c.limit_tokens)), model.price_as_sent)
        for model, c in counts.items()
    ]
    # Rows that nothing bounds bound nothing.
    bounded = rows.bounded or not counted.grows or not planned.step.stage.edges
    return Estimate(
        amounts(expected, fraction, expected=True),
        amounts(longest, excess, expected=False) if bounded else Amounts(),
        round(sum(c.known for c in counts.values())),
        all_kept=counted.assumes_all_kept or (counted.grows and not rows.exist),
        longest=before is None and any(m not in seen for m, c in counts.items() if c.requests),
    )


def _as_before(
    planned: PlannedStep,
    last: Artifact | None,
    rows: _RowsIn,
    seen: Mapping[LanguageModel, Lengths],
) -> Estimate:
    """The estimate of a step that could not be counted, from its last run.

    Requests are as many as then, per row where a number of rows decided them. Without a last
    run: one for each row of a stage that annotates, if its models can do nothing but generate.
    """
    requests = _requests_as_before(planned, last, rows.expected)
    if requests is None:
        return rows.estimate(unknown=planned.step.stage.creates or not _may_score(planned))
    if not requests:
        return rows.estimate()
    if planned.state == "incomplete" and planned.artifact:
        requests *= _failed_fraction(planned.artifact)
    model = language_models(planned)[0]
    lengths = _lengths_of_last_run(last) or seen.get(model)
    more: dict[str, Any] = {"requests": round(requests)}
    if lengths:
        usage = _usage(model, Counts(requests, 0, 0, 0, 0, 0), lengths)
        more |= {"tokens": usage.tokens, "money": usage.money if model.price else None}
    return rows.estimate(**more)


def _may_score(planned: PlannedStep) -> bool:
    """Whether it may use a model for likelihoods alone, and send no requests."""
    return any(model.engine == "transformers" for model in language_models(planned))


def _requests_as_before(
    planned: PlannedStep, last: Artifact | None, rows: float | None
) -> float | None:
    if last is None:
        return rows if planned.step.stage.annotates and not _may_score(planned) else None
    used, rows_before = last.manifest["used"], last.manifest["counts"]["in"]
    requests = used.get("requests", 0) + used.get("cached", 0)
    return requests * rows / rows_before if rows is not None and rows_before else requests


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


def _usage(model: LanguageModel, counts: Counts, before: Lengths | None) -> Usage:
    """Tokens and money; before: mean lengths that are better known than those counted."""
    prompt, answer = counts.prompt_tokens, counts.answer_tokens
    if before is not None:
        prompt, answer = counts.requests * before.prompt, counts.requests * before.answer
    return Usage.of(0, TokenUsage(round(prompt), 0, round(answer)), model.price_as_sent)


def total(estimates: Sequence[Estimate]) -> Estimate:
    """What all steps use together; None for what no step is known to use.

    What nothing bounds in one step is not bounded in all of them.

    Example:
        >>> steps = [Estimate(Amounts(9, 9, 120), Amounts(9, 9, 200)), Estimate(Amounts(5))]
        >>> total(steps).at_most
        Amounts(rows=None, requests=9, tokens=200, money=None)
    """

    unknown = any(one.unknown for one in estimates)

    def add(whose: str, unit: str) -> Any:
        values = [getattr(getattr(one, whose), unit) for one in estimates]
        expected = [getattr(one.expected, unit) for one in estimates]
        unbounded = any(e is not None and v is None for e, v in zip(expected, values, strict=True))
        known = [value for value in values if value is not None]
        return sum(known) if known and not unbounded else None

    def amounts(whose: str) -> Amounts:
        if unknown and whose == "at_most":
            return Amounts()
        return Amounts(None, *(add(whose, unit) for unit in ("requests", "tokens", "money")))

    return Estimate(
        amounts("expected"),
        amounts("at_most"),
        sum(one.journal for one in estimates),
        any(one.all_kept for one in estimates if one.expected.requests),
        any(one.longest for one in estimates if one.expected.requests),
        unknown,
    )
