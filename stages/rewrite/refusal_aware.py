"""Rows that teach a model to say what it does not know, marked by what it did know.

R-Tuning: Instructing Large Language Models to Say 'I Don't Know' (Zhang et al. 2023,
arXiv:2311.09677; shizhediao/R-Tuning).

As in the paper: the answers of the model before its training (`score.agreement`) decide which
questions are certain. R-Tuning puts a question behind the right answer, whether the model is sure
of it, and the mark (`target: certainty`); R-Tuning-R replaces the answers that the model does not
know by refusals (`target: refusal`); R-Tuning-U has no right answers to compare with, and calls
the half of the questions certain whose sampled answers have the lower entropy (`marks: entropy`).

As in the authors' code: the question and the mark belong to the answer's text (`place: answer`);
there are 16 refusals, drawn at random; of an odd number of rows the smaller half is certain.

Ours: all wording; a refusal is drawn from the row's id and the seed; rows of which nothing is
known are dropped, where the code calls them uncertain; equal entropies are ordered by id; with
several samples compared with the right answer, the part of them that a certain one needs; the
question may be a turn of the user's (`place: turn`), as it is asked of a chat model afterwards.
And the marks are refused for any other model than the one that gave them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import floor
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.counting import is_counting
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, NonEmpty, PositiveFraction, option_group
from schemas.records import RECORD_COLUMNS, Message, prompt_id
from stages._llm.model_weights import weights_of
from stages._llm.rows import Row, license_of, make_row, merge_equal, to_json

REFUSALS: Final = (
    "I don't know.",
    "I don't know the answer to that.",
    "I am not sure about this one.",
    "That is something I don't know.",
    "I can't say with any certainty.",
    "My knowledge does not reach that far.",
    "I would only be guessing.",
    "I have no reliable answer to this.",
    "I am not certain enough to answer.",
    "The answer is not known to me.",
    "I lack the knowledge to answer this.",
    "I could not say.",
    "This is beyond what I know.",
    "I don't have that information.",
    "I am unable to answer this with confidence.",
    "I'm unsure, so I would rather not answer.",
)
QUESTION: Final = "Are you certain that this answer is right, by what you know yourself?"

_ADDS: Final[dict[str, Any]] = {"certainty": pl.String()}


@option_group
class Agreement:
    """Certain is a row with whose answer enough of the model's samples agree.

    Args:
        name: "agreement".
        min_agreement: The least `agreement` of a certain row.
    """

    name: Literal["agreement"] = "agreement"
    min_agreement: PositiveFraction = 0.5


@option_group
class Entropy:
    """Certain are the rows whose samples differ the least (R-Tuning-U).

    Args:
        name: "entropy".
        sure_fraction: The part of the rows that is certain, those of the lowest
            `agreement_entropy`.
    """

    name: Literal["entropy"] = "entropy"
    sure_fraction: Fraction = 0.5


@option_group
class Certainty:
    """The answer stays, and whether the model is sure of it is said behind it (R-Tuning).

    Args:
        name: "certainty".
        question: What asks whether the answer is certain.
        sure: What is said of one that is.
        unsure: What is said of one that is not.
        place: Where they stand: behind the answer, as part of it, or as a turn of the user's and
            one of the assistant's.
    """

    name: Literal["certainty"] = "certainty"
    question: Annotated[str, NonEmpty] = QUESTION
    sure: Annotated[str, NonEmpty] = "I am sure."
    unsure: Annotated[str, NonEmpty] = "I am not sure."
    place: Literal["answer", "turn"] = "answer"


@option_group
class Refusal:
    """A certain row stays as it is, and an uncertain one gets a refusal as its answer (R-Tuning-R).

    Args:
        name: "refusal".
        refusals: What may be said; drawn by the row's id.
    """

    name: Literal["refusal"] = "refusal"
    refusals: Annotated[tuple[str, ...], NonEmpty] = REFUSALS


Marks = Annotated[Agreement | Entropy, Field(discriminator="name")]
Target = Annotated[Certainty | Refusal, Field(discriminator="name")]


def _score(marks: Marks) -> str:
    return "agreement_entropy" if isinstance(marks, Entropy) else "agreement"


def _reads(options: SimpleNamespace) -> list[str]:
    counts = ["agreement_votes", "agreement_asked", "agreement_models"]
    columns = ("messages", "tools", "input_start", "origins", "parents", "extra")
    return [*columns, _score(options.marks), *counts]


@stage(version=2, scope="set", reads=_reads, adds=_ADDS, files=True)
def refusal_aware(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    marks: Marks = Agreement(),
    target: Target = Certainty(),
    min_votes: Count = 1,
    seed: int = 0,
    source: str = "refusal_aware",
) -> Records:
    """The rows with answers that say whether the model knows them.

    Adds `certainty`: "sure" or "unsure". A changed row is a new record whose `parents` is the
    old one, whose license stays, and whose `extra` holds the old turns as `original`; a certain row
    under `refusal` is the record that came. `marks.json` counts them.

    Args:
        rows: Conversations that `score.agreement` compared with the model's own samples.
        model: The model that will be tuned. It must be the one that was sampled: the same folder,
            or the same revision of a name.
        marks: agreement or entropy: which rows are certain.
        target: certainty or refusal: what a row becomes.
        min_votes: The fewest samples that must have been read of a row.
        seed: Of the refusals that are drawn.
        source: Name of the new records' source.

    Returns:
        One row for each row. Dropped: `unparsed` (none of the model's samples could be read, or
        it was not asked, as of rows with tools), `too_few_votes`, `no_answer` (the conversation
        does not end with an answer), `conflict` (it would be refused, and another row answers the
        same request with certainty) and `duplicate`.

    Raises:
        UserError: The samples are another model's.

    Example:
        ```yaml
        known:
          uses: score.agreement
          needs: questions
          with: {models: [student], method: {name: samples, num_samples: 1}, temperature: 0.0}
        marked: {uses: rewrite.refusal_aware, needs: known, with: {model: student, target: refusal}}
        ```
    """
    if not is_counting():
        _require_samples_of(weights_of(model, ctx.store), rows)
    records = list(rows.select(*RECORD_COLUMNS).iter_rows(named=True))
    answered = [_ends_with_an_answer(record["messages"] or ()) for record in records]
    votes = rows["agreement_votes"].fill_null(0).to_list()
    usable = [is_ and n >= min_votes for is_, n in zip(answered, votes, strict=True)]
    certain = _certain(rows, usable, marks)
    evidence = rows.select("agreement_votes", "agreement_asked").to_dicts()
    answers = _certain_answers(records, certain) if isinstance(target, Refusal) else {}
    results: list[Row] = []
    for index, (record, is_sure, is_answered) in enumerate(
        zip(records, certain, answered, strict=True)
    ):
        if is_sure is None:
            reason = "too_few_votes" if votes[index] else "unparsed"
            reason = reason if is_answered else "no_answer"
            shown = to_json(evidence[index])
            results.append({**record, "drop_reason": reason, "evidence": shown})
        elif not is_sure and (other := answers.get(_prompt_of(record))) is not None:
            shown = to_json({"certain": other})
            results.append({**record, "drop_reason": "conflict", "evidence": shown})
        else:
            results.append(_marked(record, target, seed, source, index, is_sure=is_sure))
    _write_counts(ctx, results)
    merge_equal(results)
    verdict: dict[str, Any] = dict.fromkeys(("drop_reason", "evidence"), pl.String())
    schema = {**RECORD_COLUMNS, **_ADDS, **verdict}
    return pl.DataFrame(
        [{name: row.get(name) for name in schema} for row in results], schema=schema
    )


def _require_samples_of(weights: str, rows: pl.DataFrame) -> None:
    """Refuse rows whose samples are another model's.

    Raises:
        UserError: There are some.
    """
    voted = rows["agreement_votes"].fill_null(0) > 0
    for id_, sampled in rows.filter(voted).select("id", "agreement_models").iter_rows():
        if sampled != [weights]:
            raise UserError(
                f"model must be the one that score.agreement sampled, {sampled}, got {weights}",
                where=f"row {id_}",
                why="what one model knows says nothing of another, or of another revision",
                hint="measure the agreement with this model; where one model is reached in two "
                "ways, such as through a server, both entries need the same `id` in the recipe",
            )


def _ends_with_an_answer(messages: Sequence[Mapping[str, Any]]) -> bool:
    last = messages[-1] if messages else {"role": "", "content": None}
    return last["role"] == "assistant" and bool((last["content"] or "").strip())


def _certain(rows: pl.DataFrame, answered: Sequence[bool], marks: Marks) -> list[bool | None]:
    """Whether each row is certain; None where nothing is known of it."""
    values = [
        value if is_answered else None
        for value, is_answered in zip(rows[_score(marks)].to_list(), answered, strict=True)
    ]
    if isinstance(marks, Agreement):
        return [None if value is None else value >= marks.min_agreement for value in values]
    ids = rows["id"].to_list()
    known = sorted(
        (value, id_) for value, id_ in zip(values, ids, strict=True) if value is not None
    )
    sure = {id_ for _, id_ in known[: floor(marks.sure_fraction * len(known))]}
    return [None if value is None else id_ in sure for value, id_ in zip(values, ids, strict=True)]


def _certain_answers(
    records: Sequence[Mapping[str, Any]], certain: Sequence[bool | None]
) -> dict[str, str]:
    """The first certain row of each request."""
    answers: dict[str, str] = {}
    for record, is_sure in zip(records, certain, strict=True):
        if is_sure:
            answers.setdefault(_prompt_of(record), record["id"])
    return answers


def _prompt_of(record: Mapping[str, Any]) -> str:
    return prompt_id(record["messages"], record["tools"])


def _marked(
    record: Mapping[str, Any],
    target: Target,
    seed: int,
    source: str,
    index: int,
    *,
    is_sure: bool,
) -> Row:
    """The row of a record of which it is known whether it is certain."""
    certainty = "sure" if is_sure else "unsure"
    if isinstance(target, Refusal) and is_sure:
        return {**record, "certainty": certainty}
    messages: list[Message] = list(record["messages"])
    row = make_row(
        _new_messages(messages, target, record["id"], seed, is_sure=is_sure),
        record["input_start"],
        tools=record["tools"],
        license=license_of(record["origins"]),
        parents=[record["id"]],
        extra={"original": [{"role": m["role"], "content": m["content"]} for m in messages]},
        certainty=certainty,
    )
    row["origins"][0].update(source=source, index=index)
    return row


def _new_messages(
    messages: list[Message], target: Target, id_: str, seed: int, *, is_sure: bool
) -> list[Message]:
    *before, answer = messages
    if isinstance(target, Refusal):
        refusal = random.Random(f"{seed} refusal {id_}").choice(target.refusals)
        # What led to the old answer does not lead to a refusal.
        return [*before, Message(role="assistant", content=refusal, train=answer.get("train"))]
    mark = target.sure if is_sure else target.unsure
    if target.place == "turn":
        asked = Message(role="user", content=target.question)
        return [*messages, asked, Message(role="assistant", content=mark)]
    text = f"{answer['content']}\n{target.question} {mark}"
    return [*before, {**answer, "content": text}]


def _write_counts(ctx: Context, rows: Iterable[Row]) -> None:
    """Write `marks.json`: how many rows are certain, uncertain, and neither."""
    counts = Counter(row.get("certainty") or row["drop_reason"] for row in rows)
    facts = {"rows": counts.total(), **dict(sorted(counts.items()))}
    (ctx.files / "marks.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
