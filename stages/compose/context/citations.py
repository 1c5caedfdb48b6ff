"""Answers that cite the passages which support them, among passages that do not.

Self-Specialization and RAG rows need to say what a sentence rests on; no single paper has the
method `citations`, so all of it but the layout's idea is ours: each sentence gets the numbers of
the passages that support it (`labels`), at most `per_sentence`, behind its last word; distracting
passages support no sentence and do not hold the answer; all are in random order, so that the
position says nothing. Code is not cited.

Source-aware training: Source-Aware Training Enables Knowledge Attribution in Language Models
(Khalifa et al. 2024, arXiv:2404.01019; mukhal/intrinsic-source-citation).

As in the paper: with `source_aware` no passage is shown; the answer ends with the documents that it
comes from, whose text the model has read in training. Ours: a document is named by its title,
where it has one, else by its id; which documents support an answer is found, not known.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from pipeline.types import Count, NonNegativeInt, option_group
from stages._llm.drafts import Draft
from stages._llm.prompts import Prompts
from stages._text.planted import holds
from stages.compose.context.exchanges import Exchange
from stages.compose.context.labels import Claim, Judge, Labels, Overlap, label_answers
from stages.compose.context.retrieval import Index
from stages.compose.context.shown import Retrieval, Shown, candidates, draft_of, passages_text

PROMPTS: Final = Prompts(__file__)

_CODE: Final = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_SENTENCE: Final = re.compile(r"(?:[^.!?。！？\n]|[.!?](?![\s]|\Z))+[.!?。！？]*")
_WORD: Final = re.compile(r"\w")
_ENDS: Final = ".!?。！？"


@option_group
class Citations(Retrieval):
    """Sentences with the numbers of the passages that support them, among distracting ones.

    Args:
        name: "citations".
        distractors: How many distracting passages.
        per_sentence: The most passages that a sentence cites.
        labels: What says whether a passage supports a sentence.
    """

    name: Literal["citations"] = "citations"
    distractors: NonNegativeInt = 2
    per_sentence: Count = 2
    labels: Labels = Overlap()


@option_group
class SourceAware(Retrieval):
    """Answers that end with the documents that they come from, unseen (arXiv:2404.01019).

    Args:
        name: "source_aware".
        num_sources: The most documents that an answer names.
        labels: What says whether a passage supports the answer.
    """

    name: Literal["source_aware"] = "source_aware"
    num_sources: Count = 1
    labels: Labels = Overlap()


def cited_drafts(
    exchanges: Sequence[Exchange], index: Index | None, method: Citations, judge: Judge, seed: int
) -> list[Draft]:
    """The rows with the passages that support them and others.

    Args:
        exchanges: Rows that end with an answer.
        index: The passages.
        method: The options.
        judge: Says which passages support a sentence.
        seed: Of the order.
    """
    pools = candidates(exchanges, index, method)
    drafts = [
        draft_of(exchange, pool, spans=sentences(exchange.answer), needs=("informative",))
        for exchange, pool in zip(exchanges, pools, strict=True)
    ]
    _support(drafts, judge, method.per_sentence)
    for draft in drafts:
        if draft.active:
            _choose(draft, method.distractors, seed)
    return drafts


def _support(drafts: Sequence[Draft], judge: Judge, per_sentence: int) -> None:
    """Note which passages each sentence cites: `cited`, a list of ids for each span."""
    claims = [
        Claim(draft, draft["exchange"].question, one.passage, draft["exchange"].answer[a:b].strip())
        for draft in drafts
        for a, b in draft["spans"]
        for one in draft["shown"]
    ]
    verdicts = iter(judge(claims))
    for draft in drafts:
        best: dict[str, float] = {}
        cited, supporting = [], set[str]()
        for _ in draft["spans"]:
            own = [(next(verdicts), one) for one in draft["shown"]]
            for verdict, one in own:
                best[one.passage.id] = max(verdict.score, best.get(one.passage.id, 0.0))
            good = sorted((-v.score, one.rank, one.passage.id) for v, one in own if v.supports)
            cited.append([id_ for *_, id_ in good[:per_sentence]])
            supporting |= {id_ for *_, id_ in good}
        named = {id_ for ids in cited for id_ in ids}
        draft.fields["cited"] = cited
        draft.fields["shown"] = [
            one.labelled(
                "informative" if one.passage.id in named else "distracting",
                best.get(one.passage.id),
            )
            for one in draft["shown"]
            # One that supports a sentence, and is not cited, is neither.
            if one.passage.id in named or one.passage.id not in supporting
        ]


def _choose(draft: Draft, distractors: int, seed: int) -> None:
    """The passages that are cited, and some that say nothing of the answer, in random order."""
    shown: list[Shown] = draft["shown"]
    gold = [one for one in shown if one.informative]
    if not gold:
        draft.reject("unsupported", passages=len(shown))
        return
    others = [one for one in shown if not one.informative and not _answers(one, draft)]
    chosen = [*gold, *others[:distractors]]
    random.Random(f"{seed} citations {draft['exchange'].id}").shuffle(chosen)
    draft.fields["shown"] = chosen


def _answers(one: Shown, draft: Draft) -> bool:
    """Whether a passage holds the whole answer, and so distracts from nothing."""
    return holds(one.passage.text, draft["exchange"].answer)


def cited_messages(draft: Draft) -> tuple[list[Any], int | None]:
    """The passages before the question, and the answer with its citations.

    Args:
        draft: The row.
    """
    exchange: Exchange = draft["exchange"]
    messages, input_start = exchange.shown_with(passages_text(draft))
    numbers = {one.passage.id: number for number, one in enumerate(draft["shown"], 1)}
    answer = exchange.answer
    for (start, end), ids in reversed([*zip(draft["spans"], draft["cited"], strict=True)]):
        marks = "".join(f"[{n}]" for n in sorted(numbers[i] for i in ids if i in numbers))
        if marks:
            place = start + len(answer[start:end].rstrip().rstrip(_ENDS))
            answer = f"{answer[:place]} {marks}{answer[place:]}"
    messages[-1] = {**messages[-1], "content": answer}
    return messages, input_start


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of an answer begin and end, lines of code left out.

    Args:
        text: The answer.

    >>> [("A 3.5 ton ox. Eh?\\n1. Yes."[a:b]) for a, b in sentences("A 3.5 ton ox. Eh?\\n1. Yes.")]
    ['A 3.5 ton ox.', ' Eh?', ' Yes.']
    """
    spans, at = [], 0
    for part in _CODE.split(text):
        if not part.startswith("```"):
            own = (m.span() for m in _SENTENCE.finditer(part) if _is_sentence(m[0]))
            spans += [(at + start, at + end) for start, end in own]
        at += len(part)
    return spans


