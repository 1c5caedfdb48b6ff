"""Whether a passage supports a statement: by words, by a model of entailment, by a language model.

A passage that does is informative, any other one distracting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import polars as pl
from pydantic import Field
from rapidfuzz.distance import LCSseq

from pipeline.errors import OptionError
from pipeline.models.base import Embedder, Engine, local_folder
from pipeline.models.counting import is_counting
from pipeline.models.identity import resolved_revision
from pipeline.types import Count, Fraction, PositiveFraction, option_group
from stages._llm.drafts import LABEL_TOKENS, Draft, score_field, user
from stages._llm.label_scores import MIN_MASS
from stages._llm.prompts import Prompts
from stages._text.tokens import words
from stages.compose.context.retrieval import Passage
from stages.compose.context.shown import Shown

PROMPTS: Final = Prompts(__file__)


@option_group
class Overlap:
    """ROUGE-L recall: the part of the statement's words that the passage has in their order.

    Words that the question has do not count, where there are others: a passage must give what the
    question does not say.

    Args:
        name: "overlap".
        min_recall: From which recall on a passage is informative.
    """

    name: Literal["overlap"] = "overlap"
    min_recall: PositiveFraction = 0.5


@option_group
class Entailment:
    """A model of entailment: informative if the passage rather entails the statement than not.

    Args:
        name: "entailment".
    """

    name: Literal["entailment"] = "entailment"


@option_group
class Judged:
    """A language model says whether the passage helps.

    Args:
        name: "model".
        min_probability: The least probability of yes.
        min_mass: The least probability that yes and no together must have; with less the answer
            cannot be read.
        max_tokens: Limit of the answer in tokens.
    """

    name: Literal["model"] = "model"
    min_probability: Fraction = 0.5
    min_mass: Fraction = MIN_MASS
    max_tokens: Count = LABEL_TOKENS


Labels = Annotated[Overlap | Entailment | Judged, Field(discriminator="name")]


class Claim(NamedTuple):
    """A passage, and a statement that it may support.

    Attributes:
        draft: The row, which is rejected or has failed where the answer is no label.
        question: What the statement answers.
        passage: The passage.
        statement: The statement.
    """

    draft: Draft
    question: str
    passage: Passage
    statement: str


class Verdict(NamedTuple):
    """Whether a passage supports a statement.

    Attributes:
        supports: Whether it does.
        score: What that was read from.
    """

    supports: bool
    score: float


Judge = Callable[[Sequence[Claim]], list[Verdict]]


def judge_of(
    labels: Labels, engine: Engine | None, entailment: Embedder | None, seed: int
) -> Judge:
    """What says whether passages support statements.

    Args:
        labels: How.
        engine: The language model of `Judged`.
        entailment: The model of `Entailment`.
        seed: Of the requests.
    """
    match labels:
        case Judged():
            assert engine is not None, "checked with the options"
            return lambda claims: _judged(claims, labels, engine, seed)
        case Entailment():
            assert entailment is not None, "checked with the options"
            return lambda claims: _entailed(claims, entailment)
    return lambda claims: _overlapping(claims, labels.min_recall)


def label_answers(drafts: Sequence[Draft], judge: Judge) -> None:
    """Label the passages of each row by whether they support its whole answer.

    Args:
        drafts: Rows; the labels of `shown` are set.
        judge: Says so.
    """
    active = [draft for draft in drafts if draft.active]
    claims = [
        Claim(draft, draft["exchange"].question, one.passage, draft["exchange"].answer)
        for draft in active
        for one in draft["shown"]
    ]
    verdicts = iter(judge(claims))
    for draft in active:
        draft.fields["shown"] = [labelled(one, next(verdicts)) for one in draft["shown"]]


def labelled(shown: Shown, verdict: Verdict) -> Shown:
    """A passage with the label of a verdict.

    Args:
        shown: The passage.
        verdict: The verdict.
    """
    return shown.labelled("informative" if verdict.supports else "distracting", verdict.score)


def _overlapping(claims: Sequence[Claim], min_recall: float) -> list[Verdict]:
    """By ROUGE-L recall; a statement without any word is supported by nothing."""
    statements = _words([claim.statement for claim in claims])
    asked = {text: {*own} for text, own in _words([c.question for c in claims]).items()}
    passages = _words([claim.passage.text for claim in claims])
    verdicts = []
    for claim in claims:
        own, shown = statements[claim.statement], passages[claim.passage.text]
        own = [word for word in own if word not in asked[claim.question]] or own
        recall = LCSseq.similarity(own, shown) / len(own) if own else 0.0
        verdicts.append(Verdict(recall >= min_recall, recall))
    return verdicts


def _words(texts: Sequence[str]) -> dict[str, list[str]]:
    """The words of each distinct text."""
    distinct = [*dict.fromkeys(texts)]
    return dict(zip(distinct, words(pl.Series(distinct, dtype=pl.String)).to_list(), strict=True))


def _judged(claims: Sequence[Claim], labels: Judged, engine: Engine, seed: int) -> list[Verdict]:
    asked = [
        Draft(
            claim.draft.parents,
            {
                "question": claim.question,
                "passage": claim.passage.text,
                "answer": claim.statement,
            },
        )
        for claim in claims
    ]
    score_field(
        *(engine, asked, "support", lambda d: user(PROMPTS.render("supports", **d.fields))),
        seed=seed,
        min_mass=labels.min_mass,
        max_tokens=labels.max_tokens,
    )
    verdicts = []
    for claim, answer in zip(claims, asked, strict=True):
        claim.draft.journal += answer.journal
        # The first unreadable answer is the row's: without a label it is not what was asked for.
        claim.draft.error = claim.draft.error or answer.error
        claim.draft.rejection = claim.draft.rejection or answer.rejection
        score = answer.fields.get("support", 0.0)
        verdicts.append(Verdict(answer.active and score >= labels.min_probability, score))
    return verdicts


def _entailed(claims: Sequence[Claim], model: Embedder) -> list[Verdict]:
    """By the probabilities of a cross-encoder that was trained on entailment."""
    if is_counting() or not claims:
        return [Verdict(True, 1.0) for _ in claims]
    from sentence_transformers import CrossEncoder

    revision = None if local_folder(model.model) else resolved_revision(model)
    encoder = CrossEncoder(model.model, device=model.device, revision=revision)
    entails, contradicts = _label_places(encoder.model.config.id2label)
    # One pair at a time: in a batch a pair's numbers would depend on the others' lengths.
    probabilities = encoder.predict(
        [(claim.passage.text, claim.statement) for claim in claims],
        batch_size=1,
        apply_softmax=True,
        show_progress_bar=False,
    )
    return [
        Verdict(bool(row[entails] > row[contradicts]), float(row[entails])) for row in probabilities
    ]


def _label_places(names: dict[int, Any]) -> tuple[int, int]:
    """Where a model of entailment has the labels of entailment and of its opposite.

    Raises:
        OptionError: It has no such labels.
    """
    lowered = {str(name).lower(): place for place, name in names.items()}
    entails = next((at for name, at in lowered.items() if name.startswith("entail")), None)
    opposite = next(
        (at for name, at in lowered.items() if name.startswith(("contra", "not"))), None
    )
    if entails is None or opposite is None:
        raise OptionError(
            "entailment",
            f"must have labels of entailment and contradiction, got {[*names.values()]}",
            hint="a cross-encoder that was trained on natural language inference",
        )
    return entails, opposite
