"""Passages before the question; the answer stays, or is still to be written.

Self-Specialization: Self-Specialization: Uncovering Latent Expertise within Large Language Models
(Kang et al. 2023, arXiv:2310.00160).

As in the paper: a task's passages are the nearest of unlabelled texts of the domain. Ours: the
passages stay in the row, for a model that will read them in use as well; the paper shows them to
the model that answers alone, which is `method: context` of `generate.respond`.

FollowRAG: Toward General Instruction-Following Alignment for Retrieval-Augmented Generation (Dong
et al. 2024, arXiv:2410.09584; dongguanting/FollowRAG).

As in the authors' data: three numbered passages with their titles stand before the question and its
constraints. Ours: the wording; the nearest passage comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pipeline.types import Count, option_group
from stages._llm.drafts import Draft
from stages.compose.context.exchanges import Exchange
from stages.compose.context.retrieval import Index
from stages.compose.context.shown import Retrieval, candidates, draft_of, passages_text


@option_group
class Passages(Retrieval):
    """The nearest passages before the question (FollowRAG, arXiv:2410.09584).

    Args:
        name: "passages".
        pool: How many passages a row gets.
    """

    name: Literal["passages"] = "passages"
    pool: Count = 3


def drafts_of(exchanges: Sequence[Exchange], index: Index | None, method: Passages) -> list[Draft]:
    """The rows with their passages.

    Args:
        exchanges: Rows with or without an answer.
        index: The passages.
        method: The options.
    """
    pools = candidates(exchanges, index, method)
    return [draft_of(exchange, pool) for exchange, pool in zip(exchanges, pools, strict=True)]


def messages_of(draft: Draft) -> tuple[list[Any], int | None]:
    """The turns with the passages before the question; without passages the row as it is.

    Args:
        draft: The row.
    """
    messages: tuple[list[Any], int | None] = draft["exchange"].shown_with(passages_text(draft))
    return messages
