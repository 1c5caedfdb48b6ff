"""What stages will ask of language models: expected before a run, compared with the truth after it.

How many requests, of which lengths: a stage's own word, which it gives before its first run.
Lengths are better known once it has run: then they are what its last run used per request.
Before that its answers are as long as the model's newest ones in the journal, but no longer
than they may be; of a model that the journal has not seen they are as long as they may be,
and tokens and money are *at most* what is told.

Of a stage of a user's own that says nothing, requests are what its last run needed per row,
or one for each row that it annotates through an engine that only generates; lengths are
those of its last run or of the journal.

It is an estimate as if the journal knew none of the answers; those that it does know are
free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from pipeline.execution.plan import PlannedStep, StepOutputs, edge_columns
from pipeline.models.base import LanguageModel
from pipeline.models.budget import BudgetTracker, Usage
from pipeline.models.expected_requests import CHARACTERS, TEMPLATE, Asking, Rows
from pipeline.models.identity import identity
from pipeline.models.journal.journal import Journal, journal_in
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import Artifact
from pipeline.store.store import Store


@dataclass(frozen=True)
class Expected:
    """rows: on the stage's first edge. None: not known yet. tokens: of prompts and answers.

    at_most: tokens and money are those of the longest answers that are possible. retried:
    it is about the rows alone that failed before; the journal knows the others' answers.
    """

    rows: int | None = None
    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    at_most: bool = False
    retried: bool = False


class Lengths(NamedTuple):
    """Mean tokens of a prompt and of an answer."""

    prompt: float
    answer: float


@dataclass(frozen=True)
class Used:
    """What a stage really used. requests: those that were sent; cached: answered before."""

    requests: int
    cached: int
    tokens: int
    money: float

    @classmethod
    def of(cls, counters: Mapping[str, int], account: BudgetTracker) -> Used:
        """From a stage's counters and its account."""
        asked = (account.requests, counters.get("cached", 0))
        return cls(*asked, account.tokens, account.money)


def uses_language_model(look: PlannedStep) -> bool:
    """Whether one of the step's options is a language model."""
    return bool(_models(look))


def _models(look: PlannedStep) -> list[LanguageModel]:
    found: list[Any] = []
    for option in look.step.stage.options:
        if option.is_model:
            option.each(getattr(look.options, option.name), found.append)
    return [model for model in found if isinstance(model, LanguageModel)]


def expectations(
    recipe: Recipe, store: Store, planned: Sequence[PlannedStep]
) -> dict[str, Expected]:
    """What every step that is to run will ask, by name; rows alone for those that ask nothing."""
    made = StepOutputs()
    told: dict[str, Expected] = {}
    for look in planned:
        cached = look.state == "cached" and look.artifact is not None
        told[look.step.name] = Expected() if cached else expect(recipe, store, look, made)
        if cached and look.artifact:
            made.add(look.step, look.artifact)
    return told


def expect(recipe: Recipe, store: Store, look: PlannedStep, made: StepOutputs) -> Expected:
    """What a step will ask. made: the steps before it, as far as they are there."""
    rows = _first(look, made)
    if not uses_language_model(look):
        return Expected(rows if look.step.stage.annotates else None)
    last = look.artifact or store.latest(recipe.name, look.step.name)
    askings = look.step.stage.expected_requests(look.options, _reader(look, made))
    if askings is None:
        askings = _by_itself(look, last, rows)
    if askings is None:
        return Expected(rows)
    unfinished = look.artifact if look.state == "incomplete" else None
    if unfinished:
        share = _failed(unfinished)
        askings = [asking._replace(requests=asking.requests * share) for asking in askings]
    requests = round(sum(asking.requests for asking in askings))
    before = _of_last(last)
    seen = {} if before else _seen(store, [asking.model for asking in askings])
    lengths = [before or _lengths(asking, seen.get(asking.model)) for asking in askings]
    uses = [
        _use(asking, each)
        for asking, each in zip(askings, lengths, strict=True)
        if each is not None
    ]
    if len(uses) < len(askings):
        return Expected(rows, requests, retried=unfinished is not None)
    priced = any(asking.model.price for asking in askings)
    return Expected(
        rows,
        requests,
        sum(use.tokens for use in uses),
        sum(use.money for use in uses) if priced else None,
        at_most=not before and any(asking.model not in seen for asking in askings),
        retried=unfinished is not None,
    )


def _first(look: PlannedStep, made: StepOutputs) -> int | None:
    """How many rows stand on the stage's first edge."""
    edges = look.step.stage.edges
    names = look.step.needs.get(edges[0].name, ()) if edges else ()
    known = [made.artifacts[name].kept for name in names if name in made.artifacts]
    return sum(known) if known and len(known) == len(names) else None


