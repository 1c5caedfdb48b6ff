"""An answer is graded against a reference that is its own revision.

RevisEval: RevisEval: Improving LLM-as-a-Judge via Response-Adapted References (Zhang et al. 2024,
arXiv:2410.05193).

As in the paper: a model revises the very answer that is to be judged, and the revision is the
reference, for a judge as for a measure of overlap: a reference that is written without the answer
may differ from it without the answer's being wrong. Ours: the wording; grades from 1 to 5, read as
expectations over their probabilities; F1 of words as the measure (the paper takes several); one
answer at a time (the paper also adapts one reference to two answers).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import polars as pl

from pipeline.models.ask import ask
from pipeline.models.base import Completion, Decoding, Engine, Request
from pipeline.models.structured_output import Unreadable
from pipeline.types import Count, option_group
from stages._llm.drafts import user
from stages._llm.judging.exchanges import exchanges
from stages._llm.judging.labels import Judge, Judgement, errors_without_answers
from stages._llm.prompts import Prompts
from stages.evaluate._overlap import token_f1

PROMPTS: Final = Prompts(__file__)

ADDS: Final[dict[str, Any]] = {
    "eval_reference": pl.String(),
    "eval_rating": pl.Float64(),
    "eval_overlap": pl.Float64(),
}
_GRADES: Final = {str(n): float(n) for n in range(1, 6)}


@option_group
class Revised:
    """A grade from 1 to 5 and an overlap, both against a revision of the answer itself.

    Adds `eval_reference` (the revision), `eval_rating` (from 1 to 5) and `eval_overlap` (F1 of
    words of answer and revision).

    Args:
        name: "revised".
        reviser_max_tokens: Limit of a revision in tokens; one that is cut is no reference.
    """

    name: Literal["revised"] = "revised"
    reviser_max_tokens: Count = 1024


def grade(
    judge: Judge, reviser: Engine, rows: pl.DataFrame, method: Revised
) -> tuple[pl.DataFrame, dict[str, list[float]]]:
    """The added columns with errors, and the numbers of each measure.

    Args:
        judge: The judge.
        reviser: Who revises the answers.
        rows: The answers.
        method: The options.
    """
    judged = exchanges(rows, judge.view)
    errors = errors_without_answers(len(rows), judged)
    texts = [
        PROMPTS.render("revise", conversation=e.conversation, answer=e.response) for e in judged
    ]
    decoding = Decoding(method.reviser_max_tokens)
    requests = [Request(user(text), decoding, judge.seed) for text in texts]
    revisions = ask(reviser, requests, check=_check, repair=False)
    references: dict[int, str] = {}
    for exchange, revision in zip(judged, revisions, strict=True):
        if revision.readable:
            references[exchange.row] = str(revision.value).strip()
        else:
            errors[exchange.row] = judge.note(exchange.row, revision.error, revision.rejection)
    graded = [exchange for exchange in judged if exchange.row in references]
    prompts = [
        user(
            PROMPTS.render(
                "grade",
                conversation=exchange.conversation,
                answer=exchange.response,
                reference=references[exchange.row],
            )
        )
        for exchange in graded
    ]
    ratings: list[Judgement] = judge.expected_values(graded, prompts, _GRADES)
    columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in ADDS}
    for exchange, rating in zip(graded, ratings, strict=True):
        row, reference = exchange.row, references[exchange.row]
        if isinstance(rating, str):
            errors[row] = rating
            continue
        columns["eval_reference"][row] = reference
        columns["eval_rating"][row] = rating
        columns["eval_overlap"][row] = token_f1(exchange.response, [reference])
    frame = pl.DataFrame({**columns, "error": errors}, schema={**ADDS, "error": pl.String()})
    return frame, {name: frame[name].drop_nulls().to_list() for name in [*ADDS][1:]}


def _check(completion: Completion) -> None:
    if completion.finish_reason == "length" or not completion.text.strip():
        raise Unreadable("the revision must be complete")
