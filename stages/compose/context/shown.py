"""Rows with passages under way: which passages are shown, within a budget, and the final row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import polars as pl

from pipeline.models.base import LanguageModel
from pipeline.models.local.chat_template import Unrenderable
from pipeline.types import Count, option_group
from stages._constraints.constraint import ConstraintError
from stages._constraints.stored import read_turns
from stages._llm.drafts import Draft, RowMessages
from stages._llm.prompts import Prompts
from stages._llm.rendered import rendered_text
from stages._llm.rows import Row, joint_license, make_row
from stages._llm.token_counts import rendered_lengths, tokenizer_of
from stages.compose.context.exchanges import Exchange
from stages.compose.context.retrieval import Hit, Index, Passage, results_of

PROMPTS: Final = Prompts(__file__)

Label = Literal["informative", "distracting"]

ADDS: Final[dict[str, Any]] = {
    "passage_ids": pl.List(pl.String),
    "passage_scores": pl.List(pl.Float64),
    "passage_labels": pl.List(pl.String),
    "label_scores": pl.List(pl.Float64),
    "tokens": pl.Int32(),
    "journal": pl.List(pl.String),
}


@option_group
class Retrieval:
    """Which passages a row may get.

    Args:
        passage_words: Words of a passage of a document.
        results: The field of the rows' `extra` that holds search results: a list of texts, or of
            objects with a title and a text. They come before passages of `documents`.
        pool: How many of the nearest passages are considered.
    """

    passage_words: Count = 150
    results: str | None = None
    pool: Count = 6


@dataclass(frozen=True)
class Shown:
    """A passage of a row.

    Attributes:
        passage: The passage.
        score: How near to the question it is.
        rank: Its place among those that were retrieved, from 0.
        label: Whether it helps to answer; None where nobody asked.
        support: What the label was read from.
    """

    passage: Passage
    score: float | None
    rank: int
    label: Label | None = None
    support: float | None = None

    @property
    def informative(self) -> bool:
        """Whether it helps to answer."""
        return self.label == "informative"

    def labelled(self, label: Label, support: float | None) -> Shown:
        """The same with a label.

        Args:
            label: The label.
            support: What it was read from.
        """
        return replace(self, label=label, support=support)


def candidates(
    exchanges: Sequence[Exchange], index: Index | None, method: Retrieval
) -> list[list[Shown]]:
    """For each row the passages that it may get, the nearest first.

    Args:
        exchanges: The rows.
        index: The passages of documents.
        method: How many, and from where.
    """
    pools: list[list[Hit]] = [[] for _ in exchanges]
    if method.results is not None:
        pools = [results_of(exchange, method.results)[: method.pool] for exchange in exchanges]
    if index is not None:
        questions = [exchange.question for exchange in exchanges]
        for hits, more in zip(pools, index.nearest(questions, method.pool), strict=True):
            hits += more[: method.pool - len(hits)]
    return [ranked(hits) for hits in pools]


def ranked(hits: Sequence[Hit]) -> list[Shown]:
    """Passages with their places.

    Args:
        hits: The nearest first.
    """
    return [Shown(hit.passage, hit.score, rank) for rank, hit in enumerate(hits)]


def draft_of(exchange: Exchange, shown: Sequence[Shown], **fields: Any) -> Draft:
    """A row under construction.

    Args:
        exchange: The row.
        shown: The passages, in the order in which they are shown.
        fields: Further values of the method.
    """
    fields = {"exchange": exchange, "shown": [*shown], **fields}
    return Draft((exchange.id,), fields, exchange.draft.license)


def passages_text(draft: Draft) -> str:
    """The passages as the model reads them; empty without any.

    Args:
        draft: The row.
    """
    if not draft["shown"]:
        return ""
    return PROMPTS.render("passages", passages=numbered(draft["shown"]))


def numbered(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """The passages as prompts name them: number, title and text.

    Args:
        shown: The passages.
    """
    return [
        {"number": number, "title": one.passage.title, "text": one.passage.text}
        for number, one in enumerate(shown, 1)
    ]


def limit(
    drafts: Sequence[Draft],
    messages_of: Callable[[Draft], RowMessages],
    model: LanguageModel,
    max_tokens: int,
) -> None:
    """Drop passages until each row fits: distracting ones first, the furthest of them first.

    The question stays whole. A row that does not fit without passages is `over_budget`, and so is
    one whose method needs passages of some labels (`needs`) that do not fit.

    Args:
        drafts: Changed in place: `shown` gets shorter, and `tokens` is noted.
        messages_of: The conversation of a draft with the passages that it has.
        model: Whose tokenizer and chat template count.
        max_tokens: The most tokens, with the definitions of tools.
    """
    waiting = [draft for draft in drafts if draft.active]
    while waiting:
        lengths = _lengths(waiting, messages_of, tokenizer_of(model))
        over = []
        for draft, length in zip(waiting, lengths, strict=True):
            if isinstance(length, str):
                draft.error = length
            elif length <= max_tokens:
                draft.fields["tokens"] = length
            elif _drop_one(draft):
                over.append(draft)
            else:
                draft.reject("over_budget", tokens=length, max_tokens=max_tokens)
        waiting = over


def _lengths(
    drafts: Sequence[Draft], messages_of: Callable[[Draft], RowMessages], tokenizer: Any
) -> list[int | str]:
    """The tokens of each row with its tools, or why its chat template refuses it."""
    texts: list[str] = []
    refusals: list[str | None] = []
    for draft in drafts:
        try:
            tools = draft["exchange"].draft.tools
            texts.append(rendered_text(tokenizer, messages_of(draft)[0], tools))
            refusals.append(None)
        except Unrenderable as error:
            refusals.append(str(error))
    counted = iter(rendered_lengths(tokenizer, texts).tolist())
    return [next(counted) if refusal is None else refusal for refusal in refusals]


def _drop_one(draft: Draft) -> bool:
    """Drop the passage that matters least; False where none may go."""
    shown: list[Shown] = draft["shown"]
    if not shown or draft.fields.get("fixed"):
        return False
    for least in sorted(shown, key=lambda one: (one.informative, -one.rank)):
        left = [one for one in shown if one is not least]
        if {*draft.fields.get("needs", ())} <= {one.label for one in left}:
            draft.fields["shown"] = left
            return True
    return False


def rows_of(drafts: Sequence[Draft], messages_of: Callable[[Draft], RowMessages]) -> list[Row]:
    """The rows that the drafts become; of those that are dropped, as far as they came.

    Constraints that a row carries are checked on its final answer.

    Args:
        drafts: The drafts.
        messages_of: The conversation of a draft.
    """
    return [_row(draft, messages_of) for draft in drafts]


def _row(draft: Draft, messages_of: Callable[[Draft], RowMessages]) -> Row:
    exchange: Exchange = draft["exchange"]
    if not draft.active:
        messages, input_start = [*exchange.messages], exchange.input_start
    else:
        messages, input_start = messages_of(draft)  # type: ignore[assignment]
        _check_constraints(draft, messages)
    shown: list[Shown] = draft["shown"]
    sources = [one.passage for one in shown if one.passage.document is not None]
    parents = dict.fromkeys([*draft.parents, *(str(one.document) for one in sources)])
    row = make_row(
        messages,  # type: ignore[arg-type]
        input_start,
        tools=exchange.draft.tools,
        license=joint_license([draft.license, *(one.license for one in sources)]),
        parents=[*parents],
        extra={},
        rejection=draft.rejection,
        error=draft.error,
        passage_ids=[one.passage.id for one in shown],
        passage_scores=[one.score for one in shown],
        passage_labels=[one.label for one in shown],
        label_scores=[one.support for one in shown],
        tokens=draft.fields.get("tokens"),
        journal=draft.journal,
    )
    return row | {"extra": exchange.extra}


def _check_constraints(draft: Draft, messages: Sequence[Any]) -> None:
    """Reject a row whose answer no longer follows what its request asks for."""
    if messages[-1]["role"] != "assistant":
        return
    try:
        turns, _ = read_turns(draft["exchange"].extra)
    except ConstraintError as error:
        draft.reject("unknown_constraint", constraint=str(error))
        return
    answer = messages[-1]["content"] or ""
    broken = [one.kind for one in (turns[-1] if turns else []) if not one.holds(answer)]
    if broken:
        draft.reject("not_satisfied", kinds=broken)