def _is_sentence(text: str) -> bool:
    """Whether it says something: the number of a list does not."""
    return bool(_WORD.search(text)) and not text.strip().rstrip(".").isdigit()


def source_drafts(
    exchanges: Sequence[Exchange], index: Index | None, method: SourceAware, judge: Judge
) -> list[Draft]:
    """The rows with the passages that support their answers, the best first.

    Args:
        exchanges: Rows that end with an answer.
        index: The passages.
        method: The options.
        judge: Says which passages support an answer.
    """
    pools = candidates(exchanges, index, method)
    drafts = [draft_of(exchange, pool) for exchange, pool in zip(exchanges, pools, strict=True)]
    label_answers(drafts, judge)
    for draft in drafts:
        if draft.active:
            gold = [one for one in draft["shown"] if one.informative]
            gold.sort(key=lambda one: (-(one.support or 0.0), one.rank))
            if not gold:
                draft.reject("unsupported", passages=len(draft["shown"]))
            draft.fields["shown"] = gold[: method.num_sources]
    return drafts


def source_messages(draft: Draft) -> tuple[list[Any], int | None]:
    """The question alone, and the answer with its sources.

    Args:
        draft: The row.
    """
    exchange: Exchange = draft["exchange"]
    passages = [one.passage for one in draft["shown"]]
    names = dict.fromkeys(p.title or p.document or p.id for p in passages)
    sources = PROMPTS.render("sources", sources=[*names])
    messages: list[Any] = [*exchange.messages]
    messages[-1] = {**messages[-1], "content": f"{exchange.answer}\n\n{sources}"}
    return messages, exchange.input_start