def _reader(look: PlannedStep, made: StepOutputs) -> Rows:
    step = look.step
    kinds = {edge.name: edge.kind for edge in step.stage.edges}

    def rows(edge: str) -> pl.DataFrame | None:
        views = [made.views.get(name) for name in step.needs.get(edge, ())]
        frames = [view.read(edge_columns(step, edge, kinds[edge], view)) for view in views if view]
        return pl.concat(frames) if frames and len(frames) == len(views) else None

    return rows


def _by_itself(look: PlannedStep, last: Artifact | None, rows: int | None) -> list[Asking] | None:
    """Of a stage that says nothing: as many as before, or one for each row."""
    requests = _as_before(last, rows)
    if requests is None and look.step.stage.annotates and _only_generate(look):
        requests = rows
    return None if requests is None else [Asking(_models(look)[0], requests, None, 0)]


def _failed(artifact: Artifact) -> float:
    """The part of its rows that are to be tried again."""
    counts = artifact.manifest["counts"]
    return counts["failed"] / (counts["in"] + counts["created"])


def _only_generate(look: PlannedStep) -> bool:
    """Whether its models can do nothing else; those of transformers may score likelihoods."""
    return all(model.engine != "transformers" for model in _models(look))


def _as_before(last: Artifact | None, rows: int | None) -> int | None:
    """The last run's requests, per row where a number of rows decided them."""
    if last is None:
        return None
    used, came = last.manifest["used"], last.manifest["counts"]["in"]
    asked = used.get("requests", 0) + used.get("cached", 0)
    return round(asked * rows / came) if rows is not None and came else asked


def _of_last(last: Artifact | None) -> Lengths | None:
    used = last.manifest["used"] if last else {}
    sent = used.get("requests")
    if not sent:
        return None
    return Lengths(used.get("prompt_tokens", 0) / sent, used.get("completion_tokens", 0) / sent)


def _seen(store: Store, models: Sequence[LanguageModel]) -> dict[LanguageModel, Lengths]:
    """What the journal has seen of each of these models."""
    journal: Journal | None = journal_in(store.root)
    if journal is None:
        return {}
    found = {model: journal.lengths(identity(model, store.files())) for model in {*models}}
    journal.close()
    return {model: Lengths(*lengths) for model, lengths in found.items() if lengths is not None}


def _lengths(asking: Asking, seen: Lengths | None) -> Lengths | None:
    """Of a request that the stage says itself; of one without a word what was seen."""
    if asking.prompt is None:
        return seen
    longest = seen.answer if seen else math.inf
    shown = sum(min(limit, longest) for limit in asking.shown)
    prompt = TEMPLATE + asking.prompt / CHARACTERS + shown
    return Lengths(prompt, min(asking.answer, longest))


def _use(asking: Asking, lengths: Lengths) -> Usage:
    prompt, answer = (round(asking.requests * length) for length in lengths)
    return Usage.of(0, prompt, answer, asking.model.price)


def comparison(expected: Mapping[str, Expected], used: Mapping[str, Used]) -> list[str]:
    """Lines that hold the estimates against what was used; none where nothing was asked."""
    lines = []
    for name, real in used.items():
        thought = expected[name]
        if not real.requests + real.cached:
            continue
        asked = real.requests + (0 if thought.retried else real.cached)
        told = [_against("requests", thought.requests, asked)]
        share = real.requests / asked if asked else 0
        scaled = thought.tokens and round(thought.tokens * share)
        most = thought.at_most
        told += [_against("tokens", scaled, real.tokens, most)] if real.requests else []
        if real.money:
            money = thought.money and thought.money * share
            told.append(_against("money", money, real.money, most))
        whose = "more" if thought.retried else "of them"
        known = f"{real.cached:,} {whose} known before" if real.cached else ""
        lines.append(f"{name}: " + ", ".join(filter(None, [told[0], known, *told[1:]])))
    return lines


def _against(unit: str, thought: float | None, real: float, at_most: bool = False) -> str:
    shown = f"{real:,}" if isinstance(real, int) else f"{real:,.4g}"
    if not thought or not real:
        return f"{shown} {unit}"
    kind = "estimate for the longest answers" if at_most else "estimate"
    return f"{shown} {unit} ({kind} {thought / real - 1:+.0%})"


def totals(recipe: Recipe, expected: Mapping[str, Expected]) -> list[str]:
    """Warnings: what is expected to go beyond a budget."""
    told = []
    for name, allowance in {"": recipe.budget, **recipe.budgets}.items():
        parts = [e for stage, e in expected.items() if name in ("", stage)]
        for unit, allowed in vars(allowance).items():
            sums: list[Any] = [getattr(part, unit) or 0 for part in parts]
            if allowed is not None and sum(sums) > allowed:
                whose = f"of {name}" if name else "of the run"
                at_most = unit != "requests" and any(part.at_most for part in parts)
                expects = f"{'at most ' if at_most else ''}{sum(sums):,.6g} are expected"
                told.append(f"the budget {whose} is {allowed:,g} {unit}; {expects}")
    return told
