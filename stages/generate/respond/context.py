"""Answers with retrieved passages, which the model is shown and the row leaves out.

Self-Specialization (Kang et al. 2023, arXiv:2310.00160): the answers to a domain's tasks see
passages of the domain, retrieved from unlabelled texts; what is trained on is the task and its
answer alone.

As in the paper: passages are retrieved for each task and shown in its prompt only. Ours: BM25 in
its usual form (Robertson and Zaragoza 2009, with k1 = 1.5 and b = 0.75), passages cut by words,
their number, the prompt; a chat model is asked, where the paper's base model also sees seeds
with their answers. The paper's second round, in which the tuned model answers again, is a
further step of a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import polars as pl

from pipeline.types import Count, option_group
from stages._llm.drafts import Draft
from stages._llm.prompts import Prompts
from stages._text.bm25 import BM25
from stages._text.passages import split_words
from stages._text.tokens import spaced

PROMPTS: Final = Prompts(__file__)

_WORDS: Final = re.compile(r"\w+")


@option_group
class InContext:
    """Answers with passages of `documents`: Self-Specialization (arXiv:2310.00160).

    Args:
        name: "context".
        num_passages: Passages shown before each prompt.
        passage_words: Words of a passage; a character of Chinese, Japanese or Thai is one.
        system: A system prompt put before the prompt; it stays in the row.
    """

    name: Literal["context"] = "context"
    num_passages: Count = 3
    passage_words: Count = 150
    system: str | None = None


def show_passages(prompts: Sequence[Draft], documents: pl.DataFrame, method: InContext) -> None:
    """Set `shown`: the prompt with the nearest passages before what it requests.

    Args:
        prompts: The prompts, with `before`; changed in place.
        documents: The texts that are searched.
        method: Number and size of the passages.
    """
    active = [draft for draft in prompts if draft.active]
    texts = documents["text"].to_list()
    passages = nearest_passages(
        [draft["before"][-1][1] for draft in active],
        [p for text in texts for p in split_words(text or "", method.passage_words)],
        method.num_passages,
    )
    for draft, shown in zip(active, passages, strict=True):
        *history, (_, instruction) = draft["before"]
        text = PROMPTS.render("context", passages=shown, instruction=instruction)
        draft.fields["shown"] = (*history, ("user", text))


def nearest_passages(
    queries: Sequence[str], passages: Sequence[str], number: int
) -> list[list[str]]:
    """For each query the passages with the highest BM25 scores, best first, none at zero.

    Each different word of a query counts once.

    >>> nearest_passages(["red pears"], ["red apples", "stones", "green pears, red pears"], 2)
    [['green pears, red pears', 'red apples']]

    Args:
        queries: The texts to find passages for.
        passages: The texts to choose from.
        number: Passages for each query at most.
    """
    asked = [[*dict.fromkeys(words)] for words in _words(queries)]
    lists = pl.List(pl.String)
    hits = BM25(pl.Series(_words(passages), dtype=lists)).top(pl.Series(asked, dtype=lists), number)
    return [[passages[at] for at, _ in hits.of(query)] for query in range(len(queries))]


def _words(texts: Sequence[str]) -> list[list[str]]:
    """The lower-cased words of each text; those of scripts without spaces are characters."""
    frame = pl.DataFrame({"text": texts}, {"text": pl.String})
    return [_WORDS.findall(text.lower()) for text in frame.select(spaced(pl.col("text")))["text"]]
