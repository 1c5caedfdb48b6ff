"""Agreement of a row's answer with other answers to the same request, as a quality of the row.

What gives the votes:

- `samples`: one model or several, several times: R-Tuning, LMSI, gold answers (`samples.py`);
- `perturbed`: a model whose prompt loses words: Active instruction tuning (`perturbed.py`);
- `checkpoints`: models that say how probable the answer is: SFTMix (`checkpoints.py`);
- `knowledge`: what a model knows about the request: NILE (`knowledge.py`);
- `rows`: other rows with the same prompt: self-consistency, DS weight (`rows.py`);
- `confidence`: samples, and what the model says of the answer: CLEAR (`confidence.py`).

They are compared as values (`exact`), by the words in common (`rouge`), by vectors (`embedding`)
or by the answer's `likelihood`. A sample that cannot be read is no vote: it lowers
`agreement_votes`, never the agreement. Deciding is a stage of its own: `select.top`,
`select.response`, `rewrite.refusal_aware`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.models.base import Decoding, Embedder, LanguageModel
from pipeline.models.counting import is_counting
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from schemas.records import instruction, response
from stages._llm.model_weights import weights_of
from stages._llm.row_values import check_names, columns_of
from stages._selection.groups import groups_of
from stages._selection.scores import Expression, expression_columns
from stages.score.agreement.checkpoints import Checkpoints, checkpoint_probabilities
from stages.score.agreement.checks import check, default_comparison, default_temperature
from stages.score.agreement.comparisons import (
    Compare,
    Comparison,
    Embedding,
    Exact,
    Likelihood,
    Rouge,
    comparison,
)
from stages.score.agreement.confidence import Confidence, reflections, sureness
from stages.score.agreement.knowledge import Knowledge, add_knowledge
from stages.score.agreement.measures import Measured, measure
from stages.score.agreement.perturbed import (
    Perturbed,
    add_perturbed,
    fix_answers,
    uncertainties,
)
from stages.score.agreement.questions import RESPONSE, Question, Sampler, questions
from stages.score.agreement.rows import Rows, measure_rows
from stages.score.agreement.samples import Samples, add_samples

Method = Annotated[
    Samples | Perturbed | Checkpoints | Knowledge | Rows | Confidence,
    Field(discriminator="name"),
]

_log = logging.getLogger(__name__)

_NUMBERS: Final[dict[str, Any]] = {
    "agreement": pl.Float64(),
    "agreement_votes": pl.Int32(),
    "agreement_asked": pl.Int32(),
}
_GROUPS: Final[dict[str, Any]] = {
    "agreement_is_majority": pl.Boolean(),
    "agreement_majority": pl.String(),
    "agreement_share": pl.Float64(),
    "agreement_entropy": pl.Float64(),
    "agreement_counts": pl.List(pl.Struct({"answer": pl.String, "votes": pl.Int32})),
}
_ORIGIN: Final[dict[str, Any]] = {
    "agreement_models": pl.List(pl.String),
    "agreement_journal": pl.List(pl.String),
}
INSTRUCTION: Final = "instruction"
"""The task of rows with one instruction."""

_CONFIDENCE: Final = ("confidence", "consistency", "reflection")
_TASK: Final = ("task_uncertainty", "task_probability")


def _reads(options: SimpleNamespace) -> list[str]:
    columns = ["messages", "tools", "input_start"]
    columns += ["origins"] if isinstance(options.method, Rows) else []
    columns += [] if options.reference == RESPONSE else columns_of([_source(options.reference)])
    named = expression_columns(options.task) if options.task != INSTRUCTION else []
    return list(dict.fromkeys([*columns, *named]))


def _source(reference: str) -> str:
    return "extra" if reference.startswith("extra.") else reference


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    method, compare = options.method, options.compare or default_comparison(options.method)
    if options.reference != RESPONSE:
        for columns in edges.get("rows", ()):
            check_names("reference", [_source(options.reference)], columns)
    added = dict(_NUMBERS)
    if not isinstance(compare, Likelihood):
        added |= _GROUPS
    match method:
        case Perturbed():
            names = ["uncertainty"] + ["probability"] * isinstance(compare, Likelihood)
            names += [f"task_{name}" for name in names] if options.task else []
            added |= {f"agreement_{name}": pl.Float64() for name in names}
        case Checkpoints():
            added["agreement_variability"] = pl.Float64()
            added["agreement_probabilities"] = pl.List(pl.Float64)
        case Confidence():
            added |= {f"agreement_{name}": pl.Float64() for name in _CONFIDENCE}
    return added if isinstance(method, Rows) else added | _ORIGIN


@stage(version=1, scope="set", reads=_reads, adds=_adds, check=check)
def agreement(
    ctx: Context,
    rows: Records,
    *,
    models: tuple[LanguageModel, ...] = (),
    embedder: Embedder | None = None,
    method: Method = Samples(),
    compare: Compare | None = None,
    reference: str = RESPONSE,
    ending: str | None = None,
    task: Expression | None = None,
    seed: int = 0,
    temperature: NonNegativeFloat | None = None,
    top_p: Fraction = 1.0,
    max_tokens: Count = 256,
) -> pl.DataFrame:
    """How far a row's answer is what others answer to the same request.

    Nothing is dropped. A row whose request was not answered has failed; one that no model can
    be asked (without a request, or with tools that a model would not have) has no votes. A
    model's `fallback` is not asked: what it says is no sample of the model.

    Adds `agreement` (0 to 1; cosines from -1): the mean agreement of the votes with the row's
    answer, null where it is unknown; `agreement_votes`, how many samples could be read, of
    `agreement_asked`; and, unless likelihoods are compared, the votes among themselves:
    `agreement_majority`, the answer of the largest group, `agreement_share` of the votes in it,
    `agreement_is_majority`, whether the row's answer is that one, `agreement_entropy` of the
    groups (0 where all agree, 1 where none do; null for a single vote) and `agreement_counts`, each
    group with its votes. `agreement_models` says which weights were asked, and `agreement_journal`
    names the completions. Methods add columns of their own.

    Args:
        rows: Conversations; the last request counts, with all that precedes it.
        models: Who is asked; for `rows` nobody.
        embedder: Makes the vectors of `embedding`.
        method: samples, perturbed, checkpoints, knowledge, rows or confidence.
        compare: exact, rouge, embedding or likelihood; by default exact, for knowledge embedding,
            and for perturbed and checkpoints likelihood.
        reference: What the votes are compared with: `response`, the row's own answer, or a column
            or `extra.FIELD` of gold answers.
        ending: What stands behind each request, such as the form in which answers end.
        task: What makes rows those of one task, for `perturbed`: a column, an SQL expression, or
            `instruction`, what the user says up to the row's input. Adds
            `agreement_task_uncertainty`, and `agreement_task_probability` under likelihood, the
            means over the task's rows.
        seed: Seed of the sampling, and of the words that are dropped.
        temperature: Of the samples; by default 0.7, for confidence 1, else 0.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a sample in tokens. One that is cut there cannot be read, but for its
            first sentence.

    Returns:
        The columns, and `error`.

    Raises:
        UserError: A model only generates, and likelihoods are compared.

    Example:
        ```yaml
        known:
          uses: score.agreement
          needs: questions
          with:
            models: [student]
            method: {name: samples, num_samples: 1}
            compare: {name: exact, first_sentence: true, contained: true}
            temperature: 0.0
            max_tokens: 15
        ```
    """
    compare = compare or default_comparison(method)
    degree = default_temperature(method) if temperature is None else temperature
    sampler = Sampler(ctx, Decoding(max_tokens, degree, top_p), seed)
    asked = questions(rows, reference, None if isinstance(method, Rows | Checkpoints) else ending)
    if isinstance(method, Rows):
        own = [text or "" for text in rows.select(response()).to_series().to_list()]
        comparing = _comparison(ctx, compare, own, embedder)
        pairs = measure_rows(rows, comparing)
        schema = _schema(method, compare, task)
        return _frame([one for one, _ in pairs], [number for _, number in pairs], schema)
    if isinstance(method, Perturbed) and method.answer == "model":
        fix_answers(sampler, asked, models[0])
    if isinstance(compare, Likelihood):
        result = _likelihoods(sampler, asked, models, method, compare)
    else:
        result = _votes(sampler, asked, models, method, compare, embedder)
    result = _of_tasks(result, rows, task) if task else result
    weights = [weights_of(model, ctx.store) for model in models]
    return result.with_columns(
        pl.Series("agreement_models", [weights] * len(rows), pl.List(pl.String)),
        pl.Series("agreement_journal", [q.journal for q in asked], pl.List(pl.String)),
        pl.Series("error", [q.error for q in asked], pl.String),
    ).select(*_schema(method, compare, task), "error")


def _schema(method: Method, compare: Compare, task: str | None) -> dict[str, Any]:
    return _adds(SimpleNamespace(method=method, compare=compare, reference=RESPONSE, task=task), {})


def _comparison(
    ctx: Context,
    compare: Exact | Rouge | Embedding | Likelihood,
    texts: Sequence[str],
    embedder: Embedder | None,
) -> Comparison:
    if isinstance(compare, Likelihood):
        raise AssertionError("the options were checked: texts are compared")
    encoder = ctx.open(embedder) if embedder is not None else None
    return comparison(compare, texts, encoder)


def _votes(
    sampler: Sampler,
    asked: Sequence[Question],
    models: Sequence[LanguageModel],
    method: Method,
    compare: Compare,
    embedder: Embedder | None,
) -> pl.DataFrame:
    """The columns of methods whose votes are texts."""
    match method:
        case Samples(num_samples=number):
            add_samples(sampler, asked, models, number)
        case Confidence(num_samples=number):
            add_samples(sampler, asked, models, number)
        case Knowledge():
            add_knowledge(sampler, asked, models[0])
        case Perturbed():
            add_perturbed(sampler, asked, models[0], method)
    texts = [vote.text for question in asked for vote in question.votes if vote is not None]
    texts += [question.reference or "" for question in asked]
    comparing = _comparison(sampler.ctx, compare, texts, embedder)
    measured = [measure(comparing, question.reference, question.votes) for question in asked]
    numbers = [len(question.votes) for question in asked]
    _warn_of_unread(sum(m.votes for m in measured), sum(numbers))
    result = _frame(measured, numbers, _NUMBERS | _GROUPS)
    if isinstance(method, Perturbed):
        return result.with_columns((1 - pl.col("agreement")).alias("agreement_uncertainty"))
    if not isinstance(method, Confidence):
        return result
    said = reflections(sampler, asked, models[0], method)
    sure = [
        sureness(question, one, reflection, method, is_exact=isinstance(compare, Exact))
        for question, one, reflection in zip(asked, measured, said, strict=True)
    ]
    return result.with_columns(
        pl.Series(f"agreement_{name}", [getattr(one, name) for one in sure], pl.Float64)
        for name in _CONFIDENCE
    )


def _warn_of_unread(votes: int, asked: int) -> None:
    if votes < asked and not is_counting():
        _log.warning(
            "score.agreement: %d of %d samples cannot be read, and are no votes; agreement_votes "
            "and agreement_asked say it of each row",
            asked - votes,
            asked,
        )


def _frame(
    measured: Sequence[Measured], asked: Sequence[int], schema: dict[str, Any]
) -> pl.DataFrame:
    columns = {
        name: [getattr(m, name.removeprefix("agreement_")) for m in measured]
        for name in schema
        if name not in ("agreement_asked", "agreement_counts")
    }
    counts = [[{"answer": a, "votes": n} for a, n in m.counts] for m in measured]
    columns |= {"agreement_asked": list(asked), "agreement_counts": counts}
    return pl.DataFrame([pl.Series(name, columns[name], dtype) for name, dtype in schema.items()])


def _likelihoods(
    sampler: Sampler,
    asked: Sequence[Question],
    models: Sequence[LanguageModel],
    method: Method,
    compare: Likelihood,
) -> pl.DataFrame:
    """The columns of methods that ask for probabilities."""
    if isinstance(method, Perturbed):
        uncertain = uncertainties(sampler, asked, models[0], method, compare)
        votes = [len(one.perturbed) for one in uncertain]
        number = method.num_prompts
        values = [one.uncertainty for one in uncertain]
        columns: dict[str, Any] = {
            "agreement": [None if value is None else 1 - value for value in values],
            "agreement_uncertainty": values,
            "agreement_probability": [one.probability for one in uncertain],
        }
    else:
        probabilities = checkpoint_probabilities(sampler, asked, models, compare)
        known = [[p for p in one if p is not None] for one in probabilities]
        votes, number = [len(one) for one in known], len(models)
        columns = {
            "agreement": [float(np.mean(one)) if one else None for one in known],
            "agreement_variability": [float(np.std(one)) if one else None for one in known],
            "agreement_probabilities": probabilities,
        }
    columns["agreement_votes"] = votes
    columns["agreement_asked"] = [0 if question.turns is None else number for question in asked]
    schema = _schema(method, compare, None)
    return pl.DataFrame([pl.Series(name, columns[name], schema[name]) for name in columns])


def _of_tasks(result: pl.DataFrame, rows: pl.DataFrame, task: str) -> pl.DataFrame:
    """The means of uncertainty and probability over the rows of each task."""
    if task == INSTRUCTION:
        codes = rows.select(instruction()).to_series().alias("_task")
    else:
        codes = pl.Series("_task", groups_of(rows, task).codes)
    names = [name for name in _TASK if f"agreement_{name.removeprefix('task_')}" in result.columns]
    return result.with_columns(codes).with_columns(
        pl.col(f"agreement_{name.removeprefix('task_')}")
        .mean()
        .over("_task")
        .alias(f"agreement_{name}")
        for name in names
    )
